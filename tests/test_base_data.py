"""The synthetic base: honest answers, no ambiguity, and nothing of the Cairo timeline."""
import collections
import json
import random
import re
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dev import base_words, gen_base_data as base, gen_cairo_data as cairo
from dev.base_threads import ATTRIBUTES, CAIRO_FORMS, Facts, Timeline, _clash
from dev.base_values import LOOKALIKES, MAKERS, Names, word

N_LIVES = 120


@pytest.fixture(scope="module")
def lives():
    return list(islice(base.lives(seed=11), N_LIVES))


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
            text, (_, bare, answers) = line.tell(rng, i)
            seen.add(skeleton(text, bare, line.subject, answers.values()))
    assert len(seen) > 500 and not seen & theirs


def test_answers_stand_in_earlier_evidence(lives):
    for life in lives:
        for i, e in enumerate(life):
            if e.is_question:
                assert e.evidence < i and not life[e.evidence].is_question
                assert e.answer and e.answer in life[e.evidence].text and not e.answer.endswith(".")
            else:
                assert e.evidence == -1 and e.answer == ""


def test_time_and_subject_name_one_episode():
    rng, checked = random.Random(4), 0
    for _ in range(150):
        names, told = Names(), []
        threads = [Timeline(rng, names, 40)]
        threads.append(Timeline(rng, names, 40, threads[0]))
        for i in range(40):
            thread = rng.choice(threads)
            text, token = thread.tell(rng, i)
            told.append((text, thread, token))
        for text, thread, (index, bare, answers) in told:
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
    rng = random.Random(6)
    for _ in range(100):
        line = Timeline(rng, Names(), 30)
        tokens = [line.tell(rng, i) for i in range(30)]
        for text, token in tokens:
            question, answer, index = line.ask(rng, token)
            assert token[1].lower() in question.lower() and answer in token[2].values() and index == token[0]


def test_facts_are_told_once_and_reverse_questions_are_unique():
    rng = random.Random(7)
    for _ in range(60):
        thread = Facts(rng, Names())
        tokens = [thread.tell(rng, i)[1] for i in range(80)]
        assert len({(id(t["row"]), t["entity"]) for t in tokens}) == len(tokens)
        holders = collections.Counter((t["row"][2], t["value"]) for t in tokens)
        for t in tokens:
            assert t["unique"] == (holders[t["row"][2], t["value"]] == 1)


def test_updates_ask_for_the_latest():
    seen = 0
    for life in islice(base.lives(seed=21), 300):
        latest = {}
        for i, e in enumerate(life):
            if e.kind == "updates" and e.is_question:
                seen += 1
                assert e.evidence < i
                # an older statement of the same thing is never the evidence again
                assert latest.setdefault(life[e.evidence].text, e.evidence) == e.evidence
    assert seen > 50


def test_shares(lives):
    kinds = collections.Counter(e.kind for life in lives for e in life if e.is_question)
    questions, total = sum(kinds.values()), sum(map(len, lives))
    assert 0.22 < questions / total < 0.33
    assert kinds["updates"] / questions <= 0.08
    assert {"timeline", "facts", "keys", "key-value", "chat", "updates"} <= set(kinds)
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
    with pytest.raises(ValueError):
        base.render([base.Episode("a <|end|> b")])


def test_tables_and_words():
    assert all(len(r) == 7 for r in base_words.ATTRIBUTES) and all(len(r) == 6 for r in base_words.RELATIONS)
    pools = {r[2] for r in base_words.ATTRIBUTES} | {r[2] for r in base_words.RELATIONS} | {r[1] for r in base_words.UPDATES}
    assert pools <= set(MAKERS) | set(base_words.POOLS)
    # an update needs a value that it never had, as often as it is told
    assert {r[1] for r in base_words.UPDATES} <= set(MAKERS) | set(LOOKALIKES)
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
    said = [*base_words.CAUSES, *base_words.AFTERMATHS, *base_words.FILLERS, *(v for pool in base_words.POOLS.values() for v in pool)]
    for subject in set(base_words.SUBJECTS) - {"I", "she", "he"}:
        assert not any(re.search(rf"\b{re.escape(subject)}\b", text, re.IGNORECASE) for text in said), subject
