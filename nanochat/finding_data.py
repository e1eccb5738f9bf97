"""
What finding is learned from: questions about one memory, of many episodes, whose evidence is known.
"""
from dataclasses import dataclass

import numpy as np
import torch

from nanochat import reading
from nanochat.finding import occurrences, scores, told
from nanochat.state import CHUNK

LINE = 96   # tokens of an episode that are read, with its begin and its end


@dataclass
class Hunt:
    """Q questions about one memory."""
    window: reading.Window    # the questions alone
    said: list                # of Said, one a question, whose `word` counts in the window
    grids: list               # of (rows, ids (n, T) int64): the episodes `rows`, padded, T a multiple of 16
    evidence: list            # of lists of episodes, one a question


def hunt(questions, lines, evidence, tokenizer):
    """A Hunt: questions and lines are words.Line, evidence lists of indices of lines."""
    memory = told(lines)
    said = [occurrences(q.stem[:reading.QUESTION], q.joined[:reading.QUESTION], *memory) for q in questions]
    grids, shapes = [], {}
    for row, line in enumerate(lines):
        shapes.setdefault(min(-(-(len(line) + 2) // CHUNK), LINE // CHUNK), []).append(row)
    for chunks, rows in sorted(shapes.items()):
        grid = np.full((len(rows), chunks * CHUNK), tokenizer.pad_id, np.int64)
        for at, row in zip(grid, rows):
            ids = [tokenizer.bos_id, *lines[row].ids, tokenizer.end_id][:chunks * CHUNK]
            at[:len(ids)] = ids
        grids.append((np.array(rows), torch.from_numpy(grid)))
    return Hunt(reading.alone(questions, tokenizer), said, grids, evidence)


class Hunting:
    """
    Hunts of about `lines` episodes and `questions` questions, drawn by a random.Random. sources, shares: see
    reading_data.Asked.
    """
    def __init__(self, asked, tokenizer, lines=(60, 120, 240), questions=64):
        self.asked, self.tokenizer, self.lines, self.questions = asked, tokenizer, lines, questions

    def __call__(self, r):
        memories = self.asked.sources[r.choices(list(self.asked.sources), self.asked.shares)[0]]
        most, lines, pairs = r.choice(self.lines), [], []
        for memory in r.sample(memories, min(len(memories), most)):
            pairs += [(r.choice(q.forms), [i + len(lines) for i in q.evidence]) for q in memory.questions if q.evidence]
            lines += memory.lines
            if len(lines) >= most:
                break
        pairs = r.sample(pairs, min(len(pairs), self.questions))
        if not pairs:
            return None
        return hunt([form for form, _ in pairs], lines, [evidence for _, evidence in pairs], self.tokenizer)


def gists(model, grids):
    """(gist (M, G), owner (M,)) of all traces of the episodes of a Hunt."""
    parts, owners = [], []
    for rows, ids in grids:
        state = model.empty_state(len(ids), segment=ids.shape[1])
        # not by encode, which keeps no gradients: gists learn, too
        traces = model.segment(ids, state, read=False, trunk_only=True)["traces"]
        parts.append(traces.gist[traces.valid > 0])
        owners.append(torch.from_numpy(np.repeat(rows[:, None], ids.shape[1] // CHUNK, 1))[traces.valid > 0])
    return torch.cat(parts), torch.cat(owners)


def ranked(model, hunt):
    """The scores (Q, episodes) of a Hunt."""
    asks, (gist, owner) = model.asks(hunt.window), gists(model, hunt.grids)
    return scores(model.finder.numbers, asks, hunt.said, asks.vector @ gist.float().T * gist.shape[-1] ** -0.5, owner)


def loss(model, hunt):
    """The mean cross-entropy of the evidence over all episodes; of several, each alone with those that are none."""
    score = ranked(model, hunt)
    total, n = 0.0, 0
    for row, evidence in zip(score, hunt.evidence):
        others = row.clone()
        others[list(set(evidence))] = float("-inf")
        for e in set(evidence):
            total, n = total + torch.logaddexp(torch.logsumexp(others, 0), row[e]) - row[e], n + 1
    return total / n
