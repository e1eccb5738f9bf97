"""When an answer in words is right: compared as SQuAD compares them, in any script."""
import math
import re
import string
import unicodedata
from collections import Counter
from functools import lru_cache

import regex

from nanochat.words import SPACELESS

LONGER = 3   # words that an answer may have beside the expected ones


@lru_cache(maxsize=2 ** 16)
def words(text):
    """
    What is compared, a tuple: the words in lower case, without punctuation and articles; where words have no spaces
    between them, a character is one. Of a text that is nothing but such ("A", "?!") it is kept.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    said = "".join(c for c in folded if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    every = regex.sub(rf"([{SPACELESS}])", r" \1 ", unicodedata.normalize("NFKC", said)).split()
    return tuple([word for word in every if word not in ("a", "an", "the")] or every or folded.split())


def holds(text, part):
    """Whether a text holds another one, that is not blank, by whole words."""
    return bool(words(part)) and f" {' '.join(words(part))} " in f" {' '.join(words(text))} "


def exact(text, answers):
    return any(words(text) == words(answer) for answer in answers)


def short(text, answers):
    """Whether a text is one of the answers, or holds one and little else."""
    return any(holds(text, answer) and len(words(text)) <= len(words(answer)) + LONGER for answer in answers)


def f1(text, answers):
    """0 to 1: the harmonic mean of precision and recall of words, for the answer that is nearest."""
    pairs = [(Counter(words(text)), Counter(words(answer))) for answer in answers]
    return max((2 * (got & want).total() / (got.total() + want.total()) for got, want in pairs), default=0.0)


def refused(text):
    """Whether an answer says that the answer is not known."""
    return re.match(r"(sorry,? )?(i )?(don'?t|do not) know|(that|it|this) (was|is) (not|n't|never) "
                    r"(known|said|mentioned)|unknown\b|never (said|mentioned)",
                    text.strip().lower().replace("’", "'")) is not None


def interval(p, n, z=1.96):
    """The ends, in per cent, of the 95 % interval of a share p of n (Wilson's)."""
    half, middle = wilson(p, n, z), (100 * p + 50 * z * z / n) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 100.0)


def wilson(p, n, z=1.96):
    """Half the width, in per cent, of that interval, which is not zero where p is 0 or 1."""
    return 100 * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
