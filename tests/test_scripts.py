"""
scripts/ingest.py, query.py, test_chat.py: from text to answers, what is refused and how, what goes to which stream.
"""
import importlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from nanochat import engine
from nanochat.checkpoint_manager import checkpoint_dir, load_model_file, save_checkpoint
from nanochat.common import repo_root, run_main
from nanochat.gpt import GPT, GPTConfig
from nanochat.text import printable
from nanochat.tokenizer import Tokenizer
from scripts import export_model, ingest, query, test_chat
from tests.conftest import tiny

TIMELINE = [f"t={t}: The user was in {place}, felt {mood}, and preferred {drink}." for t, place, mood, drink in
            ((1, "Lisbon", "glad", "ginger ale"), (2, "Oslo", "sleepy", "oat milk"), (3, "Quito", "proud", "coffee"))]
MODEL = "base_checkpoints/tiny/model_000001.pt"
DIM, PLAIN = "\x1b[2m", "from "


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A $NANOCHAT_BASE_DIR with a tiny random THENGPT, and next to it what is not one."""
    directory = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.load()
    model = tiny(tokenizer, n_head=1)
    other = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=4, n_head=1, n_kv_head=1, n_embd=32))
    other.init_weights()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(directory))
        for name, m, fingerprint in (("tiny", model, tokenizer.fingerprint), ("gpt", other, tokenizer.fingerprint),
                                     ("foreign", model, "0" * 64)):
            save_checkpoint(checkpoint_dir(name), 1, m.state_dict(), None,
                            {"config": m.describe(), "tokenizer": fingerprint})
        older = {**model.describe()["config"], "recall": True}
        save_checkpoint(checkpoint_dir("older"), 1, model.state_dict(), None,
                        {"config": {**model.describe(), "config": older}, "tokenizer": tokenizer.fingerprint})
        with torch.no_grad():
            model.wte.weight.mul_(1.5)
        save_checkpoint(checkpoint_dir("retrained"), 1, model.state_dict(), None,
                        {"config": model.describe(), "tokenizer": tokenizer.fingerprint})
    shutil.copytree(directory / "base_checkpoints/tiny", directory / "base_checkpoints/damaged")
    path = directory / "base_checkpoints/damaged/model_000001.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return directory


@pytest.fixture
def here(base, monkeypatch, tmp_path):
    """An empty current directory with data.txt, the timeline."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("\n".join(TIMELINE) + "\n")
    return tmp_path


@pytest.fixture
def call(here, capsys):
    """call(script, arguments…) -> (exit code, stdout, stderr), as from the shell."""
    def run(script, *argv):
        capsys.readouterr()
        try:
            code = run_main(lambda: script.main([str(a) for a in argv]))
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())
    return run


@pytest.fixture
def state(call):
    """S.pt, the state after the timeline."""
    assert call(ingest, *INGEST)[0] == 0
    return "S.pt"


INGEST = ("--model_path", MODEL, "--data_path", "data.txt", "--output_path", "S.pt")
QUERY = ("--model_path", MODEL, "--state_path", "S.pt", "--max-tokens", "6")


def one_line(err, *parts):
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and all(part in line for part in parts), err
    return "Traceback" not in err


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""
    def __init__(self, text=""):
        super().__init__(io.BytesIO(text.encode()), encoding="utf-8", write_through=True)

    def isatty(self):
        return True

    def written(self):
        return self.buffer.getvalue().decode()


