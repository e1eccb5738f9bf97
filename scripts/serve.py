"""
Query for many users: worker processes answer from a directory of states, with one copy of the weights between them.

One JSON object a line on stdin, or from each client of a Unix socket; one comes back for each, as soon as it is done:

    {"user": "alice", "question": "Where was I?", "id": 1}   {..., "id": 1, "answer": "Zamalek", "confidence": 0.9}
    {"user": "alice", "say": "I moved to Luxor."}            {..., "remembered": 1, "total": 8}
    {"user": "nobody", "question": "Where was I?"}           {..., "error": "one line"}

With --remember, a "say" is one episode and an "ingest" an episode a line; "source" and "time" (seconds) may be given.
Whatever else the object holds comes back, too. A user's requests are done in their order. One that fails harms no other
one: it has an error, and stderr says why. Whoever may ask is decided by what is put in front, not here.
"""
import argparse
import contextlib
import json
import os
import queue
import re
import signal
import socket
import stat
import sys
import threading
import time
import zlib
from collections import OrderedDict

from nanochat.chat import SOURCE, as_dict, complain
from nanochat.common import Help, UserError, flag, run_main
from nanochat.text import LINE_END, json_line, split_episodes
from nanochat.users import user_path
from scripts.query import positive, size

LINE = 1_000_000   # bytes of a request at most; more are not held
# bytes and lines of its text at most: one commit (engine.HELD, engine.COMMIT), so all of it is remembered, or nothing
TEXT, LINES = 200_000, 2_048
NAME = 1_000       # characters of a source at most
LAST = 253_402_300_799   # the last second of the year 9999
WAITING = 16       # requests of a client that are read ahead of their replies
CLIENTS = 64       # of the socket at once; the others wait to be let in
ATTEMPTS = 2       # workers that may end over a request
KINDS = ("question", "say", "ingest")
REPLY = ("answer", "confidence", "episodes", "seconds", "remembered", "total", "error")
# one text for whatever is the matter: a client is not told which users there are, nor what their files are called
UNUSABLE = "there is no memory of this user that can be used"


def build_parser():
    usage = "python -m scripts.serve --model_path data/then-d6 --state-dir memories --workers 4"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", metavar="PATH", required=True, help="model file of a checkpoint, or its directory")
    add("--state-dir", metavar="DIR", required=True, help="a state for each user, as ingest --state-dir writes it")
    add("--remember", action="store_true", help="also remember; without it nothing is written")
    add("--socket", metavar="PATH", help="listen on a Unix socket of mode 0600, until Ctrl-C, instead of stdin")
    add("--workers", type=positive, default=min(4, os.cpu_count() or 1), metavar="N",
        help="processes that answer (default: the cores, at most 4)")
    add("--open-states", type=positive, default=64, help="states that a worker keeps open")
    add("--worker-memory", type=size, default="2GB", help="RAM of a worker for states and requests (CPU, Linux)")
    add("--ram-budget", type=size, metavar="BYTES", help="RAM for one state (256MB); the rest stays in its file")
    add("--time-limit", type=positive, default=120, help="seconds of a request; its worker is then ended")
    add("--max-tokens", type=positive, default=48, help="of an answer")
    add("--device", default="auto", help="")
    add("--dtype", default="auto", help="device: cpu, cuda, cuda:N or mps; dtype: fp32, bf16 or fp16")
    return parser


# -- a worker process --------------------------------------------------------------------------------------------------


