"""
Training that is interrupted, or goes wrong, or is told to do something else half-way: nothing is lost, and what was
asked for is done.
"""
import importlib
import json
import os
import re
import shlex
import signal
import sys
import types

import pytest
import torch

from nanochat import dataloader, dataset
from nanochat.checkpoint_manager import load_checkpoint
from nanochat.common import UserError, repo_root, run_main, stage_file
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import MuonAdamW
from nanochat.tbptt import Run
from scripts import base_train
from scripts.base_train import Plan, build_parser, main
from tests.test_base_train import TINY, data  # noqa: F401  the fixture


@pytest.fixture
def train(data):  # noqa: F811
    """Runs base_train in a directory of its own; returns the rows of its metrics.jsonl, of one kind or of all."""
    def run(*more, tag="t", kind=None):
        assert main([*TINY, "--eval-every", "100", "--eval-questions", "1", "--data-dir", str(data / "data"), "--tag",
                     tag, *more]) == 0
        rows = ([json.loads(line)
                 for line in (data / "base_checkpoints" / tag / "metrics.jsonl").read_text().splitlines()])
        return [row for row in rows if kind in (None, row["kind"])]
    run.directory = data / "base_checkpoints"
    return run


def saved(directory):
    return sorted(int(path.name[5:11]) for path in directory.glob("meta_*.json"))


def test_sigterm_saves_and_ends_with_zero(train, monkeypatch, capsys):
    update, before = Run.update, signal.getsignal(signal.SIGTERM)

    def interrupted(self, multiplier):
        update(self, multiplier)
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "update", interrupted)
    assert len(train("--num-iterations", "4", kind="step")) == 2 and saved(train.directory / "t") == [2]
    assert "SIGTERM: saved at step 2" in capsys.readouterr().err and signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    os.environ["NANOCHAT_BASE_DIR"] = str(train.directory.parent)
    rows = train("--num-iterations", "4", "--resume", "latest", kind="step")
    whole = train("--num-iterations", "4", tag="whole", kind="step")
    names = ("step", "total", "norm", "lr")
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in whole]
    train("--num-iterations", "4", "--resume", "latest")
    assert "nothing is left to do" in capsys.readouterr().err


def test_ctrl_c_saves_and_ends_with_zero(train, monkeypatch, capfd):
    update, before = Run.update, signal.getsignal(signal.SIGINT)

    def interrupted(self, multiplier):
        update(self, multiplier)
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "update", interrupted)
    assert len(train("--num-iterations", "4", kind="step")) == 2 and saved(train.directory / "t") == [2]
    err = capfd.readouterr().err
    assert "SIGINT: this step is finished" in err and "SIGINT: saved at step 2" in err
    assert signal.getsignal(signal.SIGINT) is before
    assert [row["step"] for row in train("--num-iterations", "4", "--resume", "latest", kind="step")] == [1, 2, 3, 4]


