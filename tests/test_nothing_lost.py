"""
What deletes or overwrites, asks first: ingest, memory, view, export, and writers whose files are replaced or missing.
"""
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from nanochat.common import UserError
from nanochat.memory import Store, Writer
from nanochat.memory_file import HEADER, Content
from scripts import export_model, ingest, memory, query
from tests.test_live_memory_api import both, live, loaded, told  # noqa: F401  fixtures
# noqa: F401  fixture
from tests.test_memory import IDENTITY, add, build, die_at, episode, expected, files, held, in_child, no_fsync
from tests.test_memory_script import STATE, ingested, killed_at_the_second_commit, listed
# noqa: F401  fixtures
from tests.test_scripts import INGEST, MODEL, QUERY, TIMELINE, base, call, here, one_line, pipe, state

YES = (*STATE, "--yes")


def texts(call, *argv):
    return [e["text"] for e in listed(call, *argv)]


def kept(directory, name="S"):
    """The dated exports beside a state: [(texts, permissions)]."""
    return [([json.loads(line)["text"] for line in p.read_text().splitlines()], p.stat().st_mode & 0o777)
            for p in sorted(directory.glob(f"{name}.forgotten-*.jsonl"))]


def damage(path, record, stride):
    data = bytearray(path.read_bytes())
    data[HEADER.size + record * stride + 3] ^= 4
    path.write_bytes(data)


# ingest ---------------------------------------------------------------------------------------------------------------


def test_ingest_again_keeps_what_was_said_since(call, here, state, monkeypatch):
    pipe(monkeypatch, "/remember I moved to Luxor.\n")
    assert call(query, *QUERY)[0] == 0
    before = both(here)
    assert ingested(call, here, TIMELINE)["added"] == 0 and both(here) == before, "the tutorial, in order"
    (here / "data.txt").write_text("\n".join([*TIMELINE, "New."]))
    code, out, err = call(ingest, *INGEST)
    assert code == 2 and out == "" and one_line(err, "holds 4 episodes", "--append", "--replace")
    assert both(here) == before
    assert ingested(call, here, [*TIMELINE, "New."], "--append")["added"] == 1 and "I moved to Luxor." in texts(call)
    assert call(ingest, *INGEST, "--append", "--replace")[0] == 2


def test_replace_says_what_goes_and_keeps_it_in_a_dated_file(call, here, state):
    (here / "data.txt").write_text("One.\n")
    code, _, err = call(ingest, *INGEST, "--replace")
    assert code == 0 and "3 episodes of S.pt" in err and texts(call) == ["One."] and kept(here) == [(TIMELINE, 0o600)]
    assert call(ingest, *INGEST[:-1], "fresh.pt")[0] == 0 and both(here) == both(here, "fresh")
    before = both(here)
    assert call(ingest, *INGEST,
                "--replace")[0] == 0 and both(here) == before and len(kept(here)) == 1, "it is this text already"
    (here / "data.txt").write_text("Two.\n")
    assert call(ingest, *INGEST, "--replace", "--no-export")[0] == 0 and texts(call) == ["Two."]
    assert len(kept(here)) == 1


def test_a_replacement_that_is_killed_leaves_what_was_there(call, here, state, monkeypatch):
    before, calls = both(here), killed_at_the_second_commit(monkeypatch, 1)
    (here / "data.txt").write_text("One.\nTwo.\n")
    assert call(ingest, *INGEST, "--replace")[0] == 130 and len(calls) == 2 and both(here) == before
    assert not list(here.glob("*.new"))


def test_a_time_is_not_rewritten_unless_asked(call, here):
    times = lambda: {e["time"] for e in listed(call)}
    for when in ("2024-05-01T12:00:00+00:00", "2025-05-01T12:00:00+00:00"):
        assert ingested(call, here, TIMELINE, "--time", when)["episodes"] == 3
        assert times() == {"2024-05-01T12:00:00+00:00"}
    ingested(call, here, TIMELINE, "--time", when, "--replace", "--no-export")
    assert times() == {when}


