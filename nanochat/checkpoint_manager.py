"""
Checkpoints that are whole or not there. A step of a run is four files in one directory:

    model_000500.pt    weights and `meta` (config, tokenizer fingerprint, ...): all that ingest and query need
    optim_000500.pt    optimizer state                                        } only a resumed
    state_000500.pt    live-memory state, data position, random generators    } run reads these
    meta_000500.json   the manifest, written last: size and SHA-256 of the others, `meta`, the run record

Of several ranks each writes what it has lived through (state_000500.3.pt is that of rank 3), the first one the rest.
Where the model is sharded, there is a directory shards_000500 (see distributed.py) in place of optim_000500.pt, and
model_000500.pt all the same.

A step without its manifest does not exist. A model alone, to be shipped, is a directory with `model.pt` and
`model.json`, its manifest, made by `export_model`: the model is the file that the manifest describes, which is
`model.pt.new` where a kill came between the two. Every .pt file is read by plain_file.py: no file can run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Callable, Collection, NamedTuple

import torch
from torch import Tensor

from nanochat.common import (UserError, atomic_write, base_dir, fsync_dir, open_file, publish_file, read_small,
                             resolve_input, run_record, sha256_file, stage_file)
from nanochat.distributed import Ranks
from nanochat.plain_file import STORAGES, first_line, load_plain

FORMAT = "live-memory-checkpoint"
VERSION = 1
PARTS = {"model": ("step", "model", "meta"), "optim": ("step", "optimizer"), "state": ("step", "train_state")}
MANIFEST = re.compile(r"meta_(\d{6,})\.json")
LISTED = re.compile(r"(?:shards_\d{6,}/)?\w[\w.]*")  # a name in a manifest: it stays in the directory
MANIFEST_BYTES = 2**22
TOKENIZER_BYTES = 2**25  # of tokenizer.json beside a model; Llama 3's has 17 MB
LOOK_BACK = 2**13  # slots, of a model that is read: what it carries along grows with them, its weights do not
OURS = re.compile(r"(?:model|optim|state)_(\d{6,})(?:\.\d+)?\.pt|shards_(\d{6,})")
LEFTOVER = re.compile(
    r"\.(?:(?:model|optim|state)_\d{6,}(?:\.\d+)?\.pt|meta_\d{6,}\.json)\.[0-9a-f]{8}\.tmp|\.shards_\d{6,}\.tmp"
)
# the largest matrices of a small model are shipped as 8-bit integers, their scale a row under the same name and this
LARGE, SCALE = ("wte.weight", "lm_head.weight", "mlp.fc.weight", "mlp.up.weight", "mlp.proj.weight"), ":scale"


class Checkpoint(NamedTuple):
    """What `load_checkpoint` returns; `optimizer` and `train_state` are None where the step was saved without."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict | None
    meta: dict
    train_state: dict | None


def checkpoint_dir(name: str) -> Path:
    """Where the run `name` ('d8') keeps its checkpoints: base_dir()/base_checkpoints/NAME."""
    return base_dir() / "base_checkpoints" / name


def model_path(directory: str | os.PathLike, step: int) -> Path:
    """The file of a step's weights, the one given to ingest and query."""
    return Path(directory) / f"model_{step:06d}.pt"


def shards_path(directory: str | os.PathLike, step: int) -> Path:
    """The directory of a step's shards, there if its manifest lists them."""
    return Path(directory) / f"shards_{step:06d}"


def _manifest_path(directory: Path, step: int) -> Path:
    return directory / f"meta_{step:06d}.json"


def _step_of(path: Path) -> int | None:
    """The step a file of ours belongs to."""
    m = OURS.fullmatch(path.name) or MANIFEST.fullmatch(path.name)
    return m and int(next(filter(None, m.groups())))


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# -----------------------------------------------------------------------------
# What goes into a file


def _portable(value, where: str):
    """
    A copy of nested dicts, lists and tuples fit to be saved: tensors detached, on the CPU, and cloned where their
    storage is bigger than they are (torch.save would write it whole) or smaller (expanded). TypeError for what could
    not be read back.
    """
    if isinstance(value, Tensor):
        if value.dtype not in STORAGES.values():
            raise TypeError(f"{where} is a tensor of {value.dtype}, which a checkpoint cannot hold")
        value = value.detach().cpu()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {
            _portable(key, f"a key of {where}"): _portable(item, f"{where}[{key!r}]") for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_portable(item, f"{where}[{i}]") for i, item in enumerate(value))
    # by exact type: numpy's float64 is a float, and would be refused only when it is read
    if value is None or type(value) in (bool, int, float, str, torch.dtype, torch.device):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _stage_part(path: Path, kind: str, **content) -> tuple[Path, dict]:
    """Writes one file beside its place: (temporary path, manifest entry)."""
    payload = {"format": FORMAT, "version": VERSION, "kind": kind}
    payload.update((key, _portable(value, key)) for key, value in content.items())
    tmp = stage_file(path, lambda f: torch.save(payload, f))
    return tmp, _entry(tmp, path.name)


