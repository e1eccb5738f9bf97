"""
A memory on disk: S.pt, small, says what is remembered; S.traces holds it, one record of fixed size a trace
(docs/state-format.md).

    S.pt        format, model and tokenizer it belongs to, table of episodes, a checksum for every record, the open
    chunk
    S.traces    a header of 64 bytes; record n at 64 + n * stride

Commit: records are appended and on disk for sure before S.pt is replaced in one step, so a kill at any instant leaves
the last commit. Readers take no lock: they hold the commit they opened while a writer appends. A writer holds a lock on
S.traces, which the operating system releases when it dies. A new memory is committed empty before its first record. So
records without an S.pt are never the remains of a crash, and are never cleared away.

A deletion writes both files anew, without the episode. In between, S.pt says "pending" and the records lie in
S.traces.new: the commit is the one instant at which S.pt is replaced, and whoever opens the memory next to write ends
what a crash has interrupted.

Records are read at their position, not through a mapping: a file cut short under a reader is then an error of one line,
not SIGBUS (docs/state-format.md says what that costs).
"""
import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nanochat.common import UserError, create_file, fsync_dir, open_file
from nanochat.memory_file import HEADER, MAGIC, Content, beside, crc, expect, header, identity, traces_path
from nanochat.record import Layout
from nanochat.tiers import tiered

try:
    import fcntl
except ImportError:   # Windows: nothing there keeps a second writer out
    fcntl = None

ATTEMPTS = 1000   # of a reader to find S.pt and S.traces of one commit, while a writer deletes
BLOCK = 1024      # records read at once


