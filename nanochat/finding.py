"""
Finding: which episodes a question is about.

    score(e) = base(e) + before base(e - 1) + after base(e + 1) + age(e)
    base(e)  = sum over the question's stems s of weight(s) rarity(s) n (k + 1) / (n + k (1 - b + b length(e) / mean))
               + scale max over the traces t of e of cos(vector, gist(t))

n: how often e says s. rarity: the idf of BM25 (Robertson and Zaragoza 2009), counted in this memory, so there is no
index to keep. weight, vector, before, after and age are learned functions of the question's hidden states; k, b and
scale are learned numbers. A head that has not been trained is BM25: weights 1, and nothing else.
"""
import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.layers import Linear
from nanochat.words import STEMS

AGES = (1, 2, 4, 8, 16, 32, 64, 128)   # buckets of how many episodes are newer
ONE = math.log(math.e - 1)             # softplus of it is 1
BM25 = (math.log(1.2), math.log(3), 0.0)   # log k, the logit of b, scale, before anything is learned


@dataclass
class Said:
    """
    Which of a question's words are said by which episodes, P pairs: `word` (P,) a place in the window of the question
    alone, where <|user|> is 0; `episode` (P,) 0 … count - 1; `times` (P,) how often; `rarity` (P,). length (count,):
    tokens of each.
    """
    word: np.ndarray
    episode: np.ndarray
    times: np.ndarray
    rarity: np.ndarray
    length: np.ndarray


@dataclass
class Asks:
    """
    What Q questions, read alone, want to find: weight (Q, T) of their tokens, vector (Q, G), near (Q, 2) of the
    neighbours, age (Q, len(AGES) + 1).
    """
    weight: torch.Tensor
    vector: torch.Tensor
    near: torch.Tensor
    age: torch.Tensor


