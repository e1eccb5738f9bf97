"""
What the memory on disk costs: reading records, a user's turn, the routing search, a store of many traces. One JSON line a cell.

    python dev/bench_memory.py [--model-path data/then-d4] [--users 1000] [--traces 6250 62500 625000] [--state-path S.pt]
    python dev/bench_memory.py --users 0 --traces --prose pretrain.jsonl --tokens 10000000

Stores of --traces hold random records: what is measured is time and memory, not recall. Each runs in a process of its own, for its peak RSS. With
faiss-cpu installed its flat inner product is timed on the same keys; --state-path: how far bounds would prune the search of a real memory.
--prose: documents {"text": …}, one a line, of which --tokens are ingested, and before that 100,000 for comparison; every line of a text is an episode.
"""
import argparse
import contextlib
import io
import json
import mmap
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


def timed(fn, n, before=lambda: None):
    """Median seconds of n calls, each after a call of `before`."""
    seconds = []
    for _ in range(n):
        before()
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
            for name, count in (("ids", 16), ("before", 3)):
                ids = rng.integers(0, identity["geometry"]["n_ordinary"], (len(records), count))
                memory.layout.bytes_of(records, name)[:] = ids.astype(memory.layout.id_type).view(np.uint8)
            memory.append(records, [1] * len(records), [("random", at + i, -1) for i in range(len(records))])
        memory.commit()


