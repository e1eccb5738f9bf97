"""The synthetic base: honest answers, no ambiguity, and nothing of the Cairo timeline."""
import collections
import json
import random
import re
from itertools import islice, pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dev import base_forms, base_tastes, base_words, gen_base_data as base, gen_cairo_data as cairo
from dev.base_changes import Updates
from dev.base_frames import Frames
from dev.base_talk import Talk
from dev.base_things import Things
from dev.base_threads import ATTRIBUTES, CAIRO_FORMS, Facts, Timeline, _clash
from dev.base_values import LOOKALIKES, MAKERS, Names, identifier, odd, value, with_odd_word, word
from nanochat.tokenizer import Tokenizer

N_LIVES = 120


@pytest.fixture(scope="module")
def lives():
    return list(islice(base.lives(seed=11), N_LIVES))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("prose") / "p.jsonl"
    ok = "The old mill stood by the stream. Its wheel had not turned for years, and nobody in the village knew why it had stopped. " * 8
    bad = "They met in Zamalek every week. After the market they drank a glass of mint tea and talked about the price of bread. " * 8
    documents = [{"text": ok + "A second paragraph <|end|> follows.\n" + ok}, {"text": bad}]
    path.write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
    return base.Prose(str(path))


def test_no_cairo_vocabulary(lives):
    forbidden = set(re.findall(r"[\w-]+", " ".join(("Cairo", *cairo.PLACES, *cairo.DRINKS, *cairo.MOODS)).lower()))
    texts = [x for life in lives for e in life for x in (e.text, e.answer)]
    assert len(texts) > 10000
    for text in texts:
        assert not forbidden & set(re.findall(r"[\w-]+", text.lower())), text
        assert not forbidden & set(re.findall(r"\w+", text.lower())), text


def test_no_cairo_template(lives):
    truth = list(cairo.timeline(2000, seed=3))
    assert all(CAIRO_FORMS.fullmatch(r["text"]) for r in truth)
    assert not any(CAIRO_FORMS.fullmatch(e.text) for life in lives for e in life if not e.is_question)

    def skeleton(text, t, subject, values):
        text = text.replace(t, "t=#")
        for v in sorted(values, key=len, reverse=True):
            text = text.replace(v, "_")
        return re.sub(re.escape(subject), "S", text, flags=re.IGNORECASE)

    theirs = {skeleton(r["text"], f"t={r['t']}", "the user", (r["location"], r["mood"], r["drink"])) for r in truth}
    rows = [next(a for a in ATTRIBUTES if a[0] == key) for key in ("place", "feeling", "drink")]
    rng, seen = random.Random(2), set()
    for _ in range(60):  # the same attributes, the same marker: the closest the base can come
        line = Timeline(rng, Names(), 50)
        line.rows, line.says = rows, [a[4].replace(" |", "|").split("|") for a in rows]
        line.nouns, line.pools = [["location"], ["mood"], ["favourite drink", "drink"]], [["Oslo"], ["weary"], ["cider"]]
        line.values, line.change, line.clock.mark, line.clock.say_word = ["Oslo", "weary", "cider"], [0, 0, 0], "t={n}", None
        for i in range(50):
            episode, token = line.tell(rng, i)
            seen.add(skeleton(episode.text, token.bare, line.subject, token.answers.values()))
    assert len(seen) > 500 and not seen & theirs


def test_answers_stand_in_earlier_evidence(lives):
    for life in lives:
        for i, e in enumerate(life):
            if e.evidence == -2:
                assert e.is_question and e.answer == "I don't know" and e.kind == "unknown"
            elif e.is_question:
                assert e.evidence < i and not life[e.evidence].is_question
                parts = e.answer.split(", ") if e.kind == "both" else [e.answer]
                assert all(part and part in life[e.evidence].text for part in parts) and not e.answer.endswith(".")
            else:
                assert e.evidence == -1 and e.answer == ""


