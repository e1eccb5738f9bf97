"""Random values and entities of the small synthetic base: real words, invented words, names, codes and numbers."""
import re
from typing import NamedTuple

from dev.base_words import (ADJECTIVES, ADVERBS, EVENTS, FIRST_NAMES, FRAME_NOUNS, FRAME_VERBS, KIN, LOCKS, MACHINES, NOUNS, OBJECTS, PETS, POOLS, PREPOSITIONS, SLOTS, SURNAMES,
                            TAIL_WORDS, split)
from dev.gen_cairo_data import DRINKS, MOODS, PLACES, TEMPLATES

# what the base must never say, so that the recall of the Cairo timeline stays zero-shot
FORBIDDEN_WORDS = frozenset(re.findall(r"[\w-]+", " ".join((*PLACES, *DRINKS, *MOODS, "Cairo")).lower()))


def _skeletons():
    """The sentence forms of the Cairo timeline, of any subject and any values: what the base must never produce."""
    out = []
    for template in TEMPLATES:
        form = re.escape(template).replace(re.escape("{t}"), r"\d+").replace(re.escape("{remark}"), "(?:,.*)?")
        words = r"[\w'-]+(?: [\w'-]+){0,3}"  # bounded, or matching takes for ever
        form = re.sub(r"\\\{(?:location|mood|drink)\\\}", lambda _: words, form)
        out.append(re.sub(r"[Tt]he\\ user('s)?", lambda _: words, form))
    return re.compile("|".join(f"(?:{form})" for form in out))


CAIRO_FORMS = _skeletons()
UNKNOWN = "I don't know"


class Episode(NamedTuple):
    """A statement, or a question turn with its answer and the index of the episode that holds it (-2: asked, and nothing known).

    facts is for those who check a life: of a statement, (key, value, time) triples; of a question, (operation, keys, time).
    """
    text: str
    answer: str = ""
    evidence: int = -1
    kind: str = "prose"
    facts: tuple = ()

    @property
    def is_question(self):
        """True for a question turn, whose text is the question."""
        return self.evidence != -1


ONSETS = ("b d f g h k l m n p r s t v z j " * 2 + "br c ch dr fl gl gr kh kl kr ph pl pr qu sh sk sl sn st str th tr vr w y zh").split() + [""] * 5
VOWELS = ("a e i o u a e i o a e i o u " * 3 + "ai ea ei ia ie io oa ou ua uo ae y aa ee oo").split()
CODAS = "n r s l m k t d nd rn lm th x sh st nt rk sk ng lt v z ck p b g ff".split() + [""] * 22
PLAIN = "b c d f g h j k l m n p r s t v w z".split()
ENDS = "r n s l k t m x sh th nd rt ra lo ne vi".split() + [""] * 8
# what may stand behind a value and does not belong to it: {z} a verb, {o} whom, {r} a preposition, {w} a word, {x} a name
TAILS = split(
    "{z} {o}|{z} {o} {a}|{z} {a}|{a}|{a}|, {a}|, {x} says|, I believe|, I guess|, mind you|, that is it|, that much is sure|is what I mean|is what {x} told {o}|will do|it is|"
    "and nothing else|and that is that|and so on|and more|or so|by far|by the way|since {t}|since {t}|until {t}|from {t} on|{r} the {w}|{r} the {w}|for {o}|for {x}|to {o}|with {x}|"
    "like {x}|than {x}|, as {x} knows|, not that it matters|if I remember well|if that helps|when {o} asked|because {x} insisted|while the {w} lasts|among others|"
    "more than any {w}|before any {w}|ahead of the {w}|{z} every {w}|has {o} {a}|can {z} {o}|makes {o} {w}|, please|, ok|, right|, as of {t}|, see you there|, {x}|!!|...|:-)|"
    ": that much is sure|: {x} knows|: {a}|; {a}|; {x} says|"
    "{c}|{c}|{c}|{c}|, {c}|, {c}|, {c}|{c} {a}|{c} :)|({c})|- {c}")
# what the words of odd() begin with
ODD_STARTS = "ib ig ik il io ir iv ix iz ub ud uf ug uk ul um ur ut uth uv uz ec er es et ird ilk ulm urb x q".split()
MONTHS = "January February March April May June July August September October November December".split()
PLACE_FORMS = ("Port {}", "Lake {}", "Upper {}", "Mount {}", "{} Bay", "{} Hill", "{} Square", "Fort {}", "Saint {}", "{} Bridge", "the {} gate",
               "{} Street", "Old {}", "North {}", "{} Road", "New {}", "Bad {}", "the {} inn", "{} Cross", "Little {}", "{}burg", "{}ville")


