"""docs/tutorial.md: every command in it, as it is typed there, in order, in an empty directory."""
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from nanochat.common import repo_root, run_main
from tests.test_view import data_of

TUTORIAL = (repo_root() / "docs/tutorial.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"(?:(?P<feed>.+?) \| )?python -m (?P<module>\S+) (?P<flags>.*?)(?: > (?P<file>\S+))?")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)


def shell(command):
    return subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, check=True).stdout


def in_this_process(monkeypatch, capsys):
    """Yields (stdout, stderr) of each block. Commands of python are run here: torch is imported once."""
    for block in blocks("bash"):
        capsys.readouterr()
        if "python -m" not in block:
            shell(block)
        else:
            for line in block.splitlines():
                command = COMMAND.fullmatch(line)
                assert command, line
                monkeypatch.setattr("sys.stdin",
                                    io.TextIOWrapper(io.BytesIO(shell(command["feed"]) if command["feed"] else b"")))
                before = capsys.readouterr()
                assert (run_main(lambda: importlib.import_module(command["module"]).main(shlex.split(command["flags"])))
                        == 0), line
                out, err = capsys.readouterr()
                if command["file"]:
                    with open(command["file"], "w") as file:
                        file.write(out)
                    out = ""
                sys.stdout.write(before.out + out)
                sys.stderr.write(before.err + err)
        yield capsys.readouterr()
    exec(compile(blocks("python")[0], "tutorial.md", "exec"), {})
    yield capsys.readouterr()


def in_a_shell(monkeypatch, capsys):
    """The same, by bash."""
    with open("program.py", "w") as file:
        file.write(blocks("python")[0])
    # `done` after each block says on both streams where its output ends
    script = f"set -euo pipefail\npython() {{ {shlex.quote(sys.executable)} \"$@\"; }}\n"
    script += "".join(block + "echo done; echo done >&2\n" for block in [*blocks("bash"), "python program.py\n"])
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "PYTHONPATH": str(repo_root())},
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    yield from zip(*(stream.split("done\n")[:-1] for stream in (done.stdout, done.stderr)))


@pytest.mark.parametrize("run", [in_this_process, pytest.param(in_a_shell, marks=pytest.mark.slow)])
def test_every_command_of_the_tutorial(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NANOCHAT_BASE_DIR", raising=False)
    _, ingested, asked, unsure, piped, talked, looked, forgotten, program = run(monkeypatch, capsys)
    assert "4 episodes added" in ingested[1]
    assert asked[0].strip() and re.search(r"^from \d\.\d\d .* \[notes.txt:\d\]$", asked[1], re.MULTILINE)
    assert unsure[0].strip() and "from " in unsure[1]
    answer = json.loads((tmp_path / "answers.jsonl").read_text())
    assert answer["question"] == "Where is the key of the garden shed?" and answer["routing"]
    assert tuple(piped) == ("", "")
    assert "remembered as episode 5" in talked[1] and "I moved to Luxor.  [chat]" in talked[0]
    assert "1 episodes hold" in talked[1]
    assert looked[0].count("\n") == 5 + 1 and "I moved to Luxor." in looked[0].splitlines()[-1]
    assert "5 episodes" in looked[1]
    assert "swordfish" in "".join(map(str.strip,
                                      sum((e[0] for e in data_of((tmp_path / "memory.html").read_text())["episodes"]),
                                          [])))
    assert "1 forgotten, 4 left" in forgotten[1] and "1 forgotten, 3 left" in forgotten[1]
    assert "good: 3 episodes" in forgotten[0]
    kept, = tmp_path.glob("notes.forgotten-*.jsonl")
    assert str(kept.name) in forgotten[1]
    assert json.loads(kept.read_text())["text"] == "The password of the guest network is swordfish."
    assert "The bicycle is in the cellar." in program[0]
    lines = (tmp_path / "notes.txt").read_text().splitlines()
    (tmp_path / "notes.txt").write_text("\n".join([*lines[:2], "", lines[3]]) + "\n")
    ingest = importlib.import_module("scripts.ingest")
    assert ingest.main(["--model_path", "data/then-d6", "--data_path", "notes.txt", "--output_path", "fresh.pt"]) == 0
    for name in ("pt", "traces"):
        assert ((tmp_path / f"notes.{name}").read_bytes()
                == (tmp_path / f"fresh.{name}").read_bytes()), "as if the others had never been said"


def test_what_is_shown_and_not_run_is_only_what_needs_a_terminal_or_a_network():
    assert len(blocks("sh")) == 1 and "pip install" in blocks("sh")[0]
    assert len(blocks("text")) == 1 and blocks("text")[0].startswith("$ python -m scripts.query")
    assert len(re.findall("^```", TUTORIAL, re.MULTILINE)) == 2 * (len(blocks("bash")) + 3)
