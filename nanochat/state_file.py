"""
The episodic state as one file, S.pt, read with weights_only=True: no file can run code.

    format, version      "live-memory-state", 1
    geometry             vocabulary, special tokens, shape of each field of a trace
    weights, tokenizer   digests of the model that wrote it: to any other, keys and gists are noise
    traces               {field: (1, N, ...)}: floats in bf16, token ids in int16 where the vocabulary fits
    buffer               (1, n) int64, the tokens of the open chunk
    episodes             {"count", "names": [str], "name": (count,) int32, "line": (count,) int32}; -1 = not known
    sha256               over everything above, names, dtypes and shapes included
"""
import hashlib
import json
import pickle
from pathlib import Path

import torch

from nanochat.common import UserError, atomic_write
from nanochat.state import CHUNK, Traces

FORMAT = "live-memory-state"
VERSION = 1


def save_state(path, state, model, facts, sources=()):
    """
    Writes the state of one row (B = 1) that `model` has lived through, atomically. facts: from engine.load_model.
    sources: for the episodes 1, 2, …, as far as known, (name, line) or None.

    Floats are rounded to bf16: exact for a model that computes in bf16. Not stored is what the write layers carry within an episode, so
    the buffer must be empty or begin one: ValueError otherwise.
    """
    buffer = state["buffer"]
    if buffer.shape[0] != 1:
        raise ValueError(f"a state file holds one row, not {buffer.shape[0]}")
    if buffer.shape[1] and buffer[0, 0] != model.config.bos_id:
        raise ValueError("an episode is open beyond its first chunk: close it before saving")
    content = {"format": FORMAT, "version": VERSION, "geometry": geometry(model), "weights": facts["weights"], "tokenizer": facts["tokenizer"],
               "traces": stored(state["traces"], model.config.vocab_size), "buffer": whole(buffer),
               "episodes": episode_table(int(state["episode"][0]), sources)}
    content["sha256"] = content_digest(content)
    atomic_write(path, lambda f: torch.save(content, f))


def load_state(path, model, facts):
    """
    (state, sources): the state for `model` (B = 1; traces on its device, in its dtype; `episode` the ordinal of the last one), and for each
    episode (name, line) or None. Raises UserError, in one line, for a file that is missing, damaged, not a state, or of another model.
    """
    content = read_content(Path(path))
    for name, here in geometry(model).items():
        there = content["geometry"].get(name)
        if there != here:
            raise UserError(f"{path} was made by a model of another shape ({name} is {there} there, {here} here)")
    for name, what in (("tokenizer", "with another tokenizer"), ("weights", "by a model with other weights")):
        if content[name] != facts[name]:
            raise UserError(f"{path} was made {what} ({content[name][:12]}…, here {facts[name][:12]}…): ingest the text again with this model")
    state = model.empty_state(1)
    fields = {}
    for name, empty in state["traces"].as_dict().items():
        fields[name] = content["traces"][name].to(device=empty.device, dtype=empty.dtype)
    table = content["episodes"]
    sources = [(table["names"][n], line) if n >= 0 else None for n, line in zip(table["name"].tolist(), table["line"].tolist())]
    state = {**state, "traces": Traces(**fields), "buffer": content["buffer"].to(state["buffer"].device),
             "episode": torch.full_like(state["episode"], table["count"])}
    return state, sources


def geometry(model):
    """What a trace looks like, as plain JSON: the same for two models that could exchange them."""
    c = model.config
    shapes = {name: list(t.shape[2:]) for name, t in model.empty_state(1)["traces"].as_dict().items()}
    return {"chunk": CHUNK, "vocab_size": c.vocab_size, "n_ordinary": c.n_ordinary, "bos_id": c.bos_id, "pad_id": c.pad_id, **shapes}


def whole(tensor):
    """On the CPU, contiguous, in a storage of its own: torch.save writes a view's storage whole."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def stored(traces, vocab_size):
    narrow = torch.int16 if vocab_size <= 2 ** 15 else torch.int32
    dtype = lambda name, t: torch.bfloat16 if t.is_floating_point() else narrow if name in ("ids", "before") else torch.int32
    return {name: whole(t.to(dtype(name, t))) for name, t in traces.as_dict().items()}


def episode_table(count, sources):
    known = [sources[i] if i < len(sources) else None for i in range(count)]
    number = {name: i for i, name in enumerate(dict.fromkeys(s[0] for s in known if s))}
    return {"count": count, "names": list(number), "name": torch.tensor([number[s[0]] if s else -1 for s in known], dtype=torch.int32),
            "line": torch.tensor([s[1] if s else -1 for s in known], dtype=torch.int32)}


def content_digest(content):
    """SHA-256 over a nest of dicts of tensors and plain JSON, but for the key 'sha256'."""
    digest = hashlib.sha256()

    def add(name, value):
        if isinstance(value, dict):
            for key in sorted(value.keys() - {"sha256"}):
                add(f"{name}/{key}", value[key])
        elif isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(f"{name} {json.dumps(value)}\n".encode())

    add("", content)
    return digest.hexdigest()


def read_content(path):
    """The content of a state file that is whole, of this format and version; UserError otherwise."""
    if not path.is_file():
        raise UserError(f"{path}: no such state file")
    with open(path, "rb") as f:
        if f.read(4) != b"PK\x03\x04":
            raise UserError(f"{path}: not a Live Memory state (not a file of torch.save)")
        f.seek(0)
        try:
            content = torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(f"{path}: not a Live Memory state, or damaged (it holds more than plain data)") from error
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{path}: truncated or damaged, or not a Live Memory state ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a Live Memory state")
    if content.get("version") != VERSION:
        raise UserError(f"{path}: state format version {content.get('version')}, this program reads version {VERSION}")
    try:
        good = content["sha256"] == content_digest(content)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: damaged, not what a Live Memory state holds ({error})") from error
    if not good:
        raise UserError(f"{path}: damaged, its SHA-256 does not fit its content")
    return content
