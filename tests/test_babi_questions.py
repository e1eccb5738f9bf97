"""dev/babi_questions.py: bAbI's training stories as questions for reading, none of an evaluation."""
import json

import pytest

from dev import babi_questions
from nanochat.common import UserError
from nanochat.reading_data import load
from nanochat.words import Lexicon

TRAIN = """1 Ann went to the hall.
2 Bob took the milk.
3 Where is Ann? \thall\t1
4 Bob went to the attic.
5 Where is the milk? \tattic\t4 2
6 Is Ann in the attic? \tno\t1
1 Eve went to the garden.
2 Eve moved to the hall.
3 Where is Eve? \thall\t2
1 Bob went to the office.
2 Ann went to the office.
3 Where is Bob? \toffice\t1
"""


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "qa1_train.txt").write_text(TRAIN)
    (tmp_path / "qa1_valid.txt").write_text("1 Eve went to the garden.\n2 Where is Eve? \tgarden\t1\n")
    told = {"facts": ["Bob went to the office.", "Ann went to the office."]}
    (tmp_path / "qa1_0k.jsonl").write_text(json.dumps(told) + "\n")
    return tmp_path


def write(bench, *more):
    out = bench / "babi.out"
    babi_questions.main(["--babi", str(bench), "--held-out", str(bench), "--output", str(out), *more])
    return out


def test_stories_become_questions_and_those_of_the_evaluation_are_left_out(bench):
    rows = [json.loads(line) for line in write(bench).read_text().splitlines()]
    lines = ["Ann went to the hall.", "Bob took the milk.", "Bob went to the attic."]   # Eve is in qa1_valid, Bob in 0k
    assert [row["sents"] for row in rows] == [lines[:2], lines, lines]
    assert [(q["q"], q["a"], q["evidence"], q["composed"]) for row in rows for q in row["qas"]] == [
        ("Where is Ann?", "hall", [0], False), ("Where is the milk?", "attic", [1, 2], False),
        ("Is Ann in the attic?", "no", [0], True)]
    assert len({row["src"] for row in rows}) == 3, "lines of other stories would be newer"


def test_reading_learns_from_them(bench, tokenizer):
    every = load([write(bench)], Lexicon(tokenizer, []))
    said = [question.composed or [m.lines[i].text[a:b] for i, a, b in question.parts]
            for (m,) in every.values() for question in m.questions]
    assert said == [["hall"], ["attic"], "no"]


@pytest.mark.parametrize("name, text", [("qa1_0k.jsonl", "{}\n"), ("qa1_train.txt", "Ann went\tto\tthe hall\n"),
                                        ("qa1_valid.txt", "1 Ann went to the hall.\n2 Where is Ann?\thall\n")])
def test_other_files_are_refused(bench, name, text):
    (bench / name).write_text(text)
    with pytest.raises(UserError, match="not bAbI's and BABILong's"):
        write(bench)


def test_files_that_are_missing_are_named(bench):
    with pytest.raises(UserError, match="qa5_"):
        write(bench, "--qa", "qa1", "qa5")
    assert not (bench / "babi.out").exists()
