"""The tokenizer: exact round trip of any text, safety of special tokens, streaming."""

import json
import re
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import DEFAULT_DIR, SPECIAL_NAMES, Tokenizer
from scripts import tok_train

TOKENIZER = Tokenizer.load()

# Text in which spelled-out special tokens, emoji and digits are common, not one in a million.
TEXT = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(SPECIAL_NAMES), st.sampled_from(
    ["🤗", "👩‍👩‍👧", "é", "\u00a0", "\r\n", " \n ", "t=1234", "it's", "“so”", "\x00", "x86"])), max_size=12).map("".join)


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_round_trip(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode_bytes(ids) == text.encode("utf-8")
    assert b"".join(map(TOKENIZER.token_bytes, ids)) == text.encode("utf-8")
    assert not set(ids) & set(TOKENIZER.special_tokens.values())
    assert TOKENIZER.encode_batch([text, "a"], num_threads=2) == [ids, TOKENIZER.encode("a")]


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30), st.booleans())
@settings(max_examples=300, deadline=None)
def test_stream_equals_decode_for_any_ids(ids, skip_special):
    stream = TOKENIZER.stream_decoder(skip_special)
    assert "".join(map(stream.feed, ids)) + stream.flush() == TOKENIZER.decode(ids, skip_special)


def test_stream_shows_whole_characters_only():
    text = "naïve 🤗 👩‍👩‍👧 – Ω漢"
    stream = TOKENIZER.stream_decoder()
    pieces = [stream.feed(index) for index in TOKENIZER.encode(text)]
    assert "".join(pieces) == text and stream.flush() == ""
    assert all("\ufffd" not in piece for piece in pieces)
    stream.feed(TOKENIZER.encode("🤗")[0])
    assert stream.flush() == "\ufffd" and stream.feed(TOKENIZER.encode("a")[0]) == "a"


def test_special_tokens():
    assert TOKENIZER.vocab_size == 8192
    named = [TOKENIZER.bos_id, TOKENIZER.end_id, TOKENIZER.user_id, TOKENIZER.assistant_id, TOKENIZER.pad_id]
    assert named == [TOKENIZER.special(name) for name in SPECIAL_NAMES[:5]]
    assert sorted(TOKENIZER.special_tokens.values()) == list(range(8192 - len(SPECIAL_NAMES), 8192))
    marked = [TOKENIZER.bos_id, *TOKENIZER.encode("hi"), TOKENIZER.end_id]
    assert TOKENIZER.decode(marked) == "<|bos|>hi<|end|>" and TOKENIZER.decode(marked, skip_special=True) == "hi"
    assert TOKENIZER.token_bytes(TOKENIZER.bos_id) == b""
    with pytest.raises(ValueError, match="unknown special token"):
        TOKENIZER.special("<|nope|>")


def test_decode_refuses_ids_outside_the_vocabulary():
    for index in (-1, 8192):
        with pytest.raises(ValueError, match=f"token id {index} is outside"):
            TOKENIZER.decode([index])


def test_lone_surrogates_and_endless_white_space():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"
    text = "x" + " \n" * 600_000 + "y"  # the regex engine panics on this in one piece
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(text)) == text.encode()
    assert TOKENIZER.encode_batch([text], num_threads=2) == [TOKENIZER.encode(text)]


def test_digits_are_single_and_letters_pure():
    ordinary = [TOKENIZER.token_bytes(index) for index in range(TOKENIZER.vocab_size - len(SPECIAL_NAMES))]
    assert {bytes([byte]) for byte in range(256)} <= set(ordinary)
    for token in ordinary:
        if re.search(rb"[0-9]", token):
            assert len(token) == 1
        if re.search(rb"[A-Za-z]", token):
            assert re.fullmatch(rb"(?: ?[A-Za-z\x80-\xff]+|'(?:[sdmt]|ll|ve|re))", token), token
    assert [TOKENIZER.decode([index]) for index in TOKENIZER.encode("t=1234")] == ["t", "=", "1", "2", "3", "4"]


