"""dev/chat_questions.py: what is asked of a chat, where its answer stands, and that the question is not among it."""
import json

import pytest

from dev.chat_questions import main
from nanochat.common import UserError
from nanochat.peers import sought


def written(tmp_path, name, data, *flags):
    path, out = tmp_path / name, tmp_path / "out.jsonl"
    path.write_text(data if isinstance(data, str) else "".join(json.dumps(row) + "\n" for row in data))
    main(["--input", str(path), "--output", str(out), *flags])
    return sought([str(out)])[0]


def test_of_a_log_what_is_asked_is_answered_by_others(tmp_path):
    said = [("ann", "bob: which player works?", [0]), (None, "=== eve has left", [1]), ("bob", "xine   does", [0]),
            ("ann", "thanks, I mean it", [0]), ("cat", "is it free?", [2]), ("dan", "totem, too", [0]),
            ("bob", "why?", [6]), ("bob", "it is", [4])]
    said += [("ann", "so " * 99 + "why?", [8]), ("bob", "no", [8])]   # too long to be a question
    rows = [{"log": "a", "i": i, "user": user, "text": text, "reply_to": to} for i, (user, text, to) in enumerate(said)]
    memory, = written(tmp_path, "irc.jsonl", rows)
    assert memory.lines == ["bob: xine does", "ann: thanks, I mean it", "dan: totem, too", "bob: why?", "bob: it is",
                            "ann: " + "so " * 99 + "why?", "bob: no"]
    assert sorted(memory.asked) == [("is it free?", [4]), ("which player works?", [0, 2])]
    assert written(tmp_path, "irc.jsonl", rows, "--turns", "3")[0].lines == ["bob: xine does", "ann: thanks, I mean it"]
    with pytest.raises(UserError, match="--turns"):
        written(tmp_path, "irc.jsonl", rows, "--turns", "0")


def test_conversations_that_are_marked(tmp_path):
    said = [("ann", 1, "Is there a match?"), ("bob", 2, "Hello."), ("ann", 1, "I mean a predicate"), ("bob", 1, "No."),
            ("ann", 2, "Hi.")]
    rows = [{"log": "a", "conv": conv, "user": user, "text": text} for user, conv, text in said]
    memory, = written(tmp_path, "slack.jsonl", rows)
    assert memory.asked == [("Is there a match?", [2])] and memory.lines[2] == "bob: No." and len(memory.lines) == 4


def test_friendsqa(tmp_path):
    turns = [{"uid": i, "speakers": ["Ann", "Bob"][:i + 1], "utterance": f"Word {i} ."} for i in range(2)]
    answers = [{"answer_text": "1", "utterance_id": i} for i in (1, 0, 1)]
    part = {"utterances:": turns, "qas": [{"question": "Which ?", "answers": answers[:1]},
                                          {"question": "What ?", "answers": answers}]}
    memory, = written(tmp_path, "f.json", json.dumps({"data": [{"paragraphs": [part]}, {"paragraphs": [part]}]}))
    assert memory.lines == ["Ann: Word 0 .", "Ann and Bob: Word 1 ."] * 2
    assert sorted(memory.asked) == [("What ?", [0, 1]), ("What ?", [2, 3]), ("Which ?", [1]), ("Which ?", [3])]


@pytest.mark.parametrize("name, text", [("a.json", "{}"), ("a.jsonl", "[]\n"), ("a.jsonl", '{"user": "x"}\n'),
                                        ("a.json", "{")])
def test_other_files_are_refused(tmp_path, name, text):
    with pytest.raises(UserError, match="no chat of a known form"):
        written(tmp_path, name, text)