def test_a_second_ctrl_c_ends_at_once(train, monkeypatch):
    update, before = Run.update, signal.getsignal(signal.SIGINT)

    def interrupted(self, multiplier):
        for _ in range(2 if self.steps == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        update(self, multiplier)

    monkeypatch.setattr(Run, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("--num-iterations", "4")
    assert not saved(train.directory / "t") and signal.getsignal(signal.SIGINT) is before


def test_compilation_takes_nothing_of_the_time_budget(train, monkeypatch):
    now, last, losses = [0.0], [None], Run.losses

    def timed(self):   # the first step of a process takes 100 s, further ones 10
        now[0] += 100 if last[0] is not self else 10
        last[0] = self
        return losses(self)

    monkeypatch.setattr(Run, "losses", timed)
    monkeypatch.setattr(base_train, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    rows = train("--time-budget", "30", kind="step")
    assert [row["elapsed"] for row in rows] == [0, 10, 20, 30]
    assert [row["lr"] for row in rows[:3]] == pytest.approx([0.1, 0.1, 1])
    rows = train("--time-budget", "45", "--resume", "latest", kind="step")[4:]
    assert [row["elapsed"] for row in rows] == [30, 40, 50]


def test_the_first_update_is_not_lost_to_the_warmup(train, monkeypatch):
    rates = lambda *more, tag: [row["lr"] for row in train("--num-iterations", "4", *more, tag=tag, kind="step")]
    assert rates(tag="half") == pytest.approx([1, 1, 0.755, 0.265])
    falling = rates("--warmdown", "1.0", tag="falling")
    assert falling == sorted(falling, reverse=True) and 0.8 < falling[0] < 0.9 and 0.1 < falling[3] < 0.2
    # a long run: 1 % of 1,000 updates, the first of them at more than a tenth
    update, steps = Run.update, []

    def counted(self, multiplier):
        update(self, multiplier)
        steps.append(multiplier)
        if len(steps) == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "update", counted)
    train("--num-iterations", "1000", tag="long")
    assert steps == pytest.approx([0.1 + 0.9 * (i + 0.5) / 10 for i in range(10)] + [1, 1])


def test_a_loss_that_is_not_finite_is_saved_to_be_looked_at(train, capsys):
    with pytest.raises(UserError, match="not finite at step 0 .*replays this very step"):
        train("--num-iterations", "2", "--text-loss-weight", "1e39")
    assert saved(train.directory / "t") == [0]
    rows = train("--num-iterations", "2", "--resume", "latest")
    assert [row["kind"] for row in rows] == ["config", "error", "config", "step", "step", "eval"]
    fresh = train("--num-iterations", "2", tag="fresh", kind="step")
    # the same data, the same draws
    assert [row["total"] for row in rows if row["kind"] == "step"] == [row["total"] for row in fresh]


def test_a_damaged_shard_ends_the_run_and_loses_nothing(train, monkeypatch):
    whole = train("--num-iterations", "3", tag="whole", kind="step")
    def damaged(tokenizer, text):
        raise dataset.ShardError("lives.parquet row 3: no text in it")

    losses = Run.losses

    def later(self):
        if self.steps == 1:
            monkeypatch.setattr(dataloader, "document_tokens", damaged)
            while True:   # what was read ahead is used up first
                next(self.loader)
        return losses(self)

    monkeypatch.setattr(Run, "losses", later)
    with pytest.raises(UserError, match=r"parquet row 3: no text in it: stopped at step 1, and saved"):
        train("--num-iterations", "3")
    monkeypatch.undo()
    os.environ["NANOCHAT_BASE_DIR"] = str(train.directory.parent)
    rows = train("--num-iterations", "3", "--resume", "latest", kind="step")
    assert [row["total"] for row in rows] == [row["total"] for row in whole]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(train, monkeypatch):
    losses = Run.losses
    monkeypatch.setattr(Run, "losses", lambda self: {**losses(self),
                                                     **({"norm": float("nan")} if self.steps == 1 else {})})
    with pytest.raises(UserError, match="not finite at step 1"):
        train("--num-iterations", "3")
    assert all(torch.isfinite(w).all() for w in load_checkpoint(train.directory / "t", 1).model.values())


def test_keep_and_resume_latest(train, capsys):
    train("--num-iterations", "4", "--save-every", "1", "--keep", "2", "--resume", "latest")
    assert "nothing is saved yet" in capsys.readouterr().err and saved(train.directory / "t") == [3, 4]
    assert (sorted(p.name for p in (train.directory / "t").glob("*.pt"))
            == [f"{kind}_{n:06d}.pt" for kind in ("model", "optim", "state") for n in (3, 4)])


@pytest.mark.parametrize("every", ["0", "-1"])
def test_recall_is_measured_at_the_end_only_where_that_is_asked_for(train, every):
    assert [row["kind"] for row in train("--num-iterations", "2", "--eval-every",
                                         every)] == ["config", "step", "step", "eval"]


def test_a_resumed_run_takes_the_rates_it_is_given(train):
    train("--num-iterations", "2")
    train("--num-iterations", "3", "--resume", "2", "--lr-scale", "0")
    two, three = (load_checkpoint(train.directory / "t", step).model for step in (2, 3))
    assert all(torch.equal(two[name], three[name]) for name in two)


def test_a_new_run_leaves_the_steps_of_another_alone(train):
    train("--num-iterations", "3", "--save-every", "1")
    files = sorted((path.name, path.stat().st_mtime_ns) for path in (train.directory / "t").iterdir())
    with pytest.raises(UserError,
                       match="holds a run, saved up to step 3: --resume latest goes on with it, --tag NAME begins "
                             "another") as error:
        train("--num-iterations", "3", "--save-every", "1", "--keep", "1")
    assert error.value.code == 2
    assert files == sorted((path.name, path.stat().st_mtime_ns) for path in (train.directory / "t").iterdir())


def test_another_seed_or_rate_is_said(train, capsys):
    train("--num-iterations", "1")
    train("--num-iterations", "2", "--resume", "latest")
    assert "before:" not in capsys.readouterr().err
    train("--num-iterations", "3", "--resume", "latest", "--seed", "7", "--matrix-lr", "0.5")
    said = [line for line in capsys.readouterr().err.splitlines() if "before:" in line]
    assert said == ["--resume latest: step 2 goes on with --seed 7 (before: 0), --matrix-lr 0.5 (before: 0.01)"]


def test_a_full_disk_is_one_line_and_the_steps_before_stand(train, monkeypatch, capsys):
    train("--num-iterations", "1")
    fsync = os.fsync

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run_main(lambda: train("--num-iterations", "2", "--resume", "latest")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: No space left on device"
    monkeypatch.setattr(os, "fsync", fsync)
    assert saved(train.directory / "t") == [1] and not list((train.directory / "t").glob(".*"))


def test_a_disk_that_is_full_while_torch_writes_is_an_oserror(tmp_path):
    """Not one of torch's own, which would be a traceback."""
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

    with pytest.raises(OSError, match="No space left"):
        stage_file(tmp_path / "m.pt", lambda file: torch.save({"w": torch.zeros(1000)}, Full()))
    assert not list(tmp_path.iterdir())


def test_other_streams_are_dealt_anew(train, capsys):
    train("--num-iterations", "1")
    train("--num-iterations", "2", "--resume", "1", "--device-batch-size", "3")
    assert "trained with 1 ranks, 2 streams, 64 slots, and goes on with 1 ranks, 3 streams" in capsys.readouterr().err


def test_what_a_run_records(train):
    config = train("--num-iterations", "1", kind="config")[0]
    assert {"git_commit", "torch", "python", "cpu", "gpu", "date", "ranks"} <= config["run"].keys()
    assert config["matrix_lr"] == 0.01 and config["config"]["n_layer"] == 4 and config["plan"]["batch"] == 256


def test_wandb_gets_what_metrics_get(train, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=calls.append, finish=lambda exit_code: calls.append(exit_code))
    fake = types.SimpleNamespace(init=lambda **kw: calls.append(kw) or run,
                                 errors=types.SimpleNamespace(Error=RuntimeError))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    rows = train("--num-iterations", "2", "--wandb-project", "p", "--run-name", "n")
    assert calls[0]["project"] == "p" and calls[0]["name"] == "n" and calls[0]["config"]["depth"] == 4
    assert calls[-1] == 0
    assert [{"kind": row["kind"], **call} for row, call in zip(rows[1:], calls[1:-1], strict=True)] == rows[1:]
    fake.init = lambda **kw: (_ for _ in ()).throw(RuntimeError("api_key not configured"))
    with pytest.raises(UserError, match="wandb login, or WANDB_MODE=offline"):
        train("--num-iterations", "2", "--wandb-project", "p", tag="refused")


@pytest.mark.slow
def test_wandb_offline(train, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train("--num-iterations", "1", "--wandb-project", "p")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_batch_without_targets_gives_no_nan():
    model = GPT(GPTConfig(vocab_size=64, n_layer=1, n_head=2, n_kv_head=2, n_embd=32))
    model.init_weights()
    loss = model(torch.zeros(2, 16, dtype=torch.long), torch.full((2, 16), -1))
    loss.backward()
    assert loss.item() == 0 and all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kind, settings", [("adamw", {}), ("muon", {})])
def test_one_huge_gradient_moves_no_weight_far(kind, settings):
    """Why gradients are not clipped: a spike moves a weight by no more than an ordinary step does."""
    moved = {}
    for size in (1.0, 1e6):
        p = torch.nn.Parameter(torch.zeros(16, 16))
        optimizer = MuonAdamW([dict(kind=kind, params=[p], lr=0.1, **settings)])
        for step in range(30):
            torch.manual_seed(step)
            p.grad = torch.randn(16, 16) * (size if step == 29 else 1.0)
            before = p.detach().clone()
            optimizer.step()
        moved[size] = (p.detach() - before).abs().max().item()
    assert moved[1e6] < 0.1 * 1.02 and moved[1e6] < 3 * moved[1.0]


def test_the_commands_of_the_guides_are_commands():
    text = "".join((repo_root() / name).read_text(encoding="utf-8") for name in ("CLOUD_SETUP.md", "README.md"))
    found = re.findall(r"^(?:python|torchrun .*?|echo .*? \| python) -m "
                       r"(scripts\.(?:base_train|ingest|query|memory_eval|memory|serve)) (--.*)$", text, re.MULTILINE)
    assert {script for script, _ in found} >= {"scripts.base_train", "scripts.ingest", "scripts.query",
                                               "scripts.memory_eval", "scripts.serve"}
    assert len(found) >= 12
    for script, line in found:
        args = importlib.import_module(script).build_parser().parse_args(shlex.split(line, comments=True))
        if script == "scripts.base_train":
            Plan.of(args, 27_000_000, 1)


def plan(*argv, parameters=27_000_000, ranks=1):
    return Plan.of(build_parser().parse_args([*argv]), parameters, ranks)


def test_the_plan_follows_size_and_flags():
    assert plan() == (8192, 1, 65918, 1.0, 0.0)
    first = plan("--depth", "8", "--total-batch-size", "524288", "--device-batch-size", "64", ranks=4)
    assert first.windows == 2 and first.steps == 1030   # the command of the README saves step 1000
    assert plan("--num-iterations", "7").steps == 7 and plan("--time-budget", "60").steps == -1
    assert plan("--tokens-per-parameter", "1").steps == 3296
    auto = plan("--total-batch-size", "auto", ranks=8)
    assert auto.batch == 2 ** 18 * 2 and auto.windows == 8
    big = plan("--total-batch-size", "2097152")
    assert big.lr_scale == 2 and plan("--total-batch-size", "2097152", "--lr-scale", "1").lr_scale == 1
    assert plan("--weight-decay", "0.1").weight_decay == 0.1 and 0 < plan("--weight-decay", "auto").weight_decay < 0.28


@pytest.mark.parametrize("argv, message", [(["--total-batch-size", "100"], "multiple"),
                                           (["--max-seq-len", "24"], "multiple of 16"),
                                           (["--tbptt-segments", "0"], "at least 1"),
                                           (["--weight-decay", "auto", "--time-budget", "9"], "number of steps"),
                                           (["--num-iterations", "0"], "above 0"), (["--time-budget", "0"], "above 0")])
def test_plans_that_contradict_themselves(argv, message):
    with pytest.raises(UserError, match=message):
        plan(*argv)
