"""
The frozen model at work: text becomes traces, questions are answered from them.

Ingest runs the trunk alone, many episodes at once as rows of one batch. Rows are always padded to the same few shapes, so that
the traces of an episode do not depend on which others it was ingested with.
"""
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from nanochat.checkpoint_manager import load_model_file, weights_digest
from nanochat.common import UserError, choose_device, choose_dtype
from nanochat.distributed import Ranks
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig
from nanochat.record import Layout, geometry
from nanochat.state import CHUNK, Traces
from nanochat.tokenizer import Tokenizer

SEGMENT = 512    # slots of an episode that are read at once
ROWS = 64        # episodes that are read at once
COMMIT = 2048    # episodes between the commits of `remember`: what a kill may cost


def load_model(path, device="auto", dtype="auto", model_class="THENGPT"):
    """
    The frozen model of a checkpoint and its tokenizer: (model, tokenizer, facts), facts = {"device", "dtype", "weights", "run", …}.
    Raises UserError where the file is missing, damaged, of another class, or made with another tokenizer.
    """
    device, why_device = choose_device(device)
    dtype, why_dtype = choose_dtype(device, dtype)
    saved = load_model_file(path)
    found = saved["meta"]["config"]["model_class"]
    if found != model_class:
        raise UserError(f"{path} is a {found}; a {model_class} is needed")
    try:
        tokenizer = Tokenizer.load()
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if saved["meta"]["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{path} was trained with another tokenizer ({saved['meta']['tokenizer'][:12]}…, here {tokenizer.fingerprint[:12]}…)")
    cls, config = {"GPT": (GPT, GPTConfig), "THENGPT": (THENGPT, THENConfig)}[found]
    model = cls(config(**saved["meta"]["config"]["config"]))
    model.load_state_dict(saved["model"])
    model = model.to(device).requires_grad_(False)
    model.dtype = dtype
    facts = {"device": f"{device} ({why_device})", "dtype": f"{str(dtype).removeprefix('torch.')} ({why_dtype})", "step": saved["step"],
             "weights": weights_digest(saved["model"]), "tokenizer": tokenizer.fingerprint}
    return model, tokenizer, facts


def question_ids(tokenizer, question):
    return [tokenizer.bos_id, tokenizer.user_id, *tokenizer.encode(question), tokenizer.assistant_id]


def episode_ids(tokenizer, texts):
    """The token ids of episodes, as they are remembered."""
    return [[tokenizer.bos_id, *ids, tokenizer.end_id] for ids in tokenizer.encode_batch(texts)]


def ingest(model, tokenizer, texts, first_ordinal=1, progress=None):
    """
    The traces of episodes `texts` (a list of str), in their order, as Traces with B = 1 on the CPU, in the precision they are stored in; episode i
    has the ordinal first_ordinal + i. progress: called with the number of episodes done since the last call.
    """
    return Layout(geometry(model)).rounded(ingest_ids(model, tokenizer.pad_id, episode_ids(tokenizer, texts), first_ordinal, progress))


