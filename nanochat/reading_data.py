"""
What reading is learned from: memories with questions, JSON lines {"src", "sents", "qas": [{"q", "a", "evidence"}]}.

"a" stands word for word in the line sents[evidence[-1]]; a list of values, each in the line of the same place in
"evidence"; "" has no answer in the memory; with "composed": true it stands nowhere. "disfluent" is the same question,
stumbled over. "times": the seconds since 1970 of each line, -1 = unknown.
"""
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nanochat import finding
from nanochat.common import UserError, rounded_up
from nanochat.dataset import read_lines
from nanochat.reading import QUESTION, WINDOW, Answer, Talk, batch, dated, lay_out, said_before
from nanochat.task_data import REFUSAL
from nanochat.text import json_line

MOST = 12_000    # questions of a source that count for its share: a large one is not to drown the others
HELD = 64        # of so many memories one is held out
MOST_ASKED = 8   # questions after a window, see Talks
STEP = 32        # windows are as long as a multiple of it: a CPU prepares its products anew for each shape


class Lines(Sequence):
    """The words.Line of texts. Each is read when it is first wanted: of many memories a run sees only some."""
    def __init__(self, texts, lexicon):
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a line or a question that is no text")
        self.texts, self.lexicon = texts, lexicon

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        if isinstance(self.texts[i], str):
            self.texts[i] = self.lexicon.line(self.texts[i])
        return self.texts[i]


@dataclass
class Question:
    forms: Lines     # ways to ask it
    parts: list      # (line, first byte, last byte) of each value of the answer; none: refused, or composed
    evidence: list   # lines without which it can't be answered
    composed: str = ""


@dataclass
class Memory:
    lines: Lines
    questions: list


@dataclass
class Laid:
    """A window: columns and begin are those of lay_out for `lines`; place: {line of the memory: line of these}."""
    columns: dict
    begin: dict
    lines: list
    place: dict

    def answer(self, question, tokenizer):
        """[(token id, [places])] of the answer with its end; None where the window does not hold all of it."""
        if not {self.place.get(i) for i in question.evidence} <= self.begin.keys():
            return None
        tokens = [] if question.parts else generated(question.composed or REFUSAL, tokenizer)
        for i, first, last in question.parts:
            i = self.place[i]
            tokens += (generated(",", tokenizer) if tokens else []) + copied(self.lines[i], self.begin[i], first, last)
        ordinal = self.columns["ordinal"]
        if any(place >= len(ordinal) or ordinal[place] < 0 for _, at in tokens for place in at):   # it is cut off
            return None
        return [*tokens, (tokenizer.end_id, [])]


def places(qa, sents, before):
    """
    The parts of an answer, see Question; None where a value does not stand in its line. before: bytes that stand before
    the text of each line.
    """
    many = isinstance(qa["a"], list)
    values, lines = (qa["a"], qa["evidence"]) if many else ([qa["a"]], qa["evidence"][-1:]) if qa["a"] else ([], [])
    parts = []
    for value, i in zip(values, lines, strict=True):
        at = sents[i].find(value)
        if at < 0:
            return None
        # three bytes, as U+FFFD, which stands in its place
        begin = before[i] + len(sents[i][:at].encode("utf-8", "surrogatepass"))
        parts.append((i, begin, begin + len(value.encode("utf-8", "surrogatepass"))))
    return parts


def memory_of(item, lexicon):
    """The Memory of one JSON object. Questions whose answer does not stand where it should are left out."""
    sents, times = item["sents"], item.get("times") or [-1] * len(item["sents"])
    texts = [dated(text, seconds) for text, seconds in zip(sents, times, strict=True)]
    before = [len(said_before(seconds)) for seconds in times]
    questions = []
    for qa in item["qas"]:
        composed = qa["a"] if qa.get("composed") else ""
        if not isinstance(composed, str) or not all(0 <= i < len(sents) for i in qa["evidence"]):
            raise ValueError(f"evidence {qa['evidence']} of {len(sents)} lines, answer {qa['a']!r}")
        parts = [] if composed else places(qa, sents, before)
        if parts is not None:
            forms = Lines([qa["q"], *([qa["disfluent"]] if "disfluent" in qa else [])], lexicon)
            questions.append(Question(forms, parts, qa["evidence"], composed))
    return Memory(Lines(texts, lexicon), questions)


