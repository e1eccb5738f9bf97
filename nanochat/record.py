"""
A trace as a record of fixed size: what S.traces holds, 160 bytes for 16 tokens by default (docs/state-format.md).

Every vector of a trace has a known length: gists and index keys are RMS-normalised. So a
record keeps directions only, as integers of 8 or 4 bits, and no scales:

    q = round(top x / max |x|), top = 127 or 7          x = q length / |q|

The way back is computed from exact integers, so a record means the same numbers everywhere, and rounding what was read
back in fp32 gives the same record again.
"""
import math

import numpy as np
import torch

from nanochat.state import CHUNK, Traces

# in the order of the record, after the ids. Routing ranks every trace, so its vectors are kept finer than those read
# from the few that it picks
BITS = {"index": 8, "gist": 4}
LARGEST = 2 ** 16   # bytes of a record at most, 400 times those of the default model: a file could name any number
BLOCK = 512    # traces converted at once: what the conversion needs beside its result stays in the cache


def geometry(model):
    """What a record looks like, as plain JSON: the same for two models that could exchange them."""
    c = model.config
    vectors = {"index": [len(model.index_k), c.index_dim], "gist": [1, c.gist_dim]}
    return {"chunk": CHUNK, "vocab_size": c.vocab_size, "n_ordinary": c.n_ordinary, "bos_id": c.bos_id,
            "pad_id": c.pad_id,
            "id_bytes": 2 if c.vocab_size < 2 ** 16 else 4,
            **{name: [*vectors[name], bits] for name, bits in BITS.items()}}


def quantise(x, bits):
    """
    x (…, D) float -> (…, D) int8, its direction: the largest component is 2^(bits-1) - 1. A zero vector stays zero.
    """
    x = x.float()
    top = 2 ** (bits - 1) - 1
    peak = x.abs().amax(-1, keepdim=True)
    return torch.where(peak > 0, (x / peak * top).round(), 0).to(torch.int8)


def dequantise(q, length):
    """q (…, D) int8 -> (…, D) float32 of the given length, zero where q is."""
    q = q.float()
    square = (q * q).sum(-1, keepdim=True)   # integers below 2^24: exact in any order
    return torch.where(square > 0, q * (length / square.sqrt()), 0)


class Layout:
    """
    Where things are in a record: `stride` bytes in all; `fields` {name: (offset, bytes)}, and `vectors` {name:
    (vectors, dimensions, bits, length)} of those that are quantised. Little-endian throughout.
    """
    def __init__(self, geometry):
        g = self.geometry = geometry
        if any(type(g[name]) is not int for name in ("chunk", "id_bytes")) or g["chunk"] != CHUNK \
                or g["id_bytes"] not in (2, 4):
            raise ValueError("not the geometry of a record")
        self.id_type = np.dtype(f"<u{g['id_bytes']}")
        self.types = {"ids": self.id_type, "words": np.dtype("<u2")}
        sizes = {"ids": g["chunk"] * g["id_bytes"], "words": g["chunk"] * 2}
        self.vectors = {}
        for name in BITS:
            count, dim, bits = g[name]
            if any(type(n) is not int or n < 0 for n in (count, dim, bits)) or bits not in (4, 8):
                raise ValueError(f"{name}: not vectors of a record")
            if bits == 4 and dim % 2:
                raise ValueError(f"{name}: 4 bits need an even number of dimensions, not {dim}")
            self.vectors[name] = count, dim, bits, math.sqrt(dim)
            sizes[name] = count * dim * bits // 8
        self.fields, self.stride = {}, 0
        for name, size in sizes.items():
            self.fields[name] = self.stride, size
            self.stride += size
        if self.stride > LARGEST:
            raise ValueError(f"a record of {self.stride:,} bytes, more than {LARGEST:,}")

    def pack(self, traces):
        """Traces (B = 1) -> (N, stride) uint8."""
        out = np.empty((len(traces), self.stride), dtype=np.uint8)
        for at in range(0, len(traces), BLOCK):
            part, rows = traces[at:at + BLOCK], out[at:at + BLOCK]
            for name, kind in self.types.items():
                self.bytes_of(rows, name)[:] = getattr(part, name)[0].cpu().numpy().astype(kind).view(np.uint8)
            for name, (count, dim, bits, _) in self.vectors.items():
                q = quantise(getattr(part, name)[0].detach().cpu().reshape(len(rows), count, dim),
                             bits).view(torch.uint8)
                if bits == 4:
                    q = (q[..., 0::2] & 15) | (q[..., 1::2] << 4)
                self.bytes_of(rows, name)[:] = q.reshape(len(rows), -1).numpy()
        return out

    def bytes_of(self, records, name):
        """The (N, bytes) uint8 view of a field."""
        offset, size = self.fields[name]
        return records[:, offset:offset + size]

    def ids(self, records):
        """(N, 16) token ids of records, as numpy integers."""
        return np.ascontiguousarray(self.bytes_of(records, "ids")).view(self.id_type)

    def quantised(self, records, name):
        """(N, vectors, dimensions) int8 of a quantised field."""
        count, dim, bits, _ = self.vectors[name]
        q = torch.from_numpy(np.ascontiguousarray(self.bytes_of(records, name)))
        if bits == 4:
            q = torch.stack([q << 4, q], dim=-1).view(torch.int8) >> 4   # an arithmetic shift: the sign comes along
        return q.view(torch.int8).reshape(len(records), count, dim)

    def field(self, records, name, like):
        """(N, …) of a field that a record holds, with the device, dtype and shape of the tensor `like` (B, n, …)."""
        if name in self.vectors:
            x = dequantise(self.quantised(records, name), self.vectors[name][3])
        else:
            stored = np.ascontiguousarray(self.bytes_of(records, name)).view(self.types[name])
            x = torch.from_numpy(stored.astype(np.int64))
        return x.reshape(len(records), *like.shape[2:]).to(like)

    def fill(self, columns, at, records):
        """
        Writes the fields of records into columns {name: (1, N, …) tensor}, from row `at` on. "valid" is counted from
        the ids.
        """
        for name, column in columns.items():
            if name == "valid":
                filled = (self.ids(records) != self.geometry["pad_id"]).sum(1)
                column[0, at:at + len(records)] = torch.from_numpy(filled)
            else:
                column[0, at:at + len(records)] = self.field(records, name, column)

    def unpack(self, records, episode, position, like):
        """
        (N, stride) uint8 -> Traces (B = 1) with the device, dtype and shapes of the empty Traces `like`. episode,
        position (N,) integers come from the episode table: a record does not know how many came before it, so that
        deleting one changes no other.
        """
        N = len(records)
        columns = {f: torch.empty(1, N, *t.shape[2:], dtype=t.dtype, device=t.device)
                   for f, t in like.as_dict().items()}
        stored = {name: column for name, column in columns.items() if name not in ("episode", "position")}
        for at in range(0, N, BLOCK):
            self.fill(stored, at, records[at:at + BLOCK])
        columns["episode"][0] = torch.as_tensor(episode)
        columns["position"][0] = torch.as_tensor(position)
        return Traces(**columns)

    def rounded(self, traces):
        """The Traces that would be read back, in the dtype and on the device of `traces` (B = 1)."""
        like = traces[:0]
        return self.unpack(self.pack(traces), traces.episode[0].cpu(), traces.position[0].cpu(), like)