def replay(life):
    """Check every question of a life against what its statements say; returns how often each operation was checked."""
    told, of_subject, count = collections.defaultdict(list), collections.defaultdict(list), collections.Counter()
    for i, e in enumerate(life):
        if not e.is_question:
            for (subject, attribute), v, time in e.facts:
                told[subject, attribute].append((i, v, time))
                of_subject[subject].append((i, time))
            continue
        op, keys, time = e.facts
        count[op] += 1
        for part, key in zip(e.answer.split(", ") if len(keys) > 1 else [e.answer], keys, strict=True):
            times = [t for _, _, t in told[key]]
            if op == "unknown" and time is None:
                assert not told[key]
            elif op == "unknown" and times:
                assert time not in times and (time < min(times) or time > max(times) or times != sorted(times))
                dense = len(of_subject[key[0]]) < 2 or all(b - a in (0, 1) for (_, a), (_, b) in pairwise(of_subject[key[0]]))
                assert time < max(times) or dense or times != sorted(times) or [t for _, t in of_subject[key[0]]] != sorted(t for _, t in of_subject[key[0]])
            elif op == "unknown":
                assert not told[key]
            elif op == "reverse":
                (value, attribute), holder = key, e.answer
                assert [(k[0], x[0]) for k, xs in told.items() if k[1] == attribute for x in xs if x[1] == value] == [(holder, e.evidence)]
            else:
                if op in ("latest", "now"):
                    index, value, _ = told[key][-1]
                elif op == "at":
                    (index, value), = [(n, v) for n, v, t in told[key] if t == time]
                elif op == "before":
                    last = max(t for _, t in of_subject[key[0]] if t < time)
                    (index, value), = [(n, v) for n, v, t in told[key] if t == last]
                else:
                    assert op == "asof" and time not in times
                    index, value, _ = max((x for x in told[key] if x[2] <= time), key=lambda x: x[2])
                assert (e.evidence, part) == (index, value), (op, e, life[index])
            if op != "reverse" and key[0] not in ("I", "she", "he"):
                assert key[0].lower() in e.text.lower()
            if op in ("at", "asof") or time is not None:
                assert str(time) in e.text
    return count


def test_replay_finds_the_same_evidence():
    count = collections.Counter()
    for life in islice(base.lives(seed=31, question_share=0.5), 250):
        count += replay(life)
    assert min(count[op] for op in ("at", "before", "asof", "now", "latest", "reverse", "unknown")) > 200, count
    with pytest.raises(AssertionError):  # the checker can fail
        replay([base.Episode("A is 1", facts=((("A", "x"), "1", None),)), base.Episode("A is 2", facts=((("A", "x"), "2", None),)),
                base.Episode("What is A?", "1", 0, "updates", ("latest", (("A", "x"),), None))])


def test_strangers_are_in_no_statement():
    seen = 0
    for life in islice(base.lives(seed=32, question_share=0.5), 100):
        told, known = [], set()
        for e in life:
            if not e.is_question:
                told.append(e.text.lower())
                known |= {key[0] for key, _, _ in e.facts}
            elif e.evidence == -2 and e.facts[1][0][0] not in known | {"I", "she", "he"}:
                who = e.facts[1][0][0].lower()  # one who has only made small talk is asked of things not told, too
                assert e.facts[1][0][1] == Things.kind or not any(who in text for text in told if not text.startswith(f"{who}: ")), e   # of a thing, remarks may speak
                seen += 1
    assert seen > 200


def test_time_and_subject_name_one_episode():
    rng, checked = random.Random(4), 0
    for _ in range(150):
        names, told = Names(), []
        threads = [Timeline(rng, names, 40)]
        threads.append(Timeline(rng, names, 40, threads[0]))
        for i in range(40):
            thread = rng.choice(threads)
            episode, token = thread.tell(rng, i)
            told.append((episode.text, thread, token))
        for text, thread, (index, bare, answers, _) in told:
            marker = re.compile(r"(?<!\w)" + re.escape(bare) + r"(?!\w)", re.IGNORECASE)
            forms = {"I": "I|my|me", "she": "she|her", "he": "he|his|him"}.get(thread.subject, re.escape(thread.subject))
            subject = re.compile(rf"(?<!\w)(?:{forms})(?!\w)", re.IGNORECASE)
            assert marker.search(text) and subject.search(text)
            both = [t for t, other, _ in told if marker.search(t) and subject.search(t)
                    and (other is thread or thread.subject != "I")]  # others may say "I" in quotation marks
            assert both == [text]
            checked += 1
    assert checked == 6000


