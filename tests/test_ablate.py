"""dev/ablate.py: every arm and control is measured, an arm differs in what it says, wrong input is one line."""
import json
import sys

import torch

from dev import ablate
from nanochat import people
from nanochat.common import run_main
from nanochat.reading import Answer, Window

from .test_base_train import data  # noqa: F401  a fixture

SMALL = ["--depth", "2", "--minutes", "0.01", "--set", "n_embd=32", "--set", "n_head=2", "--set", "n_kv_head=2",
         "--set", "nearby=3"]


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["ablate", *map(str, args)])
    return run_main(ablate.main)


def test_every_arm_and_both_controls_are_in_the_table(data, monkeypatch, capsys):  # noqa: F811
    notes = [{"lines": [f"The jug is in hall {n}.", "It rained."],
              "questions": [{"q": "Where is the jug?", "answers": [f"hall {n}"], "evidence": [1], "type": "direct"}]}
             for n in range(3)]
    (data / "notes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in notes))
    assert run(monkeypatch, "--data-dir", data / "data", "--measure", f"everyday={data / 'notes.jsonl'}", "--json",
               data / "out.json", *SMALL) == 0
    rows, table = json.loads((data / "out.json").read_text()), capsys.readouterr().out.splitlines()
    assert list(rows) == ["whole", "withheld", "swapped", "no-features", "one-direction", "no-copy"]
    assert rows["withheld"]["everyday"] == 0 and all(0 <= row["everyday"] <= 100 for row in rows.values())
    assert [line.split()[0] for line in table] == ["everyday", *rows, "questions"] and table[-1].split()[-1] == "3"


def test_what_an_arm_takes_away():
    window = Window(*(torch.ones(1, 4, dtype=torch.int64) for _ in range(7)))
    plain = ablate.plain(window)
    assert not any(getattr(plain, name).any() for name in ("vector", "match", "rank", "age"))
    assert all(getattr(plain, name).all() for name in ("ids", "within", "ordinal"))
    answer = Answer(torch.ones(1, 2), torch.zeros(1, 2, 1, dtype=torch.int64))
    assert (ablate.generated(answer).source == -1).all() and ablate.generated(answer).ids is answer.ids


def test_a_task_that_is_not_there_is_named(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "--data-dir", tmp_path, "--measure", "nonsense=x") == 2
    assert "nonsense" in capsys.readouterr().err


def test_swapped_is_somebody_else():
    lives = [people.Life([name], [None], [people.Asked(f"Who is {name}?", (name,), (1,), "direct")]) for name in "abc"]
    for own, other in zip(lives, ablate.swapped(lives)):
        assert other.lines != own.lines and [q.text for q in other.asked] == [q.text for q in own.asked]
        assert other.asked[0].evidence == ()
