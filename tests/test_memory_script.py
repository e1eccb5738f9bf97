"""scripts/memory.py, and ingest into a memory that is there: what a person does with what is remembered."""
import json

import pytest

from nanochat import engine
from nanochat.checkpoint_manager import checkpoint_dir
from nanochat.memory import Store, load_state
from nanochat.users import user_path
from nanochat.common import UserError
from scripts import ingest, memory, query
from tests.test_scripts import INGEST, MODEL, QUERY, TIMELINE, base, call, here, one_line, state  # noqa: F401  fixtures

STATE = ("--state_path", "S.pt")
MORE = [*TIMELINE, "The doctor's number is 555 0199.", "t=3: The user was in Quito, felt proud, and preferred coffee.",
        "A much longer line. " * 12]


def both(here, name="S"):
    return tuple((here / f"{name}.{suffix}").read_bytes() for suffix in ("pt", "traces"))


def ingested(call, here, lines, *flags):
    (here / "data.txt").write_text("\n".join(lines) + "\n")
    code, out, err = call(ingest, *INGEST, "--json", *flags)
    assert code == 0, err
    return json.loads(out)


def listed(call, *argv):
    code, out, err = call(memory, "list", *(argv or STATE), "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def killed_at_the_second_commit(monkeypatch, episodes):
    """
    Makes an ingest commit after so many episodes, and be interrupted while it reads the next ones. Returns a list that
    grows with each reading.
    """
    monkeypatch.setattr(engine, "COMMIT", episodes)
    read, calls = engine.ingest_ids, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*args, **kwargs)

    monkeypatch.setattr(engine, "ingest_ids", killed)
    return calls


# ingest into what is there --------------------------------------------------------------------------------------------


def test_the_same_file_twice_adds_nothing(call, here, state):
    before = both(here)
    for flags in ((), ("--append",)):
        got = ingested(call, here, TIMELINE, *flags)
        assert (got["added"], got["skipped"], got["episodes"]) == (0, 3, 3) and both(here) == before


def test_append_adds_what_is_new_of_a_file(call, here, state):
    got = ingested(call, here, [*TIMELINE, TIMELINE[0], "New."], "--append")
    assert (got["added"], got["skipped"], got["episodes"]) == (2, 3, 5), "a line said once more is one more memory"
    (here / "other.txt").write_text("New.\n")
    code, out, _ = call(ingest, *INGEST[:3], "other.txt", *INGEST[4:], "--append", "--json")
    assert code == 0 and json.loads(out)["added"] == 1, "the same text from another source is another memory"
    assert [e["text"] for e in listed(call)] == [*TIMELINE, TIMELINE[0], "New.", "New."]


def test_with_replace_the_state_is_of_this_text_alone(call, here, state):
    ingested(call, here, ["One.", "Two."], "--replace")
    assert [e["text"] for e in listed(call)] == ["One.", "Two."]


def test_a_killed_ingest_goes_on_where_it_was(call, here, monkeypatch):
    ingested(call, here, MORE)
    whole = both(here)
    for name in ("S.pt", "S.traces"):
        (here / name).unlink()
    killed_at_the_second_commit(monkeypatch, 2)
    assert call(ingest, *INGEST)[0] == 130 and len(listed(call)) == 2
    got = ingested(call, here, MORE)
    assert (got["added"], got["skipped"]) == (len(MORE) - 2, 2) and both(here) == whole


def test_append_to_a_memory_of_another_model_is_refused(call, here, state):
    before = both(here)
    code, _, err = call(ingest, *INGEST, "--append", "--model_path", "base_checkpoints/retrained")
    assert code == 1 and one_line(err, "other weights") and both(here) == before


# what is forgotten ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [{1}, {2, 4}, {6}, {3, 5}, {1, 2, 3, 4, 5, 6}])
def test_delete_is_never_having_ingested(call, here, gone):
    ingested(call, here, MORE)
    code, _, err = call(memory, "delete", *sorted(gone), *STATE, "--yes", "--no-export")
    assert code == 0 and f"{len(gone)} forgotten, {6 - len(gone)} left" in err
    after = both(here)
    # never there: a blank line in its place, which is no episode, keeps the line numbers of the others
    (here / "data.txt").write_text("\n".join("" if i + 1 in gone else line for i, line in enumerate(MORE)))
    if len(gone) < 6:
        assert call(ingest, *INGEST[:-1], "fresh.pt")[0] == 0
        assert after == both(here, "fresh")
    assert {p.name for p in here.iterdir()} <= {"S.pt", "S.traces", "fresh.pt", "fresh.traces", "data.txt"}