@pytest.mark.parametrize("flags", [(), ("--append",), ("--replace",)])
def test_what_is_no_memory_is_never_written_over(call, here, flags):
    (here / "prose.txt").write_text("A long story.\n")
    (here / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (here / "model.pt").write_bytes((here.joinpath(os.environ["NANOCHAT_BASE_DIR"]) / MODEL).read_bytes())
    (here / "photo.traces").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    before = files(here)
    for name in ("prose.txt", "photo.jpg", "model.pt", "photo.pt"):
        code, out, err = call(ingest, *INGEST[:-1], name, *flags)
        assert code == 1 and out == "" and one_line(err, name.split(".")[0]) and files(here) == before


def test_a_state_of_another_model_is_replaced_only_if_asked(call, here, state):
    argv = (*INGEST, "--model_path", "base_checkpoints/retrained")
    before = both(here)
    code, _, err = call(ingest, *argv)
    assert code == 1 and one_line(err, "other weights") and both(here) == before
    assert call(ingest, *argv, "--replace")[0] == 0 and both(here) != before and kept(here) == [(TIMELINE, 0o600)]
    assert len(listed(call)) == 3


def test_an_import_or_a_merge_names_the_count_and_keeps_what_goes(call, here, state):
    assert call(memory, "export", *STATE, "--binary", "--output-path", "all.tar")[0] == 0
    (here / "data.txt").write_text("One.\nTwo.\n")
    assert call(ingest, *INGEST[:-1], "T.pt")[0] == 0
    target = ("--state-path", "T.pt")
    for argv in (("import", "all.tar", "--binary"), ("merge", "S.pt")):
        code, _, err = call(memory, *argv, *target)
        assert code == 2 and one_line(err, "replace the 2 episodes of T.pt")
        assert texts(call, *target) == ["One.", "Two."]
    assert call(memory, "import", "all.tar", "--binary", *target, "--yes")[0] == 0
    assert texts(call, *target) == TIMELINE and kept(here, "T") == [(["One.", "Two."], 0o600)]
    assert call(memory, "merge", "T.pt", "S.pt",
                *target)[0] == 0 and texts(call, *target) == TIMELINE, "nothing goes: nobody is asked"


def test_a_merge_that_is_killed_leaves_what_was_there(tmp_path, no_fsync):  # noqa: F811
    outcomes = []
    for call_ in range(200):
        directory = tmp_path / str(call_)
        directory.mkdir()
        for name, seeds in (("A.pt", [1, 2]), ("B.pt", [3]), ("M.pt", [7, 8])):
            build(directory / name, seeds)
        argv = ["merge", *(str(directory / name) for name in ("A.pt", "B.pt")), "--state-path", str(directory / "M.pt"),
                "--yes", "--no-export"]

        def merge():
            die_at(call_)
            memory.main(argv)

        status = in_child(merge)
        outcomes.append(held(directory / "M.pt") == expected([1, 2, 3]))
        assert outcomes[-1] or held(directory / "M.pt") == expected([7, 8])
        if status == 0:
            break
        assert status == 9
    assert status == 0 and outcomes == sorted(outcomes) and outcomes[-1] is True


# records without their table ------------------------------------------------------------------------------------------


def test_two_names_never_share_their_records(tmp_path):
    for first, second in (("mem.pt", "mem"), ("mem", "mem.pt")):
        for seeds in ([1, 2], []):
            directory = tmp_path / f"{first} {len(seeds)}"
            directory.mkdir()
            build(directory / first, seeds)
            before = files(directory)
            with pytest.raises(UserError, match="would share"):
                Writer(directory / second, IDENTITY)
            assert files(directory) == before
    (tmp_path / "diary").write_text("Dear diary")
    build(tmp_path / "diary.pt", [1])
    for name in ("x.traces", "x.pt.new"):
        with pytest.raises(UserError, match="for the files beside a state"):
            Writer(tmp_path / name, IDENTITY)
        assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("records", ["S.traces", "S.traces.new"])
def test_records_whose_table_is_missing_are_left_alone(tmp_path, records):
    build(tmp_path / "S.pt", [1, 2])
    (tmp_path / "S.pt").rename(tmp_path / "elsewhere.pt")
    (tmp_path / "S.traces").rename(tmp_path / records)
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"{records}: holds records"):
        Writer(tmp_path / "S.pt", IDENTITY)
    assert files(tmp_path) == before


