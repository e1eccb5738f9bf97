"""
Query for many users: N worker processes answer from a directory of states, with one copy of the weights between them.

One JSON object a line on stdin, one on stdout for each, as soon as it is answered:

    {"user": "alice", "question": "Where was I at t=7?", "id": 1}
    {"id": 1, "user": "alice", "answer": "Zamalek", "confidence": 0.98, "episodes": [...], "seconds": 0.12}     or {"id": 1, "user": ..., "error": "one line"}

Whatever else the object holds comes back with the answer. A user's questions go to one worker, in their order, which looks before every answer whether
the file has changed: what is ingested, or deleted, counts from the next question on. Lines and pipes rather than a port: whoever may ask is a
matter of what is put in front (a chat bot, a web server, socat), and is not decided here.
"""
import argparse
import json
import os
import signal
import sys
import threading
import zlib
from collections import OrderedDict
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

from nanochat.common import Help, UserError, flag, run_main
from nanochat.users import user_path
from scripts.query import positive, size

WAITING = 64   # questions that are read ahead of the answers


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.serve --model_path data/then-d6 --state-dir memories --workers 4", description=__doc__, formatter_class=Help,
                                     allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", metavar="PATH", required=True, help="model file of a checkpoint, or its directory")
    add("--state-dir", metavar="DIR", required=True, help="a directory with one state for each user, as ingest --state-dir writes it")
    add("--workers", type=positive, default=min(4, os.cpu_count() or 1), metavar="N", help="processes that answer (default: the cores, at most 4)")
    add("--open-states", type=positive, default=64, help="states that a worker keeps open")
    add("--ram-budget", type=size, metavar="BYTES", help="RAM that the memory of a user may take (256MB); the rest is read from the file when it is needed")
    add("--max-tokens", type=positive, default=48, help="of an answer")
    add("--device", default="auto", help="")
    add("--dtype", default="auto", help="device: cpu, cuda, cuda:N or mps; dtype: fp32, bf16 or fp16")
    return parser


class Worker:
    """What a process needs to answer. The weights are those of the parent, mapped and not copied."""

    def __init__(self, loaded, args, threads):
        """loaded: what engine.load_model returned."""
        import torch
        torch.set_num_threads(threads)
        self.loaded, self.args = loaded, args
        self.open = OrderedDict()   # path -> (version of the file, LiveMemory), the last used last

    def memory(self, path):
        from nanochat.live_memory import LiveMemory
        from nanochat.memory import stamp
        version, held = stamp(path), self.open.pop(path, None)
        if held and held[0] != version:
            held[1].close()
            held = None
        self.open[path] = held or (version, LiveMemory(self.loaded, path, read_only=True, ram_budget=self.args.ram_budget, max_tokens=self.args.max_tokens))
        while len(self.open) > self.args.open_states:
            self.open.popitem(last=False)[1][1].close()
        return self.open[path][1]

    def answer(self, user, question):
        """What is said to a question: a dict, to be put beside what it came with."""
        from nanochat.chat import as_dict
        try:
            answer = self.memory(user_path(self.args.state_dir, user)).ask(question)
        except (UserError, OSError) as error:   # a file that can't be read is the trouble of its user alone
            return {"error": " ".join(str(error).split())}
        return {"answer": answer.text, "confidence": float(f"{answer.confidence:.4g}"), "episodes": [as_dict(episode) for episode in answer.episodes],
                "seconds": round(answer.seconds, 4)}


def start(*args):
    global worker   # of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C is for the parent
    worker = Worker(*args)


def work(user, question):
    return worker.answer(user, question)


def read_item(line, number):
    """The question of a line of stdin; UserError where it is none."""
    try:
        item = json.loads(line.decode("utf-8"))
        json.dumps(item, allow_nan=False, ensure_ascii=False).encode()   # what can't be said back (nan, half a surrogate pair) is refused now
    except (ValueError, RecursionError) as error:
        raise UserError(f"line {number}: not JSON in UTF-8 ({error})") from error
    if not isinstance(item, dict) or not all(isinstance(item.get(name), str) and item[name].strip() for name in ("user", "question")):
        raise UserError(f"line {number}: needs an object with a 'user' and a 'question'")
    return item


def serve(lines, pools, emit):
    """Answers the lines (bytes) by the workers `pools`; emit is called with one dict for each, from any thread."""
    room = threading.Semaphore(WAITING)
    failed = []

    def done(item, future):
        room.release()
        if error := future.exception():
            failed.append(error)
        try:
            emit({**item, **({"error": f"the worker has failed ({error})"} if error else future.result())})
        except OSError as broken:   # nobody reads what is said
            failed.append(broken)

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = read_item(line, number)
        except UserError as error:
            emit({"error": str(error)})
            continue
        room.acquire()
        if failed:
            break
        try:
            future = pools[zlib.crc32(item["user"].encode()) % len(pools)].submit(work, item["user"], item["question"])
        except BrokenExecutor as error:   # it failed just now
            failed.append(error)
            break
        future.add_done_callback(lambda future, item=item: done(item, future))
    for pool in pools:
        pool.shutdown()
    if failed:
        raise failed[0] if isinstance(failed[0], OSError) else UserError(f"a worker has failed: {failed[0]}")


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not os.path.isdir(os.path.expanduser(args.state_dir)):
        raise UserError(f"{args.state_dir}: no such directory of states")

    import torch.multiprocessing as multiprocessing

    from nanochat import engine

    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    model.share_memory()
    threads = max(1, (os.cpu_count() or 1) // args.workers)
    # of one process each: what a user asks is answered in its order, and by the process that has the state open
    pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start, ((model, tokenizer, facts), args, threads)) for _ in range(args.workers)]
    print(f"{args.workers} workers | device: {facts['device']} | dtype: {facts['dtype']} | states in {args.state_dir}", file=sys.stderr, flush=True)
    lock = threading.Lock()

    def emit(item):
        with lock:
            print(json.dumps(item), flush=True)

    serve(sys.stdin.buffer, pools, emit)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
