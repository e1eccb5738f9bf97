"""Tastes and everyday chat, in the lives of the synthetic base: told in the first person, asked of me or of the speaker."""
from dev.base_clock import NOW
from dev.base_threads import _cap, _fill, _finish_question, stranger
from dev.base_forms import CHANGES, CHAT_FORMS, CHAT_LINES, SMALL_TALK, WRAPS_AFTER, WRAPS_BEFORE
from dev.base_tastes import OPENERS, TASTE_ASKS, TASTE_ASKS_OF, TASTE_LINES, TASTE_LINES_OF, TASTES, TASTES_ANEW, TASTES_COME, TASTES_JOINED, TASTES_OVER, TASTES_TURNED
from dev.base_values import FRAME_MAKERS, UNKNOWN, Episode, adverb, name, past, tail, third, value, word
from dev.base_words import FRAME_NOUNS, FRAME_VERBS, NOUNS


def _value(rng, pool):
    return FRAME_MAKERS[pool](rng) if pool in ("mail", "identifier", "path", "first") else value(rng, pool, 0.4)


def _made_up(rng, noun):
    """A row as those of CHAT_LINES, about a noun."""
    says, asks, *pool = rng.choice(CHAT_FORMS)
    verb, (other, third_noun) = (word(rng) if rng.random() < 0.2 else rng.choice(FRAME_VERBS)), rng.sample([n for n in FRAME_NOUNS if n != noun], 2)
    for mark, text in {"{n}": noun, "{w}": other, "{m}": third_noun, "{b}": verb, "{z}": third(verb), "{d}": past(verb)}.items():
        says, asks = says.replace(mark, text), asks.replace(mark, text)
    pool = rng.choice({"clock": ("clock",), "place": ("invented_place", "place")}.get(*pool)) if pool else rng.choice(
        ("clock", "clock", "pin", "number", "small", "invented_word", "invented_name", "first", "code", "secret", "price", "date", "phone", "colour", "food", "identifier"))
    return pool, says, asks


def _category(rng, nouns):
    """A row as those of TASTES, of one or two of some nouns: what one may like is more than any list knows, and both words of "curtain pattern" count."""
    noun = " ".join(rng.sample(nouns, rng.choice((1, 2, 2))))
    return noun, rng.choice(("invented_word", "invented_word", "invented_name", "invented_title", "invented_place"))


def _part_of(row, other):
    """Whether the name of a category is part of another's: a soft drink is a drink."""
    a, b = set(row[0].split()), set(other[0].split())
    return a <= b or b <= a


def _ask(rng, form, subject="", noun=""):
    text = _fill(form.lstrip("~"), subject, noun) if subject else form.lstrip("~").replace("{n}", noun)
    return _cap(text, (subject,) if subject else ()) if form.startswith("~") else _finish_question(rng, text, keep=(subject,) if subject else ())


