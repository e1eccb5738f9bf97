"""Many users over one directory of states: each gets answers from their own memory, in order, from weights that are there once."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.common import UserError
from scripts import ingest, serve

ROOT = Path(__file__).resolve().parent.parent
MODEL = "data/then-d4"


@pytest.fixture
def states(tmp_path):
    for user, place in (("alice", "Oslo"), ("bob", "Quito")):
        remember(tmp_path, user, f"t=7: The user was in {place}, felt calm, and preferred tea.\n")
    return tmp_path / "states"


def remember(tmp_path, user, text):
    (tmp_path / f"{user}.txt").write_text(text)
    assert ingest.main(["--model-path", MODEL, "--data-path", str(tmp_path / f"{user}.txt"), "--state-dir", str(tmp_path / "states"), "--user", user]) == 0


def test_two_processes_answer_for_two_users(states):
    asked = [{"user": user, "question": "Where was the user at t=7?", "id": i} for i in range(3) for user in ("alice", "bob")]
    lines = [*map(json.dumps, asked), "nonsense", '{"user": "alice"}', "", json.dumps({"user": "carol", "question": "Where?"}), '{"user": "../bob", "question": "Where?"}']
    done = subprocess.run([sys.executable, "-m", "scripts.serve", "--model-path", MODEL, "--state-dir", str(states), "--workers", "2"], input="\n".join(lines) + "\n",
                          capture_output=True, text=True, cwd=ROOT, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(got) == 10
    for user, place in (("alice", "Oslo"), ("bob", "Quito")):
        mine = [item for item in got if item.get("user") == user and "answer" in item]
        assert [item["id"] for item in mine] == [0, 1, 2] and {item["answer"] for item in mine} == {place}
        assert mine[0]["episodes"][0]["source"] == f"{user}.txt:1"
    errors = [item["error"] for item in got if "error" in item]
    assert len(errors) == 4 and all("\n" not in error for error in errors)
    assert any("no such state file" in error for error in errors) and any("line 7: not JSON" in error for error in errors)


def test_a_worker_sees_what_has_changed_and_closes_what_is_old(states, tmp_path):
    from nanochat import engine
    model, _, facts = engine.load_model(MODEL)
    args = serve.build_parser().parse_args(["--model-path", MODEL, "--state-dir", str(states), "--open-states", "1"])
    worker = serve.Worker(model, facts, args, threads=1)
    ask = lambda user: worker.answer({"user": user, "question": "Where was the user at t=7?"})["answer"]
    assert ask("alice") == "Oslo" and ask("bob") == "Quito" and len(worker.open) == 1
    held = next(iter(worker.open.values()))
    assert ask("bob") == "Quito" and next(iter(worker.open.values())) is held   # not loaded again
    remember(tmp_path, "bob", "t=7: The user was in Lima, felt calm, and preferred tea.\n")
    assert ask("bob") == "Lima" and ask("alice") == "Oslo"



def write(w):
    w.data[0, 0] = 42


def test_the_weights_are_mapped_not_copied():
    """What one process writes into the shared weights, another one reads: they are the same memory. (Workers never write.)"""
    model = torch.nn.Linear(4, 4).requires_grad_(False)
    model.share_memory()
    process = torch.multiprocessing.get_context("spawn").Process(target=write, args=(model.weight,))
    process.start()
    process.join()
    assert process.exitcode == 0 and model.weight[0, 0] == 42


def test_no_directory(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        serve.main(["--model-path", MODEL, "--state-dir", str(tmp_path / "none")])
