"""
GPT, the plain baseline, and THENGPT, the same model with an episodic memory.

GPT is nanochat's: rotary embeddings, QK norm, RMSNorm without parameters, ReLU^2, untied embeddings, group-query attention,
logit soft cap, no biases, one dial (depth: width = 64 * depth). THENGPT replaces its attention by HybridTHENAttention and adds a recall head:

    layer i with i % (ratio + 1) <  ratio    write layer, KDA or sliding-window attention: binds words within an episode
    layer i with i % (ratio + 1) == ratio    read layer, DSA: attends to the window and to the gists of selected traces

The layers below the first read layer are the *trunk*. Everything that goes into a trace is computed from the trunk's output, which
never looks into memory (one memory for all layers above, as YOCO's self-decoder, Sun et al. 2024): a trace depends on its own episode
alone. That is what makes deletion exact and ingest parallel.
"""
from dataclasses import dataclass, asdict

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.flash_attention import flash_attn_func
from nanochat.kda import kda_chunk, kda_gate, short_conv
from nanochat.recall import RecallHead, gather_traces, top_k, unit
from nanochat.state import CHUNK, CONTEXT, Traces


@dataclass
class GPTConfig:
    vocab_size: int = 2048
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 4
    n_embd: int = 256


@dataclass
class THENConfig(GPTConfig):
    ratio: int = 3               # write layers for each read layer
    write_mixer: str = "swa"     # swa | kda
    window: int = 64             # slots a token sees back in its own episode, a multiple of 16
    n_ordinary: int = 2040       # token ids from here on are special: never copied
    bos_id: int = 2040
    pad_id: int = 2044
    gist_dim: int = 128
    gist_pool: str = "gated"     # gated | mean
    index_heads: int = 4
    index_dim: int = 32
    read_topk: int = 64          # traces a read layer attends to
    read_reach: int = 128        # training only: the newest traces a read layer sees, densely
    recall: bool = True          # False: ablation without the recall head
    recall_positions: int = 32   # training only: positions of a segment at which the recall head is trained
    text_fraction: float = 0.5   # training only: share of the other tokens that the language-model loss is taken on
    recall_dim: int = 64
    recall_topk: int = 16        # traces the recall head reads
    address_heads: int = 2
    address_dim: int = 64
    route_span: int = 8          # a trace is addressed by itself and the 7 that follow in its episode


