"""The threads of a synthetic life: timelines and facts (base_changes, base_frames, base_talk and base_things have the others).

A thread tells statements, can be asked about each of them later, and asks for what nobody has told:

    episode, token = thread.tell(rng, index)           index: number of the episode in the life
    episode = thread.ask(rng, token)                   a question with its answer and evidence
    episode = thread.unknown(rng, told)                told: all statements so far, in lower case; None where nothing came to mind
"""
import re
from typing import NamedTuple

from dev.base_clock import AS_OF, BEFORE, BEFORE_ANY, GIVEN, GIVEN_LEADS, NOW, Clock
from dev.base_forms import AFTERMATHS, ATTRIBUTES, CAUSES, FILLERS, PREFIXES, QUESTION_WRAPS, RELATIONS
from dev.base_values import CAIRO_FORMS, UNKNOWN, Episode, adverb, name, place, tail, value
from dev.base_words import SUBJECTS

POSSESSIVE = {"I": "my", "she": "her", "he": "his"}
OBJECTIVE = {"I": "me", "she": "her", "he": "him"}
ORDINARY = [a for a in ATTRIBUTES if a[1] not in ("where", "feel", "prefer")]
NUMERIC = ("number", "code", "price", "temperature", "speed", "clock")  # would blur a time that is a mere number
# where, how and what one likes are what people ask most; place, feeling and drink more than their kin
COMMON = [[a for a in ATTRIBUTES if a[1] == group for _ in range(3 if a[0] in ("place", "feeling", "drink") else 1)]
          for group in ("where", "feel", "prefer")]
PREDICATE_JOINS = ((", ", ", and "), (", ", " and "), ("; ", "; "), (", ", ", "), (" and ", " and "), (" - ", " - "), (", ", ", then "),
                   (", ", " but "), (" / ", " / "))
LOG_FORMS = (("{n}={v}", ", "), ("{n}={v}", " "), ("{n}: {v}", " | "), ("{n}: {v}", "; "), ("{n}: {v}", ", "), ("{n} {v}", ", "), ("{n} = {v}", "; "),
             ("{n} -> {v}", ", "), ("{n} {v}", " / "), ("[{n}] {v}", " "), ("{n}: {v}", " - "), ("{n}: {v}", ". "), ("{n} is {v}", "; "))
GENERIC_ASKS = ("what was {p} {n}",) * 8 + ("which {n} did {s} have", "{p} {n}", "what {n} was noted for {s}", "what is on record as {p} {n}",
                                             "what was the {n} of {s}", "what did {p} {n} look like", "what {n} did {s} have")
ORDERS = ("tell me {p} {n}", "name {p} {n}", "give {p} {n}", "recall {p} {n}", "I need {p} {n}", "state {p} {n}", "look up {p} {n}")
LATEST_NOUN = ("what is the latest {n} of {s}", "what is {p} current {n}", "what is {p} latest {n}", "what was {p} last known {n}", "{p} most recent {n}",
               "what is the present {n} of {s}", "what was the last {n} of {s}", "{p} {n} as of now", "what {n} was last reported for {s}")
# asks that nearly anything would answer: not for what must be unknown
VAGUE = re.compile(r"(what|where|how|who|which \w+) (does|did|is|was|had|has|were) \{s\}(?: (do|doing|like|enjoy|prefer|have|get|say|ask|want|choose|called|made))?")
QUESTION_LEADS = ("And ", "So ", "Tell me, ", "Remind me: ", "Do you remember, ", "Quick question: ", "Please say: ", "Now, ", "One question: ", "Say, ")


class Line(NamedTuple):
    """A line of a timeline: the episode, its time, what it shows (attribute number -> value), and its number."""
    index: int
    bare: str
    answers: dict
    i: int


def _options(cell):
    return [part.strip() for part in cell.split("|") if part.strip()]


def _cap(text, keep=()):
    """Capital first letter, unless a value stands there: answers are copied character by character."""
    return text if text.startswith(tuple(keep)) else text[:1].upper() + text[1:]


def _possessive(subject):
    return POSSESSIVE.get(subject) or subject + ("'" if subject.endswith("s") else "'s")


