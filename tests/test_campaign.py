"""
The campaign of docs/reliability.md: commands that are killed at random, files that are damaged at random, a disk that
is full at every write in turn. Each in small among the quick tests, and whole among the slow ones; of another size or
seed by

    CAMPAIGN_KILLS=100 CAMPAIGN_FILES=1100 CAMPAIGN_SEED=7 python -m pytest -m slow tests/test_campaign.py -s

The kills end after CAMPAIGN_SECONDS, an hour, however many there were: they are printed.
"""
import contextlib
import json
import os
import pickle
import random
import re
import resource
import signal
import sys
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
import torch

from nanochat import engine
from nanochat.checkpoint_manager import _manifest_digest, export_model, load_checkpoint, save_checkpoint, weights_digest
from nanochat.common import UserError, run_main, sha256_file
from nanochat.dataset import read_documents, read_texts, write_shards
from nanochat.memory import Store
from nanochat.memory_file import HEADER, expect
from nanochat.reading_data import load
from nanochat.record import Layout, geometry
from nanochat.tokenizer import DEFAULT_DIR, Tokenizer
from nanochat.words import Lexicon
from scripts import ingest, memory
from scripts.query import read_questions
from scripts.serve import private_bytes
from tests.conftest import tiny
from tests.test_memory import IDENTITY, Evil, build, die_at, files, held, no_fsync  # noqa: F401  fixture

SEED, KILLS, FILES, SECONDS = (int(os.environ.get(f"CAMPAIGN_{name}", usual)) for name, usual in
                               (("SEED", 0), ("KILLS", 1000), ("FILES", 10_000), ("SECONDS", 3600)))
