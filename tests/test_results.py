"""dev/results.py: the suite can be run, and the page says what was measured."""
import json

import pytest

from dev import results
from nanochat.common import UserError
from scripts import memory_eval


@pytest.mark.parametrize("name, title, target, arguments", results.SUITE, ids=[s[0] for s in results.SUITE])
def test_the_commands_are_understood(name, title, target, arguments):
    args = memory_eval.build_parser().parse_args(["--model-path", "x", *arguments.format(bench="b", chat="c", prose="p").split()])
    memory_eval.task_of(args)   # refuses flags that the task does not know


def test_the_page(tmp_path):
    rows = [{"section": "overwrite", "command": "the command", "task": "overwrite", "keys": keys, "updates": 4, "control": control, "n": n, "exact": exact, "error": 1.0,
             "guess": 2.0, "misses": {"read": 3} if control == "memory" else {}, "stale": 1.5, "traces": 700, "ingest_seconds": 1.0, "seconds_a_question": 0.1}
            for keys, exact in ((64, 97.0), (256, 90.0)) for control, n, exact in (("memory", 100, exact), ("none", 50, 0.0), ("shuffled", 50, 4.0))]
    path, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert results.main(["page", "--rows", str(path), "--page", str(page)]) == 0
    text = page.read_text()
    assert "the command" in text and "Asked for: 99 %." in text
    assert "| keys | exact match, % | stale | control: none | control: shuffled | guess | n | misses |" in text
    assert "| 64 | **97.0** ± 1.0 | 1.5 | 0.0 | 4.0 | 2.0 | 100 | 3 read |" in text and "| 256 | **90.0**" in text
    with pytest.raises(UserError, match="nothing has been measured"):
        results.main(["page", "--rows", str(tmp_path / "none"), "--page", str(page)])
    with pytest.raises(UserError, match="no section nonsense"):
        results.main(["run", "--only", "nonsense"])
