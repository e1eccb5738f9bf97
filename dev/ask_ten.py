"""
Ten questions about the Cairo timeline and ten about somebody's notes, what the model answers, and what was true. Used
by dev/quickstart.sh.
"""
import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import flag, run_main  # noqa: E402


def ask(memory, title, items):
    """Asks (question, right answers) and prints what comes, and how many are right."""
    right = 0
    for question, answers in items:
        got = memory.ask(question)
        ok = got.text.casefold() in {answer.casefold() for answer in answers}
        right += ok
        print(f"{question:58s} {got.text:24s} {'right' if ok else 'WRONG, it was ' + answers[0]}  "
              f"({got.seconds * 1000:.0f} ms)", flush=True)
    print(f"{title}: {right} of {len(items)} right")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d6")
    flag(parser, "--state-path", default="cairo_memory_state.pt")
    flag(parser, "--truth-path", default="data/synthetic-cairo-episodes.jsonl",
         help="the sidecar dev/gen_cairo_data.py writes")
    args = parser.parse_args(argv)
    from dev.gen_cairo_data import questions
    from nanochat.engine import load_model
    from nanochat.live_memory import LiveMemory
    with open(args.truth_path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    notes = json.loads(Path(__file__).with_name("everyday_ten.json").read_text(encoding="utf-8"))
    model = load_model(args.model_path)
    with LiveMemory(model, args.state_path, read_only=True) as memory:
        ask(memory, "timeline", [(q["question"], [q["answer"]]) for q in questions(records, 10, seed=2026)])
    with LiveMemory(model) as memory:
        memory.ingest(notes["lines"])
        ask(memory, "notes", [(q["q"], q["answers"]) for q in notes["questions"]])
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