def config_from_depth(model_class, depth, **overrides):
    """The one dial: depth gives width 64 * depth and heads of 64 dimensions."""
    cls = {"GPT": GPTConfig, "THENGPT": THENConfig}[model_class]
    return cls(**{**dict(n_layer=depth, n_embd=64 * depth, n_head=depth, n_kv_head=depth), **overrides})


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """No bias; the weight is kept in fp32 and cast to the activations' dtype."""
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def rotate(x, cos, sin):
    """Rotary embedding. x (B, T, H, D); cos, sin (B or 1, T, 1, D/2)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


def rotary(position, dim, dtype, base=10000.0):
    """cos, sin of shape (*position.shape, 1, dim/2) for integer positions."""
    frequency = base ** (-torch.arange(0, dim, 2, device=position.device, dtype=torch.float32) / dim)
    angle = position[..., None, None].float() * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc = Linear(config.n_embd, 4 * config.n_embd)
        self.proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)).square())


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = config.n_embd // config.n_head
        self.q = Linear(config.n_embd, self.n_head * self.head_dim)
        self.k = Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.v = Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.proj = Linear(self.n_head * self.head_dim, config.n_embd)

    def qkv(self, x, cos, sin):
        """Rotated, normalised q (B, T, H, D) and k, v (B, T, Hkv, D), and q before rotation."""
        B, T, _ = x.shape
        q = norm(self.q(x).view(B, T, self.n_head, self.head_dim))
        k = norm(self.k(x).view(B, T, self.n_kv_head, self.head_dim))
        v = self.v(x).view(B, T, self.n_kv_head, self.head_dim)
        return rotate(q, cos, sin), rotate(k, cos, sin), v, q

    def forward(self, x, cos, sin, backend=None):
        q, k, v, _ = self.qkv(x, cos, sin)
        return self.proj(flash_attn_func(q, k, v, causal=True, backend=backend).flatten(2))


def in_blocks(x, W, S):
    """x (B, W+T, …) -> (B*T/S, W+S, …): the S slots of each block and the W before them. S is T, or W where there are several."""
    if x.shape[1] == W + S:
        return x
    x = x.unflatten(1, (-1, S))
    return torch.cat([x[:, :-1], x[:, 1:]], dim=2).flatten(0, 1)


def masked_attention(q, k, v, mask, scale):
    """
    Softmax attention over (B, T, H, D) tensors with mask (B, 1, Tq, Tk) bool; returns (B, Tq, H*D). Written out: for blocks of a window it is
    faster forward and backward on a CPU than scaled_dot_product_attention with a mask (dev/LOG.md).
    """
    score = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * scale
    p = torch.softmax(score.masked_fill(~mask, float("-inf")), dim=-1)
    return torch.matmul(p, v.transpose(1, 2)).transpose(1, 2).flatten(2)


class HybridTHENAttention(CausalSelfAttention):
    """
    The mixer of layer i. `local` is what a segment shares among its layers (see THENGPT.local_context); `carry` is what this
    layer carries over the chunk boundary: KDA state and convolution tail, or the keys and values of the last `window` slots.
    """
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.config = config
        self.kind = "dsa" if layer % (config.ratio + 1) == config.ratio else config.write_mixer
        D, H, d = config.n_embd, self.n_head, self.head_dim
        if self.kind == "kda":
            if self.n_kv_head != self.n_head:
                raise ValueError("KDA layers need n_kv_head == n_head")
            self.conv = nn.Parameter(torch.empty(3 * D, 4))
            self.beta = Linear(D, H)
            self.decay = nn.Sequential(Linear(D, d), Linear(d, D))
            self.A_log = nn.Parameter(torch.empty(H))
            self.dt_bias = nn.Parameter(torch.empty(H, d))
            self.out_gate = nn.Sequential(Linear(D, d), Linear(d, D))
        elif self.kind == "dsa":
            self.read_layer = layer // (config.ratio + 1)   # which of the routing keys in a trace is this layer's
            self.memory_k = Linear(config.gist_dim, self.n_kv_head * d)
            self.memory_v = Linear(config.gist_dim, self.n_kv_head * d)
            self.sink = nn.Parameter(torch.empty(H, d))   # a key with value zero: a head may read nothing
            self.index_q = Linear(D, config.index_heads * config.index_dim)
            self.index_w = Linear(D, config.index_heads)

    def empty_carry(self, B, device, dtype):
        d, W = self.head_dim, self.config.window
        if self.kind == "kda":
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            return [torch.zeros(B, self.n_head, d, d, device=device, dtype=wide),
                    torch.zeros(B, 3, 3 * self.config.n_embd, device=device, dtype=dtype)]
        return [torch.zeros(B, W, self.n_kv_head, d, device=device, dtype=dtype) for _ in range(2)]

    def forward(self, x, local, carry, memory=None):
        """x (B, T, D), T a multiple of 16 -> (B, T, D), carry. memory: see THENGPT.read_context; None = the layer sees its window only."""
        if self.kind == "kda":
            return self.kda(x, local, carry)
        q, k, v, q_plain = self.qkv(x, local["cos"], local["sin"])
        k, v = torch.cat([carry[0], k], dim=1), torch.cat([carry[1], v], dim=1)
        W, S = self.config.window, local["block"]
        carry = [k[:, -W:], v[:, -W:]]
        # blocks of S queries as rows, each with the W slots before it and its own
        q, q_plain = (t.reshape(-1, S, *t.shape[2:]) for t in (q, q_plain))
        k, v = (in_blocks(t, W, S) for t in (k, v))
        if self.kind == "swa":
            group = self.n_head // self.n_kv_head
            y = masked_attention(q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2), local["mask"], self.head_dim ** -0.5)
        else:
            y = self.dsa(x, q, q_plain, k, v, local["mask"], memory)
        return self.proj(y.view(x.shape)), carry

    def kda(self, x, local, carry):
        B, T, D = x.shape
        shape = (B, T, self.n_head, self.head_dim)
        qkv = F.linear(x, torch.cat([self.q.weight, self.k.weight, self.v.weight]).to(x.dtype))
        qkv, tail = short_conv(qkv, self.conv.to(x.dtype), carry[1], local["starts"])
        q, k, v = (t.view(shape) for t in qkv.chunk(3, dim=-1))
        alive = local["valid"][:, :, None]
        beta = torch.sigmoid(self.beta(x)) * alive
        g = kda_gate(self.decay(x).view(shape), self.A_log, self.dt_bias) * alive[..., None]
        o, S = kda_chunk(unit(q), unit(k), v, g, beta, carry[0], local["starts"])
        o = torch.sigmoid(self.out_gate(x)) * norm(o).flatten(2).to(x.dtype)
        return self.proj(o), [S, tail]

    # -- DSA ---------------------------------------------------------------------------------------------------------

    def index_scores(self, x, index):
        """Lightning indexer (DeepSeek-V3.2, eq. 1): x (B, M, D), index (B, N, Di) -> (B, M, N). It learns from its own loss alone."""
        B, M, _ = x.shape
        x = x.detach()
        c = self.config
        q = self.index_q(x).view(B, M * c.index_heads, c.index_dim)
        dots = F.relu(q @ index.to(q.dtype).transpose(1, 2)).view(B, M, c.index_heads, -1)
        weight = self.index_w(x) * (c.index_heads * c.index_dim) ** -0.5
        return (weight[:, :, None] @ dots).squeeze(2).to(wide(x.dtype))

    def dsa(self, x, q, q_plain, k, v, mask, memory):
        """
        One joint softmax over [window | gists | sink]. Rotary inside the window, none towards memory. x (B, T, D); the other
        arguments in blocks of S queries, (B*T/S, S, …), as in forward. Returns (B*T/S, S, H*d).
        """
        rows, S, H, d = q.shape
        n = rows // x.shape[0]
        k, v = (t.repeat_interleave(H // self.n_kv_head, 2) for t in (k, v))
        sink = self.sink.to(x.dtype).expand(rows, 1, H, d)
        zero = torch.zeros_like
        if memory is None or len(memory["traces"]) == 0 or memory["training"] is not None or len(memory["traces"]) <= self.config.read_topk:
            far = [(zero(sink), sink, zero(sink))]            # rotary part of the key, plain part, value
            seen = torch.ones_like(mask[..., :1])
            if memory is not None and len(memory["traces"]):
                mk, mv = (t.repeat_interleave(n, 0) for t in self.memory_kv(memory["traces"].gist, x.dtype))
                far.insert(0, (zero(mk), mk, mv))
                seen = torch.cat([memory["visible"].view(rows, 1, S, -1), seen], dim=-1)
            near = (k, zero(k), v)
            k_rotary, k_plain, v = (torch.cat(parts, dim=1) for parts in zip(near, *far))
            q, k = torch.cat([q, q_plain], dim=-1), torch.cat([k_rotary, k_plain], dim=-1)
            mask = torch.cat([mask, seen], dim=-1)
            if memory is not None and memory["training"] is not None and len(memory["traces"]):
                memory["training"]["losses"].append(self.index_loss(x, q, k, mask, memory))
            return masked_attention(q, k, v, mask, d ** -0.5)
        # only the selected traces are touched
        traces, visible = memory["traces"], memory["visible"]
        score = self.index_scores(x, traces.index[:, :, self.read_layer]).masked_fill(~visible, float("-inf"))
        select = top_k(score, self.config.read_topk)                                                       # (B, T, K)
        mk, mv = (t.view(rows, S, -1, H, d) for t in self.memory_kv(gather_traces(traces.gist, select), x.dtype))
        seen = visible.gather(2, select).view(rows, 1, S, -1)
        near = torch.einsum("bthd,bshd->bhts", q, k).masked_fill(~mask, float("-inf"))
        far = torch.einsum("bthd,btkhd->bhtk", q_plain, mk).masked_fill(~seen, float("-inf"))
        none = torch.einsum("bthd,bshd->bhts", q_plain, sink)
        p = torch.softmax(torch.cat([near, far, none], dim=-1).to(wide(x.dtype)) * d ** -0.5, dim=-1).to(x.dtype)
        W = near.shape[-1]
        return (torch.einsum("bhts,bshd->bthd", p[..., :W], v) + torch.einsum("bhtk,btkhd->bthd", p[..., W:-1], mv)).flatten(2)

    def memory_kv(self, gist, dtype):
        """Keys and values (…, H, d) of gists (…, Dg)."""
        gist = gist.to(dtype)
        shape = (*gist.shape[:-1], self.n_kv_head, self.head_dim)
        k, v = norm(self.memory_k(gist).view(shape)), self.memory_v(gist).view(shape)
        return (t.repeat_interleave(self.n_head // self.n_kv_head, -2) for t in (k, v))

    def index_loss(self, x, q, k, mask, memory):
        """
        KL of the indexer to the mass that the joint softmax puts on the traces, head-summed and L1-normalised (V3.2, sec. 2.1), at
        the positions being trained. q (B*n, S, H, 2d), k (B*n, L, H, 2d), mask (B*n, 1, S, L), L = window, traces, sink.
        """
        traces, positions = memory["traces"], memory["training"]["positions"][:, :8]   # answers come first; 8 a row are enough for the indexer
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        S, N, M = q.shape[1], len(traces), positions.shape[1]
        block, slot = (rows * (x.shape[1] // S) + positions // S).flatten(), (positions % S).flatten()
        with torch.no_grad():
            logits = torch.einsum("mhd,mshd->mhs", q[block, slot], k[block]).float() * self.head_dim ** -0.5
            logits = logits.masked_fill(~mask[block, :, slot], float("-inf"))
            p = torch.softmax(logits, dim=-1)[..., -N - 1:-1].sum(1).view(-1, M, N)
            p = p / p.sum(-1, keepdim=True).clamp(min=1e-9)
        score = self.index_scores(x[rows, positions], traces.index[:, :, self.read_layer])
        seen = memory["visible"][rows, positions]
        log_q = torch.log_softmax(score.masked_fill(~seen, -1e9), dim=-1)
        kl = (p * (p.clamp(min=1e-9).log() - log_q)).sum(-1)
        return masked_mean(kl, seen.any(-1))


class Block(nn.Module):
    def __init__(self, config, layer, attention_class):
        super().__init__()
        self.attn = attention_class(config, layer)
        self.mlp = MLP(config)


class GPT(nn.Module):
    attention_class = CausalSelfAttention

    def __init__(self, config):
        """Builds the modules only (meta device works); call init_weights afterwards."""
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList([Block(config, i, self.attention_class) for i in range(config.n_layer)])
        self.lm_head = Linear(config.n_embd, config.vocab_size)
        self.dtype = torch.float32   # of the activations; weights stay fp32
        self.backend = None          # flash_attention.resolve(...), for the attention of GPT; None = resolved at each call

    @torch.no_grad()
    def init_weights(self, word_tables=None):
        """nanochat's initialisation: projections back into the residual stream start at zero."""
        nn.init.normal_(self.wte.weight, std=1.0)
        nn.init.normal_(self.lm_head.weight, std=0.001)
        for module in self.blocks.modules():
            if isinstance(module, Linear):
                bound = 3 ** 0.5 * module.in_features ** -0.5
                nn.init.uniform_(module.weight, -bound, bound)
        for block in self.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.proj.weight)

    def describe(self):
        """What a checkpoint needs to build the model again."""
        return {"model_class": type(self).__name__, "config": asdict(self.config)}

    def parameter_table(self):
        """[(name, parameters)] of the parts."""
        count = lambda m: sum(p.numel() for p in m.parameters())
        rows = [("embedding", count(self.wte)), ("lm_head", count(self.lm_head)),
                ("mixers", sum(count(b.attn) for b in self.blocks)), ("mlps", sum(count(b.mlp) for b in self.blocks))]
        return rows + [("total", count(self))]

    def parameter_groups(self, matrix_lr=0.02, embedding_lr=0.3, head_lr=0.004, recall_lr=0.001, scalar_lr=0.01):
        """Muon on the matrices of the blocks, AdamW on the rest: embeddings, traces and recall head, gains and gates."""
        matrices = [p for b in self.blocks for p in b.parameters() if p.ndim == 2 and min(p.shape) >= 16]
        taken = {id(p) for p in matrices} | {id(self.wte.weight), id(self.lm_head.weight)}
        rest = [p for p in self.parameters() if id(p) not in taken]
        scale = (self.config.n_embd / 768) ** -0.5   # nanochat: AdamW rates are tuned at width 768
        groups = [dict(kind="muon", params=matrices, lr=matrix_lr),
                  dict(kind="adamw", params=[self.wte.weight], lr=embedding_lr * scale),
                  dict(kind="adamw", params=[self.lm_head.weight], lr=head_lr * scale)]
        for lr, params in ((recall_lr, [p for p in rest if p.ndim > 1]), (scalar_lr, [p for p in rest if p.ndim <= 1])):
            groups += [dict(kind="adamw", params=params, lr=lr)] if params else []
        return groups

    def logits(self, x):
        """(…, D) final hidden state -> (…, V) fp32 logits, soft-capped at +-15."""
        return 15 * torch.tanh(self.lm_head(norm(x)).to(wide(x.dtype)) / 15)

    def forward(self, idx, targets=None):
        """idx (B, T) int64 -> logits (B, T, V); with targets (B, T), -1 = ignore, the mean loss."""
        x = norm(self.wte(idx).to(self.dtype))
        cos, sin = rotary(torch.arange(idx.shape[1], device=idx.device)[None], self.config.n_embd // self.config.n_head, self.dtype)
        for block in self.blocks:
            x = x + block.attn(norm(x), cos, sin, self.backend)
            x = x + block.mlp(norm(x))
        logits = self.logits(x)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum") / (targets >= 0).sum().clamp(min=1)


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


class THENGPT(GPT):
    attention_class = HybridTHENAttention

    def __init__(self, config):
        super().__init__(config)
        self.trunk = min(config.ratio, config.n_layer)
        self.gist_value = Linear(config.n_embd, config.gist_dim)
        if config.gist_pool == "gated":
            self.gist_gate = Linear(config.n_embd, config.gist_dim)
            self.gist_slot = nn.Parameter(torch.empty(CHUNK, config.gist_dim))
        self.index_k = nn.ModuleList([Linear(config.gist_dim, config.index_dim) for b in self.blocks if b.attn.kind == "dsa"])
        if config.recall:
            self.recall = RecallHead(config)

    @torch.no_grad()
    def init_weights(self, word_tables=None):
        """word_tables: Tokenizer.word_tables(), kept in the checkpoint; None: every token is a word."""
        super().init_weights()
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
        if self.config.recall:
            self.recall.init_weights(word_tables)

    def parameter_table(self):
        count = lambda *ms: sum(p.numel() for m in ms for p in m.parameters())
        rows = super().parameter_table()
        parts = [m for m in (self.gist_value, getattr(self, "gist_gate", None), self.index_k) if m is not None]
        rows.insert(-1, ("traces", count(*parts) + (self.gist_slot.numel() if self.config.gist_pool == "gated" else 0)))
        rows.insert(-1, ("recall head", count(self.recall) if self.config.recall else 0))
        return rows

    def empty_state(self, batch_size=1):
        """The state of somebody who has lived through nothing yet."""
        c, B, device = self.config, batch_size, self.wte.weight.device
        new = lambda *shape, dtype=self.dtype, fill=0: torch.full(shape, fill, device=device, dtype=dtype)
        address = c.address_heads * c.address_dim
        traces = Traces(ids=new(B, 0, CHUNK, dtype=torch.int32), before=new(B, 0, CONTEXT, dtype=torch.int32), keys=new(B, 0, CHUNK, c.recall_dim),
                        address=new(B, 0, address), gist=new(B, 0, c.gist_dim), index=new(B, 0, len(self.index_k), c.index_dim),
                        episode=new(B, 0, dtype=torch.int32), position=new(B, 0, dtype=torch.int32), valid=new(B, 0, dtype=torch.int32))
        recurrent = {"layers": [b.attn.empty_carry(B, device, self.dtype) for b in self.blocks],
                     "window": new(B, c.window, dtype=torch.int64, fill=-1),       # episode of each cached slot, -1 = none
                     "hidden": new(B, c.n_embd),                                   # trunk output at the last slot
                     "before": new(B, CONTEXT, dtype=torch.int64, fill=-1),        # last tokens
                     "address": {"word": new(B, 3, dtype=torch.int64), "sums": new(2, B, c.address_heads, c.address_dim, dtype=wide(self.dtype))}}
        return {"traces": traces, "fresh": new(B, 0, CHUNK, c.recall_dim, dtype=wide(self.dtype)), "buffer": new(B, 0, dtype=torch.int64), "recurrent": recurrent,
                "episode": new(B, dtype=torch.int64), "position": new(B, dtype=torch.int64)}

    def forward(self, idx, targets=None, state=None, answers=None, evidence=None, read=True, last=False, sources=False, weights=None):
        """
        Read `idx` (B, T) int64 after `state` (None = empty). Returns (logits (B, T, V) fp32 log-probabilities, state); any segmentation
        of a stream gives the same logits and the same traces. read=False: memory is not consulted. last=True: logits of the last token only.
        sources=True: also returns a function of a token id, the episodes the last position would copy it from: {ordinal: mass} (B = 1).

        With targets (B, T), -1 = ignore: returns (losses, state), a dict of means: "text" over tokens, "answer" over the tokens
        flagged by answers (B, T) bool, "route" of the address to the evidence (B, T) (ordinal of the episode that holds the answer, -1 = unknown),
        "index" of the lightning indexers, "total" their sum weighted by `weights` (a dict; default 1). T must be a multiple of 16.
        """
        state = self.empty_state(idx.shape[0]) if state is None else state
        if targets is not None:
            if idx.shape[1] % CHUNK or state["buffer"].shape[1]:
                raise ValueError(f"training segments must fill whole chunks of {CHUNK}, got {idx.shape[1]} tokens after {state['buffer'].shape[1]}")
            return self.losses(idx, targets, state, answers, evidence, weights or {})
        line = torch.cat([state["buffer"], idx], dim=1)
        begin = line.shape[1] - (min(1, idx.shape[1]) if last else idx.shape[1])   # logits are wanted from here on
        cut = line.shape[1] // CHUNK * CHUNK
        logits, origin = [], [None]

        def answer(part, state, offset, length, keep=True):
            x, context, state = self.segment(part, state, read, keep=keep)
            lo, hi = max(begin - offset, 0), length
            if lo < hi:
                positions = torch.arange(lo, hi, device=idx.device).expand(idx.shape[0], -1)
                plain, copy = self.answer(x, positions, context)
                logits.append(self.log_probs(plain, copy))
                origin[0] = copy and (context["traces"].episode, copy)
            return state

        if cut:
            state = answer(line[:, :cut], state, 0, cut)
        if line.shape[1] > max(cut, begin):   # the open chunk is read padded, and read again when more of it has come
            answer(F.pad(line[:, cut:], (0, CHUNK - (line.shape[1] - cut)), value=self.config.pad_id), state, cut, line.shape[1] - cut, keep=False)
        state = {**state, "buffer": line[:, cut:]}
        if not logits:
            logits.append(torch.zeros(idx.shape[0], 0, self.config.vocab_size, device=idx.device, dtype=wide(self.dtype)))
        out = torch.cat(logits, dim=1), state
        return (*out, lambda token: copied_from(origin[0], token)) if sources else out

    # -- one segment of whole chunks -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, idx, state):
        """The state after whole chunks idx (B, T): the trunk and the traces only, for ingest. The layers above are not run, nor carried on."""
        return self.segment(idx, state, read=False, trunk_only=True)

    def segment(self, idx, state, read=True, training=None, trunk_only=False, keep=True):
        """
        idx (B, T), T a multiple of 16. Returns the normalised final hidden state (B, T, D), the context to answer from and the state after it.
        training: {"positions": (B, M), "losses": []}: the read layers see their newest traces densely and train their indexers there.
        keep=False: the caller drops the state, so that its traces (many, to copy) are left as they were.
        """
        r = state["recurrent"]
        local, episode, position = self.local_context(idx, state)
        x = norm(self.wte(idx).to(self.dtype))
        layers = []

        def run(x, blocks, memory=None):
            for block in blocks:
                y, carry = block.attn(norm(x), local, r["layers"][len(layers)], memory)
                layers.append(carry)
                x = x + y
                x = x + block.mlp(norm(x))
            return x

        x = run(x, self.blocks[:self.trunk])
        new, b, keys, carry = self.write(idx, norm(x), state, local, episode, position)
        C = len(new)
        traces = Traces.cat([state["traces"], new]) if keep or C > 1 else state["traces"]
        # nothing of a single chunk is visible within it
        seen, C = (traces, C) if C > 1 else (state["traces"], 0)
        chunk = torch.arange(idx.shape[1], device=idx.device) // CHUNK
        memory = self.read_context(seen, chunk.expand(idx.shape), C, training) if read else None
        x = run(x, self.blocks[self.trunk:] if not trunk_only else [], memory)
        fresh = torch.cat([state["fresh"], keys], dim=1) if training is not None else state["fresh"][:, :0]
        context = {"traces": seen if read else None, "new": C, "fresh": fresh, "b": b, "line": torch.cat([r["before"], idx], dim=1)}
        state = {"traces": traces, "fresh": fresh, "buffer": idx[:, :0], "episode": episode[:, -1], "position": position[:, -1] + 1,
                 "recurrent": {**carry, "layers": layers + r["layers"][len(layers):], "window": local["slots"][:, -self.config.window:]}}
        return state if trunk_only else (norm(x), context, state)

    def local_context(self, idx, state):
        """What the layers share within a segment, and the episode ordinal and position in the episode of each chunk, (B, C)."""
        c, W, (B, T) = self.config, self.config.window, idx.shape
        valid = idx != c.pad_id
        starts = idx[:, ::CHUNK] == c.bos_id
        order = torch.arange(T // CHUNK, device=idx.device)
        last = torch.where(starts, order, -1).cummax(1).values
        position = order - last + torch.where(last < 0, state["position"][:, None] - 1, 0)
        episode = state["episode"][:, None] + starts.cumsum(1)
        slot = torch.arange(T, device=idx.device)
        own = episode[:, slot // CHUNK]
        slots = torch.cat([state["recurrent"]["window"], torch.where(valid, own, -1)], dim=1)      # (B, W+T)
        S = W if T % W == 0 else T   # queries are taken in blocks of a window where they fill some: less of the score matrix is masked
        distance = torch.arange(S, device=idx.device)[:, None] + W - torch.arange(W + S, device=idx.device)
        mask = (own.view(B, -1, S, 1) == slots.unfold(1, W + S, S)[:, :, None]) & (distance >= 0) & (distance < W)
        mask = (mask | (distance == 0)).flatten(0, 1)[:, None]                                     # padding sees itself: no empty rows
        cos, sin = rotary(position[:, slot // CHUNK] * CHUNK + slot % CHUNK, c.n_embd // c.n_head, self.dtype)
        return {"valid": valid, "starts": starts, "mask": mask, "block": S, "slots": slots, "cos": cos, "sin": sin}, episode, position

    def write(self, idx, h, state, local, episode, position):
        """
        From the trunk's output h (B, T, D): the traces of a segment, the address queries b (B, T, Ha*Da), the recall keys (B, C, 16, Dk) that are
        still in the graph (those in the traces are not: a gradient buffer of the whole memory would cost more than the model), what is carried on.
        """
        c, r = self.config, state["recurrent"]
        B, T, D = h.shape
        C = T // CHUNK
        valid, starts = local["valid"], local["starts"]
        chunks = h.view(B, C, CHUNK, D)
        alive = valid.view(B, C, CHUNK, 1)
        value = self.gist_value(chunks)
        if c.gist_pool == "gated":   # learned pooling, a softmax over the slots per channel (DeepSeek-V4 CSA)
            weight = (self.gist_gate(chunks) + self.gist_slot.to(h.dtype)).masked_fill(~alive, -1e4)
            gist = norm((torch.softmax(weight.to(wide(h.dtype)), dim=2).to(h.dtype) * value).sum(2))
        else:
            gist = norm((value * alive).sum(2) / alive.sum(2).clamp(min=1))
        index = torch.stack([norm(k(gist.detach())) for k in self.index_k], dim=2) if self.index_k else gist.new_zeros(B, C, 0, c.index_dim)
        first = F.pad(starts[:, :, None], (0, CHUNK - 1)).view(B, T)
        previous = torch.cat([r["hidden"][:, None], h[:, :-1]], dim=1).masked_fill(first[..., None], 0)
        line = torch.cat([r["before"], idx], dim=1)
        before = line.unfold(1, CONTEXT, CHUNK)[:, :C].masked_fill(starts[..., None], -1)
        if c.recall:
            every = torch.cat([state["episode"][:, None], episode], dim=1)
            a, b, address = self.recall.address(idx, h.to(wide(h.dtype)), valid, starts, every[:, :, None] == every[:, None], r["address"])
            # a trace is made when its chunk has closed, so a key may also see its token and the two after it, within the chunk
            later = [F.pad((chunks * alive)[:, :, n:], (0, 0, 0, n)) for n in range(3)]
            around = torch.cat([previous.view(chunks.shape), *later], dim=-1)
            keys = unit(F.linear(around, self.recall.key.weight.to(h.dtype)).to(wide(h.dtype)))
        else:
            a, b, address = h.new_zeros(B, C, c.address_heads * c.address_dim), None, r["address"]
            keys = h.new_zeros(B, C, CHUNK, c.recall_dim)
        traces = Traces(ids=idx.view(B, C, CHUNK).int(), before=before.int(), keys=keys.detach().to(h.dtype), address=a.to(h.dtype), gist=gist, index=index,
                        episode=episode.int(), position=position.int(), valid=valid.view(B, C, CHUNK).sum(2).int())
        return traces, b, keys, {"hidden": h[:, -1], "before": line[:, -CONTEXT:], "address": address}

    def read_context(self, traces, chunk, new, training):
        """
        The traces the read layers see and from which slot on. chunk (B, T): the chunk of each slot within the segment, whose own traces
        are the `new` newest.
        """
        if training is not None:
            traces = traces[max(len(traces) - self.config.read_reach - new, 0):]
        return {"traces": traces, "visible": visible(traces, chunk, new), "training": training}

    def answer(self, x, positions, context):
        """
        Final hidden states x (B, T, D) at positions (B, M) with memory recalled: the language model's logits (B, M, V), and None or
        {"g", "p", "entries"} of the copy distribution (see RecallHead.read) with {"score", "select"} of the routing.
        """
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        x = x[rows, positions]
        traces = context["traces"]
        if not self.config.recall or traces is None or len(traces) == 0:
            return self.logits(x), None
        x = x.to(wide(x.dtype))
        seen = visible(traces, positions // CHUNK, context["new"])
        score = self.recall.route(context["b"][rows, positions], traces, seen)
        select = top_k(score.detach(), self.config.recall_topk)
        recent = context["line"][rows[..., None], positions[..., None] + 1 + torch.arange(CONTEXT, device=x.device)]
        x, g, p, entries = self.recall.read(x, score, select, traces, recent, self.wte.weight, context["fresh"])
        return self.logits(x), {"g": g, "p": p, "entries": entries, "score": score, "select": select}

    def log_probs(self, logits, copy):
        """(B, M, V) log-probabilities of the mixture (1 - g mass) softmax(logits) + g p_copy."""
        if copy is None:
            return torch.log_softmax(logits, dim=-1)
        g, p = copy["g"][..., None], copy["p"]
        return ((1 - g * p.sum(-1, keepdim=True)) * torch.softmax(logits, dim=-1) + g * p).clamp(min=1e-30).log()

    # -- training --------------------------------------------------------------------------------------------------------

    def losses(self, idx, targets, state, answers, evidence, weights):
        c, (B, T) = self.config, idx.shape
        answers = torch.zeros_like(idx, dtype=torch.bool) if answers is None else answers
        evidence = torch.full_like(idx, -1) if evidence is None else evidence
        # the recall head is trained where an answer is due and at some other tokens, to learn when not to copy
        rank = torch.rand(B, T, device=idx.device) + 2 * answers + (targets >= 0)
        positions = rank.topk(min(c.recall_positions, T), dim=1).indices
        training = {"positions": positions, "losses": []}
        x, context, state = self.segment(idx, state, training=training)
        rows = torch.arange(B, device=idx.device)[:, None]
        target, is_answer, proof = targets[rows, positions], answers[rows, positions], evidence[rows, positions]
        logits, copy = self.answer(x, positions, context)
        picked = torch.log_softmax(logits, dim=-1).gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
        route = picked.new_zeros(())
        known = is_answer & (target >= 0)
        if copy is not None:
            g, p = copy["g"], copy["p"]
            hit = p.gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
            picked = ((1 - g * p.sum(-1)) * picked.exp() + g * hit).clamp(min=1e-9).log()
            # the very score that routes at inference; the positives are the traces of the evidence episode
            traces, score = context["traces"], copy["score"]
            positive = (traces.episode[:, None] == proof[..., None]) & (score > float("-inf"))
            known = known & positive.any(-1)   # what has left the memory can't be asked for
            good = torch.logsumexp(score.masked_fill(~positive, -1e9), dim=-1)
            route = masked_mean(torch.logsumexp(score.masked_fill(score == float("-inf"), -1e9), dim=-1) - good, known)
        elsewhere = ((targets >= 0) & ~answers & (torch.rand(B, T, device=idx.device) < c.text_fraction)).flatten()
        text = F.cross_entropy(self.logits(x.flatten(0, 1)[elsewhere]), targets.flatten()[elsewhere], reduction="sum") / elsewhere.sum().clamp(min=1)
        losses = {"text": text, "answer": masked_mean(-picked, known), "copy": masked_mean(-picked, (target >= 0) & ~is_answer),
                  "route": route, "index": torch.stack(training["losses"]).mean() if training["losses"] else text.new_zeros(())}
        losses["total"] = sum(weights.get(k, 1.0) * v for k, v in losses.items())
        losses["answers"] = known.sum()
        return losses, state


def copied_from(origin, token):
    """{episode ordinal: g p} of the entries from which the last position of row 0 would copy `token`."""
    if origin is None:
        return {}
    episode, copy = origin
    p, ids = copy["entries"]
    mass = (copy["g"][0, -1] * p[0, -1] * (ids[0, -1] == token)).view(-1, CHUNK).sum(-1)
    out = {}
    for trace, m in zip(copy["select"][0, -1].tolist(), mass.tolist()):
        if m > 0:
            ordinal = int(episode[0, trace])
            out[ordinal] = out.get(ordinal, 0.0) + m
    return out


def masked_mean(x, mask):
    """Mean of x where mask; 0, not NaN, where nothing is left."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def visible(traces, chunk, new):
    """
    Which traces a slot may read: filled, and closed before its chunk. chunk (B, M) counts within the segment, whose `new` chunks
    are the newest traces. Returns (B, M, N) bool.
    """
    order = torch.arange(len(traces), device=chunk.device) - (len(traces) - new)
    return (order < chunk[..., None]) & (traces.valid > 0)[:, None]
