"""dev/grammar.py: every question has one right answer, refusals are refusals, held-out forms stay out of training."""
import ast
import datetime
import json
import re
import tokenize
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from dev import grammar
from nanochat.common import run_main

TRAINED = [kind for kind in [*grammar.KINDS, "mixed"] if kind not in grammar.HELD_KINDS]
SOURCE = Path(grammar.__file__)
seeds = st.integers(0, 10**6).map(str)
few = settings(max_examples=20, deadline=None)


def has(text, *parts):
    """
    Whether a text holds all parts as whole words; a name counts only as it is written, since a code may hold its
    letters.
    """
    flags = lambda part: re.IGNORECASE if part == part.lower() else 0
    return all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, flags(part)) for part in parts)


def asked(w, record):
    """Each question that could be asked, with its answer in this memory; what has no single answer is left out."""
    place = {line: record["sents"].index(line.text) for part in w.parts for line in part}
    for keys, rule, slots, how in w.asks:
        if qa := w.answer(place, keys, rule, slots, **how):
            yield keys, rule, slots, qa


@few
@example("6475", "own", True)   # "halva is nothing for me": who says it is "me" there, not "I"
@given(seeds, st.sampled_from([*grammar.KINDS, "mixed"]), st.booleans())
def test_every_answer_stands_in_its_evidence(seed, kind, held):
    _, record = grammar.build(seed, [kind], held=held or kind in grammar.HELD_KINDS)
    assert record["src"] == f"grammar-{kind}" and record["qas"]
    assert len(record.get("times", record["sents"])) == len(record["sents"])
    for text in record["sents"] + [qa["q"] for qa in record["qas"]]:
        assert text == text.strip() and not re.search(r"\$[a-z]|[{}]|a/an|  ", text)
    for qa in record["qas"]:
        lines = [record["sents"][i] for i in qa["evidence"]]
        if isinstance(qa["a"], list):
            assert 1 < len(qa["a"]) == len(lines) and len(set(qa["a"])) == len(lines)
            assert all(has(line, a) for a, line in zip(qa["a"], lines))
        elif not qa["a"]:
            assert qa["answers"] == [] and lines == []
        elif qa.get("composed"):
            assert qa["a"] in qa["answers"] and len(lines) == 1
        else:
            assert qa["a"] in qa["answers"] and has(lines[-1], qa["a"]) and len(lines) in (1, 2)
            assert qa["a"] in lines[-1]


@few
@given(seeds, st.sampled_from(["facts", "keys"]), st.booleans())
def test_one_line_tells_what_is_asked_and_none_where_it_is_refused(seed, kind, held):
    """Read from the lines themselves, not from the store: a line of these kinds tells one attribute of one name."""
    w, record = grammar.build(seed, [kind], held=held)
    for _, rule, slots, qa in asked(w, record):
        if rule == "ask":
            telling = [i for i, text in enumerate(record["sents"]) if has(text, slots["e"], slots["a"])]
            assert telling == qa["evidence"]
        elif rule == "ask_rev":
            telling = [i for i, text in enumerate(record["sents"]) if has(text, slots["a"]) and slots["v"] in text]
            assert set(qa["evidence"]) <= set(telling) and bool(qa["a"]) == bool(qa["evidence"])


@few
@given(seeds, st.sampled_from([*grammar.KINDS, "mixed"]))
def test_a_refusal_was_never_told(seed, kind):
    w, record = grammar.build(seed, [kind], held=kind in grammar.HELD_KINDS)
    for keys, _, _, qa in asked(w, record):
        assert bool(qa["a"]) == all(key in w.facts for key in keys)


@few
@given(seeds, st.booleans())
def test_refused_moments_stand_in_no_entry(seed, held):
    w, record = grammar.build(seed, ["log"], held=held)
    for keys, rule, slots, qa in asked(w, record):
        if rule in ("state_ask", "event_ask") and qa["evidence"]:
            assert has(record["sents"][qa["evidence"][0]], slots["e"])
        if rule in ("state_solo", "event_solo") and not qa["a"]:
            assert not any(key[:1] == ("any",) and key[1:] == keys[0][1:] for key in w.facts)


def test_share_of_refusals():
    qas = [qa for i in range(150) for qa in grammar.build(f"share/{i}", TRAINED)[1]["qas"]]
    assert 0.1 <= sum(not qa["a"] for qa in qas) / len(qas) <= 0.19
    assert all(any(test(qa) for qa in qas) for test in (
        lambda qa: isinstance(qa["a"], list), lambda qa: qa.get("composed"), lambda qa: qa["a"]
        and not isinstance(qa["a"], list)
        and not qa.get("composed") and len(qa["evidence"]) == 2))