def test_attributes_of_a_timeline_cannot_be_confused():
    rng = random.Random(5)
    for _ in range(400):
        rows = Timeline(rng, Names(), 20).rows
        assert all(not _clash(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert len(ATTRIBUTES) >= 50


def test_timeline_questions_are_answered_by_their_line():
    rng, kinds = random.Random(6), collections.Counter()
    for _ in range(100):
        line = Timeline(rng, Names(), 30)
        tokens = [line.tell(rng, i)[1] for i in range(30)]
        for token in tokens:
            e = line.ask(rng, token)
            kinds[e.kind] += 1
            if e.kind == "timeline":
                assert token.bare.lower() in e.text.lower() and e.answer in token.answers.values() and e.evidence == token.index
            if e.kind in ("now", "before", "asof"):
                assert line.clock.kind in (("sparse",) if e.kind == "asof" else ("dense", "sparse"))
                assert e.answer in tokens[e.evidence].answers.values()
            if e.kind == "unknown":  # a moment to come, where each moment has its line
                assert line.clock.kind == "dense" and e.evidence == -2 and e.facts[2] > line.clock.numbers[29]
    assert {"timeline", "now", "before", "asof", "both", "unknown"} == set(kinds) and 0.02 < kinds["unknown"] / sum(kinds.values()) < 0.08


def test_facts_are_told_once_and_reverse_questions_are_unique():
    rng = random.Random(7)
    for _ in range(60):
        thread = Facts(rng, Names())
        tokens = [thread.tell(rng, i)[1] for i in range(80)]
        assert len({(id(t["row"]), t["entity"]) for t in tokens}) == len(tokens)
        holders = collections.Counter((t["row"][2], t["value"]) for t in tokens)
        for t in tokens:
            assert t["unique"] == (holders[t["row"][2], t["value"]] == 1)


def test_updates_ask_for_the_latest_of_many():
    rng, worded, asked, items = random.Random(8), 0, 0, []
    for _ in range(40):
        thread = Updates(rng, Names(), 200)
        for i in range(200):
            thread.tell(rng, i)
        items.append(len(thread.items))
        for item in thread.items:
            assert len(set(item["past"])) == len(item["past"]) <= 7
            e = thread.ask(rng, item)
            assert (e.answer, e.evidence) == (item["past"][-1], item["index"])
            asked += 1
            worded += bool(re.search(r"now|current|latest|last|recent|moment|present|these days|end|today|stand|point|report", e.text.lower()))
    assert 0.35 < worded / asked < 0.65 and max(items) > 60 and min(items) >= 8


def test_shares(lives):
    kinds = collections.Counter(e.kind for life in lives for e in life if e.is_question)
    questions, total = sum(kinds.values()), sum(map(len, lives))
    assert 0.22 < questions / total < 0.33
    assert 0.12 < kinds["updates"] / questions < 0.28
    assert 0.08 < kinds["unknown"] / questions < 0.24
    assert {"timeline", "now", "before", "asof", "both", "facts", "keys", "key-value", "chat", "frames", "preference", "updates", "unknown"} <= set(kinds)
    lengths = [len(life) for life in lives]
    assert min(lengths) >= 20 and max(lengths) <= 800
    marked = [e for life in lives for e in life if e.is_question and e.kind == "timeline"]
    assert 0.2 < sum(bool(re.search(r"\bt=\d", e.text)) for e in marked) / len(marked) < 0.6
    assert len({re.sub(r"\d+", "#", e.text) for e in marked}) > 0.5 * len(marked)


def test_parameters_and_determinism(lives):
    assert lives[:5] == list(islice(base.lives(seed=11), 5))
    assert lives[3] == next(base.lives(seed=11, start=3))
    assert lives[0] != next(base.lives(seed=12))
    assert all(len(life) == 64 for life in islice(base.lives(1, episodes=64, question_share=0.5), 5))
    many = list(islice(base.lives(1, episodes=400, question_share=0.5), 20))
    assert 0.42 < sum(e.is_question for life in many for e in life) / 8000 < 0.56


def test_prose(prose):
    found = list(islice(base.lives(seed=2, episodes=100, prose=prose), 60))
    whole = [life for life in found if all(e.kind == "prose" for e in life)]
    mixed = [life for life in found if life not in whole]
    assert 0 < len(whole) < 20
    for life in found:
        for e in life:
            assert "Zamalek" not in e.text and "mint tea" not in e.text and "<|" not in e.text
    words = collections.Counter()
    for e in (e for life in mixed for e in life):
        words[e.kind == "prose"] += len(e.text.split())
        assert not (e.is_question and e.kind == "prose")
    assert 0.12 < words[True] / sum(words.values()) < 0.28


def test_render():
    episodes = [base.Episode("A is B."), base.Episode("What is A?", "B", 0, "facts")]
    # the space before the value in the evidence goes with the answer, so that both have the same tokens
    assert base.render(episodes) == ("<|bos|>A is B.<|end|><|bos|><|user|>What is A?<|assistant|> B<|end|>", [-1, 0])
    terse = [base.Episode("A=B"), base.Episode("What is A?", "B", 0, "facts")]
    assert base.render(terse) == ("<|bos|>A=B<|end|><|bos|><|user|>What is A?<|assistant|>B<|end|>", [-1, 0])
    nothing = [base.Episode("A=B"), base.Episode("What is C?", "I don't know", -2, "unknown")]
    assert base.render(nothing) == ("<|bos|>A=B<|end|><|bos|><|user|>What is C?<|assistant|> I don't know<|end|>", [-1, -2])
    with pytest.raises(ValueError):
        base.render([base.Episode("a <|end|> b")])


def test_tables_and_words():
    assert all(len(r) == 7 for r in base_forms.ATTRIBUTES) and all(len(r) == 6 for r in base_forms.RELATIONS)
    pools = {r[2] for r in base_forms.ATTRIBUTES} | {r[2] for r in base_forms.RELATIONS} | {r[1] for r in base_forms.UPDATES}
    assert pools <= set(MAKERS) | set(base_words.POOLS)
    # an update needs a value that it never had, as often as it is told
    assert {r[1] for r in base_forms.UPDATES} <= set(MAKERS) | set(LOOKALIKES)
    rng = random.Random(1)
    assert len({word(rng) for _ in range(5000)}) > 4000


def test_command_line_writes_shards(tmp_path, capsys):
    args = ["--output_dir", str(tmp_path), "--shards", "2", "--lives_per_shard", "3", "--seed", "9", "--episodes", "40"]
    assert base.main(args) == 0
    assert "% questions" in capsys.readouterr().err
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["base_00000.parquet", "base_00001.parquet"]
    rows = [row for f in files for row in pq.read_table(tmp_path / f).to_pylist()]
    assert pq.read_schema(tmp_path / files[0]).field("evidence").type == pa.list_(pa.int32())
    assert pq.ParquetFile(tmp_path / files[0]).metadata.row_group(0).column(0).compression == "ZSTD"
    expected = [base.render(life) for life in islice(base.lives(9, episodes=40), 6)]
    assert [(r["text"], r["evidence"]) for r in rows] == expected
    assert rows[0]["text"].count("<|bos|>") == len(rows[0]["evidence"]) == 40


def test_wrong_usage(tmp_path, capsys):
    assert base.main(["--shards", "0"]) == 2
    assert base.main(["--question-share", "2"]) == 2
    assert base.main(["--output-dir", str(tmp_path), "--prose", str(tmp_path / "none.jsonl")]) == 1
    (tmp_path / "bad.jsonl").write_text("not json\n")
    assert base.main(["--output-dir", str(tmp_path), "--prose", str(tmp_path / "bad.jsonl")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_subjects_are_never_values_or_remarks():
    said = [*base_forms.CAUSES, *base_forms.AFTERMATHS, *base_forms.FILLERS, *(v for pool in base_words.POOLS.values() for v in pool)]
    for subject in set(base_words.SUBJECTS) - {"I", "she", "he"}:
        assert not any(re.search(rf"\b{re.escape(subject)}\b", text, re.IGNORECASE) for text in said), subject


def test_frames_answer_with_what_the_question_leaves_out():
    rng, forms, said = random.Random(9), set(), 0
    for _ in range(150):
        thread, told = Frames(rng, Names(), 40), []
        for i in range(40):
            episode, token = thread.tell(rng, i)
            told.append(episode.text.lower())
            e = thread.ask(rng, token)
            assert e.answer in episode.text and e.evidence == i
            said += e.answer.lower() in e.text.lower().split()   # by chance alone: "which partner has X", "partner"
            forms.add(re.sub(re.escape(token["key"]), "K", re.sub(re.escape(token["value"]), "V", e.text)))
            nothing = thread.unknown(rng, "\n".join(told))
            if nothing:
                assert not any(key == nothing.facts[1][0] for key in ((t["key"], thread._predicate(f)) for (f, _), t in thread.told.items()))
    assert len(forms) > 1000 and said <= 3
    rows = [row for row in base_forms.FRAMES]
    assert len(rows) >= 30 and all(len(row) == 3 and row[1] for row in rows)


def test_later_words_of_values_often_begin_with_a_space_of_their_own(tokenizer):
    rng, (space,) = random.Random(4), tokenizer.encode(" ")
    assert sum(space in tokenizer.encode(" " + odd(rng, i % 2 == 0)) for i in range(400)) == 400
    values = [value(rng, pool) for pool in ("place", "food", "drink", "invented_name", "invented_place", "book", "gift") for _ in range(300)]
    several = [v for v in values if " " in v]
    assert 0.15 < sum(space in tokenizer.encode(" " + v)[1:] for v in several) / len(several) < 0.35
    assert {with_odd_word(rng, "a goat").split()[0] for _ in range(100)} == {"a", "an"}


def test_identifiers_are_long_and_no_uuids():
    rng = random.Random(3)
    for _ in range(2000):
        out = identifier(rng)
        assert 12 <= len(re.sub(r"\W|_", "", out)) <= 40 and not re.fullmatch(r"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", out)


def test_talk_is_asked_of_its_speaker_and_the_last_word_counts():
    rng, kinds = random.Random(10), collections.Counter()
    for _ in range(60):
        thread, last = Talk(rng, Names(), 60), {}
        for i in range(60):
            episode, token = thread.tell(rng, i)
            if token is None:
                assert not episode.facts
                continue
            (key, v, _), = episode.facts
            last[key] = (v, i)
            assert v in episode.text and (key[0] == "I" or episode.text.startswith(key[0] + ": ") or thread.reported and key[0] in episode.text)
            e = thread.ask(rng, token)
            assert (e.answer, e.evidence) == last[key] and (key[0] == "I" or key[0] in e.text)
            kinds[e.kind] += 1
            nothing = thread.unknown(rng, "")
            assert nothing is None or nothing.facts[1][0] not in last
    assert set(kinds) == {"preference", "chat"}
    assert len(base_forms.CHAT_LINES) >= 40 and len(base_tastes.TASTES) >= 40 and all(len(row) == 3 for row in base_forms.CHAT_LINES)


def test_prose_says_the_nouns_that_things_are_told_apart_by(tmp_path):
    path, rng = tmp_path / "p.jsonl", random.Random(1)
    dull = "Nobody knew why the mill had stopped, and the old people of the village did not care to say it. " * 20
    path.write_text("".join(json.dumps({"text": dull + extra + dull}) + "\n" for extra in ("", "The Key to this is patience and a good deal of luck, said he. ", "")), encoding="utf-8")
    prose = base.Prose(str(path), nouns=("key", "anchor"))
    assert set(prose.mentions) == {"key"}
    assert sum("Key" in prose.piece(rng, "key") for _ in range(100)) > 90
    assert sum("Key" in prose.piece(rng, "anchor") for _ in range(100)) < 60


def test_things_are_told_apart_by_what_stands_before_their_name():
    rng, seen = random.Random(8), collections.Counter()
    assert "pass" not in base_words.NOUNS and "pass" not in {Things(rng, Names(), 40)._modifier(rng) for _ in range(4000)}   # the key that evaluation hides
    for _ in range(40):
        thread, said, held = Things(rng, Names(), 40), [], {}
        for i in range(40):
            episode, item = thread.tell(rng, i)
            said.append(episode.text.lower())
            unknown = thread.unknown(rng, "\n".join(said))
            if unknown:
                entity = unknown.facts[1][0][0]
                assert entity not in held and entity in unknown.text.lower() and (item is None or entity != item["entity"])
                seen["unknown, but mentioned"] += any(entity in text for text in said)
            if item is None:
                assert not episode.facts
                seen["remark"] += 1
                continue
            ((entity, _), v, _), = episode.facts
            question = thread.ask(rng, item)
            assert entity in question.text.lower() and question.answer == v and v in episode.text and question.evidence == i
            seen["same noun"] += any(other != entity and other.split()[-1] == entity.split()[-1] for other in held)
            seen["anew"] += entity in held
            held[entity] = v
    assert min(seen[k] for k in ("unknown, but mentioned", "remark", "same noun", "anew")) > 50, seen