def pipe(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


# ingest -------------------------------------------------------------------------------------------------------------


def test_ingest_says_on_stderr_what_it_did(call, here):
    code, out, err = call(ingest, *INGEST)
    assert code == 0 and out == "" and "3 episodes added, " in err and "tokens/s" in err
    assert "\r" not in err, "a progress bar without a terminal"
    assert sorted(p.name for p in here.iterdir()) == ["S.pt", "S.traces", "data.txt"]


def test_ingest_prints_one_json_object_when_asked(call, here):
    code, out, err = call(ingest, *INGEST, "--json", "--dtype", "fp32")
    got = json.loads(out)
    assert code == 0 and err == ""
    tokenizer = Tokenizer.load()
    lengths = [len(tokenizer.encode(line)) + 2 for line in TIMELINE]
    assert got["episodes"] == 3 and got["tokens"] == sum(lengths) and got["traces"] == sum(-(-n // 16) for n in lengths)
    assert got["bytes"] == sum((here / name).stat().st_size for name in ("S.pt", "S.traces")) and got["seconds"] > 0
    assert got["tokens_per_second"] > 0


def test_the_state_does_not_depend_on_the_place_or_the_time(call, here):
    call(ingest, *INGEST)
    call(ingest, *INGEST[:-1], "again.pt")
    for suffix in ("pt", "traces"):
        assert (here / f"again.{suffix}").read_bytes() == (here / f"S.{suffix}").read_bytes()


def test_ingest_reads_several_files_and_directories_in_order(call, here):
    (here / "notes/deep").mkdir(parents=True)
    (here / "notes/b.md").write_text("\ufeffthird\n", encoding="utf-8")
    (here / "notes/deep/c.TXT").write_bytes(b"\r\nfourth\r\n \r\n fifth \r\n")
    (here / "notes/a.txt").write_text("second")
    (here / "notes/no.bin").write_bytes(b"\0")
    code, out, _ = call(ingest, "--model-path", MODEL, "--data-path", "data.txt", "notes", "--output-path", "S.pt",
                        "--json")
    assert code == 0 and json.loads(out)["episodes"] == 7
    model, tokenizer, facts = engine.load_model(MODEL)
    from nanochat.memory import load_state
    state, sources = load_state(here / "S.pt", model, facts)
    assert sources[2:] == [("data.txt", 3), ("a.txt", 1), ("b.md", 1), ("deep/c.TXT", 2), ("deep/c.TXT", 4)]
    assert [engine.episode_text(state["traces"], tokenizer, i + 1)
            for i in range(7)] == [*TIMELINE, "second", "third", "fourth", "fifth"]


def test_episodes_are_lines_paragraphs_or_files():
    text = "\n one\ntwo \x0c\u2028 2\n \n\nthree\r\nfour\rfive\n"
    assert ingest.split_episodes(text, "line") == [("one", 2), ("two \x0c\u2028 2", 3), ("three", 6), ("four", 7),
                                                   ("five", 8)]
    assert ingest.split_episodes(text, "paragraph") == [("one\ntwo \x0c\u2028 2", 2), ("three\nfour\nfive", 6)]
    assert ingest.split_episodes(text, "file") == [("one\ntwo \x0c\u2028 2\n \n\nthree\nfour\nfive", 2)]
    assert all(ingest.split_episodes(blank, unit) == [] for blank in ("", " \n\t\r\n")
               for unit in ("line", "paragraph", "file"))


def test_a_line_longer_than_the_context_gives_more_traces(call, here):
    (here / "data.txt").write_text("word " * 600)
    code, out, _ = call(ingest, *INGEST, "--json")
    got = json.loads(out)
    assert code == 0 and got["episodes"] == 1 and got["traces"] == -(-got["tokens"] // 16) > 32


@pytest.mark.parametrize("data, message", [
    (b"", "empty or white space"),
    (b" \n\t\r\n", "empty or white space"),
    (b"good text\0", "binary, not text (NUL at byte 9)"),
    ("caf\u00e9".encode("latin-1"), "not UTF-8 text (byte 0xe9 at byte 3)"),
])
def test_ingest_refuses_what_is_not_text(call, here, data, message):
    (here / "data.txt").write_bytes(data)
    (here / "S.pt").write_bytes(b"before")
    code, out, err = call(ingest, *INGEST)
    assert code == 1 and out == "" and one_line(err, message) and (here / "S.pt").read_bytes() == b"before"


@pytest.mark.parametrize("change, code, message", [
    (("--data_path", "none.txt"), 1, "none.txt: no such file"),
    (("--data_path", "empty"), 1, "no .txt or .md file"),
    (("--output_path", "none/S.pt"), 1, "none: no such directory"),
    (("--output_path", "empty"), 2, "a directory"),
    (("--output_path", "data.txt"), 2, "is read from"),
    (("--model_path", "base_checkpoints/none/model_000001.pt"), 1, "no such model file"),
    (("--model_path", "base_checkpoints/damaged/model_000001.pt"), 1, "damaged"),
    (("--model_path", "base_checkpoints/gpt"), 1, "is a GPT"),
    (("--model_path", "base_checkpoints/foreign"), 1, "another tokenizer"),
    (("--model_path", "base_checkpoints/older"), 1, "another version of this code"),
    (("--model_path", "data.txt"), 1, "not a Live Memory checkpoint"),
    (("--dtype", "int3"), 2, "unknown dtype"),
])
def test_ingest_refuses_in_one_line(call, here, change, code, message):
    (here / "empty").mkdir()
    got, out, err = call(ingest, *INGEST, *change)
    assert got == code and out == "" and one_line(err, message)
    assert sorted(p.name for p in here.iterdir()) == ["data.txt", "empty"]
    assert (here / "data.txt").read_text().startswith(TIMELINE[0])


@pytest.mark.parametrize("field, value", [("n_layer", 4.0), ("n_embd", 32.5), ("n_head", 0), ("n_head", 5),
                                          ("vocab_size", -1), ("write_mixer", None), ("write_mixer", "none"),
                                          ("word_dim", [1]), ("text_fraction", "x"), ("later", 1), ("window", True)])
def test_a_forged_configuration_is_one_line(call, base, here, field, value):
    saved = load_model_file(MODEL)
    config = saved["meta"]["config"]
    forged = {**config, "config": {**config["config"], field: value}}
    save_checkpoint(here / "forged", 1, saved["model"], None, {**saved["meta"], "config": forged})
    code, out, err = call(ingest, *INGEST, "--model_path", "forged")
    assert code == 1 and out == "" and one_line(err, "forged is of another") and err.count("\n") == 1


@pytest.mark.parametrize("change", [{"tokenizer": None}, {"tokenizer": 7}, {"config": None}, {"config": {}},
                                    {"config": {"model_class": ["THENGPT"], "config": {}}},
                                    {"config": {"model_class": "THENGPT", "config": 3}}])
def test_a_model_that_does_not_say_what_it_is_is_one_line(call, base, here, change):
    saved = load_model_file(MODEL)
    save_checkpoint(here / "forged", 1, saved["model"], None, {**saved["meta"], **change})
    code, out, err = call(ingest, *INGEST, "--model_path", "forged")
    assert code == 1 and out == "" and one_line(err, "does not say what model") and err.count("\n") == 1


def test_a_failed_write_leaves_what_was_there(call, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    code, _, err = call(ingest, *INGEST)
    assert code == 1 and one_line(err, "No space left")
    assert sorted(p.name for p in here.iterdir()) == ["data.txt"]


# query --------------------------------------------------------------------------------------------------------------


def test_one_question(call, state):
    code, out, err = call(query, *QUERY, "-p", "What did the user prefer at t=2?")
    assert code == 0 and out.strip() and out.count("\n") >= 1
    lines = err.splitlines()
    assert lines and all(line.startswith((PLAIN, "not sure: confidence 0.", "put together:")) for line in lines)
    assert DIM not in err
    assert any(text in err for text in TIMELINE) and "[data.txt:" in err


def test_json_of_one_question(call, state):
    code, out, err = call(query, *QUERY, "-p", "What did the user prefer at t=2?", "--json")
    got = json.loads(out)
    assert code == 0 and err == ""
    assert set(got) == {"question", "answer", "confidence", "composed", "episodes", "seconds"}
    assert 0 < got["confidence"] <= 1 and got["seconds"] > 0 and got["episodes"]
    for e in got["episodes"]:
        assert e["text"] == TIMELINE[e["episode"] - 1] and 0 < e["score"] <= 1
        assert e["source"] == f"data.txt:{e['episode']}"
    assert call(query, *QUERY, "-p", "What did the user prefer at t=2?")[1] == got["answer"] + "\n"


def test_without_memory_there_is_no_source(call, state):
    argv = ("--model_path", MODEL, "--no-memory", "--max-tokens", "6", "-p", "Where was the user?")
    code, out, err = call(query, *argv)
    assert code == 0 and err.splitlines()[0] == "from nothing"
    assert json.loads(call(query, *argv, "--json")[1])["episodes"] == []
    assert call(query, *QUERY, "--no-memory", "-p", "Where was the user?")[1] == out


def test_piped_questions_are_answered_a_line_each(call, state, monkeypatch):
    pipe(monkeypatch, "Where was the user at t=1?\n\n/what now\nAnd at t=2?\n/quit\nnot asked\n")
    code, out, err = call(query, *QUERY, "--json")
    assert code == 2
    assert [json.loads(line)["question"] for line in out.splitlines()] == ["Where was the user at t=1?", "And at t=2?"]
    assert err == "error: unknown command /what: /help lists them\n"
    pipe(monkeypatch, b"fine\n\xff\nfine again\n")
    code, out, err = call(query, *QUERY, "--json")
    assert code == 2 and one_line(err, "stdin, line 2: not UTF-8")
    assert len(out.splitlines()) == 2, "what follows is still answered"


def test_questions_of_a_file(call, here, state):
    items = [{"question": "Where at t=1?", "answer": "Lisbon", "t": 1, "seconds": "theirs"},
             {"question": "Na\u00efve \u201cq\u201d \ud800?", "tags": [1, {"a": None}]}]
    (here / "q.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n\n")
    code, out, err = call(query, *QUERY, "--questions", "q.jsonl")
    first, second = map(json.loads, out.splitlines())
    assert code == 0 and err == ""
    assert first["question"] == "Where at t=1?" and first["expected"] == "Lisbon" and first["t"] == 1
    assert first["seconds"] != "theirs"
    assert first["answer"] != "Lisbon" and second["tags"] == [1, {"a": None}] and "expected" not in second


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"question": 3}', '{"question": " "}', '"text"', "\xff",
                                  "[" * 100000])
def test_a_malformed_line_of_questions_is_named(call, here, state, line):
    (here / "q.jsonl").write_bytes(b'{"question": "fine"}\n\n' + line.encode("latin-1") + b"\n")
    code, out, err = call(query, *QUERY, "--questions", "q.jsonl")
    assert code == 2 and out == "" and one_line(err, "q.jsonl, line 3")


@pytest.mark.parametrize("change, code, message", [
    (("--state_path", "none.pt"), 1, "no such state file"),
    (("--state_path", "data.txt"), 1, "not a Live Memory state"),
    (("--state_path", "cut.pt"), 1, "truncated or damaged"),
    (("--model_path", "base_checkpoints/retrained"), 1, "other weights"),
    (("--model_path", "base_checkpoints/none"), 1, "no such model file"),
    (("--questions", "empty.jsonl"), 2, "no question"),
    (("--questions", "none.jsonl"), 1, "none.jsonl"),
])
def test_query_refuses_in_one_line(call, here, state, change, code, message):
    (here / "cut.pt").write_bytes((here / "S.pt").read_bytes()[:-100])
    (here / "empty.jsonl").write_text("\n")
    asked = () if "--questions" in change else ("-p", "Where?")
    got, out, err = call(query, *QUERY, *asked, *change)
    assert got == code and out == "" and one_line(err, message)


@pytest.mark.parametrize("argv", [(), QUERY[:2], (*QUERY, "-p", " "), (*QUERY, "-p", "a", "--questions", "b"),
                                  (*QUERY, "--max-tokens", "0"), (*QUERY, "--unknown")])
def test_wrong_usage_is_code_2(call, argv):
    code, out, err = call(query, *argv)
    assert code == 2 and out == "" and "usage:" in err


def test_interactive(call, state, monkeypatch):
    """A question, an unknown command, an answer that Ctrl-C stops, Ctrl-D."""
    asked, real = [], engine.stream

    def answers(model, tokenizer, state, question, *args, **kwargs):
        asked.append(question)
        if question == "stop?":
            raise KeyboardInterrupt
        return real(model, tokenizer, state, question, *args, **kwargs)

    monkeypatch.setattr(engine, "stream", answers)
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminals = {name: Terminal("one?\n/x y\n\nstop?\ntwo?\n" if name == "stdin" else "")
                 for name in ("stdin", "stdout", "stderr")}
    for name, stream in terminals.items():
        monkeypatch.setattr(sys, name, stream)
    assert run_main(lambda: query.main(list(QUERY))) == 0
    err = terminals["stderr"].written()
    assert asked == ["one?", "stop?", "two?"] and "error: unknown command /x" in err and DIM + PLAIN in err
    assert terminals["stdout"].written().count("> ") == 6
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())   # answers go to a file: the prompt must not
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, Terminal("/help\none?\n/quit\n" if name == "stdin" else ""))
    assert run_main(lambda: query.main(list(QUERY))) == 0
    assert DIM not in sys.stderr.written() and sys.stderr.written().count("> ") == 3
    assert "Ctrl-D" in sys.stderr.written()
    assert "> " not in sys.stdout.getvalue() and sys.stdout.getvalue().strip()


