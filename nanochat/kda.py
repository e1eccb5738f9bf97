"""
Kimi Delta Attention (KDA): a gated delta rule with a decay per channel, as in "Kimi Linear: An Expressive, Efficient
Attention Architecture" (arXiv 2510.26692), eq. 1 for the recurrence and the chunkwise section for the parallel form.

    S_t = (I - beta_t k_t k_t^T) Diag(exp g_t) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t / sqrt(Dk)

that is: decay first, then correct the error of the *decayed* state: S += k (beta (v - S^T k))^T.

Three forms of one function: `kda_naive` (token by token, the reference), `kda_chunk` (training and ingest) and
`kda_step` (decoding). Shapes, for all of them:

    q, k, g (B, T, H, Dk)     v, o (B, T, H, Dv)     beta (B, T, H)     state (B, H, Dk, Dv)     reset (B, T // 16) bool

g is the log of the decay and is expected in [-5, 0], which `kda_gate` guarantees; k (and q) L2-normalised. Inputs of
any float type are computed in fp32 (fp64 if v is); the state is fp32 (fp64), `None` meaning zeros; o has v's type.
Where reset is set, a new episode begins and that row's state is zeroed before that chunk. Padding has beta = 0 and
g = 0: it leaves the state as it is.
"""

import torch
import torch.nn.functional as F

CHUNK = 16
GATE_LOWER_BOUND = -5.0
CONV_SIZE = 4

# In a chunk the decays exp(cumsum g) span e^-80 .. 1, and the chunk form also needs their inverses. Times 2^58 ~ e^40
# both lie within e^-40 .. e^40, so that neither they nor small gradients leave fp32's range. A constant and not, say,
# the
# chunk's mean, which would let a later token change the rounding of earlier outputs; a power of two, so exact.
SCALE = 2.0**58


def kda_gate(x, A_log, dt_bias):
    """
    The safe gate, a log decay: -5 sigmoid(exp(A_log) (x + dt_bias)). x (B, T, H, Dk), A_log (H,), dt_bias (H, Dk).
    """
    return GATE_LOWER_BOUND * torch.sigmoid(A_log.exp()[:, None] * (x + dt_bias))


def short_conv(x, weight, tail=None, reset=None):
    """
    Causal depthwise convolution of size 4, then SiLU: y_t = silu(sum_j weight[:, j] x_{t-3+j}).
    x (B, T, D), weight (D, 4), tail (B, 3, D) the tokens before x (None: zeros) -> y (B, T, D) in x's type, the next
    tail. With reset (B, T // 16) no token looks back past the start of its episode; T must then be a multiple of 16.
    """
    B, T, D = x.shape
    lag = CONV_SIZE - 1
    if tail is None:
        tail = x.new_zeros(B, lag, D)
    # each block is convolved behind its own copy of the 3 tokens before it, where a reset can zero them
    if reset is None:
        blocks, before = x[:, None], tail[:, None]
    else:
        blocks = x.unflatten(1, (_num_chunks(T), CHUNK))
        before = torch.cat([tail[:, None], blocks[:, :-1, -lag:]], 1).masked_fill(reset[..., None, None], 0)
    padded = torch.cat([before, blocks], 2)
    y = _ConvSiLU.apply(padded.flatten(0, 1), weight).view(B, T, D)
    return y, padded[:, -1, -lag:].clone()  # a view would keep all of padded alive, and be saved with it


