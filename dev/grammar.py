"""Write synthetic memories with questions, from a small grammar: exactness at a scale that no corpus has.

    python dev/grammar.py --memories 10000 --output FILE [--seed 1] [--kinds log update] [--held-out] [--lines 1000]

One JSON line a memory, in the form of the human questions: `sents`, `times` (seconds since 1970, -1 unknown; only
where lines have times) and `qas` with `q`, `a`, `answers`, `evidence`. No answer: "a" is "" and there is no evidence.
Several values: "a" is a list, each standing in the line at its place of "evidence". Two lines: the answer stands in the
last. "composed": true marks a date worked out from the line's time (UTC); it stands nowhere. A log names its "form".

dev/grammar.txt holds the rules and the words. An alternative marked "~" there is never used in training; with
--held-out a rule that has such alternatives uses only them. The kinds in HELD_KINDS are never made without --held-out.

Every line tells its facts to one store, under keys. A question is a query on that store, so its answer is all that the
lines give, and a refusal is a key that was never told.
"""
import argparse
import datetime
import json
import random
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a script, not with -m
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nanochat.common import UserError, atomic_write, flag, run_main  # noqa: E402

REFUSALS = 0.15     # share of the questions that have no answer, about
FILLER = 0.3        # share of the memories with lines that tell nothing
MOST_VALUES = 6     # a question with more right values is not asked
REF, CHOICE = re.compile(r"\$([a-z_]+)"), re.compile(r"\{([^{}]*)\}")
ORDERS = "tell", "give", "list", "name", "I", "say", "spell", "go"     # a question that begins so takes a full stop
FULL_DATES = "{d:%Y-%m-%d}", "{d.day} {d:%B} {d.year}", "{d:%B} {d.day}, {d.year}"
DATES = *FULL_DATES, "{d.day} {d:%B}", "{d:%B} {d.day}", "{d:%d.%m.%Y}", "{d:%a} {d.day} {d:%B}"
UPPER, LOWER, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijkmnpqrstuvwxyz", "0123456789"
CHARACTERS = {"9": DIGITS, "^": UPPER, "§": DIGITS + "abcdef", "&": UPPER + LOWER + DIGITS, "_": " "}    # of patterns
DID = "ask_all_did", "ask_all_who"
ASK_BY = {"verb": DID, "verb_item": DID, "plural": ("ask_all", "ask_rev")}     # rules for a value and for who has it
ME, EPOCH, DAY = "I", datetime.date(1970, 1, 1), 24 * 3600


def read_rules(text: str) -> dict[bool, dict[str, list[str]]]:
    """The rules and word lists of grammar.txt -> {held out: {name: alternatives}}."""
    rules = {False: {}, True: {}}
    for section in re.split(r"\n(?=[=:] )", text):
        head, *rows = [row for row in section.split("\n") if row and row[:2] != "% "] or [""]
        rows = ", ".join(rows).split(", ") if head[:1] == ":" else rows
        rules[False][head[2:]] = [row for row in rows if row[0] != "~"]
        rules[True][head[2:]] = [row[1:] for row in rows if row[0] == "~"] or rows
    return rules


RULES = read_rules(Path(__file__).with_name("grammar.txt").read_text(encoding="utf-8"))


@dataclass(eq=False)
class Line:
    text: str
    time: int   # -1: unknown; 0: known, once the lines stand in order


@dataclass(eq=False)
class Thing:
    """What a line tells of somebody: an attribute or a verb, the type of its values, its words for the rules."""
    name: str
    kind: str
    slots: dict
    ask: str    # the rule that asks for the value
    rev: str    # the rule that asks who has it


@dataclass
class Fact:
    value: str
    line: Line
    days: int | None = None     # from the line's own day, where the value is such a word ("yesterday") or none ("")


ROLES = {"place": "spot", "with": "person", "clock": "clock", "for": "kin", "weekday": "weekday"}     # of a scene
TASTES = [Thing(name, "food", {}, "ask_" + name, "ask_who_" + name) for name in ("like", "dislike")]