MB = 2 ** 20
WORDS = "the key is under a red pot beside an old door where Amina keeps tea and bread for seven quiet friends".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{path: what engine.load_model returns} of two tiny models of other weights."""
    directory, tokenizer, loaded = tmp_path_factory.mktemp("models"), Tokenizer.load(), {}
    model = tiny(tokenizer, n_head=1)
    for name in ("one", "two"):
        path = directory / name
        meta = {"config": model.describe(), "tokenizer": tokenizer.fingerprint}
        save_checkpoint(path, 1, model.state_dict(), None, meta)
        loaded[str(path)] = engine.load_model(path, "cpu", "fp32")
        with torch.no_grad():
            model.wte.weight.mul_(1.5)
    return loaded


@pytest.fixture
def quick(models, monkeypatch):
    """Models are not loaded again, and two episodes are a commit, so that a command makes several."""
    monkeypatch.setattr(engine, "load_model", lambda path, *_: models[str(path)])
    monkeypatch.setattr(engine, "COMMIT", 2)


# commands, and what may be there after them ---------------------------------------------------------------------------


class Life:
    """
    The memory S.pt of a directory, and what it holds: episodes, (text, (source, line, time)) each, and the path of its
    model.
    """

    def __init__(self, directory, models, rng):
        self.directory, self.models, self.rng = directory, models, rng
        self.path, self.episodes, self.model, self.count, self.known = directory / "S.pt", [], next(iter(models)), 0, {}
        (directory.parent / "text").mkdir(exist_ok=True)

    def records(self, model, text):
        """The bytes of an episode's records: the same whatever else is remembered."""
        if (model, text) not in self.known:
            net, tokenizer, _ = self.models[model]
            traces = engine.ingest_ids(net, tokenizer, engine.episode_ids(tokenizer, [text]))
            self.known[model, text] = Layout(geometry(net)).pack(traces).tobytes()
        return self.known[model, text]

    def whole(self, episodes, model):
        """What a memory of these episodes is: its weights, and the records and row of each."""
        return self.models[model][2]["weights"], [(self.records(model, text), row) for text, row in episodes]

    def found(self):
        """What is there, every record checked, by a reader."""
        if not self.path.exists():
            return self.whole([], self.model)
        with Store(self.path) as store:
            weights = store.content.identity["weights"]
        return weights, held(self.path)

    def told(self):
        """A new file of a few lines, and its episodes."""
        self.count += 1
        file = self.directory.parent / f"text/{self.count}.txt"
        line = lambda i: f"Note {self.count}.{i}: " + " ".join(self.rng.choices(WORDS, k=self.rng.choice((3, 12, 40))))
        lines = [line(i) for i in range(self.rng.randrange(1, 7))]
        file.write_text("\n".join(lines) + "\n")
        return file, [(text, (file.name, i, -1)) for i, text in enumerate(lines, 1)]

    def command(self, kind):
        """(script, arguments, [(episodes, model) that each of its commits leaves, the first without it])."""
        before, there = self.episodes, ("--state-path", self.path)
        model = ("--model-path", self.model, "--dtype", "fp32")
        if kind in ("ingest", "append", "replace"):
            file, new = self.told()
            flags = () if kind == "ingest" else ("--" + kind, *["--no-export"] * (self.rng.random() < 0.5))
            if kind == "replace":
                ends = [before, new]
            else:
                ends = [before, *(before + new[:n] for n in (*range(2, len(new), 2), len(new)))]
            argv = (*model, "--data-path", file, "--output-path", self.path, *flags)
            return ingest, argv, [(e, self.model) for e in ends]
        if kind == "forget":
            mark = self.rng.choice(before)[0].partition(".")[0] + "."
            ends = before, [e for e in before if mark not in e[0]]
            return memory, ("forget", "--match", mark, *there, "--yes"), [(e, self.model) for e in ends]
        if kind == "delete":
            n = self.rng.randrange(len(before))
            ends = before, before[:n] + before[n + 1:]
            return memory, ("delete", n + 1, *there, "--yes"), [(e, self.model) for e in ends]
        if kind == "wipe":
            return memory, ("wipe", *there, "--yes"), [(before, self.model), ([], self.model)]
        if kind == "compact":
            return memory, ("compact", *there), [(before, self.model)]
        if kind == "repair":   # one record is damaged first
            with Store(self.path) as store:
                stride, first = store.layout.stride, store.content.first
            n = self.rng.randrange(int(first[-1]))
            data = bytearray(self.path.with_suffix(".traces").read_bytes())
            data[HEADER.size + n * stride + self.rng.randrange(stride)] ^= 1 << self.rng.randrange(8)
            self.path.with_suffix(".traces").write_bytes(data)
            lost = next(i for i in range(len(before)) if first[i + 1] > n)
            return memory, ("repair", *there, "--yes"), [(before[:lost] + before[lost + 1:], self.model)]
        other = next(path for path in self.models if path != self.model)
        argv = ("upgrade", *there, "--yes", "--model-path", other, "--dtype", "fp32")
        return memory, argv, [(before, self.model), (before, other)]

    def kinds(self):
        """Of the commands that can be given now."""
        if not self.episodes:
            return ["ingest", "append"]
        # where no record is sound, S.traces is taken for that of another memory, and not repaired
        repair = ["repair"] * (len(self.episodes) > 1)
        return ["append", "replace", "forget", "delete", "wipe", "compact", "upgrade", *repair]

    def check(self, kind, ends):
        """
        What is there is one of `ends`, the next writer leaves it so and nothing else, and what was forgotten is in its
        export. Returns which it is.
        """
        texts = lambda episodes: {text for text, _ in episodes}
        if kind == "repair":
            with contextlib.suppress(UserError):
                self.found()   # not damaged: it was repaired
                kind = "repaired"
            if kind == "repair":   # it is found damaged as it was, and repairing it again saves the same
                assert finished(memory, ("repair", "--state-path", self.path, "--yes"))[0] == 0
        found = self.found()
        at = next((i for i, (episodes, model) in enumerate(ends) if self.whole(episodes, model) == found), None)
        assert at is not None, (kind, len(found[1]), [len(episodes) for episodes, _ in ends])
        before, (self.episodes, self.model) = self.episodes, ends[at]
        kept = sorted(self.directory.glob("S.forgotten-*"))
        if at and kind in ("forget", "delete", "wipe"):
            exported = {json.loads(line)["text"] for file in kept for line in file.read_text().splitlines()}
            assert texts(before) - texts(self.episodes) <= exported
        for file in kept:
            file.unlink()
        if self.path.exists():
            assert finished(memory, ("compact", "--state-path", self.path))[0] == 0 and self.found() == found
            assert sorted(files(self.directory)) == ["S.pt", "S.traces"]
        return at