def private_bytes():
    """Memory of its own that this process has asked for; 0 where the system does not say (it is not Linux)."""
    try:
        with open("/proc/self/status") as file:
            return int(re.search(r"^VmData:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) * 1024
    except OSError:
        return 0


def bound_memory(most):
    """From here on this process may take `most` bytes more: an allocation beyond them fails. On Linux alone."""
    if now := private_bytes():
        import resource
        with contextlib.suppress(ValueError, OverflowError):   # the system's own limit is lower
            resource.setrlimit(resource.RLIMIT_DATA, (now + most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


class Worker:
    """What a process needs to answer. The weights are those of the parent, mapped and not copied."""

    def __init__(self, loaded, args, threads):
        """loaded: what engine.load_model returned."""
        import torch
        torch.set_num_threads(threads)
        self.loaded, self.args = loaded, args
        self.open = OrderedDict()   # user -> (version of the file, LiveMemory), the last used last
        self.full = private_bytes() + args.worker_memory // 2   # what is left is for one request

    def memory(self, user, new=False):
        """The open memory of a user. UserError where there is none, unless it may be a new one."""
        from nanochat.live_memory import LiveMemory
        from nanochat.memory import stamp
        path = user_path(self.args.state_dir, user)
        version = stamp(path)
        if user in self.open and self.open[user][0] != version:
            self.drop(user)
        if version is None and not new:
            raise UserError(f"{path}: no such state file")
        held = self.open.pop(user, None)
        while self.open and (len(self.open) >= self.args.open_states or private_bytes() > self.full):
            self.drop(next(iter(self.open)))
        memory = held[1] if held else LiveMemory(
            self.loaded, state_dir=self.args.state_dir, user=user, read_only=not self.args.remember,
            ram_budget=self.args.ram_budget, max_tokens=self.args.max_tokens)
        self.open[user] = version, memory
        return memory

    def drop(self, user):
        if user in self.open:
            self.open.pop(user)[1].close()

    def reply(self, line, before=None, note=lambda episodes: None):
        """
        The reply to a line that read_item has taken, as `encode` gives it. note: called with the number of episodes
        before anything is remembered. before: what another worker has noted, that died over this request.
        """
        item = json.loads(line)
        try:
            return encode(item, self.answer(item) if "question" in item else self.remember(item, before, note))
        except Exception as error:   # whatever it is, it is the trouble of this user alone
            if isinstance(error, UserError) and error.code == 2:   # what was asked is wrong
                return encode(item, {"error": " ".join(str(error).split())})
            self.drop(item["user"])
            log(f"user {item['user']!r}: {str(error) or type(error).__name__}")
            return encode(item, {"error": UNUSABLE})

    def answer(self, item):
        answer = self.memory(item["user"]).ask(item["question"])
        return {"answer": answer.text, "confidence": float(f"{answer.confidence:.4g}"),
                "episodes": [as_dict(episode) for episode in answer.episodes], "seconds": round(answer.seconds, 4)}

    def remember(self, item, before, note):
        from nanochat.memory import stamp
        user, memory = item["user"], self.memory(item["user"], new=True)
        try:
            memory.hold()
            if before is None:
                note(before := len(memory))
            whole = "say" in item
            text = item["say" if whole else "ingest"]
            said = [words for words, _ in split_episodes(text, "file" if whole else "line")]
            there = [memory[id].text for id in range(before + 1, min(before + len(said), len(memory)) + 1)]
            if there != said:   # the worker that died had not committed it
                if whole:
                    memory.say(text, item.get("source", SOURCE), item.get("time", int(time.time())))
                else:
                    memory.ingest(text, source=item.get("source"), time=item.get("time"))
            self.open[user] = stamp(memory.path), memory
        finally:
            memory.release()
        return {"remembered": len(said), "total": len(memory)}


def log(text):
    with contextlib.suppress(Exception):   # nobody may read it any more
        complain(text)


def encode(item, reply):
    """One line of JSON, bytes: the request without what could be taken for a part of a reply, and the reply."""
    return json.dumps({**{name: value for name, value in item.items() if name not in REPLY}, **reply}).encode() + b"\n"


def work(pipe, loaded, args, threads):
    """A worker process: (line, before) come through the pipe, the reply of each goes back, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C is for the parent
    worker = Worker(loaded, args, threads)
    if loaded[0].wte.weight.device.type == "cpu":   # a GPU's address space is counted, too
        bound_memory(args.worker_memory)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            line, before = pipe.recv()
            try:
                reply = worker.reply(line, before, pipe.send)
            except (RecursionError, MemoryError) as error:   # of the JSON itself
                reply = encode({}, {"error": f"a request that can't be read ({type(error).__name__})"})
            pipe.send(reply)


# -- the parent --------------------------------------------------------------------------------------------------------


class Keeper(threading.Thread):
    """
    A thread that keeps one worker process, and gives it a request at a time. Where it dies, or takes too long, another
    one takes its place, and has the request again.
    """

    def __init__(self, loaded, args, threads):
        """As for Worker. The process begins to start; `ready` waits for it."""
        super().__init__(daemon=True)
        self.loaded, self.args, self.threads = loaded, args, threads
        self.waiting = queue.SimpleQueue()   # (line, called with the reply); None is the last
        self.closed = False
        self.begin()

    def begin(self):
        import torch.multiprocessing as multiprocessing
        context = multiprocessing.get_context("spawn")
        self.process = None
        self.pipe, there = context.Pipe()
        with there:
            process = context.Process(target=work, args=(there, self.loaded, self.args, self.threads), daemon=True)
            process.start()
        self.process = process

    def ready(self):
        """UserError where the process can't be started."""
        try:
            self.pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError("a worker process ended while it was started") from error

    def end(self):
        self.pipe.close()
        if self.process is not None:
            self.process.kill()
            self.process.join()   # its locks are free then
        self.process = None

    def close(self):
        """Ends the process, whatever it is at: all is said, or nobody is there to read it. A memory bears that."""
        self.closed = True
        self.waiting.put(None)
        if process := self.process:
            process.kill()

    def run(self):
        while job := self.waiting.get():
            line, say = job
            say(self.reply(line))
        self.end()

    def reply(self, line):
        before, ended = None, 0
        while ended < ATTEMPTS and not self.closed:
            try:
                if self.process is None:
                    self.begin()
                    self.ready()
                self.pipe.send((line, before))
                while isinstance(got := self.heard(), int):
                    before = got
                return got
            except Exception as error:   # killed, too slow, not to be started: the next request is another user's
                if not self.closed:
                    log(f"a worker has ended ({str(error) or type(error).__name__})")
                self.end()
                ended += 1
        error = f"given up: {ATTEMPTS} workers have ended over it, or took more than {self.args.time_limit} s"
        return encode(json.loads(line), {"error": error})

    def heard(self):
        """What the worker says next: episodes (int) that there are, or the reply."""
        if not self.pipe.poll(self.args.time_limit):
            raise TimeoutError(f"more than {self.args.time_limit} s for a request")
        return self.pipe.recv()


def lines(source):
    """The lines of a binary file; None in the place of one of more than LINE bytes, which is never held whole."""
    while line := source.readline(LINE + 1):
        whole = line.endswith(b"\n") or len(line) <= LINE
        yield line if whole else None
        while line and not line.endswith(b"\n"):
            line = source.readline(LINE)


def read_item(line, number, remember):
    """The request in a line; UserError where it is none."""
    if line is None:
        raise UserError(f"line {number}: of more than {LINE:,} bytes")
    try:
        item = json_line(line)
        # what can't be said back (nan, half a surrogate pair) is refused now
        json.dumps(item, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"line {number}: not JSON in UTF-8 ({error})") from error
    kinds = [kind for kind in (KINDS if remember else KINDS[:1]) if isinstance(item, dict) and kind in item]
    said = lambda name: isinstance(item.get(name), str) and item[name].strip()
    if len(kinds) != 1 or not said("user") or not said(kinds[0]):
        raise UserError(f"line {number}: needs an object with a 'user' and a 'question'; with --remember, or one of "
                        "'say' and 'ingest' in its place")
    text, source, when = item[kinds[0]], item.get("source", ""), item.get("time", 0)
    if len(text.encode()) > TEXT or len(LINE_END.split(text)) > LINES:
        raise UserError(f"line {number}: the text may have {TEXT:,} bytes and {LINES:,} lines")
    if kinds != ["question"] and (not isinstance(source, str) or len(source) > NAME):
        raise UserError(f"line {number}: 'source' is a text of at most {NAME:,} characters")
    if kinds != ["question"] and (type(when) is not int or not 0 <= when <= LAST):
        raise UserError(f"line {number}: 'time' is a whole number, seconds since 1970")
    return item


def serve(source, sink, keepers, remember=False):
    """
    Takes the requests of a client from a binary file and writes the replies to another one, until the first ends and
    all is said. OSError where one of them breaks off. A client that reads no replies lets nobody wait but itself.
    """
    room, said, broken = threading.Semaphore(WAITING), queue.SimpleQueue(), []

    def write():
        while reply := said.get():
            try:
                if not broken:
                    sink.write(reply)
                    sink.flush()
            except OSError as error:
                broken.append(error)
            room.release()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        for number, line in enumerate(lines(source), 1):
            if line is not None and not line.strip():
                continue
            room.acquire()
            if broken:
                room.release()
                break
            try:
                user = read_item(line, number, remember)["user"]
            except UserError as error:
                said.put(encode({}, {"error": str(error)}))
            else:
                keepers[zlib.crc32(user.encode()) % len(keepers)].waiting.put((line, said.put))
    except OSError as error:
        broken.append(error)
    for _ in range(WAITING):
        room.acquire()
    said.put(None)
    writer.join()
    if broken:
        raise broken[0]


def listen(path):
    """A Unix socket at a path, of mode 0600. One that an ended run has left is replaced; UserError for all else."""
    if not hasattr(socket, "AF_UNIX"):
        raise UserError("--socket: this system has no Unix sockets", code=2)
    server = socket.socket(socket.AF_UNIX)
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UserError(f"{path}: is there already, and is no socket", code=2)
        with socket.socket(socket.AF_UNIX) as other:
            try:
                other.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise UserError(f"{path}: another process listens there")
    mask = os.umask(0o177)
    try:
        server.bind(path)
    finally:
        os.umask(mask)
    server.listen()
    return server


def attend(server, keepers, remember):
    """Serves whoever connects, CLIENTS at a time, for ever."""
    room = threading.Semaphore(CLIENTS)

    def talk(connection):
        try:
            with contextlib.suppress(OSError), connection:   # OSError: the client has gone
                with connection.makefile("rb") as source, connection.makefile("wb") as sink:
                    serve(source, sink, keepers, remember)
        finally:
            room.release()

    while True:
        room.acquire()
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not os.path.isdir(os.path.expanduser(args.state_dir)):
        raise UserError(f"{args.state_dir}: no such directory of states")
    server = listen(args.socket) if args.socket else None

    from nanochat import engine

    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    model.share_memory()
    threads = max(1, (os.cpu_count() or 1) // args.workers)
    keepers = [Keeper((model, tokenizer, facts), args, threads) for _ in range(args.workers)]
    for keeper in keepers:
        keeper.ready()
        keeper.start()
    print(f"{args.workers} workers | device: {facts['device']} | dtype: {facts['dtype']} | states in {args.state_dir}"
          + (f" | listens on {args.socket}" if server else ""), file=sys.stderr, flush=True)
    try:
        if server:
            attend(server, keepers, args.remember)
        else:
            serve(sys.stdin.buffer, sys.stdout.buffer, keepers, args.remember)
    finally:
        for keeper in keepers:
            keeper.close()
        for keeper in keepers:
            keeper.join()   # Python ends by force what a thread is still at, and aborts where that is torch's
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