def word(rng):
    """An invented, pronounceable word in lower case, never one of the Cairo vocabulary."""
    while True:
        if rng.random() < 0.45:  # plain, like "maludo"; the others are as odd as names can be
            out = "".join(rng.choice(PLAIN) + rng.choice("aeiou") for _ in range(rng.choice((1, 2, 2, 3)))) + rng.choice(ENDS)
        else:
            out = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3, 3))))
        if 3 <= len(out) <= 12 and out not in FORBIDDEN_WORDS:
            return out


def name(rng):
    """A person's name: ordinary, invented or mixed, one or two words."""
    roll = rng.random()
    if roll < 0.25:
        return f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
    if roll < 0.45:
        return f"{word(rng).capitalize()} {word(rng).capitalize()}"
    if roll < 0.6:
        return f"{rng.choice(FIRST_NAMES)} {word(rng).capitalize()}"
    if roll < 0.7:
        return f"{rng.choice(('Dr', 'Mr', 'Mrs', 'Lady', 'Captain', 'Old', 'Aunt'))} {rng.choice((word(rng).capitalize(), rng.choice(SURNAMES)))}"
    if roll < 0.75:
        return f"{rng.choice('ABCDEFGHIJKLMNOPRSTUVWZ')}. {rng.choice((word(rng).capitalize(), rng.choice(SURNAMES)))}"
    return word(rng).capitalize()


def place(rng):
    """An invented place of one to three words."""
    roll, first = rng.random(), word(rng).capitalize()
    if roll < 0.45:
        return first
    if roll < 0.7:
        return rng.choice(PLACE_FORMS).format(first)
    if roll < 0.85:
        return f"{first} {word(rng).capitalize()}"
    return rng.choice((f"{first}-{word(rng).capitalize()}", f"{first} {rng.choice(('al', 'na', 'dos', 'an', 'ul', 'ib', 'ix', 'uz', 'er'))}-{word(rng).capitalize()}",
                       f"{first} {rng.choice(('de', 'van', 'by', 'on', 'under'))} {word(rng).capitalize()}"))


def term(rng):
    """An invented word or short phrase that may stand for anything."""
    roll = rng.random()
    if roll < 0.6:
        return word(rng)
    if roll < 0.75:
        return word(rng).capitalize()
    return f"{word(rng)}{rng.choice((' ', ' ', '-'))}{word(rng)}"


def title(rng):
    """An invented title of a book or a song."""
    a, b = word(rng).capitalize(), word(rng).capitalize()
    return rng.choice((f"The {rng.choice(ADJECTIVES).capitalize()} {a}", f"{a} and {b}", f"The {a} of {b}", f"{a} {b}", f"Songs for {a}",
                       f"{rng.choice(ADJECTIVES).capitalize()} {rng.choice(OBJECTS).title()}", f"The {rng.choice(OBJECTS).title()} of {a}"))


def _digits(rng, low, high):
    n = rng.randint(low, high)
    return str(rng.randrange(10 ** (n - 1), 10 ** n))


def _code(rng):
    letters = "ABCDEFGHKLMNPQRSTVWXYZ"
    return rng.choice((f"{rng.choice(letters)}-{_digits(rng, 1, 3)}", f"{rng.choice(letters)}{rng.choice(letters)}{_digits(rng, 1, 4)}",
                       f"{_digits(rng, 1, 2)}{rng.choice(letters)}-{_digits(rng, 1, 3)}", f"{rng.choice(letters)}{_digits(rng, 1, 2)}",
                       f"{word(rng)}-{_digits(rng, 1, 3)}", f"{_digits(rng, 2, 3)}-{rng.choice(letters)}{rng.choice(letters)}"))


def _secret(rng):
    return rng.choice((f"{word(rng)}-{word(rng)}", word(rng), f"{rng.choice(ADJECTIVES)} {rng.choice(OBJECTS)}", f"{word(rng)}{_digits(rng, 1, 3)}",
                       f"{rng.choice(OBJECTS)}-{rng.choice(ADJECTIVES)}", f"{word(rng)} {word(rng)} {word(rng)}", *(_phrase(rng) for _ in range(5))))


