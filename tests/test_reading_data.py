"""nanochat/reading_data.py: answers stand where they should, and the stream of questions goes on where it was."""
import itertools
import json
import lzma
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import reading_data
from nanochat.common import UserError
from nanochat.reading import text_of
from nanochat.reading_data import Asked, Batches, Question, collate, held_out, load, memory_of, question_files
from nanochat.task_data import REFUSAL
from nanochat.words import Lexicon

NAMES = "Zoë Anna Иван 明子 Omar Lars José Chloé".split()
TOWNS = "Kyōto,São Paulo,New York,Łódź,Luxor,Nice,東京,Brno".split(",")
TIME = 1_700_000_000   # 2023-11-14 22:13


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return Lexicon(tokenizer)


def item(n, times=False):
    """A memory with every kind of question: an answer, a list, none, a composed one, and one that needs two lines."""
    name, other, town, city = NAMES[n % 8], NAMES[(n + 3) % 8], TOWNS[n % 8], TOWNS[(n + 5) % 8]
    sents = [f"{name} moved to {town} in spring.", "It rained.", f"Yesterday {other} flew to {city}, at 9:40."]
    qas = [{"q": f"Where does {name} live?", "disfluent": f"Where did, no, where does {name} live?", "a": town,
            "evidence": [0]},
           {"q": "Which towns were named?", "a": [city, town], "evidence": [2, 0]},
           {"q": f"What is the shoe size of {name}?", "a": "", "evidence": []},
           {"q": f"How many people travelled, {n}?", "a": f"{n} and two", "evidence": [0, 2], "composed": True},
           {"q": f"When did the one who is not {name} fly?", "a": "9:40", "evidence": [0, 2]}]
    return {"src": f"source {n % 2}", "sents": sents, "qas": qas} | ({"times": [TIME, -1, 10 ** 15]} if times else {})


def written(path, items):
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in items)
    return path


def only(memory, index):
    """The sources of which one question alone is asked."""
    return {"one": [type(memory)(memory.lines, [memory.questions[index]])]}


def spoken(tokenizer, tokens):
    """The text of an answer, as it would be shown, without its end."""
    assert tokens[-1] == (tokenizer.end_id, [])
    return text_of(tokenizer, [(token, places[0] if places else -1) for token, places in tokens[:-1]])


def consistent(columns, tokens):
    """What is copied stands where it is said to stand, in an episode."""
    for token, places in tokens:
        assert len(set(places)) == len(places)
        if places:
            assert columns["ids"][places[0]] == token and (columns["ordinal"][places] >= 0).all()


def texts(columns, tokenizer):
    """(question, [episodes]) of a window."""
    owner, ids = columns["ordinal"], columns["ids"]
    episodes = [tokenizer.decode(ids[owner == i][1:].tolist()) for i in np.unique(owner[owner >= 0])]
    return tokenizer.decode(ids[owner == -1][1:].tolist()), episodes


def bytes_of(line, part):
    return line.text.encode("utf-8")[part[1]:part[2]].decode("utf-8")


# from a file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [False, True])
def test_answers_stand_where_their_parts_say(lexicon, times):
    for n in range(8):
        one = item(n, times)
        memory = memory_of(one, lexicon)
        header = "[2023-11-14 22:13] " if times else ""
        assert [line.text for line in memory.lines] == [header + one["sents"][0], *one["sents"][1:]]
        assert len(memory.questions) == len(one["qas"])
        for question, qa in zip(memory.questions, one["qas"]):
            values = [] if qa.get("composed") or not qa["a"] else qa["a"] if isinstance(qa["a"], list) else [qa["a"]]
            assert [bytes_of(memory.lines[part[0]], part) for part in question.parts] == values
            assert question.evidence == qa["evidence"] and question.composed == (qa["a"] if qa.get("composed") else "")
            assert [form.text for form in question.forms] == [qa[k] for k in ("q", "disfluent") if k in qa]
        assert [part[0] for part in memory.questions[1].parts] == [2, 0]
        assert memory.questions[4].parts[0][0] == 2


@settings(max_examples=80)
@given(before=st.text(max_size=12), value=st.text(min_size=1, max_size=8), after=st.text(max_size=12),
       time=st.sampled_from([-1, 0, TIME]), broken=st.sampled_from(["", "\ud800", "\udfff"]))