def kda_step(q, k, v, g, beta, state=None):
    """One token (T = 1) -> o (B, 1, H, Dv), state. Linear in the state's size and independent of the past's length."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        query, key, value, gate = (x.to(dtype).transpose(1, 2) for x in (q, k, v, g))  # (B, H, 1, D)
        if state is None:
            state = _zero_state(k, v)
        state = state * gate.exp().mT
        state = state + key.mT * (beta.to(dtype).mT[..., None] * (value - key @ state))
        return (query @ state * k.shape[-1] ** -0.5).transpose(1, 2).to(v.dtype), state


def kda_naive(q, k, v, g, beta, state=None, reset=None):
    """The recurrence, token by token: slow, obviously right, what the chunk form is tested against."""
    state = _zero_state(k, v) if state is None else state
    outputs = []
    for t, token in enumerate(zip(*(x.split(1, 1) for x in (q, k, v, g, beta)))):
        if reset is not None and t % CHUNK == 0:
            state = state.masked_fill(reset[:, t // CHUNK, None, None, None], 0)
        o, state = kda_step(*token, state)
        outputs.append(o)
    return torch.cat(outputs, 1), state


def kda_chunk(q, k, v, g, beta, state=None, reset=None):
    """The chunkwise form. T must be a multiple of 16 (ValueError otherwise): 16 tokens at a time in matrix products."""
    _num_chunks(k.shape[1])
    state = _zero_state(k, v) if state is None else state
    with torch.autocast(q.device.type, enabled=False):
        return _ChunkKDA.apply(q, k, v, g, beta[..., None], state, reset)


def _zero_state(k, v):
    dtype = torch.promote_types(v.dtype, torch.float32)
    return torch.zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3], dtype=dtype, device=k.device)


def _num_chunks(T):
    if T % CHUNK:
        raise ValueError(f"the number of tokens must be a multiple of {CHUNK}, got {T}")
    return T // CHUNK


def _chunked(x):
    """
    (B, T, H, D) -> (N, B, H, 16, D), a view: chunks first, so that a slice of the sequence is one block of matrices.
    """
    return x.unflatten(1, (x.shape[1] // CHUNK, CHUNK)).permute(1, 0, 3, 2, 4)


class _ConvSiLU(torch.autograd.Function):
    """
    silu(causal depthwise convolution): x (R, L + 3, D), weight (D, 4) -> (R, L, D). Memory traffic is all of its cost:
    on CPU it takes a few rows at a time, so that the passes stay in cache, and it is recomputed in the backward rather
    than kept. 2 times quicker there, forward and backward, than autograd over four shifted products or over conv1d.
    """

    @staticmethod
    def pieces(*tensors):
        x = tensors[0]
        rows = max(1, 2**17 // x[0].numel()) if x.is_cpu else len(x)
        return zip(*(t.split(rows) for t in tensors))

    @staticmethod
    def taps(weight, x):
        return weight.t().to(torch.promote_types(x.dtype, torch.float32)).contiguous()

    @staticmethod
    def shifted(x):
        """What each of the four taps sees of the padded x: views (R, L, D), oldest first."""
        return [x[:, i : x.shape[1] - CONV_SIZE + 1 + i] for i in range(CONV_SIZE)]

    @staticmethod
    def convolve(x, taps):
        first, *rest = _ConvSiLU.shifted(x)
        z = first * taps[0]
        for view, tap in zip(rest, taps[1:]):
            z.addcmul_(view, tap)
        return z

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        taps = _ConvSiLU.taps(weight, x)
        y = x.new_empty(x.shape[0], x.shape[1] - CONV_SIZE + 1, x.shape[2])
        for piece, out in _ConvSiLU.pieces(x, y):
            out.copy_(F.silu(_ConvSiLU.convolve(piece, taps), inplace=True))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        taps = _ConvSiLU.taps(weight, x)
        dx, dtaps = torch.empty_like(x), torch.zeros_like(taps)
        for piece, dout, out in _ConvSiLU.pieces(x, dy, dx):
            dz = torch.ops.aten.silu_backward(dout.to(taps.dtype), _ConvSiLU.convolve(piece, taps))
            dpiece = torch.zeros_like(piece, dtype=taps.dtype)
            views = zip(_ConvSiLU.shifted(piece), _ConvSiLU.shifted(dpiece), taps, dtaps)
            for view, dview, tap, dtap in views:
                dview.addcmul_(dz, tap)
                dtap += (dz * view).sum((0, 1))
            out.copy_(dpiece)
        return dx, dtaps.t().to(weight.dtype)


class _ChunkKDA(torch.autograd.Function):
    """
    Per chunk, with P = SCALE exp(cumsum g), S the state entering it divided by SCALE, and K', Q', K~ (16, Dk):

        K' = beta P K     Q' = P Q / sqrt(Dk)     K~ = K / P     L = stril(K' K~^T)     A = tril(Q' K~^T)
        N = (I + L)^-1 (beta V - K' S)            the pseudo-values: what each token writes, given the ones before it
        O = Q' S + A N                            S_next = Diag(exp(sum g)) (S + K~^T N)

    This is the paper's W/U form with the inverse applied once, to the difference. The backward is written out: with
    E = [-(I + L)^-T dN; dO] stacked as [K'; Q'] are, d[K'; Q'] = E S^T + tril(E N^T) K~ and d(K~) follows alike.
    Work runs over groups of chunks: on CPU few, so that a group stays in cache; elsewhere all, for fewer kernels. Both
    together are twice as quick on CPU as autograd over the same formulas, all chunks at once.
    """

    @staticmethod
    def forward(ctx, q, k, v, g, beta, state, reset):
        (B, T, H, Dk), Dv, dtype = k.shape, v.shape[-1], state.dtype
        N = T // CHUNK
        group = 4 if k.device.type == "cpu" else max(N, 1)
        ones = torch.ones(CHUNK, CHUNK, dtype=dtype, device=k.device).tril()
        minus_eye = -torch.eye(CHUNK, dtype=dtype, device=k.device)
        if reset is not None:
            reset = reset.t().repeat_interleave(H, 1)[..., None, None]  # (N, B * H, 1, 1)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        inputs = [_chunked(x) for x in (q, k, v, g, beta)]
        S = state.flatten(0, 1) / SCALE
        groups, states = [], []
        for i in range(0, N, group):
            qc, kc, vc, gc, bc = (x[i : i + group] for x in inputs)
            P = (ones @ gc.to(dtype)).exp_().mul_(SCALE)
            KQ = P.new_empty(*P.shape[:3], 2 * CHUNK, Dk)
            torch.mul(kc, P, out=KQ[..., :CHUNK, :]).mul_(bc)
            torch.mul(qc, P, out=KQ[..., CHUNK:, :]).mul_(Dk**-0.5)
            Kinv = torch.div(kc, P, out=torch.empty_like(P))
            V = torch.mul(vc, bc, out=P.new_empty(*P.shape[:4], Dv))
            P, KQ, Kinv, V = (x.flatten(1, 2) for x in (P, KQ, Kinv, V))
            scores = KQ @ Kinv.mT
            A = scores[:, :, CHUNK:].tril()
            minus_inv = torch.linalg.solve_triangular(scores[:, :, :CHUNK], minus_eye.expand_as(A), upper=False,
                                                      unitriangular=True)
            pseudo, O = torch.empty_like(V), torch.empty_like(V)
            decay = P[:, :, -1, :, None] / SCALE
            for n in range(len(P)):
                if reset is not None:
                    S = S.masked_fill(reset[i + n], 0)
                states.append(S)
                KQ_S = KQ[n] @ S
                torch.bmm(minus_inv[n], KQ_S[:, :CHUNK] - V[n], out=pseudo[n])
                torch.baddbmm(KQ_S[:, CHUNK:], A[n], pseudo[n], out=O[n])
                S = torch.baddbmm(S, Kinv[n].mT, pseudo[n]).mul_(decay[n])
            _chunked(out)[i : i + group] = O.unflatten(1, (B, H))
            groups.append((i, P, KQ, Kinv, A, minus_inv, pseudo, decay))
        ctx.save_for_backward(q, k, v, g, beta)
        ctx.groups, ctx.states, ctx.reset, ctx.ones = groups, [*states, S], reset, ones
        return out, (S * SCALE).unflatten(0, (B, H))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dstate):
        inputs = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        _, kc, vc, _, bc = map(_chunked, inputs)
        dq, dk, dv, dg, dbeta = map(_chunked, grads)
        dout = _chunked(dout)
        B, H, Dk, Dv = dstate.shape
        dS = dstate.flatten(0, 1) * SCALE
        for i, P, KQ, Kinv, A, minus_inv, pseudo, decay in reversed(ctx.groups):
            at = slice(i, i + len(P))
            E = P.new_empty(*P.shape[:2], 2 * CHUNK, Dv)
            E.unflatten(1, (B, H))[..., CHUNK:, :] = dout[at]
            dN = A.mT @ E[:, :, CHUNK:]
            dKQ, dKinv, dG_last = torch.empty_like(KQ), torch.empty_like(Kinv), torch.empty_like(P[:, :, 0])
            for n in reversed(range(len(P))):
                S = ctx.states[i + n]
                torch.linalg.vecdot(dS, ctx.states[i + n + 1], out=dG_last[n])  # through the chunk's whole decay
                dS = dS * decay[n]
                torch.bmm(pseudo[n], dS.mT, out=dKinv[n])
                E[n, :, :CHUNK] = minus_inv[n].mT @ dN[n].baddbmm_(Kinv[n], dS)
                torch.bmm(E[n], S.mT, out=dKQ[n])
                dS = torch.baddbmm(dS, KQ[n].mT, E[n])
                if ctx.reset is not None:
                    dS = dS.masked_fill(ctx.reset[i + n], 0)
            dscores = E @ pseudo.mT
            dscores[:, :, :CHUNK].tril_(-1)
            dscores[:, :, CHUNK:].tril_()
            dKQ += dscores @ Kinv
            dKinv += dscores.mT @ KQ

            # every factor holds exp(+-cumsum g), so that its gradient is the factor times its own gradient
            dG = (KQ * dKQ).unflatten(2, (2, CHUNK)).sum(2).sub_(Kinv * dKinv)
            dG[:, :, -1] += dG_last
            dg[at] = (ctx.ones.mT @ dG).unflatten(1, (B, H))
            dKP, dQP = (dKQ.unflatten(2, (2, CHUNK)) * P[:, :, None]).unflatten(1, (B, H)).unbind(3)
            dVb = E.unflatten(1, (B, H))[..., :CHUNK, :]
            torch.mul(dQP, Dk**-0.5, out=dq[at])
            dk[at] = (dKinv / P).unflatten(1, (B, H)).addcmul_(dKP, bc[at])
            dv[at] = dVb * -bc[at]
            dbeta[at] = ((kc[at] * dKP).sum(-1) - (vc[at] * dVb).sum(-1))[..., None]
        return *grads, dS.unflatten(0, (B, H)) / SCALE, None