def _entry(file: Path, name: str) -> dict:
    return {"name": name, "bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _write_manifest(path: Path, step: int, entries: dict, meta: dict, run: dict) -> dict:
    manifest = {"format": FORMAT, "version": VERSION, "step": step, "meta": meta, "files": entries, "run": run}
    manifest["sha256"] = _manifest_digest(manifest)
    text = json.dumps(manifest, indent=2) + "\n"
    atomic_write(path, lambda f: f.write(text.encode()))
    return manifest


def _manifest_digest(manifest: dict) -> str:
    """SHA-256 of all of a manifest but this digest: the file that vouches for the others must be whole itself."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def weights_digest(model_state: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bits of the weights: the same for every file that holds these weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model_state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def rng_state() -> dict:
    """
    The random generators of python and of torch, on the CPU and on this process's GPU, in a form that `train_state` can
    hold.
    """
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: dict) -> None:
    """Puts back what `rng_state` gave; the GPU's where there is one, now and then."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


# -----------------------------------------------------------------------------
# Saving


def save_checkpoint(directory: str | os.PathLike, step: int, model_state: dict[str, Tensor],
                    optimizer_state: dict | None, meta: dict, train_state: dict | None = None, ranks: Ranks = Ranks(),
                    shards: Callable[[Path], None] | None = None) -> dict | None:
    """
    Saves a step and returns its manifest (None on ranks other than the first). One run writes to a directory at a time.

    `meta` is plain JSON and must name at least 'config' (of the model) and 'tokenizer' (its fingerprint): ValueError.
    `train_state` is nested dicts, lists and tuples of tensors, numbers, strings and None: TypeError for anything else.
    If writing fails, a step that stood there before still stands, and no temporary file is left.

    All `ranks` must call, on one file system; weights and optimizer are those of the first one. `shards(directory)`,
    called on all ranks, fills a directory with what is sharded.
    """
    directory = Path(directory)
    for key in ("config", "tokenizer"):
        if key not in meta:
            raise ValueError(f"meta needs '{key}': without it the weights cannot be used")
    if json.loads(json.dumps(meta, allow_nan=False)) != meta:
        raise ValueError("meta is not plain JSON: it would be read back different (tuples? keys that are not strings?)")
    parts = {}
    if ranks.first:
        parts["model"] = {"model": model_state, "meta": meta}
    if ranks.first and optimizer_state is not None:
        parts["optim"] = {"optimizer": optimizer_state}
    if train_state is not None:
        parts["state"] = {"train_state": train_state}

    if ranks.first:
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if LEFTOVER.fullmatch(path.name):  # of a run that was killed while it wrote
                _remove(path)
    ranks.wait()
    staged, entries, folder = {}, {}, directory / f".shards_{step:06d}.tmp"
    try:
        for kind, content in parts.items():
            key = kind if ranks.first else f"{kind}.{ranks.rank}"
            path = directory / f"{kind}_{step:06d}{key.removeprefix(kind)}.pt"
            tmp, entries[key] = _stage_part(path, kind, step=step, **content)
            staged[tmp] = path
        if shards:
            shards(folder)
        everything = ranks.gather((staged, entries))  # a rank that fails ends them all: then nothing was published
        if not ranks.first:
            return None
        staged, entries = ({k: v for part in parts for k, v in part.items()} for parts in zip(*everything))
        if shards:
            target = shards_path(directory, step)
            entries.update((f"shards/{file.name}", _entry(file, f"{target.name}/{file.name}"))
                           for file in sorted(folder.iterdir()))
        # A step saved again does not exist from here until its new manifest: better than a manifest of files that are
        # partly replaced. The steps before it stay whole.
        _remove_step(directory, step)
        for tmp, path in staged.items():
            publish_file(tmp, path)
        if shards:
            publish_file(folder, target)
    except BaseException:
        for tmp in staged:
            tmp.unlink(missing_ok=True)
        raise
    return _write_manifest(_manifest_path(directory, step), step, entries, meta, run_record())


def export_model(path: str | os.PathLike | dict, directory: str | os.PathLike, dtype: torch.dtype | None = None,
                 reading: dict | None = None, average: str | os.PathLike | None = None, note: str = "",
                 learned: dict[str, Tensor] | None = None, made: dict | None = None) -> dict:
    """
    Copies the model of a checkpoint (its path, or what load_model_file gave) into `directory` as `model.pt` and
    `model.json`, to be shipped, and returns its manifest. `dtype` converts floating-point weights (bf16 halves the
    file), but for the matrices of LARGE, which are kept as 8-bit integers with a scale a row; `reading`, fields of its
    configuration that are other than in training; `note`, what else is to be said of how they were made; `average`,
    another model: the weights are the mean of both (of one before and after it was trained further, Wortsman et al.
    2021); `learned`, weights that take the place of those of the same names, or are new; `made`, more fields of its
    `meta`. Raises UserError as `load_model_file`, for a field that the model does not have, and for two models of
    different shapes.
    """
    source, directory = path if isinstance(path, dict) else load_model_file(path), Path(directory)
    for name in learned or {}:
        source["model"].pop(name + SCALE, None)
    source["model"].update(learned or {})
    if average is not None:
        shape = lambda weights: {name: tensor.shape for name, tensor in weights.items()}
        other = load_model_file(average)["model"]
        if shape(other) != shape(source["model"]):
            raise UserError(f"{average}: its weights have other names or shapes than those of {path}", code=2)
        for name, tensor in source["model"].items():
            if tensor.is_floating_point():
                source["model"][name] = (tensor.float() + other[name].float()) / 2
    config = source["meta"]["config"]["config"] if reading else {}
    if unknown := set(reading or ()) - set(config):
        raise UserError(f"{path}: this model has no {', '.join(sorted(unknown))}", code=2)
    config.update(reading or {})
    weights = {}
    for name, tensor in source["model"].items():
        if dtype and name.endswith(LARGE) and tensor.is_floating_point():
            scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            weights |= {name: (tensor.float() / scale).round().to(torch.int8), name + SCALE: scale}
        else:
            convert = dtype and tensor.is_floating_point() and not name.endswith(SCALE)
            weights[name] = tensor.to(dtype) if convert else tensor
    meta = {**source["meta"], **({"note": note} if note else {}), **(made or {})}
    if "args" in meta:   # where files lay on one machine says nothing on another
        meta["args"] = {name: Path(value).name if name in ("data_dir", "init_from") and value else value
                        for name, value in meta["args"].items()}
    if "ends" in meta and "base" not in meta:   # an open model has a tokenizer of its own
        text = source.get("tokenizer") or read_small(source["path"].parent / "tokenizer.json", TOKENIZER_BYTES)
        atomic_write(directory / "tokenizer.json", lambda file: file.write(text))
    target = directory / "model.pt"
    tmp, entry = _stage_part(target, "model", step=source["step"], model=weights, meta=meta)
    publish_file(tmp, _beside(target))
    run = source["run"] or run_record()  # the run that made the weights, not this copy
    # from here on it is the new model
    manifest = _write_manifest(directory / "model.json", source["step"], {"model": entry}, meta, run)
    publish_file(_beside(target), target)
    return manifest


def _beside(path: Path) -> Path:
    """Where `export_model` puts a file before the manifest describes it."""
    return path.with_name(path.name + ".new")


def build_model(cls: type, config: type, fields: dict, weights: dict[str, Tensor], where: str | os.PathLike,
                fresh: tuple[str, ...] = ()) -> torch.nn.Module:
    """
    A `cls` of the configuration `config(**fields)` in a file, on the CPU, with the weights of that file. Shapes are
    compared before memory is taken: a few bytes may name any size. UserError, with `where` it is from, where they do
    not fit. Parts of which weights are missing, see check_shapes, are as in a new model.
    """
    try:
        settings = config(**fields)
        if settings.n_layer > len(weights) or getattr(settings, "window", 0) > LOOK_BACK:
            raise ValueError(f"more layers than weights, or a window of more than {LOOK_BACK:,} slots")
        with torch.device("meta"):
            model = cls(settings)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise UserError(
            f"{where} is of another version of this code, or damaged: its configuration makes no model "
            f"({first_line(error)})"
        ) from error
    missing = check_shapes(model, weights, where, fresh)
    model.to_empty(device="cpu")
    for part in {name.split(".")[0] for name in missing}:
        getattr(model, part).init_weights()
    _put(model, weights)
    return model


def check_shapes(model: torch.nn.Module, weights: dict[str, Tensor], where: str | os.PathLike,
                 fresh: tuple[str, ...] = ()) -> list[str]:
    """
    UserError unless weights, of which some may have a scale a row, have the names and shapes of those of a model. Those
    whose name begins with one of `fresh` may be missing: returns their names.
    """
    there = {name: tensor.shape for name, tensor in weights.items() if not name.endswith(SCALE)}
    scales = {name.removesuffix(SCALE): tensor.shape for name, tensor in weights.items() if name.endswith(SCALE)}
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()
              if name not in getattr(model, "borrowed", ())}
    missing = [name for name in wanted if name not in there and name.startswith(fresh)]
    fit = there == {name: shape for name, shape in wanted.items() if name not in missing}
    # a scale of any other shape, or of what is no matrix, would be multiplied out
    if not fit or any(len(there.get(name, ())) != 2 or shape != (there[name][0], 1) for name, shape in scales.items()):
        raise UserError(
            f"{where} is of another model configuration (give the flags it was trained with) "
            "or of another version of this code"
        )
    return missing


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], where: str | os.PathLike,
                 fresh: tuple[str, ...] = ()) -> list[str]:
    """
    Puts weights into a model. UserError, with `where` they are from, if they are not of its shape: see check_shapes.
    """
    missing = check_shapes(model, weights, where, fresh)
    _put(model, weights)
    return missing


