"""docs/tutorial.md: every command in it, as it is typed there, in order, in an empty directory."""
import json
import os
import re
import shlex
import subprocess
import sys

from nanochat.common import repo_root

TUTORIAL = (repo_root() / "docs/tutorial.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_tutorial(tmp_path):
    (program,) = blocks("python")
    (tmp_path / "program.py").write_text(program)
    # `python` is this one; `done` after each block says on both streams where its output ends
    script = f"set -euo pipefail\npython() {{ {shlex.quote(sys.executable)} \"$@\"; }}\n"
    script += "".join(block + "echo done; echo done >&2\n" for block in [*blocks("bash"), "python program.py\n"])
    env = {**os.environ, "PYTHONPATH": str(repo_root()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    outs, errs = (stream.split("done\n")[:-1] for stream in (done.stdout, done.stderr))
    _, ingested, asked, unsure, piped, talked, looked, forgotten, program_said = zip(outs, errs)
    assert "4 episodes added" in ingested[1]
    assert asked[0].strip() and re.search(r"^from \d\.\d\d  .*\[notes.txt:\d\]$", asked[1], re.MULTILINE)
    assert unsure[0].strip() and "from " in unsure[1]
    answer = json.loads((tmp_path / "answers.jsonl").read_text())
    assert answer["question"] == "Where is the key of the garden shed?" and answer["routing"] and piped == ("", "")
    assert "remembered as episode 5" in talked[1] and "I moved to Luxor.  [chat]" in talked[0] and "1 episodes hold" in talked[1]
    assert looked[0].count("\n") == 5 and "5 episodes" in looked[1] and "swordfish" in (tmp_path / "memory.html").read_text()
    assert "1 forgotten, 4 left" in forgotten[1] and "1 forgotten, 3 left" in forgotten[1] and "good: 3 episodes" in forgotten[0]
    assert "The bicycle is in the cellar." in program_said[0]
    left = (tmp_path / "notes.traces").read_bytes()
    fresh = f"{shlex.quote(sys.executable)} -m scripts.ingest --model_path data/then-d4 --data_path notes.txt --output_path fresh.pt"
    lines = (tmp_path / "notes.txt").read_text().splitlines()
    (tmp_path / "notes.txt").write_text("\n".join([*lines[:2], "", lines[3]]) + "\n")
    assert subprocess.run(["bash", "-c", fresh], cwd=tmp_path, env=env, capture_output=True).returncode == 0
    assert left == (tmp_path / "fresh.traces").read_bytes() and (tmp_path / "notes.pt").read_bytes() == (tmp_path / "fresh.pt").read_bytes()


def test_what_is_shown_and_not_run_is_only_what_needs_a_terminal_or_a_network():
    assert len(blocks("sh")) == 1 and "pip install" in blocks("sh")[0]
    assert len(blocks("text")) == 1 and blocks("text")[0].startswith("$ python -m scripts.query")
    assert len(re.findall("^```", TUTORIAL, re.MULTILINE)) == 2 * (len(blocks("bash")) + 3)