class Talk:
    """What somebody says of himself, in a chat of several or (with tastes) alone; what is said again counts from then on."""

    def __init__(self, rng, names, statements=30):
        self.names, self.tastes = names, rng.random() < 0.6
        self.kind = "preference" if self.tastes else "chat"
        alone = self.tastes and not names.taken("I") and rng.random() < 0.6
        self.speakers = ["I"] if alone else [names.take(rng, "speaker") for _ in range(rng.randint(2, 8))]
        if alone:
            names.add("I")
        self.rows = rng.sample(TASTES, min(len(TASTES), max(3, statements))) if self.tastes else rng.sample(CHAT_LINES, rng.randint(4, len(CHAT_LINES)))
        if not self.tastes and rng.random() < 0.7:
            self.rows = rng.sample(self.rows, rng.randint(0, len(self.rows))) + [_made_up(rng, noun) for noun in rng.sample(FRAME_NOUNS, rng.randint(4, 30))]
            self.rows = list({row[1]: row for row in self.rows}.values())   # two may say the same and be asked for otherwise
        self.nouns = rng.sample(NOUNS, rng.choice((4, 8, 16)))
        if self.tastes and rng.random() < 0.5:
            several, self.rows = len(self.rows), self.rows[:len(self.rows) // 3]
            for _ in range(several):
                self._make_up(rng)
        self.told, self.anew = {}, rng.choice((0.1, 0.4, 0.6))
        self.noise = 0.0 if alone else rng.choice((0.0, 0.15, 0.4))
        self.wrapped = rng.choice((0.0, 0.1, 0.3))
        self.reported = 0.0 if alone or not self.tastes else rng.choice((0.0, 0.5, 1.0, 1.0))  # share that is told of the speakers, not by them

    def _make_up(self, rng):
        """Adds a category of its own, unless its name is part of another's, or another's of it. Whether it did."""
        row = _category(rng, self.nouns)
        fits = not any(_part_of(row, other) for other in (*TASTES, *self.rows))
        self.rows += [row] * fits
        return fits

    def tell(self, rng, index):
        """A remark; noise comes with None instead of a token."""
        who = rng.choice(self.speakers)
        if rng.random() < self.noise:
            return Episode(f"{who}: {rng.choice(SMALL_TALK)}", kind=self.kind), None
        if self.told and rng.random() < self.anew:
            key = rng.choice(list(self.told))
        else:
            key = next((k for k in ((rng.choice(self.speakers), rng.randrange(len(self.rows))) for _ in range(8)) if k not in self.told), None)
            key = key or rng.choice(list(self.told))
        who, r = key
        item = self.told.setdefault(key, {"key": key, "past": []})
        v = None
        while v is None or v in item["past"]:
            v = _value(rng, self.rows[r][1 if self.tastes else 0])
            if len(item["past"]) > 5:
                item["past"] = item["past"][-1:]
        old = item["past"][-1] if item["past"] else None
        item["past"].append(v)
        item["index"] = index
        reported = rng.random() < self.reported
        if self.tastes:
            if reported:
                text = _fill(rng.choice(TASTE_LINES_OF), who, self.rows[r][0])
                text = rng.choice(CHANGES).replace("{}", text).replace("{old}", old) if old and rng.random() < 0.7 else text
            elif old and (roll := rng.random()) < 0.7:
                joined = rng.choice(TASTES_JOINED)
                over, come = rng.choice(TASTES_OVER), rng.choice(TASTES_COME)
                over, come = (_cap(x, ("{",)) if f". {{{mark}}}" in joined else x for x, mark in ((over, "o"), (come, "c")))
                text = (rng.choice(TASTES_TURNED) if roll < 0.3 else joined.replace("{o}", over).replace("{c}", come)).replace("{old}", old)
            else:
                text = rng.choice(TASTE_LINES)
                text = rng.choice(TASTES_ANEW).replace("{}", text).replace("{old}", old) if old else text
            verb = word(rng) if rng.random() < 0.3 else rng.choice(FRAME_VERBS)
            text = text.replace("{n}", self.rows[r][0]).replace("{z}", third(verb)).replace("{b}", verb).replace("{x}", name(rng))
        else:
            text = rng.choice(self.rows[r][1].split("|")).strip()
            text = rng.choice(("{}", "{}", "news: {}", "change of plan, {}", "{} now", "correction: {}", "oh, and {}")).replace("{}", text) if old else text
        text = adverb(rng, text, 0.1)
        if text.endswith("{v}"):
            text += tail(rng, v, 0.45)
        if rng.random() < (0.35 if text.startswith("{v}") else 0.15):
            text = f"{rng.choice(OPENERS)} {text}"
        text = text.replace("{v}", v)
        if who != "I" and not reported:
            text = f"{who}: {_cap(text, (v,)) if rng.random() < 0.4 else text}{rng.choice(('', '', '.', '!', ' :)', '...'))}"
        elif rng.random() < self.wrapped:
            text = f"{rng.choice(WRAPS_BEFORE)} {text}. {rng.choice(WRAPS_AFTER)}"
        else:
            text = _cap(text, (v,)) + rng.choice((".", ".", ".", "!", ""))
        return Episode(text, kind=self.kind, facts=((self._key(key), v, None),)), item

    def _key(self, key):
        return key[0], self.rows[key[1]][0 if self.tastes else 1]

    def _question(self, rng, who, r):
        if self.tastes:
            form = rng.choice(TASTE_ASKS if who == "I" else TASTE_ASKS_OF)
        else:
            form = rng.choice(self.rows[r][2].split("|")).strip()
        if rng.random() < 0.12 and form.startswith(("what is", "which", "who is", "where is")) and " did " not in form:
            form = rng.choice(NOW).replace("{}", form)
        return _ask(rng, form, "" if who == "I" else who, self.rows[r][0])

    def ask(self, rng, item):
        """What the last remark about it said."""
        key = item["key"]
        return Episode(self._question(rng, *key), item["past"][-1], item["index"], self.kind, ("latest", (self._key(key),), None))

    def unknown(self, rng, told):
        """A topic on which a speaker has said nothing, or a speaker who has said nothing at all."""
        who, r = rng.choice(self.speakers), rng.randrange(len(self.rows))
        if self.tastes and (roll := rng.random()) < 0.6:
            fresh = [row for row in TASTES if row not in self.rows] if roll < 0.3 else []
            self.rows += [rng.choice(fresh)] if fresh else []
            if fresh or self._make_up(rng):
                r = len(self.rows) - 1
        if who != "I" and rng.random() < 0.35:
            who = stranger(rng, self.names, "speaker", self.speakers, told)
        if who is None or any(w == who and self._near(self.rows[r], self.rows[x]) for w, x in self.told):
            return None
        return Episode(self._question(rng, who, r), UNKNOWN, -2, "unknown", ("unknown", (self._key((who, r)),), None))

    def _near(self, row, other):
        """Whether what was said of one might answer for the other."""
        if not self.tastes:
            return row == other or row[2] == other[2]
        alike = row[1] == other[1] and not row[1].startswith(("invented_", "clock"))   # a soft drink is a drink; a writer is no painter
        return alike or _part_of(row, other)
