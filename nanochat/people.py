"""
People's questions about people's text, put as a program puts them: a memory is told, then asked, its answers compared.

everyday, cases: whole memories, a line an episode. Right: one of the expected answers, or what holds one and is at most
three words longer. qa: a passage is the memory (together: all passages of a source), a sentence an episode. locomo: a
chat of two people, a turn an episode. Right: the same words; F1: words in common, as in SQuAD. Where there is no
answer, "I don't know" is right, and nothing else.

Beside it stands what can be had without reading: a span of any line, as long as answers to such questions are (guess),
and "I don't know" to everything (refuse). Of the answers given, so many stand in an episode that they cite (grounded),
and cite one that is known to hold the answer (evidence).
"""
import json
import lzma
import random
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import groupby
from statistics import fmean, stdev

from nanochat.common import UserError
from nanochat.scoring import exact, f1, holds, interval, refused, short, words
from nanochat.task_data import REFUSAL
from nanochat.tasks_public import files_of
from nanochat.text import LINE_END, json_line

LOCOMO = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "no answer"}   # its categories
DRAWS = 20   # guesses a question
Z = 1.96     # of 95 % intervals


@dataclass(frozen=True)
class Asked:
    text: str
    answers: tuple    # any of them is right; () = there is none
    evidence: tuple   # the lines it stands in, 1 = first, as episodes are counted
    kind: str         # reported together


@dataclass(frozen=True)
class Life:
    """What is remembered, a line an episode, and what is asked about it."""
    lines: list
    times: list       # of each line, seconds since 1970; None = unknown
    asked: list
    source: str = ""


def notes(data=None, questions=None, seed=0, mistyped=False):
    """Lives of files like everyday.jsonl, with so many questions, drawn by the seed. mistyped: see typing_error."""
    return _some(read_rows(data, lambda row: _life(row["lines"], row["questions"], row.get("times"))), questions, seed,
                 mistyped)


def passages(data=None, questions=None, seed=0, together=False, mistyped=False):
    """Lives of files like qa/dev.jsonl, with so many questions of each source."""
    lives = read_rows(data, lambda row: _life(row["sents"], row["qas"], source=str(row["src"])))
    return _some(_together(lives) if together else lives, questions, seed, mistyped)


def chats(data=None, questions=None, seed=0, mistyped=False):
    """Lives of LoCoMo (see locomo_lives), with so many questions in all."""
    return _some([life for path in data or () for life in locomo_lives(path)], questions, seed, mistyped)


PEOPLE = {"everyday": notes, "cases": notes, "qa": passages, "locomo": chats}


def read_rows(data, life):
    """life(row) of every line of JSON in the files (.xz, too)."""
    lives, number = [], 0
    for file in data or ():
        try:
            with (lzma.open if file.endswith(".xz") else open)(file, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    lives.append(life(json_line(line)))
        except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
            raise UserError(f"{file}: {error}", code=2) from error
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{file}, line {number}: {why}", code=2) from error
    return lives


def _life(lines, questions, times=None, source=""):
    lines = [LINE_END.sub(" ", text) for text in _texts(lines)]   # a line is an episode
    times = [None] * len(lines) if times is None else [_seconds(text) for text in _texts(times)]
    if len(times) != len(lines) or not lines:
        raise ValueError(f"{len(lines)} lines, {len(times)} times")
    return Life(lines, times, [_asked(q, len(lines), source) for q in questions], source)


def _asked(q, n, source):
    if not all(isinstance(i, int) and 0 <= i < n for i in q["evidence"]):
        raise ValueError(f"evidence {q['evidence']} of {n} lines")
    answers = tuple(_texts(q["answers"])) if q.get("type") != "unknown" else ()
    kind = q["type"] if not source else source if answers else f"{source}, no answer"
    return Asked(*_texts([q["q"]]), answers, tuple(i + 1 for i in q["evidence"]), kind)


def _texts(value):
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise ValueError(f"a list of texts is needed, none of them blank, not {str(value)[:80]}")
    return value


def _seconds(text):
    """Seconds since 1970 of a time in ISO 8601, UTC if it doesn't say."""
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())


def _together(lives):
    """One life a source: all that it tells, all that it asks."""
    out = {}
    for life in lives:
        whole = out.setdefault(life.source, Life([], [], [], life.source))
        before = len(whole.lines)
        whole.asked.extend(replace(q, evidence=tuple(before + i for i in q.evidence)) for q in life.asked)
        whole.lines.extend(life.lines)
        whole.times.extend(life.times)
    return list(out.values())


def locomo_lives(path):
    """
    The Lives of a LoCoMo file, or of the first one of a directory, a chat each: every turn has the time of its session,
    and says who speaks. Questions without an answer (category 5) are of the kind "no answer". UserError.
    """
    file = files_of(path, "locomo*.json", "locomo")[0]
    try:
        return [_chat(chat) for chat in json.loads(file.read_text(encoding="utf-8"))]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a LoCoMo file: {type(error).__name__} {error}", code=2) from error


def _chat(chat):
    lines, times, place, talk = [], [], {}, chat["conversation"]
    for session in sorted((k for k in talk if re.fullmatch(r"session_\d+", k)), key=lambda k: int(k[8:])):
        when = datetime.strptime(talk[f"{session}_date_time"], "%I:%M %p on %d %B, %Y").isoformat()
        for turn in talk[session]:
            place[turn["dia_id"]] = len(lines)
            shown = f" [{turn['blip_caption']}]" if turn.get("blip_caption") else ""
            lines.append(f"{turn['speaker']}: {turn['text']}{shown}")
            times.append(when)
    return _life(lines, [{"q": q["question"], "answers": [str(q["answer"])] if q["category"] != 5 else [],
                          "evidence": [place[e] for e in q["evidence"] if e in place], "type": LOCOMO[q["category"]]}
                         for q in chat["qa"]], times)


