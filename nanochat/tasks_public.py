"""
Runners for public benchmarks of memory: bAbI, BABILong, RULER needles, key-value retrieval, LongEval lines. The data is
not part of the repository; --data says where it lies. See tasks.py for the tasks of this repository, people.py for
LoCoMo.

What is read as an episode decides what a memory can find, so it is said here: a line of bAbI, of LongEval, a record of
key-value retrieval; in running text a sentence, or with split="paragraph" a run of sentences of about 400 characters.
Answers are compared without case, punctuation and articles.
"""
import random
import re
from pathlib import Path

from nanochat.common import UserError
from nanochat.task_data import Cell, Part, Question, Story, measure, read_prose
from nanochat.text import json_line

SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


def files_of(data, pattern, task):
    """The files of a benchmark: `data` is one of them or a directory of them."""
    if data is None:
        raise UserError(f"the task {task} needs --data, a file or a directory with {pattern}", code=2)
    path = Path(data)
    found = sorted(path.rglob(pattern)) if path.is_dir() else [path]
    if not found or not found[0].exists():
        raise UserError(f"no {pattern} in {data}")
    return found


def _rows(file, *fields):
    """The objects of a JSON lines file, with the fields that are needed."""
    try:
        with open(file, encoding="utf-8") as f:
            rows = [json_line(line) for line in f if line.strip()]
    except ValueError as error:
        raise UserError(f"{file} is not JSON lines: {error}") from error
    for row in rows:
        if not isinstance(row, dict) or any(name not in row for name in fields):
            raise UserError(f"{file} is of another format: {', '.join(fields)} are needed in each line")
    return rows


def _other(parts):
    """Each part's control is the story of the next."""
    for part, following in zip(parts, parts[1:] + parts[:1]):
        part.other = following.story if len(parts) > 1 else None
    return parts


def sentences(text, split="sentence"):
    """Running text as episodes."""
    pieces = [p.strip() for p in SENTENCE.split(text) if p and p.strip()]
    if split == "sentence":
        return pieces
    out = []
    for piece in pieces:
        if out and len(out[-1]) + len(piece) < 400:
            out[-1] += " " + piece
        else:
            out.append(piece)
    return out


def find(episodes, text):
    """Index of the last episode that holds the text, -1 if none does."""
    return next((i for i in range(len(episodes) - 1, -1, -1) if text in episodes[i]), -1)


def babi(tokenizer=None, data=None, qa=("qa1", "qa2", "qa3"), questions=100, prose=None, tokens=None, seeds=(1,)):
    """
    bAbI: a cell a task, a story a part, the questions asked where they stand. Leave qa4 out: its train and test
    overlap. With prose, as BABILong: the lines told by then are hidden, in their order, among `tokens` of it.
    """
    if prose is None and tokens:
        raise UserError("lengths in tokens need --prose FILE", code=2)
    for seed in seeds if prose else ():
        rng, hay = random.Random(f"babi-{seed}"), Story([])
        lengths = measure(tokenizer, read_prose(prose, rng), tokens or (100000,), hay.episodes, prose)
        for name in qa:
            asked = [(part.story.episodes[:q.after], q)
                     for part in babi_stories(files_of(data, f"{name}_valid.txt", "babi")[0]) for q in part.questions]
            for length, base in sorted(lengths.items()):
                yield Cell({"qa": name, "tokens": length, "seed": seed},
                           [Part(hay, [_scattered(rng, facts, q, base) for facts, q in asked[:questions]])], "tokens")
    for name in qa if prose is None else ():
        parts, asked = [], 0
        for story in babi_stories(files_of(data, f"{name}_valid.txt", "babi")[0]):
            if asked >= questions:
                break
            parts.append(story)
            asked += len(story.questions)
        yield Cell({"qa": name}, _other(parts), "qa")


def _scattered(rng, facts, q, base):
    """The question with its facts hidden among the first `base` episodes of a haystack."""
    places = sorted(rng.randint(0, base) for _ in facts)
    evidence = places[q.evidence] + q.evidence if q.evidence >= 0 else -1
    return Question(q.text, q.answer, evidence, after=base, hidden=tuple(zip(places, facts)), loose=True)


