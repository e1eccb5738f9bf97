"""
The layers: linear maps, rotary embeddings, the MLP, causal attention for GPT, and HybridTHENAttention for THENGPT.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.flash_attention import flash_attn_func
from nanochat.kda import kda_chunk, kda_gate, short_conv
from nanochat.search import Keys, best


ADAPTED = 2.0   # the scale of an adapter, alpha / rank
# keys up to which attention over a window is written out in bf16 on a CPU: the backward pass of
# scaled_dot_product_attention takes longer there (python -m dev.bench_read)
SHORT = 256


class RMSNorm(torch.autograd.Function):
    """
    x * scale, computed in fp32 and rounded once: a rounded scale would make a whole row too long or too short. The
    backward pass is written out, because that of autograd keeps x in fp32 and takes half as long again on a CPU.
    """
    @staticmethod
    def forward(ctx, x, eps):
        y = x.to(wide(x.dtype))
        size = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        scale = torch.rsqrt(size * size / x.shape[-1] + eps)
        out = (y * scale).to(x.dtype)
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        out, scale = ctx.saved_tensors
        out, g = out.to(scale.dtype), grad.to(scale.dtype)
        return (torch.addcmul(g, out, (g * out).mean(-1, keepdim=True), value=-1) * scale).to(grad.dtype), None


def norm(x, eps=torch.finfo(torch.float32).eps):
    """RMSNorm without parameters (Zhang and Sennrich 2019), as F.rms_norm computes it, which takes longer on a CPU."""
    if torch.compiler.is_compiling():   # which makes one pass of either, and writes its own backward pass
        y = x.to(wide(x.dtype))
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return RMSNorm.apply(x, eps)


def mix(x, weight, there, reach):
    """
    x (B, T, D) and a weighted sum of what stands around each place, channel by channel: weight (K, D) of the places
    from `reach` before it on. there (B, T, 1): padding, where false, adds nothing. (Short convolutions beside
    attention: Allen-Zhu 2025, arXiv 2512.17351, "Canon layers".)
    """
    around = F.pad(norm(x).masked_fill(~there, 0), (0, 0, reach, reach))
    for k, row in enumerate(weight.to(x.dtype)):
        x = torch.addcmul(x, around[:, k:k + x.shape[1]], row)
    return x


class Norm(nn.Module):
    """RMSNorm of (…, D); in the Llama family with a learned gain for each channel."""
    def __init__(self, config):
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.empty(config.n_embd)) if config.family == "llama" else None

    def forward(self, x):
        y = norm(x, self.eps)
        return y if self.weight is None else y * self.weight.to(y.dtype)


class ReluSquared(torch.autograd.Function):
    """max(x, 0)^2, with a backward pass that goes over its tensors once: that of autograd does so five times."""
    @staticmethod
    def forward(ctx, x):
        h = F.relu(x)
        ctx.save_for_backward(h)
        return h * h

    @staticmethod
    def backward(ctx, grad):
        h, = ctx.saved_tensors
        return (grad * h).mul_(2)


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def rotate(x, cos, sin):
    """Rotary embedding. x (B, T, H, D); cos, sin (B or 1, T, 1, D/2)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


def unit(x):
    return F.normalize(x, dim=-1, eps=1e-6)


def top_k(score, k):
    """Indices of the k best of the last dimension, ties broken by the lower index, (…, k) int64. Deterministic."""
    n = score.shape[-1]
    k = min(k, n)
    bits = (score.float() + 0.0).contiguous().view(torch.int32).long()         # + 0.0: -0 and 0 are one score
    order = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)                    # float order as integer order
    key = order * (1 << 32) + (n - 1 - torch.arange(n, device=score.device))
    return n - 1 - (key.topk(k, dim=-1).values & 0xFFFFFFFF)