@few
@given(seeds)
def test_versions_stand_in_order_and_the_last_is_asked_for(seed):
    w, record = grammar.build(seed, ["update"])
    for keys, rule, _, qa in asked(w, record):
        told = [fact.value for fact in w.facts.get(keys[0], ())]
        at = [record["sents"].index(fact.line.text) for fact in w.facts.get(keys[0], ())]
        assert at == sorted(at) and len(set(told)) == len(told)
        if told:
            want = {"ask_first": told[0], "ask_before": told[-2] if told[1:] else None}.get(rule, told[-1])
            assert qa["a"].casefold() == want.casefold()


def test_near_miss_moments_stand_beside_the_right_one():
    for i in range(4):
        w, record = grammar.build(f"near/{i}", ["log"], held=True, lines=1000)
        assert len(record["sents"]) >= 1000 and len(record["qas"]) > 10
        at = {fact.line.text: key[2] for key, facts in w.facts.items() if key[0] == "any" for fact in facts}
        for qa in record["qas"]:
            if qa["a"] and len(qa["evidence"]) == 1 and not re.search(r"when was that", qa["q"], re.IGNORECASE):
                moment = at[record["sents"][qa["evidence"][0]]]
                assert {moment + d for d in (-2, -1, 1, 2)} <= set(at.values())


def test_codes_that_nearly_agree():
    w, _ = grammar.build("codes", ["keys"], lines=60)
    values = [fact.value for key, facts in w.facts.items() if key[0] != "who" for fact in facts]
    assert any(len(a) == len(b) and sum(x != y for x, y in zip(a, b)) == 1 for a in values for b in values)


@few
@given(seeds)
def test_dates_worked_out(seed):
    _, record = grammar.build(seed, ["when"])
    for qa in record["qas"]:
        if qa.get("composed"):
            i, = qa["evidence"]
            day = datetime.datetime.fromtimestamp(record["times"][i], datetime.timezone.utc).date()
            words = {"the day before yesterday": -2, "yesterday": -1, "the day after tomorrow": 2, "tomorrow": 1,
                     "two days ago": -2, "three days ago": -3, "four days ago": -4, "in three days": 3,
                     "in five days": 5,
                     "week ago": -7, "in a week": 7}
            days = next((n for word, n in words.items() if has(record["sents"][i], word)), 0)
            assert qa["a"] == str(day + datetime.timedelta(days))
        if "times" in record:
            known = [time for time in record["times"] if time >= 0]
            assert known == sorted(known) and 0 not in known


def test_what_is_held_out_is_never_used_in_training():
    train, held, forms = set(), set(), {False: set(), True: set()}
    for i in range(100):
        for is_held, used in ((False, train), (True, held)):
            w, record = grammar.build(f"held/{i}", ["log"] if i % 2 else TRAINED, held=is_held)
            used |= w.used
            forms[is_held] |= {record["form"]} if record.get("form", "several") != "several" else set()
    marked = {(rule, text) for rule, texts in grammar.RULES[True].items() for text in texts
              if text not in grammar.RULES[False][rule]}
    own = {rule for rule, _ in marked}      # rules that have held-out alternatives
    assert len(forms[True]) >= 5 and not forms[True] & forms[False]
    assert not train & marked and not train & {(rule, text) for rule, text in held if rule in own}
    assert all(entry in marked for entry in held if entry[0] in own)
    for rule in ("layout", "layout_prose", "state", "event", "say", "change", "turn", "state_ask", "ask"):
        assert rule in own
    assert not any(name.startswith(tuple(grammar.HELD_KINDS)) for name, texts in grammar.RULES[False].items() if texts)


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["grammar.py", *map(str, args)])
    code = run_main(grammar.main)
    return code, capsys.readouterr().err


def test_command_is_deterministic_by_seed(monkeypatch, capsys, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        code, err = run(monkeypatch, capsys, "--output", tmp_path / name, "--memories", 12, "--seed", seed,
                        "--held_out")
        assert code == 0 and err.count("\n") == 1
    a, b, c = ((tmp_path / name).read_text(encoding="utf-8") for name in "abc")
    assert a == b != c and len([json.loads(row) for row in a.splitlines()]) == 12


@pytest.mark.parametrize("wrong", [["--kinds", "nonsense"], ["--kinds", "lend"], ["--memories", 0], ["--lines", -1]])
def test_bad_input_is_one_line(monkeypatch, capsys, tmp_path, wrong):
    code, err = run(monkeypatch, capsys, "--output", tmp_path / "x", *wrong)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and not (tmp_path / "x").exists()


def test_it_stays_small_and_behind_the_wall():
    text = SOURCE.read_text(encoding="utf-8")
    tree, code = ast.parse(text), set()
    with tokenize.open(SOURCE) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.string.strip() and token.type != tokenize.COMMENT:
                code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    assert len(code) <= 400 and max(map(len, text.split("\n"))) <= 120
    assert SOURCE.with_suffix(".txt").stat().st_size <= 30_000
    assert re.findall(r"from (nanochat\S*|dev\S*|scripts\S*) import|import (?:nanochat|dev|scripts)",
                      text) == ["nanochat.common"]
