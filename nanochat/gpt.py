"""
GPT, the plain baseline, and THENGPT, the same model with an episodic memory.

GPT is nanochat's: rotary embeddings, QK norm, RMSNorm without parameters, ReLU^2, untied embeddings, group-query
attention, logit soft cap, no biases, one dial (depth: width = 64 * depth). With family="llama" it is a model of the
Llama family, whose weights base.py reads: RMSNorm with gains, none on embeddings, queries and keys, SwiGLU, no cap on
logits.

THENGPT replaces nanochat's attention by HybridTHENAttention and adds a reading head:

    layer i with i % (ratio + 1) <  ratio    write layer, KDA or sliding-window attention: binds words within an episode
    layer i with i % (ratio + 1) == ratio    read layer, DSA: attends to the window and to the gists of selected traces

The layers below the first read layer are the *trunk*. Everything that goes into a trace is computed from the trunk's
output, which never looks into memory (one memory for all layers above, as YOCO's self-decoder, Sun et al. 2024): a
trace depends on its own episode alone. That is what makes deletion exact and ingest parallel.

A question is answered by reading: what finding.py finds is laid out with the question in one window, and all blocks
read it (reading.py).
"""
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat import finding, reading
from nanochat.layers import (MLP, Adapter, CausalSelfAttention, Embedding, HybridTHENAttention, Linear, Norm, Stretch,
                             mix, norm, rotary, wide)
from nanochat.state import CHUNK, Traces


INDEX_POSITIONS = 8   # of a row, at which the indexers are trained


MAY_BE_ZERO = ("nearby", "word_bytes", "n_ordinary", "head_dim", "mlp_dim", "lora_rank")
ABOVE_ZERO = ("norm_eps", "rope_base", "rope_stretch", "rope_low", "rope_high")
CHOICES = {"family": ("nanochat", "llama"), "write_mixer": ("swa", "kda"), "gist_pool": ("gated", "mean")}
# fields of a model of the Llama family
OPEN_MODELS = ("family", "head_dim", "mlp_dim", "norm_eps", "rope_base", "rope_stretch", "rope_low", "rope_high",
               "rope_reach", "tied", "qkv_bias")


