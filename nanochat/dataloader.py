"""
Streams for TBPTT: every batch row lives one document after another, in segments of T slots.

A document is a life. It begins at a segment boundary (`new_life`: the row's memory is emptied there), its episodes
begin at chunk boundaries, and what is left of its last segment is padding. Rows and ranks take documents in turn from
the shards, round and round.
"""
import numpy as np
import torch

from nanochat.common import rounded_up
from nanochat.dataset import document_tokens, read_documents
from nanochat.state import CHUNK


def life_slots(episodes, pad_id):
    """
    Lay the episodes (lists of ids) of a life out on the grid. Returns int64 arrays over slots: ids (pad_id if empty),
    targets (the next token of the episode, -1 = none).
    """
    sizes = [rounded_up(len(ids), CHUNK) for ids in episodes]
    slots = {"ids": np.full(sum(sizes), pad_id, np.int64), "targets": np.full(sum(sizes), -1, np.int64)}
    at = 0
    for ids, size in zip(episodes, sizes):
        slots["ids"][at:at + len(ids)] = ids
        slots["targets"][at:at + len(ids) - 1] = ids[1:]
        at += size
    return slots


def furthest(positions):
    """How far the data was read by the one of several loaders that came furthest: [epoch, shard, row]."""
    return max([p["epoch"], *p["next"]] for p in positions)


def dealt_anew(reached, batch_size, segment):
    """The data position of any loader whose rows all begin with the documents from `reached` on."""
    epoch, *place = reached
    rows = [{"document": None, "at": 0} for _ in range(batch_size)]
    return {"rows": rows, "next": place, "turn": 0, "epoch": epoch, "segment": segment}


class StreamLoader:
    """
    Iterator over batches: dict of ids, targets (B, T) int64, new_life (B,) bool.

    `position()` is a plain value; a loader made with `position=` goes on with the very next batch, to the token.
    """
    def __init__(self, paths, tokenizer, batch_size, segment, rank=0, world_size=1, position=None):
        if segment % CHUNK:
            raise ValueError(f"a segment holds whole chunks of {CHUNK} slots, got {segment}")
        self.paths, self.tokenizer, self.segment = list(paths), tokenizer, segment
        self.rank, self.world_size = rank, world_size
        self.rows = [{"document": None, "at": 0} for _ in range(batch_size)]
        self.slots = [None] * batch_size
        self.next, self.turn, self.epoch = (0, 0), 0, 0
        if position is not None:
            if len(position["rows"]) != batch_size or position["segment"] != segment:
                raise ValueError(f"the data position is that of {len(position['rows'])} rows of {position['segment']} "
                                 "slots, "
                                 f"not {batch_size} of {segment}")
            self.rows = [dict(row) for row in position["rows"]]
            self.next, self.turn, self.epoch = tuple(position["next"]), position["turn"], position["epoch"]
            for i, row in enumerate(self.rows):
                if row["document"] is not None:
                    _, text = next(read_documents(self.paths, tuple(row["document"])))
                    self.slots[i] = self._layout(text)
        self.documents = read_documents(self.paths, self.next)

    def position(self):
        return {"rows": [dict(row) for row in self.rows], "next": list(self.next), "turn": self.turn,
                "epoch": self.epoch, "segment": self.segment}

    def _layout(self, text):
        return life_slots(document_tokens(self.tokenizer, text), self.tokenizer.pad_id)

    def _next_document(self):
        """The next document of this rank: its position, and its text."""
        empty_rounds = 0
        while True:
            for position, text in self.documents:
                mine, here = self.turn == self.rank, self.next
                self.turn, self.next = (self.turn + 1) % self.world_size, position
                if mine:
                    return here, text
            empty_rounds += 1
            if empty_rounds > self.world_size:
                raise ValueError(f"the shards hold fewer documents than there are ranks ({self.world_size})")
            self.epoch, self.next = self.epoch + 1, (0, 0)
            self.documents = read_documents(self.paths)

    def __iter__(self):
        return self

    def __next__(self):
        T = self.segment
        parts, new_life = [], []
        for i, row in enumerate(self.rows):
            begins = self.slots[i] is None or row["at"] >= len(self.slots[i]["ids"])
            while self.slots[i] is None or row["at"] >= len(self.slots[i]["ids"]):   # an empty document is skipped
                document, text = self._next_document()
                row.update(document=list(document), at=0)
                self.slots[i] = self._layout(text)
            parts.append({name: a[row["at"]:row["at"] + T] for name, a in self.slots[i].items()})
            row["at"] += T
            new_life.append(begins)
        fill = {"ids": self.tokenizer.pad_id, "targets": -1}
        batch = {name: torch.from_numpy(np.stack([np.pad(p[name], (0, T - len(p[name])), constant_values=value)
                                                  for p in parts]))
                 for name, value in fill.items()}
        batch["new_life"] = torch.tensor(new_life)
        return batch
