"""
What the memory on disk costs: a user's turn, a store of many traces, ingest. One JSON line a cell.

    python dev/bench_memory.py [--model-path data/then-d6] [--users 1000] [--traces 6250 62500 625000]
    python dev/bench_memory.py --users 0 --traces --prose pretrain.jsonl --tokens 10000000

Stores of --traces hold random records: what is measured is time and memory, not recall. Each runs in a process of its
own, for its peak RSS.
--prose: documents {"text": …}, one a line, of which --tokens are ingested, and before that 100,000 for comparison;
every line of a text is an episode.
"""
import argparse
import contextlib
import io
import json
import multiprocessing
import os
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


def users(model, tokenizer, facts, directory, n):
    """
    n users with 20 facts each: open, one question, close. own: answers that hold the user's own number; crossed: that
    of another user.
    """
    from nanochat import engine
    from nanochat.memory import Writer, load_state
    from nanochat.memory_file import identity
    paths, numbers, answers = [directory / f"user{i}.pt" for i in range(n)], [str(10000 + 37 * i) for i in range(n)], []
    for path, number in zip(paths, numbers):
        with Writer(path, identity(model, facts)) as memory:
            texts = [f"t={t}: The user was in room {number}, and preferred drink {t}." for t in range(20)]
            engine.remember(model, tokenizer, memory, engine.episode_ids(tokenizer, texts), [(None, -1, -1)] * 20)
    opens, turns = iter(paths), iter(paths)
    ask = lambda state: answers.append(engine.answer(model, tokenizer, state, "Which room was the user in at t=7?",
                                                     max_tokens=8).text)
    turn = lambda: ask(load_state(next(turns), model, facts)[0])
    cell = {"cell": "users", "users": n, "open_ms": 1e3 * timed(lambda: load_state(next(opens), model, facts), n),
            "turn_ms": 1e3 * timed(turn, n)}
    held = [{number for number in numbers if number in text} for text in answers]
    own = sum(number in found for number, found in zip(numbers, held))
    crossed = sum(bool(found - {number}) for number, found in zip(numbers, held))
    return {**cell, "own": own, "crossed": crossed}


def peak_mb():
    """Of this process alone: ru_maxrss begins with what its parent held."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024


def apart(fn, *args):
    """What fn(*args) returns in a process of its own."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=told, args=(there, fn, *args))
    child.start()
    there.close()
    try:
        return here.recv()
    finally:
        child.join()


def told(pipe, fn, *args):
    pipe.send(fn(*args))


def prose_text(path, documents, tokenizer, tokens):
    """Writes the text of documents (a .jsonl) to a file, until their episodes have as many tokens."""
    from nanochat import engine
    from nanochat.text import split_episodes
    with open(documents, encoding="utf-8") as lines, open(path, "w", encoding="utf-8") as file:
        for line in lines:
            text = json.loads(line)["text"] + "\n"
            file.write(text)
            tokens -= sum(map(len, engine.episode_ids(tokenizer, [words for words, _ in split_episodes(text, "line")])))
            if tokens <= 0:
                break


def prose(text, path, load, model_path):
    """scripts.ingest on a file of text: peak_mb is above that of the model at work on a few lines."""
    from nanochat import engine
    from nanochat.memory import Store
    from scripts import ingest
    model, tokenizer, _ = load()
    with open(text, encoding="utf-8") as file:
        engine.ingest(model, tokenizer, [line.strip() for _, line in zip(range(64), file) if line.strip()])
    before = peak_mb()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        ingest.main(["--model-path", str(model_path), "--data-path", str(text), "--output-path", str(path), "--json"])
    done, peak = json.loads(out.getvalue()), peak_mb() - before
    per_token = lambda size: size / done["tokens"]
    with Store(path) as store:
        fields = {f"{name}_bytes": per_token(size * done["traces"]) for name, (_, size) in store.layout.fields.items()}
    return {"cell": "prose", **{name: done[name]
                                for name in ("tokens", "episodes", "traces", "seconds", "tokens_per_second")},
                                "peak_mb": peak,
            "bytes_a_token": per_token(done["bytes"]), **fields, "table_bytes": per_token(os.stat(path).st_size)}


def many(path, load, budget):
    import torch

    from nanochat import engine
    from nanochat.memory import load_state
    model, tokenizer, facts = load()
    ask = lambda state: engine.answer(model, tokenizer, state, QUESTION, max_tokens=1)
    ask(model.empty_state(1))
    before, began = peak_mb(), time.perf_counter()
    state = load_state(path, model, facts, budget)[0]
    opened, held = time.perf_counter() - began, peak_mb()
    seconds = timed(lambda: ask(state), 15)
    return {"cell": "many", "traces": len(state["traces"]), "budget_mb": budget // 2 ** 20,
            "in_file": type(state["traces"].ids).__name__ == "Column",
            "threads": torch.get_num_threads(), "open_s": opened, "question_ms": 1e3 * seconds,
            "held_mb": held - before, "peak_mb": peak_mb() - before}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d6")
    flag(parser, "--users", type=int, default=1000)
    flag(parser, "--traces", type=int, nargs="*", default=[6250, 62500, 625000])
    flag(parser, "--ram-budget-mb", type=int, default=256)
    flag(parser, "--prose", metavar="FILE.jsonl", help="documents to ingest for real")
    flag(parser, "--tokens", type=int, default=10_000_000, help="of --prose, so many")
    args = parser.parse_args(argv)
    from functools import partial

    from nanochat import engine
    from nanochat.memory_file import identity
    load = partial(engine.load_model, args.model_path)
    model, tokenizer, facts = load()
    rounded = lambda cell: print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in cell.items()}),
                                 flush=True)
    question_ms = {}

    def asked(path):
        cell = apart(many, path, load, args.ram_budget_mb * 2 ** 20)
        question_ms[cell["traces"]] = cell["question_ms"]
        rounded(cell)

    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        if args.users:
            rounded(users(model, tokenizer, facts, directory, args.users))
        for n in args.traces:
            path = directory / f"{n}.pt"
            random_store(path, identity(model, facts), n)
            asked(path)
        for n in (100_000, args.tokens) if args.prose else ():
            text, path = directory / "prose.txt", directory / f"prose{n}.pt"
            prose_text(text, args.prose, tokenizer, n)
            rounded(apart(prose, text, path, load, args.model_path))
            asked(path)
    if len(question_ms) > 1:
        few, most = min(question_ms), max(question_ms)
        rounded({"cell": "latency", "traces": [few, most],
                 "question_ms": [round(question_ms[n], 2) for n in (few, most)],
                 "ratio": question_ms[most] / question_ms[few]})
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
