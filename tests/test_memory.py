"""
nanochat/memory.py and record.py: nothing lost, nothing half visible, nothing left of what was deleted, nothing wrong
taken for right.
"""
import errno
import hashlib
import io
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import UserError, repo_root
from nanochat.memory import Store, Writer
from nanochat.memory_file import HEADER, VERSION, Content, expect
from nanochat.record import Layout, dequantise, quantise
from nanochat.state import Traces

GEOMETRY = {"chunk": 16, "vocab_size": 2048, "n_ordinary": 2040, "bos_id": 2040, "pad_id": 2044, "id_bytes": 2,
            "index": [1, 4, 8], "gist": [1, 8, 4]}
IDENTITY = {"weights": "a" * 64, "tokenizer": "b" * 64, "config": "c" * 64, "geometry": GEOMETRY}


def episode(seed, traces=None):
    """(records, row) of an episode: random bytes, with words that say which it is."""
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (traces or int(rng.integers(1, 4)), Layout(GEOMETRY).stride), dtype=np.uint8)
    Layout(GEOMETRY).bytes_of(records,
                              "ids")[:] = rng.integers(0, 2000, (len(records), 16)).astype("<u2").view(np.uint8)
    return records, ([None, "a.txt", "b.txt"][seed % 3], seed % 5, -1 if seed % 2 else 1000 + seed)


def add(writer, seeds):
    parts = [episode(seed) for seed in seeds]
    writer.append(np.concatenate([r for r, _ in parts]), [len(r) for r, _ in parts], [row for _, row in parts])
    writer.commit()


def build(path, seeds, commits=(), identity=IDENTITY):
    with Writer(path, identity) as writer:
        writer.commit()
        cuts = [0, *sorted(commits), len(seeds)]
        for begin, end in zip(cuts, cuts[1:]):
            if seeds[begin:end]:
                add(writer, seeds[begin:end])


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def held(path):
    """What a reader finds, every record checked: [(records, row)]."""
    with Store(path) as store:
        rows, first = store.records(), store.content.first
        return [(rows[first[i]:first[i + 1]].tobytes(), store.content.row(i + 1)) for i in range(len(store))]


def expected(seeds):
    return [(records.tobytes(), row) for records, row in map(episode, seeds)]


@pytest.fixture
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)   # these tests are about bytes, not about the power going


# records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_a_vector_is_kept_as_its_direction(bits):
    x = torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None]
    x[7] = 0
    q = quantise(x, bits)
    back = dequantise(q, 1.0)
    unit = torch.nn.functional.normalize(x, dim=-1)
    assert torch.equal(quantise(back, bits), q) and not back[7].any()
    assert int(q.abs().amax()) == 2 ** (bits - 1) - 1 and (back - unit).norm(dim=-1).max() < {8: 0.01, 4: 0.2}[bits]
    assert torch.allclose(back.norm(dim=-1), (x.norm(dim=-1) > 0).float(), atol=1e-6)


@pytest.mark.parametrize("vocab_size, bits", [(2048, 8), (2048, 4), (70000, 8)])
def test_a_record_holds_a_trace(vocab_size, bits):
    id_bytes = 2 if vocab_size < 65536 else 4
    layout = Layout({**GEOMETRY, "vocab_size": vocab_size, "id_bytes": id_bytes, "gist": [1, 8, bits]})
    unit = lambda *shape: torch.nn.functional.normalize(torch.randn(1, 5000, *shape), dim=-1)
    number = lambda high, *shape: torch.randint(high, (1, 5000, *shape), dtype=torch.int32)
    traces = Traces(ids=number(vocab_size, 16), words=number(2 ** 16, 16), gist=unit(8) * 8 ** 0.5,
                    index=unit(1, 4) * 2, episode=number(9), position=number(9), valid=number(1))
    traces.ids[0, :, -1] = 2044
    records = layout.pack(traces)
    assert records.shape == (5000, layout.stride) and layout.stride == 16 * layout.id_type.itemsize + 32 + 4 + bits
    back = layout.unpack(records, traces.episode[0], traces.position[0], traces[:0])
    for name in ("ids", "words", "episode", "position"):
        assert torch.equal(getattr(back, name), getattr(traces, name)), name
    assert torch.equal(back.valid, (traces.ids != 2044).sum(-1).int())
    for name in ("gist", "index"):
        bits_of, length = layout.vectors[name][2:]
        assert (getattr(back, name) - getattr(traces, name)).abs().max() < length * (0.2 if bits_of == 4 else 0.02)
    assert np.array_equal(layout.pack(back), records)


