"""
Many users over one directory of states: each gets answers from their own memory, in order, and no one's fault is
another's trouble.
"""
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nanochat import engine
from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import UserError
from nanochat.live_memory import LiveMemory
from nanochat.memory import Writer
from nanochat.memory_file import digest, header, traces_path
from nanochat.record import Layout
from nanochat.tokenizer import Tokenizer
from scripts import ingest, serve
from tests.conftest import tiny

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Where was the user at t=7?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of a tiny random model that copies."""
    directory, tokenizer = tmp_path_factory.mktemp("model"), Tokenizer.load()
    model, seen = tiny(tokenizer, n_head=1).requires_grad_(False), []
    hook = model.reader.gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -1].clone()))
    with LiveMemory((model, tokenizer, {"weights": "0" * 64, "tokenizer": tokenizer.fingerprint}),
                    max_tokens=1) as memory:
        memory.ingest("t=7: The user was in Rome.")
        memory.ask(QUESTION)
    hook.remove()
    model.reader.gate.weight.copy_(seen[0])   # the gate is open where an answer begins
    save_checkpoint(directory, 1, model.state_dict(), None,
                    {"config": model.describe(), "tokenizer": tokenizer.fingerprint})
    return str(directory)


@pytest.fixture(scope="module")
def loaded(model):
    return engine.load_model(model, dtype="fp32")


@pytest.fixture
def states(tmp_path, model):
    for user, place in (("alice", "Oslo"), ("bob", "Quito")):
        remember(tmp_path, model, user, f"t=7: The user was in {place}, felt calm, and preferred tea.\n")
    return tmp_path / "states"


def remember(tmp_path, model, user, text):
    (tmp_path / f"{user}.txt").write_text(text)
    assert ingest.main(["--model-path", model, "--data-path", str(tmp_path / f"{user}.txt"), "--state-dir",
                        str(tmp_path / "states"), "--user", user,
                        "--dtype", "fp32", "--replace", "--no-export"]) == 0


def flags(model, states, *more):
    return ["--model-path", model, "--state-dir", str(states), "--max-tokens", "5", "--dtype", "fp32", *more]


def worker_of(loaded, states, *more):
    return serve.Worker(loaded, serve.build_parser().parse_args(flags("-", states, *more)), threads=1)


def ask(worker, user, **item):
    """The reply of a Worker to a request, by default QUESTION."""
    return json.loads(worker.reply(json.dumps({"user": user, **(item or {"question": QUESTION})})))


def forge(path, **changes):
    """Another identity in both files of a state, whose digests fit."""
    plain = torch.load(path, weights_only=True)
    meta = json.loads(plain["meta"]) | changes
    plain["meta"] = json.dumps(meta, sort_keys=True)
    plain["sha256"] = digest(plain)
    torch.save(plain, path)
    identity = {name: value for name, value in meta.items() if name not in ("names", "pending")}
    with open(traces_path(path), "r+b") as file:
        file.write(header(identity, Layout(identity["geometry"])))


class Died(Exception):
    pass


class Inline(serve.Keeper):
    """Keeps a thread of this process instead of another one. react(line, before, note): its reply; Died ends it."""

    def __init__(self, react, time_limit=100):
        self.react, self.begun = react, 0
        super().__init__(None, SimpleNamespace(time_limit=time_limit), 1)
        self.ready()
        self.start()

    def begin(self):
        self.begun += 1
        self.pipe, there = Pipe()
        self.process = SimpleNamespace(kill=lambda: None, join=lambda: None)
        threading.Thread(target=self.act, args=(there,), daemon=True).start()

    def act(self, there):
        with there, contextlib.suppress(Died, EOFError, OSError):
            there.send(None)
            while True:
                line, before = there.recv()
                there.send(self.react(line, before, there.send))


def talk(requests, keepers, remember=False):
    """The replies to requests (dicts, str or bytes of a line) of one client."""
    rows = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in requests]
    sink = io.BytesIO()
    serve.serve(io.BytesIO(b"\n".join(rows) + b"\n"), sink, keepers, remember)
    for keeper in keepers:
        keeper.close()
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def echo(line, before, note):
    return serve.encode(json.loads(line), {"answer": "yes"})


# -- questions ---------------------------------------------------------------------------------------------------------


def test_two_processes_answer_for_two_users(model, loaded, states):
    asked = [{"user": user, "question": QUESTION, "id": i, "error": "mine"} for i in range(3)
             for user in ("alice", "bob")]
    lines = [*map(json.dumps, asked), "nonsense", '{"user": "alice"}', "",
             json.dumps({"user": "carol", "question": "Where?"}),
             '{"user": "../bob", "question": "Where?"}', '{"user": "alice", "say": "not without --remember"}']
    done = subprocess.run([sys.executable, "-m", "scripts.serve", *flags(model, states, "--workers", "2")],
                          input="\n".join(lines) + "\n",
                          capture_output=True, text=True, cwd=ROOT, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(got) == 11
    for user in ("alice", "bob"):
        mine = [item for item in got if item.get("user") == user and "answer" in item]
        alone = LiveMemory(loaded, states / f"{user}.pt", read_only=True, max_tokens=5).ask(QUESTION)
        assert [item["id"] for item in mine] == [0, 1, 2] and {item["answer"] for item in mine} == {alone.text}
        assert not any("error" in item for item in mine)
        assert all(item["episodes"][0]["source"].startswith(f"{user}.txt")
                   and {"alice": "Oslo", "bob": "Quito"}[user] in item["episodes"][0]["text"] for item in mine)
    errors = [item["error"] for item in got if "error" in item]
    assert len(errors) == 5 and all("\n" not in error for error in errors)
    assert serve.UNUSABLE in errors and "user 'carol'" in done.stderr and "no such state file" in done.stderr
    assert any("a name is" in error for error in errors) and any("line 7: not JSON" in error for error in errors)


def test_a_worker_sees_what_has_changed_and_closes_what_is_old(model, loaded, states, tmp_path):
    worker = worker_of(loaded, states, "--open-states", "1")
    read = lambda user: ask(worker, user)["episodes"][0]["text"]
    assert "Oslo" in read("alice") and "Quito" in read("bob") and list(worker.open) == ["bob"]
    held = worker.open["bob"][1]
    assert "Quito" in read("bob") and worker.open["bob"][1] is held   # not loaded again
    remember(tmp_path, model, "bob", "t=7: The user was in Lima, felt calm, and preferred tea.\n")
    assert "Lima" in read("bob") and "Oslo" in read("alice")


def test_what_one_user_sends_stops_nobody_else(loaded, states):
    """
    Half a surrogate pair, lists too deep for a pipe between processes, nan, too much text: an error in the line of that
    request.
    """
    worker = worker_of(loaded, states)
    deep = "[" * 700 + "]" * 700
    good = f'{{"user": "alice", "question": "{QUESTION}", "id": {deep}}}'
    said = talk(['{"user": "\\ud800", "question": "Where?"}', '{"user": "alice", "question": "\\ud800 where?"}',
                 '{"user": "alice", "question": "Where?", "id": NaN}',
                 "[" * 100_000, '["user", "question"]', '{"user": 3, "question": "Where?"}',
                 {"user": "alice", "question": " "},
                 {"user": "alice", "question": "y" * 200_001}, b"\xff", {"user": "alice", "question": "y " * 1000},
                 '{"user": "alice", "question": "\\u001b[2J <|end|> \\u0000"}', good], [Inline(worker.reply)])
    errors = [item["error"] for item in said if "error" in item]
    assert [error.split(":")[0] for error in errors if error.startswith("line ")] == [f"line {i}" for i in range(1, 10)]
    assert sum("a question of" in error for error in errors) == 1 and len(errors) == 10
    answered = [item for item in said if "answer" in item]
    assert len(said) == 12 and len(answered) == 2 and answered[1]["id"] == json.loads(deep)
    assert "Oslo" in answered[1]["episodes"][0]["text"]


@pytest.mark.parametrize("error", [TypeError("'int' object is not subscriptable"), MemoryError(), RecursionError(),
                                   RuntimeError("DefaultCPUAllocator"),
                                   UserError("bob.pt: damaged"), OSError(28, "No space left on device")])
def test_whatever_goes_wrong_for_a_user_is_theirs_alone(loaded, states, monkeypatch, capsys, error):
    worker, right = worker_of(loaded, states), LiveMemory.ask

    def wrong(memory, question):
        if memory.path.stem == "bob":
            raise error
        return right(memory, question)

    monkeypatch.setattr(LiveMemory, "ask", wrong)
    assert ask(worker, "bob", question="?", id=1) == {"user": "bob", "question": "?", "id": 1, "error": serve.UNUSABLE}
    assert "bob" not in worker.open
    assert "user 'bob': " in capsys.readouterr().err and "Oslo" in ask(worker, "alice")["episodes"][0]["text"]


def test_a_reply_does_not_tell_which_users_there_are(loaded, states, capsys):
    """
    A forged state, one that is cut, of another model, none, links and pipes: one text for all, and a line on stderr for
    each.
    """
    for name in ("forged", "cut", "other", "hard"):
        for suffix in (".pt", ".traces"):
            shutil.copy(states / f"bob{suffix}", states / f"{name}{suffix}")
    forge(states / "forged.pt", weights=12345)
    forge(states / "other.pt", weights="0" * 64)
    (states / "cut.pt").write_bytes((states / "bob.pt").read_bytes()[:500])
    (states / "link.pt").symlink_to(states / "bob.pt")
    os.link(states / "hard.traces", states / "twin.traces")
    os.mkfifo(states / "pipe.pt")
    worker, names = worker_of(loaded, states), ("forged", "cut", "other", "link", "hard", "pipe", "none")
    assert [ask(worker, name)["error"] for name in names] == [serve.UNUSABLE] * len(names)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(names) and all(f"user '{name}': " in line for name, line in zip(names, lines))
    assert "Quito" in ask(worker, "bob")["episodes"][0]["text"]


def test_a_request_cannot_write_a_reply():
    """What a client calls "error" or "answer" is not passed on, with an answer or without."""
    mine = {name: "mine" for name in serve.REPLY}
    said = talk([{"user": "a", "question": "?", "id": 1, **mine}], [Inline(echo)])
    assert said == [{"user": "a", "question": "?", "id": 1, "answer": "yes"}]
    assert json.loads(serve.encode(mine, {"error": "no"})) == {"error": "no"}


# -- bounds ------------------------------------------------------------------------------------------------------------


class Stream(io.RawIOBase):
    """
    A binary file of one line of 60 MB that are never there at once, and a line after it; `most` is what was asked for
    at once.
    """
    left, rest, most = 60_000_000, b'\n{"user": "a", "question": "?"}\n', 0

    def readable(self):
        return True

    def readinto(self, buffer):
        n = min(len(buffer), self.left) or min(len(buffer), len(self.rest))
        buffer[:n] = b" " * n if self.left else self.rest[:n]
        self.left, self.rest = (self.left - n, self.rest) if self.left else (0, self.rest[n:])
        return n


def test_a_line_that_is_too_long_is_refused_and_never_held():
    source, asked = io.BufferedReader(Stream()), []
    read = lambda most: asked.append(most) or source.readline(most)
    assert [line and json.loads(line)["user"] for line in serve.lines(SimpleNamespace(readline=read))] == [None, "a"]
    assert max(asked) == serve.LINE + 1
    whole = b"x" * serve.LINE
    assert list(serve.lines(io.BytesIO(whole + b"\n" + whole + b"y\n" + whole))) == [whole + b"\n", None, whole]
    said = talk([whole + b"y", {"user": "a", "question": "?"}], [Inline(echo)])
    assert said == [{"error": "line 1: of more than 1,000,000 bytes"}, {"user": "a", "question": "?", "answer": "yes"}]


def test_an_ingest_is_one_commit():
    """A token is a byte at least; an episode has two more tokens, and is padded to chunks of 16."""
    assert serve.LINES <= engine.COMMIT and serve.TEXT + serve.LINES * 17 <= engine.HELD


@pytest.mark.skipif(not serve.private_bytes(), reason="the system does not say what a process takes")
def test_memory_is_bounded(loaded, states):
    code = ("from scripts import serve; serve.bound_memory(50 << 20); bytearray(10 << 20); print('ten'); bytearray(100 "
            "<< 20)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "ten\n" and "MemoryError" in done.stderr
    worker = worker_of(loaded, states)
    worker.full = 0   # as if they took more than half of it
    assert "answer" in ask(worker, "alice") and "answer" in ask(worker, "bob") and list(worker.open) == ["bob"]


# -- remembering -------------------------------------------------------------------------------------------------------


def test_a_user_tells_and_asks(loaded, states):
    worker = worker_of(loaded, states, "--remember")
    assert ask(worker, "carol")["error"] == serve.UNUSABLE
    assert not (states / "carol.pt").exists()   # to ask makes no memory
    told = ask(worker, "carol", ingest="t=1: Rome.\n\nt=2: Bern.\n", source="diary", time=86400, id=3)
    assert (told["remembered"], told["total"], told["id"]) == (2, 2, 3)
    assert ask(worker, "carol", say="The user\nwas in Cairo at t=7.")["total"] == 3
    assert ask(worker, "carol")["answer"]   # which episode a model of one step takes it from is chance
    assert stat.S_IMODE((states / "carol.pt").stat().st_mode) == 0o600
    with LiveMemory(loaded, states / "carol.pt", read_only=True) as memory:
        assert [(e.text, e.source, e.line)
                for e in memory] == [("t=1: Rome.", "diary", 1), ("t=2: Bern.", "diary", 3),
                                     ("The user\nwas in Cairo at t=7.", "chat", None)]
        assert memory[1].time == 86400 < memory[3].time
        assert memory.routing(QUESTION)[0][0] == 3
    assert ask(worker, "alice", say="Alice likes tea.")["total"] == 2
    assert "Quito" in ask(worker, "bob")["episodes"][0]["text"]


def test_the_lock_is_free_between_requests(loaded, states):
    worker = worker_of(loaded, states, "--remember")
    assert ask(worker, "bob", say="Once.")["total"] == 2
    with Writer(states / "bob.pt") as other:
        assert ask(worker, "bob", say="Twice.")["error"] == serve.UNUSABLE and "answer" in ask(worker, "bob")
        held = worker.open["bob"][1]
        other.delete([2])
    assert ask(worker, "bob", say="Again.")["total"] == 2
    assert worker.open["bob"][1] is not held   # the deletion was seen
    held = worker.open["bob"][1]
    assert ask(worker, "bob", say="And again.")["total"] == 3 and worker.open["bob"][1] is held   # not loaded again


@pytest.mark.parametrize("item", [{"say": "One turn."}, {"ingest": "One line.\nAnother one.\n"}])
def test_what_was_told_once_is_remembered_once(loaded, states, item):
    """
    A worker that died after the commit, before the reply: the next one has the request again, and remembers nothing.
    Died before it: it does.
    """
    line, noted = json.dumps({"user": "alice", **item}), []
    first = json.loads(worker_of(loaded, states, "--remember").reply(line, None, noted.append))
    assert noted == [1] and first["total"] == 1 + first["remembered"]
    assert json.loads(worker_of(loaded, states, "--remember").reply(line, noted[0])) == first
    # this one had noted, and died
    second = json.loads(worker_of(loaded, states, "--remember").reply(line, first["total"]))
    assert second["total"] == first["total"] + second["remembered"]
    # said again: another one
    assert json.loads(worker_of(loaded, states,
                                "--remember").reply(line))["total"] == second["total"] + second["remembered"]


@pytest.mark.parametrize("item", [{"ingest": "x\n" * 3000}, {"ingest": "x" * 200_001},
                                  {"say": "One.", "ingest": "Two."}, {"say": ["One."]}, {"say": " "}, {},
                                  {"say": "One.", "time": 1e300}, {"say": "One.", "time": True},
                                  {"say": "One.", "time": 2 ** 63}, {"say": "One.", "time": -5},
                                  {"say": "One.", "source": 3}, {"say": "One.", "source": "x" * 2000},
                                  {"say": "One.", "question": "Two?"}])
def test_what_is_no_request_is_refused_before_a_worker_has_it(item):
    with pytest.raises(UserError, match="line 5: "):
        serve.read_item(json.dumps({"user": "alice", **item}).encode(), 5, True)


def test_a_turn_that_is_too_long_leaves_nothing(loaded, states):
    worker = worker_of(loaded, states, "--remember")
    assert "a turn of" in ask(worker, "dora", say="one " * 5000)["error"]
    assert not [p for p in states.iterdir() if p.name.startswith("dora")]
    assert ask(worker, "dora")["error"] == serve.UNUSABLE and ask(worker, "dora", say="One.")["total"] == 1


# -- workers that die --------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_has_the_request_again():
    seen = []

    def react(line, before, note):
        question = json.loads(line)["question"]
        seen.append((question, before))
        if question == "always" or question == "once" and before is None:
            note(7)
            raise Died
        return echo(line, before, note)

    keeper = Inline(react)
    said = talk([{"user": "a", "question": question} for question in ("first", "once", "always", "last")], [keeper])
    assert [item.get("answer") for item in said] == ["yes", "yes", None, "yes"] and "given up" in said[2]["error"]
    assert said[2]["question"] == "always"
    assert seen == [("first", None), ("once", None), ("once", 7), ("always", None), ("always", 7), ("last", None)]
    assert keeper.begun == 4


def test_a_worker_that_takes_too_long_is_ended():
    over = threading.Event()
    keeper = Inline(lambda line, before, note: over.wait() and b"" if b"slow" in line else echo(line, before, note),
                    time_limit=0.05)
    said = talk([{"user": "a", "question": "slow"}], [keeper])
    over.set()
    assert "more than 0.05 s" in said[0]["error"] and keeper.begun == 2


def write(w):
    w.data[0, 0] = 42


def test_the_weights_are_mapped_not_copied():
    """
    What one process writes into the shared weights, another one reads: they are the same memory. (Workers never write.)
    """
    model = torch.nn.Linear(4, 4).requires_grad_(False).share_memory()
    process = torch.multiprocessing.get_context("spawn").Process(target=write, args=(model.weight,))
    process.start()
    process.join()
    assert process.exitcode == 0 and model.weight[0, 0] == 42


# -- the socket --------------------------------------------------------------------------------------------------------


def test_a_socket_is_the_users_alone_and_replaces_only_a_dead_one(tmp_path):
    path = str(tmp_path / "s")
    with serve.listen(path):
        assert stat.S_ISSOCK(os.stat(path).st_mode) and stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with pytest.raises(UserError, match="another process listens"):
            serve.listen(path)
    serve.listen(path).close()   # the file was left behind
    for taken in ("file", "link"):
        (tmp_path / "file").write_text("mine")
        (tmp_path / taken).exists() or (tmp_path / taken).symlink_to("s")
        with pytest.raises(UserError, match="is no socket"):
            serve.listen(str(tmp_path / taken))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_client_that_does_not_read_or_goes_lets_nobody_wait(tmp_path):
    line = lambda who: json.dumps({"user": who, "question": "y" * 100_000}).encode() + b"\n"
    keeper = Inline(echo)
    with serve.listen(str(tmp_path / "s")) as server:
        threading.Thread(target=serve.attend, args=(server, [keeper], False), daemon=True).start()
        deaf, gone, good = (socket.socket(socket.AF_UNIX) for _ in range(3))
        for client in (deaf, gone, good):
            client.connect(str(tmp_path / "s"))
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):   # until nothing more is taken from it
            for _ in range(1000):
                deaf.sendall(line("deaf"))
        gone.sendall(line("gone") * 2)
        gone.close()
        good.sendall(line("good") * 3 + b"nonsense\n")
        good.shutdown(socket.SHUT_WR)
        with good.makefile("rb") as replies:
            said = [json.loads(reply) for reply in replies]
        assert sorted(str(item.get("user")) for item in said) == ["None", "good", "good", "good"]
        deaf.close()
        good.close()
    keeper.close()


def test_no_directory(model, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        serve.main(flags(model, tmp_path / "none"))


# -- all of it, for long -----------------------------------------------------------------------------------------------

HOSTILE = 0.05   # of the requests
USELESS = ("forged", "cut", "link", "hard", "pipe", "nobody")   # users whose state can't be used


def resident(pids):
    """Bytes of RAM that processes have, as far as the system says."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):   # it has just been killed
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def hostile(rng, name):
    """A request line that must be refused; `name` is a user with a memory."""
    item = lambda **more: json.dumps({"user": name, "id": "hostile", **more}).encode()
    return rng.choice([
        lambda: b"x" * (serve.LINE + 10), lambda: b"\xff\xfe", lambda: b"[" * 50_000, lambda: b"{}", lambda: b"null",
        lambda: item(),
        lambda: item(question="?", id=float("nan")), lambda: item(question="\ud800?"),
        lambda: item(question="why " * 2000), lambda: item(say="\ud800"),
        lambda: item(question="?", say="both"), lambda: item(say="so " * 9000), lambda: item(ingest="x\n" * 5000),
        lambda: item(say="Ha.", time=1e300),
        lambda: item(question="?", user="../" + name), lambda: item(question="?", user=name.upper()),
        *[lambda user=user: item(question=QUESTION, user=user, answer="mine", episodes=[], error="mine")
          for user in USELESS],
        *[lambda user=user: item(say="Something.", user=user) for user in USELESS[:-1]]])()


