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

from nanochat import search
from nanochat.address import ASKED, candidates, gather_traces
from nanochat.layers import MLP, CausalSelfAttention, HybridTHENAttention, Linear, masked_mean, norm, rotary, wide
from nanochat.phrases import grams
from nanochat.reading import ReadingHead
from nanochat.recall import HISTORY, RecallHead, continued, copied_from
from nanochat.state import CHUNK, CONTEXT, UNKNOWN, Traces


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
    n_ordinary: int = 2040       # token ids from here on are special: but for <|end|>, never copied
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
    reader: bool = False         # True: questions are answered by reading a window (reading.py)
    word_vectors: int = 1        # rows of the word vectors, an input of the reader; row 0 is zero
    word_dim: int = 50
    word_bytes: int = 0          # of the list of their words
    recall: bool = True          # False: ablation without the recall head
    recall_positions: int = 32   # training only: positions of a segment at which the recall head is trained
    text_fraction: float = 0.35  # training only: the language-model loss is taken on so many of the slots, ordinary tokens first (about half of them)
    recall_dim: int = 64
    recall_candidates: int = 32  # traces that the recall head looks at more closely: so many with regard to what is newer, and so many without
    recall_topk: int = 16        # ... and reads
    address_heads: int = 2
    address_dim: int = 128
    route_span: int = 8          # a trace is addressed by itself and the 7 that follow in its episode


