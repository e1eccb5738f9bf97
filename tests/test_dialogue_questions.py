"""Questions on dialogues: answers stand in their lines, the latest holds, refusals are not told, one answer each."""
import json
import lzma
import random

import pytest

from dev import dialogue_questions as dq
from nanochat.common import run_main

SCHEMA = {"Restaurants_1.city": "City in which the restaurant is located", "Restaurants_1.time": "Time of the meal",
          "Restaurants_1.restaurant_name": "Name of the restaurant", "Restaurants_1.phone_number": "Phone number",
          "Restaurants_1.street_address": "Address of the restaurant", "Restaurants_1.party_size": "Party size",
          "Buses_1.to_location": "City where bus is going to",
          "Buses_1.leaving_date": "Date of bus leaving for journey",
          "Buses_1.fare": "Fare per ticket for journey"}


def dialogue(service, *turns):
    """Turns are lists: a speaker, then texts and (slot, text) pairs."""
    record = {"id": "x", "services": [service], "turns": [], "spans": []}
    for number, (by, *parts) in enumerate(turns):
        text = ""
        for part in parts:
            slot, part = part if isinstance(part, tuple) else (None, part)
            if slot:
                record["spans"].append([number, service.split("_")[0], slot, len(text), len(text) + len(part)])
            text += part
        record["turns"].append([by, text])
    return record


DINNER = dialogue("Restaurants_1",
                  ("U", "I want to eat in ", ("city", "Ulm"), " at ", ("time", "5 pm"), "."),
                  ("S", "How about ", ("restaurant_name", "Blue Door"), "?"),
                  ("U", "Is there another one?"),
                  ("S", "There is ", ("restaurant_name", "Old Mill"), ". Call ", ("phone_number", "555-123-4567"), "."),
                  ("U", "Good. But I want ", ("time", "half past 7"), "."),
                  ("S", "Please confirm: 2 people at ", ("restaurant_name", "Old Mill"), " in ", ("city", "Ulm"), ", ",
                   ("time", "7:30 pm"), "."))
LUNCH = dialogue("Restaurants_2", ("U", "Lunch in ", ("city", "Bonn"), " at ", ("time", "noon"), ", please."))
TRIP = dialogue("Buses_1", ("U", "A bus to ", ("to_location", "Kiel"), " on ", ("leaving_date", "March 4th"), "."),
                ("S", "It costs ", ("fare", "$12"), "."))
MESSAGES = [{"text": f"Please book a table for {n} people", "requested": [], "spans": [["people", 24, 24 + len(n)]]}
            for n in ("three", "four", "six", "seven", "eight", "nine")]
MESSAGES += [{"text": "Is there a garden?", "requested": [], "spans": []}]


def all_questions(talks, mode, tries=25):
    """(memory, question) of many random wordings."""
    for seed in range(tries):
        rng = random.Random(seed)
        memory = dq.build(talks, mode, rng)
        for q in dq.questions(memory, SCHEMA, rng):
            yield memory, q


def asked_with(questions, *parts):
    return [q for _, q in questions if all(part in q["q"].lower() for part in parts)]


@pytest.fixture(scope="module")
def single():
    talk = dq.read_dialogue(DINNER)
    return [pair for mode in ("named", "me", "user", "none") for pair in all_questions([talk], mode)]


def test_answers_stand_in_their_evidence(single):
    talks = [dq.read_dialogue(record) for record in (DINNER, TRIP)]
    for memory, q in single + list(all_questions(talks, "me")):
        values = q["a"] if isinstance(q["a"], list) else [q["a"]] if q["a"] else []
        assert len(values) == len(q["evidence"]) and all(value in q["answers"] for value in values)
        for value, line in zip(values, q["evidence"]):
            assert value in memory["sents"][line] and dq.words(value) not in dq.words(q["q"])


def test_the_latest_value_holds_and_the_first_is_kept(single):
    latest = [q for q in asked_with(single, "time") if q["evidence"] and isinstance(q["a"], str)]
    first = [q for q in latest if any(word in q["q"].lower() for word in dq.FIRST)]
    assert first and len(first) < len(latest)
    for q in latest:
        assert (q["a"], q["evidence"]) == (("5 pm", [0]) if q in first else ("7:30 pm", [5]))
    assert {"half past 7", "7:30 pm"} == set(next(q for q in latest if q not in first)["answers"])


def test_lists_and_offers(single):
    lists = [q for _, q in single if isinstance(q["a"], list)]
    assert {tuple(q["a"]) for q in lists} == {("Blue Door", "Old Mill"), ("5 pm", "half past 7")}
    assert {q["a"] for q in asked_with(single, "restaurant", "suggest", "first")} == {"Blue Door"}
    assert {tuple(q["answers"]) for q in asked_with(single, "how many people") if q["a"]} == {("2", "2 people")}


