"""
Reading: a question and what was found for it stand in one window, and the blocks of the model read it.

    <|user|> question <|bos|> episode 1 <|bos|> episode 2 …   |   <|assistant|> answer <|end|>

The window sees itself in both directions; the answer sees the window and what it has said so far. Each token of the
answer is copied from a place of the window or generated: p = (1 - g) softmax(logits) + g p_copy, g a learned gate
(pointer-generator, See et al. 2017). The next token is told where the last one was copied from, so that going on with a
copy is one match of vectors.

An open model is causal, and the question stands last: <|bos|> episode 1 <|bos|> episode 2 … <|user|> question |
<|assistant|> answer. So many questions can be learned from one window, see Talk. Its words are generated, without a
gate; the copy says beside them where they stand, learned from hidden states that this does not change.
"""
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.common import rounded_up
from nanochat.layers import Embedding, Linear, norm, wide
from nanochat.text import lived

WINDOW = 512       # tokens of a window at most, where a model says nothing else
QUESTION = 256     # ... of which the question has so many at most
# buckets of counts, ranks and ages: a count is in the bucket of the last step it reaches
STEPS = (1, 2, 3, 4, 6, 9, 14, 24)
SEVERAL = (1, 2, 3, 6)               # the same for how many episodes say a word
# values of `match`: in a question, the word is said by that many episodes; in an episode, see below
NOT_A_WORD, UNSAID, SAID = 0, 1, 2 + len(SEVERAL)
MATCHES = SAID + 2 * len(SEVERAL) + 1
WORD_SCALE = 32    # word vectors are kept in units of 1 / WORD_SCALE
PLACES = len(STEPS) + 1              # values of `rank` and `age`; 0 = the question