def _fill(form, subject, noun=""):
    """A question form for a subject; pronouns at the end of it stand in the objective case."""
    if subject in OBJECTIVE and form.endswith("{s}") and not form.endswith(("was {s}", "were {s}", "did {s}", "had {s}")):
        form = form[:-3] + OBJECTIVE[subject]
    return form.replace("{s}", subject).replace("{p}", _possessive(subject)).replace("{n}", noun)


def _finish_question(rng, text, order=False, keep=()):
    """Lead, capital and question mark, the way people vary them."""
    if rng.random() < 0.1:
        text = rng.choice(QUESTION_LEADS) + text
    elif rng.random() < 0.95:
        text = _cap(text, keep)
    text += "." if order else "" if rng.random() < 0.04 else "?"
    return rng.choice(QUESTION_WRAPS).replace("{q}", text) if rng.random() < 0.12 else text


def _present(form):
    """A question about the past put in the present, or None where that takes more than its auxiliary."""
    out = re.sub(r"\b(was|were|did|had)\b(?= (\{[sp]\}|the \w+ of \{s\}))",
                 lambda m: {"was": "is", "were": "are", "did": "does", "had": "has"}[m[1]], form, count=1)
    return out if out != form else None


def stranger(rng, names, kind, known, told):
    """An entity that nobody has mentioned, often nearly a known one; None where it was mentioned after all."""
    near = rng.choice(known) if known and rng.random() < 0.6 else None
    if near and rng.random() < 0.6:
        out = names.near_miss(rng, near)
    else:
        out = names.take(rng, kind, near)
    return None if out is None or out.lower() in told else out


def _clash(row, other):
    """Whether a question about one attribute could mean the other, too."""
    return row[1] == other[1] or any(set(_options(row[i])) & set(_options(other[i])) for i in (3, 4, 6))


