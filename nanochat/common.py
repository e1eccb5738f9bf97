"""
What every script needs: where files live, which device and dtype and why, errors that are one line, files that are
never half written.

torch is imported inside the functions that use it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import functools
import hashlib
import json
import os
import platform
import random
import re
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Callable

from nanochat.text import printable

if TYPE_CHECKING:
    import torch

# -----------------------------------------------------------------------------
# Errors and the command line


class UserError(Exception):
    """Something the user can mend. `run_main` prints the message as one line and exits with `code` (2: wrong usage)."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def run_main(main: Callable[[], int | None]) -> int:
    """
    Runs a script's `main` and returns its exit code: `sys.exit(run_main(main))`.

    UserError and OSError (missing file, no permission, full disk) become one line on stderr; an interrupt is 130; a
    closed pipe (`... | head`) is silent, 141. Any other exception is a bug and keeps its traceback. Escape codes of
    file names and of what files say are not passed to a terminal. A closed stdin is an empty one; a closed stdout is
    refused.
    """
    closed = open_standard_streams()
    try:
        if "stdout" in closed:
            raise UserError("stdout is closed, and answers would be lost: redirect it, to /dev/null if nobody reads "
                            "them")
        code = main()
        sys.stdout.flush()  # a closed pipe must show here, not in the interpreter's shutdown
        return code or 0
    except UserError as e:
        message, code = str(e), e.code
    except BrokenPipeError:
        # stdout is flushed once more at exit: give it somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        where = f": {e.filename}" if e.filename is not None else ""
        message, code = f"{e.strerror or e}{where}", 1
    except KeyboardInterrupt:
        return 130
    print(printable("error: " + " ".join(message.split()), sys.stderr), file=sys.stderr)
    return code