@dataclass
class Window:
    """
    What the blocks read, of B questions, padded at the end: tensors (B, T). `ordinal` says which of the episodes a
    token is of, in the order they were given in; -1 is the question, -2 padding.
    """
    ids: torch.Tensor       # int64
    vector: torch.Tensor    # int64, row of the word vectors; 0 = none
    # int64, does the word occur in the question (as it is, or its stem), and how many episodes say it; for the
    # question, do episodes say it
    match: torch.Tensor
    rank: torch.Tensor      # int64, the place of the episode in finding, in buckets
    age: torch.Tensor       # int64, how many of the found episodes are newer, in buckets
    within: torch.Tensor    # int64, 1 = the token begins within a character
    ordinal: torch.Tensor   # int64

    def to(self, device):
        return Window(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass
class Talk:
    """
    Questions and answers after each of B windows, as an open model learns them: `branch` (B, S) int64 tells them apart,
    -1 = padding; each sees the window and itself. All (B, S) int64.
    """
    ids: torch.Tensor       # <|user|> question <|assistant|> answer, without its end
    branch: torch.Tensor
    at: torch.Tensor        # the place of a token in its branch
    wanted: torch.Tensor    # where a token of the answer, or its end, follows: which; -1 elsewhere
    source: torch.Tensor    # the place of the window that it is copied from; -1 = from none

    def to(self, device):
        return Talk(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass
class Answer:
    """
    What is to be said, of B questions, padded with ids -1: ids (B, A) int64, `source` (B, A, G) int64 the places of the
    window that a token may be copied from, padded with -1; where all are -1 it is to be generated.
    """
    ids: torch.Tensor
    source: torch.Tensor

    def to(self, device):
        return Answer(*(getattr(self, f.name).to(device) for f in fields(self)))


def said_before(seconds):
    """What stands before an episode that was lived at a known time (UTC; seconds since 1970, -1 = unknown)."""
    when = lived(seconds)
    return "" if when is None else f"[{when:%Y-%m-%d %H:%M}] "


def dated(text, seconds):
    """The text of an episode as it stands in a window."""
    return said_before(seconds) + text


def bucket(n, steps):
    """1, 2, … for counts n (array of int >= 1) by the steps; 0 for 0."""
    return np.searchsorted(steps, n, side="right")


def select(order, lengths, budget):
    """
    Which episodes are laid out, in the order they were lived: those that come first in `order` and fit `budget` tokens.
    One that does not fit leaves room for shorter ones; the first is taken in any case.
    """
    taken, room = [], budget
    for i in order:
        need = lengths[i] + 1
        if need <= room or not taken:
            taken.append(i)
            room -= need
        if room < 2:
            break
    return sorted(taken)


def lay_out(question, lines, order, tokenizer, budget=WINDOW):
    """
    The columns of a window {name: (T,) int array}, the hash of each token's word among them, and {index of a line:
    where its first token stands}. question, lines: words.Line; order: indices of lines, best first. What is too long is
    cut at the end. tokenizer.asks_last: the question stands last.
    """
    q = slice(0, min(QUESTION, budget // 2))
    kept = select(order, [len(line) for line in lines], budget - len(question.ids[q]) - 1)
    place = {line: i + 1 for i, line in enumerate(order)}
    begin, at = {}, 1 + len(question.ids[q])   # where the next episode would stand
    parts = {name: [np.array([0]), getattr(question, name)[q]] for name in ("ids", "word", "stem", "vector")}
    parts["ids"][0] = np.array([tokenizer.user_id])
    lengths = []
    for i in kept:
        room = budget - at - 1
        for name, part in parts.items():
            part += [np.array([tokenizer.bos_id if name == "ids" else 0]), getattr(lines[i], name)[:room]]
        begin[i], at = at + 1, at + 1 + min(len(lines[i]), room)
        lengths.append(1 + min(len(lines[i]), room))
    ids, word, stem, vector = (np.concatenate(part) for part in parts.values())
    head = len(ids) - sum(lengths)
    number = np.repeat(np.arange(len(kept)), lengths)
    columns = {"ids": ids, "word": word, "vector": vector, "within": tokenizer.within[ids].astype(int),
               "match": matches(word, stem, head, number, len(kept))}
    for name, values in (("rank", [place[i] for i in kept]), ("age", range(len(kept), 0, -1))):
        columns[name] = np.concatenate([np.zeros(head, int), np.repeat(bucket(np.array(values, int), STEPS), lengths)])
    columns["ordinal"] = np.concatenate([np.full(head, -1), np.repeat(np.array(kept, int), lengths)])
    if tokenizer.asks_last:
        columns = {name: np.roll(column, -head) for name, column in columns.items()}
        begin = {line: at - head for line, at in begin.items()}
    return columns, begin


def matches(word, stem, head, number, count):
    """The `match` of each token: the first `head` are the question, the rest of episodes 0 … count - 1 (number)."""
    asked = np.unique(stem[:head][stem[:head] > 0])
    if not len(asked):
        return np.where(stem > 0, np.where(np.arange(len(stem)) < head, UNSAID, SAID), NOT_A_WORD)
    at = np.searchsorted(asked, stem).clip(max=len(asked) - 1)
    same = asked[at] == stem
    said = np.zeros((len(asked), max(count, 1)), bool)
    said[at[head:][same[head:]], number[same[head:]]] = True
    several = bucket(said.sum(1), SEVERAL)[at]
    exact = np.isin(word, word[:head])
    episode = np.where(same, SAID + several + len(SEVERAL) * exact, SAID)
    return np.where(stem == 0, NOT_A_WORD, np.where(np.arange(len(stem)) < head, UNSAID + several, episode))


def batch(columns, step=1):
    """A Window of several columns (see lay_out), its length a multiple of `step`."""
    longest = rounded_up(max(len(c["ids"]) for c in columns), step)
    out = {}
    for f in fields(Window):
        table = np.full((len(columns), longest), -2 if f.name == "ordinal" else 0, np.int64)
        for row, c in zip(table, columns):
            row[:len(c[f.name])] = c[f.name]
        out[f.name] = torch.from_numpy(table)
    return Window(**out)


def alone(questions, tokenizer):
    """
    The Window of questions (words.Line) without anything found. For an open model they stand there twice: the second
    time each token has seen all of it.
    """
    columns = [lay_out(question, [], [], tokenizer)[0] for question in questions]
    return batch([{name: np.tile(column, 1 + tokenizer.asks_last) for name, column in c.items()} for c in columns])


class ReadingHead(nn.Module):
    """What reading needs beside the blocks: features of the window's tokens, the copy, its gate."""
    def __init__(self, config):
        super().__init__()
        D = config.n_embd
        # an open model knows its words, and reads the window before the question
        self.own = config.family != "llama"
        if self.own:
            self.match, self.rank, self.age = (Embedding(n, D) for n in (MATCHES, PLACES, PLACES))
            self.word = Linear(config.word_dim, D)
            # to the next token of the answer: what stands where the last one was copied from
            self.copied = Linear(D, D)
            self.gate = Linear(D, 1)
        self.register_buffer("word_vectors", torch.zeros(config.word_vectors, config.word_dim, dtype=torch.int8))
        # the words of rows 1, 2, …, in UTF-8, a line each
        self.register_buffer("word_list", torch.zeros(config.word_bytes, dtype=torch.uint8))
        self.query, self.key, self.key_before = (Linear(D, D) for _ in range(3))
        # convolutions, depthwise
        self.nearby = nn.ParameterList([torch.empty(config.nearby, D)
                                        for _ in range(config.n_layer if config.nearby else 0)])

    def init_weights(self):
        self.word_vectors.zero_()   # a module built on the meta device holds anything
        self.word_list.zero_()
        for table in (self.match, self.rank, self.age) if self.own else ():
            nn.init.normal_(table.weight, std=0.5)
        for module in (self.query, self.key, self.key_before, *((self.word, self.copied) if self.own else ())):
            nn.init.normal_(module.weight, std=module.in_features ** -0.5)
        for weight in [*self.nearby, *([self.gate.weight] if self.own else [])]:
            nn.init.zeros_(weight)

    def words(self):
        """The words that have a vector, row 1 first."""
        return bytes(self.word_list.tolist()).decode("utf-8").splitlines()

    def features(self, window, dtype):
        """(B, T, D): what is added to the embeddings of a window."""
        table = (self.match(window.match) + self.rank(window.rank) + self.age(window.age)).to(dtype)
        return table + self.word(self.word_vectors[window.vector].to(dtype) / WORD_SCALE)

    def keys(self, x):
        """(B, T, D) keys of a window's final hidden states: what a place holds, and what stands before it."""
        return self.key(x) + self.key_before(F.pad(x, (0, 0, 1, 0))[:, :-1])

    def copy(self, y, reading):
        """Log-probabilities over the places of a Reading (B, A, T) for final hidden states y (B, A, D)."""
        y = y if self.own else norm(y)
        score = torch.matmul(self.query(y), reading.keys.transpose(1, 2)).to(wide(y.dtype)) * y.shape[-1] ** -0.5
        closed = ~reading.open[:, None]
        return torch.log_softmax(score.masked_fill(closed, -1e9), dim=-1).masked_fill(closed, -1e9)

    def copies(self, y):
        """The gate's logit (B, A) for final hidden states y (B, A, D): is the token copied?"""
        return self.gate(y).squeeze(-1).to(wide(y.dtype))


@dataclass
class Reading:
    """A window that has been read: what an answer attends to."""
    hidden: torch.Tensor    # (B, T, D), normalised
    keys: torch.Tensor      # (B, T, D), of the copy
    open: torch.Tensor      # (B, T) bool, what may be copied: the episodes
    seen: torch.Tensor      # (B, 1, 1, T) additive mask of padding
    past: list              # of (k, v) of each block


def through(model, x, cos, sin, mask, past, there=None):
    """
    x (B, T, D) through all blocks, each over its (k, v) of `past`, None = nothing: the normalised final hidden states,
    and the past of what follows. there (B, T, 1) of a window: where it is no padding; None = x is an answer.
    """
    after, reach = [], model.config.nearby // 2
    with model.adapted():
        for i, (block, kv) in enumerate(zip(model.blocks, past)):
            around = None
            if there is not None and model.config.nearby:
                around = (model.reader.nearby[i] if model.config.both_ways else model.reader.nearby[i][:reach + 1],
                          there, reach)
            x, kv = block.over(x, cos, sin, mask, kv, around)
            after.append(kv)
    return model.norm(x), after


def read(model, window):
    """The Reading of a Window by a THENGPT."""
    x = model.embed(window.ids)
    x = model.enter(x + model.reader.features(window, x.dtype) if model.reader.own else x)
    there = window.ordinal != -2
    seen = torch.zeros(there.shape, dtype=x.dtype, device=x.device).masked_fill_(~there, float("-inf"))[:, None, None]
    cos, sin = model.rotary(torch.arange(x.shape[1], device=x.device)[None])
    mask = seen
    if not model.config.both_ways:
        order = torch.arange(x.shape[1], device=x.device)
        mask = seen.masked_fill(order > order[:, None], float("-inf"))
    x, past = through(model, x, cos, sin, mask, [None] * len(model.blocks), there[..., None])
    x = x if model.reader.own else norm(x).detach()   # copies alone look at it then
    return Reading(x, model.reader.keys(x), window.ordinal >= 0, seen, past)


def say(model, reading, ids, source, at, past):
    """
    Final hidden states (B, A, D) of answer tokens ids (B, A), each copied from the place `source` (B, A) of the window,
    -1 = from none, which stand at … at + A - 1 of the answer; and the past for the tokens that follow. past:
    reading.past, or what the call before returned.
    """
    B, A = ids.shape
    x = model.embed(ids)
    if model.reader.own:
        place = source[..., None].expand(-1, -1, x.shape[-1])
        x = x + model.reader.copied(reading.hidden.gather(1, place.clamp(min=0)).masked_fill(place < 0, 0))
    x = model.enter(x)
    order = torch.arange(at + A, device=ids.device)
    later = torch.zeros(A, at + A, dtype=x.dtype, device=x.device).masked_fill_(order > order[at:, None], float("-inf"))
    mask = torch.cat([reading.seen.expand(-1, -1, A, -1), later.expand(B, 1, -1, -1)], dim=-1)
    # after its own window: the padding of others is none of its places
    length = (reading.seen == 0).sum(-1).view(B, 1)
    cos, sin = model.rotary(length + order[at:])
    return through(model, x, cos, sin, mask, past)


def losses(model, window, answer):
    """
    {"read": minus the log-likelihood of answers, a mean over questions}, and the shares {name: tensor} of first tokens
    that are right.
    """
    reading = read(model, window)
    ids = F.pad(answer.ids[:, :-1].clamp(min=0), (1, 0), value=model.config.assistant_id)
    source = F.pad(answer.source[:, :-1, 0], (1, 0), value=-1)
    y, _ = say(model, reading, ids, source, 0, reading.past)
    place, gate = model.reader.copy(y, reading), model.reader.copies(y)
    wanted = answer.source >= 0
    copied = place.gather(2, answer.source.clamp(min=0)).masked_fill(~wanted, -1e9).logsumexp(-1) + F.logsigmoid(gate)
    copies, counts = wanted.any(-1), answer.ids >= 0
    says = counts & ~copies     # the vocabulary is large, and few tokens are generated
    said = -F.cross_entropy(model.head(y[says]), answer.ids[says], reduction="sum") + F.logsigmoid(-gate)[says].sum()
    log_p = copied[copies].sum() + said
    right = (place[:, 0].argmax(-1, keepdim=True) == answer.source[:, 0]).any(-1) & (gate[:, 0] > 0)
    begins = copies[:, 0]
    return {"read": -log_p / len(ids)}, {"begin": (right & begins).sum() / begins.sum().clamp(min=1),
                                         "gate": ((gate[:, 0] > 0) == begins).float().mean()}


def talk_losses(model, window, talk):
    """
    What an open model learns from the questions after each window (see Talk), as `losses` returns it: "read", minus the
    log-likelihood of the words of answers, and "copy", that of where they stand.
    """
    reading, (B, S) = read(model, window), talk.ids.shape
    x = model.enter(model.embed(talk.ids))
    own = (talk.branch[:, :, None] == talk.branch[:, None]) & (talk.at[:, :, None] >= talk.at[:, None])
    later = torch.zeros(B, 1, S, S, dtype=x.dtype, device=x.device).masked_fill_(~own[:, None], float("-inf"))
    cos, sin = model.rotary((reading.seen == 0).sum(-1).view(B, 1) + talk.at)
    y, _ = through(model, x, cos, sin, torch.cat([reading.seen.expand(-1, -1, S, -1), later], dim=-1), reading.past)
    counts = talk.wanted >= 0
    copies, questions = counts & (talk.source >= 0), ((talk.at == 0) & (talk.branch >= 0)).sum()
    said = F.cross_entropy(model.head(y[counts]), talk.wanted[counts], reduction="sum")
    place = model.reader.copy(y.detach(), reading)
    beside = place.gather(2, talk.source.clamp(min=0)[..., None]).squeeze(-1)[copies].sum()
    begun = copies & (talk.ids == model.config.assistant_id)
    right = begun & (place.argmax(-1) == talk.source)
    return {"read": said / questions, "copy": -beside / questions}, {"begin": right.sum() / begun.sum().clamp(min=1)}


def by_gate(model, y, window, place, said):
    """
    Log-probabilities of the next token: if it is generated (B, V), if it is that of a place of the window (B, T), of
    all places that say it together; and whether it is copied (B, 1). place, said: those of either way alone.
    """
    gate = model.reader.copies(y)
    by_token = torch.zeros_like(said).scatter_add(1, window.ids, (place + F.logsigmoid(gate)).exp())
    return (said + F.logsigmoid(-gate), by_token.gather(1, window.ids).log().clamp(min=-1e9),
            (gate >= 0) & (place > -1e8).any(1, keepdim=True))


def by_words(window, may, said, at):
    """
    The same of an open model. It begins with a token of the places `may` (B, T) if these are likelier together than any
    other token, and goes on with the likeliest.
    """
    token_p = said.gather(1, window.ids)
    here = torch.full_like(said, -1e9).scatter_reduce(1, window.ids, token_p.masked_fill(~may, -1e9), "amax")
    elsewhere = said.masked_fill(here > -1e8, -1e9).amax(1, keepdim=True)
    return said, token_p, (here.amax(1, keepdim=True) if at else here.logsumexp(1, keepdim=True)) >= elsewhere


@torch.no_grad()
def greedy(model, window, max_tokens=32):
    """
    Yields, token by token of answers to B questions, (ids (B,), places (B,), log-probabilities (B,)); a place is -1
    where the token was generated. It is decided first whether a token is copied, then what it is: several places that
    may be right do not lose to one refusal that is likelier than each of them. No character is cut: a copy begins where
    one does, and goes on to its end. No answer is empty, or holds a special token.
    """
    reading, device = read(model, window), window.ids.device
    column = lambda value: torch.full((len(window.ids), 1), value, device=device)
    ids, source = column(model.config.assistant_id), column(-1)
    past, T = reading.past, window.ids.shape[1]
    places, within, begins = torch.arange(T, device=device), window.within > 0, window.ids == model.config.bos_id
    special = torch.arange(model.config.vocab_size, device=device) >= model.config.n_ordinary
    for at in range(max_tokens):
        y, past = say(model, reading, ids, source, at, past)
        said = torch.log_softmax(model.head(y[:, 0]), dim=-1).masked_fill(special, -1e9)
        special[model.config.end_id] = False   # from the second token on
        following = (source >= 0) & (places == source + 1)                  # (B, T): where a copy goes on
        must = (following & within).any(1, keepdim=True)
        closed = torch.where(must, ~following, within & ~following) | begins
        place = model.reader.copy(y, reading)[:, 0].masked_fill(closed, -1e9)
        may = place > -1e8
        said, token_p, copies = (by_gate(model, y, window, place, said) if model.reader.own else
                                 by_words(window, may, said, at))
        copies |= must
        token_p = token_p.masked_fill(~may, -1e9)
        # a copy that can go on with it goes on
        same = window.ids == window.ids.gather(1, token_p.argmax(1, keepdim=True))
        first = place.masked_fill(~same, -1e9).masked_fill(same & following & may, 0).argmax(1, keepdim=True)
        said, token = said.max(1, keepdim=True)
        source = torch.where(copies, first, -1)
        ids, log_p = (torch.where(copies, copied.gather(1, first), generated)
                      for copied, generated in ((window.ids, token), (token_p, said)))
        yield ids[:, 0], source[:, 0], log_p[:, 0]


def steps(model, window, max_tokens=32):
    """
    Yields (token id, place in the window or -1, probability) of the answer to one question, see greedy, up to and with
    <|end|>.
    """
    for ids, source, log_p in greedy(model, window, max_tokens):
        yield int(ids), int(source), float(log_p.exp())
        if int(ids) == model.config.end_id:
            return


def answers(model, window, max_tokens=32):
    """The answers to B questions, see greedy: for each a list of (token id, place), without <|end|>."""
    out, done = [[] for _ in window.ids], [False] * len(window.ids)
    for ids, source, _ in greedy(model, window, max_tokens):
        for b, (token, place) in enumerate(zip(ids.tolist(), source.tolist())):
            done[b] = done[b] or token == model.config.end_id
            if not done[b]:
                out[b].append((token, place))
        if all(done):
            break
    return out


def text_of(tokenizer, tokens):
    """
    The text of an answer: what is copied in one run stands without the space before it, runs are joined by what was
    generated between them.
    """
    text, last = b"", None
    for token, place in tokens:
        piece = tokenizer.token_bytes(token)
        begins = place >= 0 and (last is None or place != last + 1) and not tokenizer.spaced
        text += (b" " if begins and text and not text.endswith(b" ") and not piece.startswith(b" ") else b"") + piece
        last = place if place >= 0 else None
    return text.decode("utf-8", "replace").strip()