def test_a_terminal_gets_no_escape_codes_from_what_was_ingested():
    assert printable("a\x1b[2Jb\n", Terminal()) == "a\ufffd[2Jb\n"
    assert printable("a\x1b[2Jb\n", io.StringIO()) == "a\x1b[2Jb\n"


# test_chat and all of them --------------------------------------------------------------------------------------------


def test_chat_says_what_runs_and_where_the_answer_came_from(call):
    code, out, err = call(test_chat, "--model-path", MODEL)
    assert code == 0 and err.startswith("Using ") and "dtype: " in err
    assert [line.split(":")[0] for line in out.splitlines()
            if line.startswith(("told", "asked", "answer", "from"))] == ["told"] * 3 + ["asked", "answer", "from"]
    code, out, err = call(test_chat, "--model-path", "none")
    assert code == 1 and out == "" and one_line(err, "none: no such model file")


def test_export_may_change_how_the_memory_is_read_and_nothing_else(call, here):
    done = lambda *argv, model=MODEL: call(export_model, "--model-path", model, "--output-path", "out", *argv)
    for wrong in ("gist_dim=8", "read_topk=0", "read_topk=many", "read_topk"):
        code, out, err = done("--set", wrong)
        assert code == 2 and out == "" and one_line(err, "--set") and not (here / "out").exists()
    code, out, err = done("--set", "read_topk=8", model="base_checkpoints/gpt")
    assert code == 2 and one_line(err, "has no read_topk") and not (here / "out").exists()
    assert done("--set", "read_topk=8")[0] == 0
    config, before = (load_model_file(path)["meta"]["config"]["config"] for path in ("out", MODEL))
    assert config == {**before, "read_topk": 8} and before["read_topk"] == 64


