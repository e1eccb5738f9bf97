"""nanochat/peers.py: where the evidence of a question is found, by us and by others."""
import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev import other_finder
from nanochat import engine, peers
from nanochat.common import UserError, run_main
from nanochat.finding import rank
from nanochat.scoring import wilson
from scripts import memory_eval
from tests.conftest import tiny

QA = [{"src": "web", "sents": ["Moss grows\nhere.", "It rained."],
       "qas": [{"q": "what grows?", "a": "Moss", "evidence": [0]}, {"q": "who?", "a": "", "evidence": []}]},
      {"src": "other", "sents": ["Reeds."], "qas": [{"q": "reeds?", "a": "Reeds", "evidence": [0]}]},
      {"src": "web", "sents": ["Snow fell.", "A quince fell."],
       "qas": [{"q": "which quince", "a": "A", "evidence": [1]}, {"q": "what fell?", "a": "Snow", "evidence": [1, 0]}]}]
NOTES = [{"lines": ["gate 7719#", "milk"], "questions": [
    {"q": "code of the gate 7719#?", "answers": ["7719"], "evidence": [0], "type": "code"},
    {"q": "dog?", "answers": ["I don't know"], "evidence": [], "type": "unknown"}]}]
CHATS = [{"sample_id": "c", "conversation": {
    "session_1_date_time": "1:05 pm on 2 May, 2023",
    "session_1": [{"speaker": "Ann", "dia_id": "D1:1", "text": "I left."},
                  {"speaker": "Bob", "dia_id": "D1:2", "text": "I stayed."}]},
    "qa": [{"question": "Who stayed?", "answer": "Bob", "evidence": ["D1:2"], "category": 4},
           {"question": "Why?", "adversarial_answer": "x", "evidence": ["D1:1"], "category": 5},
           {"question": "When?", "answer": "May", "evidence": ["D9:1"], "category": 2}]}]


@pytest.fixture
def files(tmp_path):
    """Paths of questions about passages, of notes, and of a directory with chats."""
    for name, rows in (("qa", QA), ("notes.v2", NOTES)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats/locomo2.json").write_text(json.dumps(CHATS))
    return [str(tmp_path / name) for name in ("qa.jsonl", "notes.v2.jsonl", "chats")]


@given(score=st.lists(st.integers(0, 3), min_size=1, max_size=12), data=st.data())
def test_the_place_is_that_in_the_ranking(score, data):
    lines = data.draw(st.lists(st.integers(0, len(score) - 1), min_size=1, max_size=3))
    order = rank(np.array(score)).tolist()
    assert peers.place(np.array(score), lines) == min(order.index(i) for i in lines)


def test_all_of_a_source_is_one_memory_and_of_chats_each_is_one(files):
    memories, finders = peers.sought(files)
    assert finders == {} and [(m.source, len(m.lines)) for m in memories] == [("web", 4), ("other", 1), ("notes", 2),
                                                                               ("locomo", 2)]
    told = {(m.source, q): [m.lines[i] for i in evidence] for m in memories for q, evidence in m.asked}
    assert told == {("web", "what grows?"): ["Moss grows here."], ("web", "which quince"): ["A quince fell."],
                    ("web", "what fell?"): ["A quince fell.", "Snow fell."], ("other", "reeds?"): ["Reeds."],
                    ("notes", "code of the gate 7719#?"): ["gate 7719#"], ("locomo", "Who stayed?"): ["Bob: I stayed."]}


def test_so_many_questions_of_a_source_are_drawn_by_the_seed(files):
    drawn = lambda *of: {m.source: [q for q, _ in m.asked] for m in peers.sought(files, *of)[0]}
    assert {source: len(asked) for source, asked in drawn(2).items()} == {"web": 2, "other": 1, "notes": 1, "locomo": 1}
    assert drawn(1, 3) == drawn(1, 3) and len({tuple(drawn(1, seed)["web"]) for seed in range(20)}) == 3


@pytest.mark.parametrize("row, words", [
    ({"sents": ["a"], "qas": [{"q": "x", "evidence": [1]}]}, "evidence that is none of 1 lines"),
    ({"sents": ["a"], "qas": [{"q": 1, "evidence": [0]}]}, "no text"), ({"sents": ["a"]}, "'qas' is missing"),
    ({"sents": ["a"], "qas": [{"q": "x", "evidence": []}]}, "--data needs")])
def test_what_is_no_question_with_evidence_is_refused(tmp_path, row, words):
    (tmp_path / "bad.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=words):
        peers.sought([str(tmp_path / "bad.jsonl")])
    with pytest.raises(UserError, match="--data needs"):
        peers.sought()


def test_places_are_counted_by_source_and_finder_with_their_intervals():
    memories = [peers.Sought("a", ["x"] * 3, []), peers.Sought("b", ["y"] * 40, []), peers.Sought("b", ["z"], [])]
    finder = lambda lines: lambda question: np.arange(len(lines))   # the newest first
    memories[0].asked, memories[1].asked = [("q", [2]), ("q", [0, 1])], [("q", [30]), ("q", [39])]
    rows = peers.report(peers.measure({"one": finder, "two": lambda lines: lambda q: -np.arange(len(lines))}, memories),
                        memories)
    got = {(r["group"], r["finder"]): [r["n"], r["lines"]] + [r[f"rank_{top}"] for top in (1, 5, 10)] for r in rows}
    assert got == {("a", "one"): [2, 3, 50, 100, 100], ("a", "two"): [2, 3, 50, 100, 100],
                   ("b", "one"): [2, 41, 50, 50, 100], ("b", "two"): [2, 41, 0, 0, 0],
                   ("all", "one"): [4, 44, 50, 75, 100], ("all", "two"): [4, 44, 25, 50, 50]}
    for row in rows:
        for top in (1, 5, 10):
            share, low, high = row[f"rank_{top}"], row[f"from_{top}"], row[f"to_{top}"]
            assert 0 <= low <= share <= high <= 100
            assert high - low <= 2 * wilson(share / 100, row["n"]) + 1e-9


@pytest.fixture
def call(tokenizer, monkeypatch, capsys):
    facts = {"device": "cpu", "dtype": "fp32", "weights": "0" * 64, "tokenizer": tokenizer.fingerprint, "step": 0}
    loaded = tiny(tokenizer), tokenizer, facts
    monkeypatch.setattr(engine, "load_model", lambda *_: loaded)

    def run(*argv):
        try:
            code = run_main(lambda: memory_eval.main(["--model-path", "tiny", *argv]))
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())
    return run


def test_the_command_prints_a_table_or_json(call, files):
    code, out, err = call("--tasks", "finding", "--data", *files)
    assert code == 0 and [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["web", "memory", "3", "4"], ["other", "memory", "1", "1"], ["notes", "memory", "1", "2"],
        ["locomo", "memory", "1", "2"], ["all", "memory", "6", "9"]]
    code, out, _ = call("--task", "finding", "--data", files[0], "--json", "--questions", "1")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(r["task"], r["group"], r["n"], r["rank_10"]) for r in rows] == [
        ("finding", "web", 1, 100), ("finding", "other", 1, 100), ("finding", "all", 2, 100)]