def test_answers_about_the_others_stay_as_they_were(call, here):
    question = ("-p", "What did the user prefer at t=2?", "--json")
    (here / "data.txt").write_text("\n".join(["", *TIMELINE[1:]]))
    assert call(ingest, *INGEST)[0] == 0
    without = call(query, *QUERY, *question)[1]
    ingested(call, here, TIMELINE, "--replace")
    call(memory, "delete", "1", *STATE, "--yes")
    strip = lambda out: {**json.loads(out), "seconds": 0}
    assert strip(call(query, *QUERY, *question)[1]) == strip(without)


def test_a_ram_budget(call, here, state):
    question = ("-p", "What did the user prefer at t=2?")
    assert call(query, *QUERY, *question, "--ram-budget", "1GB") == call(query, *QUERY, *question)
    code, out, err = call(query, *QUERY, *question, "--ram-budget", "1")
    assert code == 1 and out == "" and one_line(err, "need a RAM budget of")
    assert call(query, *QUERY, *question, "--ram-budget", "much")[0] == 2


def test_forget(call, here):
    ingested(call, here, MORE, "--time", "2024-05-01T12:00:00+00:00")
    (here / "b.txt").write_text("Later.\n")
    assert call(ingest, *INGEST[:3], "b.txt", *INGEST[4:], "--append", "--time", "2025-01-01")[0] == 0
    texts = lambda: [e["text"] for e in listed(call)]
    code, _, err = call(memory, "forget", "--match", "DOCTOR", *STATE, "--dry-run")
    assert code == 0 and "would forget 1 of 7" in err and len(texts()) == 7
    assert call(memory, "forget", "--match", "DOCTOR", *STATE, "--yes")[0] == 0
    assert not any("doctor" in t for t in texts())
    code, _, err = call(memory, "forget", "--match", "doctor", *STATE, "--yes")
    assert code == 1 and one_line(err, "nothing to forget"), "nothing deleted is no success"
    assert call(memory, "forget", "--since", "2024-12-01", *STATE, "--yes")[0] == 0 and "Later." not in texts()
    assert len(texts()) == 5
    assert call(memory, "forget", "--until", "2024-06-01", "--source", "b.txt", *STATE, "--yes")[0] == 1
    assert call(memory, "forget", "--until", "2024-06-01", "--source", "data.txt", *STATE, "--yes")[0] == 0
    assert texts() == []
    code, _, err = call(memory, "forget", *STATE)
    assert code == 2 and "one of --match" in err


def test_nothing_is_forgotten_unasked(call, here, state):
    before = both(here)
    code, _, err = call(memory, "wipe", *STATE)
    assert code == 2 and one_line(err, "--yes is needed") and both(here) == before
    assert call(memory, "wipe", *STATE, "--dry-run")[0] == 0 and both(here) == before
    for argv, message in ((("delete", "4"), "no episode 4, there are 3"), (("delete", "0"), "no episode 0"),
                          (("delete", "2-9999999999"), "no episode 9999999999"),
                          (("forget", "--since", "2020-01-01"), "no episode has a time"),
                          (("show", "7"), "no episode 7")):
        code, out, err = call(memory, *argv, *STATE, *(["--yes"] if argv[0] != "show" else []))
        assert code == 1 and out == "" and one_line(err, message) and both(here) == before
    for argv in (("delete", "x"), ("delete", "3-2"), ("delete",), ("list", "extra"), ("forget", "--since", "yesterday"),
                 ()):
        code, out, err = call(memory, *argv, *STATE) if argv else call(memory)
        assert code == 2 and out == "" and "usage:" in err
    assert call(memory, "wipe", *STATE, "--yes")[0] == 0 and listed(call) == []
    code, out, err = call(query, *QUERY, "-p", "Where was the user at t=1?")
    assert code == 0 and err.splitlines()[0] == "from nothing"


# what there is --------------------------------------------------------------------------------------------------------