class Store:
    """
    A memory opened to be read: the commit that was the last when it was opened, whatever a writer does meanwhile. Only
    S.pt is read at once; records are, and are checked, when they are asked for. A context manager.
    """
    def __init__(self, path, damaged=False):
        """
        UserError, in one line, for files that are missing, damaged, or not of one commit. damaged: S.traces may be
        damaged, `sound` says where.
        """
        self.path = as_path(path)
        self.content, self.fd, self.stamp = self.snapshot()
        self.layout = Layout(self.content.identity["geometry"])
        try:
            if not damaged:
                self.check_file()
        except BaseException:
            self.close()
            raise

    def snapshot(self):
        """S.pt, the open S.traces of the same commit, and the stamp of S.pt, the same once S.traces is open."""
        for _ in range(ATTEMPTS):
            content, before = self.read_content()
            fd = open_traces(self.path, content.pending)
            if before == stamp(self.path):
                if fd is None:
                    raise UserError(f"{traces_path(self.path)}: missing, it holds the traces of {self.path}")
                return content, fd, before
            if fd is not None:
                os.close(fd)
        raise UserError(f"{self.path}: changes faster than it can be read")

    def read_content(self):
        try:
            with open(open_file(self.path), "rb") as file:
                return Content.read(file, self.path), stamp(file.fileno())
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UserError(f"{self.path}: no such state file") from error

    def check_file(self):
        """The header, and that all records are there."""
        here, size = traces_path(self.path), os.fstat(self.fd).st_size
        if size < self.end:
            raise UserError(f"{here}: truncated, {size:,} bytes where {self.end:,} are needed")
        if os.pread(self.fd, HEADER.size, 0) != header(self.content.identity, self.layout):
            raise UserError(f"{here}: damaged, or not the traces of {self.path} (its header differs)")

    @property
    def end(self):
        """Bytes of S.traces that are committed."""
        return HEADER.size + len(self.content.checks) * self.layout.stride

    @property
    def bytes(self):
        return os.stat(self.path).st_size + self.end

    def __len__(self):
        """Number of episodes."""
        return len(self.content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None

    def expect(self, model, facts):
        """UserError unless this memory belongs to `model`. facts: from engine.load_model."""
        expect(self.path, self.content.identity, identity(model, facts))

    # -- records ------------------------------------------------------------------------------------------------------

    def records(self, begin=0, end=None):
        """
        Records begin..end - 1 as (n, stride) uint8, each checked. UserError for one that is not what was committed.
        """
        end = len(self.content.checks) if end is None else end
        rows = np.empty((end - begin, self.layout.stride), np.uint8)
        for at in range(begin, end, BLOCK):
            to = min(at + BLOCK, end)
            rows[at - begin:to - begin] = self.checked(self.there(at, to), np.arange(at, to))
        return rows

    def there(self, begin, end):
        """Records begin..end - 1 as they are in the file, (n, stride) uint8, unchecked; fewer where it ends."""
        stride = self.layout.stride
        got = os.pread(self.fd, (end - begin) * stride, HEADER.size + begin * stride)
        return np.frombuffer(got, np.uint8, len(got) // stride * stride).reshape(-1, stride)

    def gather(self, numbers):
        """
        Records by number, (n,) int64 in any order, as (n, stride) uint8, each checked. The disk is asked for all of
        them before the first is waited for.
        """
        stride = self.layout.stride
        places = (HEADER.size + numbers * stride).tolist()
        if hasattr(os, "posix_fadvise"):   # not on macOS and Windows
            for place in places:
                os.posix_fadvise(self.fd, place, stride, os.POSIX_FADV_WILLNEED)
        data = b"".join([os.pread(self.fd, stride, place) for place in places])
        if len(data) != len(numbers) * stride:
            raise UserError(f"{traces_path(self.path)}: truncated while it was read")
        return self.checked(np.frombuffer(data, np.uint8).reshape(-1, stride), numbers)

    def checked(self, rows, numbers):
        """The rows, which are those of these numbers or, of a file cut short, of the first of them."""
        if len(rows) < len(numbers):
            missing = numbers[len(rows)]
            raise UserError(f"{traces_path(self.path)}: truncated while it was read, record {missing} is not there")
        bad = np.flatnonzero(crc(rows) != self.content.checks[numbers])
        if len(bad):
            raise UserError(f"{traces_path(self.path)}: damaged, or not the traces of {self.path} (checksum of record "
                            f"{numbers[bad[0]]})")
        return rows

    def blocks(self, keep=None):
        """The records of the episodes flagged by keep (bool a row; None = all), each checked, some at a time."""
        kept = np.repeat(np.ones(len(self), bool) if keep is None else keep, self.content.traces)
        for begin in range(0, len(kept), BLOCK):
            numbers = begin + np.flatnonzero(kept[begin:begin + BLOCK])
            rows = self.there(begin, min(begin + BLOCK, len(kept)))
            yield self.checked(rows[(numbers - begin)[numbers < begin + len(rows)]], numbers)

    def sound(self):
        """(records,) bool: which are what was committed. Those that the file has no room for are not."""
        checks = self.content.checks
        sound = np.zeros(len(checks), bool)
        for begin in range(0, len(checks), BLOCK):
            rows = self.there(begin, min(begin + BLOCK, len(checks)))
            sound[begin:begin + len(rows)] = crc(rows) == checks[begin:begin + len(rows)]
        return sound

    def damaged(self):
        """The episodes (ordinals) with a record that is not what was committed, in order."""
        return np.unique(self.places()[0][~self.sound()]).tolist()

    def episode_ids(self, begin=1, end=None):
        """Yields the token ids (numpy, padding left out) of the episodes begin..end, both included."""
        first, pad = self.content.first, self.layout.geometry["pad_id"]
        end = len(self) if end is None else end
        while begin <= end:
            # as many as fit a block, one at least
            to = max(begin, min(end, int(np.searchsorted(first, first[begin - 1] + BLOCK, side="right")) - 1))
            ids = self.layout.ids(self.records(first[begin - 1], first[to]))
            for ordinal in range(begin, to + 1):
                line = ids[first[ordinal - 1] - first[begin - 1]:first[ordinal] - first[begin - 1]].reshape(-1)
                yield line[line != pad]
            begin = to + 1

    def places(self):
        """The episode (ordinal) of each record, and its position in the episode: (N,) int64 both."""
        count = self.content.traces.astype(np.int64)
        return np.repeat(np.arange(1, len(count) + 1),
                         count), np.arange(count.sum()) - np.repeat(self.content.first[:-1], count)


def as_path(path):
    """A Path, which stays what it is: it may be an OwnPath."""
    return path if isinstance(path, Path) else Path(path)


def stamp(file):
    """What tells one version of a file from the next; None where it is not there."""
    try:
        stat = os.stat(file)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def is_archive(path):
    """Whether a file is there that may be an S.pt."""
    return path.is_file() and path.open("rb").read(4) == b"PK\x03\x04"


def open_traces(path, pending):
    """A descriptor of the file that holds the records, None where there is none."""
    here = traces_path(path)
    for name in ([beside(here)] if pending else []) + [here]:
        try:
            return open_file(name, follow=name == here)
        except FileNotFoundError:
            pass
    return None


class Writer(Store):
    """
    A memory opened to be written, by one at a time. What is appended is there for others after `commit`, and is gone if
    that is not called.

        with Writer(path, identity(model, facts)) as memory:
            memory.append(records, [2, 3], [("notes.txt", 1, -1), ("notes.txt", 2, -1)])
            memory.commit()
    """
    def __init__(self, path, identity=None, anew=False):
        """
        identity: the memory is made if there is none, and must belong to it (see memory_file.identity). anew: it is
        to be replaced, or repaired, by `rewrite`. Then it may be of another identity, and its records may be damaged
        (`whole` is false then, and nothing can be appended). UserError as for Store, where another process writes to
        it, and for files that are no memory: they are never written over.
        """
        self.path, self.fd, self.whole = as_path(path), None, True
        self.stamp = None    # of the S.pt that this writer has read or written
        self.made = False    # there was no memory, and nothing was committed yet
        if identity is None and not self.path.is_file():
            raise UserError(f"{self.path}: no such state file")
        self.lock(traces_path(self.path))
        try:
            if not self.path.exists():
                return self.begin(identity)
            try:
                self.content, self.stamp = self.read_content()
            except UserError as error:
                if identity is None:
                    raise
                raise UserError(f"{error}; it is not written over", error.code) from error
            self.layout = Layout(self.content.identity["geometry"])
            self.recover(identity, anew)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.fd is not None:
            here = traces_path(self.path)
            if self.made and stamp(self.path) == self.stamp:   # nothing was ever committed
                self.path.unlink(missing_ok=True)
                os.ftruncate(self.fd, 0)
            if os.fstat(self.fd).st_size == 0 and self.in_place(here):
                here.unlink()
        super().close()

    def lock(self, here):
        """
        Opens S.traces with a lock. It is the file that has the lock, not the name: a deletion may have put another file
        there meanwhile.
        """
        while True:
            # a deletion replaces the file: of a link only the name, and the deleted text would stay where it leads
            self.fd = self.locked(here, os.O_RDWR | os.O_CREAT)
            if self.in_place(here):
                return
            os.close(self.fd)

    def locked(self, file, flags):
        """A descriptor of `file` that has the lock. UserError, and nothing stays open, where another process has it."""
        fd = open_file(file, flags, follow=False)
        try:
            lock(fd, self.path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def in_place(self, here):
        """Whether the file that is open has that name."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(here))
        except FileNotFoundError:
            return False

    def check_unchanged(self):
        """
        UserError where another program has put other files in the place of those that are open: not to mix two
        memories.
        """
        if stamp(self.path) != self.stamp or not self.in_place(traces_path(self.path)):
            raise UserError(f"{self.path}: its files were replaced or moved by another program meanwhile; "
                            "this change is not written, open it again")

    def begin(self, identity):
        """
        No S.pt: an empty memory is made. UserError where there are records, or its files would be another memory's.
        """
        here = traces_path(self.path)
        if self.path.suffix in (".traces", ".new"):
            raise UserError(f"{self.path}: {self.path.suffix} is for the files beside a state: call it NAME.pt", code=2)
        for other in (self.path.with_suffix(""), self.path.with_name(self.path.name + ".pt")):
            if other != self.path and traces_path(other) == here and is_archive(other):
                raise UserError(f"{self.path} and {other} would share {here}: use another name", code=2)
        if os.pread(self.fd, len(MAGIC), 0) not in (b"", MAGIC):
            raise UserError(f"{here}: is in the way, and is no memory")
        for records in (here, beside(here)):
            if records.exists() and records.stat().st_size > HEADER.size:
                raise UserError(f"{records}: holds records, and {self.path}, which says what they are, is not there: "
                                "put it back, or move the records away")
            if records != here:
                records.unlink(missing_ok=True)
        self.content, self.layout, self.made = Content(identity), Layout(identity["geometry"]), True
        os.ftruncate(self.fd, 0)
        write_all(self.fd, header(identity, self.layout))
        os.fsync(self.fd)
        self.write_content(self.content)

    def recover(self, identity, anew):
        """
        Ends or undoes what a crash has left: a deletion that was committed or was not, records that were not committed.
        """
        here = traces_path(self.path)
        if self.content.pending and beside(here).exists():
            fd = self.locked(beside(here), os.O_RDWR)
            os.close(self.fd)
            self.fd = fd
        try:
            self.check_file()
            if identity is not None:
                expect(self.path, self.content.identity, identity)
        except UserError:
            if not anew or os.pread(self.fd, len(MAGIC), 0) not in (b"", MAGIC) and not self.sound().any():
                raise
            self.whole = False
        if self.content.pending:
            self.publish()
        beside(here).unlink(missing_ok=True)
        beside(self.path).unlink(missing_ok=True)
        if not self.whole:
            return
        os.ftruncate(self.fd, self.end)
        os.lseek(self.fd, self.end, os.SEEK_SET)

    # -- adding -------------------------------------------------------------------------------------------------------

    def append(self, records, traces, rows):
        """
        Adds episodes: their records (n, stride) uint8 in order; traces, how many each has; rows, (source or None, line
        or -1, time or -1) of each. OSError where the disk is full: nothing is added then.
        """
        if not self.whole or sum(traces) != len(records) or len(rows) != len(traces) or min(traces, default=1) < 1:
            raise ValueError(f"{len(records)} records, {sum(traces)} in {len(traces)} episodes, {len(rows)} rows")
        self.check_unchanged()
        try:
            write_all(self.fd, records)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.end)
                os.lseek(self.fd, self.end, os.SEEK_SET)
            raise
        self.content = self.content.extended(traces, rows, crc(records))

    def commit(self):
        """Makes everything appended the state of this memory, durably."""
        os.fsync(self.fd)
        self.write_content(self.content)
        self.made = False

    def write_content(self, content):
        """Replaces S.pt, durably."""
        self.check_unchanged()
        staged = beside(self.path)
        try:
            with open(create_file(staged), "wb") as file:
                content.write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self.path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        self.stamp = stamp(self.path)
        fsync_dir(self.path.parent)

    # -- taking away --------------------------------------------------------------------------------------------------

    def delete(self, ordinals):
        """
        Forgets episodes (a collection of 1, 2, …; the others move up): both files are then, to the byte, as if they had
        never been there.
        """
        keep = np.ones(len(self), bool)
        keep[np.array(sorted(ordinals), dtype=np.int64) - 1] = False
        self.rewrite(self.content.kept(keep), self.blocks(keep))

    def rewrite(self, content, blocks):
        """
        Replaces everything, in one commit: content, but for its checksums; blocks, the records, an iterable of (n,
        stride) uint8.
        """
        self.check_unchanged()
        before, here, layout, checks = self.stamp, traces_path(self.path), Layout(content.identity["geometry"]), []
        fd = create_file(beside(here))
        try:
            lock(fd, self.path)
            write_all(fd, header(content.identity, layout))
            for rows in blocks:
                write_all(fd, rows)
                checks.append(crc(rows))
            os.fsync(fd)
            fsync_dir(here.parent)
            content = replace(content, checks=np.concatenate(checks) if checks else content.checks[:0], pending=True)
            self.write_content(content)
        except BaseException:
            os.close(fd)
            if stamp(self.path) == before:   # else the commit is made, and the new records are the memory's
                beside(here).unlink(missing_ok=True)
            else:
                self.made = False
            raise
        os.close(self.fd)
        self.content, self.layout, self.fd, self.whole = content, layout, fd, True
        self.publish()

    def publish(self):
        """The second half of `rewrite`, or of a crash in it: the new records take the place of the old."""
        here = traces_path(self.path)
        if beside(here).exists():
            os.replace(beside(here), here)
            fsync_dir(here.parent)
        self.content, self.made = replace(self.content, pending=False), False
        self.write_content(self.content)


def lock(fd, path):
    """Held until fd is closed, or its process dies. UserError where another one holds it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{path}: another process writes to it") from error


def write_all(fd, data):
    view = memoryview(data).cast("B") if len(data) else b""
    while len(view):
        view = view[os.write(fd, view):]


# a whole state, in the form the model works on ------------------------------------------------------------------------


def read_state(store, model, ram_budget=None):
    """
    The state for `model` of an open Store (B = 1; traces on its device, in its dtype; `episode` the ordinal of the last
    one). ram_budget: bytes its traces may take; where they need more, most of them stay in the file, which must stay
    open, and are read when they are selected (see tiers.py).
    """
    state, content = model.empty_state(1), store.content
    state["traces"] = tiered(store, state["traces"], ram_budget)
    state["buffer"] = state["buffer"].new_tensor(content.buffer[None])
    state["episode"].fill_(len(content))
    return state


def load_state(path, model, facts, ram_budget=None):
    """
    (state, sources): the state of read_state, and for each episode (name, line) or None. Raises UserError, in one line,
    for files that are missing, damaged, or of another model.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(path))
        store.expect(model, facts)
        state = read_state(store, model, ram_budget)
        if not isinstance(state["traces"].ids, torch.Tensor):
            stack.pop_all()   # the file stays open
    return state, Sources(store.content)


class Sources(Sequence):
    """Where the episodes 1, 2, … came from: (name, line) or None of each."""
    def __init__(self, content):
        self.content = content

    def __len__(self):
        return len(self.content)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        name, line, _ = self.content.row(range(1, len(self) + 1)[i])
        return None if name is None else (name, line)

    def __eq__(self, other):
        return list(self) == list(other)