def test_a_reader_is_given_what_another_finder_found(call, files, monkeypatch, capsys):
    given, own, read = [], engine.found, engine.window
    blind = lambda: lambda lines: given.append(lines) or (lambda q: -np.arange(len(lines)))   # the oldest first
    monkeypatch.setitem(peers.PEERS, "bm25", blind)
    seen = lambda *args, **kw: (out := read(*args, **kw), given.append(out[1]))[0]
    monkeypatch.setattr(engine, "window", seen)
    monkeypatch.setattr(engine, "found", own)   # so that it is put back
    flags = ["--model-path", "tiny", "--task", "locomo", "--data", files[2], "--json"]
    assert run_main(lambda: other_finder.main(["bm25", *flags])) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["group"], r["n"]) for r in rows] == [("single-hop", 1), ("no answer", 1), ("temporal", 1),
                                                    ("answerable", 2), ("all", 3)]
    assert given == [["Ann: I left.", "Bob: I stayed."], [1, 2], [1, 2], [1, 2]]   # it is given the lines once
    assert run_main(lambda: other_finder.main(["bm26", *flags])) == 2
    assert run_main(lambda: other_finder.main(["bm25", "--model-path", "tiny", "--task", "timeline"])) == 2


def test_what_the_command_refuses(call, files, monkeypatch):
    assert call("--task", "finding", "--data", files[0], "--peers", "bm26")[0] == 2
    assert call("--task", "qa", "--data", files[0], "--peers", "bm25")[0] == 2
    assert call("--task", "finding", "--data", files[0], "--explain")[0] == 2
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in peers.PEERS:
        code, out, err = call("--task", "finding", "--data", files[0], "--peers", name)
        assert (code, out) == (1, "") and err.count("\n") == 1 and f"the peer {name} needs" in err


@pytest.mark.parametrize("name, package", [("bm25", "bm25s"), pytest.param("minilm", "all_minilm_l6_v2",
                                                                           marks=pytest.mark.slow)])
def test_a_peer_finds_what_is_plain(name, package):
    pytest.importorskip(package)
    lines = ["The rivers were wide.", "A cat slept on the mat.", "Anna left for Quito on Monday."]
    scores = peers.PEERS[name]()(lines)
    questions = ("how wide was the river", "where do cats sleep?", "Quito?")
    assert [int(np.argmax(scores(q))) for q in questions] == [0, 1, 2]
    assert scores("?!").shape == (3,)


def test_ours_is_the_finder_of_questions(tokenizer):
    model, lines = tiny(tokenizer), ["The rivers were wide.", "A cat slept.", "The code is C++."]
    scores = peers.memory(model, tokenizer)(lines)
    assert [int(np.argmax(scores(q))) for q in ("river", "Cats?", "C++")] == [0, 1, 2]
