"""nanochat/text.py: what is a question, and where text is split into episodes."""
from nanochat.text import is_question, split_episodes


def test_what_is_asked_and_what_is_told():
    asked = ["Where do I live?", "where do I live", "What did I say", "Tell me where I live?", "What's my name", "How?", "\u201cWho?\u201d", "Wo?\u061f"]
    said = ["I moved to Luxor", "I moved to Luxor.", "When I was five, I lived in Rome.", "What a day!", "Whoever comes is welcome", "However, no", "Note: who is who."]
    assert all(map(is_question, asked)) and not any(map(is_question, said))


def test_lines_are_split_where_text_editors_split_them():
    assert split_episodes("a\r\nb\x0cc\rd", "line") == [("a", 1), ("b\x0cc", 2), ("d", 3)]