def begun(script, argv, first=lambda: None):
    """A forked process that runs a command, its id and a pipe that has what it says. first: done before it."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(here)
            sys.stdout = sys.stderr = os.fdopen(there, "w")
            after = first()
            code = run_main(lambda: script.main([str(a) for a in argv]))
            print(f"calls: {after()}" if after else "", flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
    os.close(there)
    return child, here


def ended(child, here):
    """(exit status, what it said) of a process of `begun`."""
    with os.fdopen(here, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def finished(script, argv, first=lambda: None):
    return ended(*begun(script, argv, first))


@pytest.mark.parametrize("kills", [10, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_commands_that_are_killed(models, quick, no_fsync, tmp_path, kills):  # noqa: F811
    """
    At a random moment, or before a random call that changes the disk: what was committed is there, and of the commit in
    flight all or nothing.
    """
    rng = random.Random(SEED)
    (tmp_path / "state").mkdir()
    life, took, calls, done = Life(tmp_path / "state", models, rng), {}, {}, Counter()
    until = time.monotonic() + SECONDS
    while sum(done[kind, "killed"] for kind in took) < kills and time.monotonic() < until:
        kind = rng.choice(life.kinds())
        script, argv, ends = life.command(kind)
        if kind not in took:   # the first is let be, to know how long it is
            began = time.perf_counter()
            status, text = finished(script, argv, lambda: die_at(10 ** 9))
            took[kind], calls[kind] = time.perf_counter() - began, int(re.search(r"calls: (\d+)", text)[1])
        elif rng.random() < 0.5:
            call = rng.randrange(calls[kind])
            status, text = finished(script, argv, lambda: die_at(call) and None)
        else:
            child, here = begun(script, argv)
            time.sleep(rng.random() * took[kind])
            os.kill(child, signal.SIGKILL)
            status, text = ended(child, here)
        assert status in (0, 9, -signal.SIGKILL), text
        at = life.check(kind, ends)
        assert status or at == len(ends) - 1, (kind, text)
        done[kind, "killed" if status else "in time"] += 1
        done["committed", bool(at)] += bool(status)
    print("\nkilled:", {kind: done[kind, "killed"] for kind in sorted(took)},
          "ended before:", sum(done[kind, "in time"] for kind in took),
          "had committed all or a part when they were killed:", done["committed", True])
    total = sum(done[kind, "killed"] for kind in took)
    each = min(done[kind, "killed"] for kind in took)
    assert total >= 10 and (total < 100 or len(took) == 9 and each >= total / 200)


ALL = ("ingest", "append", "replace", "forget", "delete", "wipe", "compact", "repair", "upgrade")


@pytest.mark.parametrize("kind, stride", [("append", 6), ("delete", 6),
                                          *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in ALL)])
def test_a_disk_that_is_full_at_every_write(models, quick, no_fsync, tmp_path, kind, stride):  # noqa: F811
    """
    Every call that changes the disk fails in turn, and every file is cut off at growing sizes: one line, and what was
    there is there.
    """
    here, done = tmp_path / "state", Counter()
    here.mkdir()
    life = Life(here, models, random.Random(SEED))
    if kind != "ingest":
        for _ in range(2):
            script, argv, ends = life.command("append")
            assert finished(script, argv)[0] == 0
            life.check("append", ends)
    script, argv, ends = life.command(kind)
    good, start, call = files(here), (life.episodes, life.model), 0
    limits = iter(range(0, 6000, 400 * stride))
    while True:
        for path in here.iterdir():
            path.unlink()
        for name, data in good.items():
            (here / name).write_bytes(data)
        life.episodes, life.model = start
        if (most := next(limits, None)) is not None:
            status, text = finished(script, argv, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
        else:
            status, text = finished(script, argv, lambda: die_at(call, "full"))
        assert status in (0, 1) and "Traceback" not in text, (call, text)
        at = life.check(kind, ends)
        assert at == len(ends) - 1 if status == 0 else "error: " in text, (call, text)
        done[status] += 1
        if most is None:
            if int(re.search(r"calls: (\d+)", text)[1]) <= call:
                break
            call += stride
    print(f"\n{kind}: {done[1]} of {done.total()} full disks ended it")
    assert status == 0 and done[1] > 1


# damaged files --------------------------------------------------------------------------------------------------------


class State:
    """S.pt and S.traces."""
    def make(self, directory, models):
        build(directory / "S.pt", [1, 2, 3, 4])

    def read(self, directory):
        with Store(directory / "S.pt") as store:
            expect(directory / "S.pt", store.content.identity, IDENTITY)
        return held(directory / "S.pt")


class Tar:
    """Of `export --binary`, imported into a new state, of which nothing may be left if that fails."""
    def make(self, directory, models):
        build(directory / "S.pt", [1, 2, 3, 4])
        argv = ["export", "--binary", "--state-path", directory / "S.pt", "--output-path", directory / "m.tar"]
        assert memory.main(list(map(str, argv))) == 0
        for name in ("S.pt", "S.traces"):
            (directory / name).unlink()

    def read(self, directory):
        try:
            argv = ["import", "--binary", directory / "m.tar", "--state-path", directory / "S.pt", "--yes"]
            memory.main(list(map(str, argv)))
        except UserError:
            if left := {path.name for path in directory.iterdir()} - {"m.tar"}:
                raise AssertionError(f"left behind: {left}")
            raise
        return held(directory / "S.pt")


class Model:
    """A shipped directory."""
    def make(self, directory, models):
        export_model(next(iter(models)), directory)

    def read(self, directory):
        return engine.load_model(directory, "cpu", "fp32")[2]["weights"]


class Lone(Model):
    """A model file with no manifest to check it by: its own checksums must do."""
    def make(self, directory, models):
        super().make(directory, models)
        (directory / "model.json").unlink()

    def read(self, directory):
        return super().read(directory / "model.pt")


class Checkpoint:
    """A step of a run, all of its parts."""
    def make(self, directory, models):
        weights = {"w": torch.arange(300.0).view(20, 15), "b": torch.ones(20, dtype=torch.bfloat16)}
        train = {"rng": (1, 2 ** 40, None), "memory": [torch.arange(9), {"open": True}], "row": 7}
        optimizer = {"state": {0: {"m": torch.ones(300)}}, "groups": [{"lr": 0.1}]}
        save_checkpoint(directory, 3, weights, optimizer, {"config": {"n": 1}, "tokenizer": "t"}, train)

    def read(self, directory):
        there = load_checkpoint(directory)
        return there.step, weights_digest(there.model), repr((there.optimizer, there.meta, there.train_state))


class Vocabulary:
    """A tokenizer."""
    def make(self, directory, models):
        for path in DEFAULT_DIR.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())

    def read(self, directory):
        return Tokenizer.load(directory).fingerprint


class Parquet:
    """A shard."""
    def make(self, directory, models):
        texts = (f"Document {i}. " + "tea and bread " * (i % 7) for i in range(60))
        write_shards(texts, directory, 60, row_group_size=20)

    def read(self, directory):
        return [text for _, text in read_documents([directory / "shard_00000.parquet"])]


class Lines:
    """A file of lines of JSON: what stands in a line that is whole is read, or the file is refused."""
    def __init__(self, item, read):
        self.item, self.reader = item, read

    def make(self, directory, models):
        self.lines = [json.dumps(self.item(i)).encode() for i in range(12)]
        (directory / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in self.lines))
        self.good = dict(zip(self.lines, map(repr, self.reader(directory / "a.jsonl")), strict=True))

    def read(self, directory):
        got = Counter(map(repr, self.reader(directory / "a.jsonl")))
        lines = (directory / "a.jsonl").read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert not Counter(self.good[line] for line in lines if line in self.good) - got
        # of memories without a question that can be used nothing is learned
        filled = sum(bool(line.decode(errors="replace").strip()) for line in lines)
        assert self.reader is training or got.total() == filled


def life(i):
    return {"src": "notes", "sents": [f"Ann lives in Town {i}.", "Bob does not."], "times": [i, -1],
            "qas": [{"q": "Where does Ann live?", "a": f"Town {i}", "evidence": [0]}]}


def training(path):
    """The memories of a file of questions, in order."""
    sources = load([path], training.lexicon).values()
    return [[line.text for line in memory.lines] for memories in sources for memory in memories]


NOTE = {"source": "a.txt", "time": None}
READERS = {"state": State(), "tar": Tar(), "model": Model(), "model alone": Lone(), "checkpoint": Checkpoint(),
           "tokenizer": Vocabulary(), "parquet": Parquet(),
           "import": Lines(lambda i: {"text": f"Note {i}.", "line": i, **NOTE}, memory.read_jsonl),
           "questions": Lines(lambda i: {"question": f"Where is {i}?", "id": i}, read_questions),
           "texts": Lines(lambda i: {"text": f"Prose {i}."}, lambda path: list(read_texts(path))),
           "training": Lines(life, training)}
# what a command makes one line of; whoever calls the others does
REFUSED = dict.fromkeys(("tokenizer", "parquet", "texts"), (ValueError,))
NUMBERS = [0, 1, 127, 255, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 63 - 1, 2 ** 64 - 1]


def mutated(data, rng, evil):
    """(what was done, bytes): a damaged file, or another one in its place. Some of these are what it was."""
    data, at = bytearray(data), rng.randrange(len(data))
    what = rng.choice(["bit", "byte", "bytes", "cut", "zeros", "grown", "twice", "gone", "swap", "number", "digits",
                       "nested", "mark", "evil", "noise"])
    size = min(rng.choice((1, 8, 64, 512)), len(data) - at)
    if what == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif what == "byte":
        data[at] = rng.randrange(256)
    elif what == "bytes":
        for _ in range(5):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif what == "cut":
        del data[at:]
    elif what == "zeros":
        data[at:at + size] = bytes(size)
    elif what == "grown":
        data += rng.randbytes(size)
    elif what == "twice":
        data[at:at] = data[at:at + size]
    elif what == "gone":
        del data[at:at + size]
    elif what == "swap":
        to = rng.randrange(len(data))
        data[at:at + size], data[to:to + size] = data[to:to + size], data[at:at + size]
    elif what == "number":
        width = rng.choice((1, 2, 4, 8))
        data[at:at + width] = (rng.choice(NUMBERS) % 256 ** width).to_bytes(width, rng.choice(("little", "big")))
    elif what == "digits" and (found := list(re.finditer(rb"\d+", data))):
        begin, end = rng.choice(found).span()
        data[begin:end] = rng.choice((b"-1", b"1e300", b"99999999999999999999", b"NaN", b"true", b"null", b"0.5"))
    elif what == "nested":
        data[at:at + size] = rng.choice((b"[", b'{"a":', b"(")) * rng.choice((10, 1000, 100_000))
    elif what == "mark":
        data[:0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0"))
    elif what == "evil":
        data = rng.choice(evil)
    elif what == "noise":
        data = rng.randbytes(rng.choice((0, 3, 100, 5000)))
    return what, bytes(data)


def packed_again(data, rng, evil):
    """A zip file with one entry damaged, whose checksums fit."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = [name for name in source.namelist() if source.read(name)]
        chosen = rng.choice([*names, *(name for name in names if name.endswith("data.pkl"))])
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, mutated(content, rng, evil)[1] if name == chosen else content)
    return out.getvalue()