def test_parts_are_right_in_any_text(lexicon, before, value, after, time, broken):
    """A half of a character, which JSON can hold, becomes U+FFFD."""
    sents = ["x", before + broken + "-" + value + after]
    one = {"sents": sents, "times": [-1, time], "qas": [{"q": "?", "a": value, "evidence": [1]}]}
    memory = memory_of(one, lexicon)
    (part,) = memory.questions[0].parts
    assert part[0] == 1 and bytes_of(memory.lines[1], part) == value
    line, (_, first, last) = memory.lines[1], part
    bytes_held = [set(range(a, b)) & set(range(first, last)) for a, b in zip(line.start, line.end)]
    wanted = [(int(line.ids[t]), [7 + t]) for t, held in enumerate(bytes_held) if held]
    assert reading_data.copied(line, 7, first, last) == wanted and set().union(*bytes_held) == set(range(first, last))
    header = "[" if time >= 0 else ""
    assert memory.lines[1].text.startswith(header) and memory.lines[0].text == "x"


def test_a_question_whose_answer_does_not_stand_there_is_left_out(lexicon):
    one = item(0)
    one["qas"][0]["a"], one["qas"][1]["a"] = "Atlantis", [TOWNS[5], "Atlantis"]
    assert [q.forms[0].text for q in memory_of(one, lexicon).questions] == [qa["q"] for qa in one["qas"][2:]]


def test_files_are_read_packed_or_not_by_source(tmp_path, lexicon):
    paths = [written(tmp_path / "b.jsonl", map(item, range(3)))]
    paths.append(written(tmp_path / "a.jsonl.xz", map(item, range(3, 5))))
    (tmp_path / "c.parquet").touch()
    sources = load(paths, lexicon)
    assert {name: len(memories) for name, memories in sources.items()} == {"source 0": 3, "source 1": 2}
    assert sources["source 1"][1].lines[0].text == item(3)["sents"][0]
    assert question_files(tmp_path) == sorted(paths)


def changed(change):
    one = item(0)
    change(one)
    return json.dumps(one)


@pytest.mark.parametrize("line", [
    "{", "nonsense", "[]", "7", "null", '{"src": "a"}', '{"src": "a", "sents": ["b"]}',
    changed(lambda one: one.pop("src")),
    changed(lambda one: one.update(sents=None)),
    changed(lambda one: one.update(sents=[1, 2, 3])),
    changed(lambda one: one.update(times=[1])),
    changed(lambda one: one.update(times=["now", 1, 2])),
    changed(lambda one: one["qas"][0].pop("q")),
    changed(lambda one: one["qas"][0].pop("a")),
    changed(lambda one: one["qas"][0].pop("evidence")),
    changed(lambda one: one["qas"][0].update(a=5)),
    changed(lambda one: one["qas"][0].update(q=5)),
    changed(lambda one: one["qas"][0].update(evidence=[3])),
    changed(lambda one: one["qas"][0].update(evidence=[-1])),
    changed(lambda one: one["qas"][0].update(evidence="0")),
    changed(lambda one: one["qas"][0].update(evidence=0)),
    changed(lambda one: one["qas"][1].update(evidence=[2])),
    changed(lambda one: one["qas"][2].update(evidence=[7])),
    changed(lambda one: one["qas"][3].update(evidence=[7])),
    changed(lambda one: one["qas"][3].update(a=["x"])),
    changed(lambda one: one["qas"][3].update(a=5))])
