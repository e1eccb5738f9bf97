"""
What the memory on disk costs: reading records, a user's turn, a store of many traces. One JSON line a cell.

    python dev/bench_memory.py [--model-path data/then-d4] [--users 1000] [--traces 6250 62500 625000]

Stores of --traces hold random records: what is measured is time and memory, not recall. Each runs in a process of its own, for its peak RSS.
"""
import argparse
import json
import mmap
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import flag, run_main  # noqa: E402

QUESTION = "What did the user prefer at t=7?"


def timed(fn, n):
    """Median seconds of n calls."""
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def random_store(path, identity, n):
    import numpy as np

    from nanochat.memory import Writer
    rng = np.random.default_rng(0)
    with Writer(path, identity) as memory:
        for at in range(0, n, 10000):
            records = rng.integers(0, 256, (min(10000, n - at), memory.layout.stride), dtype=np.uint8)
            ids = rng.integers(0, identity["geometry"]["n_ordinary"], (len(records), 16))
            memory.layout.bytes_of(records, "ids")[:] = ids.astype(memory.layout.id_type).view(np.uint8)
            memory.append(records, [1] * len(records), [("random", at + i, -1) for i in range(len(records))])
        memory.commit()


def reading(path):
    """Positioned reads against a mapping: the same random records, checked the same way."""
    import numpy as np

    from nanochat.memory import Store
    from nanochat.memory_file import HEADER, crc
    with Store(path) as store:
        N, stride, rng = len(store.content.checks), store.layout.stride, np.random.default_rng(0)
        mapped = np.frombuffer(mmap.mmap(store.fd, store.end, prot=mmap.PROT_READ), np.uint8)[HEADER.size:].reshape(N, stride)
        for k in (16, 1024):
            pick = lambda: np.unique(rng.integers(0, N, k))
            yield {"cell": "read", "records": k, "traces": N, "positioned_us": 1e6 * timed(lambda: store.gather(pick()), 50),
                   "mapped_us": 1e6 * timed(lambda: crc(mapped[pick()]), 50)}


def users(model, tokenizer, facts, directory, n):
    """n users with 20 facts each: open, one question, close."""
    from nanochat import engine
    from nanochat.memory import Writer, load_state
    from nanochat.memory_file import identity
    paths = [directory / f"user{i}.pt" for i in range(n)]
    for i, path in enumerate(paths):
        with Writer(path, identity(model, facts)) as memory:
            texts = [f"t={t}: The user was in room {i}, and preferred drink {i * 20 + t}." for t in range(20)]
            engine.remember(model, memory, engine.episode_ids(tokenizer, texts), [(None, -1, -1)] * 20)
    turns = iter(paths)
    turn = lambda: engine.answer(model, tokenizer, load_state(next(turns), model, facts)[0], QUESTION, max_tokens=8)
    opens = iter(paths)
    return {"cell": "users", "users": n, "open_ms": 1e3 * timed(lambda: load_state(next(opens), model, facts), n), "turn_ms": 1e3 * timed(turn, n)}


def many(path, load, budget, pipe):
    from nanochat import engine
    from nanochat.memory import load_state
    model, tokenizer, facts = load()
    ask = lambda state: engine.answer(model, tokenizer, state, QUESTION, max_tokens=1)
    ask(model.empty_state(1))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    state = load_state(path, model, facts, budget)[0]
    opened = time.perf_counter() - began
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = timed(lambda: ask(state), 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send({"cell": "many", "traces": len(state["traces"]), "budget_mb": budget // 2 ** 20, "in_file": type(state["traces"].ids).__name__ == "Column", "open_s": opened,
               "question_ms": 1e3 * seconds, "held_mb": (held - before) / 1024, "peak_mb": (peak - before) / 1024})


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d4")
    flag(parser, "--users", type=int, default=1000)
    flag(parser, "--traces", type=int, nargs="*", default=[6250, 62500, 625000])
    flag(parser, "--ram-budget-mb", type=int, default=256)
    args = parser.parse_args(argv)
    from functools import partial

    from nanochat import engine
    from nanochat.memory_file import identity
    load = partial(engine.load_model, args.model_path)
    model, tokenizer, facts = load()
    rounded = lambda cell: print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in cell.items()}), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        rounded(users(model, tokenizer, facts, directory, args.users))
        for n in args.traces:
            path = directory / f"{n}.pt"
            random_store(path, identity(model, facts), n)
            for cell in reading(path):
                rounded(cell)
            here, there = multiprocessing.get_context("spawn").Pipe()
            child = multiprocessing.get_context("spawn").Process(target=many, args=(path, load, args.ram_budget_mb * 2 ** 20, there))
            child.start()
            there.close()
            rounded(here.recv())
            child.join()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
