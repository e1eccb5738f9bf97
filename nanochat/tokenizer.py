"""Byte-level BPE tokenizer, stored as text and run by tiktoken: no pickle, no network.

A tokenizer is a directory of two files:

    ranks.txt       one token a line: base64 of its bytes, a space, its id
    tokenizer.json  pattern, special tokens, vocab_size, fingerprint, and how it was made

Every digit is a token of its own and letters never share a token with digits or with punctuation, so a word
or a number is a run of whole tokens. All 256 bytes are tokens, so any text can be encoded.
"""

import base64
import codecs
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import tiktoken

from nanochat.common import atomic_write, read_small, shipped_dir

DEFAULT_DIR = shipped_dir() / "data" / "tokenizer"
FILE_BYTES = 2**23  # of each file at most: some 500,000 tokens

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPECIAL_NAMES = ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>",
                 "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>")
MARKERS = re.compile("|".join(re.escape(name) for name in SPECIAL_NAMES))

# The regex engine gives up (with a panic) after a million steps of backtracking in one run of white space, so
# longer runs are cut before they reach it. The bytes, and so the round trip, stay the same.
_LONG_SPACE = re.compile(r"\s{50000}")


def fingerprint_of(ranks, pattern, specials):
    """SHA-256 (hex) of everything that decides the ids: `ranks` {bytes: id}, `pattern`, `specials` {name: id}.

    It is taken over the parsed content, so that a checkout with other line ends has the same fingerprint.
    """
    digest = hashlib.sha256()
    digest.update(_ranks_text(ranks).encode("ascii"))
    digest.update(json.dumps([pattern, sorted(specials.items())]).encode("ascii"))
    return digest.hexdigest()


def save_tokenizer(directory, ranks, made, pattern=PATTERN):
    """Write `ranks` ({bytes: id}, ids 0..n-1) as a tokenizer directory, the special tokens after the last rank.

    `made` is a JSON-able record of how it came to be. Each file is replaced atomically, tokenizer.json last, so an
    interrupted save is refused by its fingerprint. Returns the fingerprint.
    """
    directory = Path(directory)
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIAL_NAMES)}
    fingerprint = fingerprint_of(ranks, pattern, specials)
    config = {"pattern": pattern, "special_tokens": specials, "vocab_size": len(ranks) + len(specials),
              "fingerprint": fingerprint, "made": made}
    for name, text in (("ranks.txt", _ranks_text(ranks)), ("tokenizer.json", json.dumps(config, indent=2) + "\n")):
        atomic_write(directory / name, lambda file: file.write(text.encode("utf-8")))
    return fingerprint


