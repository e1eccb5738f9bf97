"""
The wall between what is evaluated and what makes training data: no eight words in a row of an evaluation stand in the
sources of a generator or a recipe, whatever the fields between them are called, and no generator imports an evaluation.

The hand-written memories are not in the repository. tests/wall.bin has their runs of eight words, hashed, five bytes
each in order; it is made by

    python -m tests.test_wall everyday.jsonl cases.jsonl

With LIVE_MEMORY_DATA=DIR the files are looked up there, everyday.jsonl, cases.jsonl and every *dev.jsonl (.xz, too),
and compared themselves.
"""
import ast
import hashlib
import json
import lzma
import os
import re
import sys
from pathlib import Path

import pytest

from nanochat.common import repo_root
from nanochat.words import WORD, fold

ROOT = repo_root()
WALL = Path(__file__).with_name("wall.bin")
RUN, SIZE = 8, 5   # words, bytes of a hash
FIELD = re.compile(r"\{[^{}|]*\}|\$\w+")   # of a format, of the grammar
GENERATORS = [ROOT / "dev" / f"{name}.py" for name in ("grammar", "dialogue_questions", "babi_questions")]
SOURCES = [*GENERATORS, *sorted((ROOT / "dev").glob("grammar*.txt")), *sorted((ROOT / "dev").glob("*.sh")),
           # that one is the evaluation
           *(path for path in sorted((ROOT / "scripts").glob("*.py")) if path.name != "memory_eval.py")]
EVALUATIONS = [f"nanochat.{name}" for name in ("tasks", "tasks_public", "task_data", "trials", "people", "peers",
                                               "evaluate")]
HARMLESS = "nanochat.task_data.REFUSAL"    # how one says that one doesn't know


def runs(text):
    """{hash: words} of every run of words in a text, and in the text without its fields."""
    out = {}
    for part in {text, FIELD.sub(" ", text)}:
        said = [fold(word) for word in WORD.findall(part)]
        every = (" ".join(said[i:i + RUN]) for i in range(len(said) - RUN + 1))
        out |= {hashlib.blake2b(run.encode(), digest_size=SIZE).digest(): run for run in every}
    return out


def runs_of_file(path):
    """The runs of everything that a file of JSON lines says, each line of it as one text."""
    found = {}
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            found |= runs(" ".join(strings(json.loads(line))))
    return found


def strings(value):
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)


def literals(source):
    """The texts in a module's source, but for what is said of it; f-strings without their fields."""
    nodes = list(ast.walk(ast.parse(source)))
    said_of = {id(node.body[0].value) for node in nodes if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
               and ast.get_docstring(node)}
    text = lambda node: isinstance(node, ast.Constant) and isinstance(node.value, str)
    whole = [node.value for node in nodes if text(node) and id(node) not in said_of]
    return whole + [" ".join(part.value for part in node.values if text(part)) for node in nodes
                    if isinstance(node, ast.JoinedStr)]


def runs_of_source(path):
    """The runs of a source as it stands and, of a module, of the texts that it makes of it."""
    text = path.read_text(encoding="utf-8")
    found = runs(text)
    for literal in literals(text) if path.suffix == ".py" else ():
        found |= runs(literal)
    return found


def shared(sources, forbidden):
    """What sources have of what they may not: {"file: words"}."""
    return {f"{path.name}: {run}" for path in sources for key, run in runs_of_source(path).items() if key in forbidden}


def committed():
    data = WALL.read_bytes()
    return [data[i:i + SIZE] for i in range(0, len(data), SIZE)]