def _put(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            if not name.endswith(SCALE):
                own[name].copy_(tensor.float() * weights[name + SCALE] if name + SCALE in weights else tensor)


def _remove_step(directory: Path, step: int) -> None:
    """The manifest first: from then on the step does not exist, whatever is left of it."""
    _manifest_path(directory, step).unlink(missing_ok=True)
    fsync_dir(directory)
    for path in directory.iterdir():
        if _step_of(path) == step:
            _remove(path)


def keep_last(directory: str | os.PathLike, k: int) -> list[int]:
    """
    Removes all but the last `k` complete steps, and the remains of incomplete ones before the last complete step.
    Returns the steps removed. Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"at least one checkpoint must be kept, not {k}")
    directory = Path(directory)
    complete = _complete_steps(directory)
    kept = complete[-k:]
    seen = {step for p in directory.iterdir() if (step := _step_of(p)) is not None}
    removed = sorted(step for step in seen - set(kept) if kept and step < kept[-1])
    for step in removed:
        _remove_step(directory, step)
    return removed


# -----------------------------------------------------------------------------
# Loading


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(read_small(path, MANIFEST_BYTES).decode("utf-8"))
        whole = isinstance(manifest, dict) and manifest.get("sha256") == _manifest_digest(manifest)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: damaged manifest, not valid JSON ({e})") from e
    _check_format(manifest, path)
    if not whole:
        raise UserError(f"{path}: damaged or edited manifest, its SHA-256 does not fit its content")
    if absent := [key for key in ("step", "meta", "files", "run") if key not in manifest]:
        raise UserError(f"{path}: damaged manifest, '{absent[0]}' is not in it")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise UserError(f"{path}: lists something else than files of this directory, with their sizes and SHA-256")
    return manifest


def _is_entry(entry) -> bool:
    kinds = {"name": str, "bytes": int, "sha256": str}
    return (
        isinstance(entry, dict)
        and all(type(entry.get(key)) is kind for key, kind in kinds.items())
        and LISTED.fullmatch(entry["name"]) is not None
    )


def _check_format(content, path: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a Live Memory checkpoint")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise UserError(f"{path}: checkpoint format version {str(version)[:20]}, this program reads version {VERSION}")


def _verify(path: Path, entry: dict) -> None:
    """UserError unless the file at `path` is the one the manifest entry describes."""
    if not path.is_file():
        raise UserError(f"{path}: missing, but its manifest lists it")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(f"{path}: {size} bytes, its manifest says {entry['bytes']}: truncated or another file")
    if sha256_file(path) != entry["sha256"]:
        raise UserError(f"{path}: damaged, its SHA-256 differs from the one in its manifest")


def _whole(path: Path, entry: dict) -> Path:
    """The file that an entry describes: `path`, or what `export_model` has left beside it. UserError for none."""
    try:
        _verify(path, entry)
    except UserError:
        if not _beside(path).is_file():
            raise
        with contextlib.suppress(UserError):
            _verify(_beside(path), entry)
            return _beside(path)
        raise
    return path


def _read_part(path: Path, kind: str, map_location) -> dict:
    with open(open_file(path), "rb") as f:
        content = load_plain(f, path, "Live Memory checkpoint", map_location)
    _check_format(content, path)
    if content.get("kind") != kind:
        raise UserError(f"{path}: holds the '{content.get('kind')}' part of a checkpoint, not the '{kind}' part")
    if absent := [key for key in PARTS[kind] if key not in content]:
        raise UserError(f"{path}: damaged, '{absent[0]}' is not in it")
    if kind == "model" and not _are_weights(content["model"]):
        raise UserError(f"{path}: damaged, 'model' is not tensors by name")
    return content


def _are_weights(value) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _is_complete(directory: Path, step: int) -> bool:
    """Manifest readable, every file there with its size. The checksums are left to loading."""
    try:
        files = _read_manifest(_manifest_path(directory, step))["files"].values()
        return all((directory / e["name"]).stat().st_size == e["bytes"] for e in files)
    except (UserError, FileNotFoundError):
        return False


def _complete_steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    steps = sorted(int(m[1]) for path in directory.iterdir() if (m := MANIFEST.fullmatch(path.name)))
    return [step for step in steps if _is_complete(directory, step)]


def find_last_step(directory: str | os.PathLike) -> int | None:
    """The last complete step in a checkpoint directory; None if there is none, or no such directory."""
    return max(_complete_steps(Path(directory)), default=None)


def load_checkpoint(directory: str | os.PathLike, step: int | None = None, map_location: str | torch.device = "cpu",
                    parts: Collection[str] = tuple(PARTS), rank: int = 0) -> Checkpoint:
    """
    Loads a step (default: the last complete one) after checking every file read against the manifest.

    `parts` out of ('model', 'optim', 'state') leaves the others unread, None or {} in the result; 'state' is that of
    `rank`. Shards are checked, too, where 'shards' is among the parts, and left to `distributed.load_shards`. Raises
    UserError, in one line, when the step is not there or a file is missing, truncated, damaged or not of this format.
    """
    directory = Path(directory)
    if step is None and (step := find_last_step(directory)) is None:
        raise UserError(f"{directory}: no complete checkpoint here")
    manifest_path = _manifest_path(directory, step)
    if not manifest_path.is_file():
        there = ", ".join(map(str, _complete_steps(directory))) or "none"
        raise UserError(f"{directory}: no checkpoint of step {step} (no {manifest_path.name}); complete steps: {there}")
    manifest = _read_manifest(manifest_path)
    content = {}
    for key, entry in manifest["files"].items():
        kind = key.split(".")[0].split("/")[0]
        if kind in parts and (kind != "state" or key == ("state" if rank == 0 else f"state.{rank}")):
            _verify(directory / entry["name"], entry)
            if kind != "shards":
                content[kind] = _read_part(directory / entry["name"], kind, map_location)
    return Checkpoint(step=step, model=content.get("model", {}).get("model", {}),
                      optimizer=content.get("optim", {}).get("optimizer"), meta=manifest["meta"],
                      train_state=content.get("state", {}).get("train_state"))


def load_model_file(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict:
    """
    The model alone, for ingest and query. `path` is a model file (base_checkpoints/d8/model_001000.pt), a shipped
    directory (model.pt + model.json), or a checkpoint directory, whose last complete step is taken; relative paths
    are resolved by `resolve_input`.

    Returns {'model': weights, 'meta', 'step', 'path', 'verified', 'run'}: 'verified' tells whether there was a manifest
    beside the file to check it against, 'run' is that manifest's run record or None. Raises UserError, in one line, for
    a path that is missing, damaged, or not such a file.
    """
    resolved = resolve_input(path)
    if resolved.is_dir():
        if (resolved / "model.json").is_file():
            resolved = resolved / "model.pt"
        elif (step := find_last_step(resolved)) is not None:
            resolved = model_path(resolved, step)
        else:
            raise UserError(f"{path}: neither model.json nor a complete checkpoint in this directory")
    if (step := _step_of(resolved)) is not None:
        manifest_path = _manifest_path(resolved.parent, step)
    else:
        manifest_path = resolved.with_suffix(".json")
    manifest = None
    if manifest_path.is_file():
        manifest = _read_manifest(manifest_path)
        entry = next((e for e in manifest["files"].values() if e["name"] == resolved.name), None)
        if entry is None:
            raise UserError(f"{resolved}: not listed in {manifest_path.name} beside it")
        resolved = _whole(resolved, entry)
    elif not resolved.is_file():
        raise UserError(f"{path}: no such model file")
    content = _read_part(resolved, "model", map_location)
    return {
        "model": content["model"],
        "meta": content["meta"],
        "step": content["step"],
        "path": resolved,
        "verified": manifest is not None,
        "run": manifest["run"] if manifest else None,
    }
