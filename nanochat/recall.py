"""
The recall head: exact recall by address and content.

A query scores every trace by its *address* (which episode is meant), looks at what the best of them say, takes the top-k
of those, and within them scores every token by *content* (which word in it). What is copied is a token id, so words never
seen in training come back.

    content   q.k        k: what was about to be said before the token, and what was; q: what is about to be said now
    address   b.a        gated running sums over the episode, of word codes and of a learned value
              - late     episodes whose number is beyond that of the query ("before t=600", "as of t=550"), or long before it
              - stale    episodes that a newer one matches about as well: of equals the latest counts
    suffix    c_m        the m tokens before the entry equal the last m tokens of the stream (continue a copy)
    nearby    n          words around the entry stand in the question: "the mood was tired", "what was the mood?"; on which side the word stands
                         that names a value ("7 is the age of Ada", "Ada: 7") is told by the value's key
    asked     d          the entry itself stands in the question: an answer is what the question does not say
    missing   w          what the question names and the episode does not say: many may say most of it
    again     r          an older episode that says what the question names says the entry, too: of two values in "not tea but milk" it is the former

    p_copy(v) = sum over entries i with id v of softmax_i(content + address + suffix)
    p         = (1 - g) softmax(logits) + g p_copy          g = sigmoid(gate)

Ancestors: pointer-sentinel networks (Merity et al. 2016), kNN-LM (Khandelwal et al. 2019). A word code is feature hashing
(Weinberger et al. 2009): every word or number, seen in training or not, has a fixed random sign vector, so that t=1234 and
t=1235 are as far apart as any two words. Learned gates decide which words of an episode, or of a question, name it.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.state import CHUNK, CONTEXT
from nanochat.tokenizer import DIGITS, WORD_HASH_PRIME   # hash(word) = sum_i (byte_i + 1) P^i mod 2^64

MAX_WORD = 256     # bytes; what is beyond shares the last power, harmless
MAX_DIGITS = 9     # a longer one is a name rather than a number
NEG = float("-inf")
GATE, KNOWN = 64, 32   # hidden units of the gate, and of its part that sees the hints alone
GRAMS = 4096        # places in the tables of what a question says
HINTS = 9           # numbers that the gate is told beside vectors, and what is missing for each address head
WORDS = 16          # words of a question at most that are looked for in what is read
WHOLE = 4.0         # what speaks for going on within a word, in the gate's logit
NO_TRACE = -2.0     # each of the hints where no trace is visible
BEFORE, AFTER = 9, 9   # tokens before and after an entry in which a word of the question counts, as far as its record knows them
HISTORY = CHUNK + CONTEXT - 1   # tokens that a record knows before its last entry: so many last tokens of the stream are compared with them


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
    that an identifier is one; a word of digits alone is also a number.

    tables: (kind, hash, length, number) over the vocabulary, see Tokenizer.word_tables; None: every token is a word of its own.
    They are buffers, so that a checkpoint carries them.
    """
    def __init__(self, vocab_size, dim):
        super().__init__()
        self.dim = dim
        for name, dtype in (("kind", torch.int8), ("hash", torch.int64), ("length", torch.int64), ("number", torch.int64)):
            self.register_buffer(name, torch.zeros(vocab_size, dtype=dtype))

    def init_tables(self, tables=None):
        if tables is None:
            n = self.kind.numel()
            tables = torch.ones(n), torch.arange(1, n + 1), torch.ones(n), torch.zeros(n)
        for buffer, table in zip((self.kind, self.hash, self.length, self.number), tables):
            buffer.copy_(torch.as_tensor(table))

    def forward(self, ids, begins, carry):
        """
        ids (B, T) int64; begins (B, T) bool, true where an episode begins: no word reaches over it.
        carry (B, 5) int64: hash, reversed digits, letters, bytes of the word that was open after the last token before ids, and the token's kind.
        Returns, of the word completed by each token's arrival, the hash (B, T) int64, 0 = none, and the number (B, T) int64, -1 = none; and the carry.
        """
        kind = self.kind[ids].long()
        previous = torch.cat([carry[:, 4:], kind[:, :-1]], dim=1).masked_fill(begins, 0)
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
        part = torch.stack([self.hash[ids] * powers[0, at], self.number[ids] * powers[1, at], kind != DIGITS, length], dim=-1) * word[..., None]
        total = part.cumsum(1) + carry[:, None, :4]
        last = torch.where(start, torch.arange(ids.shape[1], device=ids.device), -1).cummax(1).values[..., None]
        partial = total - (total - part).gather(1, last.clamp(min=0).expand(-1, -1, 4)).masked_fill(last < 0, 0)
        ended = torch.cat([carry[:, None, :4], partial[:, :-1]], dim=1)
        done = (start | ~word) & (previous > 0)
        hashes, digits, letters, size = ended.masked_fill(~done[..., None], 0).unbind(-1)
        number = torch.zeros_like(digits)
        for i in range(MAX_DIGITS):
            number = torch.where(i < size, number * 10 + digits % 10, number)
            digits = digits // 10
        number = torch.where(done & (letters == 0) & (size <= MAX_DIGITS), number, -1)
        return hashes, number, torch.cat([partial[:, -1] * word[:, -1:], kind[:, -1:]], dim=1)

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
        self.heads, self.dim = config.address_heads, config.address_dim
        width = self.heads * self.dim
        self.codes = WordCodes(config.vocab_size, width)
        self.value = nn.ModuleList([nn.Linear(config.n_embd, width, bias=False) for _ in range(2)])     # a, b: start equal
        self.gate = nn.ModuleList([nn.Linear(config.n_embd, self.heads, bias=False) for _ in range(2)])
        self.blend = nn.Parameter(torch.empty(self.heads))   # share of the learned value beside the word code
        self.fade = nn.Parameter(torch.empty(2, self.heads))
        self.scale = nn.Parameter(torch.empty(self.heads))
        self.order = nn.Linear(config.n_embd, 5)             # what the question says about order, see RecallHead.route
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
        episode, index 0 = the carry; carry: {"word": (B, 5) int64, "moment": (2, B, 2) int64, "sums": (2, B, Ha, Da)}.
        Returns a (B, C, Ha*Da), the address of each chunk at its end, and its moment (B, C) int64, -1 = none; the query at each token,
        {"b": (B, T, Ha*Da), "moment": (B, T) int64, "order": (B, T, 5)}; the words completed there, {"place": (B, T) int64 below GRAMS, "weight": (B, T, 2 + Ha): for `nearby`, how much it must be said
        for an answer to be one, and how much it names what is meant};
        the carry.
        """
        B, T = ids.shape
        C = T // CHUNK
        begins = F.pad(starts[:, :, None], (0, CHUNK - 1)).view(B, T)
        hashes, number, word = self.codes(ids, begins, carry["word"])
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
        words = {"place": mix64(hashes) % GRAMS, "weight": weight * (hashes != 0)[..., None]}
        return out[0], moments[0][:, CHUNK - 1::CHUNK], query, words, {"word": word, "moment": torch.stack(tops), "sums": torch.stack(sums)}

    def score(self, b, a):
        """b (B, M, Ha*Da), a (B, N, Ha*Da) -> (B, M, N), the sum over heads of scale * cosine."""
        return torch.matmul(b * self.scale.repeat_interleave(self.dim).to(b.dtype), a.transpose(1, 2).to(b.dtype))


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
    rest = top_k(score.clamp(min=-1e30).scatter(-1, best, NEG), min(k, score.shape[-1] - best.shape[-1]))
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


def grams(line):
    """
    line (…, 3 + n) int64 token ids -> (…, n, 3) int64 below 3 * GRAMS: the last token, two tokens and three tokens at each of the n, by hash.
    """
    one, two, three = line[..., CONTEXT:], line[..., CONTEXT - 1:-1], line[..., CONTEXT - 2:-2]
    mixed = torch.stack([one, mix64(two * 2 ** 20 + one), mix64(mix64(three * 2 ** 20 + two) + one)], dim=-1)
    return mixed % GRAMS + GRAMS * torch.arange(3, device=line.device)


def continued(ids, copied, idx, targets, positions, n_ordinary):
    """
    Of the entries (B, M, K*16) from which an answer might be copied at the positions (B, M), those that go on as it does, (B, M, K*16) bool: as far as the record
    knows, all of it so far stands before the entry, it is the next token, and the two after it follow; where it ends, whatever comes next. Of "1512" in "t=1512: 5
    of 151" one 1 is right. Where there is none (the second of two values), those that are the next token. ids, copied as RecallHead.read returns them; idx, targets (B, T).
    """
    ahead, rows = F.pad(targets, (0, 2), value=-1), torch.arange(idx.shape[0], device=idx.device)[:, None]
    target = targets[rows, positions][..., None]
    spoke = torch.where(idx >= n_ordinary, torch.arange(idx.shape[1], device=idx.device), -1).cummax(1).values
    said = (positions - spoke[rows, positions]).clamp(max=HISTORY)[..., None]
    ends = target >= n_ordinary
    simple = (ids == target) | ends
    exact, going, slot = simple & (copied >= said), ~ends, torch.arange(ids.shape[-1], device=ids.device) % CHUNK
    for n in (1, 2):
        following = ahead[rows, positions + n][..., None]
        going = going & (following >= 0) & (following < n_ordinary)
        exact = exact & (~going | (F.pad(ids, (0, n))[..., n:] == following) | (slot >= CHUNK - n))
    return torch.where(exact.any(-1, keepdim=True), exact, simple & ~ends)


def said_before(line, episode, names):
    """
    Whether the tokens of traces are said by an older episode, too, and how much of what is named it says, (B, M, K, 16), 0 to 1. line (B, M, K, 19), episode
    (B, M, K), names (B, M, K), how much each says of it.
    """
    same = (line[..., CONTEXT:, None, None] == line[:, :, None, None]).any(-1)                             # (B, M, K, 16, K)
    older = (episode[..., None] > episode[..., None, :]) * names[..., None, :]
    return (same * older[:, :, :, None]).amax(-1)


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


class Keys(nn.Module):
    """
    The recall key of each token: what was about to be said there, and what was. A trace is made when its chunk has closed, so a key may look at the
    tokens after it, too, within the chunk: "mango juice was the drink of the user" tells only later that a drink has been named.
    """
    def __init__(self, config):
        super().__init__()
        D = config.n_embd
        self.heads, self.head_dim = config.n_head, D // config.n_head
        self.near = nn.Linear(4 * D, config.recall_dim, bias=False)      # of the token before, the token, the two after
        self.qkv = nn.Linear(D, 3 * D, bias=False)                       # attention over the chunk, in both directions
        self.far = nn.Linear(D, config.recall_dim, bias=False)

    @torch.no_grad()
    def init_weights(self, query):
        """query (Dk, D): at the start a key is what the query would be before the token."""
        nn.init.zeros_(self.near.weight)
        self.near.weight[:, :query.shape[1]] = query
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_features ** -0.5)
        nn.init.zeros_(self.far.weight)

    def forward(self, chunks, before, alive, cos, sin):
        """
        chunks (B, C, 16, D) trunk output; before (B, C, 16, D) that of the slot before each; alive (B, C, 16, 1) bool; cos, sin (1, 16, 1, d/2) rotary
        tables of the slots. Returns unit vectors (B, C, 16, Dk) in fp32 (fp64 in double precision).
        """
        B, C, _, D = chunks.shape
        linear = lambda layer, x: F.linear(x, layer.weight.to(x.dtype))
        after = [F.pad((chunks * alive)[:, :, n:], (0, 0, 0, n)) for n in range(3)]
        key = linear(self.near, torch.cat([before, *after], dim=-1))
        q, k, v = linear(self.qkv, chunks).view(B * C, CHUNK, 3, self.heads, self.head_dim).unbind(2)
        q, k = (rotate(F.rms_norm(t, (self.head_dim,)), cos, sin) for t in (q, k))
        score = torch.einsum("nqhd,nkhd->nhqk", q, k) * self.head_dim ** -0.5
        score = score.masked_fill(~alive.view(B * C, 1, 1, CHUNK), -1e4)
        y = torch.einsum("nhqk,nkhd->nqhd", torch.softmax(score, dim=-1), v).reshape(chunks.shape)
        key = key + linear(self.far, y)
        return unit(key.to(torch.promote_types(key.dtype, torch.float32)))


def rotate(x, cos, sin):
    """Rotary embedding. x (B, T, H, D); cos, sin (B or 1, T, 1, D/2)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


class RecallHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.address = Address(config)
        self.key = Keys(config)
        self.query = nn.Linear(config.n_embd, config.recall_dim, bias=False)
        self.content_scale = nn.Parameter(torch.empty(()))
        self.suffix = nn.Parameter(torch.empty(HISTORY))
        self.nearby = nn.Parameter(torch.empty(BEFORE + 1 + AFTER))              # a word of the question ends so many tokens before the entry, or after it
        self.side = nn.Linear(config.recall_dim, BEFORE + 1 + AFTER, bias=False)   # ... and what the entry's key adds to it
        self.asked = nn.Parameter(torch.empty(2, 3))                             # 1 to 3 tokens that end with the entry, or with the one after it, are in the question
        self.lack = nn.Parameter(torch.empty(()))                                # what it costs an episode to say nothing of what is named
        self.again = nn.Linear(config.n_embd, 1)                                 # ... and an entry that an older one says, too: by what is asked
        self.sink = nn.Linear(config.n_embd, 1)
        hints = HINTS + config.address_heads
        recalled = config.n_embd + config.recall_dim + hints
        self.feedback = nn.Linear(recalled, config.n_embd, bias=False)
        self.gate = nn.Sequential(nn.Linear(config.n_embd + recalled, GATE), nn.ReLU(), nn.Linear(GATE, 1))
        self.known = nn.Sequential(nn.Linear(hints, KNOWN), nn.ReLU(), nn.Linear(KNOWN, 1))   # the hints by themselves: among hidden states they drown

    @torch.no_grad()
    def init_weights(self, tables=None):
        self.address.init_weights(tables)
        nn.init.normal_(self.query.weight, std=self.query.in_features ** -0.5)
        self.key.init_weights(self.query.weight)
        nn.init.constant_(self.content_scale, 10.0)
        self.suffix.copy_(torch.tensor([2.0, 2.0, 1.0] + [0.5] * (HISTORY - 3)))
        nn.init.zeros_(self.side.weight)
        self.nearby.copy_(torch.tensor([0.0] * (BEFORE - 3) + [0.5, 1.0, 2.0, 2.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0]))
        self.asked.copy_(torch.tensor([[-1.0, -2.0, -2.0], [0.0, -2.0, -2.0]]))
        nn.init.constant_(self.lack, 6.0)
        nn.init.zeros_(self.again.weight)
        nn.init.zeros_(self.again.bias)
        nn.init.zeros_(self.sink.weight)
        nn.init.constant_(self.sink.bias, 4.0)
        nn.init.zeros_(self.feedback.weight)
        nn.init.normal_(self.gate[0].weight, std=self.gate[0].in_features ** -0.5)
        nn.init.zeros_(self.gate[0].bias)
        nn.init.zeros_(self.gate[2].weight)
        nn.init.normal_(self.known[0].weight, std=self.known[0].in_features ** -0.5)
        nn.init.zeros_(self.known[0].bias)
        nn.init.zeros_(self.known[2].weight)
        nn.init.zeros_(self.known[2].bias)
        nn.init.constant_(self.gate[2].bias, -1.0)

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
        score = self.address.score(query["b"], traces.address)
        seen = score.detach().masked_fill(~visible, NEG)
        best = seen.amax(-1, keepdim=True)
        hints = [(seen.masked_fill(~where, NEG).amax(-1, keepdim=True) - best).clamp(min=-20) for where in (equal, later)]
        hints = torch.where(best > NEG, torch.cat([best, *hints], dim=-1) / 10, NO_TRACE)
        score = spread((score - untimely(moment, asked, after, at, ago)).masked_fill(~visible, NEG), traces.episode, self.config.route_span).masked_fill(~visible, NEG)
        return score, score - replaced * stale(score, traces.episode[:, None], margin), hints

    def said(self, traces, index):
        """
        The tokens of traces and the three before them (B, M, K, 19), and the words that are complete there, places below GRAMS, GRAMS = none: a word that began in the chunk
        before is known by its trace. index (B, M, K).
        """
        line = torch.cat([gather_traces(traces.before, index), gather_traces(traces.ids, index)], dim=-1).long()
        last = (index - 1).clamp(min=0)
        follows = (gather_traces(traces.episode, last) == gather_traces(traces.episode, index)) & (gather_traces(traces.position, last) + 1 == gather_traces(traces.position, index))
        past = torch.where(follows[..., None], gather_traces(traces.ids, last).long()[..., :-CONTEXT], -1)
        whole = torch.cat([past, line], dim=-1).flatten(0, 2)
        words = self.address.codes(whole, torch.zeros_like(whole, dtype=torch.bool), whole.new_zeros(len(whole), 5))[0]
        return line, (mix64(words) % GRAMS).masked_fill(words == 0, GRAMS)[:, -line.shape[-1]:].view(line.shape)

    @staticmethod
    def missing(weight, place, episode, alive):
        """
        Of the words of the question that must be said (weight (B, M, n, GRAMS): by the first of its n weights), which the episode of each candidate does
        not say, as far as it is one: their weights (B, M, n, C, WORDS), and the weights of all of them (B, M, n, 1, WORDS). place (B, M, C, 19): of the words
        of the traces, GRAMS = none; episode (B, M, C); alive (B, M, C), 0 where there is none. What most of the traces say names none of them (inverse document
        frequency, Spärck Jones 1972): it is missed the less, the more of them say it.
        """
        words = weight[:, :, 0].detach().topk(WORDS, dim=-1).indices                         # (B, M, W)
        weight = weight.gather(-1, words[:, :, None].expand(-1, -1, weight.shape[2], -1))[..., None, :]
        same = (episode[..., None] == episode[..., None, :]).to(weight.dtype)                # (B, M, C, C)
        says = (place[..., None] == words[:, :, None, None]).any(-2) * alive[..., None]      # (B, M, C, W)
        said = (torch.matmul(same, says) > 0).to(weight.dtype)
        share = (said * alive[..., None]).sum(2, keepdim=True) / alive.sum(2)[..., None, None].clamp(min=1)
        return weight * ((1 - said) * (1 - share))[:, :, None], weight

    def nothing(self, x):
        """The hidden state (…, D) as `read` returns it where no trace is visible."""
        hints = x.new_tensor([0] * self.config.recall_dim + [NO_TRACE] * 3 + [0, 0, 0, NO_TRACE] + [1] * (HINTS - 7 + self.config.address_heads))
        return x + self.feedback(torch.cat([torch.zeros_like(x), hints.expand(*x.shape[:-1], -1)], dim=-1))

    def read(self, x, query, select, score, hints, traces, visible, recent, asked, near, embed, fresh, proof=None):
        """
        x (B, M, D) final hidden state of the queries; query, hints (B, M, 3) as of route; select (B, M, C) indices of the candidates, ascending, score (B, M, C) how well they are
        addressed; visible (B, M, N) bool; recent (B, M, HISTORY) the last tokens of the stream, newest last, -1 = none; asked (B, M, 3 * GRAMS) fp, 1 for what the question says; near (B, M,
        (2 + Ha) * GRAMS) fp, the weights of its words, see Address; embed (V, D) token embedding; fresh (B, R, 16, Dk) recall keys of the R newest traces that are still in the graph
        (R = 0 outside training); proof (B, M): in training, the episode that is read in any case.
        Returns the hidden state with what was recalled mixed in (B, M, D), and a dict: g (B, M), the gate; p (B, M, V), what is copied; entries, the distribution over entries with
        their token ids and how many tokens before them are the last of the stream, all (B, M, K*16); select (B, M, K), the traces that were read; score (B, M, C), the
        candidates as they are ranked in the end. The distribution sums to 1, to 0 where nothing is visible.
        """
        N, look = len(traces), lambda index: self.said(traces, index)
        if N < select[0].numel():   # each once, not once for each that looks at it
            every = [t[:, 0] for t in look(torch.arange(N, device=x.device).expand(len(x), 1, N))]
            look = lambda index: [gather_traces(t, index) for t in every]
        episode, alive = gather_traces(traces.episode, select), (score > NEG).to(score.dtype)
        missing, named = self.missing(near[..., GRAMS:].unflatten(-1, (-1, GRAMS)), look(select)[1], episode, alive)
        lacking = torch.cat([missing[:, :, 0].amax(-1)[:, :, None], missing.sum(-1) / named.sum(-1).clamp(min=1e-6)], dim=2)   # (B, M, 1 + n, C)
        _, _, replaced, margin, _ = (t[..., None] for t in penalties(query["order"]))
        score = score - self.lack * lacking[:, :, 1]
        ranked = score = score - replaced * stale(score, episode, margin)
        bonus = torch.zeros_like(score) if proof is None else 1e4 * (episode == proof[..., None]).to(score.dtype)
        best = top_k(score.detach() + bonus, self.config.recall_topk)
        back, select, address = and_next(*(t.gather(2, best) for t in (select, score)), traces, visible, bonus.gather(2, best))
        best = best.gather(2, back)
        lacking = lacking.gather(-1, best[:, :, None].expand(-1, -1, lacking.shape[2], -1))
        episode, (line, place) = episode.gather(2, best), look(select)
        B, M, K = select.shape
        ids = line[..., CONTEXT:]                                                # (B, M, K, 16)
        q = unit(self.query(x)) * self.content_scale
        keys = gather_traces(traces.keys, select).to(x.dtype)
        if fresh.shape[1]:
            at = select - (len(traces) - fresh.shape[1])
            keys = torch.where((at >= 0)[..., None, None], gather_traces(fresh, at.clamp(min=0)).to(x.dtype), keys)
        again = said_before(line, episode, 1 - lacking[:, :, 1].detach())
        entry = torch.einsum("bmkcd,bmd->bmkc", keys, q) + address[..., None] + again * self.again(x)[..., None]
        copied = self.matched(line, recent)
        entry = entry + F.pad(self.suffix.cumsum(0), (1, 0))[copied]
        said = grams(line)
        said = asked.gather(-1, said.flatten(2)).view(said.shape)
        entry = entry + said @ self.asked[0].to(said.dtype) + F.pad((said @ self.asked[1].to(said.dtype))[..., 1:], (0, 1))
        weight = near.gather(-1, place.clamp(max=GRAMS - 1).flatten(2)).view(line.shape) * (place < GRAMS)
        entry = entry + (F.pad(weight, (BEFORE - CONTEXT, AFTER)).unfold(-1, BEFORE + 1 + AFTER, 1) * (self.nearby + self.side(keys)).to(weight.dtype)).sum(-1)
        copyable, within = self.copyable(line, recent)
        entry = entry.masked_fill(~copyable, NEG).view(B, M, K * CHUNK)
        p = torch.softmax(torch.cat([self.sink(x).to(entry.dtype), entry], dim=-1), dim=-1)[..., 1:]
        mass = p.sum(-1, keepdim=True)      # what the sink leaves is a hint for the gate, which alone decides whether to copy
        p = p / mass.clamp(min=1e-20)
        ids = ids.flatten(2)
        p_copy = p.new_zeros(B, M, embed.shape[0]).scatter_add(-1, ids.clamp(0, embed.shape[0] - 1), p)
        found = mass * (p_copy @ embed.to(p.dtype))
        # how much was found, how surely, whether it goes on with what was copied already, how well the best trace is addressed once lateness and age are taken off,
        # and what the question names and the episode most is copied from does not say: the weightiest word, and the share of all; 1 where nothing is copied
        source = p.detach().view(B, M, K, CHUNK).sum(-1).argmax(-1)[:, :, None, None]
        lacking = lacking.gather(-1, source.expand(-1, -1, lacking.shape[2], -1)).squeeze(-1)
        hints = torch.cat([hints, mass, mass * p_copy.amax(-1, keepdim=True), (mass * p * (copied.flatten(2) > 0)).sum(-1, keepdim=True),
                           address.amax(-1, keepdim=True).clamp(min=10 * NO_TRACE) / 10, lacking.masked_fill(mass == 0, 1)], dim=-1)
        held = torch.einsum("bmn,bmnd->bmd", mass * p, keys.flatten(2, 3))         # what was about to be said there: an answer ends where another thing begins
        recalled = torch.cat([found, held, hints], dim=-1)
        copied = copied.flatten(2)
        longest = copied.masked_fill(entry == NEG, 0).amax(-1, keepdim=True)
        whole = WHOLE * (p * (within.flatten(2) & (copied > 0) & (copied == longest))).sum(-1)   # a copy ends with a word, too; what goes on with less of it is another's
        g = torch.sigmoid((self.gate(torch.cat([x, recalled], dim=-1)) + self.known(hints)).squeeze(-1) + whole)
        return x + self.feedback(recalled), {"g": g, "p": p_copy, "entries": (p, ids, copied), "select": select, "score": ranked}

    def matched(self, line, recent):
        """
        How many tokens before each entry equal the last tokens of the stream, (B, M, K, 16) int64, 0 to HISTORY; those that a record does not know
        count as equal, once all that it knows are. line (B, M, K, 19), see read; recent (B, M, HISTORY). A special token equals nothing: a copy begins after it.
        """
        ordinary = (recent >= 0) & (recent < self.config.n_ordinary)
        same = torch.ones_like(line[..., CONTEXT:], dtype=torch.bool)
        count = torch.zeros_like(line[..., CONTEXT:])
        for m in range(HISTORY):   # the token m + 1 before each entry: of the first m - 2 entries it is not known
            here = line[..., max(CONTEXT - 1 - m, 0):line.shape[-1] - 1 - m] == recent[:, :, HISTORY - 1 - m, None, None]
            same = same & F.pad(here, (CHUNK - here.shape[-1], 0), value=True) & ordinary[:, :, HISTORY - 1 - m, None, None]
            count = count + same
        return count

    def copyable(self, line, recent):
        """
        Which entries may be copied: ordinary tokens, and the end of an episode; and which go on with a word, (B, M, K, 16) bool both. Arguments as of matched.
        What begins after a special token begins with a word, not within one.
        """
        ids, begins = line[..., CONTEXT:], (recent[..., -1:, None] >= self.config.n_ordinary)
        kind = self.address.codes.kind[line.clamp(min=0)] * (line >= 0)
        within = (kind[..., CONTEXT:] > 1) & (kind[..., CONTEXT - 1:-1] > 0)
        return (ids >= 0) & ((ids < self.config.n_ordinary) & ~(begins & within) | (ids == self.config.end_id) & ~begins), within