def gather_traces(x, index):
    """x (B, N, …), index (B, M, K) -> (B, M, K, …)."""
    B, N = x.shape[:2]
    flat = (index + torch.arange(B, device=index.device)[:, None, None] * N).flatten()
    return x.flatten(0, 1).index_select(0, flat).view(*index.shape, *x.shape[2:])


def masked_mean(x, mask):
    """Mean of x where mask; 0, not NaN, where nothing is left."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


class Adapter(nn.Module):
    """LoRA (Hu et al. 2021): what a frozen matrix is changed by, of low rank. It counts where `on` is set."""
    def __init__(self, n_in, n_out, rank):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.empty(rank, n_in)), nn.Parameter(torch.empty(n_out, rank))
        self.on = False

    def init_weights(self):
        nn.init.normal_(self.down, std=self.down.shape[1] ** -0.5)
        nn.init.zeros_(self.up)

    def change(self):
        """(n_out, n_in): what the matrix is changed by."""
        return ADAPTED * self.up @ self.down

    def forward(self, x):
        return F.linear(F.linear(x, self.down.to(x.dtype)), ADAPTED * self.up.to(x.dtype))


class Linear(nn.Linear):
    """No bias, unless asked for; weights are kept in fp32 and cast to the activations' dtype."""
    def __init__(self, n_in, n_out, bias=False):
        super().__init__(n_in, n_out, bias=bias)
        self.adapter = None

    def reset_parameters(self):
        """The model's init_weights does that."""

    def product(self, x):
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def forward(self, x):
        y = self.product(x)
        return y if self.adapter is None or not self.adapter.on else y + self.adapter(x)


class Embedding(nn.Embedding):
    def reset_parameters(self):
        """As for Linear. On the meta device it would take a second and draw nothing."""


@dataclass(frozen=True)
class Stretch:
    """
    How rotary frequencies of a model trained on `reach` positions serve longer texts: the scaling 'llama3' of
    transformers (modeling_rope_utils.py), for Llama 3.1. A rotation that turns fewer than `low` times within `reach` is
    slowed down by `factor`, one that turns more than `high` times stays, and those between are blended.
    """
    factor: float
    low: float
    high: float
    reach: int

    def __call__(self, frequency):
        turns = frequency * self.reach / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequency * (kept + (1 - kept) / self.factor)


def rotary(position, dim, dtype, base=10000.0, stretch=None):
    """cos, sin of shape (*position.shape, 1, dim/2) for integer positions; stretch: a Stretch."""
    frequency = base ** (-torch.arange(0, dim, 2, device=position.device, dtype=torch.float32) / dim)
    frequency = stretch(frequency) if stretch else frequency
    angle = position[..., None, None].float() * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


