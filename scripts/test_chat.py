"""
One turn with the model, to see that an installation works: says what it runs on, tells the model three facts, asks for
one.
"""
import argparse
import sys
from pathlib import Path

FACTS = ("t=1: The user was in Lisbon, felt cheerful, and preferred ginger ale.",
         "t=2: The user was in Oslo, felt sleepy, and preferred oat milk.",
         "t=3: The user was in Quito, felt proud, and preferred black coffee.")
QUESTION = "What did the user prefer at t=2?"


def main(argv=None):
    from nanochat.common import Help, choose_device, choose_dtype, flag

    parser = argparse.ArgumentParser(usage="python scripts/test_chat.py [--model_path base_checkpoints/d8]",
                                     description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d6", help="model file of a checkpoint, or its directory")
    flag(parser, "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    flag(parser, "--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    args = parser.parse_args(argv)

    from nanochat.flash_attention import resolve
    from nanochat.live_memory import LiveMemory

    def note(text):
        print(text, file=sys.stderr)

    device, why_device = choose_device(args.device)
    dtype, why_dtype = choose_dtype(device, args.dtype)
    note(resolve(device=device, dtype=dtype))
    note("  (a THENGPT's window and memory share one softmax, which is written out in torch whatever the backend)")
    note(f"device: {device} ({why_device}) | dtype: {str(dtype).removeprefix('torch.')} ({why_dtype})")
    memory = LiveMemory(args.model_path, device=args.device, dtype=args.dtype)
    note(f"model: {args.model_path}, step {memory.facts['step']}, "
         f"{sum(p.numel() for p in memory.model.parameters()):,} parameters, "
         f"weights {memory.facts['weights'][:12]}")

    for fact in FACTS:
        memory.say(fact)
        print(f"told:   {fact}")
    answer = memory.ask(QUESTION)
    print(f"asked:  {QUESTION}\nanswer: {answer.text}")
    source = answer.episodes[0] if answer.episodes else None
    print(f"from:   {source.text} ({source.score:.2f})" if source else "from:   nothing")
    return 0


if __name__ == "__main__":
    # run as a file, it finds scripts/ on the path instead of the repository
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from nanochat.common import run_main

    sys.exit(run_main(main))