@dataclass
class GPTConfig:
    vocab_size: int = 2048
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 4
    n_embd: int = 256
    family: str = "nanochat"     # nanochat | llama
    head_dim: int = 0            # 0: n_embd / n_head
    mlp_dim: int = 0             # 0: 4 * n_embd
    norm_eps: float = 2 ** -23   # that of fp32
    rope_base: float = 10000.0
    rope_stretch: float = 1.0    # this and the next three: see layers.Stretch; 1 = none
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_reach: int = 8192
    tied: bool = False           # the head's weight is that of the embedding
    qkv_bias: bool = False

    def __post_init__(self):
        """
        TypeError for a field of another type, ValueError for a value that none can have: a configuration may come from
        a file, or from --set.
        """
        for field in fields(self):
            value, kinds = getattr(self, field.name), (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:   # not isinstance: True is an int
                raise TypeError(f"{field.name} is {str(value)[:40]}, not of type {field.type.__name__}")
            if field.type is int and value < (0 if field.name.endswith("_id") or field.name in MAY_BE_ZERO else 1):
                raise ValueError(f"{field.name} is {value}, too small")
            if value not in CHOICES.get(field.name, (value,)):
                raise ValueError(f"{field.name} is {value[:40]}, not {' or '.join(CHOICES[field.name])}")
            if field.name in ABOVE_ZERO and not 0 < value < math.inf:
                raise ValueError(f"{field.name} is {value}, not a number above 0")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head is {self.n_head}, not a multiple of n_kv_head, {self.n_kv_head}")
        if self.head_width < 2 or self.head_width % 2:
            raise ValueError(f"a head has {self.head_width} dimensions, which are not pairs to rotate")
        if self.rope_low >= self.rope_high:
            raise ValueError(f"rope_low is {self.rope_low}, not below rope_high, {self.rope_high}")

    @property
    def head_width(self):
        return self.head_dim or self.n_embd // self.n_head

    @property
    def stretch(self):
        """A layers.Stretch, None where frequencies stay as they are."""
        settings = (self.rope_stretch, self.rope_low, self.rope_high, self.rope_reach)
        return Stretch(*settings) if self.rope_stretch != 1 else None


@dataclass
class THENConfig(GPTConfig):
    ratio: int = 3               # write layers for each read layer
    write_mixer: str = "swa"     # swa | kda
    window: int = 64             # slots a token sees back in its own episode, a multiple of 16
    n_ordinary: int = 2040       # token ids from here on are special
    bos_id: int = 2040
    end_id: int = 2041
    user_id: int = 2042
    assistant_id: int = 2043
    pad_id: int = 2044
    gist_dim: int = 128
    gist_pool: str = "gated"     # gated | mean
    index_heads: int = 4
    index_dim: int = 32
    read_topk: int = 64          # traces a read layer attends to
    read_reach: int = 128        # training only: the newest traces a read layer sees, densely
    # places of a reading window that a block mixes before it attends, an odd number; 0 = none
    nearby: int = 0
    reading: int = reading.WINDOW    # tokens of a reading window at most
    # a reading window sees itself in both directions; false: only what stands before, for comparison
    both_ways: bool = True
    # training only: the language-model loss is taken on so many of the slots, ordinary tokens first
    text_fraction: float = 0.35
    word_vectors: int = 1        # rows of the word vectors, an input of reading; row 0 is zero
    word_dim: int = 50
    word_bytes: int = 0          # of the list of their words
    lora_rank: int = 0           # of an open model, whose own weights are frozen; 0: they are not

    def __post_init__(self):
        super().__post_init__()
        changed = [name for name in OPEN_MODELS if getattr(self, name) != getattr(GPTConfig, name)]
        if changed and self.family != "llama":
            raise ValueError(f"{changed[0]} is {getattr(self, changed[0])}, which only an open model can have")
        if self.lora_rank and self.family != "llama":
            raise ValueError(f"lora_rank is {self.lora_rank}, which only an open model can have")
        if self.family == "llama" and (self.write_mixer != "swa" or self.nearby or self.both_ways):
            raise ValueError("an open model has write_mixer swa, nearby 0 and both_ways false")


def config_from_depth(model_class, depth, **overrides):
    """The one dial: depth gives width 64 * depth and heads of 64 dimensions."""
    cls = {"GPT": GPTConfig, "THENGPT": THENConfig}[model_class]
    return cls(**{**dict(n_layer=depth, n_embd=64 * depth, n_head=depth, n_kv_head=depth), **overrides})


class Block(nn.Module):
    def __init__(self, config, layer, attention_class):
        super().__init__()
        self.attn_norm, self.mlp_norm = Norm(config), Norm(config)
        self.attn = attention_class(config, layer)
        self.mlp = MLP(config)

    def over(self, x, cos, sin, mask, past=None, around=None):
        """
        x (B, T, D) of a reading window, or of an answer, through the block; around: the other arguments of layers.mix,
        by which its places are mixed first. Returns (B, T, D), and (k, v) as CausalSelfAttention.over.
        """
        x = mix(x, *around) if around else x
        y, kv = self.attn.over(self.attn_norm(x), cos, sin, mask, past)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), kv