def test_a_phone_number_is_of_the_name_told_last(single):
    phone = asked_with(single, "phone number")
    assert {q["a"] for q in phone if "old mill" in q["q"].lower()} == {"555-123-4567"}
    assert {q["a"] for q in phone if "blue door" in q["q"].lower()} == {""}
    assert not [q for q in phone if q["a"] and "old mill" not in q["q"].lower()]  # of which restaurant?


def test_refusals_are_not_told(single):
    refused = [q for _, q in single if not q["evidence"]]
    assert all(q["a"] == "" and q["answers"] == [] for q in refused) and 0.1 < len(refused) / len(single) < 0.2
    for memory, q in single:
        asked = dq.words(q["q"])
        strangers = [n for n in dq.NAMES if dq.words(n) in asked and n not in memory["who"] + memory["helper"]]
        if not q["evidence"] and not strangers and "blue door" not in asked:  # of what is not told
            assert "address" in asked or not any(word in asked for word in ("restaurant", " table ", " eat ")), q


def test_two_dialogues_of_a_thing_are_told_apart_by_name():
    talks = [dq.read_dialogue(record) for record in (DINNER, LUNCH)]
    cities = 0
    for memory, q in all_questions(talks, "named"):
        if q["a"] in ("Ulm", "Bonn"):
            cities += 1
            who = memory["who"][0 if q["a"] == "Ulm" else 1].lower()
            other = memory["who"][1 if q["a"] == "Ulm" else 0].lower()
            assert dq.words(who) in dq.words(q["q"]) and dq.words(other) not in dq.words(q["q"])
    assert cities > 10


def test_without_names_the_dialogues_of_a_memory_are_of_different_things():
    talks = [dq.read_dialogue(record) for record in (DINNER, LUNCH, TRIP) for _ in range(8)]
    for _, memory in dq.memories(talks, [], random.Random(0)):
        things = [thing for talk in memory["talks"] for thing in talk["things"]]
        assert len(things) == len(set(things)) or len(set(memory["who"])) == len(memory["talks"])


def test_messages_are_asked_for_by_name():
    talks = [dq.read_message(record) for record in MESSAGES]
    told = 0
    for memory, q in all_questions(talks, "messages"):
        who = [name for name in memory["who"] if dq.words(name) in dq.words(q["q"])]
        told += bool(q["evidence"] and who)
        if q["evidence"] and who and "how many" in q["q"].lower():
            label = memory["labels"][q["evidence"][0]]
            assert ("I" if label == "Me" else label) in who
    assert told > 50


@pytest.mark.parametrize("kind, one, other", [
    ("date", "the 8th", "March 8th"), ("date", "8th of this month", "march 8"), ("date", "next Monday", "March 4th"),
    ("time", "half past 5 in the evening", "5:30 pm"), ("time", "17:15", "quarter past 5"),
    ("count", "two", "2 people"),
    ("place", "SF", "San Francisco"), ("price", "$1,400", "1400 dollars"), ("name", "The Old Mill", "old mill")])
def test_one_value_in_two_spellings(kind, one, other):
    assert dq.norm(kind, one) == dq.norm(kind, other)


def write(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return str(path)


def command(tmp_path, output, sgd=None):
    (tmp_path / "slots.json").write_text(json.dumps(SCHEMA))
    sgd = sgd or write(tmp_path / "sgd.jsonl.xz", [DINNER, TRIP, LUNCH])
    restaurant = write(tmp_path / "restaurant.jsonl", MESSAGES)
    return ["--sgd", sgd, "--slots", str(tmp_path / "slots.json"), "--restaurant", restaurant, "--output", str(output)]


def test_the_same_seed_writes_the_same_file(tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert dq.main(command(tmp_path, tmp_path / name) + ["--seed", seed]) == 0
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c
    lines = [json.loads(line) for line in a.splitlines()]
    assert {line["src"] for line in lines} == {"sgd", "restaurant8k"}
    assert all(set(q) == {"q", "a", "answers", "evidence"} for line in lines for q in line["qas"])


@pytest.mark.parametrize("text", ["not json", "[]", '{"services": [], "turns": []}', json.dumps(
    {"services": ["Buses_1"], "turns": [["U", "hi"]], "spans": [[4, "Buses", "fare", 0, 1]]})])
def test_bad_input_is_one_clear_line(tmp_path, capsys, text):
    (tmp_path / "bad.jsonl").write_text(json.dumps(TRIP) + "\n" + text + "\n")
    output = tmp_path / "out"
    assert run_main(lambda: dq.main(command(tmp_path, output, str(tmp_path / "bad.jsonl")))) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bad.jsonl, line 2" in error and not output.exists()


def test_a_missing_or_broken_file_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "broken.xz").write_bytes(b"no archive")
    for path in ("broken.xz", "missing.jsonl"):
        assert run_main(lambda: dq.main(command(tmp_path, tmp_path / "out", str(tmp_path / path)))) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and path in error
