"""The small synthetic base: unlimited random lives that teach a model to write, address and read memory.

    python dev/gen_base_data.py --output-dir data/base --shards 8 --lives-per-shard 500 --seed 0 [--prose FILE.jsonl]

A life is a list of episodes. Statements tell of timelines (attributes of a subject that change, where the time decides; dense ones and sparse
ones, in which the last line holds until the next), of facts, keys, registers, things told anew again and again (the latest word counts), of
made-up predicates, things told apart by a word, tastes and chats. Questions ask for what was said earlier in the life: at a time, just before it, as of it, now, or for
two or three things at once. Every answer stands in exactly one episode, the evidence, character by character (several answers are joined by ", ").
About 22 % of the questions ask, in the same words, for what no statement has told: their answer is "I don't know". None of the names,
drinks, moods or sentence forms of the Cairo timeline occur. What evaluation tasks and this base have in common is listed in docs/evaluation.md.

Shards hold one life a row: `text`, with the episodes marked as below, and `evidence`, for each episode the index of the episode that holds
the answer, -1 where nothing is asked, and -2 where something is asked of which nothing is known.

    <|bos|>STATEMENT<|end|>        <|bos|><|user|>QUESTION<|assistant|>ANSWER<|end|>
"""
import argparse
import json
import lzma
import os
import random
import re
import sys
import time
from itertools import islice

if not __package__:  # started as a script, not with -m
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dev.base_changes import Updates  # noqa: E402
from dev.base_frames import Frames  # noqa: E402
from dev.base_talk import Talk  # noqa: E402
from dev.base_things import THINGS, Things  # noqa: E402
from dev.base_threads import Facts, Timeline  # noqa: E402
from dev.base_values import UNKNOWN, Episode, Names  # noqa: E402
from dev.gen_cairo_data import DRINKS, PLACES  # noqa: E402
from nanochat.common import atomic_write  # noqa: E402

