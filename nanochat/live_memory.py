"""
A frozen model with a memory of its own, as programs use it. What scripts.query shows of it, a person sees; nothing is
in the scripts alone.

    from nanochat.live_memory import LiveMemory

    with LiveMemory(model_path="data/then-d6", state_path="notes.pt") as memory:
        memory.ingest("The key is under the red pot.")
        print(memory.ask("Where is the key?").text)

Everything ingested is on disk when `ingest` returns. Asking changes nothing, and may be done from several threads, also
while another one ingests: each answer is read from the memory as it was when the question came. The lock on the files
is taken with the first change and kept until `close`; what another process has changed until then is read first.
"""
import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nanochat import engine, tiers
from nanochat.common import UserError
from nanochat.engine import Answer, Episode
from nanochat.memory import Store, Writer, read_state, stamp
from nanochat.memory_file import HEADER, Content, crc, identity
from nanochat.record import Layout
from nanochat.state import Traces
from nanochat.text import LINE_END, UNKNOWN, split_episodes
from nanochat.users import user_path

PART = 256   # episodes whose words are read at once


@dataclass(frozen=True)
class View:
    """A memory at one instant: what the model reads, and the table of episodes. Replaced as a whole, never changed."""
    state: dict
    content: Content


class LiveMemory:
    """
    A memory in a file, or, where no path is given, in RAM alone. See the module for an example. Raises UserError, in
    one line, for whatever a user can mend: files that are missing, damaged, locked, or of another model.
    """

    def __init__(self, model_path, state_path: str | os.PathLike | None = None, *, state_dir: str | os.PathLike
                 | None = None, user: str | None = None,
                 read_only: bool = False, ram_budget: int | None = None, min_confidence: float = 0.0,
                 max_tokens: int = 48,
                 device: str = "auto", dtype: str = "auto"):
        """
        model_path: of a checkpoint; or what engine.load_model returned, so that many memories share one model.
        state_path, or state_dir and user: where the memory is. It is made by the first ingest if it is not there,
        unless it is opened read_only. read_only: the files are not written, whatever is called. What is ingested then
        is known to this object and gone with it. ram_budget: bytes that traces may take (see tiers.py). min_confidence:
        answers below it are "I don't know". max_tokens: of an answer.
        """
        if (state_dir is None) != (user is None) or None not in (state_path, state_dir):
            raise ValueError("state_path, or state_dir and user, or none of them")
        self.model, self.tokenizer, self.facts = (engine.load_model(model_path, device, dtype)
                                                  if isinstance(model_path, (str, os.PathLike)) else model_path)
        self.path = (Path(os.path.expanduser(state_path)) if state_path is not None else user_path(state_dir, user)
                     if user is not None else None)
        self.min_confidence, self.max_tokens, self.ram_budget = min_confidence, max_tokens, ram_budget
        self._identity = identity(self.model, self.facts)
        self._layout = Layout(self._identity["geometry"])
        self._read_only = read_only or self.path is None
        self._lock = threading.RLock()                   # of whoever changes the memory
        # of whoever reads it: the cache of a tiered memory is for one at a time
        self._reading = contextlib.nullcontext()
        self._open = contextlib.ExitStack()              # the files of tiered views
        self._writer = None
        self._unwritten = []                             # [(records, row)] of the episodes that are in RAM alone
        if self.path is not None and not read_only and not self.path.exists():
            if user is not None:
                self.path.parent.mkdir(mode=0o700, exist_ok=True)
            if not self.path.parent.is_dir():
                raise UserError(f"{self.path.parent}: no such directory to keep a memory in")
        self._read()

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(self, question: str, on_text=None) -> Answer:
        """
        The answer, with its confidence, the episodes it was read from and the seconds it took. on_text: called with
        each piece of it as it comes.
        """
        return engine.result(self.stream(question), on_text)

    def stream(self, question: str) -> Iterator[str]:
        """
        The answer piece by piece, as it comes; whole characters. What the generator returns (`answer = yield from …`)
        is the Answer. With min_confidence it comes in one piece. UserError for a question that is empty, or longer than
        engine.QUESTION tokens.
        """
        view = self._view
        steps = engine.stream(self.model, self.tokenizer, view.state, question, self.max_tokens,
                              min_confidence=self.min_confidence,
                              times=view.content.time)
        while True:
            with self._reading:
                try:
                    piece = next(steps)
                except StopIteration as end:
                    answer = end.value
                    answer.episodes = [replace(self._episode(view, e.id), score=e.score) for e in answer.episodes]
                    return answer
            yield piece

    def routing(self, question: str) -> list[tuple[int, float]]:
        """How far a question addresses each episode: [(id, share)], best first (see engine.routing)."""
        with self._reading:
            return engine.routing(self.model, self.tokenizer, self._view.state, question)

    # -- what there is ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._view.content)

    def __bool__(self) -> bool:
        return True   # an empty memory is one

    def __getitem__(self, id: int) -> Episode:
        """The episode 1, 2, …; IndexError where there is none."""
        view = self._view
        with self._reading:
            return self._episode(view, self._checked(view, [id])[0])

    def __iter__(self) -> Iterator[Episode]:
        return self.episodes()

    def episodes(self) -> Iterator[Episode]:
        """Every episode, in order, as they were when this was called."""
        view = self._view
        return (episode for begin in range(1, len(view.content) + 1, PART)
                for episode in self._part(view, begin, min(begin + PART, len(view.content) + 1)))

    def stats(self) -> dict:
        """Plain numbers: episodes, how many of them are not written, traces, bytes on disk; and where the memory is."""
        content = self._view.content
        on_disk = len(content.checks) - sum(len(records) for records, _ in self._unwritten)
        return {"episodes": len(content), "unwritten": len(self._unwritten), "traces": len(content.checks), "path": None
                if self.path is None else str(self.path),
                "bytes": HEADER.size + on_disk * self._layout.stride + os.stat(self.path).st_size
                if self.path is not None and self.path.exists() else 0}

    @property
    def read_only(self) -> bool:
        """
        Whether the files are never written. May be set, not taken back: episodes that are in RAM alone would be between
        those that are not.
        """
        return self._read_only

    @read_only.setter
    def read_only(self, value):
        if not value and self._read_only:
            raise ValueError("a memory that is read-only stays so")
        with self._lock:
            self._read_only = bool(value)
            if value:
                self._release()

    # -- remembering and forgetting -----------------------------------------------------------------------------------

    def ingest(self, text: str | Iterable[str], episode: str = "line", source: str | None = None,
               time: int | None = None, progress=None) -> list[int]:
        """
        Remembers a text, or several; returns the ids of its episodes. They can be asked for, and are on disk, when this
        returns; of a large text every engine.COMMIT of them are, as it goes.

        episode: what is an episode, and can be forgotten, as one: a "line", a "paragraph" or the whole text, "file";
        blank ones are none. source: a name that is kept with them, and the line each begins at. time: when it was
        lived, seconds since 1970. progress: called with the number of tokens read since the last call. UserError where
        the disk is full, or another process writes.
        """
        found, line = [], 0
        for part in [text] if isinstance(text, str) else text:
            found += [(words, line + at) for words, at in split_episodes(part, episode)]
            line += len(LINE_END.split(part)) - part.endswith(("\n", "\r"))
        rows = [(source, at if source is not None else -1, -1 if time is None else int(time)) for _, at in found]
        with self._lock:
            self._add(engine.episode_ids(self.tokenizer, [words for words, _ in found]), rows, progress)
            return list(range(len(self) - len(found) + 1, len(self) + 1))

    def say(self, pieces: str | Iterable[str], source: str | None = None, time: int | None = None) -> int | None:
        """
        Remembers one episode that comes in pieces, live: token by token through state["buffer"], and every 16 tokens
        are a trace that can be recalled at once, while it is still being said. When it ends it is remembered as
        `ingest` would, to the byte. Returns its id; None if it was blank. If it is cut short by an exception, nothing
        of it stays. UserError where it gets longer than engine.TURN tokens: that is a text to ingest.
        """
        with self._lock:
            before, text, spent = self._view, "", 0
            state = {**self.model.empty_state(1), "traces": before.state["traces"], "episode": before.state["episode"]}
            try:
                for piece in [pieces] if isinstance(pieces, str) else pieces:
                    ids = self.tokenizer.encode(piece)
                    spent += len(ids)
                    if spent > engine.TURN:
                        raise UserError(f"a turn of {spent:,} tokens: it may have {engine.TURN:,}; ingest long texts "
                                        "from a file", code=2)
                    state = engine.listen(self.model, self.tokenizer, state, ids if text
                                          else [self.tokenizer.bos_id, *ids])
                    text += piece
                    self._view = replace(before, state=state)
            finally:
                self._view = before
            whole = [words for words, _ in split_episodes(text, "file")]
            self._add(engine.episode_ids(self.tokenizer, whole), [(source, -1, -1 if time is None else int(time))]
                      * len(whole))
            return len(self) if whole else None

    def forget(self, ids: int | Iterable[int]) -> None:
        """
        Forgets episodes by id, exactly: the files are then, to the byte, as if they had never been there. Those that
        follow move up. IndexError for an id that is none, UserError where this memory is read-only and an episode is on
        disk: then nothing is forgotten.
        """
        with self._lock:
            self.hold()
            gone = set(self._checked(self._view, [ids] if isinstance(ids, int) else ids))
            stored = len(self._stored.content)
            if self._read_only and any(i <= stored for i in gone):
                raise UserError("the memory is opened read-only: what is on disk can't be forgotten")
            if not self._read_only and gone:
                try:
                    self._writing().delete(gone)
                except BaseException:
                    self._release()
                    raise
                finally:
                    self._read()
                    if self._writer is not None:
                        self._stamp = stamp(self.path)
            self._unwritten = [said for i, said in enumerate(self._unwritten, stored + 1) if i not in gone]
            self._view = self._stored
            for records, row in self._unwritten:
                self._view = self._grown(self._view, records, [len(records)], [row])

    def hold(self) -> None:
        """
        Takes the lock now, rather than with the first change: from here on ids change only through this object.
        Read-only: nothing to take. UserError where another process writes to the memory, or has changed it since it was
        read here: it is then read anew, and ids may not be what they were.
        """
        with self._lock:
            before = self._view
            if not self._read_only:
                self._writing()   # a Writer of an empty memory is false
            if self._view is not before:
                raise UserError(f"{self.path}: was changed by another process meanwhile; look again")

    def save(self, path: str | os.PathLike | None = None) -> None:
        """
        Without a path: what was ingested is on disk already, so this only says, with a UserError, where it can't be.
        With one: writes the whole memory there, also what is in RAM alone; UserError where there is a file already.
        """
        with self._lock:
            if path is None:
                if self._read_only:
                    raise UserError("the memory is read-only, or has no file: nothing is written")
                self._writing().commit()
                self._stamp = stamp(self.path)
                return
            path = Path(os.path.expanduser(path))
            if path.exists():
                raise UserError(f"{path}: is there already", code=2)
            with contextlib.ExitStack() as stack:
                blocks = [records for records, _ in self._unwritten]
                if len(self._stored.content):
                    store = stack.enter_context(Store(self.path))
                    if stamp(self.path) != self._stamp:
                        raise UserError(f"{self.path}: was changed by another process meanwhile")
                    blocks = [*store.blocks(), *blocks]
                stack.enter_context(Writer(path, self._identity, anew=True)).rewrite(self._view.content, blocks)

    def release(self) -> None:
        """Gives the lock back until the next change, so that another process may write meanwhile."""
        with self._lock:
            self._release()

    def close(self) -> None:
        """Gives the files back. Nothing is lost: there is nothing that is not written and was to be."""
        with self._lock:
            self._release()
            self._open.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- within -------------------------------------------------------------------------------------------------------

    def _read(self):
        """The memory as it is on disk now; without a file to be there, an empty one."""
        self._stamp = None if self.path is None else stamp(self.path)
        if self.path is None or self._stamp is None and not self._read_only:
            state = self.model.empty_state(1)
            self._stored = View({**state, "traces": tiers.nothing(self._layout, state["traces"])},
                                Content(self._identity))
        else:
            with contextlib.ExitStack() as stack:
                store = stack.enter_context(Store(self.path))
                store.expect(self.model, self.facts)
                self._stored = View(read_state(store, self.model, self.ram_budget), store.content)
                if not isinstance(self._stored.state["traces"].ids, torch.Tensor):
                    self._reading = threading.Lock()
                    self._open.push(stack.pop_all())
        self._view = self._stored

    def _writing(self) -> Writer:
        if self._writer is None:
            writer = Writer(self.path, self._identity)
            if (None if writer.made else stamp(self.path)) != self._stamp:
                try:
                    self._read()
                except BaseException:
                    writer.close()
                    raise
            self._writer = writer
        return self._writer

    def _release(self):
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _add(self, encoded, rows, progress=None):
        if not encoded:
            return
        writer = None if self._read_only else self._writing()
        try:
            for records, lengths, places in engine.commits(self.model, self.tokenizer, encoded, rows, progress):
                view = self._grown(self._view, records, lengths, places)
                if writer is None:
                    self._unwritten += zip(np.split(records, np.cumsum(lengths)[:-1]), places)
                else:
                    writer.append(records, lengths, places)
                    writer.commit()
                    self._stamp, self._stored = stamp(self.path), view
                self._view = view
        except BaseException:
            # what was appended and not committed is cut off by whoever writes next; what was committed is there
            if writer is not None:
                self._release()
                if stamp(self.path) != self._stamp:
                    self._read()
            raise

    def _grown(self, view, records, lengths, rows):
        """A view with episodes added, read from their records: what is asked now is what will be read from the file."""
        first, lengths = len(view.content) + 1, np.array(lengths)
        ordinals = np.repeat(np.arange(first, first + len(lengths)), lengths)
        positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        new = self._layout.unpack(records, ordinals, positions, self.model.empty_traces())
        state = {**view.state, "traces": Traces.cat([view.state["traces"], new]), "episode": view.state["episode"]
                 + len(lengths)}
        return View(state, view.content.extended(lengths.tolist(), rows, crc(records)))

    def _checked(self, view, ids):
        for id in (ids := list(ids)):
            if not 1 <= id <= len(view.content):
                raise IndexError(f"no episode {id}, there are {len(view.content):,}")
        return ids

    def _part(self, view, begin, end):
        """The episodes begin..end - 1 of a view."""
        with self._reading:
            first = view.content.first
            return [self._episode(view, id, first) for id in range(begin, end)]

    def _episode(self, view, id, first=None):
        """
        An episode of a view; first: content.first, if it is at hand. The one that is being said is not in the table
        yet.
        """
        first = view.content.first if first is None else first
        known = id <= len(view.content)
        begin, end = (first[id - 1], first[id]) if known else (first[-1], len(view.state["traces"]))
        name, line, time = view.content.row(id) if known else (None, -1, -1)
        ids = view.state["traces"].ids[0, torch.arange(int(begin), int(end))].flatten().tolist()
        return Episode(id, self.tokenizer.decode(ids, skip_special=True), name, line if line >= 0 else None,
                       time if time != UNKNOWN else None)
