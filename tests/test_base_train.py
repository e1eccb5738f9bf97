"""
Pretraining: resume is bit-identical, large models are built without memory, what cannot be done is refused in one line.
"""
import json
import random
import sys

import pytest
import torch

from nanochat import distributed
from nanochat.checkpoint_manager import load_checkpoint
from nanochat.common import UserError, run_main
from nanochat.dataset import write_shards
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig, config_from_depth
from scripts.base_train import main

TINY = ["--device-batch-size", "2", "--max-seq-len", "64", "--train-memory", "24", "--eval-every", "4",
        "--eval-questions", "2", "--window-tokens", "512", "--dtype", "fp32",
        "--set", "n_embd=32", "--set", "n_head=2", "--set", "n_kv_head=2", "--set", "gist_dim=16", "--set",
        "index_dim=8"]


def life(r):
    """Lines of somebody's life, and what is asked of each."""
    things = r.sample(["jug", "barrel", "lamp", "ladder", "drum", "chest", "bench", "kettle", "mirror", "anchor"], 10)
    rooms = [f"{r.choice(['red', 'blue', 'old', 'long'])} {r.choice(['room', 'hall', 'shed', 'attic'])}"
             for _ in things]
    return [(f"The {thing} is in the {room}.", f"Where is the {thing}?", f"the {room}")
            for thing, room in zip(things, rooms)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    r = random.Random(4)
    told = [life(r) for _ in range(12)]
    documents, memories = [], []
    for lines in told:
        documents.append("\n".join(line for line, _, _ in lines))
        memories.append({"src": "rooms", "sents": [line for line, _, _ in lines],
                         "qas": [{"q": q, "a": a, "evidence": [i]} for i, (_, q, a) in enumerate(lines)]})
    write_shards(documents, tmp_path / "data", 8)
    (tmp_path / "data/rooms.jsonl").write_text("".join(json.dumps(memory) + "\n" for memory in memories))
    return tmp_path


def flat(value, where=""):
    """(path, leaf) of a nest of dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        return [(where, value)]
    return [leaf for k, v in items for leaf in flat(v, f"{where}/{k}")]


@pytest.mark.parametrize("mixer", ["swa", "kda"])
def test_ten_steps_are_five_and_five(data, mixer):
    run = lambda tag, *more: main([*TINY, "--data-dir", str(data / "data"), "--write-mixer", mixer, "--num-iterations",
                                   "10", "--save-every", "5", "--tag", tag, *more])
    assert run("whole") == 0
    directory = data / "base_checkpoints"
    (directory / "half").mkdir()
    for name in ("model_000005.pt", "optim_000005.pt", "state_000005.pt", "meta_000005.json"):
        (directory / "half" / name).write_bytes((directory / "whole" / name).read_bytes())
    torch.manual_seed(99)   # the run must not depend on what was drawn before
    assert run("half", "--resume-from-step", "5") == 0
    whole, half = (load_checkpoint(directory / tag, 10) for tag in ("whole", "half"))
    for part in ("model", "optimizer", "train_state"):
        a, b = (dict(flat(getattr(x, part))) for x in (whole, half))
        a.pop("/seconds", None), b.pop("/seconds", None)
        assert a.keys() == b.keys()
        differ = [k for k in a if not (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k])]
        assert not differ, (part, differ[:3])
    # the ring is full: old memory was carried over the resume
    assert whole.train_state["state"]["traces"]["ids"].shape[1] == 24


def test_metrics_and_output(data, capsys):
    assert main([*TINY, "--data-dir", str(data / "data"), "--num-iterations", "4", "--tag", "t"]) == 0
    out, err = capsys.readouterr()
    assert out.count("step 0") == 4 and "right" in out and "with nothing found" in out
    assert all(word in err for word in ("device:", "dtype:", "attention: Using", "reading head", "torch.compile: off"))
    lines = [json.loads(line) for line in (data / "base_checkpoints/t/metrics.jsonl").read_text().splitlines()]
    steps = [x for x in lines if x["kind"] == "step"]
    assert len(steps) == 4 and all({"text", "read", "begin", "gate", "index", "total"} <= x.keys() for x in steps)
    assert lines[0]["kind"] == "config" and "git_commit" in lines[0]["run"]


def test_a_run_begins_with_given_weights(data, capsys):
    train = lambda *more: main([*TINY, "--data-dir", str(data / "data"), "--num-iterations", "1", *more])
    first = str(data / "base_checkpoints/first")
    assert train("--tag", "first") == 0
    assert train("--tag", "second", "--init-from", first, "--lr-scale", "0", "--seed", "5") == 0
    a, b = (load_checkpoint(data / "base_checkpoints" / tag, 1).model for tag in ("first", "second"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    # of a model from before there were convolutions; they are zero at first
    assert train("--tag", "grown", "--init-from", first, "--lr-scale", "0", "--set", "nearby=3") == 0
    assert "new ones" in capsys.readouterr().err
    grown = load_checkpoint(data / "base_checkpoints/grown", 1).model
    assert all(torch.equal(a[name], grown[name]) for name in a) and not grown["reader.nearby.0"].any()
    with pytest.raises(UserError, match="--init-from .* is of another model configuration"):
        train("--tag", "third", "--init-from", first, "--set", "gist_dim=8")
    with pytest.raises(UserError, match="nowhere: no such model file"):
        train("--tag", "third", "--init-from", "nowhere")


def test_a_run_of_another_version_of_the_code_is_not_resumed(data, monkeypatch):
    train = lambda *more: main([*TINY, "--data-dir", str(data / "data"), "--tag", "older", *more])
    assert train("--num-iterations", "1") == 0
    empty_state = THENGPT.empty_state
    monkeypatch.setattr(THENGPT, "empty_state", lambda *args: {**empty_state(*args), "later": torch.zeros(1)})
    with pytest.raises(UserError, match="state of another version of this code"):
        train("--num-iterations", "2", "--resume-from-step", "1")


def test_a_checkpoint_from_before_a_field_goes_on(data, monkeypatch):
    describe = THENGPT.describe

    def before(model):
        told = describe(model)
        del told["config"]["family"], told["config"]["tied"]
        return told

    train = lambda *more: main([*TINY, "--data-dir", str(data / "data"), "--tag", "b", *more])
    with monkeypatch.context() as patch:
        patch.setattr(THENGPT, "describe", before)
        assert train("--num-iterations", "1") == 0
    with pytest.raises(UserError, match="another model configuration"):
        train("--num-iterations", "2", "--resume-from-step", "1", "--set", "gist_dim=8")
    assert train("--num-iterations", "2", "--resume-from-step", "1") == 0


def test_plain_gpt_trains(data, capsys):
    assert main(["--model-class", "GPT", "--device-batch-size", "2", "--max-seq-len", "64", "--num-iterations", "3",
                 "--depth", "2", "--set", "n_embd=32",
                 "--set", "n_head=2", "--set", "n_kv_head=1", "--data-dir", str(data / "data"), "--tag", "g"]) == 0
    assert "loss text" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run(data):
    with pytest.raises(UserError, match="not finite at step"):
        main([*TINY, "--data-dir", str(data / "data"), "--num-iterations", "4", "--embedding-lr", "1e38", "--tag", "n"])
    assert not list((data / "base_checkpoints/n").glob("model_*"))


@pytest.mark.parametrize("flags, message", [
    (["--fp8"], "fp8"), (["--total-batch-size", "1000"], "multiple"), (["--max-seq-len", "40"], "multiple of 16"),
    (["--set", "nonsense=1"], "nonsense"),
    (["--set", "novalue"], "FIELD=VALUE"), (["--data-dir", "nowhere"], "no \\*.parquet"),
    (["--resume-from-step", "3"], "3"), (["--attn", "fa3"], "fa3"),
    (["--dry-run", "--write-mixer", "kda"], "KDA")])
def test_refused_in_one_line(data, flags, message):
    base = {"--data-dir": str(data / "data"), "--tag": "r", "--device": "cpu"}
    argv = [x for pair in base.items() if pair[0] not in flags for x in pair]
    with pytest.raises(UserError, match=message) as error:
        main([*TINY, *argv, *flags])
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize("line", [
    "--warmdown 7", "--warmdown -0.1", "--warmdown nan", "--matrix-lr nan", "--embedding-lr inf", "--scalar-lr -1",
    "--lr-scale nan", "--weight-decay -1", "--depth 0", "--num-iterations -5", "--num-iterations 0",
    "--time-budget nan",
    "--time-budget -5", "--time-budget inf", "--keep 0", "--keep -3", "--train-memory -5", "--save-every -4",
    "--max-seq-len 24", "--device-batch-size 0", "--total-batch-size 0", "--tokens-per-parameter 0", "--resume -1",
    "--text-loss-weight nan", "--mfu 2", "--seed 99999999999999999999", "--weight-decay auto --time-budget 9",
    "--share grammar=25", "--share grammar=lots", "--share sgd=-0.1"])
def test_nonsense_is_refused_before_anything_is_set_up(line, data, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "start", lambda device: pytest.fail("something was set up"))
    assert run_main(lambda: main(["--data-dir", str(data / "data"), *line.split()])) == 2
    err = capsys.readouterr().err
    flag, value = line.split()[:2]
    assert err.startswith(f"error: {flag} {value.split('.')[0]}") and err.count("\n") == 1
    assert not (data / "base_checkpoints").exists()


def test_wandb_only_when_asked(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)   # importing it fails
    with pytest.raises(UserError, match="pip install wandb"):
        main([*TINY, "--data-dir", str(data / "data"), "--wandb-project", "p", "--tag", "w"])
    assert main([*TINY, "--data-dir", str(data / "data"), "--num-iterations", "1", "--tag", "w"]) == 0


def test_large_models_cost_nothing_on_meta():
    with torch.device("meta"):
        model = THENGPT(config_from_depth("THENGPT", 32))
    assert sum(p.numel() for p in model.parameters()) > 1e9


@pytest.mark.parametrize("cls, config", [(GPT, GPTConfig(vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)),
                                         *[(THENGPT, THENConfig(vocab_size=64, n_layer=4, n_head=2, n_kv_head=2,
                                                                n_embd=32, write_mixer=m)) for m in ("swa", "kda")]])
def test_init_weights_reaches_every_weight(cls, config):
    with torch.device("meta"):
        model = cls(config)
    model.to_empty(device="cpu")
    for p in model.parameters():
        torch.nn.init.constant_(p, float("nan"))
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compute_dtypes(dtype):
    model = THENGPT(THENConfig(vocab_size=64, n_layer=4, n_head=2, n_kv_head=2, n_embd=32, n_ordinary=60, bos_id=60,
                               pad_id=61))
    model.init_weights()
    model.dtype = dtype
    idx = torch.randint(0, 60, (2, 64))
    idx[:, ::32] = 60
    loss, state = model(idx, torch.where(idx < 60, idx, -1))
    loss.backward()
    assert torch.isfinite(loss) and state["traces"].gist.dtype == dtype
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_answers_and_no_targets_give_no_nan():
    model = THENGPT(THENConfig(vocab_size=64, n_layer=4, n_head=2, n_kv_head=2, n_embd=32, n_ordinary=60, bos_id=60,
                               pad_id=61))
    model.init_weights()
    idx = torch.full((2, 32), 61)
    loss, state = model(idx, torch.full_like(idx, -1))
    loss.backward()
    assert loss.item() == 0 and int(state["traces"].valid.sum()) == 0
