"""
What reading is learned from: memories with questions, as JSON lines {"src", "sents", "qas": [{"q", "a", "evidence"}]}, and questions made from prose.

"a" stands word for word in the line sents[evidence[-1]]; a list of values, each in the line of the same place in "evidence". "a": "" has no answer in
the memory. "disfluent" is the same question, stumbled over. "times" may give the seconds since 1970 of each line.
"""
import json
import lzma
import random
from dataclasses import dataclass

import numpy as np
import torch

from nanochat import finding
from nanochat.reading import WINDOW, Answer, batch, lay_out
from nanochat.task_data import REFUSAL


@dataclass
class Memory:
    lines: list      # of words.Line
    qas: list        # of (question Lines, parts, evidence): parts, the answer as (line, first byte, last byte) each; none: refused


def opened(path):
    return lzma.open(path, "rt", encoding="utf-8") if str(path).endswith(".xz") else open(path, encoding="utf-8")


def found(question, lines):
    """The order in which lines are found for a question, best first."""
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    return finding.rank(finding.search(question.stem, np.concatenate([line.stem for line in lines]), owner, len(lines))).tolist()


def parts_of(qa, sents):
    """The places of an answer, [(line, first byte, last byte)]; None where it does not stand there."""
    values = qa["a"] if isinstance(qa["a"], list) else [qa["a"]] if qa["a"] else []
    places = zip(values, qa["evidence"] if isinstance(qa["a"], list) else qa["evidence"][-1:])
    parts = []
    for value, i in places:
        at = sents[i].find(value)
        if at < 0:
            return None
        begin = len(sents[i][:at].encode("utf-8", "replace"))
        parts.append((i, begin, begin + len(value.encode("utf-8", "replace"))))
    return parts


def load(paths, lexicon, progress=None):
    """{name of the source: [Memory]} of files of questions."""
    sources = {}
    for path in paths:
        with opened(path) as file:
            for text in file:
                item = json.loads(text)
                lines = [lexicon.line(s) for s in item["sents"]]
                qas = []
                for qa in item["qas"]:
                    parts = None if qa.get("composed") else parts_of(qa, item["sents"])
                    if parts is not None:
                        qas.append(([lexicon.line(qa[k]) for k in ("q", "disfluent") if k in qa], parts, qa["evidence"]))
                if qas:
                    sources.setdefault(item["src"], []).append(Memory(lines, qas))
                if progress:
                    progress(1)
    return sources


def tokens_at(line, first, last):
    """Indices of the tokens of a line that hold its bytes first … last - 1."""
    return np.flatnonzero((line.end > first) & (line.start < last))


def answer_tokens(parts, lines, begin, lexicon, tokenizer):
    """[(token id, [places of the window it may be copied from])] of an answer with its end; None where some of it is not in the window."""
    if not parts:
        return [(i, []) for i in tokenizer.encode(REFUSAL)] + [(tokenizer.end_id, [])]
    out = []
    for i, first, last in parts:
        if i not in begin:
            return None
        out += [(token, []) for token in tokenizer.encode(",")] if out else []
        out += [(int(lines[i].ids[t]), [begin[i] + int(t)]) for t in tokens_at(lines[i], first, last)]
    return out + [(tokenizer.end_id, [])]


class Windows:
    """
    An endless stream of (columns of a window, answer tokens), see reading.lay_out and answer_tokens, drawn by a seed.

    sources: see load; weights {source: share}; withheld: the share of answered questions whose evidence is taken away; budgets: tokens of windows, drawn evenly.
    """
    def __init__(self, sources, weights, lexicon, tokenizer, seed, budgets=(128, 192, 256, 384, 512), withheld=0.08, others=6, cloze=None, cloze_share=0.0):
        self.sources, self.lexicon, self.tokenizer = sources, lexicon, tokenizer
        self.names = [name for name in weights if name in sources]
        self.weights = [weights[name] for name in self.names]
        self.random = random.Random(seed)
        self.budgets, self.withheld, self.others = budgets, withheld, others
        self.pick = {name: [(m, q) for m, memory in enumerate(sources[name]) for q in range(len(memory.qas))] for name in self.names}
        self.cloze, self.cloze_share = cloze, cloze_share

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            made = self.cloze(self.random) if self.cloze and self.random.random() < self.cloze_share else self.asked()
            if made is not None:
                return made

    def asked(self):
        r = self.random
        name = r.choices(self.names, self.weights)[0]
        m, q = r.choice(self.pick[name])
        memory = self.sources[name][m]
        forms, parts, evidence = memory.qas[q]
        question = r.choice(forms)
        lines = list(memory.lines)
        for _ in range(r.randint(0, self.others)):   # other memories of its kind, before and after
            other = r.choice(self.sources[name])
            if other is memory:
                continue
            if r.random() < 0.5:
                lines = lines + other.lines
            else:
                n = len(other.lines)
                lines = other.lines + lines
                parts, evidence = [(i + n, a, b) for i, a, b in parts], [i + n for i in evidence]
        if parts and r.random() < self.withheld:
            said = {lines[i].text.encode("utf-8", "replace")[a:b].lower() for i, a, b in parts}
            keep = [i for i, line in enumerate(lines) if i not in evidence and not any(v in line.text.encode("utf-8", "replace").lower() for v in said)]
            lines, parts, evidence = [lines[i] for i in keep], [], []
            if not lines:
                return None
        order = found(question, lines)
        budget = r.choice(self.budgets)
        columns, begin = lay_out(question, lines, order, self.tokenizer, budget)
        if any(i not in begin for i in evidence):    # in training the evidence is always there
            order = [*dict.fromkeys(evidence), *(i for i in order if i not in evidence)]
            columns, begin = lay_out(question, lines, order, self.tokenizer, budget)
        tokens = answer_tokens(parts, lines, begin, self.lexicon, self.tokenizer)
        if tokens is None or any(places and places[0] >= len(columns["ids"]) for _, places in tokens):
            return None
        return columns, tokens


