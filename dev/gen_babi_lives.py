"""
Task pretraining for bAbI and BABILong: bAbI's training stories as lives, in the format of dev/gen_base_data.py, half and half with lives of the base.

    python dev/gen_babi_lives.py --babi DIR --held-out DIR --output-dir data/babi [--prose FILE.jsonl]
    python -m scripts.base_train --init-from data/then-d4 --data-dir data/babi --tag babi --time-budget 480 --matrix-lr 0.015 --lr-scale 0.5 --warmdown 0.9

--prose lies between the lines, half of it about people of the same names. Only qaN_train.txt is read, of tasks in which one line answers a question in its own words. What a model reaches after that is not zero-shot.

--held-out: the directory of BABILong's questions (qaN_0k.jsonl, …). The authors' generator takes its stories from bAbI's own files, training files among them:
a story that begins with what has been told when a question is asked there, or in qaN_valid.txt, is left out.
"""
import argparse
import json
import os
import random
import sys
from itertools import islice
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # runs as a script, too

from dev.base_values import Episode  # noqa: E402
from dev.gen_base_data import Prose, lives, render, write_shard  # noqa: E402
from nanochat.common import UserError, flag, run_main  # noqa: E402
from nanochat.tasks_public import babi_stories, sentences  # noqa: E402

TASKS = ("qa1", "qa5")
STORIES = (1, 1, 2, 4, 8, 16)   # in a life: the same people go about again, and the latest line counts
NOISE = (0, 0, 0.5, 2, 8)       # sentences, or short paragraphs, of prose before each line, on average


def held_out(babi, directory, name):
    """What has been told when a question of the evaluation is asked: a set of tuples of lines."""
    files = sorted(Path(directory).rglob(f"{name}_*k.jsonl"))
    if not files:
        raise UserError(f"--held-out {directory}: no {name}_*k.jsonl in it")
    try:
        out = {tuple(json.loads(line)["facts"]) for file in files for line in file.read_text(encoding="utf-8").splitlines()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} is not of BABILong's format, a list of \"facts\" in each line: {error}") from error
    return out | {tuple(part.story.episodes[:q.after]) for part in babi_stories(Path(babi) / f"{name}_valid.txt") for q in part.questions}


def stories(babi, directory, name):
    """The stories of a training file, but those held out: lists of base_values.Episode, evidence counted from the beginning of the story."""
    taboo, out = held_out(babi, directory, name), []
    for part in babi_stories(Path(babi) / f"{name}_train.txt"):
        lines = part.story.episodes
        if any(tuple(lines[:n + 1]) in taboo for n in range(len(lines))):
            continue
        story, place = [], []
        for n, line in enumerate(lines):
            place.append(len(story))
            story.append(Episode(line))
            story += [Episode(q.text, q.answer, place[q.evidence], "babi") for q in part.questions if q.after == n + 1 and f" {q.answer}" in lines[q.evidence]]
        out.append(story)
    return out


def pieces(rng, prose):
    """Paragraphs of prose, every other one about somebody of the same name: another Mary, who went somewhere else."""
    names = sorted(prose.mentions)
    for paragraph in prose.paragraphs(rng):
        yield paragraph
        if names:
            yield prose.piece(rng, rng.choice(names))


def life(rng, told, prose=None):
    """One life as a list of base_values.Episode: some of the stories `told`, one after another, with prose between their lines."""
    out, noise, split = [], rng.choice(NOISE) if prose else 0, rng.choice(("sentence", "paragraph"))
    spare = (piece for paragraph in pieces(rng, prose) for piece in sentences(paragraph, split)) if prose else iter(())
    for story in rng.sample(told, min(rng.choice(STORIES), len(told), max(1, round(16 / (1 + noise))))):
        place = []
        for episode in story:
            if not episode.is_question:
                out += [Episode(piece) for piece in islice(spare, round(rng.uniform(0, 2 * noise)))]
            place.append(len(out))
            out.append(episode._replace(evidence=place[episode.evidence]) if episode.is_question else episode)
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--babi", required=True, help="directory of qaN_train.txt and qaN_valid.txt")
    add("--held-out", required=True, help="directory of BABILong's qaN_0k.jsonl, …")
    add("--output-dir", default=os.path.join("data", "babi"))
    add("--qa", nargs="+", choices=TASKS, default=["qa1"])
    add("--shards", type=int, default=4, help="the last one is held out by base_train")
    add("--lives-per-shard", type=int, default=250)
    add("--base-share", type=float, default=0.5, help="of the lives, those of the base: so that what was learned stays")
    add("--prose", help='JSONL file with {"text": …} a line, between the lines of bAbI and of the base')
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.shards, args.lives_per_shard) < 1 or not 0 <= args.base_share < 1:
        raise UserError("--shards and --lives-per-shard must be at least 1, --base-share at least 0 and below 1", code=2)
    told = {name: stories(args.babi, args.held_out, name) for name in args.qa}
    people = {episode.text.split()[0].lower() for part in told.values() for story in part for episode in story if not episode.is_question}   # every line begins with a name
    try:
        prose = Prose(args.prose, nouns=people) if args.prose else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--prose {args.prose}: {error}") from error
    rng, base = random.Random(f"babi-{args.seed}"), lives(f"babi-{args.seed}", question_share=0.5, prose=prose, prose_lives=0.35)
    os.makedirs(args.output_dir, exist_ok=True)
    for shard in range(args.shards):
        rows = [render(next(base) if rng.random() < args.base_share else life(rng, told[rng.choice(args.qa)], prose)) for _ in range(args.lives_per_shard)]
        write_shard(os.path.join(args.output_dir, f"babi_{shard:05d}.parquet"), rows)
    print(f"{args.output_dir}: {args.shards} shards of {args.lives_per_shard} lives; " + ", ".join(f"{len(told[name]):,} stories of {name}" for name in args.qa),
          file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