def test_tokens_that_begin_within_a_character():
    text = "Zażółć 七海 ✓"
    ids, at = TOKENIZER.encode(text), 0
    starts = {len(text[:i].encode()) for i in range(len(text))}
    for i in ids:
        assert bool(TOKENIZER.within[i]) == (at not in starts)
        at += len(TOKENIZER.token_bytes(i))
    assert TOKENIZER.within.any() and not TOKENIZER.within[TOKENIZER.encode("plain text")].any()


@pytest.mark.parametrize("change", ["pattern", "rank", "special"])
def test_load_refuses_what_does_not_match_its_fingerprint(tmp_path, change):
    shutil.copytree(DEFAULT_DIR, tmp_path / "tok")
    config_path, ranks_path = tmp_path / "tok" / "tokenizer.json", tmp_path / "tok" / "ranks.txt"
    config = json.loads(config_path.read_text())
    if change == "pattern":
        config["pattern"] += "|x"
    elif change == "special":
        config["special_tokens"]["<|bos|>"], config["special_tokens"]["<|end|>"] = 2041, 2040
    else:
        lines = ranks_path.read_text().splitlines()
        lines[300], lines[301] = (a.split()[0] + " " + b.split()[1] for a, b in
                                  ((lines[300], lines[301]), (lines[301], lines[300])))
        ranks_path.write_text("\n".join(lines) + "\n")
    config_path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not match its fingerprint") as error:
        Tokenizer.load(tmp_path / "tok")
    assert "\n" not in str(error.value)


def test_load_refuses_missing_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer in"):
        Tokenizer.load(tmp_path)
    shutil.copytree(DEFAULT_DIR, tmp_path / "tok")
    (tmp_path / "tok" / "ranks.txt").write_text("IQ== 0 zero\n")
    with pytest.raises(ValueError, match="is damaged"):
        Tokenizer.load(tmp_path / "tok")
    (tmp_path / "tok" / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        Tokenizer.load(tmp_path / "tok")
    shutil.copy(DEFAULT_DIR / "tokenizer.json", tmp_path / "tok")
    # Other line ends are not damage.
    ranks = (DEFAULT_DIR / "ranks.txt").read_bytes()
    (tmp_path / "tok" / "ranks.txt").write_bytes(ranks.replace(b"\n", b"\r\n"))
    assert Tokenizer.load(tmp_path / "tok").fingerprint == TOKENIZER.fingerprint


def test_training_is_deterministic_and_reads_markers_as_nothing(tmp_path, capsys):
    pytest.importorskip("rustbpe")
    rows = [f"<|bos|>The {name} of place {i} liked tea.<|end|>" for i, name in enumerate(["gardener", "smith"] * 40)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows + ["Forbidden qqqqqqqqqqqq word."]))
    prints = []
    for name in ("a", "b"):
        argv = ["--input", str(source), "--vocab_size", "300", "--exclude", "forbidden", "--output",
                str(tmp_path / name)]
        assert tok_train.main(argv) == 0
        prints.append(Tokenizer.load(tmp_path / name).fingerprint)
    assert prints[0] == prints[1]
    assert "bytes a token" in capsys.readouterr().out
    tokens = (tmp_path / "a" / "tokenizer.json").read_text()
    assert str(tmp_path) not in tokens and json.loads(tokens)["vocab_size"] == 300
    trained = Tokenizer.load(tmp_path / "a")
    vocabulary = [trained.token_bytes(index) for index in range(292)]
    assert b"qq" not in vocabulary and not any(b"|" in token and len(token) > 1 for token in vocabulary)


@pytest.mark.parametrize("argv, message", [
    (["--vocab-size", "2048"], "has enough variety"),
    (["--exclude", "tea"], "holds no text"),
])
def test_training_errors_are_one_line_and_write_nothing(tmp_path, capsys, argv, message):
    pytest.importorskip("rustbpe")
    source = tmp_path / "in.txt"
    source.write_text("tea and tea\n")
    assert tok_train.main(["--input", str(source), "--output", str(tmp_path / "out"), *argv]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_training_without_rustbpe_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rustbpe", None)  # as if it were not installed
    assert tok_train.main(["--input", "any.txt", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "tok_train: training needs rustbpe: pip install rustbpe\n"