def typing_error(text, seed=0):
    """
    A question with an error in the longest of its words of five letters or more: a letter is left out or doubled, or
    two neighbours are swapped, drawn by the seed. A question without such a word stays as it is.
    """
    word = max(re.finditer(r"[^\W\d_]{5,}", text), key=lambda m: len(m[0]), default=None)
    if word is None:
        return text
    r = random.Random(f"{seed} {text}")
    i = r.randrange(word.start() + 1, word.end() - 1)
    said, rest = r.choice((("", 1), (text[i] * 2, 1), (text[i + 1] + text[i], 2)))
    return text[:i] + said + text[i + rest:]


def _some(lives, n, seed, mistyped=False):
    """The lives with the questions that are asked; None = every one. UserError where none is."""
    if not any(life.asked for life in lives):
        raise UserError("--data needs files, in each memories and their questions", code=2)
    pools = defaultdict(list)
    for life in lives:
        pools[life.source] += life.asked
    kept = {id(q) for pool in pools.values() for q in random.Random(seed).sample(pool, min(n or len(pool), len(pool)))}
    put = (lambda q: replace(q, text=typing_error(q.text, seed))) if mistyped else lambda q: q
    some = [replace(life, asked=[put(q) for q in life.asked if id(q) in kept]) for life in lives]
    return [life for life in some if life.asked]


# -----------------------------------------------------------------------------
# Asking, and what is reported


def ask(task, lives, opened):
    """Yields of every question what came of it, a dict; opened() is an empty memory, a LiveMemory or its like."""
    right, lengths, rng = exact if task in ("qa", "locomo") else short, defaultdict(list), random.Random(0)
    for q in (q for life in lives for q in life.asked):
        lengths[q.kind] += [len(words(answer)) for answer in q.answers[:1]]
    for life in lives:
        with opened() as memory:
            for time, told in groupby(zip(life.lines, life.times), key=lambda line: line[1]):
                memory.ingest([text for text, _ in told], time=time)
            for q in life.asked:
                spans = [_span(life.lines, lengths[q.kind], rng) for _ in range(DRAWS if q.answers else 0)]
                guess = {name: fmean([float(rule(span, q.answers)) for span in spans] or [0.0])
                         for name, rule in (("guess", right), ("guess_f1", f1))}
                yield {**_outcome(q, memory.ask(q.text), life.lines, right), **guess}


def _span(lines, lengths, rng):
    """Some words of a line, chosen blindly."""
    line, length = words(rng.choice(lines)), rng.choice(lengths)
    at = rng.randint(0, max(len(line) - length, 0))
    return " ".join(line[at:at + length])


def _outcome(q, answer, lines, right):
    no, cited = refused(answer.text), {e.id: e.score for e in answer.episodes}
    good = right(answer.text, q.answers) if q.answers else no
    return {"question": q.text, "expected": list(q.answers) or [REFUSAL], "got": answer.text, "type": q.kind,
            "answerable": bool(q.answers), "right": good, "refused": no and not (good and q.answers),
            "f1": f1(answer.text, q.answers) if q.answers else float(no),
            "evidence": list(q.evidence), "cited": cited, "lines": {i: lines[i - 1] for i in (*q.evidence, *cited)},
            "grounded": any(holds(lines[i - 1], answer.text) for i in cited), "seconds": answer.seconds}


def report(task, outcomes):
    """Rows (dicts): of each kind, of all that have an answer if some have none, of all. Per cent; None = of nothing."""
    kinds, known = defaultdict(list), [o for o in outcomes if o["answerable"]]
    for o in outcomes:
        kinds[o["type"]].append(o)
    groups = {**kinds, **({"answerable": known} if 0 < len(known) < len(outcomes) else {}), "all": outcomes}
    return [{"task": task, "control": "memory", "group": name, **_row(group)} for name, group in groups.items()]


def _row(group):
    n, share = len(group), lambda values: 100 * fmean(map(float, values)) if values else None
    mean = {name: share([o[name] for o in group]) for name in ("right", "f1", "guess", "guess_f1")}
    low, high = interval(mean["right"] / 100, n)
    given = [o for o in group if not o["refused"]]
    return {"n": n, "right": mean["right"], "from": low, "to": high, "f1": mean["f1"],
            "f1_error": 100 * Z * stdev(o["f1"] for o in group) / n ** 0.5 if n > 1 else None,
            "guess": mean["guess"], "guess_f1": mean["guess_f1"], "refuse": share([not o["answerable"] for o in group]),
            "false_refusals": share([o["refused"] for o in group if o["answerable"]]),
            "grounded": share([o["grounded"] for o in given]),
            "evidence": share([not o["cited"].keys().isdisjoint(o["evidence"]) for o in given if o["evidence"]]),
            "ms": fmean(1000 * o["seconds"] for o in group)}


def table(rows):
    """The rows as lines of text, under the names of their numbers."""
    names = [name for name in rows[0] if name not in ("task", "control")]
    text = lambda value: "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
    cells = [[name.replace("_", " ") for name in names], *([text(row[name]) for name in names] for row in rows)]
    wide = [max(map(len, column)) for column in zip(*cells)]
    return [line[0].ljust(wide[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(line[1:], wide[1:])) for line in cells]
