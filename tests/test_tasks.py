"""
The tasks of memory_eval: the same every time, answers that stand in their evidence, needles where they are said to be,
controls that are what they claim.
"""
import json
import re

import pytest
import torch

from dev import grammar
from nanochat import task_data, tasks, tasks_public, trials
from nanochat.checkpoint_manager import checkpoint_dir, save_checkpoint
from nanochat.common import UserError, run_main
from nanochat.engine import ingest
from nanochat.state import Traces
from nanochat.task_data import REFUSAL, Cell, Part, Question, Story
from nanochat.tokenizer import Tokenizer
from scripts import memory_eval
from tests.conftest import tiny


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny(tokenizer, n_head=1).requires_grad_(False)


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.jsonl"
    path.write_text("".join(json.dumps({"text": f"Chapter {i}.\nThe mill number {i} stood by the water. Nobody had "
                                                f"worked there for {i} years. It was quiet."}) + "\n"
                            for i in range(120)))
    return str(path)


@pytest.fixture
def noise(tmp_path):
    directory = tmp_path / "chat"
    directory.mkdir()
    for name in "ab":
        (directory / f"{name}.jsonl").write_text("".join(json.dumps({"user": f"{name}{i % 7}",
                                                                     "text": f"line {i} of {name}\nand more"}) + "\n"
                                                                     for i in range(300)))
    return str(directory)


def small(name, tokenizer, prose, noise, **more):
    """The cells of an own task, at a size for tests."""
    sizes = {"timeline": dict(steps=(40, 90), seeds=(1, 2), questions=30, ask=tasks.ASKS),
             "changes": dict(steps=(150,), seeds=(1,), questions=30),
             "passkey": dict(steps=(30, 60), depths=(0, 0.5, 1), form=tuple(task_data.KEYS), needles=(1, 2),
                             distractors=(0, 3), questions=4),
             "personality": dict(conversations=(0, 3), seeds=(1, 2)),
             "mqar": dict(pairs=(20,), per_line=(1, 4), questions=20),
             "overwrite": dict(keys=(12,)), "interleaved": dict(noise=noise, lines=(50,), seeds=(1, 2)),
             "unknown": dict(steps=(40,), seeds=(1, 2), questions=24)}
    return list(tasks.TASKS[name](**{**sizes[name], **more}))


def every(name, *fixtures):
    """(cell, part, question, the episodes as told) of a small task."""
    return [(cell, part, q, part.told(q)) for cell in small(name, *fixtures) for part in cell.parts
            for q in part.questions]


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_is_the_same_every_time_and_its_answers_stand_in_their_evidence(name, tokenizer, prose, noise):
    asked = every(name, tokenizer, prose, noise)
    assert [(c.facts, q, told) for c, _, q,
            told in asked] == [(c.facts, q, told) for c, _, q, told in every(name, tokenizer, prose, noise)]
    assert asked
    for cell, part, q, told in asked:
        assert cell.length in cell.facts
        assert "{" not in q.text and not any("{" in e and "}" in e for e in told)
        if q.answer == REFUSAL:
            assert q.evidence == -1
        else:
            assert 0 <= q.evidence < len(told)
            assert all(part in told[q.evidence] for part in (q.parts or (q.answer,)))


@pytest.mark.parametrize("name", ("passkey", "mqar", "overwrite", "personality", "interleaved"))
def test_what_is_asked_has_one_answer(name, tokenizer, prose, noise):
    """No two statements answer the same question, but for what was true once and the latest has replaced."""
    by_question = {}
    for cell, part, q, told in every(name, tokenizer, prose, noise):
        by_question.setdefault((id(part), q.text, q.hidden, q.after), set()).add(q.answer)
        assert q.answer not in q.stale
        if q.answer != REFUSAL and name in ("passkey", "mqar", "overwrite", "interleaved"):
            assert [i for i, e in enumerate(told)
                    if re.search(rf"(?<!\w){re.escape(q.answer)}(?!\w)", e)] == [q.evidence]
        for old in q.stale:   # what was true once was said before, never after
            assert [i for i, e in enumerate(told) if re.search(rf"(?<!\w){re.escape(old)}(?!\w)", e)
                    and i > q.evidence] == []
    assert all(len(answers) == 1 for answers in by_question.values())