def test_search_finds_what_a_question_finds_best_first(call, here):
    ingested(call, here, [*MORE, "The clinic in Oslo, and its doctor: oslo@clinic.example, Oslo!"])
    model, tokenizer, facts = engine.load_model(MODEL)
    lines = [e["text"] for e in listed(call)]
    for text in ("Where is the doctor in OSLO?", "oslo@clinic.example", "coffee"):
        code, out, _ = call(memory, "search", text, *STATE, "--json", "--model-path", MODEL)
        rows = [json.loads(line) for line in out.splitlines()]
        state = load_state("S.pt", model, facts)[0]
        what = engine.found(model, tokenizer, state, text)
        assert code == 0 and [(r["episode"], r["score"]) for r in rows] == [
            (e, float(what.score[e - 1])) for e in what.best if what.score[e - 1]]
        assert [r["text"] for r in rows] == [lines[r["episode"] - 1] for r in rows] and len(rows) < len(lines)
    code, out, _ = call(memory, "search", "the user in Oslo", *STATE, "--model_path", MODEL, "--most", "2")
    assert code == 0 and out.count("\n") == 2 and float(out.split()[0]) > 0 and "Oslo" in out.splitlines()[0]


def test_search_without_a_hit_and_what_it_refuses(call, here, state):
    model = ("--model-path", MODEL)
    assert call(memory, "search", "nowhere", *STATE, *model)[:2] == (1, "")
    for flags, code, words in ((("", *STATE, *model), 2, "an empty question"), (("x", *STATE), 1, "another shape"),
                               (("x", *STATE, "--model-path", "none.pt"), 1, "none.pt")):
        got, out, err = call(memory, "search", *flags)
        assert (got, out) == (code, "") and one_line(err, words)
    assert call(memory, "search", "x", *STATE, *model, "--most", "0")[0] == 2
    call(memory, "wipe", *STATE, "--yes")
    assert call(memory, "search", "Oslo", *STATE, *model)[:2] == (1, "")


def test_exact_search_is_for_a_text_as_it_stands_and_loads_no_model(call, here, state, monkeypatch):
    monkeypatch.setattr(engine, "load_model", None)
    code, out, _ = call(memory, "search", "in OSLO, f", *STATE, "--exact")
    assert code == 0 and out.count("\n") == 1 and "score" not in out
    assert call(memory, "search", "user", *STATE, "--exact")[1].count("\n") == 3
    assert call(memory, "search", "nowhere", *STATE, "--exact")[:2] == (1, "")
    one_line(call(memory, "search", "user", *STATE, "--exact", "--model-path", "none.pt")[2], "none.pt: no such model")


def test_list_show_stats_verify(call, here, state):
    rows = listed(call)
    assert [r["text"] for r in rows] == TIMELINE and rows[2]["source"] == "data.txt" and rows[2]["line"] == 3
    assert rows[2]["episode"] == 3
    code, out, _ = call(memory, "list", *STATE)
    assert code == 0 and out.count("\n") == 3 and "[data.txt:2]" in out
    code, out, _ = call(memory, "show", "2", *STATE)
    assert code == 0 and TIMELINE[1] in out and "line: 2" in out
    assert json.loads(call(memory, "show", "2", *STATE, "--json")[1]) == rows[1]
    got = json.loads(call(memory, "stats", *STATE, "--json")[1])
    assert got["episodes"] == 3 and got["tokens"] == sum(r["tokens"] for r in rows)
    assert got["traces"] == sum(r["traces"] for r in rows)
    assert sum(got["bytes"].values()) == sum(map(len, both(here))) and got["oldest"] is None
    assert "bytes a token" in call(memory, "stats", *STATE)[1]
    assert "good: 3 episodes" in call(memory, "verify", *STATE)[1]
    data = bytearray((here / "S.traces").read_bytes())
    data[-100] ^= 4
    (here / "S.traces").write_bytes(data)
    code, out, err = call(memory, "verify", *STATE)
    assert code == 1 and out == "" and one_line(err, "damaged")
    assert one_line(call(query, *QUERY, "-p", "Where?")[2], "damaged")
    assert one_line(call(memory, "list", "--state_path", "none.pt")[2], "no such state file")


# carried elsewhere ----------------------------------------------------------------------------------------------------