class GPT(nn.Module):
    attention_class = CausalSelfAttention

    def __init__(self, config):
        """Builds the modules only (meta device works); call init_weights afterwards."""
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList([Block(config, i, self.attention_class) for i in range(config.n_layer)])
        self.norm = Norm(config)
        self.lm_head = None if config.tied else Linear(config.n_embd, config.vocab_size)
        self.dtype = torch.float32   # of the activations; weights stay fp32
        # flash_attention.resolve(...), for the attention of GPT; None = resolved at each call
        self.backend = None

    @torch.no_grad()
    def init_weights(self):
        """nanochat's initialisation: projections back into the residual stream start at zero."""
        nn.init.normal_(self.wte.weight, std=0.02 if self.config.tied else 1.0)   # of a head that is tied, small logits
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=0.001)
        for module in self.modules():
            if isinstance(module, Norm) and module.weight is not None:
                nn.init.ones_(module.weight)
        for module in self.blocks.modules():
            if isinstance(module, Linear):
                bound = 3 ** 0.5 * module.in_features ** -0.5
                nn.init.uniform_(module.weight, -bound, bound)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.proj.weight)

    def describe(self):
        """What a checkpoint needs to build the model again."""
        return {"model_class": type(self).__name__, "config": asdict(self.config)}

    def parameter_table(self):
        """[(name, parameters)] of the parts."""
        count = lambda m: sum(p.numel() for p in m.parameters())
        rows = [("embedding", count(self.wte)), *([] if self.lm_head is None else [("lm_head", count(self.lm_head))]),
                ("mixers", sum(count(b.attn) for b in self.blocks)), ("mlps", sum(count(b.mlp) for b in self.blocks))]
        return rows + [("total", count(self))]

    def parameter_groups(self, matrix_lr=0.02, embedding_lr=0.3, head_lr=0.004, table_lr=0.002, scalar_lr=0.01):
        """
        Muon on the matrices of the blocks and of the copy, AdamW on the rest: embeddings, traces, features of reading,
        gains and gates.
        """
        # by what they do, not by their sizes: a weight is in the same group at every depth. A row of beta or index_w
        # is one head's gate
        matrices = [m.weight for name, m in self.named_modules() if isinstance(m, Linear)
                    and name.startswith(("blocks.", "reader."))
                    and name.split(".")[-1] not in ("beta", "index_w", "gate", "word")]
        scale = (self.config.n_embd / 768) ** -0.5   # nanochat: AdamW rates are tuned at width 768
        groups = [dict(kind="muon", params=matrices, lr=matrix_lr)]
        if self.lm_head is None:   # a weight that does both changes as slowly as a head's
            groups += [dict(kind="adamw", params=[self.wte.weight], lr=head_lr * scale)]
        else:
            groups += [dict(kind="adamw", params=[self.wte.weight], lr=embedding_lr * scale),
                       dict(kind="adamw", params=[self.lm_head.weight], lr=head_lr * scale)]
        taken = {id(p) for group in groups for p in group["params"]}
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        rest = [p for p in self.parameters() if id(p) not in taken and p.requires_grad]
        for lr, params in ((table_lr, [p for p in rest if p.ndim > 1]), (scalar_lr, [p for p in rest if p.ndim <= 1])):
            groups += [dict(kind="adamw", params=params, lr=lr)]
        return [group for group in groups if group["params"]]

    @property
    def head_dim(self):
        return self.config.head_width

    borrowed = frozenset()   # names of weights that are those of an open model, and not saved with this one

    def freeze(self, dtype):
        """
        Never trained again: activations are of `dtype`, and so are the matrices, which every use would cast to it.
        Returns the model.
        """
        self.dtype = dtype
        for module in self.requires_grad_(False).modules():
            if isinstance(module, Linear) or module is self.wte:   # adapters are parts of theirs
                module.to(dtype)
        return self

    def narrow(self):
        """Matrices of an open model that do not learn are kept in the activations' dtype: every use would cast them."""
        for weight in map(self.get_parameter, self.borrowed):
            if weight.dim() > 1:
                weight.data = weight.data.to(self.dtype)

    def embed(self, idx):
        return self.wte(idx).to(self.dtype)

    def enter(self, x):
        """What the blocks are given of embeddings (…, D)."""
        return x if self.config.family == "llama" else norm(x)

    def rotary(self, position):
        """layers.rotary of positions, with the frequencies of this model."""
        return rotary(position, self.head_dim, self.dtype, self.config.rope_base, self.config.stretch)

    def head(self, x):
        """(…, D) normalised final hidden state -> (…, V) fp32 logits; nanochat's are soft-capped at +-15."""
        logits = F.linear(x, self.wte.weight.to(x.dtype)) if self.lm_head is None else self.lm_head(x)
        logits = logits.to(wide(x.dtype))
        return logits if self.config.family == "llama" else 15 * torch.tanh(logits / 15)

    def logits(self, x):
        return self.head(self.norm(x))

    def forward(self, idx, targets=None):
        """idx (B, T) int64 -> logits (B, T, V); with targets (B, T), -1 = ignore, the mean loss."""
        x = self.enter(self.embed(idx))
        cos, sin = self.rotary(torch.arange(idx.shape[1], device=idx.device)[None])
        for block in self.blocks:
            x = x + block.attn(block.attn_norm(x), cos, sin, self.backend)
            x = x + block.mlp(block.mlp_norm(x))
        logits = self.logits(x)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1,
                               reduction="sum") / (targets >= 0).sum().clamp(min=1)