def reading(path):
    """
    Positioned reads against a mapping: the same random records, checked the same way. Cold: with the file out of the page cache, asked for all at once,
    as Store.gather does, or one by one.
    """
    import numpy as np

    from nanochat.memory import Store
    from nanochat.memory_file import HEADER, crc
    with Store(path) as store:
        N, stride, rng = len(store.content.checks), store.layout.stride, np.random.default_rng(0)
        pick = lambda k: np.unique(rng.integers(0, N, k))
        one_by_one = lambda numbers: [store.records(n, n + 1) for n in numbers]
        drop = lambda: os.posix_fadvise(store.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        cold = {k: [1e6 * timed(lambda: read(pick(k)), 20, drop) for read in (store.gather, one_by_one)] for k in (16, 64, 1024)}   # what is mapped stays cached
        mapped = np.frombuffer(mmap.mmap(store.fd, store.end, prot=mmap.PROT_READ), np.uint8)[HEADER.size:].reshape(N, stride)
        for k in cold:
            yield {"cell": "read", "records": k, "traces": N, "positioned_us": 1e6 * timed(lambda: store.gather(pick(k)), 50),
                   "mapped_us": 1e6 * timed(lambda: crc(mapped[pick(k)]), 50), "cold_us": cold[k][0], "cold_one_by_one_us": cold[k][1]}


def users(model, tokenizer, facts, directory, n):
    """n users with 20 facts each: open, one question, close. own: answers that hold the user's own number; crossed: that of another user."""
    from nanochat import engine
    from nanochat.memory import Writer, load_state
    from nanochat.memory_file import identity
    paths, numbers, answers = [directory / f"user{i}.pt" for i in range(n)], [str(10000 + 37 * i) for i in range(n)], []
    for path, number in zip(paths, numbers):
        with Writer(path, identity(model, facts)) as memory:
            texts = [f"t={t}: The user was in room {number}, and preferred drink {t}." for t in range(20)]
            engine.remember(model, tokenizer, memory, engine.episode_ids(tokenizer, texts), [(None, -1, -1)] * 20)
    opens, turns = iter(paths), iter(paths)
    ask = lambda state: answers.append(engine.answer(model, tokenizer, state, "Which room was the user in at t=7?", max_tokens=8).text)
    turn = lambda: ask(load_state(next(turns), model, facts)[0])
    cell = {"cell": "users", "users": n, "open_ms": 1e3 * timed(lambda: load_state(next(opens), model, facts), n), "turn_ms": 1e3 * timed(turn, n)}
    held = [{number for number in numbers if number in text} for text in answers]
    own = sum(number in found for number, found in zip(numbers, held))
    crossed = sum(bool(found - {number}) for number, found in zip(numbers, held))
    return {**cell, "own": own, "crossed": crossed}


def routing(layout, n, dtype):
    """The search for the 16 best of n random keys, one query at a time, and faiss's flat inner product on the same keys."""
    import torch

    from nanochat.search import Keys, best
    parts, dim, bits, length = layout.vectors["address"]
    generator = torch.Generator().manual_seed(0)
    keys, top = Keys(n, (parts, dim), bits, length, torch.empty(1, 0, parts * dim, dtype=dtype)), 2 ** (bits - 1) - 1
    for at in range(0, n, 10000):
        keys.fill(at, torch.randint(-top, top + 1, (min(10000, n - at), parts, dim), generator=generator, dtype=torch.int8))
    queries = 12 * keys.values(torch.randint(n, (50,), generator=generator)).float() + torch.randn(50, parts, dim, generator=generator)
    visible, turn, found = torch.ones(1, n, dtype=torch.bool), iter(queries[:, None]), []
    ours = timed(lambda: found.append(best(keys, next(turn), 16, visible)[0][0]), 50)
    cell = {"cell": "routing", "traces": n, "threads": torch.get_num_threads(), "search_ms": 1e3 * ours}
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed: the search is not compared", file=sys.stderr)
        return cell
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(parts * dim)
    for at in range(0, n, 10000):
        flat.add(keys[:, at:at + 10000][0].float().numpy())
    lines, theirs = iter(queries.flatten(1).numpy()[:, None]), []
    cell["faiss_ms"] = 1e3 * timed(lambda: theirs.append(flat.search(next(lines), 16)[1][0]), 50)
    return {**cell, "faiss_over_search": cell["faiss_ms"] / cell["search_ms"], "same_best": sum(int(a[0]) == int(b[0]) for a, b in zip(found, theirs)) / 50}


def pruning(path):
    """
    Which share of a real memory's traces an exact search still has to score if blocks of consecutive traces are left out whose centre and radius say that
    none of the 16 best can be in them. Queries: addresses that are there, the easiest case.
    """
    import torch

    from nanochat.memory import Store
    from nanochat.search import Keys
    with Store(path) as store:
        parts, dim, bits, length = store.layout.vectors["address"]
        keys, at = Keys(len(store.content.checks), (parts, dim), bits, length, torch.empty(1, 0, parts * dim)), 0
        for rows in store.blocks():
            keys.fill(at, store.layout.quantised(rows, "address"))
            at += len(rows)
    values = keys.values(torch.arange(keys.n))                                  # (N, P, d)
    queries = values[torch.randint(keys.n, (100,), generator=torch.Generator().manual_seed(0))]
    least = (queries.flatten(1) @ values.flatten(1).T).topk(16).values[:, -1:]
    for size in (4, 16, 64, 256):
        blocks = values[:keys.n // size * size].unflatten(0, (-1, size))
        centre = blocks.mean(1)
        radius = (blocks - centre[:, None]).norm(dim=-1).amax(1)                # (blocks, P)
        bound = queries.flatten(1) @ centre.flatten(1).T + queries.norm(dim=-1) @ radius.T
        yield {"cell": "pruning", "traces": keys.n, "block": size, "scored": float((bound >= least).float().mean())}


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
    return {"cell": "prose", **{name: done[name] for name in ("tokens", "episodes", "traces", "seconds", "tokens_per_second")}, "peak_mb": peak,
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
    return {"cell": "many", "traces": len(state["traces"]), "budget_mb": budget // 2 ** 20, "in_file": type(state["traces"].ids).__name__ == "Column",
            "threads": torch.get_num_threads(), "open_s": opened, "question_ms": 1e3 * seconds, "held_mb": held - before, "peak_mb": peak_mb() - before}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flag(parser, "--model-path", default="data/then-d4")
    flag(parser, "--users", type=int, default=1000)
    flag(parser, "--traces", type=int, nargs="*", default=[6250, 62500, 625000])
    flag(parser, "--ram-budget-mb", type=int, default=256)
    flag(parser, "--prose", metavar="FILE.jsonl", help="documents to ingest for real")
    flag(parser, "--tokens", type=int, default=10_000_000, help="of --prose, so many")
    flag(parser, "--state-path", help="a real memory, for how far its search could be pruned")
    args = parser.parse_args(argv)
    from functools import partial

    from nanochat import engine
    from nanochat.memory_file import identity
    from nanochat.record import Layout, geometry
    load = partial(engine.load_model, args.model_path)
    model, tokenizer, facts = load()
    rounded = lambda cell: print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in cell.items()}), flush=True)
    question_ms = {}

    def asked(path):
        cell = apart(many, path, load, args.ram_budget_mb * 2 ** 20)
        question_ms[cell["traces"]] = cell["question_ms"]
        rounded(cell)

    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        if args.users:
            rounded(users(model, tokenizer, facts, directory, args.users))
        for cell in pruning(args.state_path) if args.state_path else ():
            rounded(cell)
        for n in args.traces:
            path = directory / f"{n}.pt"
            random_store(path, identity(model, facts), n)
            for cell in reading(path):
                rounded(cell)
            rounded(routing(Layout(geometry(model)), n, model.dtype))
            asked(path)
        for n in (100_000, args.tokens) if args.prose else ():
            text, path = directory / "prose.txt", directory / f"prose{n}.pt"
            prose_text(text, args.prose, tokenizer, n)
            rounded(apart(prose, text, path, load, args.model_path))
            asked(path)
    if len(question_ms) > 1:
        few, most = min(question_ms), max(question_ms)
        rounded({"cell": "latency", "traces": [few, most], "question_ms": [round(question_ms[n], 2) for n in (few, most)], "ratio": question_ms[most] / question_ms[few]})
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
