"""
The frozen model at work: text becomes traces, questions are answered from them.

Ingest runs the trunk alone, many episodes at once as rows of one batch. Rows are always padded to the same few shapes,
so that the traces of an episode do not depend on which others it was ingested with.
"""
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from nanochat import base, finding, reading
from nanochat.checkpoint_manager import build_model, load_model_file, weights_digest
from nanochat.common import UserError, choose_device, choose_dtype
from nanochat.distributed import Ranks
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig
from nanochat.record import Layout, geometry
from nanochat.scoring import holds
from nanochat.search import cosines
from nanochat.state import CHUNK, Traces
from nanochat.task_data import REFUSAL
from nanochat.tokenizer import Tokenizer
from nanochat.words import Lexicon, Line

SEGMENT = 512    # slots of an episode that are read at once
ROWS = 16        # episodes that are read at once, as long as they have no more than
SLOTS = 2048     # slots together
COMMIT = 2048    # episodes between the commits of `remember`: what a kill may cost
HELD = 2 ** 18   # slots between two commits: as many are held as traces, 50 MB with the default model
QUESTION = reading.QUESTION   # tokens of a question at most
TURN = 4096      # tokens of a turn at most, that is remembered live
FOUND = 128      # episodes that are considered for a reading window
LATER = ("finder.",)   # weights that a model may lack: it is from before it learned to find, and finds by BM25


def load_model(path, device="auto", dtype="auto", model_class="THENGPT"):
    """
    The frozen model of a checkpoint and its tokenizer: (model, tokenizer, facts), facts = {"device", "dtype",
    "weights", "run", …}. Raises UserError where the file is missing, damaged, of another class, or made with another
    tokenizer.
    """
    device, why_device = choose_device(device)
    dtype, why_dtype = choose_dtype(device, dtype)
    saved = load_model_file(path)
    meta = saved["meta"]
    try:   # it may come from anywhere
        found, fields, made_with = meta["config"]["model_class"], dict(meta["config"]["config"]), meta["tokenizer"]
        if not isinstance(found, str) or not isinstance(made_with, str):
            raise TypeError("model_class and tokenizer must be text")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged, it does not say what model and tokenizer it is of ({error})") from error
    if found != model_class:
        raise UserError(f"{path} is a {found}; a {model_class} is needed")
    if "ends" in meta:   # it began with an open model
        model, tokenizer = base.remembering(path, saved, LATER, dtype)
    else:
        tokenizer = own_tokenizer(path, made_with)
        cls, config = {"GPT": (GPT, GPTConfig), "THENGPT": (THENGPT, THENConfig)}[found]
        model = build_model(cls, config, fields, saved["model"], path, LATER)
    model = model.to(device).freeze(dtype)
    facts = {"device": f"{device} ({why_device})", "dtype": f"{str(dtype).removeprefix('torch.')} ({why_dtype})",
             "step": saved["step"],
             "weights": weights_digest(saved["model"]), "tokenizer": tokenizer.fingerprint}
    return model, tokenizer, facts


def own_tokenizer(path, fingerprint):
    """The Tokenizer of a checkpoint that did not begin with an open model. UserError where another one is there."""
    try:
        here = Path(path) / "tokenizer"
        tokenizer = Tokenizer.load(here if here.is_dir() else None)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if fingerprint != tokenizer.fingerprint:
        raise UserError(f"{path} was trained with another tokenizer ({str(fingerprint)[:12]}…, here "
                        f"{tokenizer.fingerprint[:12]}…)")
    return tokenizer


def load_tokenizer(path):
    """The tokenizer of a checkpoint, without its model. UserError as for load_model."""
    saved = load_model_file(path)
    with base.sound(path):
        meta = saved["meta"]
        return base.tokenizer_of(path, saved) if "ends" in meta else own_tokenizer(path, meta["tokenizer"])


def lexicon(model, tokenizer):
    """How texts are read for a model, made once."""
    if not hasattr(model, "lexicon"):
        model.lexicon = Lexicon(tokenizer, model.reader.words())
    return model.lexicon


def stems(model, tokenizer, ids):
    """(n,) int32: the stem of the word that each token of an episode is of, see Traces.words."""
    ids = np.asarray(ids, np.int64)
    out, said = np.zeros(len(ids), np.int32), ids < model.config.n_ordinary
    out[said] = lexicon(model, tokenizer).of_ids(ids[said]).stem
    return out