class Cloze:
    """
    Questions made from prose (recurring span selection, Ram et al. 2021): a sentence with a span left out that other sentences of its passage say, too.
    """
    def __init__(self, paths, lexicon, tokenizer, limit, blank="what"):
        self.lexicon, self.tokenizer = lexicon, tokenizer
        self.blank = blank
        self.paths, self.limit = paths, limit
        self.passages = self.read()

    def read(self):
        """Lists of sentences, up to about 400 tokens a passage."""
        import re
        split = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z0-9])")
        total = 0
        passages = []
        for path in self.paths:
            with opened(path) as file:
                for text in file:
                    part, size = [], 0
                    for sentence in split.split(json.loads(text)["text"].replace("\n", " ")):
                        sentence = " ".join(sentence.split())
                        if not 20 < len(sentence) < 500:
                            continue
                        part.append(sentence)
                        size += len(sentence)
                        if size > 1400:
                            passages.append(part)
                            part, size = [], 0
                    total += len(text)
                    if total > self.limit:
                        return passages
        return passages

    def __call__(self, r):
        sents = r.choice(self.passages)
        lines = [self.lexicon.line(s) for s in sents]
        where = {}
        for i, line in enumerate(lines):
            # runs of tokens: words are cut at changes of word; spans of 1 to 4 words
            runs = word_runs(line)
            for n in (1, 2, 3, 4):
                for a in range(len(runs) - n + 1):
                    key = tuple(line.word[runs[a + k][0]] for k in range(n))
                    where.setdefault(key, []).append((i, runs[a][0], runs[a + n - 1][1]))
        # maximal spans that two sentences say; a span of one frequent word is none
        spans = [(key, places) for key, places in where.items() if len({i for i, _, _ in places}) >= 2 and self.telling(places[0], lines)]
        if not spans:
            return None
        longest = max(len(key) for key, _ in r.sample(spans, min(len(spans), 4)))
        key, places = r.choice([s for s in spans if len(s[0]) == longest])
        i, a, b = r.choice(places)
        line = lines[i]
        text = line.text.encode("utf-8", "replace")
        left, right = text[:line.start[a]].decode("utf-8", "replace").rstrip(), text[line.end[b - 1]:].decode("utf-8", "replace")
        question = self.lexicon.line(left + " " + self.blank + right)
        keep = [j for j in range(len(lines)) if j != i]
        rest = [(keep.index(j), x, y) for j, x, y in places if j != i]
        lines = [lines[j] for j in keep]
        order = found(question, lines)
        columns, begin = lay_out(question, lines, order, self.tokenizer, r.choice((256, 384)))
        rest = [(j, x, y) for j, x, y in rest if j in begin and begin[j] + y <= len(columns["ids"])]
        if not rest:
            return None
        j, x, y = r.choice(rest)
        tokens = [(int(lines[j].ids[t]), [begin[j] + t]) for t in range(x, y)]
        tokens[0] = (tokens[0][0], [begin[j] + x] + [begin[k] + u for k, u, _ in rest if (k, u) != (j, x)][:3])
        return columns, tokens + [(self.tokenizer.end_id, [])]

    def telling(self, place, lines):
        """Whether some word of a span is not among the most frequent ones."""
        i, a, b = place
        rows = lines[i].vector[a:b][lines[i].word[a:b] > 0]
        return bool(((rows == 0) | (rows > 300)).any())


def word_runs(line):
    """[(first token, after its last token)] of the words of a line."""
    runs, last = [], -1
    change = np.flatnonzero(np.diff(np.concatenate([[0], line.word, [0]])))
    for a, b in zip(change[:-1], change[1:]):
        if line.word[a] > 0:
            runs.append((int(a), int(b)))
    return runs


def collate(examples):
    """A reading.Window and reading.Answer of several examples of Windows."""
    window = batch([columns for columns, _ in examples])
    longest = max(len(tokens) for _, tokens in examples)
    most = max(len(places) for _, tokens in examples for _, places in tokens) or 1
    ids, source = np.full((len(examples), longest), -1, np.int64), np.full((len(examples), longest, most), -1, np.int64)
    for b, (_, tokens) in enumerate(examples):
        for t, (token, places) in enumerate(tokens):
            ids[b, t] = token
            source[b, t, :len(places)] = places
    return window, Answer(torch.from_numpy(ids), torch.from_numpy(source))


def batches(windows, tokens=8192, ahead=512):
    """Batches of about so many tokens, of examples of like length: `ahead` examples are drawn, sorted, cut, and dealt in random order."""
    while True:
        drawn = sorted((next(windows) for _ in range(ahead)), key=lambda e: len(e[0]["ids"]))
        cut, begin = [], 0
        for end in range(1, len(drawn) + 1):
            if end == len(drawn) or len(drawn[end][0]["ids"]) * (end + 1 - begin) > tokens:
                cut.append(drawn[begin:end])
                begin = end
        windows.random.shuffle(cut)
        for part in cut:
            yield collate(part)
