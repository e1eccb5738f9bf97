"""The Cairo timeline: slow, causal, complete, and true to its own ground truth."""
import collections
import json
import re

import pytest

from dev import gen_cairo_data as cairo

STEPS = 3000


@pytest.fixture(scope="module")
def records():
    return list(cairo.timeline(STEPS, seed=1))


def test_every_step_once_and_every_value_in_the_text(records):
    assert [r["t"] for r in records] == list(range(1, STEPS + 1))
    for r in records:
        assert re.search(rf"\bt={r['t']}\b", r["text"]) and "\n" not in r["text"]
        for attribute in cairo.QUESTIONS:
            assert r[attribute] in r["text"]


@pytest.mark.parametrize("attribute", list(cairo.QUESTIONS))
def test_attributes_change_slowly_and_all_values_occur(records, attribute):
    changes = sum(a[attribute] != b[attribute] for a, b in zip(records, records[1:]))
    assert 0.01 <= changes / STEPS <= 0.30
    pool = {"location": cairo.PLACES, "mood": cairo.MOODS, "drink": cairo.DRINKS}[attribute]
    assert {r[attribute] for r in records} == set(pool) and len(pool) >= 12


def test_moods_follow_places(records):
    seen = collections.Counter((r["location"], r["mood"]) for r in records)
    at_home = sum(n for (place, mood), n in seen.items() if mood in cairo.PLACES[place][0])
    assert at_home / STEPS > 2 * 2 / len(cairo.MOODS)


def test_every_template_is_used_and_lines_stay_short(records):
    def pattern(template):
        parts = re.split(r"\{(\w+)\}", template)
        return re.compile("".join(re.escape(p) if i % 2 == 0 else ".*" for i, p in enumerate(parts)))
    for template in cairo.TEMPLATES:
        assert any(pattern(template).fullmatch(r["text"]) for r in records), template
    words = sum(len(re.findall(r"\w+|[^\w\s]", r["text"])) for r in records)
    assert words / STEPS <= 28


def test_seeds(records):
    assert records == list(cairo.timeline(STEPS, seed=1))
    assert [r["text"] for r in records] != [r["text"] for r in cairo.timeline(STEPS, seed=2)]


def test_questions_agree_with_the_truth(records):
    asked = cairo.questions(records, 300, seed=5)
    assert asked == cairo.questions(records, 300, seed=5)
    assert collections.Counter(q["attribute"] for q in asked) == {"location": 100, "mood": 100, "drink": 100}
    for q in asked:
        assert records[q["t"] - 1][q["attribute"]] == q["answer"] and f"t={q['t']}" in q["question"]
    assert all(len(forms) >= 4 for forms in cairo.QUESTIONS.values())
    with pytest.raises(ValueError):
        cairo.questions([], 1)


def test_command_line_writes_text_and_sidecar(tmp_path, capsys):
    out = tmp_path / "sub" / "c.txt"
    assert cairo.main(["--steps", "50", "--seed", "3", "--output", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    truth = [json.loads(line) for line in out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert truth == list(cairo.timeline(50, 3)) and lines == [r["text"] for r in truth]
    assert [r["line"] for r in truth] == list(range(50))
    assert sorted(p.name for p in out.parent.iterdir()) == ["c.jsonl", "c.txt"]
    assert "50 episodes" in capsys.readouterr().err


def test_wrong_usage(tmp_path, capsys):
    assert cairo.main(["--steps", "0"]) == 2
    (tmp_path / "file").write_text("x")
    assert cairo.main(["--steps", "1", "--output", str(tmp_path / "file" / "c.txt")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