# deletion -------------------------------------------------------------------------------------------------------------


def check_deletion(directory, seeds, rounds, commits):
    for d in ("deleted", "fresh"):
        (directory / d).mkdir(exist_ok=True)
        for p in (directory / d).iterdir():
            p.unlink()
    build(directory / "deleted/S.pt", seeds, commits)
    left = list(seeds)
    for picks in rounds:
        gone = {i % len(left) for i in picks} if left else set()
        with Writer(directory / "deleted/S.pt") as writer:
            writer.delete({i + 1 for i in gone})
        left = [seed for i, seed in enumerate(left) if i not in gone]
    build(directory / "fresh/S.pt", left)
    after = files(directory / "deleted")
    assert after == files(directory / "fresh") and sorted(after) == ["S.pt", "S.traces"]
    assert held(directory / "deleted/S.pt") == expected(left)
    for seed in set(seeds) - set(left):
        assert not any(episode(seed)[0][0].tobytes() in data for data in after.values())


numbers = st.integers(0, 40)
LIVES = dict(seeds=st.lists(numbers, max_size=12), rounds=st.lists(st.sets(numbers, max_size=8), max_size=3),
             commits=st.sets(st.integers(0, 12), max_size=3))


@pytest.mark.parametrize("examples", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_after_a_deletion_the_files_are_those_of_never_having_ingested(tmp_path, no_fsync, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(**LIVES)
    def compare(seeds, rounds, commits):
        check_deletion(tmp_path, seeds, rounds, commits)

    compare()


def test_an_episode_that_is_not_there_is_not_deleted(tmp_path):
    build(tmp_path / "S.pt", [1, 2])
    before = files(tmp_path)
    with Writer(tmp_path / "S.pt") as writer, pytest.raises(IndexError):
        writer.delete([3])
    assert files(tmp_path) == before


# readers and writers --------------------------------------------------------------------------------------------------


def test_a_reader_keeps_its_commit(tmp_path):
    path = tmp_path / "S.pt"
    build(path, [1, 2])
    with Store(path) as early, Writer(path) as writer:
        parts = [episode(3)]
        writer.append(parts[0][0], [len(parts[0][0])], [parts[0][1]])
        assert held(path) == expected([1, 2]), "seen before it is committed"
        writer.commit()
        assert held(path) == expected([1, 2, 3])
        writer.delete([1])
        assert held(path) == expected([2, 3])
        writer.delete([1, 2])
        assert held(path) == []
        assert early.records().tobytes() == b"".join(r for r, _ in expected([1, 2]))


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "S.pt"
    build(path, [1])
    with Writer(path) as writer:
        for change in (None, lambda: writer.delete([1]), lambda: add(writer, [5])):
            if change:
                change()
            with pytest.raises(UserError, match="another process writes to it"):
                Writer(path)
    Writer(path).close()


def test_a_lock_dies_with_its_holder(tmp_path):
    path = tmp_path / "S.pt"
    build(path, [1])
    code = (f"from nanochat.memory import Writer; import sys, time; w = Writer({str(path)!r}); print('held', "
            "flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=repo_root())
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another process"):
        Writer(path)
    holder.kill()
    holder.wait()
    Writer(path).close()
    holder.stdout.close()


def test_what_is_not_committed_leaves_nothing(tmp_path):
    writer = Writer(tmp_path / "S.pt", IDENTITY)
    writer.append(episode(1, 2)[0], [2], [(None, -1, -1)])
    writer.close()
    assert files(tmp_path) == {}
    (tmp_path / "S.traces").write_text("my notes")
    with pytest.raises(UserError, match="is in the way"):
        Writer(tmp_path / "S.pt", IDENTITY)
    assert files(tmp_path) == {"S.traces": b"my notes"}


def test_only_the_owner_can_read_it(tmp_path):
    build(tmp_path / "S.pt", [1, 2])
    with Writer(tmp_path / "S.pt") as writer:
        writer.delete([1])
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


# crashes --------------------------------------------------------------------------------------------------------------


CHANGES = {
    "append": ([4, 5, 6], lambda writer: add(writer, [4, 5, 6])),
    "delete": (None, lambda writer: writer.delete([2])),
    "wipe": (None, lambda writer: writer.delete([1, 2, 3])),
    "replace": (None, lambda writer: writer.rewrite(Content(IDENTITY), [])),
}
AFTER = {"append": [1, 2, 3, 4, 5, 6], "delete": [1, 3], "wipe": [], "replace": []}


def die_at(call, how="killed"):
    """
    Every call that changes the disk is counted. Before the `call`-th the process ends; or that one fails, as on a disk
    that is full; or Ctrl-C comes right after it. Returns what gives the count.
    """
    count = 0

    def counted(fn):
        def run(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call + 1 and how == "killed":
                os._exit(9)
            if count == call + 1 and how == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                return fn(*args, **kwargs)
            finally:
                if count == call + 1 and how == "interrupted":
                    raise KeyboardInterrupt
        return run

    for name in ("replace", "unlink", "ftruncate", "fsync", "write", "open"):
        setattr(os, name, counted(getattr(os, name)))
    return lambda: count


def in_child(run):
    """Exit status of a forked process that runs `run`; 0 if it returned."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_crashed(path, name):
    """Whole before or after; ended, and cleared up, by the next writer."""
    found = held(path)
    assert found in (expected([1, 2, 3]), expected(AFTER[name]))
    Writer(path).close()
    assert held(path) == found and sorted(files(path.parent)) == ["S.pt", "S.traces"]
    return found == expected(AFTER[name])


@pytest.mark.parametrize("name, how", [*((name, "killed") for name in CHANGES), ("delete", "full"),
                                       ("append", "interrupted"), ("delete", "interrupted")])
def test_a_crash_at_any_call_that_changes_the_disk(tmp_path, no_fsync, name, how):
    outcomes = []
    for call in range(1000):
        path = tmp_path / str(call) / "S.pt"
        path.parent.mkdir()
        build(path, [1, 2, 3])

        def change():
            die_at(call, how)
            with Writer(path) as writer:
                CHANGES[name][1](writer)

        status = in_child(change)
        outcomes.append(check_crashed(path, name))
        fresh = tmp_path / "fresh/S.pt"
        fresh.parent.mkdir(exist_ok=True)
        build(fresh, AFTER[name] if outcomes[-1] else [1, 2, 3])
        assert files(path.parent) == files(fresh.parent)
        for p in fresh.parent.iterdir():
            p.unlink()
        if status == 0:
            break
        assert status == (9 if how == "killed" else 1)
    assert status == 0 and outcomes[0] is False and outcomes[-1] is True and outcomes == sorted(outcomes)
    assert len(outcomes) > 4


@pytest.mark.parametrize("name", CHANGES)
def test_a_full_disk(tmp_path, no_fsync, name):
    path = tmp_path / "S.pt"
    for limit in range(0, 6000, 300):
        for p in tmp_path.iterdir():
            p.unlink()
        build(path, [1, 2, 3])

        def change():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with Writer(path) as writer:
                CHANGES[name][1](writer)

        status = in_child(change)
        assert status in (0, 1) and (check_crashed(path, name) or status == 1)
    assert status == 0


def random_changes(seeds, rng):
    """Endless (change of a Writer, the seeds of the episodes that are there after it)."""
    while True:
        if seeds and rng.random() < 0.4:
            gone = set(rng.sample(range(len(seeds)), rng.randrange(1, len(seeds) + 1)))
            seeds = [seed for i, seed in enumerate(seeds) if i not in gone]
            yield (lambda writer, gone=gone: writer.delete([i + 1 for i in gone])), seeds
        elif seeds and rng.random() < 0.1:
            yield (lambda writer, n=len(seeds): writer.delete(range(1, n + 1))), []
            seeds = []
        else:
            more = [rng.randrange(40) for _ in range(rng.randrange(1, 6))]
            seeds = seeds + more
            yield (lambda writer, more=more: add(writer, more)), seeds


@pytest.mark.parametrize("kills", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_at_random(tmp_path, kills):
    """
    A process that appends, deletes, wipes and compacts (opens anew) is killed at random moments, in every third life on
    a disk that is soon full: what was committed is there, and of the change in flight all or nothing.
    """
    path, rng, seeds = tmp_path / "S.pt", random.Random(0), []
    build(path, [])
    for life in range(kills):
        done, tell = os.pipe()
        full = (path.stat().st_size + rng.randrange(20000),) * 2 if life % 3 == 2 else None
        child = os.fork()
        if child == 0:
            os.close(done)
            try:
                if full:
                    resource.setrlimit(resource.RLIMIT_FSIZE, full)
                changes, sessions = random_changes(seeds, random.Random(life)), random.Random(life)
                while True:
                    with Writer(path) as writer:
                        os.write(tell, b".")
                        for _ in range(sessions.randrange(1, 5)):
                            next(changes)[0](writer)
                            os.write(tell, b"+")
            finally:
                os._exit(1)
        os.close(tell)
        os.read(done, 1)
        time.sleep(rng.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        commits = os.read(done, 1 << 20).count(b"+")
        os.close(done)
        changes = random_changes(seeds, random.Random(life))
        states = [seeds, *(next(changes)[1] for _ in range(commits + 1))]
        found = held(path)
        seeds = next(s for s in states[commits:] if expected(s) == found)
        Writer(path).close()
        assert held(path) == found and sorted(files(tmp_path)) == ["S.pt", "S.traces"]


def digest_of(found):
    return hashlib.sha256(repr(found).encode()).digest()


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_readers_beside_a_writer(tmp_path, seconds):
    """
    Eight readers beside a writer that appends and deletes: all that they ever find is what some commit left, and no
    reader goes back to an earlier one.
    """
    path = tmp_path / "S.pt"
    build(path, [1])
    until, children = time.time() + seconds, []
    for i in range(8):
        child = os.fork()
        if child == 0:
            try:
                seen = [b""]
                while len(seen) == 1 or time.time() < until:   # once at least, however busy the machine is
                    if (found := digest_of(held(path))) != seen[-1]:
                        seen.append(found)
                (tmp_path / f"seen{i}").write_bytes(b"".join(seen))
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        children.append(child)
    rng, seeds, commits = random.Random(1), [1], [digest_of(expected([1]))]
    with Writer(path) as writer:
        while time.time() < until:
            if rng.random() < 0.4 and seeds:
                gone = rng.randrange(len(seeds))
                writer.delete([gone + 1])
                del seeds[gone]
            else:
                seeds.append(rng.randrange(1000))
                add(writer, seeds[-1:])
            commits.append(digest_of(expected(seeds)))
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
    for i in range(8):
        seen, at = (tmp_path / f"seen{i}").read_bytes(), 0
        assert seen
        for digest in (seen[n:n + 32] for n in range(0, len(seen), 32)):
            at = commits.index(digest, at)   # ValueError: what no commit left, or an earlier commit


# corruption -----------------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, directory):
        self.directory = str(directory)

    def __reduce__(self):
        return os.mkdir, (self.directory,)


def mutations(good, others, rng):
    """
    Endless (what was done, {name: bytes}) of a memory's files. others: {what: the files of another memory}; both files
    are taken from it, or one.
    """
    stride, pick = Layout(GEOMETRY).stride, lambda data: rng.randrange(len(data))
    while True:
        name = rng.choice(sorted(good))
        data, rest = bytearray(good[name]), good
        what = rng.choice(["bit", "byte", "cut", "swap", "none", "zeros", "grown", *others])
        if what == "bit":
            data[pick(data)] ^= 1 << rng.randrange(8)
        elif what == "byte":
            data[pick(data)] = rng.randrange(256)
        elif what == "cut":
            del data[pick(data):]
        elif what == "swap" and name == "S.traces":
            a, b = (HEADER.size + stride * i for i in rng.sample(range((len(data) - HEADER.size) // stride), 2))
            data[a:a + stride], data[b:b + stride] = data[b:b + stride], data[a:a + stride]
        elif what in others:
            data, rest = others[what][name], others[what] if rng.random() < 0.5 and what != "other" else good
        elif what == "none":
            data = None
        elif what == "zeros":
            at = pick(data)
            data[at:at + 200] = bytes(len(data[at:at + 200]))
        elif what == "grown":
            data += bytes(rng.randrange(1, 500))
        yield what, {**rest, name: data}


@pytest.mark.parametrize("n", [400, pytest.param(10000, marks=pytest.mark.slow)])
def test_what_is_damaged_is_refused_or_harmless(tmp_path, no_fsync, n):
    good_path, bad, others = tmp_path / "good/S.pt", tmp_path / "bad/S.pt", {}
    (tmp_path / "bad").mkdir()
    for directory, seeds, changed in (("good", [1, 2, 3, 4], {}), ("other", [5, 2, 3, 4], {}),
                                      ("weights", [1, 2, 3, 4], {"weights": "d" * 64}),
                                      ("tokenizer", [1, 2, 3, 4], {"tokenizer": "d" * 64}),
                                      ("config", [1, 2, 3, 4], {"config": "d" * 64})):
        (tmp_path / directory).mkdir()
        build(tmp_path / directory / "S.pt", seeds, identity={**IDENTITY, **changed})
        others[directory] = files(tmp_path / directory)
    evil = io.BytesIO()
    torch.save({"format": "live-memory-state", "version": VERSION, "x": Evil(tmp_path / "ran")}, evil)
    good = others.pop("good")
    others.update(pickle={**good, "S.pt": pickle.dumps(Evil(tmp_path / "ran"))},
                  torch_pickle={**good, "S.pt": evil.getvalue()})
    truth, refused, done = held(good_path), 0, Counter()
    for (what, content), _ in zip(mutations(good, others, random.Random(0)), range(n)):
        for name, data in content.items():
            (bad.parent / name).unlink(missing_ok=True)
            if data is not None:
                (bad.parent / name).write_bytes(data)
        done[what] += 1
        try:
            with Store(bad) as store:
                expect(bad, store.content.identity, IDENTITY)
            assert held(bad) == truth, what
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500 and "S." in str(error), error
    assert refused > 0.6 * n and min(done.values()) > n / 30 and not (tmp_path / "ran").exists()


def test_no_file_runs_code(tmp_path):
    build(tmp_path / "S.pt", [1])
    for content in (Evil(tmp_path / "ran"), {"format": "live-memory-state", "version": VERSION,
                                             "x": Evil(tmp_path / "ran")}):
        torch.save(content, tmp_path / "S.pt")
        with pytest.raises(UserError, match="more than plain data"):
            Store(tmp_path / "S.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_cut_short_under_a_reader_is_an_error_of_one_line(tmp_path):
    build(tmp_path / "S.pt", [1, 2, 3])
    with Store(tmp_path / "S.pt") as store:
        os.truncate(tmp_path / "S.traces", HEADER.size + store.layout.stride + 5)
        with pytest.raises(UserError, match="truncated while it was read, record 1 "):
            store.records()
    with pytest.raises(UserError, match="S.traces: truncated"):
        Store(tmp_path / "S.pt")
