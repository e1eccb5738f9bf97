"""nanochat/checkpoint_manager.py: what is saved comes back to the bit, and nothing damaged is ever loaded."""

import json
import os
import random
import re

import numpy
import pytest
import torch
from hypothesis import given, settings, strategies

from nanochat import checkpoint_manager as cm
from nanochat.common import UserError, base_dir
from nanochat.optim import MuonAdamW
from scripts.export_model import check_output
from tests.test_memory import die_at, in_child

META = {"config": {"n_layer": 4, "ratio": 3}, "tokenizer": "f00d", "model_class": "THENGPT", "loss": 2.5, "note": None}
FILES = ["meta_000500.json", "model_000500.pt", "optim_000500.pt", "state_000500.pt"]


def make_run():
    """A stepped model with its optimizer."""
    model = torch.nn.Sequential(torch.nn.Embedding(20, 8), torch.nn.Linear(8, 20))
    optimizer = MuonAdamW(
        [
            {"kind": "muon", "params": [model[1].weight], "lr": 0.02},
            {"kind": "adamw", "params": [model[0].weight, model[1].bias], "lr": 0.01},
        ]
    )
    model(torch.arange(20)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def make_train_state():
    return {
        "memory": {"traces": [torch.randn(2, 3), torch.randn(0, 3).bfloat16()], "buffer": None,
                   "open": (1, -2.5, True)},
        "data": {"shard": "shard_0001", "row": 2**40, 7: torch.bfloat16, "ids": torch.arange(5, dtype=torch.int16)},
        "rng": cm.rng_state(),
    }


def save(directory, step=500, **kwargs):
    model, optimizer = make_run()
    content = dict(model_state=model.state_dict(), optimizer_state=optimizer.state_dict(), meta=META,
                   train_state=make_train_state())
    content.update(kwargs)
    cm.save_checkpoint(directory, step, **content)
    return content


def same(a, b):
    """Equal to the bit, and of the same types, all the way down."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def names(directory):
    return sorted(p.name for p in directory.iterdir())


# -----------------------------------------------------------------------------


def test_round_trip_is_bit_identical(tmp_path):
    saved = save(tmp_path / "d4")
    assert names(tmp_path / "d4") == FILES
    loaded = cm.load_checkpoint(tmp_path / "d4", 500)
    assert loaded.step == 500
    assert same(dict(saved["model_state"]), loaded.model)
    assert same(saved["optimizer_state"], loaded.optimizer)
    assert same(saved["meta"], loaded.meta)
    assert same(saved["train_state"], loaded.train_state)
    model, optimizer = make_run()
    model.load_state_dict(loaded.model)
    optimizer.load_state_dict(loaded.optimizer)


def test_parts_that_were_not_saved_or_not_asked_for_are_none(tmp_path):
    save(tmp_path, optimizer_state=None, train_state=None)
    assert names(tmp_path) == ["meta_000500.json", "model_000500.pt"]
    loaded = cm.load_checkpoint(tmp_path)
    assert loaded.optimizer is None and loaded.train_state is None and loaded.model
    save(tmp_path)
    loaded = cm.load_checkpoint(tmp_path, parts=("state",))
    assert loaded.optimizer is None and loaded.model == {} and loaded.train_state and loaded.meta == META
    # saved once more without them: the old ones must not come back
    save(tmp_path, optimizer_state=None, train_state=None)
    assert names(tmp_path) == ["meta_000500.json", "model_000500.pt"]


def test_random_generators_go_on_where_they_were(tmp_path):
    def draw():
        return torch.rand(4).tolist(), random.random(), random.gauss(0, 1)

    draw()
    cm.save_checkpoint(tmp_path, 1, {}, None, META, {"rng": cm.rng_state()})
    expected = draw()
    draw()
    cm.set_rng_state(cm.load_checkpoint(tmp_path).train_state["rng"])
    assert draw() == expected


def test_saving_the_same_twice_gives_the_same_bytes(tmp_path):
    content = save(tmp_path / "a")
    cm.save_checkpoint(tmp_path / "b", 500, **content)
    for name in FILES[1:]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    ring = torch.randn(1_000_000)
    save(tmp_path, train_state={"view": ring[5:15], "column": ring.view(1000, 1000)[:, 3], "none": ring[:0]})
    assert (tmp_path / "state_000500.pt").stat().st_size < 20_000
    loaded = cm.load_checkpoint(tmp_path).train_state
    assert torch.equal(loaded["view"], ring[5:15]) and torch.equal(loaded["column"], ring.view(1000, 1000)[:, 3])


def test_whole_tensors_keep_their_layout_and_tied_weights_are_stored_once(tmp_path):
    weight = torch.randn(300, 100)
    save(tmp_path, model_state={"a": weight, "tied": weight, "turned": torch.randn(4, 6).T})
    assert (tmp_path / "model_000500.pt").stat().st_size < 1.2 * weight.nbytes
    loaded = cm.load_checkpoint(tmp_path).model
    assert loaded["a"].data_ptr() == loaded["tied"].data_ptr() and loaded["turned"].stride() == (1, 6)


@pytest.mark.parametrize(
    "value, where",
    [
        ({"x": numpy.zeros(3)}, r"train_state\['x'\] is a ndarray"),
        ({"x": [1, numpy.float64(2.0)]}, r"train_state\['x'\]\[1\] is a float64"),
        ({numpy.int64(1): 0}, "a key of train_state is a int64"),
        ({"x": {1, 2}}, "is a set"),
        ({"x": b"bytes"}, "is a bytes"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, value, where):
    before = save(tmp_path)
    with pytest.raises(TypeError, match=where):
        save(tmp_path, train_state=value)
    assert names(tmp_path) == FILES
    assert same(cm.load_checkpoint(tmp_path).train_state, before["train_state"])


@pytest.mark.parametrize(
    "meta", [{}, {"config": {}}, {**META, "t": (1, 2)}, {**META, "k": {1: 2}}, {**META, "l": float("nan")}]
)
def test_meta_must_be_complete_and_plain_json(tmp_path, meta):
    with pytest.raises(ValueError):
        save(tmp_path, meta=meta)
    assert names(tmp_path) == []


def test_manifest_is_plain_json_with_sizes_digests_and_the_run(tmp_path):
    save(tmp_path)
    manifest = json.loads((tmp_path / "meta_000500.json").read_text())
    assert manifest["step"] == 500 and manifest["meta"] == META and manifest["run"]["torch"] == torch.__version__
    for entry in manifest["files"].values():
        assert (tmp_path / entry["name"]).stat().st_size == entry["bytes"] and len(entry["sha256"]) == 64


# -----------------------------------------------------------------------------
# Killed while writing


@pytest.mark.parametrize("kind", ["model", "optim", "state"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_step_and_no_temporary(tmp_path, monkeypatch, kind, error):
    before = save(tmp_path)
    real = torch.save

    def failing(content, f):
        if content["kind"] == kind:
            f.write(b"half of it")
            raise error("no space left")
        real(content, f)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(error):
        save(tmp_path)
    assert names(tmp_path) == FILES
    assert same(cm.load_checkpoint(tmp_path).train_state, before["train_state"])


@pytest.mark.parametrize("after", range(4))
def test_killed_between_the_renames_the_new_step_does_not_exist(tmp_path, monkeypatch, after):
    """The manifest comes last: at any earlier point, step 400 is still what there is."""
    save(tmp_path, step=400)
    real, left = os.replace, [after]

    def replace(a, b):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, step=500)
    assert "meta_000500.json" not in names(tmp_path) and not [n for n in names(tmp_path) if n.endswith(".tmp")]
    assert cm.find_last_step(tmp_path) == 400
    with pytest.raises(UserError, match=r"no checkpoint of step 500 .*complete steps: 400"):
        cm.load_checkpoint(tmp_path, 500)
    save(tmp_path, step=500)
    assert cm.load_checkpoint(tmp_path).step == 500


def test_the_next_save_removes_what_a_killed_one_left(tmp_path):
    for name in (".model_000500.pt.0a1b2c3d.tmp", ".meta_000500.json.0a1b2c3d.tmp", ".mine.tmp", "notes.txt"):
        (tmp_path / name).touch()
    save(tmp_path)
    assert names(tmp_path) == sorted([".mine.tmp", *FILES, "notes.txt"])


# -----------------------------------------------------------------------------
# Damaged, missing, foreign


def refused(message, load, *args, **kwargs):
    with pytest.raises(UserError, match=message) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(tmp_path, name):
    save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for at in random.Random(0).sample(range(len(whole)), 25):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        if name.endswith("json") and json_equal(whole, damaged):
            continue  # white space
        (tmp_path / name).write_bytes(damaged)
        refused(re.escape(name), cm.load_checkpoint, tmp_path, 500)


def json_equal(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_truncation_is_refused(tmp_path, name):
    save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for keep in (0, 1, len(whole) // 2, len(whole) - 2):
        (tmp_path / name).write_bytes(whole[:keep])
        refused(re.escape(name), cm.load_checkpoint, tmp_path, 500)
        assert cm.find_last_step(tmp_path) is None
    (tmp_path / name).unlink()
    refused(re.escape(name), cm.load_checkpoint, tmp_path, 500)


def test_where_there_is_nothing(tmp_path):
    assert cm.find_last_step(tmp_path / "none") is None
    refused("no complete checkpoint", cm.load_checkpoint, tmp_path / "none")
    refused("no such model file", cm.load_model_file, tmp_path / "none.pt")
    refused("neither model.json nor a complete checkpoint", cm.load_model_file, tmp_path)


def foreign(path, kind):
    if kind == "pickle with code":
        torch.save({"x": numpy.float64(1.0), "f": print}, path)
    elif kind == "weights of another program":
        torch.save({"model": {}}, path)
    elif kind == "a later version":
        torch.save({"format": cm.FORMAT, "version": 99, "kind": "model"}, path)
    elif kind == "another part":
        torch.save({"format": cm.FORMAT, "version": cm.VERSION, "kind": "optim"}, path)
    elif kind == "a part of the part":
        torch.save({"format": cm.FORMAT, "version": cm.VERSION, "kind": "model", "step": 1}, path)
    else:
        path.write_bytes({"empty": b"", "text": b"t=1: hello\n", "zip": b"PK\x03\x04" + bytes(100)}[kind])


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "not a Live Memory checkpoint"),
        ("text", "not a Live Memory checkpoint"),
        ("zip", "not a Live Memory checkpoint"),
        ("pickle with code", "not a Live Memory checkpoint"),
        ("weights of another program", "not a Live Memory checkpoint"),
        ("a later version", "version 99, this program reads version 1"),
        ("another part", "holds the 'optim' part of a checkpoint, not the 'model' part"),
        ("a part of the part", "damaged, 'model' is not in it"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, kind, message):
    foreign(tmp_path / "model.pt", kind)
    refused(message, cm.load_model_file, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text('{"name": "something else"}')
    refused("model.json: not a Live Memory checkpoint", cm.load_model_file, tmp_path)


def test_damage_without_a_manifest_is_never_a_traceback(tmp_path):
    save(tmp_path, model_state={"w": torch.randn(3)})
    whole = (tmp_path / "model_000500.pt").read_bytes()
    lone = tmp_path / "lone.pt"
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        lone.write_bytes(damaged)
        try:
            assert not cm.load_model_file(lone)["verified"]
        except UserError:
            pass  # refusing is right; loading means the bytes hit did not matter to the format


# -----------------------------------------------------------------------------


def test_the_model_is_found_by_file_directory_and_relative_path(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    directory = cm.checkpoint_dir("d8")
    assert directory == base_dir() / "base_checkpoints" / "d8" and cm.model_path(directory, 7).name == "model_000007.pt"
    save(directory, step=500)
    last = save(directory, step=1000)["model_state"]
    for path in (directory, cm.model_path(directory, 1000), "base_checkpoints/d8/model_001000.pt"):
        loaded = cm.load_model_file(path)
        assert same(dict(last), loaded["model"]) and loaded["meta"] == META and loaded["step"] == 1000
        assert loaded["verified"] and loaded["path"] == directory / "model_001000.pt" and loaded["run"]["torch"]
    lone = tmp_path / "renamed.pt"
    lone.write_bytes((directory / "model_000500.pt").read_bytes())
    assert not cm.load_model_file(lone)["verified"]
    with open(directory / "model_000500.pt", "ab") as f:
        f.write(b"!")
    refused("truncated or another file", cm.load_model_file, directory / "model_000500.pt")


def test_exported_models_load_from_their_directory(tmp_path):
    save(tmp_path / "run", model_state={"w": torch.randn(64, 64), "n": torch.arange(3)})
    source = tmp_path / "run" / "model_000500.pt"
    cm.export_model(source, tmp_path / "same")
    cm.export_model(source, tmp_path / "half", dtype=torch.bfloat16)
    assert names(tmp_path / "half") == ["model.json", "model.pt"]
    full, half = (cm.load_model_file(tmp_path / name) for name in ("same", "half/model.pt"))
    original = cm.load_model_file(source)
    assert same(full["model"], original["model"]) and full["verified"] and full["run"] == original["run"]
    assert half["model"]["n"].dtype == torch.int64 and half["meta"] == META and half["step"] == 500
    assert torch.equal(half["model"]["w"], full["model"]["w"].bfloat16())
    other = {"w": torch.randn(64, 64), "n": torch.arange(3)}
    save(tmp_path / "further", model_state=other)
    cm.export_model(source, tmp_path / "mean", average=tmp_path / "further")
    mean = cm.load_model_file(tmp_path / "mean")["model"]
    assert torch.equal(mean["w"], (full["model"]["w"] + other["w"]) / 2) and torch.equal(mean["n"], other["n"])
    save(tmp_path / "wide", model_state={**other, "w": torch.randn(64, 65)})
    refused("other names or shapes", cm.export_model, source, tmp_path / "never", average=tmp_path / "wide")
    assert not (tmp_path / "never").exists()
    (tmp_path / "half" / "model.pt").unlink()
    refused("model.pt: missing", cm.load_model_file, tmp_path / "half")


def test_an_export_that_is_killed_leaves_the_old_model_or_the_new(tmp_path):
    for name in ("old", "new"):
        save(tmp_path / name, model_state={"w": torch.randn(8, 8)}, meta={**META, "name": name})
    outcomes = []
    for call in range(100):
        there = tmp_path / f"shipped{call}"
        cm.export_model(tmp_path / "old", there)

        def export():
            die_at(call)
            cm.export_model(tmp_path / "new", there)

        status = in_child(export)
        found = cm.load_model_file(there)
        outcomes.append(found["meta"]["name"])
        assert found["verified"] and same(found["model"], cm.load_model_file(tmp_path / outcomes[-1])["model"])
        cm.export_model(tmp_path / "new", there)
        assert cm.load_model_file(there)["meta"]["name"] == "new" and not list(there.glob("*.new"))
        if status == 0:
            break
        assert status == 9
    assert status == 0 and outcomes == sorted(outcomes, reverse=True) and {*outcomes} == {"old", "new"}


def test_a_first_export_that_is_killed_at_its_end_is_there_and_can_be_replaced(tmp_path):
    save(tmp_path / "run", model_state={"w": torch.randn(8, 8)})
    cm.export_model(tmp_path / "run", tmp_path / "out")
    (tmp_path / "out/model.pt").rename(tmp_path / "out/model.pt.new")
    check_output(tmp_path / "out", replace=True)
    assert cm.load_model_file(tmp_path / "out")["verified"]
    with open(tmp_path / "out/model.pt.new", "ab") as file:
        file.write(b"!")
    refused("model.pt: missing", cm.load_model_file, tmp_path / "out")


@pytest.mark.parametrize("key", ["step", "meta", "files", "run"])
def test_a_manifest_that_lacks_a_part_is_one_line(tmp_path, key):
    save(tmp_path, model_state={"w": torch.randn(3)})
    manifest = json.loads((tmp_path / "meta_000500.json").read_text())
    del manifest[key]
    manifest["sha256"] = cm._manifest_digest(manifest)
    (tmp_path / "meta_000500.json").write_text(json.dumps(manifest))
    for load in (cm.load_checkpoint, lambda directory, _: cm.load_model_file(directory / "model_000500.pt")):
        refused(f"'{key}' is not in it", load, tmp_path, 500)


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"files": ' * 100_000, b"[" * 900 + b"]" * 900])
def test_a_manifest_that_is_nested_deep_is_one_line(tmp_path, nested):
    save(tmp_path, model_state={"w": torch.randn(3)})
    for name in ("meta_000500.json", "model.json"):
        (tmp_path / name).write_bytes(nested)
        refused(f"{name}: ", cm.load_model_file, tmp_path / ("model.pt" if name == "model.json" else "model_000500.pt"))
        assert cm.find_last_step(tmp_path) is None


def test_tables_are_shipped_as_integers(tmp_path):
    model = torch.nn.Module()
    model.wte, model.fc = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8)
    save(tmp_path / "run", model_state=model.state_dict())
    cm.export_model(tmp_path / "run" / "model_000500.pt", tmp_path / "half", dtype=torch.bfloat16)
    cm.export_model(tmp_path / "half", tmp_path / "again", dtype=torch.bfloat16)   # what is shipped can be shipped on
    shipped = cm.load_model_file(tmp_path / "half")["model"]
    assert same(shipped, cm.load_model_file(tmp_path / "again")["model"]) and shipped["wte.weight"].dtype == torch.int8
    before = model.wte.weight.detach().clone()
    torch.nn.init.zeros_(model.wte.weight)
    cm.load_weights(model, shipped, "half")
    assert ((model.wte.weight - before).abs() <= before.abs().amax(1, keepdim=True) / 254 + 1e-6).all()


def test_weights_digest_knows_values_names_and_dtypes_only():
    weights = {"a": torch.randn(4, 6), "b": torch.tensor(2.0), "c": torch.zeros(0)}
    digest = cm.weights_digest(weights)
    assert digest == cm.weights_digest({"c": weights["c"], "b": weights["b"], "a": weights["a"].T.contiguous().T})
    changed = weights["a"].clone()
    changed[1, 1] += 1e-6
    for other in ({**weights, "a": changed}, {**weights, "b": torch.tensor(2.0).double()}, {"a": weights["a"]}):
        assert cm.weights_digest(other) != digest


def test_keep_last_keeps_complete_steps_and_clears_remains(tmp_path):
    for step in (10, 20, 30, 40, 50, 1_000_000):
        save(tmp_path, step=step)
    (tmp_path / "meta_000010.json").unlink()  # killed before its manifest
    (tmp_path / "model_000040.pt").write_bytes(b"short")
    (tmp_path / "model_2000000.pt").touch()  # being written right now
    (tmp_path / "notes.txt").touch()
    assert cm.find_last_step(tmp_path) == 1_000_000
    assert cm.keep_last(tmp_path, 3) == [10, 20, 40]
    assert [cm.load_checkpoint(tmp_path, s).step for s in (30, 50, 1_000_000)] == [30, 50, 1_000_000]
    assert len(names(tmp_path)) == 3 * 4 + 2
    assert cm.keep_last(tmp_path, 1) == [30, 50]
    assert cm.keep_last(tmp_path, 1) == []
    with pytest.raises(ValueError):
        cm.keep_last(tmp_path, 0)


leaves = strategies.one_of(strategies.none(), strategies.booleans(), strategies.integers(),
                           strategies.floats(allow_nan=False), strategies.text(),
                           strategies.builds(torch.arange, strategies.integers(0, 5)))
nested = strategies.recursive(
    leaves,
    lambda inner: strategies.one_of(strategies.lists(inner), strategies.tuples(inner, inner),
                                    strategies.dictionaries(strategies.text(), inner)),
    max_leaves=12,
)


@settings(max_examples=40)
@given(value=nested)
def test_any_nested_train_state_survives(tmp_path_factory, value):
    directory = tmp_path_factory.mktemp("any")
    cm.save_checkpoint(directory, 1, {}, None, META, {"value": value})
    assert same(cm.load_checkpoint(directory, 1).train_state, {"value": value})