@pytest.mark.parametrize("script, most", [("query", 32), ("ingest", 32), ("memory", 32), ("export_model", 32),
                                          ("tok_train", 32), ("serve", 32), ("base_train", 50)])
def test_help_fits_a_screen_and_begins_with_the_usual_call(script, most, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"scripts.{script}").main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= most and lines[0].startswith(f"usage: python -m scripts.{script} ")
    flags = " ".join(lines[2:])
    assert "--state_" not in flags.replace("--state_path S.pt",
                                           "") and "--model_" not in flags.replace("--model_path",
                                                                                   ""), "one spelling is enough"


@pytest.mark.parametrize("script", [*(f"scripts.{p.stem}" for p in sorted((repo_root() / "scripts").glob("[!_]*.py"))),
                                    "scripts/test_chat.py"])
def test_help_does_not_wait_for_torch(script, tmp_path):
    run = (f"runpy.run_path({str(repo_root() / script)!r}, run_name='__main__')" if script.endswith(".py")
           else f"runpy.run_module({script!r}, run_name='__main__')")
    code = ("import atexit, runpy, sys; sys.argv[1:] = ['--help']; atexit.register(lambda: print('torch' in "
            f"sys.modules, file=sys.stderr)); {run}")
    # test_chat finds the repository by itself
    where = tmp_path if script.endswith(".py") else repo_root()
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:") and done.stderr == "False\n", done.stderr