def load(paths, lexicon, item_of=json_line):
    """
    {source: [Memory]} of files (.xz, too). item_of: what makes the JSON object of a line. UserError names the line that
    is not of this form.
    """
    sources = {}
    for path in paths:
        try:
            for number, text in read_lines(path):
                try:
                    item = item_of(text)
                    name, memory = str(item["src"]), memory_of(item, lexicon)
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    raise UserError(f"{path}, line {number}: not a memory with questions ({type(error).__name__}: "
                                    f"{error})") from error
                if memory.questions:
                    sources.setdefault(name, []).append(memory)
        except ValueError as error:   # the file itself, see read_lines
            raise UserError(str(error)) from error
    if not sources:
        raise UserError(f"no question in {', '.join(map(str, paths))} can be used: no answer stands in the line that "
                        "its evidence names")
    return sources


def question_files(directory):
    """The question files of a directory, sorted; UserError where there is none."""
    paths = sorted(path for path in Path(directory).iterdir() if path.name.endswith((".jsonl", ".jsonl.xz")))
    if not paths:
        raise UserError(f"no questions in {directory}: a THENGPT learns to read from *.jsonl files of memories with "
                        "questions (dev/grammar.py makes some)")
    return paths


def held_out(sources, tokenizer, count, most=WINDOW):
    """Takes every HELD-th memory of each source away, and returns `count` examples made from them, always the same."""
    held = {name: memories[::HELD] for name, memories in sources.items()}
    for name, memories in sources.items():
        sources[name] = [memory for i, memory in enumerate(memories) if i % HELD] or memories
    return drawn_by(Asked(held, tokenizer, most), random.Random(0), count)


def find(question, lines):
    """The order in which lines are found for a question by a model that has not learned to find, best first."""
    said = finding.occurrences(question.stem, question.joined, *finding.told(lines))
    return finding.rank(finding.plain(said)).tolist()


def copied(line, begin, first, last):
    """
    [(token id, [its place in the window])] of the tokens of a line that hold its bytes first … last - 1; begin: where
    the line stands.
    """
    return [(int(line.ids[t]), [begin + int(t)]) for t in np.flatnonzero((line.end > first) & (line.start < last))]


def generated(text, tokenizer):
    return [(token, []) for token in tokenizer.encode(text)]