def test_a_table_that_is_moved_away_in_a_session_costs_nothing(tmp_path):
    path = tmp_path / "S.pt"
    build(path, [1, 2])
    before = files(tmp_path)
    with Writer(path) as writer:
        path.rename(tmp_path / "away")
        with pytest.raises(UserError, match="replaced or moved"):
            add(writer, [3])
    (tmp_path / "away").rename(path)
    assert files(tmp_path) == before


def test_a_new_memory_survives_a_crash_at_any_call(tmp_path, no_fsync):  # noqa: F811
    """It is empty or whole after it, and never records that nobody knows of."""
    outcomes = []
    for call_ in range(100):
        path = tmp_path / str(call_) / "S.pt"
        path.parent.mkdir()

        def begin():
            die_at(call_)
            with Writer(path, IDENTITY) as writer:
                add(writer, [1, 2])

        status = in_child(begin)
        with Writer(path, IDENTITY) as writer:
            outcomes.append(len(writer))
            if not len(writer):
                add(writer, [1, 2])
        assert held(path) == expected([1, 2]) and sorted(files(path.parent)) == ["S.pt", "S.traces"]
        if status == 0:
            break
        assert status == 9
    assert status == 0 and outcomes == sorted(outcomes) and {*outcomes} == {0, 2}


# files that are replaced under a writer -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["renamed", "in place", "records"])
@pytest.mark.parametrize("change", ["append", "delete"])
def test_a_writer_whose_files_are_replaced_writes_no_more(tmp_path, how, change):
    """As a sync client or a restored backup does it: both files by a rename, in place, or S.traces alone."""
    path = tmp_path / "S.pt"
    for name, seeds in (("backup", [1, 7, 8, 9, 10]), ("now", [1, 2, 3])):
        (tmp_path / name).mkdir()
        build(tmp_path / name / "S.pt", seeds)
    backup = files(tmp_path / "backup")
    path = tmp_path / "now/S.pt"
    with Writer(path) as writer:
        for name, data in backup.items():
            if how == "in place":
                (path.parent / name).write_bytes(data)
            elif how == "renamed" or name == "S.traces":
                (tmp_path / "tmp").write_bytes(data)
                (tmp_path / "tmp").rename(path.parent / name)
        before = files(path.parent)
        for _ in range(2):
            with pytest.raises(UserError, match="replaced or moved"):
                add(writer, [4]) if change == "append" else writer.delete([1])
    assert files(path.parent) == before
    if how != "records":
        build(path, [11])
        assert held(path) == expected([1, 7, 8, 9, 10, 11])


def test_a_session_whose_files_are_replaced_goes_on_with_those(live, here):
    with live("T.pt") as other:
        other.ingest(["One.", "Two."])
    memory_ = live()
    memory_.ingest(TIMELINE)
    for change in (lambda: memory_.say("Three."), lambda: memory_.forget(1)):
        memory_.hold()
        for suffix in ("pt", "traces"):
            (here / "copy").write_bytes((here / f"T.{suffix}").read_bytes())
            (here / "copy").rename(here / f"S.{suffix}")
        with pytest.raises(UserError, match="replaced or moved"):
            change()
        assert both(here) == both(here, "T") and told(memory_) == ["One.", "Two."]
    assert memory_.say("Three.") == 3 and told(live(read_only=True)) == ["One.", "Two.", "Three."]


# what is written beside -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("forget", "--match", ""), ("forget", "--match", " \t"), ("forget", "--source", ""),
                                  ("forget", "--match", "", "--source", "data.txt")])
