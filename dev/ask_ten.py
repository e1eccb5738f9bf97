"""Ten questions about the Cairo timeline, what the model answers from its state, and what was true. Used by dev/quickstart.sh."""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import flag, run_main  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d4")
    flag(parser, "--state-path", default="cairo_memory_state.pt")
    flag(parser, "--truth-path", default="data/synthetic-cairo-episodes.jsonl", help="the sidecar dev/gen_cairo_data.py writes")
    args = parser.parse_args(argv)
    from dev.gen_cairo_data import questions
    from nanochat.engine import answer, load_model
    from nanochat.memory import load_state
    with open(args.truth_path, encoding="utf-8") as f:
        records = [json.loads(line) for line in f]
    model, tokenizer, facts = load_model(args.model_path)
    state = load_state(args.state_path, model, facts)[0]
    right = 0
    for question in questions(records, 10, seed=2026):
        got = answer(model, tokenizer, state, question["question"])
        ok = got.text.strip() == question["answer"]
        right += ok
        print(f"{question['question']:58s} {got.text.strip():20s} {'right' if ok else 'WRONG, it was ' + question['answer']}  ({got.seconds * 1000:.0f} ms)", flush=True)
    print(f"{right} of 10 right")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
