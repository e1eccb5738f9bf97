"""
Routing search: which of N stored vectors score best for a query, exactly, without N vectors in floating point.

    score(q, k) = sum_p q_p . k_p                   address: p = heads, a trace has a vector for each
    score(q, k) = sum_j w_j relu(q_j . k)           lightning indexer: j = its heads, a trace has one vector

Two passes. The scan takes all N from the int8 directions that a record holds: integer products, exact, times a scale for each vector, so that only the
query's rounding (known) and that of the stored values to their dtype (bounded) stand between it and the score, at most `error`. Whatever may be among
the best despite that error is then scored again from its values, and only that score counts.

`exact` is that score: its terms are integers in float64 below 2^53, so it is the same to the bit for a vector alone, in any batch, in any order. So what
`survivors` returns is what a scan of everything with `exact` would: the same set, the same scores, the same ties.
"""
import math

import torch

BLOCK = 1 << 20      # products at once: int32, so 4 MB, which stay in the cache
WIDE = 1 << 22       # scores at once, float32: with more queries than fit, the keys are scanned again
LEVELS = 127


def on_grid(x, bits, limit):
    """x as float64 multiples of 2^-bits times the power of two above `limit` (|x| <= limit; a number, or a tensor for each vector)."""
    limit = torch.as_tensor(limit, dtype=torch.float64, device=x.device)
    step = limit / torch.frexp(limit).mantissa * 2.0 ** -bits   # exactly a power of two
    return (x.double() / step).round() * step


def exact(q, values, length, weight=None):
    """
    Scores (M, n) float32 of vectors `values` (n, P, d), components within +-length, for queries q (M, P, d); with weight (M, J), of q (M, J, d) for
    values (n, 1, d). The same to the bit however vectors and queries are batched, for P d up to 512.
    """
    q = on_grid(q, 24, q.abs().amax((1, 2), keepdim=True).clamp(min=1e-30).double())
    k = on_grid(values, 20, 1.01 * length)
    if weight is None:
        return (q.flatten(1) @ k.flatten(1).T).float()
    out = 0
    for j in range(q.shape[1]):
        out = out + weight[:, j, None].double() * (q[:, j] @ k[:, 0].T).relu()
    return out.float()


