"""
Streams for TBPTT: every batch row lives one document after another, in segments of T slots.

A document is a life. It begins at a segment boundary (`new_life`: the row's memory is emptied there), its episodes begin at chunk
boundaries, and what is left of its last segment is padding. Rows and ranks take documents in turn from the shards, round and round.
"""
import numpy as np
import torch

from nanochat.dataset import document_tokens, read_documents
from nanochat.state import CHUNK

UNKNOWN = -2


def life_slots(episodes, pad_id, first_ordinal=1):
    """
    Lay the episodes of a life out on the grid. Returns int64 arrays over slots: ids (pad_id where empty), targets (the next token of the
    episode, -1 = none), answers (0/1: the target belongs to an answer), evidence (ordinal of the episode that
    holds the answer, -1 = none, UNKNOWN = nothing does, and that is the answer). Ordinals count the episodes of the row: those of this life are first_ordinal, first_ordinal + 1, …
    """
    sizes = [-(-len(e.ids) // CHUNK) * CHUNK for e in episodes]
    slots = {name: np.full(sum(sizes), fill, dtype=np.int64) for name, fill in
             (("ids", pad_id), ("targets", -1), ("answers", 0), ("evidence", -1))}
    at = 0
    for episode, size in zip(episodes, sizes):
        n = len(episode.ids)
        slots["ids"][at:at + n] = episode.ids
        slots["targets"][at:at + n - 1] = episode.ids[1:]
        if episode.is_question and episode.evidence != -1:
            due = slice(at + episode.answer_start - 1, at + n - 1)
            slots["answers"][due] = 1
            slots["evidence"][due] = first_ordinal + episode.evidence if episode.evidence >= 0 else UNKNOWN
        at += size
    return slots


def furthest(positions):
    """How far the data was read by the one of several loaders that came furthest: [epoch, shard, row]."""
    return max([p["epoch"], *p["next"]] for p in positions)


def dealt_anew(reached, batch_size, segment):
    """The data position of any loader whose rows all begin with the documents from `reached` on."""
    epoch, *place = reached
    return {"rows": [{"document": None, "at": 0, "ordinal": 1} for _ in range(batch_size)], "next": place, "turn": 0, "epoch": epoch, "segment": segment}


class StreamLoader:
    """
    Iterator over batches: dict of ids, targets, evidence (B, T) int64, answers (B, T) bool, new_life (B,) bool.

    `position()` is a plain value; a loader made with `position=` goes on with the very next batch, to the token.
    """
    def __init__(self, paths, tokenizer, batch_size, segment, rank=0, world_size=1, position=None):
        if segment % CHUNK:
            raise ValueError(f"a segment holds whole chunks of {CHUNK} slots, got {segment}")
        self.paths, self.tokenizer, self.segment = list(paths), tokenizer, segment
        self.rank, self.world_size = rank, world_size
        self.rows = [{"document": None, "at": 0, "ordinal": 1} for _ in range(batch_size)]
        self.slots = [None] * batch_size
        self.next, self.turn, self.epoch = (0, 0), 0, 0
        if position is not None:
            if len(position["rows"]) != batch_size or position["segment"] != segment:
                raise ValueError(f"the data position is that of {len(position['rows'])} rows of {position['segment']} slots, "
                                 f"not {batch_size} of {segment}")
            self.rows = [dict(row) for row in position["rows"]]
            self.next, self.turn, self.epoch = tuple(position["next"]), position["turn"], position["epoch"]
            for i, row in enumerate(self.rows):
                if row["document"] is not None:
                    following, *found = next(read_documents(self.paths, tuple(row["document"])))
                    self.slots[i] = self._layout(following, *found, row["ordinal"])[0]
        self.documents = read_documents(self.paths, self.next)

    def position(self):
        return {"rows": [dict(row) for row in self.rows], "next": list(self.next), "turn": self.turn, "epoch": self.epoch, "segment": self.segment}

    def _layout(self, following, text, evidence, ordinal):
        shard, row = following   # the position after the document
        episodes = document_tokens(self.tokenizer, text, evidence, where=f"{self.paths[shard]} row {row - 1}")
        slots = life_slots(episodes, self.tokenizer.pad_id, ordinal)
        return slots, len(episodes)

    def _next_document(self):
        """The next document of this rank: its position, that of the one after it, text and evidence."""
        empty_rounds = 0
        while True:
            for position, text, evidence in self.documents:
                mine, here = self.turn == self.rank, self.next
                self.turn, self.next = (self.turn + 1) % self.world_size, position
                if mine:
                    return here, position, text, evidence
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
                lived = row.get("episodes", 0)
                document, *found = self._next_document()
                row.update(document=list(document), at=0, ordinal=row["ordinal"] + lived)
                self.slots[i], row["episodes"] = self._layout(*found, row["ordinal"])
            parts.append({name: a[row["at"]:row["at"] + T] for name, a in self.slots[i].items()})
            row["at"] += T
            new_life.append(begins)
        fill = {"ids": self.tokenizer.pad_id, "targets": -1, "answers": 0, "evidence": -1}
        batch = {name: torch.from_numpy(np.stack([np.pad(p[name], (0, T - len(p[name])), constant_values=value) for p in parts]))
                 for name, value in fill.items()}
        batch["answers"] = batch["answers"].bool()
        batch["new_life"] = torch.tensor(new_life)
        return batch
