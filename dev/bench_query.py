"""
How fast a conversation with a memory is, one line a measure:  python -m dev.bench_query --state_path cairo_memory_state.pt

Medians over the questions; a question is asked once before, to warm up. The state is that of dev/quickstart.sh; what is said is known, not written.
"""
import argparse
import json
import statistics
import sys
import time

from nanochat.common import Help, flag, run_main


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m dev.bench_query", description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d4")
    flag(parser, "--state-path", default="cairo_memory_state.pt")
    flag(parser, "--questions", type=int, default=20)
    flag(parser, "--json", action="store_true", help="one JSON object instead of the lines")
    args = parser.parse_args(argv)

    began = time.perf_counter()
    import torch

    from nanochat import engine
    from nanochat.live_memory import LiveMemory
    imported = time.perf_counter()
    memory = LiveMemory(args.model_path, args.state_path, read_only=True)
    opened = time.perf_counter()

    first, rate, last = [], [], len(memory)
    for n in range(args.questions + 1):
        times = [time.perf_counter()]
        for _ in engine.steps(memory.model, memory.tokenizer, memory._view.state, f"Where was the user at t={1 + n * last // (args.questions + 1)}?"):
            times.append(time.perf_counter())
        first.append(times[1] - times[0])
        rate.append((len(times) - 1) / (times[-1] - times[0]))
    turns = []
    for n in range(args.questions + 1):
        began_turn = time.perf_counter()
        memory.say(f"At t={100_000 + n} I was in Lisbon, and it rained.")
        turns.append(time.perf_counter() - began_turn)
    out = {"threads": torch.get_num_threads(), "episodes": last, "traces": len(memory._view.content.checks), "import_s": imported - began, "open_s": opened - imported,
           "first_token_ms": 1e3 * statistics.median(first[1:]), "tokens_per_second": statistics.median(rate[1:]), "turn_ms": 1e3 * statistics.median(turns[1:])}
    if args.json:
        print(json.dumps({name: round(value, 3) for name, value in out.items()}))
        return 0
    print("{threads} threads, {episodes:,} episodes in {traces:,} traces\nimports: {import_s:.2f} s\nmodel and state opened: {open_s:.2f} s (target: under 2)\n"
          "first token of an answer: {first_token_ms:.0f} ms (target: under 300)\nwhole answers: {tokens_per_second:.0f} tokens/s (target: 30 or more)\n"
          "a turn remembered: {turn_ms:.0f} ms".format(**out))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
