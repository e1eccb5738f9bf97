"""
Which episode is meant: word codes, addresses, and how the traces rank for a question (recall.py reads those that rank best).

Ancestors: feature hashing (Weinberger et al. 2009). Every word or number, seen in training or not, has a fixed random sign vector, so that t=1234 and
t=1235 are as far apart as any two words. Learned gates decide which words of an episode, or of a question, name it.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.state import CHUNK
from nanochat.tokenizer import DIGITS, WORD_HASH_PRIME   # hash(word) = sum_i (byte_i + 1) P^i mod 2^64

MAX_WORD = 256     # bytes; what is beyond shares the last power, harmless
MAX_DIGITS = 9     # a longer one is a name rather than a number
STEM = 3           # bytes of a word at least before the s that its stem leaves out: "keys", not "was"
NEG, LEAST = float("-inf"), -1e30   # no score, and what is below every score
ASKED = 256        # tokens of a question, its last, that are compared with what is read
NO_TRACE = -2.0    # each of the hints where no trace is visible


def unit(x):
    return F.normalize(x, dim=-1, eps=1e-6)


def mix64(x):
    """splitmix64 finaliser on int64 (arithmetic shifts masked to logical ones)."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -4658895280553007687   # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685   # 0x94D049BB133111EB
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class WordCodes(nn.Module):
    """
    Hash of the word that ends before each token, whatever tokens it was cut into, and its sign vector. Letters and digits that touch are one word, so
    that an identifier is one; a word of digits alone is also a number. The stem of a word leaves a last s out: who asks for a number is told of numbers.

    tables: (kind, hash, length, number, plural) over the vocabulary, see Tokenizer.word_tables; None: every token is a word of its own.
    They are buffers, so that a checkpoint carries them.
    """
    def __init__(self, vocab_size, dim):
        super().__init__()
        self.dim = dim
        for name, dtype in (("kind", torch.int8), ("hash", torch.int64), ("length", torch.int64), ("number", torch.int64), ("plural", torch.bool)):
            self.register_buffer(name, torch.zeros(vocab_size, dtype=dtype))

    def init_tables(self, tables=None):
        if tables is None:
            n = self.kind.numel()
            tables = torch.ones(n), torch.arange(1, n + 1), torch.ones(n), torch.zeros(n), torch.zeros(n)
        for buffer, table in zip((self.kind, self.hash, self.length, self.number, self.plural), tables):
            buffer.copy_(torch.as_tensor(table))

    def forward(self, ids, begins, carry, numbers=True):
        """
        ids (B, T) int64; begins (B, T) bool, true where an episode begins: no word reaches over it.
        carry (B, 6) int64: hash, reversed digits, letters, bytes of the word that was open after the last token before ids, the token's kind, and what a last s adds to the hash.
        Returns, of the word completed by each token's arrival, the hash of its stem (B, T) int64, 0 = none, its own hash (B, T) and the number (B, T) int64, -1 = none; and the carry.
        numbers=False: the stem alone.
        """
        kind = self.kind[ids].long()
        previous = torch.cat([carry[:, 4:5], kind[:, :-1]], dim=1).masked_fill(begins, 0)
        word = kind > 0
        start = (kind == 1) | (word & (previous == 0))
        length = self.length[ids] * word
        before = length.cumsum(1) - length + carry[:, 3:4]
        # `base` is the running value at the start of the current word: it only grows, so a running maximum finds it
        base = torch.where(start, before, 0).cummax(1).values
        at = (before - base).clamp(max=MAX_WORD - 1)
        powers = torch.ones(2, MAX_WORD, dtype=torch.int64, device=ids.device)
        powers[0, 1:], powers[1, 1:] = WORD_HASH_PRIME, 10
        powers = powers.cumprod(1)                                           # modulo 2^64; the digits of a number are summed lowest first, as the bytes of a word
        ends = (at + length - 1).clamp(min=0, max=MAX_WORD - 1)               # where the last byte of the token stands
        last_s = (ord("s") + 1) * powers[0, ends] * (self.plural[ids] & word & (ends >= STEM))
        part = [self.hash[ids] * powers[0, at]] + ([self.number[ids] * powers[1, at], kind != DIGITS, length] if numbers else [])
        part = torch.stack(part, dim=-1) * word[..., None]
        n = part.shape[-1]
        total = part.cumsum(1) + carry[:, None, :n]
        last = torch.where(start, torch.arange(ids.shape[1], device=ids.device), -1).cummax(1).values[..., None]
        partial = total - (total - part).gather(1, last.clamp(min=0).expand(-1, -1, n)).masked_fill(last < 0, 0)
        ended = torch.cat([carry[:, None, :n], partial[:, :-1]], dim=1)
        done = (start | ~word) & (previous > 0)
        ended = ended.masked_fill(~done[..., None], 0)
        stem = ended[..., 0] - torch.cat([carry[:, 5:], last_s[:, :-1]], dim=1).masked_fill(~done, 0)
        if not numbers:
            return stem
        hashes, digits, letters, size = ended.unbind(-1)
        number = torch.zeros_like(digits)
        for i in range(MAX_DIGITS):
            number = torch.where(i < size, number * 10 + digits % 10, number)
            digits = digits // 10
        number = torch.where(done & (letters == 0) & (size <= MAX_DIGITS), number, -1)
        return stem, hashes, number, torch.cat([partial[:, -1] * word[:, -1:], kind[:, -1:], last_s[:, -1:]], dim=1)

    def code(self, hashes, dtype):
        """(…,) int64 -> (…, dim) signs / sqrt(dim); zero where there is no word. dim must be a multiple of 64."""
        seeds = torch.arange(1, self.dim // 64 + 1, device=hashes.device) * WORD_HASH_PRIME
        bits = mix64(mix64(hashes[..., None] + seeds))                       # (…, dim/64)
        bits = (bits[..., None] >> torch.arange(64, device=hashes.device)) & 1
        sign = (1 - 2 * bits.flatten(-2)).to(dtype) * self.dim ** -0.5
        return sign * (hashes != 0)[..., None]


class Address(nn.Module):
    """
    Which episode this is (a) and which episode is meant (b): gated running sums of word codes and learned values over the
    tokens of the episode so far. They fade by a learned factor per chunk, so that a long document does not blur; only the direction counts.
    The number of the greatest gate is its moment: "t=600" in a line of a log, and in a question about what was before it.
    """
    def __init__(self, config):
        super().__init__()
        self.config, self.heads, self.dim = config, config.address_heads, config.address_dim
        width = self.heads * self.dim
        self.codes = WordCodes(config.vocab_size, width)
        self.value = nn.ModuleList([nn.Linear(config.n_embd, width, bias=False) for _ in range(2)])     # a, b: start equal
        self.gate = nn.ModuleList([nn.Linear(config.n_embd, self.heads, bias=False) for _ in range(2)])
        self.blend = nn.Parameter(torch.empty(self.heads))   # share of the learned value beside the word code
        self.fade = nn.Parameter(torch.empty(2, self.heads))
        self.scale = nn.Parameter(torch.empty(self.heads))
        self.order = nn.Linear(config.n_embd, 5)             # what the question says about order, see route
        self.salience = nn.Linear(config.n_embd, 2)          # how much it matters to what is read that a word is in the question; and that the evidence says it

    @torch.no_grad()
    def init_weights(self, tables=None):
        self.codes.init_tables(tables)
        nn.init.normal_(self.value[0].weight, std=(self.heads * self.dim * self.value[0].in_features) ** -0.5)   # unit output
        nn.init.constant_(self.blend, 0.1)
        self.value[1].weight.copy_(self.value[0].weight)
        for gate in self.gate:
            nn.init.zeros_(gate.weight)
        nn.init.constant_(self.fade, 4.0)    # 0.982 a chunk
        nn.init.constant_(self.scale, 12.0)
        nn.init.zeros_(self.order.weight)
        self.order.bias.copy_(torch.tensor([-4.0, -4.0, -1.0, 0.0, -4.0]))
        nn.init.zeros_(self.salience.weight)
        nn.init.zeros_(self.salience.bias)

    def forward(self, ids, h, valid, starts, same, carry):
        """
        ids, valid (B, T); h (B, T, D) trunk output; starts (B, C) bool, chunk begins an episode; same (B, C+1, C+1) bool, chunks of one
        episode, index 0 = the carry; carry: {"word": (B, 6) int64, "moment": (2, B, 2) int64, "sums": (2, B, Ha, Da)}.
        Returns a (B, C, Ha*Da), the address of each chunk at its end, and its moment (B, C) int64, -1 = none; the query at each token,
        {"b": (B, T, Ha*Da), "moment": (B, T) int64, "order": (B, T, 5)}; the words completed there, {"words": (B, T) int64 hashes of their stems, 0 = none, "weight": (B, T, 2 + Ha): for `nearby`, how much
        it must be said for an answer to be one, and how much it names what is meant};
        the carry.
        """
        B, T = ids.shape
        C = T // CHUNK
        begins = F.pad(starts[:, :, None], (0, CHUNK - 1)).view(B, T)
        stem, hashes, number, word = self.codes(ids, begins, carry["word"])
        number = number.masked_fill(~valid, -1)
        code = self.codes.code(hashes, h.dtype)
        order = torch.arange(C + 1, device=ids.device)
        distance = (order[:, None] - order[None]).clamp(min=0)
        reach = (same & (order[:, None] >= order[None]))[:, None]                       # (B, 1, C+1, C+1)
        out, sums, moments, tops = [], [], [], []
        for side in range(2):
            z = self.value[side](h) * self.blend.repeat_interleave(self.dim) + code
            z = z.view(B, C, CHUNK, self.heads, self.dim)
            gate = 8 * torch.tanh(self.gate[side](h) / 8)
            moment, top = greatest(gate.detach().sum(-1), number, begins, carry["moment"][side])
            moments.append(moment)
            tops.append(top)
            named = gate.exp()
            z = z * (named * valid[..., None]).view(B, C, CHUNK, self.heads, 1)
            chunk = torch.cat([carry["sums"][side][:, None], z.sum(2)], dim=1)          # (B, C+1, Ha, Da)
            fade = torch.sigmoid(self.fade[side])[:, None, None] ** distance            # (Ha, C+1, C+1)
            total = torch.einsum("bhct,bthd->bchd", fade * reach, chunk)
            sums.append(total[:, -1])
            if side == 0:
                out.append(unit(total[:, 1:]).flatten(2))
            else:
                earlier = torch.sigmoid(self.fade[1])[:, None] * (total[:, :-1] * reach[:, 0].diagonal(-1, 1, 2)[..., None, None])
                out.append(unit(z.cumsum(2) + earlier[:, :, None]).view(B, T, -1))
        query = {"b": out[1], "moment": moments[1], "order": self.order(h)}
        weight = torch.cat([torch.sigmoid(self.salience(h)), named.detach()], dim=-1)   # of the query's side, the last
        words = {"words": mix64(stem), "weight": weight * (hashes != 0)[..., None]}
        return out[0], moments[0][:, CHUNK - 1::CHUNK], query, words, {"word": word, "moment": torch.stack(tops), "sums": torch.stack(sums)}

    def score(self, b, a):
        """b (B, M, Ha*Da), a (B, N, Ha*Da) -> (B, M, N), the sum over heads of scale * cosine."""
        return torch.matmul(b * self.scale.repeat_interleave(self.dim).to(b.dtype), a.transpose(1, 2).to(b.dtype))

    def route(self, query, traces, visible):
        """
        Score of every trace for queries {"b": (B, M, Ha*Da), "moment": (B, M), "order": (B, M, 5)}; visible (B, M, N) bool.
        Returns (B, M, N), -inf where not visible, the same less what replaced ones lose, and (B, M, 3) for the gate: the best score, and how far below it
        are the best of the traces at the moment asked about and of those after it.

        order, from the question's words: how much it counts against a trace to be after its moment, at it, long before it, and to be replaced by a newer one; and how near
        the best score a newer one must come to replace it, see penalties.
        """
        after, at, replaced, margin, ago = (x[..., None] for x in penalties(query["order"]))
        moment, asked = traces.moment[:, None], query["moment"][..., None]
        equal, later = (moment == asked) & (asked >= 0), (moment > asked) & (asked >= 0)
        score = self.score(query["b"], traces.address)
        seen = score.detach().masked_fill(~visible, NEG)
        best = seen.amax(-1, keepdim=True)
        hints = [(seen.masked_fill(~where, NEG).amax(-1, keepdim=True) - best).clamp(min=-20) for where in (equal, later)]
        hints = torch.where(best > NEG, torch.cat([best, *hints], dim=-1) / 10, NO_TRACE)
        score = spread((score - untimely(moment, asked, after, at, ago)).masked_fill(~visible, NEG), traces.episode, self.config.route_span).masked_fill(~visible, NEG)
        return score, score - replaced * stale(score, traces.episode[:, None], margin), hints


def greatest(gate, number, begins, carry):
    """
    Of the numbers of the episode so far, that of the greatest gate, of equals the last. gate (B, T); number (B, T) int64, -1 = none; begins (B, T)
    bool; carry (B, 2) int64: rank (0 = none) and number. Returns (B, T) int64 and the carry.
    """
    rank = torch.where(number >= 0, (256 * gate).round().long() + 2 ** 16, 0)     # above 0, below 2^20
    rank = torch.cat([carry[:, :1], rank + 2 ** 20 * begins.cumsum(1)], dim=1)    # a later episode outranks all of the earlier ones
    top, at = rank.cummax(1)
    number = torch.cat([carry[:, 1:], number], dim=1).gather(1, at).masked_fill(top % 2 ** 20 == 0, -1)
    return number[:, 1:], torch.stack([top[:, -1] % 2 ** 20, number[:, -1]], dim=1)


def spread(score, episode, span):
    """
    A trace is as well addressed as the best of itself and the span - 1 traces that follow it in its episode: what names an
    episode may be said after the word that is asked for. score (B, M, N), episode (B, N); span a power of two.
    """
    shift = 1
    while shift < span and shift < score.shape[-1]:
        later = score[..., shift:].masked_fill((episode[:, shift:] != episode[:, :-shift])[:, None], NEG)
        score = torch.cat([torch.maximum(score[..., :-shift], later), score[..., -shift:]], dim=-1)
        shift *= 2
    return score


def top_k(score, k):
    """Indices of the k best of the last dimension, ties broken by the lower index, (…, k) int64. Deterministic."""
    n = score.shape[-1]
    k = min(k, n)
    bits = (score.float() + 0.0).contiguous().view(torch.int32).long()         # + 0.0: -0 and 0 are one score
    order = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)                    # float order as integer order
    key = order * (1 << 32) + (n - 1 - torch.arange(n, device=score.device))
    return n - 1 - (key.topk(k, dim=-1).values & 0xFFFFFFFF)


