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
    again     r          an older episode that says what the question names says the entry's word, too: of two values in "not tea but milk" it is the former
    phrase               where a phrase begins and ends, and whether what was asked for is something else: counted in what other episodes say (phrases.py)

    p_copy(v) = sum over entries i with id v of softmax_i(content + address + suffix)
    p         = (1 - g) softmax(logits) + g p_copy          g = sigmoid(gate)

Ancestors: pointer-sentinel networks (Merity et al. 2016), kNN-LM (Khandelwal et al. 2019).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.address import LEAST, NEG, NO_TRACE, Address, and_next, find, gather_traces, mix64, penalties, stale, tally, top_k, unit
from nanochat.phrases import AFTER, BEFORE, HERE, collocated, contrasted, following, grams, said_before, within_phrase, word_end
from nanochat.state import CHUNK, CONTEXT
from nanochat.tokenizer import DIGITS

GATE, KNOWN = 64, 32   # hidden units of the gate, and of its part that sees the hints alone
HINTS = 9           # numbers that the gate is told beside vectors, and what is missing for each address head
WORDS = 16          # words of a question at most that are looked for in what is read
WHOLE = 4.0         # what speaks for going on within a word, in the gate's logit, as far as an answer began as a copy
ENTIRE = 8.0        # ... and for an entry that goes on with all of the answer so far
OWN = 4.0           # what speaks against beginning with a word of the question, times how much it matters there
WITHIN = 3.0        # ... and with a word that goes on with a phrase
COMMON = 2.0        # ... and with a word of one token, numbers apart: the tokenizer leaves frequent words whole
TOGETHER = 4.0      # what speaks for going on with a word that follows all of the answer so far in other episodes, and is not said in every other, in the gate's logit
APART = 3.0         # ... and against it where other episodes say the answer so far without the word, or the word without it
NOVEL = 2.5         # ... and for it where no other episode says either and the word is RARE: what is told varies, the words around it do not
RARE = 3            # tokens of a word at least that is rare in the language: the tokenizer leaves frequent ones whole
CONTRAST = 16.0     # what speaks against an answer where other episodes show that what was asked for is something else, times how much that matters
STRANGE, MATTERS = 10.0, 2 / 3   # ... and where the episode does not say a word that matters more than that, times how much more
REPLACED = 2.0      # times that it costs a candidate to be replaced by a newer one, once it is known what each says
NAMED = 6.0         # what it costs a candidate not to say the word that matters most, where another one does, times how much it matters
NEAREST = 1.5       # times that the address counts once it is only asked which entry is copied, no longer whether
HISTORY = CHUNK + CONTEXT - 1   # so many last tokens of the stream are compared with what stands before an entry


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


