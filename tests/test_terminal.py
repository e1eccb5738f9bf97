"""What reaches a terminal, and what a shell may do to the standard streams."""
import subprocess
import sys
from dataclasses import replace

import pytest

from nanochat.common import UserError, repo_root, run_main
from nanochat.memory_file import Content, header
from nanochat.record import Layout
from nanochat.text import printable
from tests.test_memory_script import STATE
# noqa: F401  fixtures
from tests.test_scripts import INGEST, MODEL, QUERY, Terminal, base, call, here, one_line, pipe, state
from scripts import ingest, memory, query

ESCAPES = "\x1b[2J\x9b31m\u202e\u2028"


def test_text_of_any_script_is_shown_as_it_is_and_escapes_are_not():
    real = ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u05d0\u200f! "
            "a\u200e 10\u202f\u20ac\u00a0\u3000 co\u00adop")
    assert printable(real, Terminal()) == real
    assert printable(ESCAPES, Terminal()) == "\ufffd[2J\ufffd31m\ufffd\ufffd"


@pytest.mark.parametrize("error", [UserError(f"{ESCAPES}.pt: no such file"),
                                   FileNotFoundError(2, "No such file", f"{ESCAPES}.pt")])
def test_an_error_passes_no_escape_codes_to_a_terminal(monkeypatch, error):
    def main():
        raise error

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run_main(main) == 1
    assert sys.stderr.written().count("\ufffd") >= 3 and not set(ESCAPES[:1] + "\x9b\u202e") & set(sys.stderr.written())


def test_stats_of_a_forged_memory_pass_no_escape_codes(call, here, state, monkeypatch):  # noqa: F811
    with open("S.pt", "rb") as file:
        content = Content.read(file, "S.pt")
    forged = replace(content, identity={**content.identity, "weights": ESCAPES})
    with open("S.pt", "wb") as file, open("S.traces", "r+b") as records:
        forged.write(file)
        records.write(header(forged.identity, Layout(forged.identity["geometry"])))
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert memory.main(["stats", *STATE]) == 0
    assert "weights: \ufffd[2J" in sys.stdout.written()


@pytest.mark.parametrize("closed, code, said", [("<&-", 0, ""),
                                                (">&-", 1, "error: stdout is closed, and answers would be lost"),
                                                ("2>&-", 0, "")])
def test_a_closed_stream_is_one_line(tmp_path, closed, code, said):
    """And no file that is opened takes its number: what is written there by others would be written into it."""
    path = tmp_path / "file"
    program = ("import sys; from nanochat.common import run_main; sys.exit(run_main(lambda: print(sys.stdin.read(), "
               f"open({str(path)!r}, 'w').fileno() > 2)))")
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program], cwd=repo_root(),
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
    assert done.stdout == ("" if code else " True\n")


def test_an_empty_stdin_is_said(call, state, monkeypatch):  # noqa: F811
    pipe(monkeypatch, "\n")
    assert call(query, *QUERY) == (0, "", "nothing was asked: stdin is empty\n")


# a conversation -------------------------------------------------------------------------------------------------------


def talk(monkeypatch, typed, *flags):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal(typed if name == "stdin" else ""))
    assert run_main(lambda: query.main([*QUERY, *flags])) == 0
    return sys.stdout.written(), sys.stderr.written()


@pytest.mark.parametrize("word", ["exit", "Quit", "/exit"])
def test_words_that_end_a_conversation(call, state, monkeypatch, word):  # noqa: F811
    _, err = talk(monkeypatch, f"help\n{word}\nI am still here\n")
    assert "/forget [ID|TEXT]" in err and "remembered as episode" not in err


def test_a_question_without_its_mark_is_asked_or_said_to_be_remembered(call, state, monkeypatch):  # noqa: F811
    _, err = talk(monkeypatch, "tell me where the user was at t=2\nis the user in Oslo\nquit\n", "--incognito")
    assert err.count("remembered as episode") == 1
    assert "remembered as episode 4, until you leave; if it was a question, end it in '?', and /forget 4" in err


def test_one_question_too_long_leaves_the_others_their_answers(call, here, state):  # noqa: F811
    (here / "q.jsonl").write_text('\ufeff{"question": "Where at t=1?"}\n{"question": "%s?"}\n{"question": "Where at '
                                  't=2?"}\n' % ("why " * 999), encoding="utf-8")
    code, out, err = call(query, *QUERY, "--questions", "q.jsonl")
    assert code == 2 and out.count("\n") == 2 and one_line(err, "question 2: a question of")


# files of text --------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_whatever_one_file_of_it_is(call, here):  # noqa: F811
    for name in (".hidden", "notes"):
        (here / "d" / name).mkdir(parents=True)
        (here / "d" / name / "a.txt").write_text(f"In {name}.\n")
    (here / "d/wide.txt").write_text("Caf\u00e9 wide.\n", encoding="utf-16")
    (here / "d/old.txt").write_bytes("Caf\u00e9 old.\n".encode("latin-1"))
    (here / "d/odd.txt").write_bytes(b"\xff\xfea")
    flags = [*INGEST[:3], "d", *INGEST[4:]]
    code, _, err = call(ingest, *flags)
    assert code == 0 and err.count("skipped: ") == 2 and "old.txt: not UTF-8 text (byte 0xe9" in err
    assert "odd.txt: damaged UTF-16" in err
    out = call(memory, "list", *STATE)[1]
    assert "In notes." in out and "Caf\u00e9 wide." in out and "hidden" not in out and out.count("\n") == 2
    assert call(ingest, *INGEST[:3], "d/.hidden", "--output_path", "H.pt")[0] == 0, "what is asked for is read"


def test_times_before_1970_are_kept_shown_and_found(call, here):  # noqa: F811
    (here / "data.txt").write_text("A man stood on the moon.\n")
    assert call(ingest, *INGEST, "--time", "1969-07-20T20:17:00+00:00")[0] == 0
    (here / "data.txt").write_text("A man stood on the moon.\nNobody knows when.\n")
    assert call(ingest, *INGEST, "--append")[0] == 0
    first, second = call(memory, "list", *STATE)[1].splitlines()
    assert "  1969-07-2" in first and second.split() == ["2", "Nobody", "knows", "when.", "[data.txt:2]"]
    assert "oldest: 1969-07-20T20:17:00+00:00" in call(memory, "stats", *STATE)[1]
    code, out, _ = call(memory, "forget", "--until", "1969-12-01", "--dry-run", *STATE)
    assert code == 0 and "moon" in out and "Nobody" not in out
    assert call(memory, "forget", "--until", "1969-12-31T23:59:59+00:00", *STATE)[0] == 2, "it means not known"


@pytest.mark.parametrize("line", ["1099511627776", "1e300", "-2", '"7"', "1.5", "true"])
def test_a_line_number_that_is_none_is_refused(call, here, line):  # noqa: F811
    (here / "e.jsonl").write_text('\ufeff{"text": "Fine.", "line": 3}\n{"text": "Not fine.", "line": %s}\n' % line,
                                  encoding="utf-8")
    code, _, err = call(memory, "import", "e.jsonl", "--model-path", MODEL, *STATE)
    assert code == 2 and one_line(err, "e.jsonl, line 2: ") and not (here / "S.pt").exists()