class Asked:
    """
    Examples, (columns of a window, answer tokens), from questions that people or generators have asked, drawn by a
    random.Random. sources: see load.
    """
    def __init__(self, sources, tokenizer, most=WINDOW, withheld=0.0, others=6, shares=None, masked=0.0):
        """
        most: tokens of the longest windows, the shortest have a quarter of them; withheld: of answered questions, the
        share whose evidence is taken away; masked: the mean share of words that are masked, see `mask`; others:
        memories of the same source beside it, at most; shares: {how names of sources begin: what share of the
        questions they have together}, for the others what their numbers (up to MOST) make of the rest.
        """
        self.sources, self.tokenizer, self.withheld, self.others = sources, tokenizer, withheld, others
        self.masked = masked
        self.budgets = [most * n // 8 for n in (2, 3, 4, 6, 8)]
        self.every = {name: [(memory, q) for memory in memories for q in memory.questions]
                      for name, memories in sources.items()}
        self.shares = source_shares({name: len(every) for name, every in self.every.items()}, shares or {})

    def __call__(self, r):
        name, memory, question = self.drawn(r)
        lines, n = self.beside(r, name, memory)
        place = {i: i + n for i in range(len(memory.lines))}
        if question.evidence and r.random() < self.withheld:
            kept = without(lines, question, n)
            new = {at: i for i, at in enumerate(kept)}
            place = {i: new[at] for i, at in place.items() if at in new}
            lines, question = [lines[i] for i in kept], replace(question, parts=[], evidence=[], composed="")
        form, evidence = r.choice(question.forms), [place[i] for i in question.evidence]
        order, budget = find(form, lines) if lines else [], r.choice(self.budgets)
        laid = Laid(*lay_out(form, lines, order, self.tokenizer, budget), lines, place)
        if not laid.begin.keys() >= set(evidence):    # in training the evidence is always there
            order = [*dict.fromkeys(evidence), *(i for i in order if i not in evidence)]
            laid = Laid(*lay_out(form, lines, order, self.tokenizer, budget), lines, place)
        tokens = laid.answer(question, self.tokenizer)
        if self.masked:
            mask(r, laid.columns, 2 * self.masked * r.random(), self.tokenizer.pad_id)
        return tokens and self.example(r, laid, memory, question, form, tokens)

    def example(self, r, laid, memory, question, form, tokens):
        return laid.columns, tokens

    def drawn(self, r):
        """(source, memory, question)."""
        name = r.choices(list(self.every), self.shares)[0]
        return name, *r.choice(self.every[name])

    def beside(self, r, name, memory):
        """The lines of a memory with those of others of its source before and after it, and how many stand before."""
        lines, n = list(memory.lines), 0
        for other in r.choices(self.sources[name], k=r.randint(0, self.others)):
            if other is not memory and r.random() < 0.5:
                lines = [*lines, *other.lines]
            elif other is not memory:
                n, lines = n + len(other.lines), [*other.lines, *lines]
        return lines, n


class Talks(Asked):
    """
    Windows without a question, and several questions of one memory after them, as an open model learns them: (columns,
    [(ids, wanted, source)] of each, see reading.Talk).
    """
    def example(self, r, laid, memory, question, form, tokens):
        if not laid.begin:
            return None   # nothing to read
        asked = [(form, tokens)]
        for other in r.sample(memory.questions, len(memory.questions)):
            if len(asked) < MOST_ASKED and other.forms is not question.forms:
                tokens = laid.answer(other, self.tokenizer)
                asked += [(r.choice(other.forms), tokens)] if tokens else []
        there = laid.columns["ordinal"] >= 0
        return {name: column[there] for name, column in laid.columns.items()}, [self.branch(*one) for one in asked]

    def branch(self, form, tokens):
        said, before = [token for token, _ in tokens], [-1] * min(len(form), QUESTION)
        ids = [self.tokenizer.user_id, *form.ids[:QUESTION].tolist(), self.tokenizer.assistant_id, *said[:-1]]
        return ids, [-1, *before, *said], [-1, *before, *(at[0] if at else -1 for _, at in tokens)]


def mask(r, columns, share, mask_id):
    """
    Takes away a share of the tokens of words in a window, and their vectors; which of them the question says is still
    known, and what is to be copied. People's questions are few, and are learned by heart otherwise.
    """
    gone = (np.random.default_rng(r.getrandbits(64)).random(len(columns["ids"])) < share) & (columns["word"] > 0)
    columns["ids"], columns["vector"] = np.where(gone, mask_id, columns["ids"]), np.where(gone, 0, columns["vector"])


def source_shares(counts, shares):
    """The share of each source: counts {name: questions}, shares as for Asked."""
    of = {name: next((prefix for prefix in shares if name.startswith(prefix)), None) for name in counts}
    size = {name: min(count, MOST) for name, count in counts.items()}
    total = {prefix: sum(size[name] for name in counts if of[name] == prefix) for prefix in of.values()}
    rest = 1 - sum(shares[prefix] for prefix in total if prefix is not None)
    return [size[name] / total[of[name]] * (rest if of[name] is None else shares[of[name]]) for name in counts]


def without(lines, question, n):
    """
    The indices of lines without the evidence of a question, whose memory begins at line n, and without whatever else
    says the answer.
    """
    said = {lines[i + n].text.encode("utf-8", "replace")[a:b].decode("utf-8", "replace").lower()
            for i, a, b in question.parts}
    evidence = {i + n for i in question.evidence}
    return [i for i, line in enumerate(lines) if i not in evidence and not any(v in line.text.lower() for v in said)]


def collate_talks(examples):
    """A reading.Window and reading.Talk of several examples of Talks."""
    longest = rounded_up(max(sum(len(ids) for ids, *_ in asked) for _, asked in examples), STEP)
    table = {name: np.full((len(examples), longest), filler, np.int64)
             for name, filler in (("ids", 0), ("branch", -1), ("at", 0), ("wanted", -1), ("source", -1))}
    for b, (_, asked) in enumerate(examples):
        begin = 0
        for number, (ids, wanted, source) in enumerate(asked):
            part = slice(begin, begin := begin + len(ids))
            for name, values in (("ids", ids), ("branch", number), ("at", range(len(ids))), ("wanted", wanted),
                                 ("source", source)):
                table[name][b, part] = values
    return (batch([columns for columns, _ in examples], STEP),
            Talk(**{name: torch.from_numpy(values) for name, values in table.items()}))


def collate(examples):
    """A reading.Window and reading.Answer of several examples."""
    longest = max(len(tokens) for _, tokens in examples)
    most = max(len(at) for _, tokens in examples for _, at in tokens)
    ids, source = (np.full((len(examples), longest, *more), -1, np.int64) for more in ((), (max(most, 1),)))
    for b, (_, tokens) in enumerate(examples):
        for t, (token, at) in enumerate(tokens):
            ids[b, t] = token
            source[b, t, :len(at)] = at
    return batch([columns for columns, _ in examples], STEP), Answer(torch.from_numpy(ids), torch.from_numpy(source))


def drawn_by(make, r, count):
    """`count` examples of make(r). UserError where hardly any can be made."""
    made = list(itertools.islice(filter(None, (make(r) for _ in range(100 * count))), count))
    if len(made) < count:
        raise UserError("the questions can't be learned from: of hardly any does the evidence fit a window")
    return made


class Batches:
    """
    An endless iterator of (reading.Window, reading.Answer) of about `tokens` tokens. make: function of a random.Random
    -> example or None, as Asked, or as Talks, with collate_talks for `put`. `position` is a plain value, with which
    another goes on with the very next batch.

    Examples of like length are put together: `ahead` of them are drawn at once, by numbers of their own, sorted, cut,
    and dealt in random order.
    """
    def __init__(self, make, seed, tokens=8192, ahead=512, position=(0, 0), put=collate):
        self.make, self.seed, self.tokens, self.ahead, self.put = make, seed, tokens, ahead, put
        (self.round, self.turn), self.dealt = position, None

    @property
    def position(self):
        return self.round, self.turn

    def __iter__(self):
        return self

    def __next__(self):
        self.dealt = self.dealt or self.deal()
        if self.turn >= len(self.dealt):   # resumed at the place of a run with smaller windows
            self.round, self.turn = self.round + 1, 0
            self.dealt = self.deal()
        out = self.put(self.dealt[self.turn])
        self.turn += 1
        if self.turn == len(self.dealt):
            self.round, self.turn, self.dealt = self.round + 1, 0, None
        return out

    def deal(self):
        r = random.Random(f"{self.seed} {self.round}")
        drawn = sorted(drawn_by(self.make, r, self.ahead), key=lambda e: len(e[0]["ids"]))
        cut, begin = [], 0
        for end in range(1, len(drawn) + 1):
            if end == len(drawn) or rounded_up(len(drawn[end][0]["ids"]), STEP) * (end + 1 - begin) > self.tokens:
                cut.append(drawn[begin:end])
                begin = end
        r.shuffle(cut)
        return cut
