"""
Routing search: which of N stored vectors score best for a query, exactly, without N vectors in floating point.

    score(q, k) = sum_p q_p . k_p                   p = parts, a trace has a vector for each
    score(q, k) = sum_j w_j relu(q_j . k)           lightning indexer: j = its heads, a trace has one vector

Two passes. The scan takes all N from the integers that a record holds and says what each score is at most: integer
products are exact, so only the query's rounding (known) and that of the stored values to their dtype (bounded) are
between it and the score. A few with the highest bounds are scored, which says what k of the scores reach for sure.
Whatever may reach that, too, is scored from its values, and only that score counts.

`exact` is that score: its terms are integers in float64 below 2^53, so it is the same to the bit for a vector alone, in
any batch, in any order. So what is found is what a scan of everything with `exact` would find: the same set, the same
scores, the same ties.
"""
from copy import copy

import torch
import torch.nn.functional as F

from nanochat.record import BITS, quantise

NEG, LEAST = float("-inf"), -1e30   # no score, and what is below every score
BLOCK = 1 << 21      # bytes of a block of codes and its products: they stay in the cache
GROUP = 64           # scores whose greatest bound stands for all of them
WIDE = 1 << 22       # scores at once, float32: with more queries than fit, the keys are scanned again
LEVELS = 127


def on_grid(x, bits, limit):
    """
    x as float64 multiples of 2^-bits times the power of two above `limit` (|x| <= limit; a number, or a tensor for each
    vector).
    """
    limit = torch.as_tensor(limit, dtype=torch.float64, device=x.device)
    step = limit / torch.frexp(limit).mantissa * 2.0 ** -bits   # exactly a power of two
    return x.to(torch.float64, copy=True).div_(step).round_().mul_(step)