class MLP(nn.Module):
    """ReLU^2 (So et al. 2021); in the Llama family SwiGLU (Shazeer 2020), where `up` is what `fc` gates."""
    def __init__(self, config):
        super().__init__()
        width = config.mlp_dim or 4 * config.n_embd
        self.fc = Linear(config.n_embd, width)
        self.up = Linear(config.n_embd, width) if config.family == "llama" else None
        self.proj = Linear(width, config.n_embd)

    def forward(self, x):
        if self.up is not None:
            return self.proj(F.silu(self.fc(x)) * self.up(x))
        return self.proj(ReluSquared.apply(self.fc(x)))


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim, self.qk_norm = config.head_width, config.family == "nanochat"
        self.q = Linear(config.n_embd, self.n_head * self.head_dim, config.qkv_bias)
        self.k = Linear(config.n_embd, self.n_kv_head * self.head_dim, config.qkv_bias)
        self.v = Linear(config.n_embd, self.n_kv_head * self.head_dim, config.qkv_bias)
        self.proj = Linear(self.n_head * self.head_dim, config.n_embd)

    def qkv(self, x, cos, sin):
        """Rotated q (B, T, H, D) and k, v (B, T, Hkv, D), and q before rotation. nanochat normalises q and k first."""
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.n_head, self.head_dim)
        k = self.k(x).view(B, T, self.n_kv_head, self.head_dim)
        v = self.v(x).view(B, T, self.n_kv_head, self.head_dim)
        if self.qk_norm:
            q, k = norm(q), norm(k)
        return rotate(q, cos, sin), rotate(k, cos, sin), v, q

    def over(self, x, cos, sin, mask, past=None):
        """
        Attention of x (B, T, D) over `past` (k, v) and itself: mask (B or 1, 1, T or 1, S + T) is added to the scores.
        Returns (B, T, D), and (k, v) (B, S + T, Hkv, d) to be the past of what follows.
        """
        q, k, v, _ = self.qkv(x, cos, sin)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
        group = self.n_head // self.n_kv_head
        qh, kh, vh = (t.transpose(1, 2) for t in (q, *(t.repeat_interleave(group, 2) if group > 1 else t
                                                       for t in (k, v))))
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled() and k.shape[1] <= SHORT:
            score = torch.matmul(qh * self.head_dim ** -0.5, kh.transpose(2, 3)).to(wide(x.dtype)) + mask
            y = torch.matmul(torch.softmax(score, dim=-1).to(x.dtype), vh)
        else:
            y = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=mask)
        return self.proj(y.transpose(1, 2).flatten(2)), (k, v)

    def forward(self, x, cos, sin, backend=None):
        q, k, v, _ = self.qkv(x, cos, sin)
        return self.proj(flash_attn_func(q, k, v, causal=True, backend=backend).flatten(2))


def in_blocks(x, W, S):
    """
    x (B, W+T, …) -> (B*T/S, W+S, …): the S slots of each block and the W before them. S is T, or W where there are
    several.
    """
    if x.shape[1] == W + S:
        return x
    x = x.unflatten(1, (-1, S))
    return torch.cat([x[:, :-1], x[:, 1:]], dim=2).flatten(0, 1)


def masked_attention(q, k, v, mask, scale):
    """
    Softmax attention over (B, T, H, D) tensors with mask (B, 1, Tq, Tk) bool; returns (B, Tq, H*D). Written out: for
    blocks of a window it is faster forward and backward on a CPU than scaled_dot_product_attention with a mask
    (dev/LOG.md).
    """
    score = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * scale
    p = torch.softmax(score.masked_fill(~mask, float("-inf")), dim=-1)
    return torch.matmul(p, v.transpose(1, 2)).transpose(1, 2).flatten(2)