# whole words of the Cairo timeline that prose must not teach: its places and its drinks
CAIRO = re.compile(r"(?<!\w)(?:" + "|".join(re.escape(w) for w in ("Cairo", *PLACES, *DRINKS)) + r")(?!\w)", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
UNKNOWN_SHARE = 0.2  # of the questions of a life


class Prose:
    """Documents from a JSONL file ({"text": …} a line, .xz too), cut into pieces; pieces that name Cairo's places or drinks are dropped."""

    def __init__(self, path, limit=20000, nouns=()):
        opener = lzma.open if path.endswith(".xz") else open
        with opener(path, "rt", encoding="utf-8") as f:
            self.documents = [text for text in (json.loads(line)["text"] for line in islice(f, limit)) if len(text) > 200]
        if not self.documents:
            raise ValueError(f"{path} has no document of more than 200 characters")
        self.nouns, self.mentions = frozenset(nouns), {}   # noun -> (document, where), of the first few thousand documents that say it
        for i, text in enumerate(self.documents[:5000] if nouns else ()):
            for match in WORD.finditer(text):
                if match[0].lower() in self.nouns:
                    self.mentions.setdefault(match[0].lower(), []).append((i, match.start()))

    def piece(self, rng, noun=None):
        """Some sentences of one document, about 20 to 120 words; with a noun that documents say, around where one says it."""
        for _ in range(1000):
            text = rng.choice(self.documents)
            start = rng.randrange(max(1, len(text) - 400))
            if noun in self.mentions:
                i, at = rng.choice(self.mentions[noun])
                text, start = self.documents[i], max(0, at - rng.randrange(40, 300))
            sentences = SENTENCE_END.split(text[start:start + 1500])[1:]
            target, words = rng.randint(20, 110), []
            for sentence in sentences:
                words += sentence.split()
                if len(words) >= target:
                    break
            out = clean(" ".join(words[:120]))
            if len(words) >= 20 and not CAIRO.search(out):
                return out
        raise ValueError("the prose has no passages of 20 words")

    def paragraphs(self, rng):
        """The paragraphs of random documents."""
        for _ in range(1000):
            for paragraph in rng.choice(self.documents).split("\n"):
                paragraph = clean(" ".join(paragraph.split()[:400]))
                if len(paragraph) > 20 and not CAIRO.search(paragraph):
                    yield paragraph


def clean(text):
    """Text in which nothing looks like a special token."""
    return text.replace("<|", "< |")


def life(rng, episodes=None, question_share=None, prose=None, plain=False):
    """
    One life as a list of Episode. Length and share of questions are drawn where not given; prose is a Prose or None. plain: timelines and facts only, asked
    for what was said once.
    """
    n = episodes or round(20 * 40 ** rng.random())
    share = question_share if question_share is not None else rng.uniform(0.24, 0.32)
    if prose and rng.random() < 0.08:
        return [Episode(p) for p in islice(prose.paragraphs(rng), max(5, n // 4))]
    threads, weights = _threads(rng, n, plain)
    warm = rng.randint(1, max(1, n // 6))
    ask = min(1.0, share * n / max(1, n - warm))  # what the warm-up leaves out is asked later
    nouns = [noun for thread in threads if isinstance(thread, Things) for noun in thread.nouns]   # prose says them, too, in all their senses
    noise = (rng.uniform(0.2, 0.4) if nouns else rng.uniform(0.15, 0.25)) if prose else 0.0
    out, said, askable, words, prose_words = [], [], [], 0, 0
    early = rng.random() < 0.3 and not plain  # asked before nearly anything was told
    for i in range(n):
        episode = None
        if early and i < 4 and rng.random() < ask:
            episode = _unknown(rng, threads, weights, said)
        elif i >= warm and askable and rng.random() < ask:
            if rng.random() < UNKNOWN_SHARE and not plain:
                episode = _unknown(rng, threads, weights, said)
            else:
                thread, token = askable[-rng.randint(1, min(12, len(askable)))] if rng.random() < 0.25 else rng.choice(askable)
                episode = thread.ask(rng, token)
        if episode is None:
            if prose_words < noise * words:
                episode = Episode(prose.piece(rng, rng.choice(nouns) if nouns and rng.random() < 0.7 else None))
                prose_words += len(episode.text.split())
            else:
                thread = rng.choices(threads, weights)[0]
                episode, token = thread.tell(rng, i)
                if token is not None:  # None: small talk
                    askable.append((thread, token))
            said.append(episode.text.lower())
        words += len(episode.text.split()) + len(episode.answer.split())
        out.append(episode)
    return out


def _unknown(rng, threads, weights, said):
    """A question that no statement so far answers, or None."""
    told = "\n".join(said)
    for _ in range(4):
        episode = rng.choices(threads, weights)[0].unknown(rng, told)
        if episode:
            return episode
    return None


def _threads(rng, n, plain):
    """The threads of a life and how often each speaks."""
    names, roll, threads = Names(), rng.random(), []
    if plain:
        kinds = [Timeline] * rng.choice((1, 1, 1, 2, 3)) if roll < 0.7 else [rng.choice((Timeline, Facts)) for _ in range(rng.randint(1, 4))]
    elif roll < 0.38:  # what an attribute is called, in every form of sentence, takes the most lives to learn
        kinds = [Timeline] * rng.choice((1, 1, 1, 2, 3))
    elif roll < 0.5:
        kinds = [rng.choice((Facts, Frames, Frames)) for _ in range(rng.randint(1, 3))]
    elif roll < 0.63:
        kinds = [Updates] * rng.choice((1, 1, 2))
    elif roll < 0.86:
        kinds = [Talk] * rng.choice((1, 1, 2))
    elif roll < 0.92:
        kinds = [Things] * rng.choice((1, 1, 2))
    else:
        kinds = [rng.choice((Timeline, Timeline, Facts, Frames, Updates, Talk, Things)) for _ in range(rng.randint(2, 4))]
    for kind in kinds:
        if kind is Timeline:  # often the same times again, of someone else: then the subject decides
            sibling = next((t for t in threads if isinstance(t, Timeline)), None)
            threads.append(Timeline(rng, names, n, sibling if rng.random() < 0.6 else None, plain))
        else:
            threads.append(kind(rng, names, n // (2 * len(kinds))))
    return threads, [rng.uniform(0.3, 2) for _ in threads]


def lives(seed, start=0, episodes=None, question_share=None, prose=None, prose_lives=1.0, plain=False):
    """Yield lives number start, start + 1, … of a seed; each depends on the arguments and its number alone. A fraction prose_lives of them meets prose."""
    while True:
        rng = random.Random(f"base-{seed}-{start}")
        yield life(rng, episodes, question_share, prose if rng.random() < prose_lives else None, plain)
        start += 1


def render(episodes):
    """A life as (text with markers, evidence list)."""
    parts = []
    for e in episodes:
        if "<|" in e.text or "<|" in e.answer:
            raise ValueError("an episode holds a special token")
        if e.is_question:  # with the space that stands before it in the evidence: then its tokens are those to be copied
            spaced = e.evidence == -2 or " " + e.answer.split(", ")[0] in episodes[e.evidence].text
            answer = " " + e.answer if spaced else e.answer
            parts.append(f"<|bos|><|user|>{e.text}<|assistant|>{answer}<|end|>")
        else:
            parts.append(f"<|bos|>{e.text}<|end|>")
    return "".join(parts), [e.evidence for e in episodes]


def write_shard(path, rows):
    """Write (text, evidence) rows as zstd parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    texts, evidence = zip(*rows)
    table = pa.table({"text": pa.array(texts, pa.string()), "evidence": pa.array(evidence, pa.list_(pa.int32()))})
    atomic_write(path, lambda file: pq.write_table(table, file, compression="zstd", row_group_size=64))


def main(argv=None):
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description="write the small synthetic base as parquet shards")
    parser.add_argument("--output-dir", "--output_dir", default=os.path.join("data", "base"))
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--lives-per-shard", "--lives_per_shard", type=int, default=500)
    parser.add_argument("--plain-shards", "--plain_shards", type=int, default=0, help="the first shards hold timelines and facts only, asked for what was said once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, help="episodes of every life (default: random, 20 to 800)")
    parser.add_argument("--question-share", "--question_share", type=float, help="share of questions (default: random, 0.24 to 0.32)")
    parser.add_argument("--prose", help='JSONL file with {"text": …} a line, mixed in as noise')
    parser.add_argument("--prose-lives", "--prose_lives", type=float, default=1.0, help="fraction of the lives that prose is mixed into")
    args = parser.parse_args(argv)
    if min(args.shards, args.lives_per_shard) < 1 or (args.episodes is not None and args.episodes < 1):
        print("error: --shards, --lives-per-shard and --episodes must be at least 1", file=sys.stderr)
        return 2
    if args.question_share is not None and not 0 <= args.question_share <= 0.9:
        print("error: --question-share must be between 0 and 0.9", file=sys.stderr)
        return 2
    begin, total, words, asked = time.perf_counter(), 0, 0, 0
    try:
        prose = Prose(args.prose, nouns=THINGS) if args.prose else None
        os.makedirs(args.output_dir, exist_ok=True)
        for shard in range(args.shards):
            stream = lives(args.seed, shard * args.lives_per_shard, args.episodes, args.question_share, prose, args.prose_lives, shard < args.plain_shards)
            rows = []
            for episodes in islice(stream, args.lives_per_shard):
                rows.append(render(episodes))
                total += len(episodes)
                asked += sum(e.is_question for e in episodes)
                words += sum(len(e.text.split()) + len(e.answer.split()) for e in episodes)
            write_shard(os.path.join(args.output_dir, f"base_{shard:05d}.parquet"), rows)
            print(f"shard {shard + 1} of {args.shards}: {total:,} episodes", file=sys.stderr)
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin
    print(f"{args.output_dir}: {args.shards} shards, {args.shards * args.lives_per_shard:,} lives, {total:,} episodes, {words:,} words, "
          f"{asked / total:.1%} questions, {total / seconds:,.0f} episodes/s, seed {args.seed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