def exact(q, values, length, weight=None):
    """
    Scores (M, n) float32 of vectors `values` (n, P, d), components within +-length, for queries q (M, P, d); with
    weight (M, J), of q (M, J, d) for values (n, 1, d). The same to the bit however vectors and queries are batched, for
    P d up to 512.
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
    N vectors for each of P parts as the integers of a record (4 or 8 bits), `length` being the length of a part. It
    stands in a Traces where a (1, N, …) tensor would, with the dtype, device and trailing shape of the empty tensor
    `like`. What is appended (torch.cat) is kept as it is.

    Of 4 bits a byte holds dimension i of two vectors: 16 y + (x + 8), x of vector n and y of vector n + N/2, each -7 to
    7. With u = byte & 15 and integers q, x.q = u.q - 8 sum(q) and y.q = (byte.q - u.q) / 16: the bytes are scanned as
    they are, and once with a mask.
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
        self.scale[:, at:at + m] = unit_scale(codes, self.length)
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
        out.codes, out.scale, out.like, out.tail = (self.codes[p:p + 1], self.scale[p:p + 1], self.like[:, :, p],
                                                    self.tail[:, :, p])
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
        return args[0][0].appended(*args[0][1:])

    def appended(self, *more):
        """With tensors (1, n, …) after the rest."""
        out = copy(self)
        out.tail = torch.cat([out.tail, *more], dim=1)
        return out

    def flatten(self, *_):
        return self   # one row: (1, N, …) and (N, …) have the same rows

    def index_select(self, dim, index):
        return self.values(index).view(-1, *self.like.shape[2:])

    def scan(self, q, weight=None):
        """
        q, weight as for `exact`, M queries -> (M, N) float32: what the scores are at most, and that but for the
        rounding of the query and the values. An indexer's score is 0 where all of its heads are below 0 for sure.
        """
        M, J, d = q.shape
        step = q.abs().amax(2, keepdim=True).float().clamp(min=1e-30) / LEVELS
        codes = (q / step).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        # what is lost by rounding the query; the values, to half a unit in their last place; both to the grid; and in
        # float32, generously
        norm = q.double().norm(dim=2, keepdim=True)
        lost = (q.double() - step.double() * codes).norm(dim=2, keepdim=True)
        ulp = torch.finfo(self.like.dtype).eps / 2
        error = ((lost * (1 + ulp) + (norm + lost) * (ulp + 2 ** -19 * d ** 0.5 + 4e-6)) * self.length).float()
        if weight is None:
            out = error.sum((1, 2))[:, None].repeat(1, self.shape[1])
        else:
            out = torch.empty(M, self.shape[1], device=q.device)
            gain, slack = step.mT * weight[:, None].float(), error / step * weight[..., None].float().sign()
            # x scale (M, J, n) in units of `step`
            heads = lambda x, scale: (gain @ torch.addcmul(slack, x, scale, out=x).relu_())[:, 0]
        rows = max(BLOCK // (d + 4 * M * J), 1024)
        spare = torch.empty(rows, d, dtype=torch.int8, device=q.device)
        for at in range(0, self.codes.shape[1], rows):
            for p, part in enumerate(codes.split(1 if weight is None else J, dim=1)):
                for begin, unit, dots in zip((at, self.codes.shape[1] + at), (1, 1 / 16),
                                             self.dots(part.flatten(0, 1), self.codes[p, at:at + rows], spare)):
                    here = slice(begin, min(begin + dots.shape[1], self.n))
                    dots, scale = dots[:, :here.stop - begin], self.scale[p, here]
                    if weight is None:
                        for m in range(M):
                            out[m, here].addcmul_(dots[m], scale, value=unit * float(step[m, p]))
                    else:
                        out[:, here] = heads(dots.view(M, J, -1), unit * scale)
        if self.tail.shape[1]:
            tail = self.tail[0].view(-1, *self.parts).float()
            if weight is None:
                out[:, self.n:] += q.float().flatten(1) @ tail.flatten(1).T
            else:
                out[:, self.n:] = heads((q / step) @ tail[:, 0].T, out.new_ones(()))
        return out

    def cosines(self, q):
        """
        The cosines (N,) float32 with q (d,), rounded to 8 bits, of vectors of one part. Integers are multiplied: a
        vector has the same one in any memory, stored or appended.
        """
        code = (q.float() / q.abs().max().clamp(min=1e-30) * LEVELS).round().to(torch.int8)[None]
        out = torch.empty(self.shape[1], device=q.device)
        rows, half = max(BLOCK // code.shape[1], 1024), self.codes.shape[1]
        spare = torch.empty(rows, code.shape[1], dtype=torch.int8, device=q.device)
        for at in range(0, half, rows):
            dots = self.dots(code, self.codes[0, at:at + rows], spare)
            for begin, unit, part in zip((at, half + at), (1, 1 / 16), dots):
                here = slice(begin, min(begin + part.shape[1], self.n))
                out[here] = unit * part[0, :here.stop - begin] * self.scale[0, here]
        tail = quantise(self.tail[0].view(-1, code.shape[1]), self.bits)
        out[self.n:] = products(code, tail)[0] * unit_scale(tail, self.length) if len(tail) else out[self.n:]
        return out / (self.length * code.float().norm())

    def dots(self, q, block, spare):
        """
        Products of q (m, d) int8 with a block of codes (n, d), exact: of 8 bits [(m, n)], of 4 bits those of the first
        half, and 16 times those of the second.
        """
        if self.bits == 8:
            return [products(q, block)]
        first, second = products(q, torch.bitwise_and(block, 15, out=spare[:len(block)])), products(q, block)
        return [first - 8 * q.float().sum(1, keepdim=True), second.sub_(first)]


def unit_scale(codes, length):
    """What integers (…, d) are to be multiplied by to have the length, as record.dequantise does."""
    square = (codes.float() ** 2).sum(-1)
    return torch.where(square > 0, length / square.sqrt(), 0)


def cosines(vectors, q):
    """
    The cosines (N,) with q (d,) of Keys, or of a tensor (1, N, d) that was read from records or will be: see
    Keys.cosines.
    """
    if not isinstance(vectors, Keys):
        vectors = Keys(0, (1, len(q)), BITS["gist"], len(q) ** 0.5, vectors[:, :0]).appended(vectors)
    return vectors.cosines(q)


def products(q, k):
    """q (m, d), k (n, d) int8 -> (m, n) float32, exact."""
    if q.device.type == "cpu":
        return torch._int_mm(k, q.T).T.float() if len(q) == 1 else torch._int_mm(q, k.T).float()
    return q.float() @ k.float().T   # sums of integers below 2^24


def scored(keys, index, q, weight=None):
    """Exact scores (n,) float32 of the vectors `index` for one query q (1, J, d)."""
    # so many stay in the cache
    return torch.cat([exact(q, keys.values(i), keys.length, weight)[0] for i in index.split(1024)])


def queries(keys, q, visible, weight=None):
    """
    Scans for M queries, as many at a time as memory allows. Yields for each (one query (1, J, d), its weight, what the
    scores are at most (N,)); -inf where not visible, (M, N) or (1, N) bool.
    """
    group = max(WIDE // max(keys.shape[1], 1), 1)
    for at in range(0, len(q), group):
        part, w = q[at:at + group], None if weight is None else weight[at:at + group]
        high = keys.scan(part, w).masked_fill_(~(visible if len(visible) == 1 else visible[at:at + group]), NEG)
        for m in range(len(part)):
            yield part[m:m + 1], None if w is None else w[m:m + 1], high[m]


def best(keys, q, k, visible, weight=None):
    """
    The k best vectors for each of M queries, best first, ties by the lower index: (index (M, k') int64, score (M, k')
    float32), k' = min(k, N). Where fewer are visible, index 0 with the score -inf follows. q, weight: see `exact`;
    visible (M, N) or (1, N) bool.
    """
    k = min(k, keys.shape[1])
    found = []
    for one, w, high in queries(keys, q, visible, weight) if k else ():
        some = Bounds(high).likely(k)
        some, score = first(some, scored(keys, some, one, w), k)
        least, last = score[-1].clamp(min=LEAST), int(some[-1]) + 1
        # beyond the last of them nothing counts that is only as good: thousands have the score 0 where an indexer's
        # weights are negative
        index = torch.cat([Bounds(high[:last]).reaching(least),
                           last + Bounds(high[last:]).reaching(torch.nextafter(least, -least.new_tensor(NEG)))])
        found.append(first(index, scored(keys, index, one, w), k))
    if not found:
        return torch.zeros(len(q), k, dtype=torch.int64, device=q.device), torch.zeros(len(q), k, device=q.device)
    return tuple(torch.stack(x) for x in zip(*found))


class Bounds:
    """
    What N scores are at most: high (N,). The greatest of every GROUP says where to look, so that few passes go over all
    N.
    """
    def __init__(self, high):
        self.high = high
        whole = len(high) // GROUP
        self.top = high[:whole * GROUP].view(whole, GROUP).amax(1)
        if len(high) % GROUP:
            self.top = torch.cat([self.top, high[whole * GROUP:].amax(0, keepdim=True)])

    def reaching(self, least):
        """The indices of what is at least `least`, ascending."""
        groups = (self.top >= least).nonzero()
        if 8 * len(groups) > len(self.top):
            return (self.high >= least).nonzero()[:, 0]
        index = (groups * GROUP + torch.arange(GROUP, device=groups.device)).flatten()
        index = index[index < len(self.high)]
        return index[self.high[index] >= least]

    def likely(self, k):
        """Some indices, ascending, among which the k best are likely to be."""
        score = self.top if len(self.top) > 2 * GROUP * k else self.high
        return self.reaching(score.topk(min(2 * k, len(score))).values[-1].clamp(min=LEAST))[:4 * k]


def first(index, score, k):
    """The k best of scored vectors (index ascending), best first, filled up with index 0 and -inf: (k,) each."""
    order = score.sort(descending=True, stable=True).indices[:k]
    missing = k - len(order)
    return F.pad(index[order], (0, missing)), F.pad(score[order], (0, missing), value=NEG)