class Tokenizer:
    """Encodes text to ids and back.

    Attributes: `vocab_size`, `fingerprint` (hex SHA-256), `pattern`, `special_tokens` ({name: id}), `bos_id`,
    `end_id`, `user_id`, `assistant_id`, `pad_id`; `asks_last`: in a reading window the question stands last;
    `spaced`: tokens of words begin with the space before them.
    Ordinary ids come first, special ids last.
    """

    asks_last = spaced = False

    def __init__(self, ranks, pattern, special_tokens):
        self.pattern = pattern
        self.special_tokens = dict(special_tokens)
        self.vocab_size = len(ranks) + len(self.special_tokens)
        self.fingerprint = fingerprint_of(ranks, pattern, self.special_tokens)
        self._encoding = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=ranks,
                                           special_tokens=self.special_tokens, explicit_n_vocab=self.vocab_size)
        self._bytes = [b""] * self.vocab_size
        for token, index in ranks.items():
            self._bytes[index] = token
        # whether a token begins within a character: with a byte of UTF-8 that only goes on
        self.within = np.array([bytes(b"\x80") <= token[:1] < bytes(b"\xc0") for token in self._bytes])
        self._special_names = {index: name for name, index in self.special_tokens.items()}
        self.bos_id = self.special("<|bos|>")
        self.end_id = self.special("<|end|>")
        self.user_id = self.special("<|user|>")
        self.assistant_id = self.special("<|assistant|>")
        self.pad_id = self.special("<|pad|>")

    @classmethod
    def load(cls, path=None):
        """Load a tokenizer directory; by default the one shipped with the repository.

        Raises ValueError with one line when it is missing, damaged, or does not match its fingerprint, UserError when
        one of its files is too large, or no file.
        """
        directory = DEFAULT_DIR if path is None else Path(path)
        try:
            config = json.loads(read_small(directory / "tokenizer.json", FILE_BYTES).decode("utf-8"))
            lines = read_small(directory / "ranks.txt", FILE_BYTES).decode("ascii").splitlines()
            ranks = {base64.b64decode(token, validate=True): int(index)
                     for token, index in (line.split() for line in lines if line)}
            pattern, specials = config["pattern"], config["special_tokens"]
            matches = config["fingerprint"] == fingerprint_of(ranks, pattern, specials)
            if matches and sorted([*ranks.values(), *specials.values()]) != list(range(len(ranks) + len(specials))):
                raise ValueError("its ids are not 0, 1, …")
        except OSError as error:
            raise ValueError(f"no tokenizer in {directory} ({error.strerror}): "
                             "run python -m scripts.tok_train to make one") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the tokenizer in {directory} is damaged ({type(error).__name__}: {error}): "
                             "restore it or run python -m scripts.tok_train") from error
        if not matches:
            raise ValueError(f"the tokenizer in {directory} does not match its fingerprint (ranks, pattern or special "
                             "tokens were changed): restore it or run python -m scripts.tok_train")
        return cls(ranks, pattern, specials)

    def special(self, name):
        """The id of a special token such as "<|bos|>"; ValueError for an unknown name."""
        if name not in self.special_tokens:
            raise ValueError(f"unknown special token {name!r}; known: {', '.join(self.special_tokens)}")
        return self.special_tokens[name]

    def encode(self, text):
        """Ids (list of int) of any text. Special tokens spelled out in it stay plain text; lone surrogates,
        which no UTF-8 can hold, become U+FFFD."""
        if len(text) >= 50000 and _LONG_SPACE.search(text):
            return [index for part in _cut_long_space(text) for index in self._encoding.encode_ordinary(part)]
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts, num_threads=1):
        """`encode` of each text, in `num_threads` threads."""
        texts = list(texts)
        if num_threads <= 1 or any(len(text) >= 50000 for text in texts):
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(texts, num_threads=num_threads)

    def decode(self, ids, skip_special=False):
        """Text of `ids` (any iterable of int). Broken UTF-8 becomes U+FFFD; special tokens show as their names, or
        not at all with `skip_special`. ValueError for an id outside the vocabulary."""
        return b"".join(self._shown(index, skip_special) for index in ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of `ids`, special tokens as their names."""
        return b"".join(self._shown(index, False) for index in ids)

    def token_bytes(self, index):
        """The bytes of one token, b"" for special tokens."""
        return self._bytes[self._checked(index)]

    def stream_decoder(self, skip_special=False):
        """A StreamDecoder, to show tokens as they come."""
        return StreamDecoder(self, skip_special)

    def _checked(self, index):
        index = int(index)
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"token id {index} is outside the vocabulary 0..{self.vocab_size - 1}")
        return index

    def _shown(self, index, skip_special):
        index = self._checked(index)
        if index in self._special_names:
            return b"" if skip_special else self._special_names[index].encode("utf-8")
        return self._bytes[index]


class StreamDecoder:
    """Decodes ids one by one and holds back the bytes of a character until it is whole.

    What all `feed` and the last `flush` return, joined, equals `Tokenizer.decode` of the same ids.
    """

    def __init__(self, tokenizer, skip_special=False):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, index):
        """The text that id `index` completes, possibly ""."""
        return self._decoder.decode(self._tokenizer._shown(index, self._skip_special))

    def flush(self):
        """What is left of an unfinished character, as U+FFFD; the decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _cut_long_space(text):
    start = 0
    for match in _LONG_SPACE.finditer(text):
        yield text[start:match.end()]
        start = match.end()
    yield text[start:]


def _ranks_text(ranks):
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return "".join(f"{base64.b64encode(token).decode('ascii')} {index}\n" for token, index in ordered)
