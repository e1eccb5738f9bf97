"""
A memory larger than RAM: what every query touches is held, the rest stays in the file until it is selected.

    held        address, moment and index key of every trace, which episode it belongs to   on the model's device
    cached      records that were selected, the oldest given up first                   in RAM, what the budget leaves
    file        everything                                                              read at its position, checked each time

A Column stands in a Traces where a tensor would: the model only ever gathers from ids, keys and gists, or appends to them.
"""
import numpy as np
import torch

from nanochat.common import UserError
from nanochat.state import Traces

HELD = ("address", "moment", "index", "episode", "position", "valid")
LEAST_CACHE = 1024   # records: a question that selects more than are cached would read them twice


def trace_bytes(like, fields=None):
    """Bytes of a trace in RAM, or of some of its fields, in the dtypes of the empty Traces `like`."""
    return sum(t.element_size() * int(np.prod(t.shape[2:])) for name, t in like.as_dict().items() if fields is None or name in fields)


def tiered(store, like, budget):
    """
    The Traces (B = 1) of a memory.Store that stays open, within `budget` bytes: HELD as tensors like those of `like`, the rest as Columns. Reads, and so
    checks, the whole file once. UserError where the budget is too small.
    """
    N, stride = len(store.content.checks), store.layout.stride
    held = N * (trace_bytes(like, HELD) + 4)
    capacity = (budget - held) // (stride + 8)
    if capacity < LEAST_CACHE:
        need = held + LEAST_CACHE * (stride + 8)
        raise UserError(f"{store.path}: {N:,} traces need a RAM budget of {-(-need // 2 ** 20):,} MB at least, not {budget // 2 ** 20:,}")
    columns = {name: torch.empty(1, N, *t.shape[2:], dtype=t.dtype, device=t.device) for name, t in like.as_dict().items() if name in HELD}
    scanned = {name: columns[name] for name in ("address", "moment", "index", "valid")}
    at = 0
    for rows in store.blocks():
        store.layout.fill(scanned, at, rows)
        at += len(rows)
    for name, values in zip(("episode", "position"), store.places()):
        columns[name][0] = torch.from_numpy(values)
    shelf = Shelf(store, min(capacity, N))
    return Traces(**columns, **{name: Column(shelf, name, t) for name, t in like.as_dict().items() if name not in HELD})


class Shelf:
    """Records by number, through a cache of `capacity` records."""
    def __init__(self, store, capacity):
        self.store, self.capacity, self.hand = store, capacity, 0
        self.rows = np.empty((capacity, store.layout.stride), np.uint8)
        self.owner = np.full(capacity, -1, np.int64)                          # the record in each place
        self.place = np.full(len(store.content.checks), -1, np.int32)         # the place of each record, -1 = not cached

    def __len__(self):
        return len(self.place)

    def records(self, numbers):
        """(n,) int64 record numbers, in any order -> (n, stride) uint8."""
        unique, back = np.unique(numbers, return_inverse=True)
        out = np.empty((len(unique), self.rows.shape[1]), np.uint8)
        cached = self.place[unique] >= 0
        out[cached] = self.rows[self.place[unique[cached]]]
        if not cached.all():
            missing = unique[~cached]
            out[~cached] = got = self.store.gather(missing)
            self.keep(missing[-self.capacity:], got[-self.capacity:])
        return out[back]

    def keep(self, numbers, rows):
        places = (self.hand + np.arange(len(numbers))) % self.capacity
        self.hand = int((self.hand + len(numbers)) % self.capacity)
        given_up = self.owner[places]
        self.place[given_up[given_up >= 0]] = -1
        self.owner[places], self.place[numbers], self.rows[places] = numbers, places, rows


class Column:
    """
    A field of traces that are in a file, as far as the model uses a (1, N, …) tensor: its shape, rows by index, and torch.cat with tensors, which
    are kept in RAM after the rest.
    """
    def __init__(self, shelf, name, like, tail=None):
        self.shelf, self.name, self.like = shelf, name, like
        self.tail = like if tail is None else tail   # (1, n, …); like holds no trace

    @property
    def shape(self):
        return torch.Size((1, len(self.shelf) + self.tail.shape[1], *self.like.shape[2:]))

    def flatten(self, *_):
        return self   # one row: (1, N, …) and (N, …) have the same rows

    def index_select(self, dim, index):
        numbers = index.cpu()
        stored = numbers < len(self.shelf)
        out = self.like.new_empty(len(numbers), *self.like.shape[2:])
        out[stored] = self.shelf.store.layout.field(self.shelf.records(numbers[stored].numpy()), self.name, self.like)
        out[~stored] = self.tail[0, (numbers[~stored] - len(self.shelf)).to(self.tail.device)]
        return out

    def __getitem__(self, key):
        return self.index_select(0, key[1])   # [0, indices]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.cat:
            return NotImplemented
        first, *rest = args[0]
        return cls(first.shelf, first.name, first.like, torch.cat([first.tail, *rest], dim=1))
