"""
People's questions: what is right is what it says, a memory is told and asked as a program would, and the report counts
what came of it.
"""
import collections
import json
import lzma
import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import engine, live_memory, people
from nanochat.common import UserError, run_main
from nanochat.engine import Answer, Episode
from nanochat.live_memory import LiveMemory
from nanochat.scoring import exact, f1, short, words
from scripts import memory_eval
from tests.conftest import tiny

WORDS = st.lists(st.sampled_from("pear quince 7.9 kg gate Ümit хлеб 本".split()), min_size=1, max_size=6)


# -----------------------------------------------------------------------------
# What is right


def squad(text):
    """The normalisation of SQuAD's own script."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(st.text(string.printable))
def test_plain_english_is_compared_as_squad_does(text):
    if squad(text):   # of "A" and "?!" SQuAD leaves nothing, so that all of them would be the same
        assert " ".join(words(text)) == squad(text)


@given(st.text())
def test_what_is_compared_is_stable_and_is_never_nothing(text):
    assert bool(words(text)) == bool(text.strip())
    assert words(" ".join(words(text))) == words(text)


def test_scripts_and_lone_signs_are_kept():
    for text in ("Вчера", "हिन्दी", "ที่", "Ω", "ἀρχή", "كِتَاب", "A", "the", "?!", "7719"):
        assert words(text) == (text.casefold(),)
    assert words("在图书馆。") == ("在", "图", "书", "馆") and words("ｶﾀ７") == ("カ", "タ", "7")
    assert words("“Zoë’s” B♭ — 31°") == ("zoës", "b♭", "31°") and words("STRASSE") == words("Straße")
    assert words("A day, an hour: the end") == ("day", "hour", "end")
    assert not exact("A", ["B"]) and not exact("the", ["a"]) and not exact("?", ["!"])


@given(WORDS, st.lists(st.sampled_from("moss reed fern".split()), max_size=6), st.integers(0, 6),
       st.sampled_from(("", "the ", "«")))
def test_a_short_answer_may_have_three_more_words(answer, more, at, before):
    said = before + " ".join(more[:at] + answer + more[at:]) + "."
    assert short(said, ["something else", " ".join(answer)]) == (len(more) <= 3)
    assert not short(" ".join(answer), [" ".join(answer + ["moss"])])


def test_answers_are_held_as_whole_words():
    assert short("in the glovebox", ["the glovebox"]) and short("它在图书馆里", ["图书馆"])
    assert not short("a category", ["cat"]) and not short("48,2001", ["48,200"])
    assert not short("box glove", ["glove box"])
    assert not short("", ["cat"]) and not short("cat", []) and not short("I don't know", ["cat"])


@given(WORDS, WORDS, WORDS)
def test_f1_is_the_share_of_words_in_common_with_the_nearest_answer(a, b, c):
    one, two, other = map(" ".join, (a, b, c))
    count = lambda text: collections.Counter(words(text))
    shared = sum((count(one) & count(two)).values())
    want = 0 if not shared else 2 / (sum(count(one).values()) / shared + sum(count(two).values()) / shared)
    assert f1(one, [two]) == pytest.approx(want) and f1(one, [two]) == f1(two, [one])
    assert f1(one, [two, other]) == max(f1(one, [two]), f1(one, [other]))
    assert (f1(one, [two]) == 1) == (count(one) == count(two)) and exact(one, [two]) == (words(one) == words(two))


def test_f1_of_nothing_is_zero():
    assert f1("", ["pear"]) == 0 == f1("pear", []) and not exact("pear", [])


# -----------------------------------------------------------------------------
# A memory that says what it is told to


class Scripted:
    """Answers by a script {question: (text, ids of the episodes it cites)}; `told` keeps what each memory was told."""
    told, script = [], {}

    def __init__(self, *_):
        self.lines = []
        Scripted.told.append(self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.append("closed")

    def ingest(self, text, source=None, time=None):
        assert "closed" not in self.lines
        self.lines.extend((line, time) for line in text)

    def ask(self, question):
        assert "closed" not in self.lines
        text, ids = self.script[question]
        return Answer(text, 0.5, [Episode(id, score=1 / len(ids)) for id in ids], 0.25)


NOTES = [{"lines": ["the spare key is at Ines's", "gate 7719#"], "questions": [
             {"q": "who has the key?", "answers": ["Ines"], "evidence": [0], "type": "name"},
             {"q": "gate?", "answers": ["7719"], "evidence": [1], "type": "code"},
             {"q": "dog?", "answers": ["I don't know"], "evidence": [], "type": "unknown"},
             {"q": "cat?", "answers": ["I don't know"], "evidence": [], "type": "unknown"}]},
         {"lines": ["Olga called", "rain"], "times": ["2024-05-15T09:00", "2024-05-15T11:00:01+02:00"], "questions": [
             {"q": "who called?", "answers": ["Olga", "Olya"], "evidence": [0], "type": "name"}]}]
SAID = {"who has the key?": ("at Ines's or so I think now", [1]), "gate?": ("7719", [2, 1]),
        "dog?": ("I don't know.", []), "cat?": ("rain", [1]),
        "who called?": ("I don’t know", [])}
PASSAGES = [{"src": "web", "sents": ["Moss grows\nhere."],
             "qas": [{"q": "what grows?", "answers": ["Moss", "moss here"], "evidence": [0]}]},
            {"src": "web", "sents": ["It rained.", "Reeds grow there."], "qas": [
                {"q": "what grows there?", "answers": ["Reeds"], "evidence": [1]},
                {"q": "who?", "answers": [], "evidence": []}]}]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """
    run(task, rows, script, *flags): the command, with a scripted memory; (exit code, stdout, stderr). A file that ends
    in .xz is written as such.
    """
    monkeypatch.setattr(engine, "load_model", lambda *_: (None, None, {"device": "none", "dtype": "none"}))
    monkeypatch.setattr(live_memory, "LiveMemory", Scripted)

    def run(task, rows, script, *flags, name="rows.jsonl"):
        monkeypatch.setattr(Scripted, "told", [])
        monkeypatch.setattr(Scripted, "script", script)
        text = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).write_bytes(lzma.compress(text) if name.endswith(".xz") and not isinstance(rows, bytes)
                                      else text)
        capsys.readouterr()
        code = run_main(lambda: memory_eval.main(["--model-path", "m", "--task", task, "--data", str(tmp_path / name),
                                                  *map(str, flags)]))
        return (code, *capsys.readouterr())
    return run


def by_group(out):
    return {row["group"]: row for row in map(json.loads, out.splitlines())}


def test_memories_are_told_by_time_and_answers_counted(run, tmp_path):
    code, out, _ = run("everyday", NOTES, SAID, "--json", "--misses", tmp_path / "misses.jsonl")
    assert code == 0
    assert Scripted.told == [[(line, None) for line in NOTES[0]["lines"]] + ["closed"],
                             [("Olga called", 1715763600), ("rain", 1715763601), "closed"]]
    rows = by_group(out)
    assert list(rows) == ["name", "code", "unknown", "answerable", "all"]
    assert [r["n"] for r in rows.values()] == [2, 1, 2, 3, 5]
    # six words more are too many; of two refusals one was due
    assert [rows[g]["right"] for g in rows] == pytest.approx([0, 100, 50, 100 / 3, 40])
    assert rows["name"]["f1"] == pytest.approx(0) and rows["unknown"]["f1"] == 50
    assert rows["name"]["false_refusals"] == 50 and rows["all"]["false_refusals"] == pytest.approx(100 / 3)
    assert rows["unknown"]["false_refusals"] is None
    # "7719" of what was answered; "rain" was said in the other life
    assert rows["all"]["grounded"] == pytest.approx(100 / 3)
    assert rows["all"]["evidence"] == 100 and rows["unknown"]["evidence"] is None
    assert rows["unknown"]["refuse"] == 100 and rows["all"]["refuse"] == 40
    assert rows["name"]["refuse"] == 0 == rows["unknown"]["guess"]
    assert rows["all"]["ms"] == 250 and rows["all"]["task"] == "everyday"
    misses = [json.loads(line) for line in (tmp_path / "misses.jsonl").read_text().splitlines()]
    assert [m["question"] for m in misses] == ["who has the key?", "cat?", "who called?"]
    assert misses[0] | {"guess": 0, "guess_f1": 0} == {
        "question": "who has the key?", "expected": ["Ines"], "got": "at Ines's or so I think now", "type": "name",
        "answerable": True, "right": False,
        "refused": False, "f1": 0, "evidence": [1], "cited": {"1": 1.0}, "lines": {"1": "the spare key is at Ines's"},
        "grounded": False, "seconds": 0.25,
        "guess": 0, "guess_f1": 0}
    assert misses[1]["expected"] == ["I don't know"]


def test_a_refusal_that_is_the_answer_is_none(run):
    """Somebody may have written "unknown"."""
    notes = [{"lines": ["author: unknown"],
              "questions": [{"q": "who wrote it?", "answers": ["unknown"], "evidence": [0], "type": "name"}]}]
    row = by_group(run("everyday", notes, {"who wrote it?": ("unknown", [1])}, "--json")[1])["name"]
    assert (row["right"], row["false_refusals"], row["grounded"], row["to"]) == (100, 0, 100, 100)


def test_times_are_utc_wherever_it_runs(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert [people._seconds(text) for text in ("2024-05-15T09:00", "2024-05-15T09:00:00Z", "2024-05-15T11:00+02:00",
                                                   "2024-05-15")] == \
            [1715763600] * 3 + [1715731200]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_table_has_a_line_a_row(run):
    code, out, err = run("cases", NOTES, SAID, name="rows.jsonl.xz")
    lines = out.splitlines()
    assert code == 0 and len(set(map(len, lines))) == 1 and lines[0].split()[:4] == ["group", "n", "right", "from"]
    assert [line.split()[0] for line in lines[1:]] == ["name", "code", "unknown", "answerable", "all"]
    assert lines[-1].split()[1:5] == ["5", "40.0", "11.8", "76.9"]   # Wilson's interval
    assert lines[3].split()[-4:] == ["-", "0.0", "-", "250.0"] and "Traceback" not in err


def test_passages_apart_and_together(run):
    said = {"what grows?": ("moss here", [1]), "what grows there?": ("green Reeds", [2]), "who?": ("I don't know", [])}
    code, out, _ = run("qa", PASSAGES, said, "--json", name="rows.jsonl.xz")
    rows = by_group(out)
    assert code == 0
    assert Scripted.told == [[("Moss grows here.", None), "closed"],
                             [("It rained.", None), ("Reeds grow there.", None), "closed"]]
    assert list(rows) == ["web", "web, no answer", "answerable", "all"]
    assert rows["web"]["right"] == 50 and rows["web"]["f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert rows["web, no answer"]["right"] == 100
    assert rows["web"]["f1_error"] == pytest.approx(196 * (1 / 3) / 2) and rows["web"]["evidence"] == 100
    assert rows["web"]["grounded"] == 0
    together = {**said, "what grows there?": ("Reeds", [3])}
    code, out, _ = run("qa", PASSAGES, together, "--json", "--together")
    assert code == 0
    assert Scripted.told == [[("Moss grows here.", None), ("It rained.", None), ("Reeds grow there.", None), "closed"]]
    assert by_group(out)["web"]["right"] == by_group(out)["web"]["evidence"] == 100
    assert by_group(out)["web"]["grounded"] == 50


def test_a_sample_is_fixed_and_of_each_source(run):
    row = lambda src, i: {"src": src, "sents": ["x"], "qas": [{"q": f"{src}{i}?", "answers": ["x"], "evidence": [0]}]}
    rows = [row(src, i) for src in ("p", "q") for i in range(9)]
    said = {f"{src}{i}?": ("x", [1]) for src in ("p", "q") for i in range(9)}
    code, out, _ = run("qa", rows, said, "--questions", 4, "--json")
    assert code == 0 and [by_group(out)[g]["n"] for g in ("p", "q", "all")] == [4, 4, 8] and len(Scripted.told) == 8
    code, out, _ = run("qa", rows, said, "--questions", 4, "--json", "--together", "--seed", 0)
    assert code == 0 and [len(told) for told in Scripted.told] == [10, 10] and by_group(out)["all"]["n"] == 8


def test_the_seed_draws(tmp_path):
    rows = [{"lines": ["x"], "questions": [{"q": f"{i}?", "answers": ["x"], "evidence": [0], "type": "t"}]}
            for i in range(20)]
    (file := tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = lambda *of: [q.text for life in people.notes([str(file)], *of) for q in life.asked]
    assert asked() == [f"{i}?" for i in range(20)] == asked(100) and asked(5) == asked(5, 0) != asked(5, 1)
    assert len(asked(5)) == 5


def test_a_guess_is_a_span_of_the_memory(monkeypatch):
    """
    Of a memory that says one word alone a guess is always right; of one that never says it, never. It reads no
    question.
    """
    lines = {"same": "Pear.", "other": "plum", "half": "pear plum"}
    lives = [people.Life([line], [None], [people.Asked("?", ("pear",), (1,), kind)]) for kind, line in lines.items()]
    monkeypatch.setattr(Scripted, "script", {"?": ("", [])})
    same, other, half = people.ask("qa", lives, Scripted)
    assert (same["guess"], same["guess_f1"], other["guess"], other["guess_f1"]) == (1, 1, 0, 0)
    assert 0.1 < half["guess"] < 0.9
    assert not same["right"] and not same["grounded"] and not same["refused"]


def test_a_chat_of_locomo_is_a_memory_whose_turns_have_times(tmp_path):
    turn = lambda who, at, text, **more: {"speaker": who, "dia_id": at, "text": text, **more}
    chat = {"conversation": {"speaker_a": "Ann",
                             "session_10_date_time": "4:04 pm on 20 January, 2023",
                             "session_10": [turn("Bob", "D10:1", "A reed\npipe.", blip_caption="a photo of a reed")],
                             "session_2_date_time": "12:30 am on 1 January, 1970",
                             "session_2": [turn("Ann", "D2:1", "Hi"), turn("Bob", "D2:2", "Moss.")]},
            "qa": [{"question": "What did Bob name?", "answer": "Moss", "evidence": ["D2:2"], "category": 4},
                   {"question": "How many?", "answer": 2, "evidence": ["D10:1", "D7:7"], "category": 1},
                   {"question": "Why?", "adversarial_answer": "x", "evidence": ["D2:1"], "category": 5}]}
    (tmp_path / "locomo_x.json").write_text(json.dumps([chat]))
    for path in (tmp_path, tmp_path / "locomo_x.json"):
        life, = people.chats([str(path)])
        assert life.lines == ["Ann: Hi", "Bob: Moss.", "Bob: A reed pipe. [a photo of a reed]"]
        assert life.times == [1800, 1800, 1674230640]
        assert [(q.answers, q.evidence, q.kind) for q in life.asked] == [
            (("Moss",), (2,), "single-hop"), (("2",), (3,), "multi-hop"), ((), (1,), "no answer")]
    assert sum(len(life.asked) for life in people.chats([str(tmp_path)] * 2, questions=4)) == 4
    for bad in ("[", "{}", "[1]", "null", json.dumps([{**chat, "qa": [{}]}]), "[" * 10 ** 5):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(UserError, match="bad.json is not a LoCoMo file|--data needs"):
            people.chats([str(tmp_path / "bad.json")])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no locomo"):
        people.chats([str(tmp_path / "none")])


def test_bad_files_are_one_line(run):
    good = NOTES[1]
    changed = lambda **fields: [NOTES[0], {**good, **fields}]
    asked = lambda **fields: changed(questions=[{**good["questions"][0], **fields}])
    for rows, says in ((b"{", "line 1"), (b"[]\n", "line 1"), (b"\xff\n", "decode"), (b"", "--data needs"),
                       (b"{}\n", "line 1: 'lines' is missing"),
                       (changed(lines="Olga"), "line 2: a list of texts"),
                       (changed(lines=["", "x"]), "none of them blank"), (changed(lines=[]), "line 2"),
                       (changed(times=["2024-05-15"]), "2 lines, 1 times"),
                       (changed(times=["now", "then"]), "line 2: Invalid isoformat"),
                       (changed(questions=["?"]), "line 2"), (changed(questions=None), "line 2"),
                       (asked(evidence=[2]), "evidence [2] of 2 lines"),
                       (asked(evidence=["a"]), "evidence"), (asked(answers="Olga"), "a list of texts"),
                       (asked(q=7), "a list of texts"),
                       ([{k: v for k, v in good.items() if k != "questions"}], "'questions' is missing"),
                       (asked(evidence=None), "line 2")):
        code, out, err = run("everyday", rows, {})
        assert (code, out) == (2, "") and err.startswith("error: "), (rows, err)
        assert len(err.splitlines()) == 1 and says in err, (rows, err)
    code, out, err = run("qa", [{"sents": ["x"], "qas": []}], {})
    assert code == 2 and "'src' is missing" in err
    code, out, err = run("qa", b"not xz", {}, name="rows.jsonl.xz")
    assert code == 2 and len(err.splitlines()) == 1 and "rows.jsonl.xz" in err
    code, out, err = run("qa", lzma.compress(b"{}\n" * 9000)[:-20], {}, name="rows.jsonl.xz")
    assert code == 2 and len(err.splitlines()) == 1


def test_wrong_usage_is_one_line(run, tmp_path):
    for task, flags, code, says in (("everyday", ("--together",), 2,
                                     "means nothing to the task everyday; it takes --data, --questions, --seed"),
                                    ("qa", ("--steps", 5), 2, "means nothing"),
                                    ("qa", ("--explain",), 2, "--explain means nothing"),
                                    ("qa", ("--heatmap", "x.png"), 2, "--heatmap means nothing"),
                                    ("timeline", ("--misses", "x"), 2, "--misses means nothing"),
                                    ("babi", ("--data", "a", "b"), 2, "one file or directory"),
                                    ("qa", ("--questions", 0), 2, "at least 1"),
                                    ("qa", ("--data", "nowhere.jsonl"), 1, "nowhere.jsonl"),
                                    ("qa", ("--misses", tmp_path / "no" / "f"), 1, "No such file")):
        got, out, err = run(task, PASSAGES, {}, *flags)
        assert (got, out) == (code, "") and says in err.splitlines()[-1], err
    with pytest.raises(UserError, match="--data needs"):
        people.passages()


def test_a_real_memory_is_told_and_asked(tokenizer):
    """LiveMemory itself, with one model for all memories: what it cites are lines of this memory."""
    model = tiny(tokenizer, n_head=1).requires_grad_(False)
    facts = {"device": "cpu", "dtype": "float32", "weights": "0" * 64, "tokenizer": tokenizer.fingerprint, "step": 0}
    lives = [people._life(row["lines"], row["questions"], row.get("times")) for row in NOTES]
    outcomes = list(people.ask("cases", lives, lambda: LiveMemory((model, tokenizer, facts))))
    assert [o["question"] for o in outcomes] == list(SAID) and all(o["seconds"] > 0 for o in outcomes)
    for o, life in zip(outcomes, [lives[0]] * 4 + [lives[1]]):
        assert set(o["cited"]) <= {1, 2} and all(o["lines"][i] == life.lines[i - 1] for i in o["cited"])
    assert any(o["cited"] for o in outcomes)
    assert people.table(people.report("cases", outcomes))


@given(st.text(st.sampled_from("ab Zé7'-?")), st.integers(0, 9))
def test_a_typing_error_is_one_edit_within_the_longest_word(text, seed):
    got, words = people.typing_error(text, seed), re.findall(r"[^\W\d_]{5,}", text)
    assert got == people.typing_error(text, seed)
    if not words:
        assert got == text
    else:
        longest = max(words, key=len)
        before, _, after = text.partition(longest)
        assert got.startswith(before + longest[0]) and got.endswith(after)   # the last two may be swapped
        assert abs(len(got) - len(text)) <= 1
        if len(set(longest)) == len(longest):
            assert got != text


def test_mistyped_questions_are_asked_with_an_error_and_found_all_the_same(tmp_path, capsys):
    path = tmp_path / "notes.jsonl"
    path.write_text(json.dumps({"lines": ["Kilbrandon lives in Oslo.", "Gosforth rents out boats.", "Milk, eggs."],
                                "questions": [{"q": "Where does Kilbrandon live?", "answers": ["Oslo"], "evidence": [0],
                                               "type": "direct"}]}))
    (life,), (plain,) = people.notes([str(path)], mistyped=True), people.notes([str(path)])
    assert life.asked[0].text != plain.asked[0].text == "Where does Kilbrandon live?"
    argv = ["--model-path", "data/then-d6", "--data", str(path), "--mistyped", "--json", "--task"]
    for task, column in (("everyday", "right"), ("finding", "rank_1")):
        assert memory_eval.main([*argv, task]) == 0
        assert [json.loads(row)[column] for row in capsys.readouterr().out.splitlines()][-1] == 100