class Timeline:
    """A subject whose attributes change slowly; every line names its time, and the time decides."""

    kind = "timeline"

    def __init__(self, rng, names, n, sibling=None, plain=False):
        self.clock = sibling.clock if sibling else Clock(rng, n)
        self.plain = plain   # only what was at a time is asked, not what was before it, as of it or last
        while True:
            roll = rng.random()
            self.subject = "the user" if roll < 0.1 else rng.choice(SUBJECTS) if roll < 0.5 else names.propose(rng, "person")
            if not (self.clock.mark == "{n}" and re.search(r"\d", self.subject)) and names.add(self.subject):
                break
        rows = [rng.choice(group) for group in COMMON if rng.random() < 0.6]
        want = max(rng.choice((1, 2, 2, 3, 3, 3, 4, 5)), len(rows))
        while len(rows) < want:
            row = rng.choice(ORDINARY)
            if self.clock.mark == "{n}" and row[2] in NUMERIC:
                continue
            if all(not _clash(row, other) for other in rows):
                rows.append(row)
        rng.shuffle(rows)
        if sibling and rng.random() < 0.4:
            rows = sibling.rows
        self.rows, self.says, self.nouns, self.pools, self.change = rows, [], [], [], []
        for row in rows:
            self.says.append(rng.sample(_options(row[4]), rng.randint(1, len(_options(row[4])))))
            nouns = _options(row[3])
            self.nouns.append(rng.sample(nouns, rng.randint(1, len(nouns))))
            invented = rng.choice((0.0, 0.3, 0.5, 1.0))
            self.pools.append([value(rng, row[2], invented) for _ in range(rng.choice((3, 6, 12, 16, 30)))])
            self.change.append(rng.choice((0.03, 0.06, 0.1, 0.2, 0.4, 0.8)))
        self.values = [rng.choice(pool) for pool in self.pools]
        # some timelines speak in one form only, others in all of them
        forms = (self._predicates, self._predicates, self._predicates, self._fronted, self._fronted, self._trailing, self._trailing,
                 self._wrapped, self._wrapped, self._sentences, self._log, self._log, self._nouns, self._listed, self._mixed, self._mixed, self._reversed)
        self.forms = rng.sample(forms, rng.choice((1, 2, 4, 8, len(forms))))
        self.log_form = rng.choice(LOG_FORMS)
        self.talkative = rng.choice((0.0, 0.1, 0.25, 0.5))
        self.gaps = rng.choice((0.0, 0.0, 0.0, 0.15))  # chance that a line leaves an attribute out
        self.quoted = rng.choice((0.0, 0.0, 0.0, 0.3)) if self.subject not in POSSESSIVE else 0.0
        if self.clock.kind == "sparse":  # a line when something changes, and the line shows everything
            self.gaps, self.change = 0.0, [max(c, 0.2) for c in self.change]
        self.lines, self.names = [], names

    @property
    def count(self):
        """How many lines were told."""
        return len(self.lines)

    def tell(self, rng, index):
        """The next moment of the timeline."""
        for j, change in enumerate(self.change):
            if self.count and rng.random() < change:
                self.values[j] = rng.choice(self.pools[j])
        shown = [j for j in range(len(self.rows)) if rng.random() >= self.gaps] or [rng.randrange(len(self.rows))]
        rng.shuffle(shown)
        answers = {j: self.values[j] for j in shown}
        while True:
            text = self._line(rng, answers)
            if all(v in text for v in answers.values()) and not CAIRO_FORMS.fullmatch(text):
                break
        line = Line(index, self.clock.bare(self.count), answers, self.count)
        number = self.clock.numbers[self.count]
        self.lines.append(line)
        return Episode(text, kind=self.kind, facts=tuple((self._key(j), v, number) for j, v in answers.items())), line

    def _key(self, j):
        return self.subject, self.rows[j][0]

    def ask(self, rng, line):
        """A question about one attribute, or two, at one time, just before it, as of a time without a line, or now."""
        roll, js, number = 1 if self.plain else rng.random(), rng.sample(list(line.answers), len(line.answers)), self.clock.numbers[line.i]
        ordered, op = self.clock.kind != "unordered", "at"
        if self.clock.kind == "dense" and not self.plain and rng.random() < 0.12:
            return self._to_come(rng, js[0])
        if roll < 0.06 and ordered:
            j = js[0]
            line = next(x for x in reversed(self.lines) if j in x.answers)
            form, noun = rng.choice(_options(self.rows[j][6])), rng.choice(_options(self.rows[j][3]))
            form = _present(form)
            if form is None or rng.random() < 0.4:
                form = rng.choice(LATEST_NOUN) if rng.random() < 0.6 else "what is {p} {n}"
            if form not in LATEST_NOUN and rng.random() < 0.85:
                form = rng.choice(NOW).replace("{}", form)
            text = _fill(form, self.subject, noun).replace("is I ", "am I ").replace("does I ", "do I ").replace("has I ", "have I ")
            return Episode(_finish_question(rng, text), line.answers[j], line.index, "now", ("now", (self._key(j),), None))
        if roll < 0.15 and ordered and line.i and js[0] in self.lines[line.i - 1].answers:
            op, when, line = "before", rng.choice(BEFORE).format(line.bare), self.lines[line.i - 1]
        elif roll < 0.68 and self.clock.kind == "sparse" and line.i + 1 < self.count and self.clock.numbers[line.i + 1] - number > 1:
            number = rng.randrange(number + 1, self.clock.numbers[line.i + 1])
            shape = rng.random()
            forms = BEFORE_ANY if shape < 0.12 else GIVEN if shape < 0.24 else AS_OF if shape < 0.45 else (f"{self.clock.prep} {{}}",)
            op, when = "asof", rng.choice(forms).format(self.clock.show(number))
        else:
            when = f"{self.clock.prep} {line.bare}"
            if (shape := rng.random()) < 0.06 and not self.plain:
                when = rng.choice(GIVEN).format(line.bare)
            elif shape < 0.14:
                when = rng.choice((f"for {line.bare}", f"({line.bare})", f"when {line.bare}" if "=" in line.bare else f"for {line.bare}", f"- {line.bare} -",
                                   f"at {line.bare}"))
        js = js[:rng.choice((2, 3))] if len(js) > 1 and op != "before" and rng.random() < 0.17 else js[:1]
        text = self._question(rng, [self.rows[j] for j in js], self.subject, when, line.bare if op == "at" else None)
        kind = "both" if len(js) > 1 else self.kind if op == "at" else op
        answer = ", ".join(line.answers[j] for j in js)
        return Episode(text, answer, line.index, kind, (op, tuple(self._key(j) for j in js), number))

    def _to_come(self, rng, j):
        """A question about a moment after the last line, where each moment has one: nothing is known of it, nor of what is just before it."""
        number, shape = self.clock.to_come(rng, self.clock.numbers[self.count - 1]), rng.random()
        bare = self.clock.show(number)
        when = rng.choice(BEFORE_ANY if shape < 0.35 else GIVEN if shape < 0.6 else ("by {}", "as of {}", "as late as {}") if shape < 0.75 else (f"{self.clock.prep} {{}}",)).format(bare)
        text = self._question(rng, [self.rows[j]], self.subject, when, bare if shape >= 0.75 else None, clear=True)
        return Episode(text, UNKNOWN, -2, "unknown", ("unknown", (self._key(j),), number))

    def unknown(self, rng, told):
        """A time of which nothing is known, an attribute that was never told of the subject, or a subject nobody has mentioned."""
        roll, subject, row, line = rng.random(), self.subject, rng.choice(self.rows), rng.choice(self.lines) if self.lines else None
        number = self.clock.numbers[line.i] if line else None
        if roll < 0.6 or not line:
            number = self.clock.unlogged(rng, self.count)
            if number is None or not line and subject.lower() in told:
                return None
        elif roll < 0.8:
            row = rng.choice(ATTRIBUTES)
            if any(_clash(row, other) for other in self.rows) or self.clock.mark == "{n}" and row[2] in NUMERIC:
                return None
        else:
            subject = stranger(rng, self.names, "person", [self.subject], told)
            if subject is None or self.subject in POSSESSIVE:
                return None
        bare = self.clock.show(number)
        when = f"{self.clock.prep} {bare}" if self.clock.kind != "sparse" or rng.random() < 0.6 else rng.choice(AS_OF).format(bare)
        text = self._question(rng, [row], subject, when, bare, clear=True)
        return Episode(text, UNKNOWN, -2, "unknown", ("unknown", ((subject, row[0]),), number))

    def _question(self, rng, rows, subject, when, bare, clear=False):
        """What was it, at that time? `clear` leaves out the asks that nearly anything would answer."""
        order = False
        if len(rows) > 1 and rng.random() < 0.4:
            *most, last = (rng.choice(_options(row[3])) for row in rows)
            text = _fill(rng.choice((f"what were {{p}} {', '.join(most)} and {last}", f"{{p}} {', '.join(most)} and {last}", f"what was {{p}} {', what the '.join(most)} and what was the {last}",
                                     f"which {', which '.join(most)} and which {last} did {{s}} have", f"the {', the '.join(most)} and the {last} of {{s}}")), subject)
        elif len(rows) > 1:
            *most, last = (_fill(rng.choice(_options(row[6])), subject) for row in rows)
            text = f"{', '.join(most)} and {last}"
        else:
            asks = [form for form in _options(rows[0][6]) if not clear or not VAGUE.fullmatch(form)]
            if asks and rng.random() < 0.6:
                text = _fill(rng.choice(asks), subject)
            else:
                order = rng.random() < 0.2
                text = _fill(rng.choice(ORDERS if order else GENERIC_ASKS), subject, rng.choice(_options(rows[0][3])))
        roll = rng.random()
        if roll < 0.7:
            text = f"{text}{',' if when.startswith(GIVEN_LEADS) else ''} {when}"
        elif roll < 0.95 or not bare:
            text = f"{when}, {text}"
        else:
            text = f"{bare}: {text}"
        keep = () if self.clock.say_word or not bare else (bare,)  # "t=12" stays as it is
        return _finish_question(rng, text, order, keep)

    def _say(self, rng, j):
        return rng.choice(self.says[j]).replace("{v}", self.values[j])

    def _adverb(self, rng, j):
        forms = _options(self.rows[j][5])
        form = rng.choice(forms) if forms and rng.random() < 0.8 else f"with {{v}} as the {rng.choice(self.nouns[j])}"
        return form.replace("{v}", self.values[j])

    def _noun_clause(self, rng, j):
        owner = rng.choice((_possessive(self.subject), "the")) + " "
        return f"{owner}{rng.choice(self.nouns[j])} was {self.values[j]}"

    def _join(self, rng, parts):
        middle, last = rng.choice(PREDICATE_JOINS)
        return parts[0] if len(parts) == 1 else middle.join(parts[:-1]) + last + parts[-1]

    def _predicates(self, rng, s, js):
        return f"{s} {self._join(rng, [self._say(rng, j) for j in js])}"

    def _fronted(self, rng, s, js):
        if len(js) == 1:
            return self._predicates(rng, s, js)
        k = rng.randint(1, len(js) - 1)
        return f"{', '.join(self._adverb(rng, j) for j in js[:k])}, {self._predicates(rng, s, js[k:])}"

    def _trailing(self, rng, s, js):
        k = rng.randint(1, len(js))
        return self._predicates(rng, s, js[:k]) + "".join(rng.choice((", ", " ", " ")) + self._adverb(rng, j) for j in js[k:])

    def _wrapped(self, rng, s, js):
        if len(js) < 3:
            return self._trailing(rng, s, js)
        return f"{self._adverb(rng, js[0])}, {self._trailing(rng, s, js[1:])}"

    def _sentences(self, rng, s, js):
        parts = [f"{s} {self._say(rng, js[0])}"]
        for j in js[1:]:
            parts.append(_cap(rng.choice((f"{self.subject} {self._say(rng, j)}", self._noun_clause(rng, j))), (self.values[j],)))
        return ". ".join(parts)

    def _log(self, rng, s, js):
        form, sep = self.log_form
        body = sep.join(form.replace("{n}", rng.choice(self.nouns[j])).replace("{v}", self.values[j]) for j in js)
        return rng.choice((f"{s}: {body}", f"{s}{sep if sep.strip() else ' '}{body}", f"{s} [{body}]", f"who {self.subject}{sep}{body}"))

    def _nouns(self, rng, s, js):
        first = js[0]
        head = f"{_possessive(self.subject)} {rng.choice(self.nouns[first])} was {self.values[first]}"
        return self._join(rng, [head] + [self._noun_clause(rng, j) for j in js[1:]])

    def _listed(self, rng, s, js):
        body = ", ".join(f"{rng.choice(self.nouns[j])} {self.values[j]}" for j in js)
        return rng.choice((f"for {OBJECTIVE.get(self.subject, self.subject)}: {body}", f"{body} - so it stood with {OBJECTIVE.get(self.subject, self.subject)}",
                           f"{_possessive(self.subject)} state was {body}"))

    def _mixed(self, rng, s, js):
        if len(js) == 1:
            return self._predicates(rng, s, js)
        k = rng.randint(1, len(js) - 1)
        link = rng.choice((" while ", "; ", ", and ", ", as ", " - ", " when ", ", where "))
        return self._predicates(rng, s, js[:k]) + link + self._join(rng, [self._noun_clause(rng, j) for j in js[k:]])

    def _reversed(self, rng, s, js):
        if len(js) == 1:
            return self._predicates(rng, s, js)
        k = rng.randint(1, len(js) - 1)
        nouns = " and ".join(f"{self.values[j]} was {_possessive(self.subject)} {rng.choice(self.nouns[j])}" for j in js[:k])
        return f"{nouns}{rng.choice((', and ', '; ', ' while ', ' - '))}{self._predicates(rng, self.subject, js[k:])}"

    def _line(self, rng, answers):
        """One line: the clauses, the time at the beginning, in the middle or at the end, sometimes a remark."""
        js, values = list(answers), tuple(self.values)
        bare = self.clock.bare(self.count)
        inline = f"{self.clock.prep} {bare}"
        where = rng.choice(("lead",) * 5 + ("tail",) * 4 + ("inside",) * 2)
        form = rng.choice(self.forms)
        if self.clock.mark == "{n}" and where != "lead" and rng.random() < 0.5:
            where = "lead"
        s = self.subject
        if where == "inside":
            if form not in (self._predicates, self._trailing, self._mixed, self._sentences):
                where = "tail"
            else:
                s = f"{s}, {inline}," if rng.random() < 0.7 else f"{s} ({bare})"
        quote = rng.random() < self.quoted and where != "inside"
        if quote:
            speaker, self.subject = self.subject, "I"
            body = f'"{_cap(form(rng, "I", js), values)}," {rng.choice(("said", "wrote", "noted", "reported"))} {speaker}'
            self.subject = speaker
        else:
            body = form(rng, s, js)
        remark = self._remark(rng) if rng.random() < self.talkative else ""
        if remark and not remark[0].isupper():
            body, remark = body + rng.choice((", ", " ", " - ")) + remark, ""
        if where == "lead":
            body = self._lead(rng, bare, inline, body, values)
        else:
            body = _cap(body, values)
            if where == "tail" and not bare[0].isalnum():
                body += rng.choice((f" {inline}", f" {bare}", f", {inline}", f" - {bare}"))
            elif where == "tail":
                body += rng.choice((f" {inline}", f" {inline}", f" ({bare})", f", {inline}", f" [{bare}]", f" - {bare}", f" | {bare}", f" // {bare}"))
        stop = "" if form == self._log and not remark and rng.random() < 0.6 else rng.choice((".",) * 9 + ("", "!"))
        return body + stop + (f" {remark}." if remark else "")

    def _lead(self, rng, bare, inline, body, values):
        if self.clock.mark == "{n}":
            return f"{bare}{rng.choice((': ', '. ', ' - ', ' | ', ') ', ' '))}{rng.choice((_cap(body, values), body))}"
        if self.clock.say_word and rng.random() < 0.6:
            bare = _cap(bare)
        lead = rng.choice((f"{bare}: ", f"{bare}: ", f"{bare} - ", f"{bare} | ", f"{bare}, ", f"({bare}) ", f"[{bare}] ", f"{bare}. ", f"{bare} > ",
                           f"{bare} ", f"{inline}, ", f"{inline}, ", f"{inline}: ", f"{inline} ", f"log {bare}: "))
        lead = lead.replace("((", "(").replace("))", ")").replace("[[", "[").replace("]]", "]")
        if lead.startswith(inline):
            return _cap(lead) + body
        return lead + (_cap(body, values) if rng.random() < 0.8 else body)

    def _remark(self, rng):
        roll = rng.random()
        text = rng.choice(CAUSES if roll < 0.4 else AFTERMATHS if roll < 0.8 else FILLERS)
        if "{x}" in text:
            text = text.replace("{x}", name(rng))
        elif rng.random() < 0.08:
            text += f", far from {place(rng)}"
        return text


