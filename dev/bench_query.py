"""
How fast a conversation with a memory is, one line a measure:

    python -m dev.bench_query --state_path cairo_memory_state.pt

Medians over the questions; a question is asked once before, to warm up. The state is that of dev/quickstart.sh; what is
said is known, not written.
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import Help, flag, run_main  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m dev.bench_query", description=__doc__, formatter_class=Help,
                                     allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d6")
    flag(parser, "--state-path", default="cairo_memory_state.pt")
    flag(parser, "--questions", type=int, default=20)
    flag(parser, "--json", action="store_true", help="one JSON object instead of the lines")
    args = parser.parse_args(argv)

    began = time.perf_counter()
    import torch

    from nanochat.live_memory import LiveMemory
    imported = time.perf_counter()
    memory = LiveMemory(args.model_path, args.state_path, read_only=True)
    opened = time.perf_counter()

    first, whole, last = [], [], len(memory)
    for n in range(args.questions + 1):
        asked, said = time.perf_counter(), []
        question = f"Where was the user at t={1 + n * last // (args.questions + 1)}?"
        memory.ask(question, lambda piece: said.append(time.perf_counter()))
        whole.append(time.perf_counter() - asked)
        first.append((said or [time.perf_counter()])[0] - asked)
    turns = []
    for n in range(args.questions + 1):
        began_turn = time.perf_counter()
        memory.say(f"At t={100_000 + n} I was in Lisbon, and it rained.")
        turns.append(time.perf_counter() - began_turn)
    out = {"threads": torch.get_num_threads(), "episodes": last, "traces": len(memory._view.content.checks),
           "import_s": imported - began, "open_s": opened - imported,
           "first_word_ms": 1e3 * statistics.median(first[1:]), "answer_ms": 1e3 * statistics.median(whole[1:]),
           "turn_ms": 1e3 * statistics.median(turns[1:])}
    if args.json:
        print(json.dumps({name: round(value, 3) for name, value in out.items()}))
        return 0
    print("{threads} threads, {episodes:,} episodes in {traces:,} traces\nimports: {import_s:.2f} s\nmodel and state "
          "opened: {open_s:.2f} s (target: under 2)\n"
          "first word of an answer: {first_word_ms:.0f} ms\nwhole answer: {answer_ms:.0f} ms (target: 120)\n"
          "a turn remembered: {turn_ms:.0f} ms".format(**out))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
