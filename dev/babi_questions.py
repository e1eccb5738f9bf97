"""Write bAbI's training stories as questions on memories: task pretraining for bAbI and BABILong, no longer zero-shot.

    python dev/babi_questions.py --babi DIR --held-out DIR --output data/base/babi.jsonl [--qa qa1 qa5]

--babi holds qaN_train.txt and qaN_valid.txt, --held-out BABILong's qaN_0k.jsonl, ..., stories of bAbI's, too. A memory
is a source of its own: the lines of another would be newer. base_train --share babi=0.5 mixes them with other sources.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script, too

from nanochat.common import UserError, atomic_write, flag, run_main  # noqa: E402
from nanochat.dataset import read_lines  # noqa: E402


def stories(path):
    """The stories of a bAbI file: lists of (lines told by then, the question as reading_data.py has it)."""
    out, told, place = [], (), {}
    for number, text, *asked in (row.strip().replace(" ", "\t", 1).split("\t") for _, row in read_lines(path)):
        if number == "1":
            out, told, place = [*out, []], (), {}
        if asked:
            says = lambda i: asked[0] in told[i].rstrip(".").split()
            why = sorted((place[n] for n in asked[1].split()), key=says)   # the answer stands in the last
            out[-1].append((told, {"q": text.strip(), "a": asked[0], "evidence": why, "composed": not says(why[-1])}))
        else:
            place[number], told = len(told), (*told, text)
    return out


def questions(babi, held_out, name):
    """A task's training questions, (lines told by then, question), but for stories that an evaluation tells, too."""
    held = {told for story in stories(Path(babi) / f"{name}_valid.txt") for told, _ in story}
    for path in [*Path(held_out).rglob(f"{name}_*k.jsonl")] or [Path(held_out) / f"{name}_0k.jsonl"]:
        held |= {tuple(json.loads(row)["facts"]) for _, row in read_lines(path)}
    for *before, (told, last) in stories(Path(babi) / f"{name}_train.txt"):
        if not any(told[:n + 1] in held for n in range(len(told))):
            yield from [*before, (told, last)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--babi", "--held-out", "--output"):
        flag(parser, name, required=True)
    flag(parser, "--qa", nargs="+", default=["qa1"], help="tasks")
    args = parser.parse_args(argv)
    try:
        rows = [json.dumps({"src": f"babi-{name}-{n}", "sents": told, "qas": [qa]}) + "\n"
                for name in args.qa for n, (told, qa) in enumerate(questions(args.babi, args.held_out, name))]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"the files are not bAbI's and BABILong's ({type(error).__name__}: {error})") from error
    atomic_write(args.output, lambda file: file.writelines(map(str.encode, rows)))
    print(f"{args.output}: {len(rows):,} questions of {', '.join(args.qa)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_main(main))