class Facts:
    """Things that are said once: of people, lands, objects, locks, registers, in notes and in chats."""

    kind = "facts"
    groups = (("person",),) * 4 + (("lock",),) * 3 + (("register",),) * 3 + (("speaker",),) * 3 + (("object",), ("land", "town"), ("company",), ("animal",),
             ("work",), ("event",), ("machine",), ("ship",), ("object", "lock"), ("person", "animal", "speaker"), ("company", "ship", "machine"),
             ("person", "land", "object", "event", "work"))

    def __init__(self, rng, names, statements=None):
        kinds = rng.choice(self.groups)
        rows = [row for row in RELATIONS if row[0] in kinds]
        self.rows = rng.sample(rows, rng.randint(1, min(8, len(rows))))
        self.names, self.entities, self.told, self.rows_of = names, {}, set(), {}
        self.holders = names.holders
        self.fresh = rng.choice((0.2, 0.5, 0.9))
        self.chatty = rng.choice((0.0, 0.15, 0.4))
        self.invented = rng.choice((0.2, 0.5, 1.0))
        self.kind = {"lock": "keys", "register": "key-value", "speaker": "chat"}.get(kinds[0], "facts")

    def tell(self, rng, index):
        """A fact not told before about an old or a new entity."""
        r = rng.randrange(len(self.rows))
        row = self.rows[r]
        known = self.entities.setdefault(row[0], [])
        entity = rng.choice(known) if known and rng.random() > self.fresh else None
        # a lock or a register holds one thing, or "what opens it" would have two answers
        r_key = None if row[0] in ("lock", "register") else r
        if entity is None or (r_key, entity) in self.told:
            entity = self.names.take(rng, row[0], rng.choice(known) if known else None)
            known.append(entity)
        self.told.add((r_key, entity))
        self.rows_of.setdefault(entity, []).append(row)
        for _ in range(6):  # prefer values that nobody has yet, so that the question can be turned round
            v = value(rng, row[2], self.invented)
            if (row[2], v) not in self.holders:
                break
        noun = rng.choice(_options(row[1]))
        token = {"index": index, "row": row, "entity": entity, "noun": noun, "value": v, "unique": True}
        for other in self.holders.setdefault((row[2], v), []):
            other["unique"] = token["unique"] = False
        self.holders[row[2], v].append(token)
        says = _options(row[3])
        if says and rng.random() < (0.9 if row[0] == "speaker" else 0.55):
            text = rng.choice(says)
        else:
            text = rng.choice(("{p} {n} is {v}", "{p} {n} is {v}", "the {n} of {s} is {v}", "{v} is {p} {n}", "{s} - {n}: {v}", "{s} has {v} as {n}",
                               "{n} of {s}: {v}", "{s} | {n} | {v}", "as {n} of {s} they noted {v}"))
        text = adverb(rng, text, 0.08)
        text += tail(rng, v, 0.45 if row[0] == "speaker" else 0.22) if text.endswith("{v}") and row[0] != "register" else ""
        text = text.replace("{s}", entity).replace("{p}", _possessive(entity)).replace("{n}", noun).replace("{v}", v)
        text = self._dress(rng, row[0], text, v)
        token["copied"] = entity in text  # not with a capital instead of its first letter
        return Episode(text, kind=self.kind, facts=(((entity, row[1]), v, None),)), token

    def _dress(self, rng, kind, text, v):
        if kind == "register":
            return text + rng.choice(("", "", "", ".", ";"))
        if kind == "speaker" and ": " in text:
            return text + rng.choice((".", ".", "!", "", " :)", " ..."))
        if rng.random() < self.chatty:
            lead = rng.choice(PREFIXES) + " "
            return f"{lead}{text}."
        tail = f", {rng.choice(AFTERMATHS).replace('{x}', name(rng))}" if rng.random() < 0.05 else ""
        return _cap(text, (v,)) + tail + rng.choice((".", ".", ".", ".", "", "!"))

    def ask(self, rng, token):
        """Asks for the value, or for the entity where only one has this value."""
        row, entity, v = token["row"], token["entity"], token["value"]
        if token["unique"] and token["copied"] and row[5] and rng.random() < 0.2:
            return Episode(self._reverse(rng, row, v), entity, token["index"], self.kind, ("reverse", ((v, row[1]),), None))
        return Episode(self._question(rng, row, entity, token["noun"]), v, token["index"], self.kind, ("latest", ((entity, row[1]),), None))

    def unknown(self, rng, told):
        """Asks about an entity nobody has mentioned, for what was never told of a known one, or who has a value that nobody has."""
        row, roll = rng.choice(self.rows), rng.random()
        known = self.entities.get(row[0], [])
        if row[5] and roll < 0.15:
            v = value(rng, row[2], self.invented)
            return None if v.lower() in told else Episode(self._reverse(rng, row, v), UNKNOWN, -2, "unknown", ("unknown", ((v, row[1]),), None))
        if known and roll < 0.6 and row[0] not in ("lock", "register"):
            entity = rng.choice(known)
            if rng.random() < 0.3:
                row = rng.choice([r for r in RELATIONS if r[0] == row[0]])
            if any(r is row or r[2] == row[2] or any(set(_options(r[i])) & set(_options(row[i])) for i in (1, 3, 4)) for r in self.rows_of[entity]):
                return None
        else:
            entity = stranger(rng, self.names, row[0], known, told)
            if entity is None:
                return None
        text = self._question(rng, row, entity, rng.choice(_options(row[1])), clear=True)
        return Episode(text, UNKNOWN, -2, "unknown", ("unknown", ((entity, row[1]),), None))

    @staticmethod
    def _reverse(rng, row, v):
        return _finish_question(rng, rng.choice(_options(row[5])).replace("{v}", v))

    @staticmethod
    def _question(rng, row, entity, noun, clear=False):
        asks = [form for form in _options(row[4]) if not clear or not VAGUE.fullmatch(form)]
        if asks and rng.random() < 0.5:
            return _finish_question(rng, _fill(rng.choice(asks), entity))
        order = rng.random() < 0.12
        forms = ORDERS if order else ("what is {p} {n}", "what is {p} {n}", "what is the {n} of {s}", "{p} {n}", "can you tell me {p} {n}",
                                      "do you know {p} {n}", "what was {p} {n} again", "what does it say about {p} {n}", "which {n} belongs to {s}")
        # rows without sentences of their own list unlike things under one head
        asked = rng.choice(_options(row[1])) if row[3] and rng.random() < 0.2 else noun
        return _finish_question(rng, _fill(rng.choice(forms), entity, asked), order)
