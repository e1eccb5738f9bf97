"""
The episodic state: what a frozen THENGPT remembers, as a value.

    state["traces"]     Traces: one record per closed chunk of 16 slots, oldest first
    state["buffer"]     (B, n) token ids of the open chunk, n < 16
    state["recurrent"]  what the write layers carry over the last chunk boundary (see THENGPT)
    state["episode"]    (B,) ordinal of the open episode
    state["position"]   (B,) chunks of the open episode that are closed

A forward pass takes a state and returns a new one; nothing is changed in place. All rows of a batch share one grid of
16-slot chunks: an episode begins at a chunk boundary with <|bos|>, and a row that has nothing to say holds <|pad|>.
"""
from dataclasses import dataclass, fields

import torch

CHUNK = 16   # the quantum: KDA chunk, trace, record, unit of addressing


@dataclass(frozen=True)
class Traces:
    """N traces for each of B rows."""
    ids: torch.Tensor       # (B, N, 16) int32   the tokens
    # (B, N, 16) int32   hash of the stem of the word that each token is of (words.py), 0 = none; the model leaves it 0,
    # the engine fills it in
    words: torch.Tensor
    gist: torch.Tensor      # (B, N, Dg)         pooled content, for the read layers
    index: torch.Tensor     # (B, N, L, Di)      routing key for each of the L read layers (lightning indexer)
    episode: torch.Tensor   # (B, N) int32       ordinal of the episode
    position: torch.Tensor  # (B, N) int32       chunk within the episode
    valid: torch.Tensor     # (B, N) int32       tokens in it; 0 = an empty slot of the grid, or a question: never read

    def __len__(self):
        """Number of traces a row holds (empty slots of the grid included when B > 1)."""
        return self.ids.shape[1]

    def map(self, fn):
        return Traces(**{f.name: fn(getattr(self, f.name)) for f in fields(self)})

    def __getitem__(self, index):
        """Traces [:, index]; index is a slice or an integer tensor."""
        return self.map(lambda t: t[:, index])

    def to(self, device=None, dtype=None):
        return self.map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    @staticmethod
    def cat(parts):
        return Traces(*(torch.cat([getattr(p, f.name) for p in parts], dim=1) for f in fields(parts[0])))

    def as_dict(self):
        return {f.name: getattr(self, f.name) for f in fields(self)}


def map_state(state, fn):
    """Apply fn to every tensor of a state (or any nest of dicts, lists and Traces), keeping its shape."""
    if isinstance(state, torch.Tensor):
        return fn(state)
    if isinstance(state, Traces):
        return state.map(fn)
    if isinstance(state, dict):
        return {k: map_state(v, fn) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return [map_state(v, fn) for v in state]
    return state


def detach_state(state, max_traces=None):
    """The TBPTT boundary: the same state, cut from the graph. Keeps the newest max_traces traces if given."""
    state = map_state(state, torch.Tensor.detach)
    if max_traces is not None and len(state["traces"]) > max_traces:
        state["traces"] = state["traces"][len(state["traces"]) - max_traces:]
    return state


def forget_rows(state, rows):
    """Begin a new life in the rows flagged by the (B,) bool tensor: their traces are emptied."""
    traces = state["traces"].as_dict()
    traces["valid"] = torch.where(rows[:, None], 0, traces["valid"])
    return {**state, "traces": Traces(**traces)}


def state_to_plain(state):
    """A nest of dicts, lists and tensors only, as torch.load(weights_only=True) accepts."""
    return {**state, "traces": state["traces"].as_dict()}


def state_from_plain(plain):
    return {**plain, "traces": Traces(**plain["traces"])}