def config_from_depth(model_class, depth, **overrides):
    """The one dial: depth gives width 64 * depth and heads of 64 dimensions."""
    cls = {"GPT": GPTConfig, "THENGPT": THENConfig}[model_class]
    return cls(**{**dict(n_layer=depth, n_embd=64 * depth, n_head=depth, n_kv_head=depth), **overrides})


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

    @property
    def head_dim(self):
        return self.config.n_embd // self.config.n_head

    def embed(self, idx):
        return self.wte(idx).to(self.dtype)

    def head(self, x):
        """(…, D) normalised final hidden state -> (…, V) fp32 logits, soft-capped at +-15."""
        return 15 * torch.tanh(self.lm_head(x).to(wide(x.dtype)) / 15)

    def logits(self, x):
        return self.head(norm(x))

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
        if config.reader:
            self.reader = ReadingHead(config)

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
        if self.config.reader:
            self.reader.init_weights()

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
        traces = Traces(ids=new(B, 0, CHUNK, dtype=torch.int32), words=new(B, 0, CHUNK, dtype=torch.int32), before=new(B, 0, CONTEXT, dtype=torch.int32), keys=new(B, 0, CHUNK, c.recall_dim),
                        address=new(B, 0, address), moment=new(B, 0, dtype=torch.int32), gist=new(B, 0, c.gist_dim), index=new(B, 0, len(self.index_k), c.index_dim),
                        episode=new(B, 0, dtype=torch.int32), position=new(B, 0, dtype=torch.int32), valid=new(B, 0, dtype=torch.int32))
        recurrent = {"layers": [b.attn.empty_carry(B, device, self.dtype) for b in self.blocks],
                     "window": new(B, c.window, dtype=torch.int64, fill=-1),       # episode of each cached slot, -1 = none
                     "hidden": new(B, c.n_embd),                                   # trunk output at the last slot
                     "before": new(B, HISTORY, dtype=torch.int64, fill=-1),        # last tokens
                     "asking": new(B, dtype=torch.bool),                            # the open episode is a question turn
                     "answering": new(B, dtype=torch.bool),                         # ... and its answer has begun
                     "asked": {"grams": new(B, ASKED, 3, dtype=torch.int64), "words": new(B, ASKED, dtype=torch.int64),   # what it has said before the answer, see asked
                               "weight": new(B, ASKED, 2 + c.address_heads, dtype=wide(self.dtype))},
                     "address": {"word": new(B, 6, dtype=torch.int64), "moment": new(2, B, 2, dtype=torch.int64), "sums": new(2, B, c.address_heads, c.address_dim, dtype=wide(self.dtype))}}
        return {"traces": traces, "fresh": new(B, 0, CHUNK, c.recall_dim, dtype=wide(self.dtype)), "buffer": new(B, 0, dtype=torch.int64), "recurrent": recurrent, "began": new(B, dtype=wide(self.dtype), fill=1),
                "episode": new(B, dtype=torch.int64), "position": new(B, dtype=torch.int64)}

    def forward(self, idx, targets=None, state=None, answers=None, evidence=None, read=True, last=False, sources=False, weights=None, parts=False):
        """
        Read `idx` (B, T) int64 after `state` (None = empty). Returns (logits (B, T, V) fp32 log-probabilities, state); any segmentation
        of a stream gives the same logits and the same traces. read=False: memory is not consulted. last=True: logits of the last token only.
        sources=True: also returns a function of a token id, the episodes the last position would copy it from: {ordinal: mass} (B = 1).

        With targets (B, T), -1 = ignore: returns (loss, state). The loss is the sum of means weighted by `weights` (a dict; default 1): "text"
        over tokens, "answer" over the tokens flagged by answers (B, T) bool, "guess" over the same without memory, "copy" of the recall head elsewhere, "route" of the address to the
        evidence (B, T) (ordinal of the episode that holds the answer, -1 = none, -2 = it was never told), "read" of the word within it, "gate" of whether memory holds an answer, "index" of the
        lightning indexers. parts=True returns them all in a dict, with "total" and the number of "answers", in place of the loss. T must be a multiple of 16, the buffer empty: ValueError.
        """
        state = self.empty_state(idx.shape[0]) if state is None else state
        if targets is not None:
            if idx.shape[1] % CHUNK or state["buffer"].shape[1]:
                raise ValueError(f"training segments must fill whole chunks of {CHUNK}, got {idx.shape[1]} tokens after {state['buffer'].shape[1]}")
            losses, state = self.losses(idx, targets, state, answers, evidence, weights or {})
            return (losses if parts else losses["total"]), state
        line = torch.cat([state["buffer"], idx], dim=1)
        spoke = (idx == self.config.assistant_id).any(0).nonzero()
        back = idx.shape[1] if not last else idx.shape[1] - int(spoke[0]) if len(spoke) else min(1, idx.shape[1])   # an answer is read from its begin on
        begin = line.shape[1] - back   # logits are wanted from here on
        cut = line.shape[1] // CHUNK * CHUNK
        logits, origin, began = [], [None], self.unread(idx[:, :idx.shape[1] - back], state["began"])

        def advance(part, state, offset, length, keep=True):
            nonlocal began
            lo, hi = max(begin - offset, 0), length
            x, context, state = self.segment(part, state, read, keep=keep, begin=min(lo, part.shape[1]))
            if lo < hi:
                positions = torch.arange(lo, hi, device=idx.device).expand(idx.shape[0], -1)
                plain, copy = self.answer(x, positions, context, began=began)
                began = copy["began"] if copy else self.unread(part[:, lo:hi], began)
                logits.append(self.log_probs(plain, copy))
                origin[0] = copy and (context["traces"].episode, copy)
            return state

        if cut:
            state = advance(line[:, :cut], state, 0, cut)
        if line.shape[1] > max(cut, begin):   # the open chunk is read padded, and read again when more of it has come
            advance(F.pad(line[:, cut:], (0, CHUNK - (line.shape[1] - cut)), value=self.config.pad_id), state, cut, line.shape[1] - cut, keep=False)
        state = {**state, "buffer": line[:, cut:], "began": began}
        if not logits:
            logits.append(torch.zeros(idx.shape[0], 0, self.config.vocab_size, device=idx.device, dtype=wide(self.dtype)))
        out = torch.cat(logits, dim=1)[:, -1 if last else 0:], state
        return (*out, lambda token: copied_from(origin[0], token)) if sources else out

    def unread(self, idx, began):
        """state["began"] after tokens idx (B, T) at which no memory is read, where it was began (B,): an answer that begins there is no copy."""
        special = torch.where(idx >= self.config.n_ordinary, torch.arange(1, idx.shape[1] + 1, device=idx.device), 0)
        return torch.cat([began[:, None], (idx != self.config.assistant_id).to(began.dtype)], dim=1).gather(1, F.pad(special, (1, 0)).amax(1, keepdim=True))[:, 0]

    # -- one segment of whole chunks -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, idx, state):
        """The state after whole chunks idx (B, T): the trunk and the traces only, for ingest. The layers above are not run, nor carried on."""
        return self.segment(idx, state, read=False, trunk_only=True)

    def segment(self, idx, state, read=True, training=None, trunk_only=False, keep=True, begin=0):
        """
        idx (B, T), T a multiple of 16. Returns the normalised final hidden state (B, T, D), the context to answer from and the state after it.
        training: {"positions": (B, M), "losses": []}: the read layers see their newest traces densely and train their indexers there.
        keep=False: the caller drops the state, so that its traces (many, to copy) are left as they were. begin: hidden states before this slot are not
        wanted, so the last layer need not search memory for them.
        """
        r = state["recurrent"]
        local, episode, position = self.local_context(idx, state)
        x = norm(self.wte(idx).to(self.dtype))
        layers = []

        def run(x, blocks, memory=None):
            for block in blocks:
                y, carry = block.attn(norm(x), local, r["layers"][len(layers)], memory, begin if block is self.blocks[-1] else 0)
                layers.append(carry)
                x = x + y
                x = x + block.mlp(norm(x))
            return x

        x = run(x, self.blocks[:self.trunk])
        new, query, question, keys, carry = self.write(idx, norm(x), state, local, episode, position)
        C = len(new)
        traces = Traces.cat([state["traces"], new]) if keep or C > 1 else state["traces"]
        # nothing of a single chunk is visible within it
        seen, C = (traces, C) if C > 1 else (state["traces"], 0)
        chunk = torch.arange(idx.shape[1], device=idx.device) // CHUNK
        memory = self.read_context(seen, chunk.expand(idx.shape), C, training) if read else None
        x = run(x, self.blocks[self.trunk:] if not trunk_only else [], memory)
        fresh = torch.cat([state["fresh"], keys], dim=1) if training is not None else state["fresh"][:, :0]
        context = {"traces": seen if read else None, "new": C, "fresh": fresh, "query": query, "line": torch.cat([r["before"], idx], dim=1), "question": question}
        state = {"traces": traces, "fresh": fresh, "buffer": idx[:, :0], "episode": episode[:, -1], "position": position[:, -1] + 1, "began": state["began"],
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
        # question turns: what has been asked so far is told from the answer, and neither is remembered
        r, begin = state["recurrent"], last[:, slot // CHUNK]
        asks = F.pad((starts & (idx[:, 1::CHUNK] == c.user_id)), (1, 0))
        asks[:, 0] = r["asking"]
        asks = asks.gather(1, last + 1)
        spoke = torch.where(idx == c.assistant_id, slot, -1).cummax(1).values
        answering = (spoke >= begin * CHUNK) & (spoke >= 0) | (begin < 0) & r["answering"][:, None]
        begins = answering & ~torch.cat([r["answering"][:, None] & (begin[:, :1] < 0), answering[:, :-1]], dim=1)
        question = {"asking": asks, "counts": (idx < c.n_ordinary) & asks[:, slot // CHUNK] & ~answering, "begin": begin * CHUNK, "grams": grams(torch.cat([r["before"][:, -CONTEXT:], idx], dim=1)), "before": r["asked"],
                    "ends": (idx == c.assistant_id) & asks[:, slot // CHUNK], "last": torch.where(answering, torch.where(begins, slot, -1).cummax(1).values, slot),
                    "carry": {"asking": asks[:, -1], "answering": answering[:, -1]}}
        return {"valid": valid, "starts": starts, "mask": mask, "block": S, "slots": slots, "cos": cos, "sin": sin, "question": question}, episode, position

    def write(self, idx, h, state, local, episode, position):
        """
        From the trunk's output h (B, T, D): the traces of a segment, the address query of each token (see Address), what questions say (see asked), the recall keys (B, C, 16, Dk) that are
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
        before = line[:, HISTORY - CONTEXT:].unfold(1, CONTEXT, CHUNK)[:, :C].masked_fill(starts[..., None], -1)
        if c.recall:
            every = torch.cat([state["episode"][:, None], episode], dim=1)
            a, moment, query, words, address = self.recall.address(idx, h.to(wide(h.dtype)), valid, starts, every[:, :, None] == every[:, None], r["address"])
            keys = self.recall.key(chunks, previous.view(chunks.shape), alive, *rotary(torch.arange(CHUNK, device=idx.device)[None], D // c.n_head, h.dtype))
        else:
            a, moment, query, address = h.new_zeros(B, C, c.address_heads * c.address_dim), idx.new_full((B, C), -1), None, r["address"]
            words = {"words": torch.zeros_like(idx), "weight": h.new_zeros(B, T, 2 + c.address_heads)}
            keys = h.new_zeros(B, C, CHUNK, c.recall_dim)
        ids = idx.view(B, C, CHUNK).int()
        traces = Traces(ids=ids, words=torch.zeros_like(ids), before=before.int(), keys=keys.detach().to(h.dtype), address=a.to(h.dtype), moment=moment.int(), gist=gist, index=index,
                        episode=episode.int(), position=position.int(), valid=(valid.view(B, C, CHUNK).sum(2) * ~local["question"]["asking"]).int())
        question = {**local["question"], **words}
        asked = self.asked(question, torch.full((B, 1), T - 1, device=idx.device))
        return traces, query, question, keys, {"hidden": h[:, -1], "before": line[:, -HISTORY:], "address": address, **question["carry"],
                                               "asked": {name: t[:, 0] for name, t in asked.items()}}

    def asked(self, question, positions):
        """
        What the question turn around each of the positions (B, M) has said by then, before its answer began, of its last ASKED tokens, 0 = none: {"grams": (B, M, ASKED, 3) int64, see
        grams, "words": (B, M, ASKED) int64, "weight": (B, M, ASKED, 2 + Ha), see Address}.
        """
        begin, last = (question[name].gather(1, positions)[..., None] for name in ("begin", "last"))
        at = last + 1 + torch.arange(ASKED, device=positions.device)               # in what was said before, followed by the segment
        here = (at - ASKED >= begin) | (begin < 0)
        counts, rows, out = question["counts"], torch.arange(positions.shape[0], device=positions.device)[:, None, None], {}
        for name, before in question["before"].items():
            own = counts if name == "grams" else counts | question["ends"]         # the last word is complete when the answer begins
            line = torch.cat([before, question[name].masked_fill(~own.view(*own.shape, *[1] * (before.ndim - 2)), 0).to(before.dtype)], dim=1)
            out[name] = line[rows, at].masked_fill(~here.view(*here.shape, *[1] * (before.ndim - 2)), 0)
        return out

    def read_context(self, traces, chunk, new, training):
        """
        The traces the read layers see, and as a function of a slot which of them the slots from there on see, (B, T - slot, N) bool. chunk (B, T): the
        chunk of each slot within the segment, whose own traces are the `new` newest.
        """
        if training is not None:
            traces = traces[max(len(traces) - self.config.read_reach - new, 0):]
        return {"traces": traces, "visible": lambda begin: visible(traces, chunk[:, begin:], new), "training": training}

    def answer(self, x, positions, context, proof=None, began=None):
        """
        Final hidden states x (B, T, D) at positions (B, M) with memory recalled: the language model's logits (B, M, V), and None or
        {"g", "began", "p", "entries", "select", "score"} of the copy (see RecallHead.read) with its "candidates", to which score belongs, and the "scores" (B, M, N) of all traces, None
        where it was a search.
        proof (B, M): in training, the ordinal of the episode that is read in any case. began (B,): see RecallHead.read.
        """
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        x = x[rows, positions]
        traces = context["traces"]
        if not self.config.recall:
            return self.logits(x), None
        x = x.to(wide(x.dtype))
        if traces is None or len(traces) == 0:
            return self.logits(self.recall.nothing(x)), None
        seen = visible(traces, positions // CHUNK, context["new"])
        query, scores, k = {name: t[rows, positions] for name, t in context["query"].items()}, None, self.config.recall_candidates
        if isinstance(traces.address, search.Keys):
            select, score, hints = search.route(self.recall.address, query, traces, seen, k)
        else:
            score, scores, hints = self.recall.address.route(query, traces, seen)
            select = candidates(scores.detach() if proof is None else scores.detach() + 1e4 * (traces.episode[:, None] == proof[..., None]), score.detach(), k)
            score = score.gather(2, select)
        recent = context["line"][rows[..., None], positions[..., None] + 1 + torch.arange(HISTORY, device=x.device)]
        asked = self.asked(context["question"], positions)
        x, copy = self.recall.read(x, query, select, score, hints, traces, seen, recent, asked, self.wte.weight, context["fresh"], proof, began)
        return self.logits(x), {**copy, "scores": scores, "candidates": select}

    def log_probs(self, logits, copy):
        """(B, M, V) log-probabilities of the mixture (1 - g) softmax(logits) + g p_copy; without a copy, where nothing is visible, of the language model."""
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
        first = answers & ~F.pad(answers, (1, 0))[:, :T]   # what an answer begins with is hard to find, the rest only to be gone on with
        rank = torch.rand(B, T, device=idx.device) + 2 * answers + 2 * first + (targets >= 0)
        positions = rank.topk(min(c.recall_positions, T), dim=1).indices
        training = {"positions": positions, "losses": []}
        x, context, state = self.segment(idx, state, training=training)
        rows = torch.arange(B, device=idx.device)[:, None]
        target, is_answer, proof = targets[rows, positions], answers[rows, positions], evidence[rows, positions]
        logits, copy = self.answer(x, positions, context, proof)
        picked = torch.log_softmax(logits, dim=-1).gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
        route, rank, gate, read = picked.new_zeros(4)
        begins, known = first[rows, positions], is_answer & (target >= 0)
        if copy is not None:
            g, p = copy["g"], copy["p"]
            hit = p.gather(-1, target.clamp(min=0)[..., None]).squeeze(-1)
            picked = ((1 - g * p.sum(-1)) * picked.exp() + g * hit).clamp(min=1e-9).log()
            mass, ids, copied = copy["entries"]
            # the very score that routes at inference; the positives are the traces of the evidence episode
            traces, score = context["traces"], copy["scores"]
            positive = (traces.episode[:, None] == proof[..., None]) & (score > float("-inf"))
            found = known & positive.any(-1)
            good = torch.logsumexp(score.masked_fill(~positive, -1e9), dim=-1)
            route = masked_mean(torch.logsumexp(score.masked_fill(score == float("-inf"), -1e9), dim=-1) - good, found)
            # ... and of those that are looked at more closely, once it is seen what they do not say
            ranked = copy["score"].masked_fill(copy["score"] == float("-inf"), -1e9)
            likely = gather_traces(traces.episode, copy["candidates"]) == proof[..., None]
            rank = masked_mean(torch.logsumexp(ranked, dim=-1) - torch.logsumexp(ranked.masked_fill(~likely, -1e9), dim=-1), found)
            proven = gather_traces(traces.episode, copy["select"]) == proof[..., None]
            # which word of the evidence, however it was routed to: the noise of addressing would drown what is to be learned of reading
            mass = mass * proven.repeat_interleave(CHUNK, dim=-1)
            exact = continued(ids, copied, idx, targets, positions, c.n_ordinary)
            right = (mass * exact).sum(-1)
            misread = mass.sum(-1).clamp(min=1e-30).log() - right.clamp(min=1e-30).log()
            read = masked_mean(misread, begins & found) + masked_mean(misread, found & ~begins & (right > 0))
            # whether the memory holds an answer, and whether what comes next there is still of it: the mixture alone teaches the gate too slowly. Goings-on outnumber ends
            goes_on = found & ~begins & (mass.sum(-1) > 0)
            copies = torch.where(begins, found, (exact & (mass > 0) & (ids == target[..., None])).any(-1)).to(g.dtype)
            unsure = F.binary_cross_entropy(g.clamp(1e-6, 1 - 1e-6), copies, reduction="none")
            gate = masked_mean(unsure, begins & (found | (proof == UNKNOWN))) + masked_mean(unsure, goes_on & (copies > 0)) + masked_mean(unsure, goes_on & (copies == 0))
            known = found | known & (proof == UNKNOWN)   # what has left the memory can't be asked for
        # a fixed number of slots, so that shapes do not depend on data: those with an ordinary target first, at random
        elsewhere = (torch.rand(B, T, device=idx.device) + ((targets >= 0) & ~answers)).flatten().topk(int(c.text_fraction * B * T))
        words = targets.flatten()[elsewhere.indices].masked_fill(elsewhere.values < 1, -1)
        text = F.cross_entropy(self.logits(x.flatten(0, 1)[elsewhere.indices]), words, reduction="sum", ignore_index=-1) / (words >= 0).sum().clamp(min=1)
        # what kind of word is asked for must be in x, so that it meets the keys of such words: refusals alone would leave "I" there, whatever the question
        told = is_answer & (target >= 0) & (proof >= 0)
        guess = masked_mean(F.cross_entropy(self.logits(x[rows, positions]).transpose(1, 2), target.clamp(min=0), reduction="none"), told)
        losses = {"text": text, "guess": guess, "answer": masked_mean(-picked, known), "copy": masked_mean(-picked, (target >= 0) & ~is_answer),
                  "route": route, "rank": rank, "read": read, "gate": gate, "index": torch.stack(training["losses"]).mean() if training["losses"] else text.new_zeros(())}
        losses["total"] = sum(weights.get(k, 1.0) * v for k, v in losses.items())
        losses["answers"] = known.sum()
        return losses, state


def visible(traces, chunk, new):
    """
    Which traces a slot may read: filled, and closed before its chunk. chunk (B, M) counts within the segment, whose `new` chunks
    are the newest traces. Returns (B, M, N) bool.
    """
    alive = (traces.valid > 0)[:, None].expand(-1, chunk.shape[1], -1)
    if new == 0:
        return alive
    order = torch.arange(new, device=chunk.device)
    return torch.cat([alive[..., :-new], alive[..., -new:] & (order < chunk[..., None])], dim=-1)