def episode_ids(tokenizer, texts):
    """
    The token ids of episodes, as they are remembered: arrays of the least unsigned integers, since a list takes
    eighteen times their memory.
    """
    kind = np.min_scalar_type(tokenizer.vocab_size)
    return [np.array([tokenizer.bos_id, *ids, tokenizer.end_id], kind) for at in range(0, len(texts), COMMIT)
            for ids in tokenizer.encode_batch(texts[at:at + COMMIT])]


def ingest(model, tokenizer, texts, first_ordinal=1, progress=None):
    """
    The traces of episodes `texts` (a list of str), in their order, as Traces with B = 1 on the CPU, in the precision
    they are stored in; episode i has the ordinal first_ordinal + i. progress: called with the number of tokens read
    since the last call.
    """
    return Layout(geometry(model)).rounded(ingest_ids(model, tokenizer, episode_ids(tokenizer, texts), first_ordinal,
                                                      progress))


@torch.no_grad()
def ingest_ids(model, tokenizer, encoded, first_ordinal=1, progress=None):
    """
    As ingest, of the token ids of episodes (see episode_ids), and not rounded yet: what Layout.pack makes records of.
    """
    shapes, first = {}, chunk_offsets(encoded)
    columns = {name: torch.empty(1, first[-1], *t.shape[2:], dtype=t.dtype)
               for name, t in model.empty_traces().as_dict().items()}
    for i in range(len(encoded)):
        shapes.setdefault(row_length(int(first[i + 1] - first[i])), []).append(i)
    for chunks, members in sorted(shapes.items()):
        height = max(min(SLOTS // (chunks * CHUNK), ROWS), 1)
        for at in range(0, len(members), height):
            rows = members[at:at + height]
            grid = torch.full((height, chunks * CHUNK), tokenizer.pad_id)
            for row, i in enumerate(rows):
                grid[row, :len(encoded[i])] = torch.from_numpy(np.asarray(encoded[i], np.int64))
            empty = state = model.empty_state(height, segment=min(chunks * CHUNK, SEGMENT))
            for begin, segment in enumerate(grid.to(model.wte.weight.device).split(SEGMENT, dim=1)):
                # the trunk looks into none, so none is carried along
                state = model.encode(segment, {**state, "traces": empty["traces"]})
                traces = state["traces"].to("cpu").as_dict()
                for row, i in enumerate(rows):
                    to = first[i] + begin * SEGMENT // CHUNK
                    n = max(min(first[i + 1] - to, segment.shape[1] // CHUNK), 0)
                    for name, column in columns.items():
                        column[0, to:to + n] = traces[name][row, :n]
                if progress:
                    progress(int((segment != tokenizer.pad_id).sum()))
    words = columns["words"].view(-1)
    for at, ids in zip(first, encoded):
        words[at * CHUNK:at * CHUNK + len(ids)] = torch.from_numpy(stems(model, tokenizer, ids))
    columns["episode"][0] = torch.from_numpy(np.repeat(np.arange(first_ordinal, first_ordinal + len(encoded)),
                                                       np.diff(first)))
    return Traces(**columns)


def chunk_offsets(encoded):
    """(episodes + 1,) int64: where the traces of each episode begin, and how many there are in all."""
    return np.cumsum([0, *(-(-len(ids) // CHUNK) for ids in encoded)])


def row_length(chunks):
    """
    The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few shapes, so that their rows fill, and less than a third of a row
    is padding.
    """
    power = 1 << (chunks - 1).bit_length()
    return power * 3 // 4 if chunks <= power * 3 // 4 and power > 2 else power


def commits(model, tokenizer, encoded, rows, progress=None, ranks=Ranks()):
    """
    Reads episodes (token ids of each, and its (source, line, time)), so many at a time as are to be committed together.
    Yields of those: their records (n, stride) uint8, how many each has, and their rows.

    Of several ranks, all with the same arguments, each reads its part, and the first one is given it all, the same
    bytes as if it were alone, since no trace depends on other episodes. The others are given None; `progress` counts
    what this rank has read.
    """
    layout, first, at = Layout(geometry(model)), chunk_offsets(encoded), 0
    while at < len(encoded):
        full = int(np.searchsorted(first, first[at] + ranks.world * HELD // CHUNK, side="right")) - 1
        end = min(max(full, at + 1), at + ranks.world * COMMIT, len(encoded))
        part = encoded[at:end]
        every = ranks.gather(layout.pack(ingest_ids(model, tokenizer, part[ranks.part(len(part))], progress=progress)))
        records = every and (every[0] if len(every) == 1 else np.concatenate(every))
        yield records, np.diff(first[at:end + 1]).tolist(), rows[at:end]
        at = end


def remember(model, tokenizer, memory, encoded, rows, progress=None, ranks=Ranks()):
    """
    Adds episodes to a memory.Writer, see `commits`; it is of no account on other ranks than the first. What a kill
    leaves, and the same call without what is there already, give the same files as one that was not killed.
    """
    for part in commits(model, tokenizer, encoded, rows, progress, ranks):
        if ranks.first:
            memory.append(*part)
            memory.commit()


@torch.no_grad()
def listen(model, tokenizer, state, ids):
    """
    The state after some more tokens of an open episode, its first begun by <|bos|>: what does not fill a chunk waits in
    state["buffer"], every chunk that closes is a trace at once. As model(…) would leave it, by the trunk alone: it can
    be read, not be continued.
    """
    line = torch.cat([state["buffer"], torch.tensor([ids], device=state["buffer"].device)], dim=1)
    cut = line.shape[1] // CHUNK * CHUNK
    for segment in line[:, :cut].split(SEGMENT, dim=1) if cut else ():
        state = model.encode(segment, state)
    if cut:   # the last word of the chunk before may have become longer
        own = (state["traces"].episode[0] == state["episode"]).nonzero()[:, 0]
        said = state["traces"].ids[0, own]
        words = torch.from_numpy(stems(model, tokenizer, said.flatten().cpu().numpy())).view(said.shape)
        state["traces"] = replace(state["traces"], words=state["traces"].words.index_copy(1, own, words[None].to(said)))
    return {**state, "buffer": line[:, cut:]}


@dataclass
class Episode:
    """Something that is remembered. An answer from `answer` names it by id and score; LiveMemory fills in the rest."""
    id: int                # its place among the episodes: 1, 2, …; those after one that is forgotten move up
    text: str = ""
    source: str = None     # where it is from: a file, a conversation
    line: int = None       # of the source
    time: int = None       # when it was lived, seconds since 1970
    score: float = None    # share of an answer's copying that was done from it


@dataclass
class Answer:
    text: str
    # probability of the answer: the product over its tokens, and its end
    confidence: float
    episodes: list = field(default_factory=list)    # of Episode, that it was read from, best first
    seconds: float = 0.0
    # it does not stand in any of them as it is: several values, or worked out
    composed: bool = False


@dataclass
class Found:
    """
    What a question finds. `question`: as it is read, a words.Line; `best`: the episodes (ordinals) that it is about,
    best first; `score` (count,): of every episode 1, 2, …
    """
    question: Line
    best: list
    score: np.ndarray


def asked(model, tokenizer, question):
    """A question (str) as a words.Line. UserError where it is too long, or nothing."""
    line = lexicon(model, tokenizer).line(question)
    most = min(QUESTION, model.config.reading // 2)   # what reading.lay_out keeps
    if len(line) > most or not question.strip():
        raise UserError(f"a question of {len(line):,} tokens: it may have {most:,}" if question.strip()
                        else "an empty question", code=2)
    return line


@torch.no_grad()
def found(model, tokenizer, state, question):
    """
    The Found of a question (str). A word that no episode says, with a typing error in it, is read as theirs, see
    Lexicon.respelled. UserError as for `asked`.
    """
    line, traces, count = asked(model, tokenizer, question), state["traces"], int(state["episode"])
    if not len(traces):
        return Found(line, [], np.zeros(count, np.float32))
    owner, valid, words = (t[0].cpu().numpy() for t in (traces.episode, traces.valid, traces.words))
    owner = owner.astype(np.int64) - 1
    length = np.bincount(owner, valid, minlength=count)
    said = finding.occurrences(line.stem, line.joined, words, owner, length)
    unsaid = {*line.stem.tolist()} - {0, *line.stem[said.word - 1].tolist()}
    text_of = lambda row: episode_text(traces, tokenizer, int(owner[row]) + 1)
    spelled = lexicon(model, tokenizer).respelled(line, unsaid, words, text_of)
    if spelled is not line:
        line, said = spelled, finding.occurrences(spelled.stem, spelled.joined, words, owner, length)
    asks = model.asks(reading.alone([line], tokenizer).to(traces.episode.device))
    score = finding.scores(model.finder.numbers, asks, [said], cosines(traces.gist, asks.vector[0])[None],
                           traces.episode[0].long() - 1)[0].cpu().numpy()
    return Found(line, (finding.rank(score, FOUND) + 1).tolist(), score)


def told(state, tokenizer, ordinal, times=None):
    """What stands in a reading window of an episode. times: as for `window`."""
    known = times is not None and ordinal <= len(times)
    return reading.dated(episode_text(state["traces"], tokenizer, ordinal), int(times[ordinal - 1]) if known else -1)


def window(model, tokenizer, state, question, times=None):
    """
    The reading.Window (B = 1) of a question, and the episodes (ordinals) in it, to which its `ordinal` points. times:
    seconds since 1970 of each episode, -1 = unknown; the one that is being said has none yet. UserError where the
    question is too long, or nothing.
    """
    what = found(model, tokenizer, state, question)
    room, taken = model.config.reading, []
    for ordinal in what.best:   # more than fit are not read from the memory
        if room <= 0:
            break
        text = told(state, tokenizer, ordinal, times)
        size = max(len(text) // 6, 1)   # tokens, rather fewer than it has
        if size < room or not taken:   # one that can't fit takes no room; the best one would be cut
            taken.append((ordinal, text))
            room -= size
    kept = sorted(taken)
    lines = [lexicon(model, tokenizer).line(text) for _, text in kept]
    order = [kept.index(one) for one in taken]
    columns, _ = reading.lay_out(what.question, lines, order, tokenizer, model.config.reading)
    return reading.batch([columns]).to(model.wte.weight.device), [ordinal for ordinal, _ in kept]


@torch.no_grad()
def stream(model, tokenizer, state, question, max_tokens=48, min_confidence=0.0, times=None):
    """
    Yields the text of the likeliest answer as it comes, and returns (StopIteration.value) the whole Answer. One of
    which nothing was copied has no source. The state is not changed. times: see `window`.

    An answer below min_confidence is REFUSAL, from nothing; to know that takes the whole answer, so with min_confidence
    it comes in one piece.
    """
    began = time.perf_counter()
    laid, episodes = window(model, tokenizer, state, question, times)
    shown, confidence, mass, tokens = "", 1.0, {}, []
    for token, place, probability in reading.steps(model, laid, max_tokens):
        confidence *= probability
        if token == tokenizer.end_id:
            break
        tokens.append((token, place))
        if place >= 0:
            ordinal = episodes[int(laid.ordinal[0, place])]
            mass[ordinal] = mass.get(ordinal, 0.0) + probability
        text = reading.text_of(tokenizer, tokens)
        # a character may still be cut
        if not min_confidence and text != shown and text.startswith(shown) and not text.endswith("\ufffd"):
            yield text[len(shown):]
            shown = text
    text = reading.text_of(tokenizer, tokens)
    if confidence < min_confidence:
        text, mass = REFUSAL, {}
    if rest := text[len(shown):]:
        yield rest
    total = sum(mass.values())
    ranked = sorted(mass.items(), key=lambda s: (-s[1], s[0]))
    stands = any(holds(told(state, tokenizer, e, times), text) for e in mass)
    return Answer(text, confidence, [Episode(e, score=m / total) for e, m in ranked], time.perf_counter() - began,
                  bool(text) and text != REFUSAL and not stands)


def answer(model, tokenizer, state, question, max_tokens=48):
    """The whole Answer to a question."""
    return result(stream(model, tokenizer, state, question, max_tokens))


def result(pieces, on_text=None):
    """What a generator returns; on_text is called with each piece that it yields."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        if on_text:
            on_text(piece)


def routing(model, tokenizer, state, question):
    """How well each episode is found by a question: [(ordinal, share of all scores)], best first, from 0.0001 on."""
    share = torch.softmax(torch.from_numpy(found(model, tokenizer, state, question).score), 0).numpy()
    return sorted(((int(e) + 1, float(share[e])) for e in np.flatnonzero(share >= 1e-4)), key=lambda s: (-s[1], s[0]))


def episode_text(traces, tokenizer, ordinal):
    """The text of an episode, from the token ids in its traces (B = 1); '' if there is none."""
    begin, end = torch.searchsorted(traces.episode[0].contiguous(),
                                    torch.tensor([ordinal, ordinal + 1], dtype=torch.int32,
                                                 device=traces.episode.device)).tolist()
    ids = traces.ids[0, torch.arange(begin, end)].flatten().tolist()
    return tokenizer.decode([i for i in ids if i not in (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id)])
