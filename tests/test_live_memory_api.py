"""
nanochat/live_memory.py: what is said can be asked at once, is on disk, is forgotten exactly, and is not written where
that was asked for.
"""
import json
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import engine, reading, tiers
from nanochat.common import UserError
from nanochat.live_memory import LiveMemory
from nanochat.memory import Store, Writer
from nanochat.state import CHUNK
from nanochat.task_data import REFUSAL
from scripts import ingest
from tests.test_scripts import INGEST, MODEL, TIMELINE, base, call, here  # noqa: F401  fixtures

QUESTION = "What did the user prefer at t=2?"
LONG = ("In the long letter that came in spring she wrote of the sea, of the two cats and of nothing else that anybody "
        "could remember. " * 3)


@pytest.fixture(scope="module")
def loaded(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        return engine.load_model(MODEL)


@pytest.fixture
def live(loaded, here):
    """live(…) -> a LiveMemory of the tiny model on S.pt; all are closed in the end."""
    opened = []

    def make(path="S.pt", **kw):
        opened.append(LiveMemory(loaded, path, **{"max_tokens": 6, **kw}))
        return opened[-1]

    yield make
    for memory in opened:
        memory.close()


def seen(directory):
    """Every file with its content and the time of its last change."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in directory.iterdir()}


def both(directory, name="S"):
    return tuple((directory / f"{name}.{suffix}").read_bytes() for suffix in ("pt", "traces"))


def told(memory):
    return [e.text for e in memory.episodes()]


def plain(answer):
    return answer.text, answer.confidence, [(e.id, e.text, e.score) for e in answer.episodes]


# remembering ----------------------------------------------------------------------------------------------------------


def test_progress_is_told_within_a_long_episode(live):
    memory, text, read = live(), "word" + " " * 600 + "word", []
    memory.ingest(text, progress=read.append)
    assert len(read) == 2 and sum(read) == len(memory.tokenizer.encode(text)) + 2


def test_what_is_ingested_is_known_at_once_and_on_disk(live):
    memory = live()
    assert memory.ask(QUESTION).episodes == [] and len(memory) == 0
    assert memory.ingest(TIMELINE[0]) == [1]
    assert memory.ingest(TIMELINE[1:], source="log.txt", time=1_700_000_000) == [2, 3]
    answer = memory.ask(QUESTION)
    assert answer.episodes and all(e.text == TIMELINE[e.id - 1] and 0 < e.score <= 1 for e in answer.episodes)
    assert 0 < answer.confidence <= 1 and answer.seconds > 0
    with live(read_only=True) as other:
        assert (told(other) == TIMELINE and plain(other.ask(QUESTION))
                == plain(answer)), "what is asked in RAM is what is asked of the file"
    second = memory[2]
    assert (second.source, second.line, second.time, second.score) == ("log.txt", 1, 1_700_000_000, None)
    assert memory[1].source is None
    assert memory.stats()["episodes"] == 3
    assert memory.stats()["bytes"] == sum(map(len, both(memory.path.absolute().parent)))


def test_it_ingests_to_the_byte_what_the_script_does(live, call, here):
    (here / "data.txt").write_text("\n".join([*TIMELINE, "", LONG, "last"]) + "\n")
    assert call(ingest, *INGEST)[0] == 0
    with open(here / "data.txt") as lines:
        live("T.pt").ingest(lines, source="data.txt")
    assert both(here) == both(here, "T")


def test_episodes_of_a_text_and_lines_of_a_source(live):
    memory = live()
    text = "one\ntwo\n\nthree\n"
    assert memory.ingest(text, episode="paragraph", source="a") == [1, 2]
    assert memory.ingest(text, episode="file", source="b") == [3]
    assert memory.ingest(["x\n", "\n", "y\r\n", "z"], source="c") == [4, 5, 6] and memory.ingest([" \n", ""]) == []
    assert [(e.text, e.source, e.line)
            for e in memory.episodes()] == [("one\ntwo", "a", 1), ("three", "a", 4), ("one\ntwo\n\nthree", "b", 1),
                                                                      ("x", "c", 1), ("y", "c", 3), ("z", "c", 4)]


def test_a_turn_is_heard_token_by_token(live, here):
    """Through state["buffer"]; each 16 are a trace, which can be recalled while the turn is still going on."""
    memory, history = live(), []
    memory.ingest(TIMELINE)
    before = both(here)
    words = [" " + word for word in LONG.split()[:40]]

    def pieces():
        for word in words:
            yield word
            state = memory._view.state
            history.append((state["buffer"].shape[1], len(state["traces"]),
                            4 in dict(memory.routing("What came in spring?"))))
            assert len(memory) == 3 and both(here) == before, "it is not over yet"

    assert memory.say(pieces(), source="chat", time=7) == 4
    tokens = 1 + sum(len(memory.tokenizer.encode(word)) for word in words)
    start = sum(len(records) for records in split_records(memory)[:3])
    assert [buffer for buffer, _, _ in history][-1] == tokens % CHUNK and history[0][0] <= 3
    assert all(buffer < CHUNK for buffer, _, _ in history)
    assert [n for _, n, _ in history] == sorted(n for _, n, _ in history)
    assert history[-1][1] == start + tokens // CHUNK
    assert any(found for _, _,
               found in history) and all(n > start for _, n, found in history
                                         if found), "a closed chunk can be found, and no other"
    assert memory[4].text == "".join(words).strip()
    assert (memory[4].source, memory[4].line, memory[4].time) == ("chat", None, 7)
    with live("T.pt") as other:
        other.ingest(TIMELINE)
        other.say("".join(words), source="chat", time=7)
    assert both(here) == both(here, "T"), "however it was cut, it is one memory"


def split_records(memory):
    with Store(memory.path) as store:
        first, records = store.content.first, store.records()
        return [records[first[i]:first[i + 1]] for i in range(len(store))]


def test_what_is_being_said_can_be_a_source(live):
    memory, found = live(), []

    def pieces():
        yield LONG
        found.append(memory.ask("What came in spring?"))
        yield " The end."

    memory.say(pieces())
    assert [e.id for e in found[0].episodes] == [1] and LONG.startswith(found[0].episodes[0].text)
    assert found[0].episodes[0].text


def test_a_turn_that_is_cut_short_leaves_nothing(live, here):
    memory = live()
    memory.ingest(TIMELINE)
    before, answer = both(here), plain(memory.ask(QUESTION))

    def cut_short():
        yield LONG
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.say(cut_short())
    with pytest.raises(UserError, match="it may have 4,096"):
        memory.say(["so ", "on and " * 5000])
    assert both(here) == before and plain(memory.ask(QUESTION)) == answer and memory.say(" \n") is None
    assert len(memory) == 3
    assert memory.say("And so on.") == 4


@pytest.mark.parametrize("fails", ["append", "commit"])
def test_a_disk_that_is_full_costs_what_was_being_said_and_no_more(live, here, monkeypatch, fails):
    memory = live()
    memory.ingest(TIMELINE[:2])
    before = both(here)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, fails, full)
        with pytest.raises(OSError):
            memory.say("This does not fit.")
    assert told(memory) == TIMELINE[:2] == [e.text for e in memory]
    assert memory.ingest(TIMELINE[2]) == [3] and told(live(read_only=True)) == TIMELINE
    assert both(here)[1].startswith(before[1])


# asking ---------------------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_that_are_the_answer(live):
    memory = live()
    memory.ingest([*TIMELINE, "Es schn\u00fcrt \U0001f408\u200d\u2b1b \u0928\u092e\u0938\u094d\u0924\u0947"])
    for question in (QUESTION, "\U0001f408?", "schn\u00fcrt \u0928\u092e\u0938\u094d\u0924\u0947"):
        pieces, steps = [], memory.stream(question)
        answer = engine.result(steps, pieces.append)
        assert "".join(pieces) == answer.text == memory.ask(question).text and all(pieces)


def test_below_min_confidence_it_does_not_know(live):
    live().ingest(TIMELINE)
    pieces = []
    answer = live(read_only=True, min_confidence=1.0).ask(QUESTION, pieces.append)
    assert (answer.text, answer.episodes, pieces) == (REFUSAL, [], [REFUSAL]) and answer.confidence < 1
    sure = live(read_only=True, min_confidence=1e-30)
    assert plain(sure.ask(QUESTION)) == plain(live(read_only=True).ask(QUESTION)), "what is sure enough is as it was"


def says(monkeypatch, *steps):
    """From here on a model says this: (token id, place in the window or -1, probability) of each token."""
    monkeypatch.setattr(reading, "steps", lambda *_: iter(steps))


def test_confidence_is_the_probability_of_the_words_and_of_their_end(live, monkeypatch):
    memory = live()
    memory.ingest(TIMELINE)
    tea, end = memory.tokenizer.encode(" tea")[0], memory.tokenizer.end_id
    says(monkeypatch, (tea, -1, 0.5), (end, -1, 0.25))
    answer = memory.ask(QUESTION)
    assert (answer.text, answer.confidence) == ("tea", 0.125)
    assert answer.episodes == [], "what is said rather than copied has no source"
    says(monkeypatch, (tea, -1, 0.5))
    assert memory.ask(QUESTION).confidence == 0.5, "cut short, it has no end"


def test_the_sources_are_what_was_copied_by_the_share_of_it(live, monkeypatch):
    memory = live()
    memory.ingest(TIMELINE)
    state = memory._view.state
    window, episodes = engine.window(memory.model, memory.tokenizer, state, QUESTION, memory._view.content.time)
    assert episodes == [1, 2, 3], "in the order they were lived"
    of = lambda id, n: (window.ordinal[0] == id - 1).nonzero()[n, 0]
    copied = [(of(2, n), 0.6) for n in (-4, -3)] + [(of(3, -3), 0.4)]
    steps = [(int(window.ids[0, place]), int(place), p) for place, p in copied]
    between, end = (memory.tokenizer.encode(" and")[0], -1, 0.9), (memory.tokenizer.end_id, -1, 0.9)
    says(monkeypatch, *steps[:2], between, steps[2], end)
    answer = memory.ask(QUESTION)
    sources = [(e.id, e.text, pytest.approx(e.score)) for e in answer.episodes]
    assert sources == [(2, TIMELINE[1], 0.75), (3, TIMELINE[2], 0.25)]
    words = memory.tokenizer.decode([token for token, *_ in steps[:2]]).strip()
    last = memory.tokenizer.decode([steps[2][0]]).strip()
    assert answer.text == f"{words} and {last}", "what is copied in runs stands with spaces between"


@pytest.mark.parametrize("question, message",
                         [("", "empty question"), (" \n", "empty question"), ("why " * 2000, "it may have 256")])
def test_a_question_that_can_not_be_asked_is_refused(live, question, message):
    memory = live()
    memory.ingest(TIMELINE)
    with pytest.raises(UserError, match=message):
        memory.ask(question)
    with pytest.raises(UserError, match=message):
        memory.routing(question)


def test_routing_says_how_far_each_episode_is_addressed(live):
    memory = live()
    assert memory.routing(QUESTION) == memory.routing(QUESTION + " Please" * 30) == []
    memory.ingest([*TIMELINE, LONG])
    shares = memory.routing(QUESTION + " Please" * 30)   # longer than a chunk: its own chunks are no part of it
    assert {id for id, _ in shares} <= {1, 2, 3, 4} and abs(sum(share for _, share in shares) - 1) < 1e-3
    assert [share for _, share in shares] == sorted((share for _, share in shares), reverse=True)
    assert memory.routing("t=2")[0][0] == 2


# forgetting -----------------------------------------------------------------------------------------------------------


def test_forgotten_is_never_said(live, here):
    live("T.pt").ingest([TIMELINE[0], TIMELINE[2]])
    memory = live()
    memory.ingest(TIMELINE)
    memory.forget(2)
    assert both(here) == both(here, "T") and told(memory) == [TIMELINE[0], TIMELINE[2]]
    assert plain(memory.ask(QUESTION)) == plain(live("T.pt", read_only=True).ask(QUESTION))
    memory.say("It goes on.")
    memory.forget([1, 3])
    for wrong in (0, 2, -1, [1, 9]):
        with pytest.raises(IndexError, match="no episode"):
            memory.forget(wrong)
    memory.forget([])
    assert told(memory) == told(live(read_only=True)) == [TIMELINE[2]]


def test_an_answer_that_has_begun_is_read_from_what_was_there(live):
    memory = live()
    memory.ingest(TIMELINE)
    whole = memory.ask(QUESTION)
    steps = memory.stream(QUESTION)
    first = next(steps)
    memory.forget([1, 2, 3])
    memory.ingest("Something else.")
    rest = []
    answer = engine.result(steps, rest.append)
    assert first + "".join(rest) == whole.text and plain(answer) == plain(whole)


OPERATIONS = st.lists(st.one_of(st.tuples(st.just("ingest"), st.lists(st.integers(0, 5), max_size=3)),
                                st.tuples(st.just("say"), st.integers(0, 5)),
                                st.tuples(st.just("forget"), st.sets(st.integers(0, 9), max_size=2)),
                                st.tuples(st.just("reopen"), st.booleans())), max_size=8)


@settings(max_examples=12, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_whatever_is_done_the_memory_is_that_of_what_is_left(loaded, tmp_path, operations):
    texts = [*TIMELINE, "short", LONG, "caf\u00e9 <|end|> \x1b[2J"]
    for file in tmp_path.iterdir():
        file.unlink()
    memory, left = LiveMemory(loaded, tmp_path / "S.pt"), []
    for name, what in operations:
        if name == "ingest":
            assert memory.ingest([texts[i] for i in what]) == list(range(len(left) + 1, len(left) + 1 + len(what)))
            left += [texts[i].strip() for i in what]
        elif name == "say":
            memory.say(texts[what])
            left.append(texts[what].strip())
        elif name == "forget" and left:
            gone = {i % len(left) for i in what}
            memory.forget(i + 1 for i in gone)
            left = [text for i, text in enumerate(left) if i not in gone]
        else:
            memory.close()
            memory = LiveMemory(loaded, tmp_path / "S.pt")
        assert told(memory) == left and len(memory) == len(left)
    memory.save()
    memory.close()
    with LiveMemory(loaded, tmp_path / "T.pt") as fresh:
        fresh.ingest(left)
        fresh.save()
    assert both(tmp_path) == both(tmp_path, "T")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["S.pt", "S.traces", "T.pt", "T.traces"]


# not writing ----------------------------------------------------------------------------------------------------------


def test_read_only_is_known_until_it_ends_and_never_written(live, here):
    live().ingest(TIMELINE[:2])
    before = seen(here)
    memory = live(read_only=True)
    assert memory.say("The secret is 4711.") == 3 and memory.ingest([LONG, TIMELINE[2]]) == [4, 5]
    with live("T.pt") as open_one:
        open_one.ingest([*TIMELINE[:2], "The secret is 4711.", LONG, TIMELINE[2]])
        assert plain(memory.ask("What is the secret?")) == plain(open_one.ask("What is the secret?"))
        assert told(memory) == told(open_one)
    for name in ("T.pt", "T.traces"):
        (here / name).unlink()
    assert memory.stats()["unwritten"] == 3
    with pytest.raises(UserError, match="read-only"):
        memory.forget([2, 3])
    assert len(memory) == 5, "all or nothing"
    memory.forget([3, 5])
    assert told(memory) == [*TIMELINE[:2], LONG.strip()] and memory.stats()["unwritten"] == 1
    with pytest.raises(UserError, match="nothing is written"):
        memory.save()
    memory.close()
    assert seen(here) == before


def test_read_only_may_begin_in_the_middle_and_has_no_end(live, here):
    memory = live()
    memory.ingest(TIMELINE[:2])
    before = seen(here)
    memory.read_only = True
    memory.say("The secret is 4711.")
    with pytest.raises(ValueError):
        memory.read_only = False
    memory.close()
    assert seen(here) == before


def test_the_lock_is_given_back_where_nothing_is_written(live):
    memory, other = live(), live()
    memory.ingest(TIMELINE[0])
    with pytest.raises(UserError, match="another process writes"):
        other.hold()
    memory.read_only = True
    with pytest.raises(UserError, match="look again"):
        other.hold()
    other.hold()
    assert told(other) == [TIMELINE[0]]


def test_a_memory_that_is_not_there(live, here):
    with pytest.raises(UserError, match="no such state file"):
        live("none.pt", read_only=True)
    with pytest.raises(UserError, match="no such directory"):
        live("none/S.pt")
    memory = live("none.pt")
    assert memory.ask(QUESTION).episodes == []
    with pytest.raises(IndexError):
        memory.forget(1)
    memory.close()
    assert not list(here.glob("none*")), "asking begins no file"


def test_without_a_path_it_lives_in_ram_and_can_be_kept(live, here):
    live().ingest(TIMELINE)
    before = seen(here)
    memory = live(None)
    memory.ingest(TIMELINE)
    assert plain(memory.ask(QUESTION)) == plain(live(read_only=True).ask(QUESTION)) and seen(here) == before
    memory.save("T.pt")
    assert both(here) == both(here, "T")
    live().save("U.pt")
    assert both(here) == both(here, "U")
    for there in ("T.pt", "S.pt", "data.txt"):
        with pytest.raises(UserError, match="is there already"):
            live().save(there)
    assert both(here) == both(here, "T")


def test_users_are_apart(loaded, here):
    with LiveMemory(loaded, state_dir="all", user="ann") as ann, LiveMemory(loaded, state_dir="all", user="bob") as bob:
        ann.say("I am Ann.")
        bob.say("I am Bob.")
        assert told(ann) == ["I am Ann."] and told(bob) == ["I am Bob."]
        assert sorted(p.name for p in (here / "all").glob("*.pt")) == ["ann.pt", "bob.pt"]
    for wrong in ({"user": "ann"}, {"state_dir": "all"}, {"state_path": "S.pt", "state_dir": "all", "user": "ann"}):
        with pytest.raises(ValueError):
            LiveMemory(loaded, **wrong)
    with pytest.raises(UserError, match="a name is"):
        LiveMemory(loaded, state_dir="all", user="../ann")


# several at once ------------------------------------------------------------------------------------------------------


def test_two_writers_do_not_meet(live):
    one, two = live(), live()
    one.ingest(TIMELINE[0])
    with pytest.raises(UserError, match="another process writes"):
        two.ingest(TIMELINE[1])
    one.close()
    assert two.ingest(TIMELINE[1]) == [2], "its id is that of the memory as it is now"
    assert told(two) == TIMELINE[:2], "what the other has written is read first"
    two.close()
    three = live()
    with live() as four:
        four.forget(1)
    with pytest.raises(UserError, match="look again"):
        three.forget(1)   # it would have been another one
    assert told(three) == [TIMELINE[1]]
    three.forget(1)
    assert len(three) == 0


def test_asked_from_threads_while_it_changes(live):
    memory, failed, answers = live(), [], []
    memory.ingest(TIMELINE)
    sure, over = plain(memory.ask(QUESTION)), threading.Event()

    def asks():
        try:
            while not over.is_set():
                answers.append(plain(memory.ask(QUESTION)))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=asks) for _ in range(3)]
    for thread in threads:
        thread.start()
    extra = "The user was in Oslo at t=4."
    for _ in range(3):
        memory.say(extra)
        memory.forget(4)
    over.set()
    for thread in threads:
        thread.join()
    memory.say(extra)
    assert not failed and answers
    assert set(map(json.dumps, answers)) <= set(map(json.dumps, (sure, plain(memory.ask(QUESTION)))))


def test_a_memory_larger_than_its_budget_is_the_same_memory(live, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST_CACHE", 1)
    lines = [f"t={t}: The user was in place {t} and preferred drink {t}." for t in range(60)]
    whole = live()
    whole.ingest(lines)
    whole.close()
    held, rest = tiers.held_bytes(whole._layout, whole.model.empty_traces())
    memory = live(ram_budget=whole.stats()["traces"] * (held + rest // 2))
    assert not isinstance(memory._view.state["traces"].ids, torch.Tensor)
    assert plain(memory.ask(QUESTION)) == plain(live(read_only=True).ask(QUESTION))
    assert memory.routing("t=17") == live(read_only=True).routing("t=17")
    steps = memory.stream(QUESTION)
    first, expected = next(steps), memory.ask(QUESTION)
    memory.say("It goes on.")
    memory.forget([1, 5])
    assert first + "".join(steps) == expected.text, "the file it was begun from is still read"
    fresh = live(read_only=True)
    assert told(memory) == told(fresh) == [line for i, line in enumerate(lines) if i not in (0, 4)] + ["It goes on."]
    assert plain(memory.ask(QUESTION)) == plain(fresh.ask(QUESTION))


# text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;title\x07\x00\x9b", "<|end|><|bos|><|assistant|> <|pad|>",
                                  "\ud800 lone", "\u202e right to left \u200d", " \u00a0 x \u2028 y \x0c ",
                                  "\U0001f408\u200d\u2b1b" * 20, "a" * 1000, "\t"])
def test_hostile_text_is_text(live, here, text):
    memory = live()
    memory.ingest(TIMELINE)
    id = memory.say(text)
    kept = text.encode("utf-8",
                       "replace").decode().strip() if "\ud800" not in text else text.strip().replace("\ud800", "\ufffd")
    assert (memory[id].text if id else "") == kept
    if id:
        assert memory.ask(text[:200]).text is not None
        memory.forget(id)
    with live("T.pt") as other:
        other.ingest(TIMELINE)
    assert both(here) == both(here, "T")


def test_an_episode_that_cannot_fit_takes_no_room_in_the_window(live, loaded, monkeypatch):
    model, tokenizer, _ = loaded
    memory = live()
    memory.ingest(["The key is red.", "The key is blue, " + "and so on, " * 400, "The key is green.", "No key."])
    question = engine.asked(model, tokenizer, "Which key?")
    for best, wanted in (([1, 2, 3, 4], [1, 3, 4]), ([3, 2, 1], [1, 3]), ([2, 1, 3], [2])):   # the best one is cut
        monkeypatch.setattr(engine, "found", lambda *_: engine.Found(question, best, None))
        window, episodes = engine.window(model, tokenizer, memory._view.state, "Which key?")
        shown = {episodes[i] for i in window.ordinal[0].tolist() if i >= 0}
        assert sorted(shown) == wanted


def test_a_question_that_would_be_cut_is_refused(loaded):
    model, tokenizer, _ = loaded
    most = min(reading.QUESTION, model.config.reading // 2)
    long = "Where is the key? " * most
    with pytest.raises(UserError, match=f"it may have {most:,}"):
        engine.asked(model, tokenizer, long)


def test_hold_says_that_another_process_has_emptied_the_memory(live):
    memory = live()
    memory.ingest(["One.", "Two."])
    memory.close()
    memory = live()
    assert told(memory) == ["One.", "Two."]
    with Writer("S.pt") as writer:
        writer.delete([1, 2])
    with pytest.raises(UserError, match="changed by another process"):
        memory.hold()