def test_timeline_answers_are_those_of_the_records():
    from dev.gen_cairo_data import timeline
    records = list(timeline(90, 1))
    ask = lambda how: tasks.ask_timeline(records, 60, 1, how)
    time = lambda q: int(re.search(r"t=(\d+)", q.text)[1])
    for q in ask("paraphrase"):
        assert q.answer == records[time(q) - 1][q.kind]
    for q in ask("now"):
        assert q.after >= 45 and q.answer == records[q.after - 1][q.kind] and q.evidence == q.after - 1
    for q in ask("before"):
        assert q.answer == records[time(q) - 2][q.kind]
    for q in ask("change"):
        values, at = [r[q.kind] for r in records], int(q.answer[2:])
        assert at < time(q) and len(set(values[at - 1:time(q) - 1])) == 1
        assert (at == 1 or values[at - 2] != values[at - 1])


def test_in_a_timeline_of_changes_the_latest_line_counts():
    from dev.gen_cairo_data import timeline
    truth = {r["t"]: r for r in timeline(150, 1)}
    cell, = tasks.changes(steps=(150,), seeds=(1,), questions=90)
    told = cell.parts[0].story.episodes
    assert len(told) < 90
    times = [int(re.search(r"t=(\d+)", line)[1]) for line in told]
    for q in cell.parts[0].questions:
        t = int(re.search(r"t=(\d+)", q.text)[1])
        assert times[q.evidence] == max(m for m in times if m <= t)
        assert (q.kind == "logged") == (t in times)
        assert q.answer in truth[t].values()


def test_a_longer_life_is_told_from_the_same_story():
    cells = list(tasks.timeline(steps=(40, 90), seeds=(1,), questions=5))
    assert [c.facts["steps"] for c in cells] == [40, 90] and cells[0].parts[0].story is cells[1].parts[0].story
    assert [c.parts[0].questions[0].after for c in cells] == [40, 90]


def test_needles_are_at_their_depth(tokenizer, prose):
    for cell in tasks.passkey(tokenizer, steps=(60,), depths=(0, 0.25, 1), needles=(1, 2), distractors=(0, 2),
                              questions=6):
        first = cell.parts[0].questions[::cell.facts["needles"]]
        for q in first:
            told = cell.parts[0].told(q)
            assert len(told) == 60 + cell.facts["needles"] + cell.facts["distractors"]
            assert sum("pass key" in e for e in told) == cell.facts["needles"] + cell.facts["distractors"]
            assert abs(q.evidence - cell.facts["depth"] * 60) <= cell.facts["needles"] + cell.facts["distractors"]
        if cell.facts["needles"] + cell.facts["distractors"] == 1:
            assert {q.evidence for q in first} == {round(cell.facts["depth"] * 60)}


def test_needles_in_prose(tokenizer, prose):
    cells = list(tasks.passkey(tokenizer, tokens=(500, 2000), prose=prose, depths=(0.5,), questions=3, inside=True))
    for cell in cells:
        q = cell.parts[0].questions[0]
        tokens = sum(len(tokenizer.encode(e)) + 2 for e in cell.parts[0].story.episodes[:q.after])
        assert cell.facts["tokens"] <= tokens < cell.facts["tokens"] + 100
        assert re.search(r"\. The pass key is \d+\..* It was quiet|\. The pass key is ",
                         cell.parts[0].told(q)[q.evidence])
    with pytest.raises(UserError, match="fewer than"):
        list(tasks.passkey(tokenizer, tokens=(10 ** 6,), prose=prose))
    with pytest.raises(UserError, match="--prose"):
        list(tasks.passkey(tokenizer, tokens=(500,)))


def test_unknown_asks_for_what_was_never_said():
    for cell in tasks.unknown(steps=(40,), seeds=(1, 2), questions=48):
        for part in cell.parts:
            text = "\n".join(part.story.episodes)
            assert {q.kind for q in part.questions} == {"known", "taste", "stranger", "future"}
            for q in part.questions:
                if q.kind == "future":
                    t = re.search(r"t=(\d+)", q.text)[1]
                    assert int(t) > 40 and not re.search(rf"t={t}\b", text)
                if q.kind in ("taste", "stranger"):
                    topic, who = re.fullmatch(r"Which (.+) is (\w+)'s choice\?", q.text).groups()
                    assert f"{who} told me that the {topic}" not in text