# pools that are made up on the spot
MAKERS = {
    "invented_place": place, "invented_word": term, "invented_name": name, "invented_title": title, "code": _code, "secret": _secret,
    "number": lambda r: _digits(r, 1, 6), "pin": lambda r: _digits(r, 3, 8), "small": lambda r: _digits(r, 1, 3),
    "price": lambda r: f"{_digits(r, 1, 4)} {r.choice(('crowns', 'dollars', 'pounds', 'euros', 'coins', 'marks', 'francs', word(r)))}",
    "temperature": lambda r: f"{r.randint(-30, 99)} {r.choice(('degrees', 'degrees', 'C', 'kelvin'))}",
    "speed": lambda r: f"{_digits(r, 1, 3)} {r.choice(('knots', 'km/h', 'miles an hour', 'metres a second'))}",
    "weight": lambda r: f"{_digits(r, 1, 4)} {r.choice(('kilos', 'grams', 'pounds', 'tons', 'ounces'))}",
    "clock": lambda r: r.choice((f"{r.randint(0, 23)}:{r.randint(0, 59):02d}", f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}", f"{r.randint(0, 23):02d}:{r.randrange(0, 60, 5):02d}",
                                 f"half past {r.choice('one two three five six seven nine ten'.split())}",
                                 f"{r.randint(1, 12)} o'clock", f"{r.randint(1, 12)}.{r.randint(10, 59)} pm")),
    "date": lambda r: r.choice((f"{r.randint(1, 28)} {r.choice(MONTHS)}", f"{r.randint(1, 28)} {r.choice(MONTHS)} {r.randint(1850, 2040)}",
                                f"{r.choice(MONTHS)} {r.randint(1, 28)}", f"{r.randint(1900, 2040)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}")),
    "phone": lambda r: r.choice((f"{_digits(r, 3, 3)}-{_digits(r, 4, 4)}", f"{_digits(r, 3, 3)} {_digits(r, 3, 3)} {_digits(r, 2, 2)}", _digits(r, 6, 8))),
    "uuid": lambda r: r.choice((f"{r.randrange(16 ** 4):04x}-{r.randrange(16 ** 4):04x}", f"{r.randrange(16 ** 8):08x}", f"{r.randrange(16 ** 6):06X}")),
    "ip": lambda r: f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}",
    "version": lambda r: r.choice((f"v{r.randint(0, 9)}.{r.randint(0, 30)}", f"{r.randint(1, 9)}.{r.randint(0, 20)}.{r.randint(0, 20)}")),
    "phrase": lambda r: f"{r.choice(('never', 'always', 'we', 'you', 'they'))} {word(r)} {r.choice(('again', 'better', 'for you', 'first', 'twice'))}",
}
# invented values that look like those of a pool of real ones
LOOKALIKES = {
    "place": place, "feeling": word, "person": name, "food": lambda r: r.choice((term(r), f"{word(r)} {r.choice(('stew', 'pie', 'soup', 'bread', 'cake'))}")),
    "drink": lambda r: r.choice((term(r), word(r), f"{word(r)} {r.choice(('ale', 'wine', 'cider', 'tonic', 'milk', 'brew', 'fizz', 'water', 'punch', 'syrup'))}",
                                 f"{r.choice(('hot', 'spiced', 'iced', 'cold', 'wild', 'dark'))} {word(r)}")),
    "colour": lambda r: f"{word(r)} {r.choice(('red', 'blue', 'grey', 'brown'))}", "room": lambda r: f"the {word(r)} room", "book": title,
    "fruit": lambda r: f"{word(r)}s", "music": word, "sport": word, "language": lambda r: word(r).capitalize(), "instrument": word, "plant": word,
    "status": word, "job": lambda r: f"{word(r)} {r.choice(('maker', 'seller', 'keeper', 'clerk'))}", "game": word, "gem": word, "metal": word, "material": word, "topic": lambda r: f"the {word(r)}s", "illness": lambda r: f"{word(r)} fever",
    "clothes": lambda r: f"a {word(r)} {r.choice(('hat', 'coat', 'belt', 'shawl'))}", "tool": lambda r: f"a {word(r)} {r.choice(('key', 'rod', 'box'))}",
    "animal": lambda r: f"a {word(r)}", "vehicle": lambda r: f"the {word(r)} {r.choice(('line', 'bus', 'boat'))}", "gift": lambda r: f"a {word(r)} ring",
}


