"""
A memory larger than RAM: what every query scans is held, the rest stays in the file until it is selected.

    held        index keys and gist of every trace as the integers of its record (search.Keys);         on the model's
    device
                its words, episode, position and number of tokens
    cached      records that were selected, the oldest given up first                                  in RAM, what the
    budget leaves
    file        everything                                                                             read at its
    position, checked each time

What fits the budget whole is held whole, the rest of a trace then as tensors. Otherwise a Column stands in a Traces
where a tensor would: the model only ever gathers from ids, or appends to them.
"""
from dataclasses import replace

import numpy as np
import torch

from nanochat.common import UserError
from nanochat.search import Keys
from nanochat.state import Traces

KEYS = ("index", "gist")
NUMBERS = ("words", "episode", "position", "valid")
REST = ("ids",)
SCRATCH = 32         # bytes a trace that a question needs meanwhile: bounds of its scores, flags
LEAST_CACHE = 1024   # records: a question that selects more than are cached would read them twice


def held_bytes(layout, like):
    """
    Bytes of a trace in RAM of what is always held, SCRATCH included, beside those of the empty Traces `like` that are
    not: (held, rest).
    """
    keys = sum(count * (dim * bits // 8 + 4) for count, dim, bits, _ in (layout.vectors[name] for name in KEYS))
    size = lambda names: sum(t.element_size() * int(np.prod(t.shape[2:])) for name, t in like.as_dict().items()
                             if name in names)
    return keys + size(NUMBERS) + SCRATCH, size(REST)


def keys_of(layout, like, n):
    """The Keys of n traces, to be filled, with the device and dtypes of the empty Traces `like`."""
    return {name: Keys(n, (count, dim), bits, length, getattr(like, name))
            for name, (count, dim, bits, length) in layout.vectors.items() if name in KEYS}


def nothing(layout, like):
    """The Traces of an empty memory: what is appended to it is routed by search, as if it were read from a file."""
    return replace(like, **keys_of(layout, like, 0))


def tiered(store, like, budget=None):
    """
    The Traces (B = 1) of a memory.Store, with the device and dtypes of the empty Traces `like`, within `budget` bytes
    (None: any): all of it as tensors and Keys or, where the budget is too small, REST as Columns, while the store must
    stay open. Reads, and so checks, the whole file once. UserError where the budget is too small for that, too.
    """
    N, layout = len(store.content.checks), store.layout
    held, rest = (N * size for size in held_bytes(layout, like))
    columns = {name: torch.empty(1, N, *t.shape[2:], dtype=t.dtype, device=t.device)
               for name, t in like.as_dict().items() if name in NUMBERS}
    columns.update(keys_of(layout, like, N))
    if budget is None or held + rest <= budget:
        columns.update({name: torch.empty(1, N, *t.shape[2:], dtype=t.dtype, device=t.device)
                        for name, t in like.as_dict().items() if name in REST})
    else:
        held += 4 * N
        capacity = (budget - held) // (layout.stride + 8)
        if capacity < LEAST_CACHE:
            need = held + LEAST_CACHE * (layout.stride + 8)
            raise UserError(f"{store.path}: {N:,} traces need a RAM budget of {-(-need // 2 ** 20):,} MB at least, not "
                            f"{budget // 2 ** 20:,}")
        shelf = Shelf(store, min(capacity, N))
        columns.update({name: Column(shelf, name, t) for name, t in like.as_dict().items() if name in REST})
    stored, at = {name: column for name, column in columns.items() if isinstance(column, torch.Tensor)
                  and name not in ("episode", "position")}, 0
    for rows in store.blocks():
        layout.fill(stored, at, rows)
        for name in KEYS:
            columns[name].fill(at, layout.quantised(rows, name))
        at += len(rows)
    for name, values in zip(("episode", "position"), store.places()):
        columns[name][0] = torch.from_numpy(values)
    return Traces(**columns)


class Shelf:
    """Records by number, through a cache of `capacity` records."""
    def __init__(self, store, capacity):
        self.store, self.capacity, self.hand = store, capacity, 0
        self.rows = np.empty((capacity, store.layout.stride), np.uint8)
        self.owner = np.full(capacity, -1, np.int64)                          # the record in each place
        # the place of each record, -1 = not cached
        self.place = np.full(len(store.content.checks), -1, np.int32)

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
    A field of traces that are in a file, as far as the model uses a (1, N, …) tensor: its shape, rows by index, and
    torch.cat with tensors, which are kept in RAM after the rest.
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
        """[0, index], rows, and [:, index], with the dimension of size 1: index a slice or integers."""
        rows = self.index_select(0, torch.arange(self.shape[1], device=self.like.device)[key[1]])
        return rows if isinstance(key[0], int) else rows[None]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.cat:
            return NotImplemented
        first, *rest = args[0]
        return cls(first.shelf, first.name, first.like, torch.cat([first.tail, *rest], dim=1))