def test_a_line_that_is_no_memory_is_named(tmp_path, lexicon, line):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(item(0)) + "\n\n" + line + "\n", encoding="utf-8")   # a blank line counts, too
    with pytest.raises(UserError) as error:
        load([path], lexicon)
    assert str(error.value).startswith(f"{path}, line 3: ") and "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path, lexicon):
    written(tmp_path / "cut.jsonl.xz", map(item, range(20)))
    data = (tmp_path / "cut.jsonl.xz").read_bytes()
    (tmp_path / "cut.jsonl.xz").write_bytes(data[:len(data) // 2])
    (tmp_path / "no.jsonl.xz").write_bytes(b"no archive")
    (tmp_path / "latin.jsonl").write_bytes(b'{"src": "caf\xe9"}\n')
    for name in ("cut.jsonl.xz", "no.jsonl.xz", "latin.jsonl", "missing.jsonl"):
        with pytest.raises(UserError) as error:
            load([tmp_path / name], lexicon)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_where_there_is_nothing_to_ask_one_line_says_so(tmp_path, lexicon, tokenizer):
    with pytest.raises(UserError, match="no questions in"):
        question_files(tmp_path)
    path = written(tmp_path / "a.jsonl", [item(0) | {"qas": []}])
    with pytest.raises(UserError, match=r"a\.jsonl"):
        load([path], lexicon)
    with pytest.raises(UserError, match="hardly any"):
        next(Batches(lambda r: None, 0, ahead=5))


# what is asked --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [False, True])
def test_the_answer_to_a_question_is_copied_from_where_it_stands(lexicon, tokenizer, times):
    memories, r = [memory_of(item(n, times), lexicon) for n in range(5)], random.Random(0)
    for n, index in itertools.product(range(5), range(5)):
        others = memories[:n] + memories[n + 1:]
        sources = only(memories[n], index)
        sources["one"] += [type(m)(m.lines, []) for m in others]   # others are there, but not asked
        ask, qa = Asked(sources, tokenizer, withheld=0), item(n)["qas"][index]
        seen = set()
        for _ in range(6):
            columns, tokens = ask(r)
            consistent(columns, tokens)
            question, episodes = texts(columns, tokenizer)
            seen.add(question)
            refused, composed = not qa["a"], qa.get("composed")
            values = qa["a"] if isinstance(qa["a"], list) else [qa["a"]]
            assert spoken(tokenizer, tokens) == (REFUSAL if refused else ", ".join(values))
            assert [bool(places) for _, places in tokens[:-1]].count(True) == 0 or not refused and not composed
            for i in qa["evidence"]:   # it is always there
                assert any(text.endswith(item(n)["sents"][i]) for text in episodes)
            if not refused and not composed:
                made = [token for token, places in tokens[:-1] if not places]
                assert made == tokenizer.encode(",") * (len(values) - 1)
        assert seen <= {qa["q"], qa.get("disfluent")}


def test_both_ways_to_ask_and_other_memories_before_and_after_are_drawn(lexicon, tokenizer):
    memories = [memory_of(item(n), lexicon) for n in range(4)]
    sources = only(memories[0], 0)
    sources["one"] += [type(m)(m.lines, []) for m in memories[1:]]
    ask, r, forms, at = Asked(sources, tokenizer, withheld=0, others=3), random.Random(1), set(), set()
    for _ in range(30):
        columns, tokens = ask(r)
        question, episodes = texts(columns, tokenizer)
        forms.add(question)
        at.add(episodes.index(item(0)["sents"][0]) > 0)
    qa = item(0)["qas"][0]
    assert forms == {qa["q"], qa["disfluent"]} and at == {True, False}


def test_what_is_withheld_is_refused_and_stands_nowhere(lexicon, tokenizer):
    repeated = item(0)
    repeated["sents"] += [f"They say {TOWNS[0].upper()} is dear.", "Nobody minds."]
    memories = [memory_of(one, lexicon) for one in (repeated, item(8), item(1))]   # item(8) says the same
    r, left = random.Random(2), 0
    for index in (0, 1, 3, 4):
        qa = repeated["qas"][index]
        sources = only(memories[0], index)
        sources["one"] += [type(m)(m.lines, []) for m in memories[1:]]
        ask = Asked(sources, tokenizer, withheld=1)
        for _ in range(8):
            columns, tokens = ask(r)
            assert spoken(tokenizer, tokens) == REFUSAL and not any(places for _, places in tokens)
            _, episodes = texts(columns, tokenizer)
            values = [] if qa.get("composed") else qa["a"] if isinstance(qa["a"], list) else [qa["a"]]
            assert not any(value.lower() in text.lower() for value in values for text in episodes)
            left += len(episodes)
    assert left


def test_without_a_line_left_the_question_stands_alone(lexicon, tokenizer):
    one = {"sents": ["Zoë lives in Nice."], "qas": [{"q": "Where does Zoë live?", "a": "Nice", "evidence": [0]}]}
    columns, tokens = Asked({"one": [memory_of(one, lexicon)]}, tokenizer, withheld=1, others=0)(random.Random(0))
    assert texts(columns, tokenizer) == ("Where does Zoë live?", []) and spoken(tokenizer, tokens) == REFUSAL


def test_of_words_so_many_are_masked_and_nothing_else_changes(lexicon, tokenizer):
    vectors = Lexicon(tokenizer, ["spring", "flew"])
    sources = {"one": [memory_of(item(n), vectors) for n in range(8)]}
    plain, some = Asked(sources, tokenizer), Asked(sources, tokenizer, masked=0.5)
    shares = []
    for seed in range(60):
        (before, answer), (columns, tokens) = plain(random.Random(seed)), some(random.Random(seed))
        gone = columns["ids"] != before["ids"]
        assert tokens == answer and (columns["ids"][gone] == tokenizer.pad_id).all()
        assert (before["word"][gone] > 0).all() and not columns["vector"][gone].any()
        assert np.array_equal(columns["vector"][~gone], before["vector"][~gone])
        assert all(np.array_equal(columns[name], before[name]) for name in before if name not in ("ids", "vector"))
        shares.append(gone.sum() / (before["word"] > 0).sum())
    assert min(shares) < 0.1 and max(shares) > 0.9 and 0.4 < np.mean(shares) < 0.6
    # lines are kept as they are
    assert all((line.ids != tokenizer.pad_id).all() for memory in sources["one"] for line in memory.lines)


def test_what_does_not_fit_the_window_is_no_example(lexicon, tokenizer):
    filler = "word " * 200
    sents = [f"{filler} Zoë lives in Nice.", f"Then {filler} she moved."]
    for qa, budget, fits in (({"a": "Nice", "evidence": [0]}, 128, False), ({"a": "Nice", "evidence": [0]}, 512, True),
                             ({"a": "two", "evidence": [0, 1], "composed": True}, 256, False),
                             ({"a": "two", "evidence": [0, 1], "composed": True}, 512, True),
                             ({"a": "moved", "evidence": [0, 1]}, 256, False)):
        memory = memory_of({"sents": sents, "qas": [{"q": "Where?", **qa}]}, lexicon)
        ask = Asked({"one": [memory]}, tokenizer, withheld=0, others=0)
        ask.budgets = [budget]
        made = ask(random.Random(0))
        assert (made is not None) == fits
        assert not made or len(made[0]["ids"]) <= budget


def test_sources_are_drawn_by_their_questions_but_a_large_one_counts_only_so_much(lexicon, tokenizer, monkeypatch):
    monkeypatch.setattr(reading_data, "MOST", 3)
    line = lexicon.line("It rained.")
    several = lambda n: [reading_data.Memory([line], [Question([lexicon.line("Did it?")], [], [])] * n)]
    assert Asked({"a": several(1), "b": several(7)}, tokenizer).shares == pytest.approx([0.25, 0.75])


@settings(max_examples=60)
@given(counts=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 20_000), min_size=1),
       a=st.floats(0, 0.5), b=st.floats(0, 0.5))