def open_standard_streams() -> list[str]:
    """
    Opens the null device in the place of each standard stream that is closed, and returns their names. Else the next
    file that is opened would have its number, and what C libraries print would be written into that file.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        number = os.open(os.devnull, os.O_RDWR)   # the lowest number that is free
        setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8"))
    return closed


class Help(argparse.RawDescriptionHelpFormatter):
    """
    `--help` that fits a screen: a flag in one of its spellings, with its default in the place of a metavar (of choices,
    the default is the first), and flags whose help is "" on the line of the next one, whose help speaks for all of
    them.
    """

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=120)
        self.lines = {}  # last flag of a line -> all of them

    def add_arguments(self, actions):
        line = []
        for action in actions:
            line.append(action)
            if action.help != "":
                self.lines[action], line = line, []
                self.add_argument(action)

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return ", ".join(map(self._with_default, self.lines.get(action, [action])))

    def _with_default(self, action):
        names = ", ".join(name for name in action.option_strings if "_" not in name)
        if action.nargs == 0:
            return names
        if action.metavar is None and action.choices:
            return f"{names} {'|'.join(sorted(action.choices, key=lambda choice: choice != action.default))}"
        if action.metavar is None and isinstance(action.default, (str, int, float)) and action.default != "":
            return f"{names} {action.default}"
        return f"{names} {self._format_args(action, action.dest.upper())}"


def flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *names: str, **kwargs) -> argparse.Action:
    """
    `parser.add_argument` that takes every long flag in both spellings, `--model-path` and `--model_path`.

    Build the parser with `allow_abbrev=False`: two spellings make every abbreviation ambiguous.
    """
    spellings = []
    for name in names:
        twins = [name]
        if name.startswith("--"):
            dashed = "--" + name[2:].replace("_", "-")
            twins = [dashed, "--" + dashed[2:].replace("-", "_")]
        spellings += twins
    return parser.add_argument(*dict.fromkeys(spellings), **kwargs)



def shares(pairs: list[str]) -> dict:
    """SOURCE=SHARE strings of `--share` -> {source: share}. UserError (code 2) for what are no shares of one whole."""
    found = settings(pairs, "--share")
    if not all(type(share) in (int, float) and 0 <= share <= 1 for share in found.values()) \
            or sum(found.values()) > 1 + 1e-9:
        raise UserError(f"--share {' '.join(pairs)} must be fractions from 0 to 1, together at most 1", code=2)
    return found


def settings(pairs: list[str], of: str = "--set") -> dict:
    """FIELD=VALUE strings of the flag `of` -> dict, values as JSON where they are. UserError (code 2) without "="."""
    out = {}
    for pair in pairs:
        name, eq, value = pair.partition("=")
        if not eq:
            raise UserError(f"{of} takes FIELD=VALUE, not '{pair}'", code=2)
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


# -----------------------------------------------------------------------------
# Places


def repo_root() -> Path:
    """The directory that holds `nanochat/`."""
    return Path(__file__).resolve().parent.parent


def shipped_dir() -> Path:
    """
    The directory that holds `data/`, the tokenizer and the model that ship: the repository, or `nanochat/` where it was
    installed.
    """
    inside = Path(__file__).resolve().parent
    return inside if (inside / "data").is_dir() else inside.parent


def base_dir() -> Path:
    """
    Where runs are written (`base_checkpoints/` lies in it): $NANOCHAT_BASE_DIR, else the repository root, or the
    current directory where there is no repository, but an installed package.
    """
    override = os.environ.get("NANOCHAT_BASE_DIR")
    return (Path(os.path.expanduser(override)).absolute() if override else repo_root() if shipped_dir() == repo_root()
            else Path.cwd())


def resolve_input(path: str | os.PathLike) -> Path:
    """
    An input path as the user wrote it: absolute, or relative to the first of these where it exists: $NANOCHAT_BASE_DIR
    when set (it *moves* base_checkpoints), the current directory, what ships. Returned unchanged if nowhere.
    """
    path = Path(os.path.expanduser(path))   # not Path.expanduser: it fails where '~NAME' is a file's name
    bases = [Path.cwd(), shipped_dir()]
    if os.environ.get("NANOCHAT_BASE_DIR"):
        bases.insert(0, base_dir())
    # joining an absolute path gives that path
    return next((base / path for base in bases if (base / path).exists()), path)


# -----------------------------------------------------------------------------
# Device and dtype, each with the reason it was chosen


def choose_device(name: str = "auto") -> tuple[torch.device, str]:
    """
    (device, reason). 'auto' takes CUDA, else MPS, else the CPU. Under torchrun, 'cuda' is the GPU of this local rank.
    Raises UserError if the device asked for is not there.
    """
    import torch

    try:
        kind = torch.device(name).type if name != "auto" else "auto"
    except RuntimeError as e:
        raise UserError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps", code=2) from e
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = name = next(k for k in ("cuda", "mps", "cpu") if there[k])
        reason = "no GPU found" if kind == "cpu" else "found"
    elif not there.get(kind, False):
        raise UserError(f"device '{name}' is not available in this installation of torch ({torch.__version__})")
    else:
        reason = "asked for"
    device = torch.device(name)
    if kind == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise UserError(f"device '{device}' is not available: {torch.cuda.device_count()} GPU(s) found")
        reason += f", {torch.cuda.get_device_name(device)}"
    return device, reason


def fast_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """(dtype, reason): what the hardware multiplies matrices in fastest, out of fp32, bf16 and fp16."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return torch.bfloat16, f"SM {major}.{minor} has bf16 tensor cores"
        return torch.float16, f"SM {major}.{minor} has no bf16 tensor cores"
    if device.type == "cpu":
        # private probes: a torch without them simply gets fp32
        if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
            return torch.bfloat16, "CPU has AMX"
        if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
            return torch.bfloat16, "CPU has AVX512-BF16"
        return torch.float32, "CPU has no AVX512-BF16 or AMX"
    return torch.float32, f"the safe choice on {device.type}"


def choose_dtype(device: torch.device, name: str = "auto") -> tuple[torch.dtype, str]:
    """
    (compute dtype, reason). `name` is fp32, bf16, fp16 or 'auto'; 'auto' gives way to $NANOCHAT_DTYPE, then takes
    `fast_dtype`. Raises UserError for an unknown name.
    """
    import torch

    names = {
        "fp32": torch.float32, "float32": torch.float32,
        "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
        "fp16": torch.float16, "float16": torch.float16,
    }
    reason = "asked for"
    if name == "auto":
        name, reason = os.environ.get("NANOCHAT_DTYPE") or "auto", "NANOCHAT_DTYPE"
    if name == "auto":
        return fast_dtype(device)
    if name not in names:
        raise UserError(f"unknown dtype '{name}' ({reason}): use auto, fp32, bf16 or fp16", code=2)
    return names[name], reason


