"""Many users over one directory of states: each gets answers from their own memory, in order, from weights that are there once."""
import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nanochat import engine
from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import UserError
from nanochat.live_memory import LiveMemory
from nanochat.tokenizer import Tokenizer
from scripts import ingest, serve
from tests.conftest import tiny

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "Where was the user at t=7?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of a tiny random model that copies."""
    directory, tokenizer = tmp_path_factory.mktemp("model"), Tokenizer.load()
    model = tiny(tokenizer, n_head=1)
    save_checkpoint(directory, 1, model.state_dict(), None, {"config": model.describe(), "tokenizer": tokenizer.fingerprint})
    return str(directory)


@pytest.fixture
def states(tmp_path, model):
    for user, place in (("alice", "Oslo"), ("bob", "Quito")):
        remember(tmp_path, model, user, f"t=7: The user was in {place}, felt calm, and preferred tea.\n")
    return tmp_path / "states"


def remember(tmp_path, model, user, text):
    (tmp_path / f"{user}.txt").write_text(text)
    assert ingest.main(["--model-path", model, "--data-path", str(tmp_path / f"{user}.txt"), "--state-dir", str(tmp_path / "states"), "--user", user, "--dtype", "fp32", "--replace", "--no-export"]) == 0


def flags(model, states, *more):
    return ["--model-path", model, "--state-dir", str(states), "--max-tokens", "5", "--dtype", "fp32", *more]


def test_two_processes_answer_for_two_users(model, states):
    asked = [{"user": user, "question": QUESTION, "id": i} for i in range(3) for user in ("alice", "bob")]
    lines = [*map(json.dumps, asked), "nonsense", '{"user": "alice"}', "", json.dumps({"user": "carol", "question": "Where?"}), '{"user": "../bob", "question": "Where?"}']
    done = subprocess.run([sys.executable, "-m", "scripts.serve", *flags(model, states, "--workers", "2")], input="\n".join(lines) + "\n",
                          capture_output=True, text=True, cwd=ROOT, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(got) == 10
    frozen, tokenizer, facts = engine.load_model(model, dtype="fp32")
    for user in ("alice", "bob"):
        mine = [item for item in got if item.get("user") == user and "answer" in item]
        alone = LiveMemory((frozen, tokenizer, facts), states / f"{user}.pt", read_only=True, max_tokens=5).ask(QUESTION)
        assert [item["id"] for item in mine] == [0, 1, 2] and {item["answer"] for item in mine} == {alone.text}
        assert all(item["episodes"][0]["source"].startswith(f"{user}.txt") and {"alice": "Oslo", "bob": "Quito"}[user] in item["episodes"][0]["text"] for item in mine)
    errors = [item["error"] for item in got if "error" in item]
    assert len(errors) == 4 and all("\n" not in error for error in errors)
    assert any("no such state file" in error for error in errors) and any("line 7: not JSON" in error for error in errors)


def test_a_worker_sees_what_has_changed_and_closes_what_is_old(model, states, tmp_path):
    args = serve.build_parser().parse_args(flags(model, states, "--open-states", "1"))
    worker = serve.Worker(engine.load_model(model, dtype="fp32"), args, threads=1)
    read = lambda user: worker.answer(user, QUESTION)["episodes"][0]["text"]
    assert "Oslo" in read("alice") and "Quito" in read("bob") and len(worker.open) == 1
    held = next(iter(worker.open.values()))
    assert "Quito" in read("bob") and next(iter(worker.open.values())) is held   # not loaded again
    remember(tmp_path, model, "bob", "t=7: The user was in Lima, felt calm, and preferred tea.\n")
    assert "Lima" in read("bob") and "Oslo" in read("alice")


class Pool(ThreadPoolExecutor):
    """Of threads, that takes what a pool of processes does."""
    def submit(self, work, *args):
        return super().submit(work, *pickle.loads(pickle.dumps(args)))


def test_what_one_user_sends_or_has_stops_nobody_else(model, states, monkeypatch):
    """Half a surrogate pair, lists too deep for a pipe between processes, nan, a state that can't be read: an error in the line of that question."""
    serve.start(engine.load_model(model, dtype="fp32"), serve.build_parser().parse_args(flags(model, states)), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loaded = serve.Worker.memory
    monkeypatch.setattr(serve.Worker, "memory", lambda self, path: loaded(self, path) if path.stem == "alice" else os.open(path / "in a file", os.O_RDONLY))
    deep = "[" * 700 + "]" * 700
    good = f'{{"user": "alice", "question": "{QUESTION}", "id": {deep}}}'
    lines = ['{"user": "\\ud800", "question": "Where?"}', '{"user": "alice", "question": "\\ud800 where?"}', '{"user": "alice", "question": "Where?", "id": NaN}',
             '{"user": "bob", "question": "Where?"}', '{"user": "alice", "question": "' + "y " * 500_000 + '"}', '{"user": "alice", "question": "\\u001b[2J <|end|> \\u0000"}', good]
    said = []
    with Pool(1) as pool:
        serve.serve([line.encode() + b"\n" for line in lines] + [b"\xff\n"], [pool], said.append)
    errors = [item.get("error", "") for item in said]
    assert [("line 1", "line 2", "line 3", "line 8")[i] in error for i, error in enumerate(e for e in errors if e.startswith("line "))] == [True] * 4
    assert sum("Not a directory" in error for error in errors) == 1 and sum("a question of" in error for error in errors) == 1
    answered = [item for item in said if "answer" in item]
    assert len(said) == 8 and len(answered) == 2 and answered[1]["id"] == json.loads(deep) and "Oslo" in answered[1]["episodes"][0]["text"]


def write(w):
    w.data[0, 0] = 42


def test_the_weights_are_mapped_not_copied():
    """What one process writes into the shared weights, another one reads: they are the same memory. (Workers never write.)"""
    model = torch.nn.Linear(4, 4).requires_grad_(False).share_memory()
    process = torch.multiprocessing.get_context("spawn").Process(target=write, args=(model.weight,))
    process.start()
    process.join()
    assert process.exitcode == 0 and model.weight[0, 0] == 42


def test_no_directory(model, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        serve.main(flags(model, tmp_path / "none"))