def test_no_form_of_the_tasks_comes_up_in_what_the_grammar_makes():
    """Zero-shot. Left out: plain questions of ASKS (see tasks.py)."""
    every = [*task_data.LIKES, *task_data.LIKES_ANEW, *task_data.LIKED, *tasks.PEG, *tasks.WHICH_PEG, tasks.PAIR,
             *tasks.WHICH_PAIR, tasks.ONE_KEY, tasks.WHICH_KEY,
             tasks.NAMED_KEY, tasks.WHICH_NAMED, tasks.CHOICE, tasks.WHICH_CHOICE,
             *(f for fs in tasks.PARAPHRASES.values() for f in fs), *tasks.CHANGE.values(), *tasks.EVERYTHING,
             *(f for statements, ask, _ in tasks.CHAT_FACTS for f in (*statements, ask)),
             'What is the value corresponding to the key "{k}"?',
             "line {k}: REGISTER_CONTENT is <{v}>", "One of the special magic {n} for {k} is: {v}.",
             "What is the special magic {n} for {k} mentioned in the provided text?"]
    any_words = lambda form: re.sub(r"\\\{\w+\\\}", r"[^.;]{1,40}",
                                    re.escape(form.replace("the user", "{u}").rstrip(".?")))
    forms = re.compile("|".join(f"(?:{any_words(form)})" for form in every), re.IGNORECASE)
    assert all(forms.match(form) for form in every)
    kinds = [kind for kind in [*grammar.KINDS, "mixed"] if kind not in grammar.HELD_KINDS]
    made = [grammar.build(f"forms {i}", kinds)[1] for i in range(150)]
    said = [text for memory in made for text in (*memory["sents"], *(qa["q"] for qa in memory["qas"]))]
    assert len(said) > 3000 and [text for text in said if forms.fullmatch(text.rstrip(".?!"))] == []


# -----------------------------------------------------------------------------
# Trials


LINES = [f"t={t}: The barge was in {place}, felt {mood}, and carried {cargo} for the people of the valley." for t,
         place, mood, cargo in
         ((1, "Oslo", "glad", "tin"), (2, "Porto", "sleepy", "oil"), (3, "Lima", "proud", "wool"),
          (4, "Riga", "cross", "salt"))]


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in a.as_dict())


def test_a_story_is_read_once_and_is_what_ingest_makes_of_it(model, tokenizer, monkeypatch):
    story, needle = Story(LINES), "The pass key is 71432. " * 8
    trials.remember(model, tokenizer, [(story, 2)])
    assert len(story.ends) == 3
    trials.remember(model, tokenizer, [(story, 4), (Story(["else"]), 1)])
    assert same(story.traces, ingest(model, tokenizer, LINES))
    hidden = {needle: ingest(model, tokenizer, [needle])}
    for after, places in ((None, (0,)), (None, (2, 2)), (3, (3,)), (3, (0, 1))):
        q = Question("?", "71432", after=after, hidden=tuple((p, needle) for p in places))
        assert same(trials.traces_of(story, q, hidden), ingest(model, tokenizer, Part(story, []).told(q)))
    monkeypatch.setattr(trials, "ingest", lambda *a, **k: pytest.fail("read twice"))
    trials.remember(model, tokenizer, [(story, 3)])


def test_shuffled_traces_are_found_as_before(model, tokenizer):
    traces = ingest(model, tokenizer, LINES)
    dealt = trials.shuffled(traces, 1)
    for name in ("words", "index", "episode", "position", "valid"):
        assert torch.equal(getattr(dealt, name), getattr(traces, name))
    assert not torch.equal(dealt.ids, traces.ids)
    assert sorted(dealt.ids[0].tolist()) == sorted(traces.ids[0].tolist())
    empty = Traces(**{**traces.as_dict(), "valid": traces.valid * (torch.arange(len(traces)) > 0)})
    assert torch.equal(trials.shuffled(empty, 1).ids[0, 0], traces.ids[0, 0])