# pools whose values mean a number, or are no names of things
NEVER_ODD = frozenset(("code", "number", "pin", "small", "price", "temperature", "speed", "weight", "clock", "date", "phone", "uuid", "ip", "version", "status", "shape"))


def third(verb):
    """she mends, she catches"""
    return verb + "es" if verb.endswith(("s", "x", "ch", "sh", "z", "o")) else verb[:-1] + "ies" if verb[-1] == "y" and verb[-2] not in "aeiou" else verb + "s"


def past(verb):
    """mended, moved, carried"""
    return verb + "d" if verb.endswith("e") else verb[:-1] + "ied" if verb[-1] == "y" and verb[-2] not in "aeiou" else verb + "ed"


def tail(rng, v, share):
    """
    With a chance of `share` (half of it where the value v is of several words) words that follow it and are not part of it: where an answer ends is to be
    learned from what is asked, not from the few words that always follow.
    """
    if rng.random() > (share / 2 if " " in v else share):
        return ""
    out = rng.choice(TAILS)
    out = out if "{" in out or rng.random() < 0.7 else "{c}"
    for mark, words in TAIL_WORDS.items():
        out = out.replace(mark, rng.choice(words))
    verb = word(rng) if rng.random() < 0.3 else rng.choice(FRAME_VERBS)
    out = out.replace("{z}", third(verb)).replace("{r}", rng.choice(PREPOSITIONS))
    out = out.replace("{w}", word(rng) if rng.random() < 0.3 else rng.choice(FRAME_NOUNS)).replace("{x}", name(rng))
    return out if out[0] in ",.!:;" else " " + out


def adverb(rng, text, share):
    """With a chance of `share` a word between a verb and the value of a form, which is no part of the value: "my train leaves at about {v}"."""
    for verb, words in ADVERBS.items():
        if f" {verb} {{v}}" in text:
            return text.replace(f" {verb} {{v}}", f" {verb} {rng.choice(words)} {{v}}", 1) if rng.random() < share else text
    return text


def odd(rng, capital):
    """A word that begins as few words do, as "ix-Abel" or "ulkaro": a tokenizer gives the space before it a token of its own, at which no value ends."""
    while True:
        start, more = rng.choice(ODD_STARTS), word(rng)[:rng.choice((3, 4, 5, 6, 12))]
        roll = rng.random()
        if capital and roll < 0.6:
            out = start + ("'" if roll < 0.05 else "-") + more.capitalize()
        elif capital and roll < 0.75:
            out = _digits(rng, 1, 3) + rng.choice(("", "", "", rng.choice("abcdBCD"), f"-{more}"))
        else:
            out = rng.choice((start + more, start + more, start + rng.choice(PLAIN) + rng.choice("aeiou"), f"{start}-{more}"))
        if out not in FORBIDDEN_WORDS and not FORBIDDEN_WORDS & set(re.findall(r"\w+", out.lower())):
            return out


def with_odd_word(rng, v):
    """A value with an odd word in it: behind it, instead of its last word, or before its last word ("the ulmek mill")."""
    words = v.split(" ")
    capital, roll = words[-1][:1].isupper(), rng.random()
    if capital and (roll < 0.5 or len(words) == 1):
        words.append(odd(rng, True))
    elif capital and roll < 0.8:
        words[-1] = odd(rng, True)
    elif len(words) == 1:
        words.insert(rng.randint(0, 1) if roll < 0.3 else 1, odd(rng, False))
    else:
        words.insert(-1, odd(rng, capital))
        if words[-3:-2] in (["a"], ["an"]):
            words[-3] = "an" if words[-2][0] in "aeiou" else "a"
    return " ".join(words)


def value(rng, pool, invented=0.35):
    """One value of a pool; `invented` is the share of made-up ones where the pool has real ones."""
    if pool in MAKERS:
        out = MAKERS[pool](rng)
    elif pool in LOOKALIKES and rng.random() < invented:
        out = LOOKALIKES[pool](rng)
    else:
        out = rng.choice(POOLS[pool])
    if pool not in NEVER_ODD and rng.random() < (0.2 if " " in out else 0.04):
        out = with_odd_word(rng, out)
    return out


