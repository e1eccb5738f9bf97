"""dev/results.py: the suite can be run, and the page says what was measured."""
import json
import multiprocessing
import re

import pytest

from dev import results
from nanochat.common import UserError
from scripts import memory_eval


@pytest.mark.parametrize("name, title, target, arguments", results.SUITE, ids=[s[0] for s in results.SUITE])
def test_the_commands_are_understood(name, title, target, arguments):
    args = memory_eval.build_parser().parse_args(["--model-path", "x", *arguments.format(bench="b", chat="c", prose="p", babi="m").split()])
    memory_eval.task_of(args)   # refuses flags that the task does not know


def test_the_page(tmp_path):
    rows = [{"section": "overwrite", "command": "the command", "task": "overwrite", "keys": keys, "updates": 4, "control": control, "n": n, "exact": exact, "error": 1.0,
             "guess": 2.0, "misses": {"read": 3} if control == "memory" else {}, "stale": 1.5, "traces": 700, "ingest_seconds": 1.0, "seconds_a_question": 0.1}
            for keys, exact in ((64, 97.0), (256, 90.0)) for control, n, exact in (("memory", 100, exact), ("none", 50, 0.0), ("shuffled", 50, 4.0))]
    path, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert results.main(["page", "--rows", str(path), "--page", str(page), "--ablations", str(tmp_path / "none")]) == 0
    text = page.read_text()
    assert "the command" in text and "Asked for: 99 %." in text
    assert "| keys | exact match, % | stale | control: none | control: shuffled | guess | n | misses |" in text
    assert "| 64 | **97.0** ± 1.0 | 1.5 | 0.0 | 4.0 | 2.0 | 100 | 3 read |" in text and "| 256 | **90.0**" in text
    assert "Ablations" not in text
    ablated = [{"kind": kind, "name": name, "command": f"dev/ablate.py {kind}", "results": results} for kind, name, results in
               (("read", "as shipped", {"timeline 10k": 97.0, "n": 100}), ("train", "as shipped", {"first token": 60.0, "evidence first": 90.0}), ("train", "no head", {"first token": 20.5}))]
    (tmp_path / "ablations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ablated))
    assert results.main(["page", "--rows", str(path), "--page", str(page), "--ablations", str(tmp_path / "ablations.jsonl")]) == 0
    text = page.read_text()
    assert "    dev/ablate.py train\n\n| variant | first token | evidence first |\n|---|---|---|\n| as shipped | 60.0 | 90.0 |\n| no head | 20.5 |  |" in text
    assert "| as shipped | 97.0 | 100 |" in text
    with pytest.raises(UserError, match="nothing has been measured"):
        results.main(["page", "--rows", str(tmp_path / "none"), "--page", str(page)])
    with pytest.raises(UserError, match="no section nonsense"):
        results.main(["run", "--only", "nonsense"])


def write_rows(path, writer):
    for n in range(20):
        results.replace_rows(path, [{"writer": writer, "n": n}], lambda row: row["writer"] == writer)


def test_rows_are_replaced_and_none_is_lost_between_two_processes(tmp_path):
    path = str(tmp_path / "rows.jsonl")
    results.replace_rows(path, [{"writer": "before", "n": 0}], lambda row: False)
    processes = [multiprocessing.get_context("fork").Process(target=write_rows, args=(path, writer)) for writer in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = results.read_rows(path)
    assert rows[0] == {"writer": "before", "n": 0} and sorted((r["writer"], r["n"]) for r in rows[1:]) == [("a", 19), ("b", 19)]


def test_a_section_is_replaced_as_it_is_measured_and_its_command_is_that_given(tmp_path, monkeypatch):
    """memory_eval is replaced by a script that prints two rows, and fails where the model is called bad."""
    rows, asked = tmp_path / "rows.jsonl", tmp_path / "asked"
    rows.write_text("".join(json.dumps({"section": s, "exact": 1.0}) + "\n" for s in ("mqar", "mqar", "unknown")))
    fake = f"import json, sys; open({str(asked)!r}, 'w').write(' '.join(sys.argv[1:])); [print(json.dumps({{'exact': x, 'noise': 'away'}}), flush=True) for x in (2.0, 3.0)]; sys.exit('bad' in sys.argv)"
    popen = results.subprocess.Popen
    monkeypatch.setattr(results.subprocess, "Popen", lambda command, **kw: popen([command[0], "-c", fake, *command[3:]], **kw))
    assert results.main(["run", "--only", "mqar", "--rows", str(rows), "--model-path", "base_checkpoints/x"]) == 0
    got = results.read_rows(rows)
    assert [(r["section"], r["exact"]) for r in got] == [("unknown", 1.0), ("mqar", 2.0), ("mqar", 3.0)] and "noise" not in got[1]
    assert got[1]["command"].startswith("python -m scripts.memory_eval --model-path base_checkpoints/x --task mqar")
    assert results.main(["run", "--only", "babilong-trained", "--rows", str(rows), "--babi", "/a/b/babi", "--bench", "/data/bench"]) == 0
    assert re.match(r".*--model-path babi --task babilong --data bench ", results.read_rows(rows)[-1]["command"])   # no path of this machine
    assert asked.read_text().startswith("--json --model-path /a/b/babi --task babilong --data /data/bench ")
    assert results.main(["run", "--only", "babilong-trained", "--rows", str(rows)]) == 0   # left out, --babi is not given
    with pytest.raises(UserError, match="failed in mqar"):
        results.main(["run", "--only", "mqar", "--rows", str(rows), "--model-path", "bad"])
    assert [r["section"] for r in results.read_rows(rows)].count("mqar") == 2   # what it printed before it failed