class Keys:
    """
    N vectors for each of P parts, as integers: codes (P, N, d) int8, as a record holds them, with `length` the length that a part has. It stands in a
    Traces where a (1, N, …) tensor of the dtype and trailing shape of `like` would. Vectors appended to it (torch.cat) are kept as they are.
    """
    def __init__(self, codes, length, like, scale=None, tail=None):
        self.codes, self.length, self.like = codes, length, like
        self.scale = torch.cat([scale_of(part, length) for part in codes]).view(codes.shape[:2]) if scale is None else scale
        self.tail = like[:, :0] if tail is None else tail

    @property
    def stored(self):
        return self.codes.shape[1]

    @property
    def shape(self):
        return torch.Size((1, self.stored + self.tail.shape[1], *self.like.shape[2:]))

    @property
    def parts(self):
        """The shape (P, d) of one."""
        return self.codes.shape[0], self.codes.shape[2]

    def part(self, p):
        """The Keys of one part alone; `like` (1, 0, P, d)."""
        return Keys(self.codes[p:p + 1], self.length, self.like[:, :, p], self.scale[p:p + 1], self.tail[:, :, p])

    def values(self, index):
        """(n,) int64 -> (n, P, d), the very numbers that a tensor would hold."""
        out = self.like.new_empty(len(index), *self.parts)
        old = index < self.stored
        kept = index[old]
        out[old] = (self.codes[:, kept].float() * self.scale[:, kept, None]).transpose(0, 1).to(out.dtype)
        out[~old] = self.tail[0, index[~old] - self.stored].view(-1, *self.parts)
        return out

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.cat:
            return NotImplemented
        first, *rest = args[0]
        return cls(first.codes, first.length, first.like, first.scale, torch.cat([first.tail, *rest], dim=1))

    def scan(self, q, weight=None):
        """
        q, weight as for `exact`, M queries -> (scores (M, N) float32, error (M,) float64): no score of a stored vector is further from `exact`. Those
        of the tail are exact.
        """
        M, J, d = q.shape
        peak = q.abs().amax(2, keepdim=True).float().clamp(min=1e-30)
        step = peak / LEVELS
        codes = (q / step).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        gain = step[..., 0] if weight is None else step[..., 0] * weight.float()
        # what is lost by rounding the query; the values, to half a unit in their last place; both to the grid; and in float32, generously
        norm = q.double().norm(dim=2)
        lost = (q.double() - step.double() * codes).norm(dim=2)
        ulp = torch.finfo(self.like.dtype).eps / 2
        error = (lost * (1 + ulp) + (norm + lost) * (ulp + 2 ** -19 * d ** 0.5 + 4e-6)) * self.length
        error = (error if weight is None else error * weight.double().abs()).sum(1)
        out = torch.empty(M, self.shape[1], device=q.device)
        block = max(BLOCK // (M * J), 1024)
        for at in range(0, self.stored, block):
            here = slice(at, min(at + block, self.stored))
            if weight is None:
                total = 0
                for p in range(J):
                    total = total + products(codes[:, p], self.codes[p, here]) * gain[:, p, None] * self.scale[p, here]
            else:
                dots = products(codes.flatten(0, 1), self.codes[0, here]).relu_().view(M, J, -1)
                total = (gain[:, None] @ dots)[:, 0] * self.scale[0, here]
            out[:, here] = total
        if self.tail.shape[1]:
            out[:, self.stored:] = exact(q, self.tail[0].view(-1, *self.parts), self.length, weight)
        return out, error


def scale_of(codes, length):
    """(N, d) int8 -> (N,) float32: what the integers are to be multiplied by to have this length (record.dequantise)."""
    square = torch.cat([(part.float() ** 2).sum(-1) for part in codes.split(1 << 16)]) if len(codes) else codes.new_zeros(0, dtype=torch.float32)
    return torch.where(square > 0, length / square.sqrt(), 0)


def products(q, k):
    """q (m, d), k (n, d) int8 -> (m, n) float32, exact."""
    if q.device.type == "cpu":
        return torch._int_mm(k, q.T).T.float() if len(q) == 1 else torch._int_mm(q, k.T).float()
    return q.float() @ k.float().T   # sums of integers below 2^24


def survivors(keys, q, k, slack=0.0, margin=0.0, visible=None, weight=None):
    """
    For each of M queries, (index (n,) int64 ascending, score (n,) float32) of exactly those vectors whose score, as `exact` gives it, is at least
    kth best - slack, or at least best - margin. visible (M, N) or (1, N) bool: others do not count. q, weight: see `exact`.

    slack: top k after a penalty between 0 and `slack` is taken from each score can only be among these.
    """
    found, N = [], keys.shape[1]
    group = max(WIDE // max(N, 1), 1)
    for at in range(0, len(q), group):
        rows = slice(at, at + group)
        part, w = q[rows], None if weight is None else weight[rows]
        rough, error = keys.scan(part, w)
        if visible is not None:
            rough.masked_fill_(~(visible if len(visible) == 1 else visible[rows]), -math.inf)
        for m, (line, most) in enumerate(zip(rough, error.tolist())):
            best = line.topk(min(k, N)).values.tolist() if N else []
            best = [b for b in best if b > -math.inf]
            if not best:
                found.append((torch.zeros(0, dtype=torch.int64, device=q.device), line[:0]))
                continue
            index = (line >= min(best[-1] - slack, best[0] - margin) - 2 * most).nonzero()[:, 0]
            one = None if w is None else w[m:m + 1]
            score = torch.cat([exact(part[m:m + 1], keys.values(i), keys.length, one)[0] for i in index.split(1 << 14)])
            best = score.topk(min(k, len(score))).values.double()
            keep = score.double() >= torch.minimum(best[-1] - slack, best[0] - margin)
            found.append((index[keep], score[keep]))
    return found


def spread(index, score, episode, span):
    """
    The spread of survivors (see recall.spread): a trace is as well addressed as the best of itself and the span - 1 that follow it in its episode.
    index (n,) ascending; score (n,); episode (N,), ascending runs. Returns (index, score) of all traces that one of the survivors reaches, ascending.
    """
    reach = index[:, None] - torch.arange(span, device=index.device)
    there = (reach >= 0) & (episode[reach.clamp(min=0)] == episode[index][:, None])
    out, back = reach[there].unique(return_inverse=True)
    best = score[:, None].expand_as(reach)[there]
    return out, torch.full((len(out),), -math.inf, device=score.device).scatter_reduce(0, back, best, "amax")
