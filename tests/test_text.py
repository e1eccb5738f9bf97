"""nanochat/text.py: what is a question, and where text is split into episodes."""
import json

import pytest

from nanochat.common import UserError
from nanochat.dataset import read_texts
from nanochat.people import read_rows
from nanochat.reading_data import load
from nanochat.task_data import _chat, read_prose
from nanochat.tasks_public import _rows
from nanochat.text import is_question, json_line, split_episodes
from nanochat.view import read_answers
from nanochat.words import Lexicon
from scripts.memory import read_jsonl
from scripts.query import read_questions
from scripts.serve import read_item


def test_what_is_asked_and_what_is_told():
    asked = ["Where do I live?", "where do I live", "What did I say", "Tell me where I live?", "What's my name", "How?",
             "\u201cWho?\u201d", "Wo?\u061f"]
    said = ["I moved to Luxor", "I moved to Luxor.", "When I was five, I lived in Rome.", "What a day!",
            "Whoever comes is welcome", "However, no", "Note: who is who."]
    assert all(map(is_question, asked)) and not any(map(is_question, said))


def test_lines_are_split_where_text_editors_split_them():
    assert split_episodes("a\r\nb\x0cc\rd", "line") == [("a", 1), ("b\x0cc", 2), ("d", 3)]


def test_a_line_of_json_may_begin_with_a_mark_and_not_be_nested_without_end():
    assert json_line("\ufeff[1]") == json_line(b"\xef\xbb\xbf[1]") == json_line(b" [1] ") == [1]
    for line in ("[" * 100_000, '{"a":' * 100_000, b"\xff", b"", "\ufeff"):
        with pytest.raises(ValueError):
            json_line(line)


LIFE = {"src": "notes", "sents": ["The key is in the pot."],
        "qas": [{"q": "Where is the key?", "a": "the pot", "evidence": [0]}]}


def read_all(sources):
    """What is learned from, as text: its arrays have no one truth to compare by."""
    return repr([(list(memory.lines), [(list(q.forms), q.parts) for q in memory.questions])
                 for memories in sources.values() for memory in memories])


READERS = {   # a line that is good, and what reads files of them
    "texts": ({"text": "One."}, lambda path, _: list(read_texts(path))),
    "import": ({"text": "One."}, lambda path, _: read_jsonl(path)),
    "questions": ({"question": "Where?"}, lambda path, _: read_questions(path)),
    "answers": ({"question": "?", "answer": "!", "confidence": 1, "episodes": []}, lambda path, _: read_answers(path)),
    "prose": ({"text": "A paragraph of more than twenty characters."}, lambda path, _: list(read_prose(str(path)))),
    "chat": ({"user": "Ann", "text": "Hello."}, lambda path, _: _chat(path)),
    "benchmark": ({"input": "One."}, lambda path, _: _rows(path, "input")),
    "people": (LIFE, lambda path, _: read_rows([str(path)], Known)),
    "training": (LIFE, lambda path, tokenizer: read_all(load([path], Lexicon(tokenizer)))),
    "requests": ({"user": "ann", "question": "?"},
                 lambda path, _: [read_item(line, 1, False) for line in path.read_bytes().splitlines()]),
}


class Known:
    def __init__(self, item):
        self.asked = item["qas"]

    def __eq__(self, other):
        return self.asked == other.asked


@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_lines_of_json_takes_a_mark_and_refuses_what_is_nested_without_end(tmp_path, tokenizer, name):
    (item, read), path = READERS[name], tmp_path / "a.jsonl"
    got = []
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + json.dumps(item).encode() + b"\n" + mark + json.dumps(item).encode() + b"\n")
        _chat.cache_clear()
        got.append(read(path, tokenizer))
    assert got[0] and got[0] == got[1]
    path.write_bytes(b"[" * 100_000 + b"\n")
    _chat.cache_clear()
    with pytest.raises((UserError, ValueError)) as caught:
        read(path, tokenizer)
    assert "\n" not in str(caught.value)
