"""
What S.pt says of a memory, and what S.traces begins with (docs/state-format.md).

S.pt is read by plain_file.py: no file can run code. It is written from plain columns and one string, so that the same
content is the same bytes.
"""
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nanochat.common import UserError
from nanochat.plain_file import first_line, load_plain
from nanochat.record import Layout, geometry
from nanochat.state import CHUNK

FORMAT = "live-memory-state"
VERSION = 3
MAGIC = b"live-memory-trac"
# magic, version, bytes of the header, stride, tokens a record, digest of the identity
HEADER = struct.Struct("<16s4I32s")
# what a configuration may change without changing what is written
READ_SIDE = ("read_topk", "read_reach", "text_fraction")


def identity(model, facts):
    """
    What a memory belongs to, as plain JSON: to any other model, its keys and gists are noise. facts: from
    engine.load_model.
    """
    config = {name: value for name, value in model.describe()["config"].items() if name not in READ_SIDE}
    return {"weights": facts["weights"], "tokenizer": facts["tokenizer"], "geometry": geometry(model),
            "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()}


def traces_path(path):
    return path.with_suffix(".traces") if path.suffix == ".pt" else path.with_name(path.name + ".traces")


@dataclass
class Content:
    """What S.pt says. The columns have a row for each episode 1, 2, …"""
    identity: dict
    traces: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))   # records of the episode
    source: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))   # index into names, -1 = not known
    line: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))     # line it begins at, -1 = not known
    time: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))     # seconds since 1970, -1 = not known
    # of the sources, in the order of their first episode
    names: list = field(default_factory=list)
    checks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))  # CRC-32 of each record
    buffer: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))   # tokens of the open chunk
    # the records are in S.traces.new, if that is there
    pending: bool = False

    def __len__(self):
        return len(self.traces)

    @property
    def first(self):
        """(episodes + 1,) the first record of each episode, and the number of records."""
        return np.concatenate([[0], np.cumsum(self.traces, dtype=np.int64)])

    def row(self, ordinal):
        """(name or None, line, time) of an episode."""
        i = ordinal - 1
        return self.names[self.source[i]] if self.source[i] >= 0 else None, int(self.line[i]), int(self.time[i])

    def extended(self, traces, rows, checks):
        """
        With episodes added: traces, the records of each; rows, (name or None, line, time) of each; checks, one a
        record.
        """
        names = list(dict.fromkeys([*self.names, *(name for name, _, _ in rows if name is not None)]))
        number = {name: i for i, name in enumerate(names)}
        add = lambda column, values: np.concatenate([column, np.array(values, column.dtype)])
        return replace(self, names=names, traces=add(self.traces, traces), checks=add(self.checks, checks),
                       line=add(self.line, [line for _, line, _ in rows]),
                       source=add(self.source, [-1 if name is None else number[name] for name, _, _ in rows]),
                       time=add(self.time, [t for _, _, t in rows]))

    def kept(self, keep):
        """As if only the episodes flagged by keep (bool a row) had ever been there."""
        fresh = Content(self.identity, buffer=self.buffer)
        return fresh.extended(self.traces[keep], [self.row(i + 1) for i in np.flatnonzero(keep)],
                              self.checks[np.repeat(keep, self.traces)])

    # -- as a file ----------------------------------------------------------------------------------------------------

    def write(self, file):
        # text in one string: pickle marks where equal strings are one object, which would make files differ
        meta = json.dumps({**self.identity, "names": self.names, "pending": self.pending}, sort_keys=True)
        plain = {"format": FORMAT, "version": VERSION, "meta": meta}
        for name, column in self.columns().items():
            plain[name] = torch.from_numpy(column.copy())
        plain["sha256"] = digest(plain)
        torch.save(plain, file)

    def columns(self):
        return {"traces": self.traces, "source": self.source, "line": self.line, "time": self.time,
                "checks": self.checks.view(np.int32), "buffer": self.buffer}

    @classmethod
    def read(cls, file, path):
        """Of an open S.pt; UserError where it is not whole, or of another format."""
        plain = load_plain(file, path, "Live Memory state")
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise UserError(f"{path}: not a Live Memory state")
        version = plain.get("version")
        if type(version) is not int or version != VERSION:
            raise UserError(f"{path}: state format version {str(version)[:20]}, this program reads version {VERSION}: "
                            "ingest the text again, into another file")
        try:
            if plain["sha256"] != digest(plain):
                raise UserError(f"{path}: damaged, its SHA-256 does not fit its content")
            return cls.of_plain(plain)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: damaged, not what a Live Memory state holds ({first_line(error)})") from error

    @classmethod
    def of_plain(cls, plain):
        """Of what `write` wrote. ValueError and the like where it is not that: a digest can be forged."""
        meta = json.loads(plain["meta"])
        names, pending = meta.pop("names"), meta.pop("pending")
        Layout(meta["geometry"])
        kinds = {name: type(value) for name, value in meta.items()}
        if kinds != {"weights": str, "tokenizer": str, "config": str, "geometry": dict}:
            raise ValueError("no identity of a model")
        content = cls(meta)
        columns = {name: plain[name].numpy() for name in content.columns()}
        for name, column in content.columns().items():
            if columns[name].dtype != column.dtype or columns[name].ndim != 1:
                raise ValueError(f"{name} is not a column of {column.dtype}")
        columns["checks"] = columns["checks"].view(np.uint32)
        content = cls(meta, **columns, names=[str(name) for name in names], pending=bool(pending))
        if len(content.buffer) >= CHUNK:
            raise ValueError("an open chunk that is full")
        if any(len(column) != len(content) for column in (content.source, content.line, content.time)):
            raise ValueError("columns of unequal length")
        if (content.traces < 1).any() or content.first[-1] != len(content.checks):
            raise ValueError("episodes and records do not fit")
        if ((content.source < -1) | (content.source >= len(names))).any():
            raise ValueError("a source has no name")
        return content


def digest(plain):
    """SHA-256 over a dict of tensors and plain JSON, but for the key 'sha256'."""
    out = hashlib.sha256()
    for key in sorted(plain.keys() - {"sha256"}):
        value = plain[key]
        if isinstance(value, torch.Tensor):
            out.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            out.update(value.contiguous().numpy().tobytes())
        else:
            out.update(f"{key} {json.dumps(value)}\n".encode())
    return out.hexdigest()


def crc(records):
    """CRC-32 of each row, (N,) uint32."""
    return np.fromiter((zlib.crc32(row) for row in records), np.uint32, len(records))


def header(identity, layout):
    owner = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
    return HEADER.pack(MAGIC, VERSION, HEADER.size, layout.stride, layout.geometry["chunk"], owner)


def beside(path):
    """
    Where the next version of a file is written. A name of its own would be left behind by a crash; this one is used
    again.
    """
    return path.with_name(path.name + ".new")


def expect(path, there, here):
    """UserError unless the identities are the same; it says what differs."""
    for name, value in here["geometry"].items():
        if there["geometry"].get(name) != value:
            raise UserError(f"{path} was made by a model of another shape ({name} is {there['geometry'].get(name)} "
                            f"there, {value} here)")
    for name, what in (("tokenizer", "with another tokenizer"), ("weights", "by a model with other weights"),
                       ("config", "by a model with another configuration")):
        if there[name] != here[name]:
            raise UserError(f"{path} was made {what} ({there[name][:12]}…, here {here[name][:12]}…): "
                            "ingest the text again with this model, by --replace or into another file")