class Names:
    """Hands out the entities of one life. No name is the beginning of another, so no question can mean two of them."""

    def __init__(self):
        self.full, self.beginnings = set(), set()
        self.holders = {}  # (pool, value) -> the facts that tell it, so that a question can be turned round

    def take(self, rng, kind, near=None):
        """A new entity of a kind; `near` is another one of the thread, whose first word it may share (a near miss)."""
        while True:
            out = self.propose(rng, kind, near)
            if self.add(out):
                return out

    def taken(self, out):
        """Whether a name is one of the life's."""
        return out in self.full

    def near_miss(self, rng, entity):
        """A new entity that is nearly another one: another number, or one of its words replaced; None where it is taken."""
        if re.search(r"\d", entity):
            out = re.sub(r"\d+", lambda m: str((int(m[0]) + rng.choice((1, 1, 2, 10, rng.randrange(1, 1000)))) % 10 ** max(2, len(m[0]))), entity, count=1)
        else:
            words = entity.split(" ")
            i = rng.randrange(len(words)) if words[0][:1].isupper() or len(words) == 1 else len(words) - 1
            new = word(rng)
            words[i] = new.capitalize() if words[i][:1].isupper() else new
            out = " ".join(words)
        return out if self.add(out) else None

    def add(self, out):
        """Register a name; False if it is taken, or begins another name or another name begins it."""
        words = out.split(" ")
        beginnings = {" ".join(words[:i]) for i in range(1, len(words) + 1)}
        if out in self.beginnings or beginnings & self.full:
            return False
        self.full.add(out)
        self.beginnings |= beginnings
        return True

    def propose(self, rng, kind, near=None):
        """A name of a kind, free or not."""
        roll = rng.random()
        if kind == "person":
            if near and " " in near and near[0].isupper() and roll < 0.35:
                return f"{near.split()[0]} {rng.choice((rng.choice(SURNAMES), word(rng).capitalize()))}"
            if roll < 0.15:
                return f"{rng.choice(KIN)} {rng.choice((rng.choice(FIRST_NAMES), word(rng).capitalize()))}"
            return rng.choice(KIN) if roll > 0.93 else name(rng)
        if kind == "speaker":
            return rng.choice((rng.choice(FIRST_NAMES), word(rng).capitalize()))
        if kind in ("land", "town"):
            return place(rng)
        if kind == "company":
            a = word(rng).capitalize()
            return rng.choice((f"{a} {rng.choice(('Ltd', 'Works', 'Group', 'Bank', 'Motors', 'Foods', 'Labs', 'Inc', 'Press'))}", a,
                               f"{a} & {word(rng).capitalize()}", f"{rng.choice(SURNAMES)} and Sons"))
        if kind == "ship":
            return rng.choice((f"the {word(rng).capitalize()}", f"the {rng.choice(ADJECTIVES).capitalize()} {word(rng).capitalize()}",
                               f"the ship {word(rng).capitalize()}"))
        if kind in ("object", "lock"):
            thing = rng.choice(OBJECTS if kind == "object" else LOCKS)
            return rng.choice((f"the {rng.choice(ADJECTIVES)} {thing}", f"the {rng.choice(ADJECTIVES)} {thing}", f"{rng.choice(SURNAMES)}'s {thing}",
                               f"the {thing} of {name(rng)}", f"{thing} {_digits(rng, 1, 3)}", f"the {word(rng)} {thing}"))
        if kind == "slot":  # many alike: the same head, another number or another word
            worded = not near[-1].isdigit() if near else rng.random() < 0.5
            head = near.rsplit(" ", 1)[0] if near and roll < 0.85 else rng.choice(SLOTS)
            return f"{head} {word(rng) if worded else _digits(rng, 1, rng.choice((2, 2, 3, 4)))}"
        if kind == "register":
            if near and " " in near and roll < 0.6:
                return f"{near.rsplit(' ', 1)[0]} {rng.choice((word(rng), _code(rng), _digits(rng, 1, 4)))}"
            return rng.choice((f"register {word(rng)[:2]}{_digits(rng, 1, 2)}", f"box {word(rng)}", f"slot {_digits(rng, 1, 4)}",
                               f"key {word(rng)}", f"cell {_code(rng)}", f"row {_digits(rng, 2, 5)}", f"{word(rng)[:3]}_{_digits(rng, 1, 3)}",
                               f"item {word(rng)}", f"field {word(rng)}.{word(rng)}", f"entry {_code(rng)}"))
        if kind == "animal":
            owner = rng.choice((rng.choice(KIN), name(rng), rng.choice(FIRST_NAMES)))
            return rng.choice((f"{owner}'s {rng.choice(PETS)}", f"the {rng.choice(ADJECTIVES)} {rng.choice(PETS)}", f"the {rng.choice(PETS)} of {owner}"))
        if kind == "work":
            return title(rng)
        if kind == "event":
            event = rng.choice(EVENTS)
            return rng.choice((f"{name(rng)}'s {event}", f"the {rng.choice(ADJECTIVES)} {event}", f"the {event} in {place(rng)}", f"the {word(rng)} {event}"))
        return rng.choice((f"{rng.choice(MACHINES)} {word(rng)[:2]}-{_digits(rng, 1, 2)}", f"the {rng.choice(ADJECTIVES)} {rng.choice(MACHINES)}",
                           f"{rng.choice(MACHINES)} {_digits(rng, 1, 3)}", f"{word(rng)}-{_digits(rng, 1, 2)}"))