def test_refusals_and_scores():
    for text in ("I don't know", "I don’t know.", "i do not know that", "Sorry, I don't know",
                 "That was never mentioned"):
        assert trials.refused(text)
    for text in ("", "Giza", "I know", "mint tea", "unknownish"):
        assert not trials.refused(text)
    assert trials.score(Question("?", "Giza"), " Giza ") == 1 and trials.score(Question("?", "Giza"), "Giza.") == 0
    assert trials.score(Question("?", "", parts=("a1", "b2")), "b2 and c3") == 0.5
    assert trials.score(Question("?", REFUSAL), "Giza") == 0


def test_rows_of_a_cell(model, tokenizer):
    a, b = Story(LINES[:2]), Story(LINES[2:])
    asked = [Question("Where?", "Oslo", 0, "place", group="g"),
             Question("In what place?", "Oslo", 0, "place", group="g"),
             Question("Where was it?", REFUSAL, kind="never", stale=("x",))]
    cell = Cell({"steps": 2}, [Part(a, asked, b), Part(b, [Question("Who?", "Lima", 0, "place")])], "steps")
    rows = {row["control"]: row for row in trials.run(cell, model, tokenizer)}
    assert list(rows) == ["memory", *trials.CONTROLS]
    assert [rows[c]["n"] for c in rows] == [4, 4, 4, 3] and rows["none"]["traces"] == 0
    for row in rows.values():
        assert 0 <= row["exact"] <= 100 and row["consistent"] >= 50 and "false_refusals" in row and "never" in row
    assert sum(rows["memory"]["misses"].values()) >= 1
    memo = {}
    one = [next(trials.run(cell, model, tokenizer, (), first=memo))["as_at_first"] for _ in range(2)]
    assert one == [100.0, 100.0] and len(memo) == 2
    assert json.loads(json.dumps(rows["memory"])) == rows["memory"]


# -----------------------------------------------------------------------------
# Public benchmarks


def test_public_benchmarks(tmp_path):
    write = lambda name, rows: ((tmp_path / name).parent.mkdir(parents=True, exist_ok=True),
                                (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows)))
    (tmp_path / "qa1_valid.txt").write_text("1 Ann is in the garden.\n2 Bob is in the hall.\n3 Where is Ann? "
                                            "\tgarden\t1\n4 Ann is in the hall.\n5 Where is Ann? \thall\t4\n"
                                            "1 Eve is in the attic.\n2 Where is Eve? \tattic\t1\n")
    write("qa1_0k.jsonl", [{"input": "It rained. Ann is in the hall. He slept.", "question": "Where is Ann? ",
                            "target": "hall", "references": ["Ann is in the hall."]}])
    write("1024/niah_multivalue/validation.jsonl",
          [{"input": "Remember.\nIt rained. The numbers are 12. It went on. Also 77.\nWhich numbers?",
            "outputs": ["12", "77"]}])
    write("kv2.jsonl", [{"ordered_kv_records": [["a", "1"], ["b", "2"]], "key": "b", "value": "2"}])
    write("lines_2.jsonl", [{"prompt": "Read.\n\nline x-y: REGISTER_CONTENT is <5>\nline z: REGISTER_CONTENT is "
                                       "<6>\n\nNow the record is over. Tell me line z? ", "expected_number": 6,
                             "correct_line": "line z: REGISTER_CONTENT is <6>\n"}])
    seen = {}
    for name, more in (("babi", {"qa": ("qa1",)}), ("babilong", {"lengths": ("0k",)}),
                       ("ruler", {"needles": ("niah_multivalue",), "lengths": ("1024",)}),
                       ("keyvalue", {}), ("longeval", {})):
        cell, = tasks_public.PUBLIC[name](data=str(tmp_path), **more)
        assert cell.length in cell.facts
        seen[name] = [(q.answer, part.told(q)[q.evidence] if q.evidence >= 0 else None) for part in cell.parts
                      for q in part.questions]
        assert all(part.other is not part.story for part in cell.parts)
    assert seen["babi"] == [("garden", "Ann is in the garden."), ("hall", "Ann is in the hall."),
                            ("attic", "Eve is in the attic.")]
    (tmp_path / "prose.txt").write_text("\n".join(f"This is paragraph number {i} of a long book." for i in range(60)))
    for cell in tasks_public.babi(Tokenizer.load(), str(tmp_path), ("qa1",), prose=str(tmp_path / "prose.txt"),
                                  tokens=(100, 400)):
        part, = cell.parts
        told = [part.told(q) for q in part.questions]
        assert [lines[q.evidence] for lines, q in zip(told, part.questions)] == [line for _, line in seen["babi"]]
        assert [line for line in told[1] if "Ann" in line
                or "Bob" in line] == ["Ann is in the garden.", "Bob is in the hall.", "Ann is in the hall."]
        assert all(len(lines) == part.questions[0].after + len(q.hidden) for lines, q in zip(told, part.questions))
    assert seen["babilong"] == [("hall", "Ann is in the hall.")]
    assert seen["ruler"] == [("12, 77", "The numbers are 12.")]
    assert seen["keyvalue"] == [("2", '"b": "2"')] and seen["longeval"] == [("6", "line z: REGISTER_CONTENT is <6>")]
    assert tasks_public.sentences("One. Two!\n\nThree? Four", "paragraph") == ["One. Two! Three? Four"]
    for name, match in (("babi", "--data"), ("ruler", "--data")):
        with pytest.raises(UserError, match=match):
            list(tasks_public.PUBLIC[name]())
    with pytest.raises(UserError, match="another format"):
        list(tasks_public.keyvalue(data=str(tmp_path / "lines_2.jsonl")))


