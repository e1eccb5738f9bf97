"""nanochat/common.py: places, device and dtype, atomic files, one-line errors."""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys

import pytest
import torch

from nanochat import common
from nanochat.common import UserError, atomic_write, flag, run_main


def run_python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], cwd=common.repo_root(), capture_output=True, text=True,
                          **kwargs)


def test_importing_common_does_not_import_torch():
    done = run_python("import sys, nanochat.common; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_base_dir_is_the_repository_or_the_override(monkeypatch, tmp_path):
    monkeypatch.delenv("NANOCHAT_BASE_DIR", raising=False)
    assert common.base_dir() == common.repo_root()
    assert (common.repo_root() / "nanochat" / "common.py").is_file()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert common.base_dir() == tmp_path


def test_input_paths_are_found_in_base_dir_then_here_then_in_the_repository(monkeypatch, tmp_path):
    base, here = tmp_path / "base", tmp_path / "here"
    for place in (base, here):
        place.mkdir()
        (place / "both").touch()
    (here / "only_here").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    assert common.resolve_input("both") == base / "both"
    assert common.resolve_input("only_here") == here / "only_here"
    assert common.resolve_input("nanochat/common.py") == common.repo_root() / "nanochat/common.py"
    assert str(common.resolve_input("nowhere.pt")) == "nowhere.pt"
    assert common.resolve_input(here / "both") == here / "both"
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    assert common.resolve_input("both") == here / "both"


# -----------------------------------------------------------------------------


def test_device_choice_gives_a_reason_and_refuses_what_is_not_there():
    device, reason = common.choose_device("cpu")
    assert device == torch.device("cpu") and reason
    assert common.choose_device()[1]
    with pytest.raises(UserError, match="unknown device 'toaster'"):
        common.choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda' is not available"):
            common.choose_device("cuda")


@pytest.mark.parametrize("capability, expected",
                         [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_dtype_on_cuda_follows_the_compute_capability(monkeypatch, capability, expected):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    dtype, reason = common.choose_dtype(torch.device("cuda", 0))
    assert dtype == expected and f"{capability[0]}.{capability[1]}" in reason


@pytest.mark.parametrize("avx, amx, expected", [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")])
def test_dtype_on_cpu_follows_the_instruction_set(monkeypatch, avx, amx, expected):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    cpu = torch.device("cpu")
    assert common.choose_dtype(cpu)[0] == common.choose_dtype(cpu, expected)[0]


def test_dtype_without_the_probes_is_fp32(monkeypatch):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert common.choose_dtype(torch.device("cpu"))[0] == torch.float32


def test_dtype_order_is_flag_then_environment_then_hardware(monkeypatch):
    monkeypatch.setenv("NANOCHAT_DTYPE", "float16")
    cpu = torch.device("cpu")
    assert common.choose_dtype(cpu) == (torch.float16, "NANOCHAT_DTYPE")
    assert common.choose_dtype(cpu, "fp32") == (torch.float32, "asked for")
    monkeypatch.setenv("NANOCHAT_DTYPE", "int4")
    with pytest.raises(UserError, match="int4.*NANOCHAT_DTYPE") as caught:
        common.choose_dtype(cpu)
    assert caught.value.code == 2


def test_dtype_on_mps_is_fp32(monkeypatch):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    assert common.choose_dtype(torch.device("mps"))[0] == torch.float32


# -----------------------------------------------------------------------------


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deeper" / "file"
    atomic_write(path, lambda f: f.write(b"old"))
    atomic_write(path, lambda f: f.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert common.sha256_file(path) == hashlib.sha256(b"new").hexdigest()
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def writer(f):
        f.write(b"half")
        raise error("pulled the plug")

    with pytest.raises(error):
        atomic_write(path, writer)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_rename_that_fails_leaves_no_temporary(tmp_path):
    (tmp_path / "taken" / "by").mkdir(parents=True)
    with pytest.raises(OSError):
        atomic_write(tmp_path / "taken", lambda f: f.write(b"x"))
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


# -----------------------------------------------------------------------------


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "main, code, line",
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("no such\nmodel")), 1, "error: no such model\n"),
        (raising(UserError("bad flag", code=2)), 2, "error: bad flag\n"),
        (raising(FileNotFoundError(2, "No such file or directory", "a.pt")), 1,
         "error: No such file or directory: a.pt\n"),
        (raising(OSError(28, "No space left on device")), 1, "error: No space left on device\n"),
        (raising(KeyboardInterrupt()), 130, ""),
    ],
)
def test_run_main_turns_errors_into_a_line_and_a_code(capsys, main, code, line):
    assert run_main(main) == code
    assert capsys.readouterr() == ("", line)


def test_run_main_leaves_bugs_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_closed_pipe_is_silent():
    code = "import sys; from nanochat.common import run_main; sys.exit(run_main(lambda: print('x\\n' * 100000)))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run([sys.executable, "-c", code], cwd=common.repo_root(), stdout=out, stderr=subprocess.PIPE,
                              text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_flags_take_both_spellings():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flag(parser, "--model-path", required=True)
    flag(parser.add_argument_group("g"), "-n", "--num_iterations", type=int, default=5)
    for spelling in ("--model-path", "--model_path"):
        assert vars(parser.parse_args([spelling, "m"])) == {"model_path": "m", "num_iterations": 5}
    for spelling in ("-n", "--num-iterations", "--num_iterations"):
        assert parser.parse_args(["--model-path", "m", spelling, "7"]).num_iterations == 7


def test_help_shows_every_flag_once_with_its_default():
    parser = argparse.ArgumentParser(formatter_class=common.Help, allow_abbrev=False)
    flag(parser, "--head-lr", type=float, default=0.004, help="")
    flag(parser, "--no-banner", action="store_true", help="")
    flag(parser, "--attn", choices=["auto", "fa3"], default="fa3", help="of all three")
    flag(parser, "--out-dir", metavar="DIR", default="here", help="a metavar stays")
    flag(parser, "--seed", type=int, default=0)
    flag(parser, "--tag", default="")
    lines = [" ".join(line.split()) for line in parser.format_help().split("options:\n")[1].splitlines()]
    assert lines[1:] == ["--head-lr 0.004, --no-banner, --attn fa3|auto", "of all three",
                         "--out-dir DIR a metavar stays", "--seed 0", "--tag TAG"]


# -----------------------------------------------------------------------------


def test_run_record_is_json_and_names_versions():
    record = common.run_record()
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__ and record["cpu"] and record["threads"] >= 1
    assert str(common.repo_root()) not in json.dumps(record)


def test_seed_everything_repeats_torch_and_python():
    def draw():
        common.seed_everything(7)
        return torch.rand(3).tolist(), random.random()

    assert draw() == draw()