def candidates(fresh, score, k):
    """
    Which traces are looked at more closely: the k best as they are addressed where a newer one replaces an older, fresh (B, M, N), and of the others the k best where it does not,
    score (B, M, N), -inf where not visible. Returns indices (B, M, C), ascending, C = min(2k, N).
    """
    best = top_k(fresh, k)
    rest = top_k(score.clamp(min=LEAST).scatter(-1, best, NEG), min(k, score.shape[-1] - best.shape[-1]))
    return torch.cat([best, rest], dim=-1).sort(-1).values


def and_next(select, score, traces, visible, bonus):
    """
    Of traces and those that follow them in their episodes, which are as good, since what is copied goes on there, the K best: (of which of the K traces each is or follows,
    index, score), (B, M, K). select, score (B, M, K), bonus (B, M, K) as if the score were that much better; visible (B, M, N) bool, M or 1 of them.
    """
    K, N = select.shape[-1], len(traces)
    after = (select + 1).clamp(max=N - 1)
    there = (gather_traces(traces.episode, after) == gather_traces(traces.episode, select)) & (after > select)
    there = there & visible.expand(-1, select.shape[1], -1).gather(2, after)
    same = (after[..., None] == select[..., None, :]) & there[..., None]                                  # (B, M, K, K): it is one of them
    follows = torch.where(same, score[..., None], NEG).amax(-2)
    score = torch.cat([torch.maximum(score, follows), score.masked_fill(~there | same.any(-1), NEG)], dim=-1)
    best = top_k(score.detach() + torch.cat([bonus, bonus], dim=-1), K)
    return best % K, torch.cat([select, after], dim=-1).gather(-1, best), score.gather(-1, best)