# -----------------------------------------------------------------------------
# The command


@pytest.fixture
def command(model, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    save_checkpoint(checkpoint_dir("tiny"), 1, model.state_dict(), None,
                    {"config": model.describe(), "tokenizer": tokenizer.fingerprint})

    def run(*argv):
        capsys.readouterr()
        try:
            code = run_main(lambda: memory_eval.main(["--model-path", "base_checkpoints/tiny", "--dtype", "float32",
                                                      *map(str, argv)]))
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())
    return run


def test_command(command, tmp_path):
    code, out, err = command("--task", "timeline", "--steps", 12, "--seeds", 1, 2, "--questions", 3,
                             "--control-questions", 1, "--explain", "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["seed"], r["control"])
            for r in rows] == [(s, c) for s in (1, 2) for c in ("memory", "none", "shuffled", "other")]
    assert {"task", "steps", "n", "exact", "guess", "misses", "traces", "ingest_seconds", "seconds_a_question",
            "location", "mood", "drink"} <= set(rows[0])
    assert rows[0]["task"] == "timeline" and err.count(" | got ") == sum(sum(r["misses"].values()) for r in rows)
    pytest.importorskip("matplotlib")
    code, out, _ = command("--task", "passkey", "--steps", 8, "--depths", 0, 1, "--questions", 1, "--control-questions",
                           0, "--heatmap", tmp_path / "map.png")
    assert code == 0 and len(out.splitlines()) == 2 and (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


def test_the_help_fits_a_screen_and_names_every_flag(command):
    code, out, _ = command("--help")
    assert code == 0 and len(out.splitlines()) <= 45
    assert out.startswith("usage: python -m scripts.memory_eval --model_path data/then-d6 --task timeline")
    for action in memory_eval.build_parser()._actions:
        assert any(f" {name}" in out for name in action.option_strings), action.option_strings
    assert all(name in out for name in memory_eval.TASKS)


def test_wrong_usage_is_one_line(command):
    for argv, code, says in ((("--steps", 1), 2, "--steps must be at least 2"),
                             (("--pairs", 4), 2, "--pairs means nothing to the task timeline"),
                             (("--task", "passkey", "--needles", "x"), 2, "--needles are numbers"),
                             (("--task", "passkey", "--depths", 2), 2, "at most 1"),
                             (("--task", "babi"), 2, "--data"), (("--task", "babi", "--data", "nowhere"), 1, "nowhere"),
                             (("--task", "interleaved"), 2, "--noise"), (("--questions", 0), 2, "at least 1"),
                             (("--task", "no-such"), 2, "invalid choice"),
                             (("--heatmap", "nowhere/map.png"), 1, "no such directory")):
        got, out, err = command(*argv)
        assert (got, out) == (code, "") and says in err.splitlines()[-1], err