def imported(path):
    """What a module imports: {"nanochat.tasks", "nanochat.task_data.REFUSAL", …}."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert not getattr(node, "level", 0), f"{path}: a relative import"
            out |= {alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
                    for alias in node.names}
    return out


def broken(path):
    """What a generator, and the modules of this repository that it imports, import of evaluations."""
    seen, todo = set(), [path]
    while todo:
        new = imported(todo.pop()) - seen
        seen |= new
        places = {place for name in new for place in (name, name.rpartition(".")[0])}
        todo += [file for place in places if (file := ROOT / (place.replace(".", "/") + ".py")).exists()]
    return {name for name in seen - {HARMLESS} if any(f"{name}.".startswith(f"{evaluation}.")
                                                      for evaluation in EVALUATIONS)}


# -----------------------------------------------------------------------------


def test_the_hashes_are_in_order_and_of_one_size():
    wall = committed()
    assert len(wall) > 5000 and WALL.stat().st_size % SIZE == 0 and wall == sorted(set(wall))


def test_no_hand_written_memory_is_in_a_generator():
    assert SOURCES and not shared(SOURCES, set(committed()))


def test_no_text_of_the_suite_is_in_a_generator():
    texts = [text for name in ("tasks", "task_data")
             for text in literals((ROOT / "nanochat" / f"{name}.py").read_text(encoding="utf-8"))]
    forbidden = {key for text in texts for key in runs(text)}
    assert len(forbidden) > 200 and not shared(SOURCES, forbidden)


def test_no_generator_imports_an_evaluation():
    assert {path.name: broken(path) for path in GENERATORS} == {path.name: set() for path in GENERATORS}


@pytest.mark.skipif("LIVE_MEMORY_DATA" not in os.environ, reason="LIVE_MEMORY_DATA says where the data is")
def test_no_file_of_the_evaluation_is_in_a_generator():
    files = {path.name.split(".")[0]: path for path in sorted(Path(os.environ["LIVE_MEMORY_DATA"]).rglob("*.jsonl*"))}
    files = {name: path for name, path in files.items() if name in ("everyday", "cases") or name.endswith("dev")}
    assert {"everyday", "cases",
            "dev"} <= set(files), "LIVE_MEMORY_DATA needs everyday.jsonl, cases.jsonl and dev.jsonl"
    assert sorted({**runs_of_file(files["everyday"]), **runs_of_file(files["cases"])}) == committed()
    for path in files.values():
        assert not shared(SOURCES, runs_of_file(path)), path.name


@pytest.mark.parametrize("source", ['X = ["the reeds by the MILL, nobody spoke for"]',
                                    'X = ("the reeds by the\\nmill, nobody"\n     " spoke for")',
                                    "# the reeds by the mill nobody spoke for",
                                    "x = 1\n'''the reeds by the\nmill: nobody spoke for'''",
                                    "X = 'the reeds', 'by the mill', 'nobody spoke for'"])
def test_a_text_that_breaks_the_wall_is_seen(tmp_path, source):
    (module := tmp_path / "leaks.py").write_text(source)
    forbidden = set(runs("Of the Reeds by the mill, nobody   spoke for – ever."))
    assert shared([module], forbidden) == {"leaks.py: the reeds by the mill nobody spoke for"}
    module.write_text(source.replace("nobody", "no one"))
    assert not shared([module], forbidden)


@pytest.mark.parametrize("name, source", (
    ("a.py", 'X = f"for the {number[0]} of the mill by the {2} and go"'),
    ("a.txt", "= ask\nfor the $p of the mill by the $v and go")))
def test_a_form_is_seen_whatever_its_fields_are_called(tmp_path, name, source):
    (file := tmp_path / name).write_text(source)
    assert shared([file], set(runs("Ask for the {n} of the mill by the {water} and go.")))
    assert not shared([file], set(runs("Ask for the {n} of the mill at the {water} and go.")))


def test_a_file_is_read_whole(tmp_path):
    rows = {"lines": ["Of the Reeds by the mill,"],
            "questions": [{"q": "nobody spoke?", "evidence": [0], "answers": ["for years"]}]}
    (file := tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress((json.dumps(rows) + "\n").encode()))
    assert runs_of_file(file) == runs("of the reeds by the mill nobody spoke for years")
    assert len(runs_of_file(file)) == 3


@pytest.mark.parametrize("source, found", (("from nanochat.common import UserError", set()),
                                           ("from nanochat.task_data import REFUSAL", set()),
                                           ("from nanochat.task_data import TALK, REFUSAL",
                                            {"nanochat.task_data.TALK"}),
                                           ("import nanochat.task_data", {"nanochat.task_data"}),
                                           ("def f():\n    from nanochat import evaluate", {"nanochat.evaluate"})))
def test_an_import_that_breaks_the_wall_is_seen(tmp_path, source, found):
    (module := tmp_path / "generator.py").write_text(source)
    assert found <= broken(module) and bool(found) == bool(broken(module))


def test_an_import_by_way_of_other_modules_is_seen(tmp_path):
    (module := tmp_path / "generator.py").write_text("from scripts import memory_eval")
    assert {"nanochat.tasks.ASKS", "nanochat.people.PEOPLE"} <= broken(module)


if __name__ == "__main__":
    made = set().union(*(runs_of_file(Path(name)) for name in sys.argv[1:]))
    WALL.write_bytes(b"".join(sorted(made)))
    print(f"{WALL.name}: {len(made):,} runs")