def test_an_unset_variable_forgets_nothing(call, here, state, argv):
    before = both(here)
    code, out, err = call(memory, *argv, *YES)
    assert code == 2 and out == "" and "is blank" in err and both(here) == before


WRITES = [("export", "--output-path"), ("export", "--binary", "--output-path"), ("view", "--out")]


@pytest.mark.parametrize("argv", WRITES)
def test_what_is_written_of_a_memory(call, here, state, argv):
    """
    Its permissions, never over the memory or anything else, and a file that was written so before only if that is asked
    for.
    """
    written = lambda name, *more: call(memory, *argv, name, *STATE, *more)
    before = both(here)
    os.link(here / "S.traces", here / "link")
    for name in ("S.pt", "S.traces", "link"):
        for more in ((), ("--replace",)):
            code, out, err = written(name, *more)
            assert code == 2 and out == "" and one_line(err, "is the memory itself") and both(here) == before
    old = os.umask(0o022)
    try:
        assert written("out")[0] == 0 and (here / "out").stat().st_mode & 0o777 == 0o600
        code, out, err = written("out")
        assert code == 2 and out == "" and one_line(err, "out: is there already (--replace")
        (here / "S.pt").chmod(0o640)
        assert written("out", "--replace")[0] == 0 and (here / "out").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)
    for more in ((), ("--replace",)):
        code, out, err = written("data.txt", *more)
        assert code == 2 and out == "" and one_line(err, "data.txt: is there already, and is not what")
        assert (here / "data.txt").read_text().startswith(TIMELINE[0])
    code, out, err = written("none/deep/out")
    assert code == 1 and out == "" and one_line(err, "none/deep: no such directory") and not (here / "none").exists()


def test_a_model_is_shipped_over_a_shipped_model_alone(call, here):
    done = lambda output, *more: call(export_model, "--model-path", MODEL, "--output-path", output, *more)
    assert done("none/out")[0] == 1 and not (here / "none").exists()
    assert done("out")[0] == 0 and one_line(done("out")[2], "is there already (--replace")
    assert done("out", "--replace")[0] == 0
    (here / "other").mkdir()
    (here / "other/model.json").write_text("{}")
    code, out, err = done("other", "--replace")
    assert code == 2 and out == "" and one_line(err, "not a shipped model")
    assert sorted(files(here / "other")) == ["model.json"]
    (here / "other/model.pt").write_bytes(b"photo")
    assert done("other", "--replace")[0] == 1 and (here / "other/model.pt").read_bytes() == b"photo"


# damage ---------------------------------------------------------------------------------------------------------------


LINES = [*TIMELINE, "A much longer line. " * 12, "Last."]


@pytest.fixture
def damaged(call, here):
    """S.pt with five episodes, of which one record of the fourth is damaged."""
    ingested(call, here, LINES)
    with Store(here / "S.pt") as store:
        damage(here / "S.traces", int(store.content.first[3]) + 1, store.layout.stride)
    return here


def test_one_damaged_byte_costs_one_episode(call, damaged):
    before = both(damaged)
    assert call(memory, "export", *STATE)[0] == 1
    code, out, err = call(memory, "export", *STATE, "--skip-damaged")
    assert code == 0 and [json.loads(line)["text"] for line in out.splitlines()] == [*TIMELINE, "Last."]
    assert "1 of 5 episodes" in err and "left out: 4" in err
    assert call(memory, "export", *STATE, "--skip-damaged", "--binary")[0] == 2
    code, out, err = call(memory, "repair", *STATE, "--json", "--dry-run")
    lost = json.loads(out)
    assert code == 0 and "would take 1 damaged of 5" in err
    assert (lost["episode"], lost["source"], lost["line"]) == (4, "data.txt", 4)
    assert (lost["text"].startswith("A much longer line.") and lost["text"].count("…")
            == 1), "what can still be read of it"
    code, _, err = call(memory, "repair", *STATE)
    assert code == 2 and one_line(err, "--yes is needed") and both(damaged) == before
    code, out, err = call(memory, "repair", *YES)
    assert code == 0 and "1 taken out, 4 saved" in err and out.startswith("     4  A much longer line.")
    lines = [*TIMELINE, "", "Last."]
    (damaged / "data.txt").write_text("\n".join(lines))
    assert call(ingest, *INGEST[:-1],
                "fresh.pt")[0] == 0 and both(damaged) == both(damaged, "fresh"), "as if it had never been there"
    code, out, err = call(memory, "repair", *YES)
    assert code == 0 and out == "" and "no record is damaged" in err


