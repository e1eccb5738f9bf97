"""dev/gen_babi_lives.py: lives of bAbI's training stories alone, answers that stand in their evidence, nothing of the evaluation."""
import json
import random
from itertools import islice

import pytest

from dev import gen_babi_lives
from dev.gen_base_data import Prose
from nanochat.common import UserError
from nanochat.dataset import document_tokens, list_shards, read_documents
from nanochat.tokenizer import Tokenizer

TRAIN = """1 Ann went to the hall.
2 Bob moved to the attic.
3 Where is Ann? \thall\t1
4 Ann went to the attic.
5 Where is Ann? \tattic\t4
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
    (tmp_path / "qa1_0k.jsonl").write_text(json.dumps({"facts": ["Bob went to the office.", "Ann went to the office."]}) + "\n")
    return tmp_path


def test_what_the_evaluation_asks_about_is_left_out(bench):
    story, = gen_babi_lives.stories(bench, bench, "qa1")   # Eve's is in qa1_valid.txt, Bob's in BABILong
    assert [(e.text, e.answer, e.evidence) for e in story] == [
        ("Ann went to the hall.", "", -1), ("Bob moved to the attic.", "", -1), ("Where is Ann?", "hall", 0), ("Ann went to the attic.", "", -1), ("Where is Ann?", "attic", 3)]
    with pytest.raises(UserError, match="no qa5_"):
        gen_babi_lives.stories(bench, bench, "qa5")
    (bench / "qa1_0k.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="facts"):
        gen_babi_lives.stories(bench, bench, "qa1")


def test_the_evidence_holds_the_answer_among_prose(bench, tmp_path):
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": "The mill stood by the water. Nobody had worked there for years! It was quiet. " * 9}) + "\n")
    told, prose = gen_babi_lives.stories(bench, bench, "qa1") * 9, Prose(str(tmp_path / "prose.jsonl"))
    lengths, noisy = set(), 0
    for seed in range(20):
        life = gen_babi_lives.life(random.Random(seed), told, prose)
        lengths.add(len(life))
        noisy += any("The mill" in e.text for e in life)
        for e in life:
            if e.is_question:
                assert life[e.evidence].text.startswith("Ann went to the ") and f" {e.answer}." in life[e.evidence].text
    assert len(lengths) > 4 and 0 < noisy < 20


def test_every_other_paragraph_is_about_a_namesake(tmp_path):
    mill, ann = "The mill stood by the water. Nobody had worked there for years! It was quiet. " * 9, "It was late. Then Ann rowed home over the wide grey water of the evening. " * 9
    (tmp_path / "prose.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (mill, *[ann] * 3)))
    about = lambda nouns: ["Ann" in piece for piece in islice(gen_babi_lives.pieces(random.Random(0), Prose(str(tmp_path / "prose.jsonl"), nouns=nouns)), 200)]
    assert all(about({"ann", "bob"})[1::2]) and not all(about({"ann", "bob"})[::2]) and not all(about(())[1::2])


def test_shards_are_read_by_base_train(bench, capsys):
    out = bench / "lives"
    assert gen_babi_lives.main(["--babi", str(bench), "--held-out", str(bench), "--output-dir", str(out), "--shards", "2", "--lives-per-shard", "6"]) == 0
    assert "1 stories of qa1" in capsys.readouterr().err
    tokenizer, paths = Tokenizer.load(), list_shards(out)
    assert len(paths) == 2
    lives = [(text, evidence) for _, text, evidence in read_documents(paths)]
    assert len(lives) == 12 and 0 < sum("Ann went" in text for text, _ in lives) < 12   # and lives of the base
    for text, evidence in lives:
        for episode in document_tokens(tokenizer, text, evidence):
            assert not episode.is_question or episode.evidence >= -2
