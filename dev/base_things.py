"""Things told apart by what stands before their name ("the brass key", "the ferry key"), in the lives of the synthetic base; remarks mention their like and tell nothing."""
from dev.base_threads import ORDERS, _cap, _finish_question
from dev.base_forms import CHANGES, WRAPS_AFTER, WRAPS_BEFORE
from dev.base_values import FRAME_MAKERS, UNKNOWN, Episode, name, past, tail, word
from dev.base_words import ADJECTIVES, FRAME_NOUNS, FRAME_VERBS, NOUNS, PREPOSITIONS, SLOTS, split

KINDS = ("number", "long number", "phrase", "phrase", "phrase", "secret", "code", "identifier", "term", "name", "clock", "mail", "price", "date")

# {t} "brass key": what is said, and what is asked
THING_LINES = split(
    "the {t} is {v}|the {t} is {v}|{v} is the {t}|{t}: {v}|the {t}: {v}|take {v} for the {t}|as {t} they chose {v}|I wrote down {v} as the {t}|the {t} reads {v}|the {t} will be {v}|"
    "they told me that the {t} is {v}|we agreed on {v} as the {t}|note the {t}: {v}|the {t} to use is {v}|for the {t}, say {v}|it is {v} that they call the {t}|the {t} must be {v}|my {t} is {v}|our {t} is {v}|the {t} happens to be {v}")
THING_ASKS = split(
    "what is the {t}|what is the {t}|what is the {t}|what was the {t}|the {t}|which one is the {t}|what did they say the {t} was|what does the {t} read|~the {t} is|tell me what the {t} is|what should I take for the {t}|"
    "what have we got as {t}|do you know the {t}|can you tell me the {t}|what about the {t}|what was chosen as {t}|what was the {t} again|{t}|how does the {t} read")
# ... and what tells nothing of one, {m} what stands before the name of a thing of which something is told
REMARKS = split(
    "{x} {d} the {t} {r} the {w}|nobody had seen such a {t} before|a {t} is of no use without a {w}|you have {d} your {a} {t} again, said {x}|there it lay, the {t}, {r} the {w}|"
    "I never liked the {t}|the {t} was {a}, and so was the {w}|they talked of a {n} and of a {m} {w}|the {m} {w} stood {r} the {n}|{x} wanted to {b} the {t} once more|who would {b} a {t} like that, asked {x}|"
    "so much noise about one {n}|the {n} {r} the {w} was {d} by {x}|some {t} or other had been {d}|{x} laughed at the {a} {n}|what a {a} {n} this is, said {x}|my old {t} and your {w} were both {d}|"
    "the story is about a {t}, a {w} and {x}|every {n} was {d} that year|the {a} {m} was {d}, but the {n} was not|they {d} the {m} and left the {n} {r} the {w}|{x} has a {a} {t}|with the {t} in hand {x} {d} the {w}")
THINGS = tuple(noun for noun in (*FRAME_NOUNS, *SLOTS) if " " not in noun)


class Things:
    """A few nouns, each with many modifiers; some things are told anew, then the latest word counts."""

    kind = "things"

    def __init__(self, rng, names, statements=30):
        self.names, self.items, self.mentioned = names, [], []
        self.nouns = rng.sample(THINGS, rng.choice((1, 2, 3, 6)))
        self.values = rng.choice(KINDS) if rng.random() < 0.6 else None
        self.remarks, self.anew, self.wrapped = rng.choice((0.1, 0.3, 0.5)), rng.choice((0.0, 0.0, 0.2, 0.4)), rng.choice((0.0, 0.2, 0.6))

    def _modifier(self, rng):
        roll = rng.random()
        if roll < 0.25:
            return rng.choice(ADJECTIVES)
        if roll < 0.8:   # any word may be one, a carry bag too; but for the key that evaluation hides
            return rng.choice([w for w in (NOUNS if roll < 0.65 else FRAME_VERBS) if w not in (*self.nouns, "pass")])
        return word(rng)

    def _remark(self, rng):
        """Something about a thing of which nothing is told."""
        noun = rng.choice(self.nouns)
        text, verb = rng.choice(REMARKS), rng.choice(FRAME_VERBS)
        thing = f"{self._modifier(rng)} {noun}"
        self.mentioned.append(thing)
        for mark, part in {"{t}": thing, "{n}": noun, "{m}": rng.choice(self.items)["entity"].split()[0] if self.items else self._modifier(rng), "{a}": rng.choice(ADJECTIVES),
                           "{w}": rng.choice(FRAME_NOUNS), "{d}": past(verb), "{b}": verb, "{r}": rng.choice(PREPOSITIONS), "{x}": name(rng)}.items():
            text = text.replace(mark, part)
        return Episode(_cap(text) + ".", kind=self.kind), None

    def tell(self, rng, index):
        """What a thing is, now and then anew; or a remark, with None instead of a token."""
        if rng.random() < self.remarks:
            return self._remark(rng)
        if self.items and rng.random() < self.anew:
            item = rng.choice(self.items)
        else:
            noun, entity = rng.choice(self.nouns), None
            while entity is None or not self.names.add(entity):
                entity = f"{self._modifier(rng)} {noun}"
            item = {"entity": entity, "noun": noun, "past": []}
            self.items.append(item)
        v = None
        while v is None or v in item["past"]:
            v = FRAME_MAKERS[self.values or rng.choice(KINDS)](rng)
        old = item["past"][-1] if item["past"] else None
        item["past"].append(v)
        item["index"] = index
        form = rng.choice(THING_LINES)
        text = form + (tail(rng, v, 0.15) if form.endswith("{v}") else "")
        if old:
            text = rng.choice(CHANGES).replace("{}", text).replace("{old}", old)
        text = text.replace("{t}", item["entity"]).replace("{v}", v)
        if rng.random() < self.wrapped:
            before, after = (rng.choice(WRAPS_BEFORE) if rng.random() < 0.4 else ""), rng.choice(WRAPS_AFTER)
            ends = not before or before.endswith((".", "!"))
            text = f"{before} {_cap(text, (v,)) if ends else text}. {after}".strip()
        else:
            text = _cap(text, (v,)) + rng.choice((".", ".", ".", "", "!"))
        return Episode(text, kind=self.kind, facts=(((item["entity"], self.kind), v, None),)), item

    @staticmethod
    def _question(rng, entity):
        if rng.random() < 0.15:
            return _finish_question(rng, rng.choice(ORDERS).replace("{p} {n}", f"the {entity}"), True)
        form = rng.choice(THING_ASKS)
        text = form.lstrip("~").replace("{t}", entity)
        return _cap(text) if form.startswith("~") else _finish_question(rng, text)

    def ask(self, rng, item):
        """What the last statement about it said."""
        return Episode(self._question(rng, item["entity"]), item["past"][-1], item["index"], self.kind, ("latest", ((item["entity"], self.kind),), None))

    def unknown(self, rng, told):
        """A thing that nobody has mentioned, or one that was mentioned and no more."""
        known = {item["entity"] for item in self.items}
        if self.mentioned and rng.random() < 0.4:
            entity = rng.choice(self.mentioned)
        else:
            entity = f"{self._modifier(rng)} {rng.choice(self.nouns)}"
            if entity in told:
                return None
        if entity in known:
            return None
        return Episode(self._question(rng, entity), UNKNOWN, -2, "unknown", ("unknown", ((entity, self.kind),), None))