def test_shares_of_sources_that_begin_alike(counts, a, b):
    """What is told for a prefix they have together, the others the rest; within it, by their questions."""
    shares = dict(zip(counts, reading_data.source_shares(counts, {"a": a, "b": b, "zz": 0.3})))
    size = {name: min(count, reading_data.MOST) for name, count in counts.items()}
    group = lambda name: {"a": a, "b": b}.get(name[0])
    there = {name[0]: group(name) for name in counts if group(name) is not None}
    for name, share in shares.items():
        key = lambda one: one[0] if group(one) is not None else None
        alike = [other for other in counts if key(other) == key(name)]
        have = 1 - sum(there.values()) if group(name) is None else group(name)
        assert sum(shares[other] for other in alike) == pytest.approx(have)
        assert share == pytest.approx(have * size[name] / sum(size[other] for other in alike))


def test_the_evidence_is_found_or_put_there(lexicon, tokenizer):
    """A window that holds few of many lines holds those that are asked about."""
    lines = [f"Number {i} is red and {i + 100} is not." for i in range(40)]
    one = {"sents": lines, "qas": [{"q": "What is not?", "a": str(i + 100), "evidence": [i]} for i in range(40)]}
    ask, r = Asked({"one": [memory_of(one, lexicon)]}, tokenizer, 128, withheld=0), random.Random(3)
    for _ in range(20):
        columns, tokens = ask(r)
        consistent(columns, tokens)
        assert len(columns["ids"]) <= 128 and int(spoken(tokenizer, tokens)) in range(100, 140)