@pytest.mark.parametrize("path", sorted((repo_root() / "dev").glob("bench_*.py")), ids=lambda path: path.stem)
def test_benchmarks_run_as_scripts_from_anywhere(path, tmp_path):
    done = subprocess.run([sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr


def test_the_commands_as_they_are_typed(here, base):
    """Both commands in processes of their own: exit codes and streams as the shell sees them."""
    python = lambda *argv, **kw: subprocess.run([sys.executable, "-m", *argv], cwd=repo_root(), capture_output=True,
                                                text=True, **kw)
    state = here / "S.pt"
    done = python("scripts.ingest", "--model_path", MODEL, "--data_path", str(here / "data.txt"), "--output_path",
                  str(state))
    assert done.returncode == 0 and done.stdout == "" and "3 episodes added" in done.stderr
    done = python("scripts.query", "--model_path", MODEL, "--state_path", str(state), "--max-tokens", "4", "--json",
                  input="Where at t=1?\nAnd at t=3?\n")
    assert done.returncode == 0 and done.stderr == ""
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2


@pytest.mark.slow
def test_pip_install_brings_the_tokenizer_and_the_model(tmp_path):
    pytest.importorskip("setuptools")
    source, where = tmp_path / "source", tmp_path / "where"
    for name in ("nanochat", "scripts", "dev", "data/tokenizer", "data/then-d6", "data/then-smollm2"):
        shutil.copytree(repo_root() / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(repo_root() / name, source)
    (tmp_path / "here").mkdir()
    python = lambda *argv, **kw: subprocess.run([sys.executable, *argv], cwd=tmp_path / "here", capture_output=True,
                                                text=True, **kw)
    done = python("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(where),
                  str(source))
    assert done.returncode == 0, done.stderr
    env = {**{k: v for k, v in os.environ.items() if k != "NANOCHAT_BASE_DIR"}, "PYTHONPATH": str(where)}
    done = python("-m", "scripts.query", "--model_path", "data/then-d6", "--no-memory", "--max-tokens", "4", "--json",
                  "-p", "Where is the key?", env=env)
    assert done.returncode == 0 and json.loads(done.stdout)["episodes"] == [], done.stderr
    done = python("-m", "scripts.memory_eval", "--model_path", "data/then-d6", "--steps", "40", "--questions", "2",
                  "--json", env=env)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[0])["n"] == 2, done.stderr
    done = python("-c", "import nanochat.common as c; print(c.__file__, c.base_dir())", env=env)
    assert done.stdout.split() == [str(where / "nanochat/common.py"), str(tmp_path / "here")]