def sealed(directory):
    """Manifests say what is there now: a forger does so."""
    for path in directory.glob("*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
            manifest = json.loads(path.read_text())
            for entry in manifest["files"].values():
                file = directory / entry["name"]
                entry |= {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            manifest["sha256"] = _manifest_digest(manifest)
            path.write_text(json.dumps(manifest))


def peak(anew=False):
    """MB of memory at most so far, or since the last call with `anew`; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    return 0


FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
             "socket.connect", "ctypes.dlopen")


def read_damaged(kind, directory, models, evil, count, tell):
    """What the child does: reads `count` damaged files, and says of each what is wrong."""
    reader, seen, ran = READERS[kind], Counter(), []
    good = files(directory)
    truth = reader.read(directory)
    resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + 3000 * MB,) * 2)
    sys.addaudithook(lambda event, _: ran.append(event) if event in FORBIDDEN else None)
    for i in range(count):
        rng = random.Random(f"{SEED} {kind} {i}")
        name = rng.choice(sorted(good))
        what, data = mutated(good[name], rng, evil)
        forged = kind != "state" and name.endswith((".pt", ".json")) and rng.random() < 0.5
        if forged and name.endswith(".pt"):
            data = packed_again(good[name], rng, evil)
        for path in directory.iterdir():
            path.unlink()
        for other, content in {**good, name: data}.items():
            (directory / other).write_bytes(content)
        if forged:
            sealed(directory)
        tell(f"{i} {what} {name}\n")
        wrong, before, size = None, peak(anew=True), sum(path.stat().st_size for path in directory.iterdir()) / MB
        signal.setitimer(signal.ITIMER_VIRTUAL, 20)
        try:
            got, result = reader.read(directory), "read"
            if got != truth and not forged:
                wrong = "another answer, in silence"
        except (UserError, *REFUSED.get(kind, ())) as error:
            result = "refused"
            if "\n" in str(error) or len(str(error)) > 700:
                wrong = f"not one line: {error}"
        except BaseException:
            result, wrong = "failed", traceback.format_exc()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if (grown := peak() - before) > 2 * size + 200:
            wrong = f"{grown:.0f} MB for a file of {size:.1f}"
        if ran:
            wrong = f"it ran {ran}"
        seen[result] += 1
        if wrong:
            tell(json.dumps([i, what, name, forged, wrong]) + "\n")
    tell(f"done {json.dumps(seen)}\n")


def slow_reader(*_):
    raise TimeoutError("20 s of computing for one file")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("count", [15, pytest.param(-(-FILES // len(READERS)), marks=pytest.mark.slow)])
def test_damaged_files(models, no_fsync, tmp_path, kind, count):  # noqa: F811
    """
    Of any reader: it is read as it was, or refused in one line. No traceback, no other answer, no code that runs, no
    memory over twice the file and 200 MB. Files that are forged, so that their checksums fit, may say something else.
    """
    directory = tmp_path / "files"
    directory.mkdir()
    training.lexicon = Lexicon(Tokenizer.load()) if kind == "training" else None
    READERS[kind].make(directory, models)
    saved, code = BytesIO(), Evil(tmp_path / "ran")
    torch.save({"format": "live-memory-state", "model": code}, saved)
    torch.save({"x": torch.zeros(1).expand(10 ** 9)}, bomb := BytesIO())
    with tarfile.open(fileobj=(tar := BytesIO()), mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("S.pt"))
    evil = [pickle.dumps(code), saved.getvalue(), bomb.getvalue(), tar.getvalue(), b"[" * 100_000]
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        try:
            signal.signal(signal.SIGVTALRM, slow_reader)
            sys.stdout = sys.stderr = open(os.devnull, "w")
            read_damaged(kind, directory, models, evil, count, lambda text: os.write(there, text.encode()))
        except BaseException:
            os.write(there, traceback.format_exc().encode())
        os._exit(0)
    os.close(there)
    status, said = ended(child, here)
    lines = said.splitlines()
    found = [json.loads(line) for line in lines if line.startswith("[")]
    assert status == 0 and lines[-1].startswith("done "), (status, said[-3000:])
    print(f"\n{kind}: {lines[-1]}")
    for number, what, name, forged, wrong in found[:10]:
        print(f"  {number}, {what} of {name}{', forged' * forged}: {wrong}")
    assert not found and not (tmp_path / "ran").exists()