@torch.no_grad()
def ingest_ids(model, pad_id, encoded, first_ordinal=1, progress=None):
    """As ingest, of the token ids of episodes (see episode_ids), and not rounded yet: what Layout.pack makes records of."""
    shapes = {}
    for i, ids in enumerate(encoded):
        chunks = -(-len(ids) // CHUNK)
        shapes.setdefault(chunks if chunks <= 4 else -(-chunks // 4) * 4, []).append(i)
    parts = [None] * len(encoded)
    for chunks, members in sorted(shapes.items()):
        for at in range(0, len(members), ROWS):
            rows = members[at:at + ROWS]
            grid = torch.full((ROWS, chunks * CHUNK), pad_id)
            for row, i in enumerate(rows):
                grid[row, :len(encoded[i])] = torch.as_tensor(encoded[i])
            state = model.empty_state(ROWS)
            for segment in grid.to(model.wte.weight.device).split(SEGMENT, dim=1):
                state = model.encode(segment, state)
            traces = state["traces"].to("cpu")
            for row, i in enumerate(rows):
                parts[i] = traces.map(lambda t: t[row:row + 1, :-(-len(encoded[i]) // CHUNK)])
            if progress:
                progress(len(rows))
    if not parts:
        return model.empty_state(1)["traces"]
    merged = Traces.cat(parts).as_dict()
    counts = torch.tensor([len(p) for p in parts])
    merged["episode"] = torch.repeat_interleave(torch.arange(first_ordinal, first_ordinal + len(parts), dtype=torch.int32), counts)[None]
    return Traces(**merged)


def remember(model, memory, encoded, rows, progress=None, ranks=Ranks()):
    """
    Adds episodes (token ids of each, and its (source, line, time)) to a memory.Writer, committed every COMMIT of them (and rank). What a kill leaves,
    and the same call without what is there already, give the same files as one that was not killed.

    Of several ranks, all with the same arguments, each reads its part, and the first one writes, to the same bytes as if it were alone, since
    no trace depends on other episodes: `memory` is of no account on the others, `progress` counts what this rank has read.
    """
    layout, step = Layout(geometry(model)), COMMIT * ranks.world
    for at in range(0, len(encoded), step):
        part = encoded[at:at + step]
        traces = ingest_ids(model, layout.geometry["pad_id"], part[ranks.part(len(part))], progress=progress)
        every = ranks.gather(layout.pack(traces))
        if ranks.first:
            memory.append(np.concatenate(every), [-(-len(ids) // CHUNK) for ids in part], rows[at:at + step])
            memory.commit()


@dataclass
class Answer:
    text: str
    confidence: float                              # probability of the answer, the product over its tokens
    sources: list = field(default_factory=list)    # [{"episode": ordinal, "score": share of the copying done from it}], best first
    seconds: float = 0.0


@torch.no_grad()
def stream_answer(model, tokenizer, state, question, max_tokens=48, read=True):
    """
    Ask a question, greedily. Yields (token id, probability, {episode ordinal: mass copied from it}) until <|end|>. The state is not changed;
    the question is an episode of its own, so it does not see what the buffer holds.
    """
    device = model.wte.weight.device
    live = {**model.empty_state(1), "traces": state["traces"], "episode": state["episode"]}
    feed = torch.tensor([question_ids(tokenizer, question)], device=device)
    for _ in range(max_tokens):
        log_p, live, copied = model(feed, state=live, read=read, last=True, sources=True)
        token = int(log_p[0, -1].argmax())
        if token == tokenizer.end_id:
            return
        yield token, float(log_p[0, -1, token].exp()), copied(token)
        feed = torch.tensor([[token]], device=device)


def answer(model, tokenizer, state, question, max_tokens=48, read=True, on_text=None):
    """The whole Answer to a question; on_text is called with each piece of text as it comes."""
    began, text, confidence, sources = time.perf_counter(), "", 1.0, {}
    decoder = tokenizer.stream_decoder(skip_special=True)

    def emit(piece):
        nonlocal text
        piece = piece.lstrip() if not text else piece
        text += piece
        if on_text and piece:
            on_text(piece)

    for token, probability, copied in stream_answer(model, tokenizer, state, question, max_tokens, read):
        confidence *= probability
        for episode, mass in copied.items():
            sources[episode] = sources.get(episode, 0.0) + mass
        emit(decoder.feed(token))
    emit(decoder.flush())
    # the question's own chunks, once closed, can be copied from, too: they are not what was remembered
    sources = {episode: mass for episode, mass in sources.items() if episode <= int(state["episode"])}
    total = sum(sources.values())
    ranked = sorted(sources.items(), key=lambda s: (-s[1], s[0]))
    return Answer(text, confidence, [{"episode": e, "score": m / total} for e, m in ranked if m / total >= 0.01][:8], time.perf_counter() - began)


def episode_text(traces, tokenizer, ordinal):
    """The text of an episode, from the token ids in its traces (B = 1); '' if there is none."""
    here = (traces.episode[0] == ordinal).nonzero().flatten()
    ids = traces.ids[0, here].flatten().tolist()
    return tokenizer.decode([i for i in ids if i not in (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id)])