SOAK = [int(n) for n in os.environ.get("SOAK", "200 20000 10").split()]   # users, requests, kills of the slow one


@pytest.mark.parametrize("users, requests, kills", [(5, 60, 1), pytest.param(*SOAK, marks=pytest.mark.slow)])
def test_soak(model, loaded, tmp_path, users, requests, kills):
    """
    Users tell and ask in turns, some requests are hostile, workers are killed. Every sane request is answered as by a
    memory of that user's own, in RAM, that has lived through the same; nothing of one user is in a reply to another;
    what the processes take does not grow.
    """
    rng, names = random.Random(users), [f"user{i:03d}" for i in range(users)]
    seeds = worker_of(loaded, tmp_path, "--remember")
    for name in ("spare", *USELESS[:2]):
        assert ask(seeds, name, say=f"{name} was in Secret{name} at t=7.")["total"] == 1
    forge(tmp_path / "forged.pt", weights=12345)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:700])
    (tmp_path / "link.pt").symlink_to(tmp_path / "spare.pt")
    os.link(tmp_path / "spare.pt", tmp_path / "hard.pt")
    os.mkfifo(tmp_path / "pipe.pt")

    plan = [{"user": name, "ingest": f"t=7: {name} was in Town{name}.\nt=8: {name} was in Port{name}.\n",
             "source": "diary"} for name in names]
    while len(plan) < requests:
        name, n = rng.choice(names), len(plan)
        kinds = [{"question": QUESTION}, {"question": "Where at t=8?"}, {"say": f"Number {n} for {name}.", "time": n},
                 {"ingest": f"A {n}\n\nB {n} {name}\n"}]
        plan.append(None if rng.random() < HOSTILE else {"user": name, **rng.choices(kinds, (5, 5, 1, 1))[0]})
    lines = [hostile(rng, rng.choice(names)) if item is None else json.dumps({**item, "id": i}).encode()
             for i, item in enumerate(plan)]
    moments = rng.sample(range(requests // 10, requests, requests // (2 * kills)), kills)   # no request is killed twice

    args = serve.build_parser().parse_args(flags("-", tmp_path, "--remember", "--open-states",
                                                 str(max(users // 20, 2))))
    served = engine.load_model(model, dtype="fp32")
    served[0].share_memory()
    keepers = [serve.Keeper(served, args, 1) for _ in range(2)]
    for keeper in keepers:
        keeper.ready()
        keeper.start()
    here, there = socket.socketpair()
    finished = []

    def attend():
        with there, there.makefile("rb") as source, there.makefile("wb") as sink:
            serve.serve(source, sink, keepers, remember=True)
        finished.append(True)

    def send():
        here.sendall(b"\n".join(lines) + b"\n")
        here.shutdown(socket.SHUT_WR)

    for target in (attend, send):
        threading.Thread(target=target, daemon=True).start()
    alone = {name: LiveMemory(loaded, max_tokens=5) for name in names}
    known, errors, answered, sizes, killed = {}, [], set(), [], 0

    def right(item):
        """What a memory of this user's own says: to be called in the order of the requests of the user."""
        memory = alone[item["user"]]
        if "question" not in item:
            before = len(memory)
            memory.say(item["say"], "chat",
                       item["time"]) if "say" in item else memory.ingest(item["ingest"], source=item.get("source"))
            return {"remembered": len(memory) - before, "total": len(memory)}
        key = item["user"], len(memory), item["question"]
        if key not in known:
            answer = memory.ask(item["question"])
            known[key] = {"answer": answer.text, "episodes": [(e.id, e.text) for e in answer.episodes]}
        return known[key]

    try:
        with here, here.makefile("rb") as replies:
            for count, line in enumerate(replies, 1):
                item = json.loads(line)
                if item.get("id", "hostile") == "hostile":
                    assert "answer" not in item and "remembered" not in item, item
                    errors.append(item["error"])
                else:
                    asked = {name: value for name, value in item.items()
                             if name in ("user", "id", *serve.KINDS, "source", "time")}
                    assert asked == {**plan[item["id"]],
                                     "id": item["id"]} and item["id"] not in answered and "error" not in item, item
                    answered.add(item["id"])
                    said = {name: value for name, value in item.items() if name not in asked}
                    if "answer" in said:
                        said = {"answer": said["answer"],
                                "episodes": [(e["episode"], e["text"]) for e in said["episodes"]]}
                    assert said == right(asked), item
                    assert set(re.findall(r"user\d{3}|Secret", line.decode())) == {item["user"]}
                if count in moments and (process := rng.choice(keepers).process):
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
                if count % max(requests // 40, 1) == 0 and Path("/proc").is_dir():
                    sizes.append(resident([os.getpid(), *(keeper.process.pid for keeper in keepers if keeper.process)]))
    finally:
        for keeper in keepers:
            keeper.close()
            keeper.join()
    print(f"\n{len(answered)} answered, {len(errors)} refused, {killed} workers killed,",
          f"MB of RAM: {[size >> 20 for size in sizes[::4]]}")
    assert finished and len(answered) + len(errors) == requests
    assert answered == {i for i, item in enumerate(plan) if item}
    assert killed == kills and len(errors) == plan.count(None) > 0
    # of many moments, since a worker that has just been killed takes nothing
    half = len(sizes) // 2
    assert not sizes or max(sizes[half:]) < 1.1 * max(sizes[:half]) + 2 ** 26, sizes
    for name in names:
        with LiveMemory(loaded, tmp_path / f"{name}.pt", read_only=True) as memory:
            assert [(e.text, e.source, e.line, e.time)
                    for e in memory] == [(e.text, e.source, e.line, e.time) for e in alone[name]]