def tally(hashes, weight):
    """
    What a question says, each thing once: the hashes (…, n) int64 in order, and with the first of each the sum of its weights (…, n, W), with the others zero.
    """
    hashes, order = hashes.sort(dim=-1)
    order = order[..., None].expand_as(weight)
    first = torch.searchsorted(hashes, hashes)[..., None].expand_as(weight)
    return hashes, torch.zeros_like(weight).scatter_add(-2, first, weight.gather(-2, order))


def find(hashes, what):
    """Where in hashes (…, n) int64, in order, each of `what` (…, m) stands first, (…, m) int64, and whether it does, (…, m) bool; 0, which is nothing, does not."""
    at = torch.searchsorted(hashes, what.contiguous()).clamp(max=hashes.shape[-1] - 1)
    return at, (hashes.gather(-1, at) == what) & (what != 0)


def gather_traces(x, index):
    """x (B, N, …), index (B, M, K) -> (B, M, K, …)."""
    B, N = x.shape[:2]
    flat = (index + torch.arange(B, device=index.device)[:, None, None] * N).flatten()
    return x.flatten(0, 1).index_select(0, flat).view(*index.shape, *x.shape[2:])


def penalties(order):
    """
    From a question's words about order (…, 5), see Address: what it costs a trace to be after the moment asked about, to be at it, to be replaced by a newer one, each 0 to 16;
    how near the best score the newer one must come; and what it costs to be e times as long ago, 0 to 4; all (…).
    """
    after, at, replaced, margin, ago = order.unbind(-1)
    return 16 * torch.sigmoid(after), 16 * torch.sigmoid(at), 16 * torch.sigmoid(replaced), 3 * F.softplus(margin), 4 * torch.sigmoid(ago)