def occurrences(asked, joined, said, episode, length):
    """
    The Said of a question: asked (n,) stems of its tokens, 0 = none; joined (n,) bool, see words.Line; said (N, …)
    stems of what is remembered; episode (N,) whose each row is, 0 … count - 1, ascending; length (count,). Two words
    that are joined in the question are a word more, which is said where one follows on the other.
    """
    place = np.zeros(STEMS, np.int16)
    last = {int(stem): i for i, stem in enumerate(asked, 1) if stem}
    place[list(last)] = np.arange(1, len(last) + 1)
    words = said.reshape(-1)
    # by several threads, and a byte each: a third of the time of place[words]
    there = np.flatnonzero(torch.from_numpy(place > 0).index_select(0, torch.from_numpy(words)).numpy())
    which, own = place[words[there]], episode[there // max(said[0].size, 1) if len(said) else there]
    follows = (np.diff(there, prepend=-2) == 1) & (np.diff(own, prepend=-1) == 0)
    before = np.append(0, which[:-1])
    words = ((at, number, ~(follows & (before == number))) for number, at in enumerate(last.values(), 1))
    pairs = {(place[asked[i - 1]], place[asked[i]]): last.get(int(asked[i])) for i in np.flatnonzero(joined[1:]) + 1}
    both = ((at, number, follows & (before == one)) for (one, number), at in pairs.items() if 0 < one != number > 0)
    parts = [(np.zeros(0, np.int64),) * 3 + (np.zeros(0),)]
    for at, number, begun in chain(words, both):   # the tokens of one word are counted once
        mine = own[begun & (which == number)]
        begins = np.flatnonzero(np.diff(mine, prepend=-1))
        rarity = math.log(1 + (len(length) - len(begins) + 0.5) / (len(begins) + 0.5))
        parts.append((np.full(len(begins), at), mine[begins], np.diff(np.append(begins, len(mine))),
                      np.full(len(begins), rarity)))
    return Said(*(np.concatenate(column) for column in zip(*parts)), length)


def told(lines):
    """What `occurrences` wants of a memory whose episodes are words.Line: their stems, whose each is, their lengths."""
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    length = np.array([len(line) + 2 for line in lines])   # with <|bos|> and <|end|>
    return np.concatenate([line.stem for line in lines]), owner, length


class FindingHead(nn.Module):
    """What is learned of finding, from the hidden states of a question that is read alone."""
    def __init__(self, config):
        super().__init__()
        self.weight, self.near = Linear(config.n_embd, 1), Linear(config.n_embd, 2)
        self.vector, self.age = Linear(config.n_embd, config.gist_dim), Linear(config.n_embd, len(AGES) + 1)
        self.numbers = nn.Parameter(torch.empty(len(BM25)))

    def init_weights(self):
        for module in (self.weight, self.near, self.age):
            nn.init.zeros_(module.weight)
        nn.init.normal_(self.vector.weight, std=self.vector.in_features ** -0.5)
        with torch.no_grad():
            self.numbers.copy_(torch.tensor(BM25))

    def forward(self, hidden, there):
        """The Asks of questions: hidden (Q, T, D), there (Q, T) bool, which are tokens."""
        mean = (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        weight = F.softplus(self.weight(hidden).squeeze(-1).float() + ONE)
        return Asks(weight, F.normalize(self.vector(mean).float(), dim=-1), self.near(mean).float(),
                    self.age(mean).float())


def scores(numbers, asks, said, cosine, owner):
    """
    The scores (Q, count) float32 of all episodes of one memory, for Q questions. numbers: see BM25; asks: their Asks;
    said: the Said of each; cosine (Q, M): of their vectors with the gists of all traces; owner (M,) int64: whose each
    trace is, 0 … count - 1.
    """
    count, Q, device = len(said[0].length), len(said), cosine.device
    k, b, scale = numbers[0].exp(), numbers[1].sigmoid(), numbers[2]
    length = torch.as_tensor(said[0].length, dtype=torch.float32, device=device)
    room = k * (1 - b + b * length / length.mean().clamp(min=1))
    row = torch.repeat_interleave(torch.arange(Q), torch.tensor([len(s.word) for s in said])).to(device)
    word, episode, times, rarity = (torch.from_numpy(np.concatenate([getattr(s, name) for s in said])).to(device)
                                    for name in ("word", "episode", "times", "rarity"))
    term = asks.weight[row, word] * rarity.float() * times * (k + 1) / (times + room[episode])
    base = torch.zeros(Q * count, device=device).index_add(0, row * count + episode, term).view(Q, count)
    best = torch.full((Q, count), -1.0, device=device).scatter_reduce(1, owner.expand(Q, -1), cosine, "amax")
    base = base + scale * best
    beside = asks.near[:, :1] * F.pad(base, (1, 0))[:, :-1] + asks.near[:, 1:] * F.pad(base, (0, 1))[:, 1:]
    newer = torch.from_numpy(np.searchsorted(AGES, np.arange(min(count, AGES[-1]) - 1, -1, -1), side="right"))
    base = base + beside
    base[:, -len(newer):] += asks.age[:, newer.to(device)] - asks.age[:, -1:]   # all before have the last bucket
    return base + asks.age[:, -1:]


def plain(said):
    """The scores (count,) that a head gives before it has learned anything, from one Said."""
    asks = Asks(torch.ones(1, said.word.max(initial=0) + 1), torch.zeros(1, 1), torch.zeros(1, 2),
                torch.zeros(1, len(AGES) + 1))
    count = len(said.length)
    return scores(torch.tensor(BM25), asks, [said], torch.zeros(1, count), torch.arange(count))[0].numpy()


def rank(score, most=None):
    """The best `most` episodes (None: all) of scores (n,), best first, of equal ones the older, (m,) int."""
    if most is None or len(score) <= most:
        return np.argsort(-score, kind="stable")
    some = np.flatnonzero(score >= np.partition(score, -most)[-most])
    return some[np.argsort(-score[some], kind="stable")][:most]