def test_export_and_import(call, here):
    ingested(call, here, MORE, "--time", "2024-05-01")
    whole = both(here)
    code, out, _ = call(memory, "export", *STATE)
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == [line.strip() for line in MORE]
    (here / "all.jsonl").write_text(out)
    for added in (6, 0):
        code, _, err = call(memory, "import", "all.jsonl", "--model-path", MODEL, "--state-path", "again.pt")
        assert code == 0 and f"{added} of 6 episodes added, 6 in again.pt" in err and both(here, "again") == whole
    assert call(memory, "export", *STATE, "--binary", "--output-path", "all.tar")[0] == 0
    assert call(memory, "import", "all.tar", "--binary", "--state-path", "third.pt")[0] == 0
    assert both(here, "third") == whole
    assert call(memory, "import", "all.tar", "--binary", "--state-path",
                "third.pt")[0] == 2, "it would replace a memory unasked"
    data = bytearray((here / "all.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (here / "bad.tar").write_bytes(data)
    for name in ("bad.tar", "all.jsonl"):
        code, _, err = call(memory, "import", name, "--binary", "--state-path", "fourth.pt")
        assert code == 1 and one_line(err, name) and not (here / "fourth.pt").exists()
        assert not (here / "fourth.traces").exists()
    (here / "bad.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    code, _, err = call(memory, "import", "bad.jsonl", "--model-path", MODEL, "--state-path", "fourth.pt")
    assert code == 2 and one_line(err, "bad.jsonl, line 2") and not (here / "fourth.pt").exists()


def test_merge(call, here):
    ingested(call, here, MORE[:4])
    (here / "data.txt").write_text("\n".join(MORE[2:]))
    assert call(ingest, *INGEST[:-1], "T.pt")[0] == 0
    code, _, err = call(memory, "merge", "S.pt", "T.pt", "--state-path", "M.pt")
    assert code == 0 and "6 episodes in M.pt" in err
    assert [e["text"] for e in listed(call, "--state-path", "M.pt")] == [*MORE[:4], MORE[4], MORE[5].strip()]
    before = both(here)
    assert call(memory, "merge", "S.pt", "S.pt", "--state-path", "S.pt", "--yes")[0] == 0 and both(here) == before
    assert call(ingest, *INGEST[:-1], "R.pt", "--model_path", "base_checkpoints/retrained")[0] == 0
    code, _, err = call(memory, "merge", "S.pt", "R.pt", "--state-path", "N.pt")
    assert code == 1 and one_line(err, "other weights") and not (here / "N.pt").exists()


def test_upgrade_is_ingest_with_the_other_weights(call, here, state):
    assert call(ingest, *INGEST[:-1], "R.pt", "--model_path", "base_checkpoints/retrained")[0] == 0
    argv = ("upgrade", *STATE, "--model-path", "base_checkpoints/retrained")
    assert both(here) != both(here, "R") and call(memory, *argv, "--dry-run")[0] == 0 and both(here) != both(here, "R")
    for _ in range(2):
        assert call(memory, *argv, "--yes")[0] == 0 and both(here) == both(here, "R")


# users ----------------------------------------------------------------------------------------------------------------


def test_each_user_has_a_state(call, here):
    for user, line in (("alice", TIMELINE[0]), ("bob", TIMELINE[1])):
        (here / "data.txt").write_text(line)
        assert call(ingest, *INGEST[:4], "--state-dir", "all", "--user", user)[0] == 0
    assert (here / "all").stat().st_mode & 0o777 == 0o700
    assert [e["text"] for e in listed(call, "--state-dir", "all", "--user", "alice")] == [TIMELINE[0]]
    question = ("-p", "What did the user prefer at t=2?", "--max-tokens", "4", "--json", "--model_path", MODEL)
    got = json.loads(call(query, *question, "--state-dir", "all", "--user", "bob")[1])
    assert {e["text"] for e in got["episodes"]} == {TIMELINE[1]}
    assert call(memory, "wipe", "--state-dir", "all", "--user", "alice", "--yes")[0] == 0
    assert len(listed(call, "--state-dir", "all", "--user", "bob")) == 1
    assert listed(call, "--state-dir", "all", "--user", "alice") == []
    for argv in (("--user", "bob"), ("--state-dir", "all"), ("--state-dir", "all", "--user", "bob", *STATE), ()):
        assert call(memory, "list", *argv)[0] == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../bob", "a/b", "/etc/passwd", "Bob", ".bob", "bob\n", "b\0b",
                                  "~root", "a" * 65, "\u00e9", "a\\b", "-bob"])
def test_a_name_stays_in_the_directory(tmp_path, name):
    with pytest.raises(UserError):
        user_path(tmp_path, name)
    assert user_path(tmp_path, "bob@example.org") == tmp_path / "bob@example.org.pt"


def test_a_state_loads_with_what_the_store_holds(here, state):
    model, _, facts = engine.load_model(checkpoint_dir("tiny"))
    loaded, sources = load_state(here / "S.pt", model, facts)
    with Store(here / "S.pt") as store:
        assert len(store) == int(loaded["episode"]) == 3 and sources == [("data.txt", i) for i in (1, 2, 3)]
        position = loaded["traces"].position[0].tolist()
        assert position == [i for n in store.content.traces for i in range(n)]