def test_nothing_is_added_to_a_damaged_memory(call, damaged):
    before = both(damaged)
    (damaged / "other.txt").write_text("New.\n")
    (damaged / "new.jsonl").write_text('{"text": "New."}\n')
    for script, argv in ((ingest, (*INGEST[:3], "other.txt", *INGEST[4:], "--append")),
                         (memory, ("import", "new.jsonl", *STATE, "--model-path", MODEL))):
        code, out, err = call(script, *argv)
        assert code == 1 and out == "" and one_line(err, "damaged") and both(damaged) == before
    argv = (*INGEST[:3], "other.txt", *INGEST[4:], "--replace")
    code, out, err = call(ingest, *argv)
    assert code == 1 and one_line(err, "--no-export") and both(damaged) == before and not kept(damaged)
    assert call(ingest, *argv, "--no-export")[0] == 0 and texts(call) == ["New."]


@pytest.mark.parametrize("what", ["header", "magic", "cut", "pending"])
def test_other_damage_is_repaired_too(tmp_path, what):
    path, data = tmp_path / "S.pt", None
    build(path, [1, 2, 3])
    data = bytearray((tmp_path / "S.traces").read_bytes())
    if what == "cut":
        del data[-5:]
    else:
        data[{"header": 20, "magic": 2, "pending": -5}[what]] ^= 1
    (tmp_path / "S.traces").write_bytes(data)
    if what == "pending":
        (tmp_path / "S.traces").rename(tmp_path / "S.traces.new")
        with open(path, "r+b") as file:
            content = Content.read(file, path)
            file.seek(0)
            replace(content, pending=True).write(file)
            file.truncate()
    assert memory.main(["repair", "--state_path", str(path), "--yes", "--dry-run"]) == 0
    with pytest.raises(UserError):
        held(path)
    assert memory.main(["repair", "--state_path", str(path), "--yes"]) == 0
    assert held(path) == expected([1, 2, 3] if what in ("header", "magic") else [1, 2])
    assert sorted(files(tmp_path)) == ["S.pt", "S.traces"]


def test_records_of_another_memory_are_no_damage_to_be_taken_out(tmp_path):
    build(tmp_path / "S.pt", [1, 2, 3])
    for content in (b"", b"\xff\xd8\xff\xe0" * 300):
        (tmp_path / "S.traces").write_bytes(content)
        with pytest.raises(UserError):
            memory.main(["repair", "--state_path", str(tmp_path / "S.pt"), "--yes"])
        assert not content or (tmp_path / "S.traces").read_bytes() == content


def test_the_sound_records_are_known_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.memory.BLOCK", 2)
    build(tmp_path / "S.pt", [1, 2, 3, 4, 5])
    with Store(tmp_path / "S.pt") as store:
        stride, places = store.layout.stride, store.places()[0]
    damage(tmp_path / "S.traces", 1, stride)
    damage(tmp_path / "S.traces", len(places) - 1, stride)
    with Store(tmp_path / "S.pt", damaged=True) as store:
        assert np.flatnonzero(~store.sound()).tolist() == [1, len(places) - 1]
        assert store.damaged() == sorted({int(places[1]), 5})
        keep = np.ones(5, bool)
        keep[np.array(store.damaged()) - 1] = False
        assert b"".join(rows.tobytes()
                        for rows in store.blocks(keep)) == b"".join(episode(seed)[0].tobytes()
                                                                    for seed, k in zip([1, 2, 3, 4, 5], keep) if k)