def babi_stories(file):
    """The stories of a bAbI file as parts."""
    story = numbers = asked = None
    for line in open(file, encoding="utf-8"):
        number, _, text = line.strip().partition(" ")
        if not number.isdigit():
            raise UserError(f"{file} is not a bAbI file: {line[:60]!r}")
        if number == "1":
            if asked:
                yield Part(story, asked)
            story, numbers, asked = Story([]), {}, []
        if "\t" not in text:
            numbers[number] = len(story.episodes)
            story.episodes.append(text)
        else:
            question, answer, support = (field.strip() for field in text.split("\t"))
            proof = [numbers[s] for s in support.split() if s in numbers]
            # the answer stands in one of the supporting lines, or is inferred from the last
            holds = [i for i in proof if re.search(rf"\b{re.escape(answer)}\b", story.episodes[i])]
            asked.append(Question(question, answer, (holds or proof or [-1])[-1], after=len(story.episodes),
                                  loose=True))
    if asked:
        yield Part(story, asked)


def babilong(data=None, qa=("qa1",), lengths=("0k", "1k", "2k", "4k"), questions=100, split="sentence"):
    """BABILong: the facts of bAbI between the sentences of books."""
    for name in qa:
        for length in lengths:
            parts = []
            for row in _rows(files_of(data, f"{name}_{length}.jsonl", "babilong")[0], "input", "question",
                             "target")[:questions]:
                story = Story(sentences(row["input"], split))
                proof = row.get("references") or []
                parts.append(Part(story, [Question(row["question"].strip(), row["target"],
                                                   find(story.episodes, proof[-1]) if proof else -1, loose=True)]))
            yield Cell({"qa": name, "length": length, "split": split}, _other(parts), "length")


def ruler(data=None, needles=("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2",
                              "niah_multivalue", "niah_multiquery"),
          lengths=("1024", "2048", "4096"), questions=100, split="sentence"):
    """
    RULER's needles: the question is the last line of the input, the first is an instruction; all of the answers must be
    said (its string match).
    """
    for name in needles:
        for length in lengths:
            files = [f for f in files_of(data, "validation.jsonl", "ruler") if f.parts[-3:-1] == (length, name)]
            if not files:
                raise UserError(f"no {length}/{name}/validation.jsonl in {data}")
            parts = []
            for row in _rows(files[0], "input", "outputs")[:questions]:
                body, _, question = row["input"].rpartition("\n")
                story = Story(sentences(body.partition("\n")[2], split))
                parts.append(Part(story, [Question(question, ", ".join(row["outputs"]),
                                                   find(story.episodes, row["outputs"][0]),
                                                   parts=tuple(row["outputs"]))]))
            yield Cell({"needle": name, "tokens": int(length), "split": split}, _other(parts), "tokens")


def keyvalue(data=None, questions=100):
    """Key-value retrieval of Lost in the Middle: records of two UUIDs, one of which is asked for."""
    for file in files_of(data, "kv*.jsonl", "keyvalue"):
        parts = []
        for row in _rows(file, "ordered_kv_records", "key", "value")[:questions]:
            records = row["ordered_kv_records"]
            at = [k for k, _ in records].index(row["key"])
            story = Story([f'"{k}": "{v}"' for k, v in records])
            parts.append(Part(story, [Question(f'What is the value corresponding to the key "{row["key"]}"?',
                                               row["value"], at, loose=True)]))
        yield Cell({"pairs": len(parts[0].story.episodes)}, _other(parts), "pairs")


def longeval(data=None, questions=100):
    """LongEval lines: the content of one line among hundreds, asked for as the prompt does."""
    for file in files_of(data, "lines_*.jsonl", "longeval"):
        parts = []
        for row in _rows(file, "prompt", "expected_number", "correct_line")[:questions]:
            lines = [line for line in row["prompt"].split("\n") if line.startswith("line ")]
            question = row["prompt"].strip().rpartition("\n")[2].partition("over. ")[2]
            parts.append(Part(Story(lines), [Question(question, str(row["expected_number"]),
                                                      lines.index(row["correct_line"].strip()), loose=True)]))
        yield Cell({"lines": len(parts[0].story.episodes)}, _other(parts), "lines")


PUBLIC = {"babi": babi, "babilong": babilong, "ruler": ruler, "keyvalue": keyvalue, "longeval": longeval}