def test_what_is_held_out_is_not_learned_from_and_always_the_same(lexicon, tokenizer):
    lines = [lexicon.line("It rained.")]
    asked = lambda n: Question([lexicon.line(f"Did it rain on day {n}?")], [], [])
    memory = lambda n: reading_data.Memory(lines, [asked(n)])
    sources = lambda: {"a": [memory(n) for n in range(130)], "b": [memory(777)]}
    left, again = sources(), sources()
    held, same = held_out(left, tokenizer, 12), held_out(again, tokenizer, 12)
    questions = [texts(columns, tokenizer)[0] for columns, _ in held]
    assert questions == [texts(columns, tokenizer)[0] for columns, _ in same] and len(held) == 12
    assert all(np.array_equal(a[0]["ids"], b[0]["ids"]) and a[1] == b[1] for a, b in zip(held, same))
    assert {q for q in questions} <= {f"Did it rain on day {n}?" for n in (0, 64, 128, 777)}
    rest = [memory.questions[0].forms[0].text for memory in left["a"]]
    assert rest == [f"Did it rain on day {n}?" for n in range(130) if n % reading_data.HELD] and len(left["b"]) == 1


# batches --------------------------------------------------------------------------------------------------------------


def test_examples_are_put_together_and_filled_up(lexicon, tokenizer):
    ask, r = Asked({"a": [memory_of(item(n), lexicon) for n in range(3)]}, tokenizer), random.Random(0)
    examples = [ask(r) for _ in range(12)]
    window, answer = collate(examples)
    assert window.ids.dtype == answer.ids.dtype == answer.source.dtype == torch.int64
    assert answer.source.shape[:2] == answer.ids.shape == (len(examples), max(len(tokens) for _, tokens in examples))
    for b, (columns, tokens) in enumerate(examples):
        assert window.ids[b, :len(columns["ids"])].tolist() == columns["ids"].tolist()
        assert (window.ordinal[b, len(columns["ids"]):] == -2).all()
        rest = answer.ids.shape[1] - len(tokens)
        assert answer.ids[b].tolist() == [token for token, _ in tokens] + [-1] * rest
        want = [places for _, places in tokens] + [[]] * rest
        assert [[p for p in row if p >= 0] for row in answer.source[b].tolist()] == want


def equal(a, b):
    tensors = lambda batch: [tensor for part in batch for tensor in vars(part).values()]
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_batches_are_determined_by_the_seed_and_go_on_where_they_were(lexicon, tokenizer):
    ask = Asked({"a": [memory_of(item(n), lexicon) for n in range(8)]}, tokenizer, masked=0.1)
    start = lambda seed=5, position=(0, 0): Batches(ask, seed, tokens=700, ahead=10, position=position)
    stream, positions, whole = start(), [], []
    assert iter(stream) is stream
    while stream.round < 3:
        positions.append(stream.position)
        whole.append(next(stream))
    assert len(whole) > 8 and {position[0] for position in positions} == {0, 1, 2}
    for i in range(0, len(whole), 3):
        resumed = start(position=tuple(json.loads(json.dumps(positions[i]))))
        for batch in whole[i:i + 2]:
            assert equal(next(resumed), batch)
        assert resumed.position == (positions + [stream.position])[min(i + 2, len(whole))]
    assert not all(a[0].ids.shape == b[0].ids.shape and equal(a, b) for a, b in zip(whole, start(6)))
    sizes = [len(window.ids) for window, _ in whole]
    assert sum(sizes) == 30   # each example of a round is dealt once
    assert all(window.ids.numel() <= 700 or len(window.ids) == 1 for window, _ in whole)
    beyond = start(position=(0, 10_000))   # of a run whose windows were smaller
    assert equal(next(beyond), whole[[p[0] for p in positions].index(1)]) and beyond.position[0] == 1
    longest = [window.ids.shape[1] for (window, _), position in zip(whole, positions) if position[0] == 0]
    assert len(longest) > 1