def from_pattern(rng: random.Random, pattern: str) -> str:
    """A value such as the pattern says; grammar.txt lists the signs."""
    begun = pattern.replace("9", rng.choice(DIGITS[1:]), 1)     # a number does not begin with 0
    return "".join(rng.choice(CHARACTERS[c]) if c in CHARACTERS else c for c in begun)


class World:
    """One memory while it is being made: its lines, what they tell, and the questions that could be asked."""

    def __init__(self, rng: random.Random, held: bool, timed: bool):
        self.rng, self.held, self.timed, self.form = rng, held, timed, ""
        self.parts, self.asks, self.facts = [[]], [], defaultdict(list)
        self.taken, self.known, self.used = set(), set(), set()     # names, things, alternatives of rules
        self.end, self.det = rng.choice((".", ".", ".", "", "!")), rng.choice(("the ", "the ", "a/an "))
        self.start = datetime.date(2012, 1, 1) + datetime.timedelta(rng.randrange(5000))

    def pick(self, rule: str) -> str:
        """One alternative of a rule, of those for training or of those held out."""
        text = self.rng.choice(RULES[self.held][rule])
        self.used.add((rule, text))
        return text

    def expand(self, text: str, slots: dict) -> str:
        text = CHOICE.sub(lambda m: self.rng.choice(m[1].split("|")), text)
        text = REF.sub(lambda m: slots[m[1]] if m[1] in slots else self.expand(self.pick(m[1]), slots), text)
        return re.sub(r"\ba/an (?=(\w))", lambda m: "an " if m[1].lower() in "aeiou" else "a ", text)

    def sentence(self, template: str, slots: dict) -> str:
        """A statement as it stands in a line: with a capital and a full stop, unless its form says otherwise."""
        text = self.expand(template, slots).strip()
        if text[0] == "*":
            return text[1:]
        text = (self.expand("$lead ", {}) if self.rng.random() < 0.12 else "") + text
        # a value keeps its letters, so a line that begins with one has no capital of its own
        kept = text[:4] != "the " and any(slots.get(k) and text.startswith(slots[k]) for k in ("v", "old", "x"))
        return (text if kept else text[0].upper() + text[1:]) + self.end

    def slots(self, who: str, thing: Thing, v: str = "", **more) -> dict:
        o = {"thing": self.det, "spot": "the "}.get(thing.kind, "") + v
        return {"e": who, "p": "my" if who == ME else who + "'s", "v": v, "o": o} | thing.slots | more

    def values(self, who: str, thing: Thing) -> list[str]:
        return [fact.value for fact in self.facts.get((who, thing.name), ())]

    def add(self, text: str) -> Line:
        self.parts[-1].append(line := Line(text, 0 if self.timed and self.rng.random() < 0.9 else -1))
        return line

    def tell(self, line: Line, value: str, *key, days: int | None = None) -> None:
        self.facts[key].append(Fact(value, line, days))

    def say(self, rule: str, who: str, thing: Thing, v: str, turn: str = "$text", **more) -> Line:
        """Adds the line that tells of somebody the value of a thing."""
        line = self.add(self.expand(turn, {"text": self.sentence(f"${rule}", self.slots(who, thing, v, **more))}))
        self.tell(line, v, who, thing.name)
        if who != ME or rule != "say_p":    # "my" names nobody
            self.tell(line, who, "who", thing.name, v)
        return line

    def ask(self, rule: str, slots: dict, *keys, **how) -> None:
        """A question that could be asked: `rule` says it, the store is asked for `keys`; `how`: see `answer`."""
        self.asks.append((keys, rule, slots, how))

    def ask_about(self, names: list[str], things: list[Thing], n: int = 40) -> None:
        """Questions for values of some of the names, for two at once, and for who has a value; told or not."""
        for _ in range(n):
            (e, thing), (e2, thing2) = ((self.rng.choice(names), self.rng.choice(things)) for _ in range(2))
            self.ask(thing.ask + "_i" * (e == ME), self.slots(e, thing), (e, thing.name))
            v = (self.values(e, thing) or [self.value(thing.kind)])[0]
            self.ask(thing.rev, self.slots(e, thing, v), ("who", thing.name, v))
            if thing.ask == thing2.ask == "ask":
                slots = self.slots(e, thing, q=self.slots(e2, thing2)["p"], b=thing2.name)
                self.ask("ask_two", slots, (e, thing.name), (e2, thing2.name))

    def new(self, kind: str, like: str = "") -> str:
        """
        A new name. No earlier name holds it and it holds none, so none is taken for another.
        like: a name whose first word it shares where that can be.
        """
        form = like.split()[0] + " $family" if kind == "person" and " " in like else f"${kind}"
        for _ in range(300):
            name = from_pattern(self.rng, self.expand(form, {}))
            if not any(name in other or other in name for other in self.taken):
                self.taken.add(name)
                return name
        raise UserError("the word lists are too short for so many --lines", code=2)

    def things(self, words: str, n: int) -> list[Thing]:
        """n attributes or verbs of a word list that this memory does not use yet."""
        out, rules = [], ASK_BY.get(words, ("ask", "ask_rev"))
        for _ in range(20 * n):
            name, _, kind = self.expand(f"${words}", {}).partition(":")
            if len(out) < n and name not in self.known:
                self.known.add(name)
                verb = dict(zip(("base", "past", "pp"), 3 * name.split("/")))      # an attribute has no use for these
                slots = verb | {"what": "whom" if kind == "person" else "what", "a": name, "as": name + "s"}
                out.append(Thing(verb["base"], kind, slots, *rules))
        return out

    def value(self, kind: str, near: str = "", unlike=()) -> str:
        """A value of a type; often all but one digit like `near`."""
        while True:
            at = [m.start() for m in re.finditer(r"\d", near) if kind not in ("day", "clock")]
            if kind in ("person", "org"):
                value = self.new(kind)
            elif at and self.rng.random() < 0.35:
                i = self.rng.choice(at)
                value = near[:i] + self.rng.choice(DIGITS[1:]) + near[i + 1:]
            else:
                value = from_pattern(self.rng, self.expand(f"${kind}", {}))
            if value not in unlike:
                return value

    def answer(self, place: dict, keys, rule: str, slots: dict, pick=None, via=None) -> dict | None:
        """
        The question with all that the store holds under its keys. None: a half of it is missing, or too much is there.
        pick: which of several versions. via: the key of the line that leads to this one.
        """
        found = [fact for key in keys for fact in self.facts.get(key, ())]
        found = found if pick is None else found[pick:][:1]
        values = [fact.value for fact in found if fact.value != ME or ME in fact.line.text.split()]   # not "for me"
        if not len(found) == len(values) == len(set(values)) <= MOST_VALUES or 0 < len(values) < len(keys):
            return None
        q = self.expand(f"${rule}", slots).strip()
        if self.rng.random() < 0.9:     # people also ask without capitals and marks
            q = (q if q.startswith(slots.get("v") or "?") else q[0].upper() + q[1:]) + "?."[q.split()[0] in ORDERS]
        texts = [v if v in fact.line.text else v[0].upper() + v[1:] for v, fact in zip(values, found)]
        before = self.facts[via][:1] if via and texts else []
        out = {"q": q, "a": texts if texts[1:] else "".join(texts), "evidence": [place[f.line] for f in before + found],
               "answers": [", ".join(texts)] if texts[1:] else list(dict.fromkeys(texts + values))}
        if found and found[0].days is not None and found[0].line.time >= 0:
            day = EPOCH + datetime.timedelta(found[0].line.time // DAY + found[0].days)
            out |= {"a": f"{day}", "answers": [form.format(d=day) for form in FULL_DATES], "composed": True}
        return out

    def questions(self, n: int, place: dict) -> list[dict]:
        """At most n of the questions that could be asked, some of them without an answer."""
        out, asks = {}, ([], [])
        for ask in self.rng.sample(self.asks, len(self.asks)):
            asks[all(key in self.facts for key in ask[0])].append(ask)
        while len(out) < n and any(asks):
            keys, rule, slots, how = asks[bool(asks[1]) and not (asks[0] and self.rng.random() < REFUSALS)].pop()
            if (rule, keys) not in out and (qa := self.answer(place, keys, rule, slots, **how)):
                out[rule, keys] = qa
        return list(out.values())


# The kinds. Each adds one part of about `size` lines, and the questions that could be asked.

def facts(w: World, size: int, kinds=("person", "item", "org"), words: str = "", first=()) -> list[str]:
    """What somebody or something is, has or costs: a table with empty cells, told cell by cell; values nearly agree."""
    kind, last = w.rng.choice(kinds), {}
    things = w.things(words or "attr_" + kind, w.rng.randint(1, 6))
    names = [*first, *(w.new(kind) for _ in range(min(2 + size * 5 // (4 * len(things)), 9 if first else size + 2)))]
    cells = [(e, thing) for e in names for thing in things]
    for e, thing in w.rng.sample(cells, min(size, len(cells))):
        last[thing] = w.value(thing.kind, last.get(thing, ""))
        w.say("say_p" if e == ME else "say", e, thing, last[thing])
    w.ask_about([*names, w.new(kind, names[-1])], things)
    return names


def moments(w: World, n: int) -> tuple[str, str, list[tuple[str, str]]]:
    """n moments that follow each other -> their family, the word for one, how each is written and asked for."""
    rng, family = w.rng, w.rng.choice(("step", "step", "date", "id", "clock")[:5 if n < 280 else 4])
    if family == "date":
        form = rng.choice(DATES if n < 300 else FULL_DATES)
        asked = rng.choice(FULL_DATES) if form in FULL_DATES and rng.random() < 0.4 else form
        days = [w.start + datetime.timedelta(i) for i in range(n)]
        return family, "day", [(form.format(d=day), asked.format(d=day)) for day in days]
    begin, pace = rng.choice((0, 1, rng.randrange(10 ** rng.randint(2, 5)))), rng.choice((1, 1, 2, 5))
    before = from_pattern(rng, rng.choice(("^-", "^^-", "^^", "9^-"))) if family == "id" else ""
    texts = [f"{before}{begin + i}" for i in range(n)]
    clocks = [f"{at // 60 % 24:02}:{at % 60:02}" for at in range(begin, begin + n * pace, pace)]
    return family, w.pick("unit"), [(text, text) for text in (clocks if family == "clock" else texts)]


def log_style(w: World, family: str, what: str) -> tuple[str, str, str, str]:
    """One form of log -> its layout, the template of a line, that of a value in it, what parts two."""
    prose = "_prose" if w.rng.random() < 0.5 else ""
    template = layout = w.pick("layout" + prose)
    for slot, rule in (("$body", what + prose), ("$stamp", "stamp_" + family), ("$when", "when_" + family)):
        template = template.replace(slot, w.pick(rule))
    joiners = (", ", " and ", ", and ") if prose else (", ", " ", "; ", " | ", " / ")
    return layout, template, w.pick(f"{what}_pair{prose}"), w.rng.choice(joiners)


def log(w: World, size: int) -> None:
    """A log: one or more entries a moment, of one or more facts; moments follow each other, some are missing."""
    rng, kind = w.rng, w.rng.choice(("person", "item", "org"))
    what = rng.choice(("event", "state")) if kind == "person" else "state"
    each = rng.choice((1, 1, 1, 2, 3)) if size < 300 else 1
    names = [w.new(kind) for _ in range(max(each, rng.randint(1, 5)))]
    *things, spare = w.things("verb" if what == "event" else "measure_" + kind, rng.randint(2, 4))
    values = {thing: [w.value(thing.kind) for _ in range(40)] for thing in things}
    n, count = min(rng.choice((1, 1, 2, 3)), len(things)), size // each + 1
    family, unit, times = moments(w, count + count // 8 + 2)
    gone = sorted(rng.sample(range(len(times)), len(times) - count))
    styles = [log_style(w, family, what) for _ in range(4 if rng.random() < 0.15 else 1)]
    w.form = "several" if styles[1:] else styles[0][0]
    there = {i: rng.sample(names, each) for i in sorted(set(range(len(times))) - set(gone))}
    for i, e in ((i, e) for i, those in there.items() for e in those):
        cells = [(thing, rng.choice(values[thing])) for thing in (things if what == "state" else rng.sample(things, n))]
        (_, template, pair, joiner), m = rng.choice(styles), times[i][0]
        kv = [w.expand(pair, w.slots(e, *cell)) for cell in cells]
        slots = w.slots(e, *cells[0], m=m, unit=unit, kv=joiner.join(kv), more=joiner.join(["", *kv[1:]]))
        line = w.add(w.sentence(template, slots))
        for thing, v in cells:
            for told, *key in ((v, e, thing.name, i), (v, "any", thing.name, i), (e, "which", thing.name, v, i),
                               (m, "mark", e, thing.name, v)):
                w.tell(line, told, *key)
    # the moments whose neighbours are all there are asked for
    alone = {i: sum(i + d not in there for d in (-2, -1, 1, 2)) for i in there}
    best = sorted(rng.sample(sorted(there), min(len(there), 100)), key=alone.get)[:40]
    for i in 3 * best + rng.sample(gone, min(len(gone), 8)):
        e = rng.choice(there[i] if i in there and rng.random() < 0.8 else names)
        thing = spare if rng.random() < 0.05 else rng.choice(things)    # spare: asked for, never told
        when = w.expand(f"$when_{family}", {"m": times[i][1], "unit": unit})
        w.ask(what + "_ask", w.slots(e, thing, when=when), (e, thing.name, i))
        w.ask(what + "_solo", w.slots(e, thing, when=when), ("any", thing.name, i))
        for fact in w.facts.get((e, thing.name, i), ()):
            slots = w.slots(e, thing, fact.value, when=when)
            w.ask(what + "_mark", slots, ("mark", e, thing.name, fact.value))
            w.ask(what + "_which", slots, ("which", thing.name, fact.value, i))


def update(w: World, size: int) -> None:
    """Values that change, some several times, and lines that only look as if they did."""
    rng, kind, order = w.rng, w.rng.choice(("person", "item", "org")), []
    things, refused = w.things("attr_" + kind, rng.randint(1, 4)), defaultdict(list)
    while len(order) < size:
        e, several = w.new(kind), rng.sample(things, rng.randint(1, len(things)))
        order += [(e, thing) for thing in several for _ in range(rng.choice((1, 2, 2, 3, 4)))]
    rng.shuffle(order)
    for e, thing in order:
        told = w.values(e, thing)     # what was only talked about never becomes the value
        v = w.value(thing.kind, old := "".join(told[-1:]), avoid := told + refused[e, thing])
        w.say("change" if told else "say", e, thing, v, old=old)
        if rng.random() < 0.2:
            refused[e, thing].append(w.value(thing.kind, v, [*avoid, v]))
            w.add(w.sentence("$decoy", w.slots(e, thing, x=refused[e, thing][-1])))
    for e, thing in rng.sample(order, min(len(order), 40)):
        versions = w.values(e, thing)
        for rule, pick in (("ask_now", -1), ("ask", -1), ("ask_first", 0), ("ask_before", -2)):
            if pick == -1 or versions[1:]:
                w.ask(rule, w.slots(e, thing, versions[-1]), (e, thing.name), pick=pick)
        other, thing = rng.choice((e, w.new(kind, e))), rng.choice(things)
        w.ask("ask_now", w.slots(other, thing), (other, thing.name), pick=-1)


def lists(w: World, size: int) -> None:
    """Several values of one name over several lines; several people who did the same."""
    rng, verbs, n = w.rng, w.things("verb", 2), w.rng.randint(0, size)
    names, things = [w.new("person") for _ in range(2 + n // 5)], w.things("plural", 2)
    cells = [(e, thing) for e in names for thing in 4 * things]
    for e, thing in rng.sample(cells, min(n, len(cells))):
        told = w.values(e, thing)
        w.say("say_more", e, thing, w.value(thing.kind, "".join(told[-1:]), told))
    objects = lambda verb: sorted({w.value(verb.kind) for _ in range(2 + (size - n) // 8)})
    deeds = [(e, verb, v) for verb in verbs for v in objects(verb) for e in names]
    for e, verb, v in rng.sample(deeds, min(len(deeds), size - n)):
        w.say("bare", e, verb, v)
    w.ask_about(names, things if n > size / 2 else verbs)


def hop(w: World, size: int) -> None:
    """Two lines: one leads from a person to somebody or something, the other tells about that."""
    rng, links = w.rng, w.things("rel", w.rng.randint(1, 3)) + w.things("verb_item", 1)
    more = {link: w.things("attr_" + link.kind, rng.randint(1, 2)) for link in links}
    while len(w.parts[-1]) < size:
        e = w.new("person")
        for link in rng.sample(links, min(len(links), 2)):
            target, verb = w.new(link.kind), link.ask in DID
            w.say("bare" if verb else "say", e, link, target)
            for thing in more[link]:
                if rng.random() < 0.8:
                    w.say("say", target, thing, w.value(thing.kind))
                rule, slots = "ask_hop" + "_verb" * verb, w.slots(e, link, a=thing.name, rel=link.name)
                w.ask(rule, slots, (target, thing.name), via=(e, link.name))
        w.ask_about(*rng.choice((([target], more[link]), ([e], links))), n=1)
    rng.shuffle(w.parts[-1])


def taste(w: World, e: str, rule: str, turn: str = "$text") -> None:
    """Somebody likes something or does not."""
    told, thing = [value for thing in TASTES for value in w.values(e, thing)], w.rng.choice(TASTES)
    if len(told) < MOST_VALUES:
        w.say(thing.name + rule, e, thing, w.value("food", unlike=told), turn)


def talk(w: World, size: int) -> None:
    """Turns with their speaker, who speaks of himself or of another."""
    rng, names, form = w.rng, [w.new("person") for _ in range(2 + min(size // 6, 6))], w.pick("turn")
    things, (did, seen) = w.things("kin_attr", 4), w.things("verb", 2)
    for _ in range(size):
        who, other = rng.sample(names, 2)
        draw, thing, turn = rng.random(), rng.choice(things), form.replace("$who", who)
        if draw < 0.35 and not w.values(who, thing):
            w.say("say_p", who, thing, w.value(thing.kind), turn, e="I", p="my")
        elif draw < 0.55:
            taste(w, who, "_i", turn)
        elif draw < 0.72:
            w.say("did_i", who, did, w.value(did.kind), turn)
        else:
            w.tell(w.say("claim", other, seen, v := w.value(seen.kind), turn), who, "said", other, v)
            v = rng.choice((v, w.value(seen.kind)))
            w.ask("ask_said", w.slots(other, seen, v), ("said", other, v))
    w.ask_about(names, [*things, did, seen, *TASTES])


def own(w: World, size: int) -> None:
    """The one who writes, and his people; what they like and do not; how many there are of something."""
    rng, n = w.rng, w.rng.randint(size // 3, size)
    names = facts(w, n, ("kin",), "kin_attr", [ME])
    for _ in range((size - n + 1) // 2):
        e, what, (spot, other) = rng.choice(names), w.pick("things"), rng.choices(RULES[w.held]["spot"][:6], k=2)
        taste(w, e, "_i" if e == ME else "_s")
        v = rng.choice((str(rng.randint(2, 60)), w.pick("number_word")))
        if ("count", what, spot) not in w.facts:
            w.tell(w.add(w.sentence("$count", {"things": what, "spot": spot, "v": v})), v, "count", what, spot)
        w.ask("ask_count", {"things": what, "spot": other}, ("count", what, other))
    w.ask_about(names, TASTES, 20)
    rng.shuffle(w.parts[-1])


def when(w: World, size: int) -> None:
    """Who did what on which day: a date in the line, a day counted from the line's own, or the line's own day."""
    rng, names, verbs = w.rng, [w.new("person") for _ in range(2 + size // 5)], w.things("verb", 3)
    form = rng.choice(DATES if size < 200 else FULL_DATES)      # many lines may take more than a year
    for _ in range(size):
        e, verb = rng.choice(names), rng.choice(verbs)
        v, other = w.value(verb.kind), w.value(verb.kind)
        rule = rng.choice(("dated", "dated", "near_day", "near_day", "next_day", "bare" if w.timed else "dated"))
        key = "next" if rule == "next_day" else "day", e, verb.name, v
        if rule == "dated":
            day, days = w.start - datetime.timedelta(30 + rng.randrange(12)), ""
            value, d = (form.format(d=day + datetime.timedelta(n)) for n in (0, rng.choice((-1, 0, 0, 1))))
            w.ask("ask_on_day", w.slots(e, verb, d=d), (e, verb.name, d))
        else:
            value, _, days = w.pick(rule + "_word").partition(":")
        if key not in w.facts:
            line = w.say(rule, e, verb, v, d=value, rel=value)
            line.time = 0 if w.timed and days else line.time    # the day is counted from it
            w.tell(line, value, *key, days=int(days) if days else None)
            w.tell(line, v, e, verb.name, value)
        w.ask("ask_day_next" if rule == "next_day" else "ask_day", w.slots(e, verb, v), key)
        w.ask("ask_day", w.slots(e, verb, other), ("day", e, verb.name, other))


def scene(w: World, size: int) -> None:
    """Who did what, where, with or for whom, at what time, on which day: several in a line, each asked for."""
    rng, names, verbs = w.rng, [w.new("person") for _ in range(2 + size // 4)], w.things("verb", 3)
    for _ in range(size):
        e, verb, roles = rng.choice(names), rng.choice(verbs), rng.sample(sorted(ROLES), rng.randint(1, 4))
        slots, cut = w.slots(e, verb, v := w.value(verb.kind)), rng.choice((0, 0, 1))
        told = {role: w.value(ROLES[role]) for role in roles if ("v", e, verb.name, v) not in w.facts}
        if rest := [w.expand(f"$scene_{role}", {"x": x}) for role, x in told.items()]:
            slots |= {"x": rest[0], "rest": " ".join(rest[cut:])}
            line = w.add(w.sentence(("$scene", "$scene_lead")[cut], slots))
            for key, value in [("v", v), *told.items()]:
                w.tell(line, value, key, e, verb.name, v)
            for (role, x), said in zip(told.items(), rest):
                w.tell(line, v, "what", role, e, verb.name, x)
                w.ask("scene_what", slots | {"x": said}, ("what", role, e, verb.name, x))
            for role in ROLES:
                w.ask(f"scene_ask_{role}", slots, (role, e, verb.name, v))


def roles(w: World, size: int, name: str, kind: str) -> None:
    """A relation of three: who, to whom, what. Asked for each of them, and the wrong way round."""
    names = [w.new("person") for _ in range(3 + size // 3)]
    for _ in range(size):
        (x, y), v = w.rng.sample(names, 2), w.value(kind)
        line = w.add(w.sentence(f"${name}_say", {"x": x, "y": y, "v": v, "o": "the " + v}))
        for value, *key in ((x, "x", y, v), (y, "y", x, v), (v, "v", x, y)):
            w.tell(line, value, name, *key)
        for x, y in ((x, y), (y, x)):
            for key in (("x", y, v), ("y", x, v), ("v", x, y)):
                w.ask(f"{name}_ask_{key[0]}", {"x": x, "y": y, "v": v, "o": "the " + v}, (name, *key))


KINDS = {"facts": facts, "keys": lambda w, size: facts(w, size, ("person", "org"), "secret"), "log": log,
         "update": update, "list": lists, "hop": hop, "talk": talk, "own": own, "when": when, "scene": scene,
         "lend": lambda w, n: roles(w, n, "lend", "thing"), "beat": lambda w, n: roles(w, n, "beat", "game")}
HELD_KINDS = "lend", "beat"
WEIGHTS = {"log": 3, "keys": 2, "update": 2, "mixed": 3}


def build(seed: str, kinds: list[str], held: bool = False, lines: int = 0) -> tuple[World, dict]:
    """One memory of one of the kinds, and the world it came from. lines: about how many, 0 draws it."""
    rng = random.Random(seed)
    kind = rng.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])[0]
    free = [k for k in KINDS if held or k not in HELD_KINDS]
    parts = rng.sample(free, rng.randint(2, 4)) if kind == "mixed" else [kind]
    # a log has times of its own
    w = World(rng, held, timed="log" not in parts and rng.random() < (0.75 if "when" in parts else 0.15))
    size = lines or int(3 * 67 ** rng.random() ** 1.3)
    for _ in range(rng.randint(1, 1 + size // 6) if not lines and rng.random() < FILLER else 0):
        w.add(w.sentence("$filler", {}))
    for name in parts:
        w.parts.append([])
        KINDS[name](w, max(2, size // len(parts)))
    queues = [queue for part in w.parts for queue in [iter(part)] * len(part)]
    told = [next(queue) for queue in rng.sample(queues, len(queues))]   # mixed, but each part keeps its order
    record = {"src": f"grammar-{kind}", "sents": [line.text for line in told]} | ({"form": w.form} if w.form else {})
    if w.timed:
        now = (w.start - EPOCH).days * DAY + 6 * 3600
        for line in told:
            now += rng.choice((60, 3600, 40000)) * rng.randint(1, 5)
            line.time = line.time or now
        record["times"] = [line.time for line in told]
    place = {line: i for i, line in enumerate(told)}
    return w, record | {"qas": w.questions(24 if size >= 300 else min(6, 1 + size // 2), place)}


def main() -> int:
    parser = argparse.ArgumentParser(description="write synthetic memories with questions", allow_abbrev=False)
    flag(parser, "--output", required=True, help="JSON lines, one memory each")
    flag(parser, "--memories", type=int, default=1000)
    flag(parser, "--seed", type=int, default=1)
    flag(parser, "--kinds", nargs="+", help=f"of {', '.join(KINDS)}, mixed; {' and '.join(HELD_KINDS)} only held out")
    flag(parser, "--held-out", action="store_true", help="only the forms and kinds that training never sees")
    flag(parser, "--lines", type=int, default=0, help="about how many lines a memory has (0: drawn, 3 to 200)")
    args = parser.parse_args()
    allowed = [kind for kind in [*KINDS, "mixed"] if args.held_out or kind not in HELD_KINDS]
    if wrong := sorted(set(kinds := args.kinds or allowed) - set(allowed)):
        raise UserError(f"--kinds takes {', '.join(allowed)}, not '{wrong[0]}'", code=2)
    if args.memories < 1 or args.lines < 0:
        raise UserError("--memories must be at least 1, --lines at least 0", code=2)
    records = (build(f"{args.seed}/{i}", kinds, args.held_out, args.lines)[1] for i in range(args.memories))
    lines = (json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
    atomic_write(args.output, lambda file: file.writelines(lines))
    print(f"{args.output}: {args.memories:,} memories, seed {args.seed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
