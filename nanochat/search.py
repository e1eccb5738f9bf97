"""
Routing search: which of N stored vectors score best for a query, exactly, without N vectors in floating point.

    score(q, k) = sum_p q_p . k_p                   address: p = heads, a trace has a vector for each
    score(q, k) = sum_j w_j relu(q_j . k)           lightning indexer: j = its heads, a trace has one vector

Two passes. The scan takes all N from the int8 directions that a record holds: integer products, exact, times a scale for each vector, so that only the
query's rounding (known) and that of the stored values to their dtype (bounded) stand between it and the score, at most `error`. Whatever may be among
the best despite that error is then scored again from its values, and only that score counts.

`exact` is that score: its terms are integers in float64 below 2^53, so it is the same to the bit for a vector alone, in any batch, in any order. So what is
found is what a scan of everything with `exact` would find: the same set, the same scores, the same ties.
"""
from copy import copy

import torch
import torch.nn.functional as F

from nanochat.recall import NO_TRACE

NEG = float("-inf")
LEAST = -1e30        # below every score
BLOCK = 1 << 16      # products at once: what is made of a block stays in the cache
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
    N vectors for each of P parts as the integers of a record (4 or 8 bits), `length` being the length of a part. It stands in a Traces where a
    (1, N, …) tensor would, with the dtype, device and trailing shape of the empty tensor `like`. What is appended (torch.cat) is kept as it is.

    Of 4 bits a byte holds dimension i of two vectors: 16 y + (x + 8), x of vector n and y of vector n + N/2, each -7 to 7. With u = byte & 15 and integers q,
    x.q = u.q - 8 sum(q) and y.q = (byte.q - u.q) / 16: the bytes are scanned as they are, and once with a mask.
    """
    def __init__(self, n, shape, bits, length, like):
        """n vectors of shape (P, d), zero until they are filled."""
        P, d = shape
        self.n, self.bits, self.length, self.like, self.tail = n, bits, length, like, like[:, :0]
        self.codes = torch.zeros(P, n if bits == 8 else -(-n // 2), d, dtype=torch.int8, device=like.device)
        self.scale = torch.zeros(P, n, device=like.device)   # what the integers are to be multiplied by

    def fill(self, at, codes):
        """Puts codes (m, P, d) int8 in the place of the zeros of vectors at … at + m - 1."""
        codes = codes.transpose(0, 1).to(self.codes.device)
        m, half = codes.shape[1], self.codes.shape[1]
        square = (codes.float() ** 2).sum(-1)
        self.scale[:, at:at + m] = torch.where(square > 0, self.length / square.sqrt(), 0)   # as record.dequantise
        if self.bits == 8:
            self.codes[:, at:at + m] = codes
            return
        first = min(max(half - at, 0), m)
        self.codes[:, at:at + first] += codes[:, :first] + 8
        self.codes[:, at + first - half:at + m - half] += codes[:, first:] * 16

    @property
    def shape(self):
        return torch.Size((1, self.n + self.tail.shape[1], *self.like.shape[2:]))

    @property
    def parts(self):
        """The shape (P, d) of one vector."""
        return self.codes.shape[0], self.codes.shape[2]

    def part(self, p):
        """The Keys of one part alone; `like` is (1, 0, P, d)."""
        out = copy(self)
        out.codes, out.scale, out.like, out.tail = self.codes[p:p + 1], self.scale[p:p + 1], self.like[:, :, p], self.tail[:, :, p]
        return out

    def __getitem__(self, key):
        """[:, index], a slice or (n,) int64: the tensor (1, n, …)."""
        index = torch.arange(self.shape[1], device=self.codes.device)[key[1]]
        return self.values(index).view(1, -1, *self.like.shape[2:])

    def values(self, index):
        """(n,) int64 -> (n, P, d), the very numbers that a tensor would hold."""
        out = self.like.new_empty(len(index), *self.parts)
        old = index < self.n
        kept, half = index[old], self.codes.shape[1]
        if self.bits == 8:
            codes = self.codes[:, kept]
        else:
            byte = self.codes[:, kept % half]
            codes = torch.where((kept < half)[:, None], (byte & 15) - 8, byte >> 4)
        out[old] = (codes.float() * self.scale[:, kept, None]).transpose(0, 1).to(out.dtype)
        out[~old] = self.tail[0, index[~old] - self.n].view(-1, *self.parts)
        return out

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.cat:
            return NotImplemented
        out = copy(args[0][0])
        out.tail = torch.cat([out.tail, *args[0][1:]], dim=1)
        return out

    def scan(self, q, weight=None):
        """
        q, weight as for `exact`, M queries -> (scores (M, N) float32, error (M,) float64): no score is further from `exact`.
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
        rows = max(BLOCK // (M * J), 1024)
        for at in range(0, self.codes.shape[1], rows):
            if weight is None:
                found = zip(*(self.dots(codes[:, p], p, at, rows) for p in range(J)))
                total = lambda dots, here: sum(dots[p] * gain[:, p, None] * self.scale[p, here] for p in range(J))
            else:
                found = ((x,) for x in self.dots(codes.flatten(0, 1), 0, at, rows))
                total = lambda dots, here: (gain[:, None] @ dots[0].relu_().view(M, J, -1))[:, 0] * self.scale[0, here]
            for dots, begin in zip(found, (at, self.codes.shape[1] + at)):
                here = slice(begin, min(begin + dots[0].shape[1], self.n))
                out[:, here] = total(tuple(x[:, :here.stop - begin] for x in dots), here)
        if self.tail.shape[1]:
            tail = self.tail[0].view(-1, *self.parts).float()
            if weight is None:
                out[:, self.n:] = q.float().flatten(1) @ tail.flatten(1).T
            else:
                out[:, self.n:] = (weight.float()[:, None] @ (q.float() @ tail[:, 0].T).relu())[:, 0]
        return out, error

    def dots(self, q, part, at, rows):
        """Products of q (m, d) int8 with a block of codes, exact: of 8 bits [(m, rows)], of 4 bits those of the first half and of the second."""
        block = self.codes[part, at:at + rows]
        if self.bits == 8:
            return [products(q, block)]
        low, both = products(q, block & 15), products(q, block)
        return [low - 8 * q.float().sum(1, keepdim=True), (both - low) / 16]


def products(q, k):
    """q (m, d), k (n, d) int8 -> (m, n) float32, exact."""
    if q.device.type == "cpu":
        return torch._int_mm(k, q.T).T.float() if len(q) == 1 else torch._int_mm(q, k.T).float()
    return q.float() @ k.float().T   # sums of integers below 2^24


def candidates(keys, q, rough, least, weight=None):
    """
    The vectors whose rough score is at least `least`, for one query: (index (n,) int64 ascending, exact score (n,) float32). q (1, J, d); rough (N,).
    """
    index = (rough >= least).nonzero()[:, 0]
    parts = [exact(q, keys.values(i), keys.length, weight)[0] for i in index.split(1 << 14)]
    return index, torch.cat(parts) if parts else rough[:0]


def queries(keys, q, visible, weight=None):
    """
    Scans for M queries, as many at a time as memory allows. Yields for each (one query (1, J, d), its weight, rough scores (N,), error);
    rough scores are -inf where not visible, (M, N) or (1, N) bool.
    """
    group = max(WIDE // max(keys.shape[1], 1), 1)
    for at in range(0, len(q), group):
        part, w = q[at:at + group], None if weight is None else weight[at:at + group]
        rough, error = keys.scan(part, w)
        rough.masked_fill_(~(visible if len(visible) == 1 else visible[at:at + group]), NEG)
        for m, most in enumerate(error.tolist()):
            yield part[m:m + 1], None if w is None else w[m:m + 1], rough[m], most


def best(keys, q, k, visible, weight=None):
    """
    The k best vectors for each of M queries, best first, ties by the lower index: (index (M, k') int64, score (M, k') float32), k' = min(k, N).
    Where fewer are visible, index 0 with the score -inf follows. q, weight: see `exact`; visible (M, N) or (1, N) bool.
    """
    k = min(k, keys.shape[1])
    found = []
    for one, w, rough, error in queries(keys, q, visible, weight):
        index, score = candidates(keys, one, rough, max(reached(rough, k) - 2 * error, LEAST), w)
        found.append(first(index, score, k))
    if not found:
        return torch.zeros(0, k, dtype=torch.int64, device=q.device), torch.zeros(0, k, device=q.device)
    return tuple(torch.stack(x) for x in zip(*found))


def reached(score, k):
    """What k of the scores (N,) reach at least: the k-th best or, where N is large, of the best of every 64."""
    if len(score) > 64 * 64 * k:
        score = score[:len(score) // 64 * 64].view(-1, 64).amax(1)
    return float(score.topk(min(k, len(score))).values.amin()) if k and len(score) else NEG


def first(index, score, k):
    """The k best of scored vectors (index ascending), best first, filled up with index 0 and -inf: (k,) each."""
    order = score.sort(descending=True, stable=True).indices[:k]
    missing = k - len(order)
    return F.pad(index[order], (0, missing)), F.pad(score[order], (0, missing), value=NEG)


def spread(index, score, episode, span):
    """
    As recall.spread, of some traces alone: index (n,) ascending, score (n,); episode (N,), ascending. Returns (index, score) of all traces that one of
    them reaches, ascending.
    """
    reach = index[:, None] - torch.arange(span, device=index.device)
    there = (reach >= 0) & (episode[reach.clamp(min=0)] == episode[index][:, None])
    out, back = reach[there].unique(return_inverse=True)
    source = score[:, None].expand_as(reach)[there]
    return out, torch.full((len(out),), NEG, device=score.device).scatter_reduce(0, back, source, "amax")


def route(head, query, traces, visible, k):
    """
    What RecallHead.route and top_k say of a memory whose addresses are Keys (B = 1), to the bit where scores are `exact`, but without a score for each trace:
    select (1, M, K) and score (1, M, K), best first, K = min(k, N), 0 and -inf where fewer are visible; hints (1, M, 3).
    """
    address, keys, episode, visible = head.address, traces.address, traces.episode[0], visible[0]
    order, moment = query["order"][0], traces.moment[0]
    q = (query["b"] * address.scale.repeat_interleave(address.dim).to(query["b"].dtype))[0].unflatten(-1, (address.heads, address.dim))
    found, hints = [], []
    for m, (one, _, rough, error) in enumerate(queries(keys, q, visible)):
        error += 1e-4   # float32, in what is taken off
        after, at, replaced, margin = order[m]
        asked, seen = query["moment"][0, m], visible[min(m, len(visible) - 1)]

        def among(rough, least):
            return candidates(keys, one, rough, max(least - 2 * error, LEAST))

        def greatest_of(rough):
            return F.pad(among(rough, float(rough.max()))[1], (0, 1), value=NEG).max()

        late, best = rough.new_zeros(rough.shape), greatest_of(rough)
        near = [best.new_tensor(NEG)] * 2
        if asked >= 0:
            equal, later = moment == asked, moment > asked
            near = [greatest_of(torch.where(there, rough, NEG)) for there in (equal, later)]
            late.masked_fill_(later | (moment < 0), float(16 * torch.sigmoid(after))).masked_fill_(equal, float(16 * torch.sigmoid(at)))
        hints.append(torch.stack([best, *((x - best).clamp(min=-20) for x in near)]) / 10 if best > NEG else best.new_full((3,), NO_TRACE))

        def addressed(rough, least):
            """The traces that reach `least` when they are late by what they are late, as they are addressed: (index, score)."""
            index, score = among(rough, least)
            index, score = spread(index, score - late[index], episode, head.config.route_span)
            return index[seen[index]], score[seen[index]]

        # the traces that newer ones are compared with; `stale` is the same within an episode, and between two of theirs
        rough, margin = rough - late, 3 * F.softplus(margin)
        index, score = addressed(rough, float(rough.max() - margin))
        rival = F.relu(score - score.max() + margin) if len(score) else score
        index, rival = index[rival > 0], rival[rival > 0]
        newer = F.pad(rival.flip(0).cumsum(0).flip(0), (0, 1))
        rivals = episode[index].unique()
        cuts = torch.stack([torch.searchsorted(episode, rivals, right=end) for end in (False, True)], dim=1).flatten()   # where they begin and end
        cuts = F.pad(cuts, (1, 0), value=0), F.pad(cuts, (0, 1), value=len(episode))
        replaced = 16 * torch.sigmoid(replaced) * (1 - torch.exp(-newer[torch.searchsorted(index, cuts[1])]))
        replaced = replaced.repeat_interleave(cuts[1] - cuts[0])
        rough = rough - replaced
        index, score = addressed(rough, reached(rough, k))
        found.append(first(index, score - replaced[index], min(k, len(rough))))
    select, score = (torch.stack(x)[None] for x in zip(*found))
    return select, score, torch.stack(hints)[None]