class THENGPT(GPT):
    attention_class = HybridTHENAttention

    def __init__(self, config):
        super().__init__(config)
        self.trunk = min(config.ratio, config.n_layer)
        self.gist_value = Linear(config.n_embd, config.gist_dim)
        if config.gist_pool == "gated":
            self.gist_gate = Linear(config.n_embd, config.gist_dim)
            self.gist_slot = nn.Parameter(torch.empty(CHUNK, config.gist_dim))
        reading_layers = {b.attn.read_layer for b in self.blocks if b.attn.kind == "dsa"}
        self.index_k = nn.ModuleList([Linear(config.gist_dim, config.index_dim) for _ in reading_layers])
        self.reader = reading.ReadingHead(config)
        # it learns apart (dev/find.py): with the rest it would have no gradient, which ranks wait for
        self.finder = finding.FindingHead(config).requires_grad_(False)
        self.special, self.adapters = None, []
        if config.family == "llama":
            self.borrow()

    def borrow(self):
        """
        The blocks are those of an open model. Its embedding gets rows for special tokens, its matrices get adapters
        that count in reading alone, so that the stream is what the open model makes of it.
        """
        c, special = self.config, self.config.vocab_size - self.config.n_ordinary
        if special < 1:
            raise ValueError(f"n_ordinary is {c.n_ordinary}, which leaves no special token of {c.vocab_size}")
        self.wte = Embedding(c.n_ordinary, c.n_embd)
        if self.lm_head is not None:
            self.lm_head = Linear(c.n_embd, c.n_ordinary)
        self.special = nn.Parameter(torch.empty(special, c.n_embd))
        if not c.lora_rank:
            return
        with torch.device("meta"):
            self.borrowed = frozenset(GPT(c).state_dict())
        for name, linear in list(self.blocks.named_modules(prefix="blocks")):
            if f"{name}.weight" in self.borrowed and isinstance(linear, Linear):
                linear.adapter = Adapter(linear.in_features, linear.out_features, c.lora_rank)
                self.adapters.append(linear.adapter)
        for name in self.borrowed:
            self.get_parameter(name).requires_grad_(False)

    @contextmanager
    def adapted(self):
        """Within it adapters count."""
        for adapter in self.adapters:
            adapter.on = True
        try:
            yield
        finally:
            for adapter in self.adapters:
                adapter.on = False

    def embed(self, idx):
        if self.special is None:
            return super().embed(idx)
        n = self.config.n_ordinary
        ordinary, special = self.wte(idx.clamp(max=n - 1)), self.special[(idx - n).clamp(min=0)]
        return torch.where((idx < n)[..., None], ordinary, special).to(self.dtype)

    def head(self, x):
        ordinary = super().head(x)
        if self.special is None:
            return ordinary
        return torch.cat([ordinary, F.linear(x, self.special.to(x.dtype)).to(ordinary.dtype)], dim=-1)

    @torch.no_grad()
    def init_weights(self):
        super().init_weights()
        self.init_memory()

    @torch.no_grad()
    def init_memory(self):
        """What an open model does not bring."""
        if self.special is not None:
            nn.init.normal_(self.special, std=0.02)
        for adapter in self.adapters:
            adapter.init_weights()
        for module in [self.gist_value, *self.index_k]:
            nn.init.normal_(module.weight, std=module.in_features ** -0.5)
        if self.config.gist_pool == "gated":
            nn.init.zeros_(self.gist_gate.weight)
            nn.init.zeros_(self.gist_slot)
        for attn in (b.attn for b in self.blocks):
            if attn.kind == "kda":
                nn.init.normal_(attn.conv, std=0.5)
                nn.init.zeros_(attn.A_log)                           # safe gate: zeros
                nn.init.uniform_(attn.dt_bias, -6.0, -1.0)           # decay per token from 0.988 to 0.26
            elif attn.kind == "dsa":
                nn.init.zeros_(attn.sink)
                if attn.memory_gate is not None:
                    nn.init.zeros_(attn.memory_gate)
                    for module in (attn.memory_k, attn.memory_v, attn.index_q, attn.index_w):
                        nn.init.normal_(module.weight, std=module.in_features ** -0.5)
        self.reader.init_weights()
        self.finder.init_weights()

    def parameter_table(self):
        count = lambda *ms: sum(p.numel() for m in ms for p in m.parameters())
        rows = super().parameter_table()
        parts = [m for m in (self.gist_value, getattr(self, "gist_gate", None), self.index_k) if m is not None]
        rows.insert(-1, ("traces", count(*parts) + (self.gist_slot.numel() if self.config.gist_pool == "gated" else 0)))
        rows.insert(-1, ("reading head", count(self.reader)))
        if self.adapters:
            rows.insert(-1, ("adapters", count(*self.adapters)))
        return rows

    def empty_state(self, batch_size=1, segment=None):
        """
        The state of somebody who has lived through nothing yet. segment: it is for the trunk alone, with so many slots
        first, and holds what the trunk carries, without a window where they need none before them.
        """
        c, B, device = self.config, batch_size, self.wte.weight.device
        blocks = self.blocks if segment is None else self.blocks[:self.trunk]
        window = c.window if segment is None or segment > c.window else 0
        new = lambda *shape, dtype=self.dtype, fill=0: torch.full(shape, fill, device=device, dtype=dtype)
        recurrent = {"layers": [b.attn.empty_carry(B, window, device, self.dtype) for b in blocks],
                     # episode of each cached slot, -1 = none
                     "window": new(B, window, dtype=torch.int64, fill=-1),
                     # the open episode is a question turn
                     "asking": new(B, dtype=torch.bool)}
        return {"traces": self.empty_traces(B), "buffer": new(B, 0, dtype=torch.int64), "recurrent": recurrent,
                "episode": new(B, dtype=torch.int64),
                "position": new(B, dtype=torch.int64)}

    def empty_traces(self, batch_size=1):
        """No traces, in the shapes and dtypes that this model's have."""
        device = self.wte.weight.device
        new = lambda *shape, dtype=self.dtype: torch.zeros(batch_size, 0, *shape, device=device, dtype=dtype)
        number = lambda *shape: new(*shape, dtype=torch.int32)
        return Traces(ids=number(CHUNK), words=number(CHUNK), gist=new(self.config.gist_dim),
                      index=new(len(self.index_k), self.config.index_dim),
                      episode=number(), position=number(), valid=number())

    def forward(self, idx, targets=None, state=None, read=True, last=False, weights=None, parts=False):
        """
        Read `idx` (B, T) int64 after `state` (None = empty). Returns (logits (B, T, V) fp32, state); any segmentation
        of a stream gives the same logits and the same traces. read=False: memory is not consulted. last=True: logits of
        the last token only.

        With targets (B, T), -1 = ignore: returns (loss, state). The loss is the sum of means weighted by `weights` (a
        dict; default 1): "text" over tokens, "index" of the lightning indexers. parts=True returns them in a dict, with
        "total", in place of the loss. T must be a multiple of 16, the buffer empty: ValueError.
        """
        state = self.empty_state(idx.shape[0]) if state is None else state
        if targets is not None:
            if idx.shape[1] % CHUNK or state["buffer"].shape[1]:
                raise ValueError(f"training segments must fill whole chunks of {CHUNK}, got {idx.shape[1]} tokens "
                                 f"after {state['buffer'].shape[1]}")
            losses, state = self.losses(idx, targets, state, weights or {})
            return (losses if parts else losses["total"]), state
        line = torch.cat([state["buffer"], idx], dim=1)
        begin = line.shape[1] - (min(1, idx.shape[1]) if last else idx.shape[1])   # logits are wanted from here on
        cut = line.shape[1] // CHUNK * CHUNK
        hidden = []

        def advance(part, state, offset, length, keep=True):
            lo = max(begin - offset, 0)
            x, state = self.segment(part, state, read, keep=keep, begin=min(lo, part.shape[1]))
            hidden.append(x[:, lo:length])
            return state

        if cut:
            state = advance(line[:, :cut], state, 0, cut)
        if line.shape[1] > max(cut, begin):   # the open chunk is read padded, and read again when more of it has come
            advance(F.pad(line[:, cut:], (0, CHUNK - (line.shape[1] - cut)), value=self.config.pad_id), state, cut,
                    line.shape[1] - cut, keep=False)
        if not hidden:
            hidden.append(torch.zeros(idx.shape[0], 0, self.config.n_embd, device=idx.device, dtype=self.dtype))
        return self.head(torch.cat(hidden, dim=1)), {**state, "buffer": line[:, cut:]}

    # -- one segment of whole chunks -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, idx, state):
        """
        The state after whole chunks idx (B, T): the trunk and the traces only, for ingest. The layers above are not
        run, nor carried on.
        """
        return self.segment(idx, state, read=False, trunk_only=True)

    def segment(self, idx, state, read=True, training=None, trunk_only=False, keep=True, begin=0):
        """
        idx (B, T), T a multiple of 16. Returns the normalised final hidden state (B, T, D) and the state after it.
        training: {"positions": (B, M), "losses": []}: the read layers see their newest traces densely and train their
        indexers there. keep=False: the caller drops the state, so that its traces (many, to copy) are left as they
        were. begin: hidden states before this slot are not wanted, so the last layer need not search memory for them.
        """
        r = state["recurrent"]
        local, episode, position = self.local_context(idx, state)
        x = self.enter(self.embed(idx))
        layers = []

        def run(x, blocks, memory=None):
            for block in blocks:
                y, carry = block.attn(block.attn_norm(x), local, r["layers"][len(layers)], memory,
                                      begin if block is self.blocks[-1] else 0)
                layers.append(carry)
                x = x + y
                x = x + block.mlp(block.mlp_norm(x))
            return x

        x = run(x, self.blocks[:self.trunk])
        new = self.write(idx, norm(x), local, episode, position)
        C = len(new)
        traces = Traces.cat([state["traces"], new]) if keep or C > 1 else state["traces"]
        # nothing of a single chunk is visible within it
        seen, C = (traces, C) if C > 1 else (state["traces"], 0)
        chunk = torch.arange(idx.shape[1], device=idx.device) // CHUNK
        memory = self.read_context(seen, chunk.expand(idx.shape), C, training) if read else None
        x = run(x, self.blocks[self.trunk:] if not trunk_only else [], memory)
        state = {"traces": traces, "buffer": idx[:, :0], "episode": episode[:, -1], "position": position[:, -1] + 1,
                 "recurrent": {"layers": layers + r["layers"][len(layers):],
                               "window": local["slots"][:, -self.config.window:], "asking": local["asking"][:, -1]}}
        return state if trunk_only else (self.norm(x), state)

    def local_context(self, idx, state):
        """
        What the layers share within a segment, and the episode ordinal and position in the episode of each chunk, (B,
        C).
        """
        c, W, (B, T) = self.config, self.config.window, idx.shape
        before = state["recurrent"]["window"].shape[1]   # W slots, fewer near the beginning, see empty_state
        valid = idx != c.pad_id
        starts = idx[:, ::CHUNK] == c.bos_id
        order = torch.arange(T // CHUNK, device=idx.device)
        last = torch.where(starts, order, -1).cummax(1).values
        position = order - last + torch.where(last < 0, state["position"][:, None] - 1, 0)
        episode = state["episode"][:, None] + starts.cumsum(1)
        slot = torch.arange(T, device=idx.device)
        own = episode[:, slot // CHUNK]
        slots = torch.cat([state["recurrent"]["window"], torch.where(valid, own, -1)], dim=1)   # (B, before+T)
        # queries are taken in blocks of a window where they fill some: less of the score matrix is masked
        S = W if T % W == 0 and before == W else T
        distance = torch.arange(S, device=idx.device)[:, None] + before - torch.arange(before + S, device=idx.device)
        mask = (own.view(B, -1, S, 1) == slots.unfold(1, before + S, S)[:, :, None]) & (distance >= 0) & (distance < W)
        # padding sees itself: no empty rows
        mask = (mask | (distance == 0)).flatten(0, 1)[:, None]
        cos, sin = self.rotary(position[:, slot // CHUNK] * CHUNK + slot % CHUNK)
        # a question turn is not remembered
        asks = F.pad((starts & (idx[:, 1::CHUNK] == c.user_id)), (1, 0))
        asks[:, 0] = state["recurrent"]["asking"]
        return {"valid": valid, "starts": starts, "mask": mask, "block": S, "slots": slots, "cos": cos, "sin": sin,
                "asking": asks.gather(1, last + 1)}, episode, position

    def write(self, idx, h, local, episode, position):
        """The traces of a segment, from the trunk's output h (B, T, D)."""
        c, (B, T, D) = self.config, h.shape
        chunks = h.view(B, T // CHUNK, CHUNK, D)
        alive = local["valid"].view(B, -1, CHUNK, 1)
        value = self.gist_value(chunks)
        if c.gist_pool == "gated":   # learned pooling, a softmax over the slots per channel (DeepSeek-V4 CSA)
            weight = (self.gist_gate(chunks) + self.gist_slot.to(h.dtype)).masked_fill(~alive, -1e4)
            gist = norm((torch.softmax(weight.to(wide(h.dtype)), dim=2).to(h.dtype) * value).sum(2))
        else:
            gist = norm((value * alive).sum(2) / alive.sum(2).clamp(min=1))
        index = torch.stack([norm(k(gist.detach())) for k in self.index_k],
                            dim=2) if self.index_k else gist.new_zeros(B, T // CHUNK, 0, c.index_dim)
        ids = idx.view(B, -1, CHUNK).int()
        return Traces(ids=ids, words=torch.zeros_like(ids), gist=gist, index=index, episode=episode.int(),
                      position=position.int(),
                      valid=(alive.sum((2, 3)) * ~local["asking"]).int())

    def read_context(self, traces, chunk, new, training):
        """
        The traces the read layers see, and as a function of a slot which of them the slots from there on see, (B, T -
        slot, N) bool. chunk (B, T): the chunk of each slot within the segment, whose own traces are the `new` newest.
        """
        if training is not None:
            traces = traces[max(len(traces) - self.config.read_reach - new, 0):]
        return {"traces": traces, "visible": lambda begin: visible(traces, chunk[:, begin:], new), "training": training}

    # -- training ------------------------------------------------------------------------------------------------------

    def asks(self, window):
        """The finding.Asks of questions in a window of their own, see reading.alone."""
        hidden, there = reading.read(self, window).hidden, window.ordinal == -1
        if self.special is not None:   # it stands there twice, the second time counts
            half, place = there.sum(1, keepdim=True) // 2, torch.arange(there.shape[1], device=there.device)
            there, place = place < half, (place + half).clamp(max=there.shape[1] - 1)
            hidden = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.finder(hidden, there)

    def reading_losses(self, window, answer):
        """See reading.losses, and of an open model, whose `answer` is a reading.Talk, reading.talk_losses."""
        return (reading.losses if self.special is None else reading.talk_losses)(self, window, answer)

    def losses(self, idx, targets, state, weights):
        B, T = idx.shape
        training = {"positions": torch.rand(B, T, device=idx.device).topk(min(INDEX_POSITIONS, T), dim=1).indices,
                    "losses": []}
        x, state = self.segment(idx, state, training=training)
        # a fixed number of slots, so that shapes do not depend on data: those with an ordinary target first, at random
        some = (torch.rand(B, T, device=idx.device)
                + (targets >= 0)).flatten().topk(int(self.config.text_fraction * B * T))
        words = targets.flatten()[some.indices].masked_fill(some.values < 1, -1)
        text = F.cross_entropy(self.head(x.flatten(0, 1)[some.indices]), words, reduction="sum",
                               ignore_index=-1) / (words >= 0).sum().clamp(min=1)
        losses = {"text": text, "index": torch.stack(training["losses"]).mean() if training["losses"]
                  else text.new_zeros(())}
        losses["total"] = sum(weights.get(k, 1.0) * v for k, v in losses.items())
        return losses, state


def visible(traces, chunk, new):
    """
    Which traces a slot may read: filled, and closed before its chunk. chunk (B, M) counts within the segment, whose
    `new` chunks are the newest traces. Returns (B, M, N) bool.
    """
    alive = (traces.valid > 0)[:, None].expand(-1, chunk.shape[1], -1)
    if new == 0:
        return alive
    order = torch.arange(new, device=chunk.device)
    return torch.cat([alive[..., :-new], alive[..., -new:] & (order < chunk[..., None])], dim=-1)