# what is forgotten ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("compact",), ("delete", "1", "--yes"), ("delete", "1", "--yes", "--no-export")])
def test_what_a_kill_has_left_of_an_export_does_not_stay(call, here, state, argv):
    """The text of what is forgotten later would stand in it."""
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanochat.common.publish_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)   # as a kill clears nothing up
        memory.main(["delete", "2", *YES])
    assert len(list(here.glob(".S.forgotten-*.tmp"))) == 1
    assert call(memory, *argv, *STATE)[0] == 0 and not list(here.glob(".S.*"))


def test_what_is_forgotten_is_kept_until_its_file_is_removed(call, here):
    ingested(call, here, LINES, "--time", "2024-05-01T12:00:00+00:00")
    for argv, gone in ((("delete", "2", "4-5"), [TIMELINE[1], LINES[3].strip(), "Last."]),
                       (("forget", "--match", "Lisbon"), TIMELINE[:1]), (("wipe",), TIMELINE[2:])):
        code, _, err = call(memory, *argv, *YES)
        assert code == 0 and ".jsonl: `import` brings it back, and it is gone for good when you remove that file" in err
        assert kept(here)[-1] == (gone, 0o600)
    for path in sorted(here.glob("S.forgotten-*.jsonl")):
        assert call(memory, "import", path.name, *STATE, "--model-path", MODEL)[0] == 0
    back = [(e["text"], e["source"], e["line"], e["time"]) for e in listed(call)]
    assert sorted(back) == sorted((line.strip(), "data.txt", i, "2024-05-01T12:00:00+00:00")
                                  for i, line in enumerate(LINES, 1))
    assert call(memory, "wipe", *YES, "--no-export")[0] == 0 and len(kept(here)) == 3


def test_a_merge_does_not_undo_what_is_committed_meanwhile(call, here, state, monkeypatch):
    assert call(ingest, *INGEST[:-1], "T.pt")[0] == 0

    def meanwhile(store):
        if store.path.name == "S.pt":
            with Writer("S.pt") as writer:
                writer.delete([1])
        return plain(store)

    plain = ingest.texts_of
    monkeypatch.setattr(ingest, "texts_of", meanwhile)
    code, _, err = call(memory, "merge", "S.pt", "T.pt", "--state-path", "S.pt", "--yes")
    assert code == 1 and one_line(err, "changed by another process") and texts(call) == TIMELINE[1:]


def test_a_writer_follows_no_link_to_the_traces(call, here, state):
    (here / "elsewhere").mkdir()
    (here / "S.traces").rename(here / "elsewhere/S.traces")
    (here / "S.traces").symlink_to("elsewhere/S.traces")
    before = (here / "elsewhere/S.traces").read_bytes()
    assert texts(call) == TIMELINE, "it can be read"
    code, _, err = call(memory, "delete", "1", *YES)
    assert code == 1 and one_line(err, "S.traces: a link") and (here / "elsewhere/S.traces").read_bytes() == before


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_a_lock_that_is_refused_leaves_no_file_open(tmp_path):
    path = tmp_path / "S.pt"
    build(path, [1])
    with Writer(path):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(UserError, match="another process writes to it"):
                Writer(path)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_blank_path_is_not_the_current_directory(call, here, state):
    before = both(here)
    code, _, err = call(ingest, *INGEST[:2], "--data_path", "", "--output_path", "S.pt", "--append")
    assert code == 2 and one_line(err, "blank") and both(here) == before


def test_a_file_whose_name_begins_with_a_tilde(call, here, state):
    (here / "~$notes.txt").write_text("One.\n")
    assert call(ingest, *INGEST[:2], "--data_path", "~$notes.txt", "--output_path", "~$N.pt")[0] == 0
    assert (here / "~$N.pt").exists()