def copied_from(origin, token):
    """{episode ordinal: g p} of the entries from which the last position of row 0 would copy `token`."""
    if origin is None:
        return {}
    episode, copy = origin
    p, ids, *_ = copy["entries"]
    mass = (copy["g"][0, -1] * p[0, -1] * (ids[0, -1] == token)).view(-1, CHUNK).sum(-1)
    out = {}
    for trace, m in zip(copy["select"][0, -1].tolist(), mass.tolist()):
        if m > 0:
            ordinal = int(episode[0, trace])
            out[ordinal] = out.get(ordinal, 0.0) + m
    return out


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
        self.known = nn.Sequential(nn.Linear(hints, KNOWN), nn.ReLU(), nn.Linear(KNOWN, 2))   # the hints by themselves, where an answer begins and where it goes on: among hidden states they drown

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

    def said(self, traces, index):
        """
        The tokens of traces and the 16 before them (B, M, K, 32), and the words that are complete there and as far around as `nearby` reaches (B, M, K, 9 + 16 + 9), hashes of their stems,
        0 = none: what stands in the chunk before or after is known by its trace, of which a word of more than seven tokens may be known in part. index (B, M, K).
        """
        line = torch.cat([gather_traces(traces.before, index), gather_traces(traces.ids, index)], dim=-1).long()
        beside = {}
        for step in (-1, 1):
            other = (index + step).clamp(0, max(len(traces) - 1, 0))
            follows = (gather_traces(traces.episode, other) == gather_traces(traces.episode, index)) & (gather_traces(traces.position, other) == gather_traces(traces.position, index) + step)
            beside[step] = torch.where(follows[..., None], gather_traces(traces.ids, other).long(), -1)
        whole = torch.cat([beside[-1][..., :-CONTEXT], line, beside[1][..., :AFTER]], dim=-1).flatten(0, 2)
        words = mix64(self.address.codes(whole, torch.zeros_like(whole, dtype=torch.bool), whole.new_zeros(len(whole), 6), numbers=False))
        words = words[:, -(BEFORE + CHUNK + AFTER):].view(*index.shape, -1)
        return whole[:, :-AFTER].view(*index.shape, -1), torch.cat([words[..., :-AFTER], words[..., -AFTER:] * follows[..., None]], dim=-1)   # follows: the chunk after. Where there is none yet no word has ended

    @staticmethod
    def missing(named, weight, words, episode, alive):
        """
        Of the words of the question that must be said (named (B, M, Q), weight (B, M, Q, n), as of tally: by the first of its n weights), which the episode of each candidate
        does not say, as far as it is one: their weights (B, M, n, C, WORDS), the weights of all of them (B, M, n, 1, WORDS), and the words (B, M, WORDS). words (B, M, C, 19): those
        of the traces, 0 = none; episode (B, M, C); alive (B, M, C), 0 where there is none. What most of the traces say names none of them (inverse document
        frequency, Spärck Jones 1972): it is missed the less, the more of them say it.
        """
        best = weight[..., 0].detach().topk(WORDS, dim=-1).indices                           # (B, M, W)
        weight = weight.gather(2, best[..., None].expand(-1, -1, -1, weight.shape[3])).transpose(2, 3)[..., None, :]
        same = (episode[..., None] == episode[..., None, :]).to(weight.dtype)                # (B, M, C, C)
        says = ((words[..., None] == named.gather(-1, best)[:, :, None, None]) & (words != 0)[..., None]).any(-2) * alive[..., None]   # (B, M, C, W)
        said = (torch.matmul(same, says) > 0).to(weight.dtype)
        share = (said * alive[..., None]).sum(2, keepdim=True) / alive.sum(2)[..., None, None].clamp(min=1)
        return weight * ((1 - said) * (1 - share))[:, :, None], weight, named.gather(-1, best)

    def choose(self, query, select, score, traces, visible, named, proof):
        """
        Which of the candidates are read: those that say most of what the question names, and of these the newest. named: what tally returns of its words, the others as of read. Returns how the candidates rank, (B, M, C); of
        the K that are chosen the index, the score and the episode, (B, M, K); what said returns; and what they lack (B, M, 1 + n, K): the weightiest word, and the share of all words by each of
        the n weights; the words that were looked for, (B, M, WORDS), and how much those matter that it does not say, (B, M, K, WORDS); and of all candidates what said returns, and the episode, (B, M, C), -1 = none.
        """
        N, all_said = len(traces), None
        if N < select[0].numel():   # each once, not once for each that looks at it
            all_said = [t[:, 0] for t in self.said(traces, torch.arange(N, device=select.device).expand(len(select), 1, N))]
        def look(index):
            line, words = self.said(traces, index) if all_said is None else (gather_traces(t, index) for t in all_said)
            seen = visible.expand(-1, index.shape[1], -1).gather(2, (index + 1).clamp(max=N - 1))[..., None]   # the next chunk may be still to come
            return line, torch.cat([words[..., :-AFTER], words[..., -AFTER:] * seen], dim=-1)
        line, words = look(select)
        episode, alive = gather_traces(traces.episode, select), (score > NEG).to(score.dtype)
        looked_at = line, words * (alive > 0)[..., None], episode.masked_fill(alive == 0, -1)
        missing, whole, names = self.missing(named[0], named[1][..., 1:], words[..., HERE], episode, alive)
        lacking = torch.cat([missing[:, :, 0].amax(-1)[:, :, None], missing.sum(-1) / whole.sum(-1).clamp(min=1e-6)], dim=2)   # (B, M, 1 + n, C)
        _, _, replaced, margin, _ = (t[..., None] for t in penalties(query["order"]))
        least = lacking[:, :, 0].masked_fill(alive == 0, 1).amin(-1, keepdim=True)
        score = score - self.lack * lacking[:, :, 1] - NAMED * (lacking[:, :, 0] - least)
        ranked = score = score - REPLACED * replaced * stale(score, episode, margin)
        bonus = torch.zeros_like(score) if proof is None else 1e4 * (episode == proof[..., None]).to(score.dtype)
        best = top_k(score.detach() + bonus, self.config.recall_topk)
        back, select, address = and_next(*(t.gather(2, best) for t in (select, score)), traces, visible, bonus.gather(2, best))
        best = best.gather(2, back)
        lacking = lacking.gather(-1, best[:, :, None].expand(-1, -1, lacking.shape[2], -1))
        unsaid = missing[:, :, 0].gather(2, best[..., None].expand(-1, -1, -1, names.shape[-1]))
        return ranked, (select, address, episode.gather(2, best), *look(select), lacking), (names, unsaid), looked_at

    def nothing(self, x):
        """The hidden state (…, D) as `read` returns it where no trace is visible."""
        hints = x.new_tensor([0] * self.config.recall_dim + [NO_TRACE] * 3 + [0, 0, 0, NO_TRACE] + [1] * (HINTS - 7 + self.config.address_heads))
        return x + self.feedback(torch.cat([torch.zeros_like(x), hints.expand(*x.shape[:-1], -1)], dim=-1))

    def read(self, x, query, select, score, hints, traces, visible, recent, asked, embed, fresh, proof=None, began=None):
        """
        x (B, M, D) final hidden state of the queries; query, hints (B, M, 3) as of Address.route; select (B, M, C) indices of the candidates, ascending, score (B, M, C) how well they are
        addressed; visible (B, M, N) bool; recent (B, M, HISTORY) the last tokens of the stream, newest last, -1 = none; asked, what the question says, see THENGPT.asked; embed (V, D) token embedding; fresh (B, R, 16, Dk) recall keys of the R newest traces that are still in the graph
        (R = 0 outside training); proof (B, M): in training, the episode that is read in any case; began (B,): how surely the answer that is being given
        before the first of the queries, which follow one another, began as a copy, 1 where there is none; None: surely, as in training.
        Returns the hidden state with what was recalled mixed in (B, M, D), and a dict: g (B, M), the gate; began (B,), as above, after the last of the queries; p (B, M, V), what is copied; entries, the distribution over entries with
        their token ids and how many tokens before them are the last of the stream, all (B, M, K*16); select (B, M, K), the traces that were read; score (B, M, C), the
        candidates as they are ranked in the end. The distribution sums to 1, to 0 where nothing is visible.
        """
        named = tally(asked["words"], asked["weight"])
        ranked, (select, address, episode, line, words, lacking), (names, unsaid), looked_at = self.choose(query, select, score, traces, visible, named, proof)
        B, M, K = select.shape
        ids = line[..., -CHUNK:]                                                 # (B, M, K, 16)
        q = unit(self.query(x)) * self.content_scale
        keys = gather_traces(traces.keys, select).to(x.dtype)
        if fresh.shape[1]:
            at = select - (len(traces) - fresh.shape[1])
            keys = torch.where((at >= 0)[..., None, None], gather_traces(fresh, at.clamp(min=0)).to(x.dtype), keys)
        own = line[..., -CHUNK - CONTEXT:]
        again = said_before(own, words[..., HERE], episode, 1 - lacking[:, :, 1].detach())
        entry = torch.einsum("bmkcd,bmd->bmkc", keys, q) + address[..., None] + again * self.again(x)[..., None]
        copied = self.matched(line, recent)
        entry = entry + F.pad(self.suffix.cumsum(0), (1, 0))[copied]
        said = find(asked["grams"].mT.contiguous().sort(dim=-1).values, grams(own).flatten(2, 3).mT)[1].mT.unflatten(2, (K, CHUNK)).to(entry.dtype)
        entry = entry + said @ self.asked[0].to(said.dtype) + F.pad((said @ self.asked[1].to(said.dtype))[..., 1:], (0, 1))
        at, says = find(named[0], words.flatten(2))
        weight = (named[1][..., 0].gather(-1, at) * says).view(words.shape)
        entry = entry + (weight.unfold(-1, BEFORE + 1 + AFTER, 1) * (self.nearby + self.side(keys)).to(weight.dtype)).sum(-1)
        end, begins = word_end(words)[..., BEFORE:BEFORE + CHUNK], ~self.ordinary(recent[..., -1])
        pieces, kind = end - torch.arange(BEFORE, BEFORE + CHUNK, device=end.device), self.kind(line)     # tokens of the word, from this one on
        behind = following(looked_at[1], self.kind(looked_at[0]))
        unlikely = OWN * F.pad(weight, (0, 1)).gather(-1, end) + WITHIN * within_phrase(words, following(words, kind), looked_at[1], behind)
        unlikely = unlikely + COMMON * ((pieces == 1) & (kind[..., -CHUNK:] > 0) & (kind[..., -CHUNK:] != DIGITS))
        entry = entry - unlikely * begins[..., None, None]
        copyable, within, entire = self.copyable(line, recent, copied)
        entry = (entry + ENTIRE * entire).masked_fill(~copyable, NEG).view(B, M, K * CHUNK)
        p = torch.softmax(torch.cat([self.sink(x).to(entry.dtype), entry], dim=-1), dim=-1)[..., 1:]
        mass = p.sum(-1, keepdim=True)      # what the sink leaves is a hint for the gate, which alone decides whether to copy
        p = p / mass.clamp(min=1e-20)
        ids = ids.flatten(2)
        of_tokens = lambda p: p.new_zeros(B, M, embed.shape[0]).scatter_add(-1, ids.clamp(0, embed.shape[0] - 1), p)
        p_copy = of_tokens(p)
        found = mass * (p_copy @ embed.to(p.dtype))
        # how much was found, how surely, whether it goes on with what was copied already, how well the best trace is addressed once lateness and age are taken off,
        # and what the question names and the episode most is copied from does not say: the weightiest word, and the share of all; 1 where nothing is copied
        source = p.detach().view(B, M, K, CHUNK).sum(-1).argmax(-1)[:, :, None, None]
        lacking = lacking.gather(-1, source.expand(-1, -1, lacking.shape[2], -1)).squeeze(-1)
        hints = torch.cat([hints, mass, mass * p_copy.amax(-1, keepdim=True), (mass * p * (copied.flatten(2) > 0)).sum(-1, keepdim=True),
                           address.amax(-1, keepdim=True).clamp(min=10 * NO_TRACE) / 10, lacking.masked_fill(mass == 0, 1)], dim=-1)
        held = torch.einsum("bmn,bmnd->bmd", mass * p, keys.flatten(2, 3))         # what was about to be said there: an answer ends where another thing begins
        recalled = torch.cat([found, held, hints], dim=-1)
        # which entry is copied, if any is: what many traces that are meant less say together does not outweigh the one that is meant
        address = address.clamp(min=LEAST)
        nearest = (NEAREST - 1) * (address - address.amax(-1, keepdim=True)).repeat_interleave(CHUNK, dim=-1)
        p = torch.softmax((entry + nearest).clamp(min=LEAST), dim=-1) * (mass > 0)
        p_copy = of_tokens(p)
        copied = copied.flatten(2)
        longest = copied.masked_fill(entry == NEG, 0).amax(-1, keepdim=True)
        whole = WHOLE * (p * (within.flatten(2) & (copied > 0) & (copied == longest))).sum(-1)   # a copy ends with a word, too; what goes on with less of it is another's
        known = torch.where(begins, *self.known(hints).unbind(-1))     # whether a thing is known at all is decided where the answer begins
        first = p.argmax(-1, keepdim=True)
        token, word, pieces = (t.flatten(2).gather(-1, first).squeeze(-1) for t in (ids, F.pad(words, (0, 1)).gather(-1, end), pieces))
        word = word * (self.kind(token) > 0)
        unsaid = unsaid.gather(2, (first // CHUNK)[..., None].expand(-1, -1, -1, names.shape[-1])).squeeze(2)
        phrase, other = self.others(looked_at, behind, recent, episode.gather(-1, first // CHUNK).squeeze(-1), token, word, pieces, names, unsaid)
        phrase = torch.where(begins, -other, phrase * (p * ~within.flatten(2)).sum(-1)).detach()
        logit = self.gate(torch.cat([x, recalled], dim=-1)).squeeze(-1) + known + phrase
        if began is not None:   # "I" of "I don't know" is not gone on with as of "Imbaba"
            at = torch.where(begins, torch.arange(1, M + 1, device=x.device), 0).cummax(1).values
            here = torch.where(recent[..., -1] == self.config.assistant_id, torch.sigmoid(logit) * p.sum(-1), 1)
            began = torch.cat([began[:, None], here], dim=1).gather(1, at)
            whole, began = whole * began, began[:, -1]
        g = torch.sigmoid(logit + whole)
        return x + self.feedback(recalled), {"g": g, "began": began, "p": p_copy, "entries": (p, ids, copied), "select": select, "score": ranked}

    def others(self, looked_at, behind, recent, owner, token, word, pieces, names, unsaid):
        """
        What the traces that were looked at (as choose returns them; behind as of following) say for going on with an answer, and for the answer being to something else than was asked, (B, M) each, in the gate's
        logit. Copied is from the episode owner (B, M); token, word and pieces (B, M): what comes next, the word that it begins and how many tokens that has; names, unsaid (B, M, WORDS): words of the
        question, and how much those matter that the owner does not say.
        """
        line, words, episode = looked_at
        copyable, _, entire = self.copyable(line, recent, self.matched(line, recent))
        pro, con, novel = collocated(line[..., -CHUNK:], words, behind, entire & copyable, episode, owner, token, word)
        contrast = contrasted(line, self.kind(line) == DIGITS, words, episode, owner, names)
        return TOGETHER * pro - APART * con + NOVEL * novel * (pieces >= RARE), CONTRAST * (unsaid * contrast).sum(-1) + STRANGE * F.relu(unsaid.amax(-1) - MATTERS)

    def kind(self, ids):
        """What part of a word tokens are, see WordCodes; 0 where there is none."""
        return self.address.codes.kind[ids.clamp(min=0)] * (ids >= 0)

    def ordinary(self, ids):
        """Which tokens are text: neither special nor, -1, none at all."""
        return (ids >= 0) & (ids < self.config.n_ordinary)

    def matched(self, line, recent):
        """
        How many tokens before each entry equal the last tokens of the stream, (B, M, K, 16) int64, 0 to HISTORY; those that a record does not know
        count as equal, once all that it knows are. line (B, M, K, n + 16), n tokens before them, see said; recent (B, M, HISTORY). A special token equals nothing: a copy begins after it.
        """
        ordinary = self.ordinary(recent)
        same = torch.ones_like(line[..., -CHUNK:], dtype=torch.bool)
        count = torch.zeros_like(line[..., -CHUNK:])
        n = line.shape[-1] - CHUNK
        for m in range(HISTORY):   # the token m + 1 before each entry: of the first m + 1 - n entries it is not known
            here = line[..., max(n - 1 - m, 0):line.shape[-1] - 1 - m] == recent[:, :, HISTORY - 1 - m, None, None]
            same = same & F.pad(here, (CHUNK - here.shape[-1], 0), value=True) & ordinary[:, :, HISTORY - 1 - m, None, None]
            count = count + same
        return count

    def copyable(self, line, recent, copied):
        """
        Which entries may be copied: ordinary tokens, and the end of an episode; which of them go on with a word; and which with the whole of what was said since the last special
        token, (B, M, K, 16) bool all. line and recent as of matched, copied what it returns. What begins after a special token begins with a word, not within one, and so does what is
        gone on with: after "6" it is the second 6 of "6661", not the third.
        """
        ids, ordinary = line[..., -CHUNK:], self.ordinary(recent)
        said = ordinary.flip(-1).long().cumprod(-1).sum(-1)[..., None, None]                             # (B, M, 1, 1)
        kind = self.kind(line)
        within = F.pad((kind[..., 1:] > 1) & (kind[..., :-1] > 0), (1, 0))                               # (B, M, K, n + 16)
        first = torch.arange(line.shape[-1] - CHUNK, line.shape[-1], device=line.device) - said          # of the entry's line, where the answer began if it goes on with all of it
        entire = (copied >= said) & (said > 0)
        amid = within.gather(-1, first.clamp(min=0).expand(ids.shape)) & (first >= 0) & (copied >= said) & (said < HISTORY)   # of a longer answer the beginning is not known
        return (ids >= 0) & ((ids < self.config.n_ordinary) & ~amid | (ids == self.config.end_id) & (said > 0)), within[..., -CHUNK:], entire