# -----------------------------------------------------------------------------
# Files that are files: what lies under a name may have been put there by somebody else

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither
NONBLOCK = getattr(os, "O_NONBLOCK", 0)


class OwnPath(type(Path())):
    """
    A path whose file must be a plain one of its own: `open_file` follows no link there, and refuses a file of two
    names. Either could lead to what belongs to somebody else. What is made of it by `with_name` is one, too.
    """


def open_file(path: str | os.PathLike, flags: int = os.O_RDONLY, follow: bool = True) -> int:
    """
    A descriptor, as of os.open. UserError, at once, for a fifo, a socket or a device: opened in the usual way, they are
    waited for. With follow=False for a link as well, and of an OwnPath for a file of two names. IsADirectoryError for
    a directory. What is looked at is what was opened, so nothing can be put in its place in between.
    """
    own = isinstance(path, OwnPath)
    try:
        fd = os.open(path, flags | NONBLOCK | (0 if follow and not own else NOFOLLOW), 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a link, which could lead anywhere: remove it") from error
        if error.errno == errno.ENXIO:
            raise UserError(f"{path}: not a file, but a fifo, a socket or a device") from error
        raise
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and not (own and found.st_nlink > 1):
        return fd
    os.close(fd)
    if stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: a file of two names, maybe another user's: put a copy in its place")
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise UserError(f"{path}: not a file, but a fifo, a socket or a device")


def create_file(path: str | os.PathLike) -> int:
    """
    A descriptor, to read and write, of a new file of mode 0600. What lies under this name is the remains of a crash, or
    a link that somebody has put there: the name is removed, and nothing is written through it.
    """
    Path(path).unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600)


def read_small(path: str | os.PathLike, most: int) -> bytes:
    """
    The bytes of a file, see `open_file`. UserError where it has more than `most`: as JSON it takes many times as much.
    """
    with open(open_file(path), "rb") as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path}: larger than the {most:,} bytes that such a file may have")
    return data


# -----------------------------------------------------------------------------
# Files that are whole or not there


def stage_file(path: str | os.PathLike, writer_fn: Callable[[BinaryIO], None], mode: int = 0o666) -> Path:
    """
    First half of `atomic_write`: `writer_fn(file)` fills a temporary file beside `path`, which is then on disk for
    sure. Returns its path, for `publish_file`. If the writer raises, the temporary is removed. mode: of the file, less
    the umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # not tempfile: it creates with mode 0600, this respects the umask
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(tmp, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as f:
            writer_fn(f)
            f.flush()
            os.fsync(f.fileno())
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    return tmp


def publish_file(tmp: Path, path: str | os.PathLike) -> None:
    """Second half of `atomic_write`: the staged file takes the place of `path`, durably."""
    os.replace(tmp, path)
    fsync_dir(Path(path).parent)


def fsync_dir(directory: str | os.PathLike) -> None:
    """Makes renames and removals in a directory durable. Windows has no such call, there it does nothing."""
    if os.name != "posix":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: str | os.PathLike, writer_fn: Callable[[BinaryIO], None], mode: int = 0o666) -> None:
    """
    Writes `path` so that a reader, or a crash at any instant, sees the old file or the new one, never a part.
    `writer_fn` gets a file open for binary writing; what it raises is passed on, the old file untouched. mode: as for
    `stage_file`.
    """
    tmp = stage_file(path, writer_fn, mode)
    try:
        publish_file(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -----------------------------------------------------------------------------
# The record of a run, and its seed


def rounded_up(n: int, step: int) -> int:
    """The smallest multiple of `step` that is not below n."""
    return -(-n // step) * step


@functools.cache
def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            if found := re.search(r"^model name\s*:\s*(.+)$", f.read(), re.MULTILINE):
                return found.group(1).strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


@functools.cache
def _git_commit() -> str | None:
    """The commit of this source, with '+changes' when tracked files differ from it; None outside a clone."""
    git = ["git", "-C", str(repo_root())]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True,
                                check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def run_record() -> dict:
    """What a result depends on besides its flags, as plain JSON: source, versions, hardware, date (UTC). No paths."""
    import torch

    return {
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def seed_everything(seed: int) -> None:
    """Seeds python's `random` and torch on every device. Nothing here draws from numpy's global generator."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