def untimely(moment, asked, after, at, ago):
    """
    What it costs a trace of this moment (int, -1 = none) that one was asked about (the same; -1: nothing), and by how much it differs: the log of how long ago it was.
    A trace without a number is not known to be in time: what follows it in its episode may be.
    """
    dated = asked >= 0
    late = after * (dated & ((moment > asked) | (moment < 0))) + at * (dated & (moment == asked))
    return late + ago * torch.log1p((asked - moment).clamp(min=0).to(late.dtype)) * (dated & (moment >= 0))


def stale(score, episode, margin):
    """
    How far the best of the newer episodes comes within `margin` of the best score, 0 to 1: 0 for the newest of those that match, near 1 for what
    it replaces. The best, not their sum: in a long life there are always many that match a little. score (B, M, N), -inf where not visible;
    episode (B, N), ascending; margin (B, M, 1).
    """
    N = score.shape[-1]
    best = score.detach().amax(-1, keepdim=True).clamp(min=-1e4)
    rival = F.relu(score - best + margin)
    newer = F.pad(rival.flip(-1).cummax(-1).values.flip(-1), (0, 1))                                      # of this trace and all after it
    ends = torch.where(F.pad(episode[..., 1:] != episode[..., :-1], (0, 1), value=True), torch.arange(1, N + 1, device=score.device), N)
    following = ends.flip(-1).cummin(-1).values.flip(-1)                                                  # where the next episode begins
    return 1 - torch.exp(-newer.gather(-1, following.expand_as(score)))
