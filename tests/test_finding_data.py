"""nanochat/finding_data.py and dev/find.py: what finding is learned from, and that it learns."""
import copy
import json
import random

import pytest
import torch

from dev import find
from nanochat import finding_data, reading_data
from nanochat.checkpoint_manager import load_model_file
from nanochat.common import UserError
from nanochat.engine import lexicon, load_model

ROOT_MODEL = "data/then-d6"
THINGS = ["harbour", "lantern", "walnut", "violin", "saddle", "kettle", "anchor", "ladder"]


@pytest.fixture(scope="module")
def loaded():
    return load_model(ROOT_MODEL, "cpu", "fp32")


def memories(first, count):
    return [{"src": "made", "sents": [f"The {thing} of number {first + i} stands by the door." for thing in THINGS],
             "qas": [{"q": f"Where is the {thing} of number {first + i}?", "a": "by the door",
                      "evidence": [at]} for at, thing in enumerate(THINGS)]} for i in range(count)]


def hunting(loaded, tmp_path, **sizes):
    model, tokenizer, _ = loaded
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(map(json.dumps, memories(0, 12))))
    sources = reading_data.load([path], lexicon(model, tokenizer))
    return finding_data.Hunting(reading_data.Asked(sources, tokenizer), tokenizer, **sizes)


def test_a_hunt_knows_which_line_answers_and_scores_as_each_question_alone(loaded, tmp_path):
    model, tokenizer, _ = loaded
    hunt = hunting(loaded, tmp_path, lines=(24,), questions=6)(random.Random(0))
    rows = sorted(row for rows, _ in hunt.grids for row in rows.tolist())
    assert rows == list(range(len(hunt.said[0].length))) and len(rows) >= 24 and len(hunt.evidence) == 6
    with torch.no_grad():
        scores = finding_data.ranked(model, hunt)
    assert scores.shape == (6, len(rows))
    assert [int(row.argmax()) for row in scores] == [evidence[0] for evidence in hunt.evidence]   # BM25 is enough here
    want = sum(torch.log_softmax(row, 0)[e[0]] for row, e in zip(scores, hunt.evidence)) / -6
    torch.testing.assert_close(finding_data.loss(model, hunt).detach(), want)


def test_it_learns_and_the_rest_stays_as_it_was(loaded, tmp_path, capsys):
    for name, first in (("train", 0), ("measure", 50)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, memories(first, 6))))
    argv = ["--model-path", ROOT_MODEL, "--minutes", "0.02", "--number", "10"]
    assert find.main([*argv, "--train", str(tmp_path / "train.jsonl"), "--measure",
                      str(tmp_path / "measure.jsonl")]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:4] for row in rows] == [["made", when, "10", "48"] for when in ("before", "after")]
    assert all(0 <= float(x) <= 100 for row in rows for x in row[4:])
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"sentence": f"The {thing} fell.", "question": f"which {thing}"})
                               for thing in THINGS))
    assert find.main([*argv, "--train", str(tmp_path / "train.jsonl"), "--pairs", str(pairs), "--output-path",
                      str(tmp_path / "out")]) == 0
    shipped, saved = load_model(tmp_path / "out", "cpu", "fp32")[0], load_model_file(tmp_path / "out")
    assert shipped.finder.weight.weight.any() and not capsys.readouterr().out
    args = saved["meta"]["finding"]["args"]
    assert args["train"] == ["train.jsonl"] and args["pairs"] == ["pairs.jsonl"] and saved["verified"]
    model, tokenizer, _ = load_model(ROOT_MODEL, "cpu", "fp32")
    before = {name: p.clone() for name, p in model.named_parameters()}
    find.train(model, hunting(loaded, tmp_path).asked, tokenizer, 0.03, 2e-3, 0)
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"finder"}


def test_a_pair_is_a_line_and_a_question_that_finds_it(loaded, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"sentence": "The kettle fell.", "question": "which kettle"}\n{"sentence": "The anchor"}\n')
    with pytest.raises(UserError, match=r"pairs.jsonl, line 2: .*question"):
        reading_data.load([path], lexicon(*loaded[:2]), item_of=find.pair)
    path.write_text(path.read_text().splitlines()[0])
    (memory,), = reading_data.load([path], lexicon(*loaded[:2]), item_of=find.pair).values()
    assert [line.text for line in memory.lines] == ["The kettle fell."]
    assert [(q.forms[0].text, q.evidence) for q in memory.questions] == [("which kettle", [0])]


def test_a_model_frozen_in_bf16_learns_to_find_in_fp32(loaded, tmp_path):
    model, tokenizer = copy.deepcopy(loaded[0]).freeze(torch.bfloat16), loaded[1]
    learned = find.train(model, hunting(loaded, tmp_path).asked, tokenizer, 0.01, 2e-3, 0)
    assert learned and all(weight.dtype == torch.float32 for weight in learned.values())


def test_the_loss_of_finding_reaches_the_gists(loaded, tmp_path):
    model, tokenizer = copy.deepcopy(loaded[0]).requires_grad_(True), loaded[1]
    finding_data.loss(model, hunting(loaded, tmp_path)(random.Random(0))).backward()
    gists = {name: p.grad for name, p in model.named_parameters() if name.startswith("gist_")}
    assert gists and all(grad is not None and grad.any() for grad in gists.values())