class HybridTHENAttention(CausalSelfAttention):
    """
    The mixer of layer i. `local` is what a segment shares among its layers (see THENGPT.local_context); `carry` is what
    this layer carries over the chunk boundary: KDA state and convolution tail, or the keys and values of the last
    `window` slots.
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
            # which of the routing keys in a trace is this layer's: an open model, of many layers, has one for all
            self.read_layer = 0 if config.family == "llama" else layer // (config.ratio + 1)
            # an open model begins as it was: what it reads in memory is added, times this
            self.memory_gate = nn.Parameter(torch.empty(self.n_head)) if config.family == "llama" else None
            self.memory_k = Linear(config.gist_dim, self.n_kv_head * d)
            self.memory_v = Linear(config.gist_dim, self.n_kv_head * d)
            self.sink = nn.Parameter(torch.empty(H, d))   # a key with value zero: a head may read nothing
            self.index_q = Linear(D, config.index_heads * config.index_dim)
            self.index_w = Linear(D, config.index_heads)

    def empty_carry(self, B, W, device, dtype):
        """What the layer carries before anything: B rows, of a window its W slots."""
        d = self.head_dim
        if self.kind == "kda":
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            return [torch.zeros(B, self.n_head, d, d, device=device, dtype=wide),
                    torch.zeros(B, 3, 3 * self.config.n_embd, device=device, dtype=dtype)]
        return [torch.zeros(B, W, self.n_kv_head, d, device=device, dtype=dtype) for _ in range(2)]

    def forward(self, x, local, carry, memory=None, begin=0):
        """
        x (B, T, D), T a multiple of 16 -> (B, T, D), carry. memory: see THENGPT.read_context; None = the layer sees its
        window only. begin: the slots before it are not wanted, and may see less.
        """
        if self.kind == "kda":
            return self.kda(x, local, carry)
        q, k, v, q_plain = self.qkv(x, local["cos"], local["sin"])
        W, S, before = self.config.window, local["block"], carry[0].shape[1]
        k, v = torch.cat([carry[0], k], dim=1), torch.cat([carry[1], v], dim=1)
        carry = [k[:, -W:], v[:, -W:]]
        # blocks of S queries as rows, each with the slots before it and its own
        q, q_plain = (t.reshape(-1, S, *t.shape[2:]) for t in (q, q_plain))
        k, v = (in_blocks(t, before, S) for t in (k, v))
        if self.kind == "swa":
            group = self.n_head // self.n_kv_head
            y = masked_attention(q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2), local["mask"],
                                 self.head_dim ** -0.5)
        else:
            y = self.dsa(x, q, q_plain, k, v, local, memory, begin)
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

    def index_query(self, x):
        """
        x (B, M, D) -> the indexer's queries (B, M, H, Di) and weights (B, M, H). It learns from its own loss alone.
        """
        x, c = x.detach(), self.config
        q = self.index_q(x).view(*x.shape[:2], c.index_heads, c.index_dim)
        return q.to(wide(x.dtype)), self.index_w(x).to(wide(x.dtype)) * (c.index_heads * c.index_dim) ** -0.5

    def index_scores(self, x, index):
        """Lightning indexer (DeepSeek-V3.2, eq. 1): x (B, M, D), index (B, N, Di) -> (B, M, N)."""
        q, weight = self.index_query(x)
        dots = F.relu(q.flatten(1, 2) @ index.to(q.dtype).transpose(1, 2)).view(*weight.shape, index.shape[1])
        return (weight[:, :, None] @ dots).squeeze(2)

    def dsa(self, x, q, q_plain, k, v, local, memory, begin):
        """
        One joint softmax over [window | gists | sink], in an open model one over [window] and a gated one over
        [gists | sink]. Rotary inside the window, none towards memory. x (B, T, D); q, q_plain, k and v in blocks of S
        queries, (B*T/S, S, …), as in forward. Returns (B*T/S, S, H*d).
        """
        rows, S, H, d = q.shape
        (B, T, _), mask = x.shape, local["mask"]
        k, v = (t.repeat_interleave(H // self.n_kv_head, 2) for t in (k, v))
        near = torch.einsum("bthd,bshd->bhts", q, k).masked_fill(~mask, float("-inf"))
        none = torch.einsum("bthd,hd->bht", q_plain, self.sink.to(x.dtype))[..., None]
        if memory is None or len(memory["traces"]) == 0:
            if self.memory_gate is not None:
                return torch.einsum("bhts,bshd->bthd", torch.softmax(near * d ** -0.5, dim=-1), v).flatten(2)
            p = torch.softmax(torch.cat([near, none], dim=-1) * d ** -0.5, dim=-1)
            return torch.einsum("bhts,bshd->bthd", p[..., :-1], v).flatten(2)
        traces = memory["traces"]
        dense = memory["training"] is not None or len(traces) <= self.config.read_topk
        if dense:   # every slot sees the traces of its row: gists are not repeated for its blocks
            # (B, N, H, d)
            mk, mv = self.memory_kv(traces.gist[:, :], x.dtype)
            far = torch.einsum("bthd,bnhd->bhtn", q_plain.reshape(B, T, H, d),
                               mk).masked_fill(~memory["visible"](0)[:, None], float("-inf"))
            far = far.unflatten(2, (-1, S)).transpose(1, 2).flatten(0, 1)
        else:       # only the selected traces are touched
            # (B, T, K)
            select, seen = (F.pad(t, (0, 0, begin, 0))
                            for t in self.select(x[:, begin:], traces, memory["visible"](begin),
                                                 local["valid"][:, begin:]))
            mk, mv = (t.view(rows, S, -1, H, d) for t in self.memory_kv(gather_traces(traces.gist, select), x.dtype))
            far = torch.einsum("bthd,btkhd->bhtk", q_plain, mk).masked_fill(~seen.view(rows, 1, S, -1), float("-inf"))
        if self.memory_gate is None:
            p = torch.softmax(torch.cat([near, far, none], dim=-1) * d ** -0.5, dim=-1)
        else:
            p = torch.cat([torch.softmax(part * d ** -0.5, dim=-1)
                           for part in (near, torch.cat([far, none], dim=-1))], dim=-1)
        if memory["training"] is not None:
            memory["training"]["losses"].append(self.index_loss(x, p, memory))
        near, far = p.split([near.shape[-1], far.shape[-1], 1], dim=-1)[:2]
        y = torch.einsum("bhts,bshd->bthd", near, v)
        if dense:
            far = torch.einsum("bhtn,bnhd->bthd", far.unflatten(0, (B, -1)).transpose(1, 2).flatten(2, 3),
                               mv).reshape(y.shape)
        else:
            far = torch.einsum("bhtk,btkhd->bthd", far, mv)
        if self.memory_gate is not None:
            far = torch.tanh(self.memory_gate).to(far.dtype)[:, None] * far
        return (y + far).flatten(2)

    def select(self, x, traces, visible, valid):
        """
        The traces that slots attend to: x (B, T, D), visible (B, T, N), valid (B, T), false for padding, which need not
        be searched for. Returns their indices (B, T, K), and which of them are visible.
        """
        if not isinstance(traces.index, Keys):
            score = self.index_scores(x, traces.index[:, :, self.read_layer]).masked_fill(~visible, float("-inf"))
            select = top_k(score, self.config.read_topk)
            return select, visible.gather(2, select)
        query, weight = self.index_query(x)
        asking = valid[0]
        found = best(traces.index.part(self.read_layer), query[0, asking], self.config.read_topk, visible[0, asking],
                     weight[0, asking])
        select, score = (t.new_full((1, len(asking), t.shape[1]), fill) for t, fill in zip(found, (0, float("-inf"))))
        select[0, asking], score[0, asking] = found
        return select, score > float("-inf")

    def memory_kv(self, gist, dtype):
        """Keys and values (…, H, d) of gists (…, Dg)."""
        gist = gist.to(dtype)
        shape = (*gist.shape[:-1], self.n_kv_head, self.head_dim)
        k, v = norm(self.memory_k(gist).view(shape)), self.memory_v(gist).view(shape)
        return (t.repeat_interleave(self.n_head // self.n_kv_head, -2) for t in (k, v))

    def index_loss(self, x, p, memory):
        """
        KL of the indexer to the mass that the joint softmax puts on the traces, head-summed and L1-normalised (V3.2,
        sec. 2.1), at the positions being trained. p (B*n, H, S, L), L = window, traces, sink.
        """
        traces, positions = memory["traces"], memory["training"]["positions"]
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        S, N = p.shape[2], len(traces)
        p = p.detach()[rows * (x.shape[1] // S) + positions // S, :, positions % S, -N - 1:-1].to(wide(x.dtype)).sum(2)
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-9)
        score = self.index_scores(x[rows, positions], traces.index[:, :, self.read_layer])
        seen = memory["visible"](0)[rows, positions]
        log_q = torch.log_softmax(score.masked_fill(~seen, -1e9), dim=-1)
        kl = (p * (p.clamp(min=1e-9).log() - log_q)).sum(-1)
        return masked_mean(kl, seen.any(-1))