def identifier(rng):
    """A long identifier of 12 to 40 letters and digits, in one piece or in groups of uneven length."""
    alphabet = rng.choice(("0123456789abcdef", "0123456789abcdef", "0123456789ABCDEF", "abcdefghijkmnpqrstuvwxyz23456789", "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789",
                           "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789", "0123456789"))
    while True:
        sizes = [rng.randint(12, 40)] if rng.random() < 0.4 else [rng.randint(2, 10) for _ in range(rng.randint(2, 6))]
        if 12 <= sum(sizes) <= 40 and sizes != [8, 4, 4, 4, 12]:
            return rng.choice("----_:.").join("".join(rng.choices(alphabet, k=n)) for n in sizes)


def _phrase(rng):
    """Two to five words that have nothing to do with one another, some of them joined by a hyphen."""
    one = lambda: rng.choice((rng.choice(OBJECTS).split()[0], rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(NOUNS), rng.choice(NOUNS)))
    return " ".join(word(rng) if (roll := rng.random()) < 0.1 else f"{one()}-{one()}" if roll < 0.25 else one() for _ in range(rng.choice((2, 2, 3, 3, 3, 4, 5))))


def _mail(rng):
    return f"{word(rng)}{rng.choice(('', '.', '_'))}{rng.choice((word(rng), _digits(rng, 1, 3)))}@{word(rng)}.{rng.choice(('org', 'net', 'example', 'io', 'de'))}"


def _path(rng):
    return rng.choice(("/", "", "~/", "C:/")) + "/".join(word(rng) for _ in range(rng.randint(2, 4))) + rng.choice(("", ".txt", ".log", ".csv", ".png", f"-{_digits(rng, 1, 3)}"))


FRAME_MAKERS = {
    "number": lambda r: _digits(r, 1, 8), "long number": lambda r: _digits(r, 5, 8), "word": word, "real": lambda r: r.choice(FRAME_NOUNS), "term": term, "phrase": _phrase, "name": name,
    "place": place, "code": _code, "identifier": identifier, "secret": _secret, "mail": _mail, "path": _path, "clock": MAKERS["clock"], "title": title,
    "date": MAKERS["date"], "price": MAKERS["price"], "phone": MAKERS["phone"], "first": lambda r: r.choice(FIRST_NAMES), "pool": lambda r: r.choice(POOLS[r.choice(NOUN_POOLS)]),
}
NOUN_POOLS = ("tool", "gift", "food", "drink", "clothes", "plant", "animal", "dream", "worry", "book", "vehicle")


def frame_value(rng, kind):
    """A value of a frame; kind is a key of FRAME_MAKERS, or "any"."""
    kind = rng.choice(frame_value.kinds[:-1]) if kind == "any" else kind
    out = FRAME_MAKERS[kind](rng)
    return with_odd_word(rng, out) if kind in ODD_FRAMES and rng.random() < (0.2 if " " in out else 0.05) else out


def frame_key(rng, kind):
    """A key of a frame."""
    return FRAME_MAKERS[rng.choice(frame_key.kinds[:-1]) if kind == "any" else kind](rng)


ODD_FRAMES = ("word", "term", "phrase", "name", "place", "secret", "title", "pool")
frame_value.kinds = ("number", "number", "word", "word", "real", "term", "phrase", "phrase", "phrase", "phrase", "name", "place", "code", "identifier", "identifier", "identifier", "identifier", "secret", "secret", "mail", "path",
                     "clock", "title", "date", "price", "phone", "pool", "any")
frame_key.kinds = ("word", "word", "term", "long number", "name", "name", "place", "code", "identifier", "identifier", "identifier", "secret", "title", "phrase", "mail", "path", "any")
