"""Made-up predicates, in the lives of the synthetic base: the answer is what the evidence says beyond what the question repeats."""
from dev.base_threads import _cap, _finish_question, _possessive
from dev.base_forms import FILLERS, FRAMES, WRAPS_AFTER, WRAPS_BEFORE
from dev.base_values import UNKNOWN, Episode, frame_key, frame_value, name, past, tail, third, word
from dev.base_words import FRAME_NOUNS, FRAME_VERBS, PREPOSITIONS

# what a value may stand in: the answer is the value alone
DRESSES = ("{}",) * 20 + ('"{}"', "'{}'", "<{}>", "[{}]", "({})", "*{}*", "`{}`", "#{}", "{{{}}}", "**{}**")


class Frames:
    """Pairs of a key and a value, told in one frame or a few; each predicate belongs to some of the keys only."""

    kind = "frames"

    def __init__(self, rng, names, statements=30):
        self.names, self.told, self.keys, self.holders = names, {}, [], {}
        self.key_kind, self.value_kind = rng.choice(frame_key.kinds), rng.choice(frame_value.kinds)
        used, self.frames = set(), []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            statements_of, asks, reverse = rng.choice([row for row in FRAMES if row[0] not in used])
            used.add(statements_of)
            noun = rng.choice(FRAME_NOUNS) if rng.random() < 0.75 else word(rng)
            verb = rng.choice(FRAME_VERBS) if rng.random() < 0.7 else word(rng)
            if used & {noun, verb, *asks.split("|")}:  # one question for two predicates
                continue
            used |= {noun, verb, *asks.split("|")}
            words = {"{n}": noun, "{b}": verb, "{z}": third(verb), "{d}": past(verb), "{m}": word(rng), "{r}": rng.choice(PREPOSITIONS)}
            options = statements_of.split("|")
            self.frames.append((words, rng.sample(options, rng.randint(1, len(options))), asks.split("|"), reverse.split("|") if reverse else []))
        self.several = rng.choice((0.0, 0.0, 0.5, 1.0, 1.0))  # share of episodes with two to five pairs
        self.wrapped = rng.choice((0.0, 0.0, 0.2, 0.6))
        self.dress = rng.choice(DRESSES)

    def tell(self, rng, index):
        """One pair, or some of them, none of them told before."""
        f = rng.randrange(len(self.frames))
        words, forms, _, _ = self.frames[f]
        form, parts, pairs = rng.choice(forms), [], []
        for _ in range(rng.randint(2, 5) if rng.random() < self.several else 1):
            k = next((k for k in rng.sample(self.keys, min(3, len(self.keys))) if (f, k) not in self.told), None) if rng.random() < 0.4 else None
            if k is None:
                near = rng.choice(self.keys) if self.keys and rng.random() < 0.2 else None
                while not (k := self.names.near_miss(rng, near) if near else frame_key(rng, self.key_kind)) or not near and not self.names.add(k):
                    near = None
                self.keys.append(k)
            v = frame_value(rng, self.value_kind)
            token = {"index": index, "f": f, "key": k, "value": v, "unique": (f, v) not in self.holders}
            if not token["unique"]:
                self.holders[f, v]["unique"] = False
            self.holders[f, v] = self.told[f, k] = token
            parts.append(self._put(form, words, k, self.dress.format(v)))
            pairs.append(token)
        end = rng.choice((".", ".", ".", ".", "", "!"))
        fixed = tuple(x for t in pairs for x in (t["key"], t["value"]))
        bare = any(c in form for c in '="<>[') and "{n}" not in form or form.startswith(("{k}:", "{k},"))  # a line of a file
        if not bare and form.endswith("{v}"):
            parts[-1] += tail(rng, v, 0.2)
        sep = rng.choice(("; ", "; ", ", ", ". ", " and ")) if not bare else rng.choice(("; ", ", ", " ", " | "))
        parts = [_cap(p, fixed) if sep == ". " else p for p in parts]
        text = sep.join(parts)
        if rng.random() < self.wrapped:
            text = self._wrap(rng, text, fixed)
        elif bare:
            text += rng.choice(("", "", "", ";", ","))
        else:
            text = (_cap(text, fixed) if rng.random() < 0.9 else text) + end
        facts = tuple(((t["key"], self._predicate(f)), t["value"], None) for t in pairs)
        for t in pairs:
            t["copied"] = t["key"] in text
        return Episode(text, kind=self.kind, facts=facts), rng.choice(pairs)

    @staticmethod
    def _wrap(rng, text, fixed):
        before, after = (rng.choice(WRAPS_BEFORE) if rng.random() < 0.7 else ""), (rng.choice(WRAPS_AFTER) if rng.random() < 0.7 else "")
        if rng.random() < 0.3:
            before = f"{rng.choice(FILLERS).replace('{x}', name(rng))}. {before}".rstrip()
        if before and not before.rstrip().endswith((".", "!", "?")):
            return f"{before} {text}. {after}".strip()
        return f"{before} {_cap(text, fixed)}. {after}".strip()

    def _predicate(self, f):
        words = self.frames[f][0]
        return f"{words['{n}']} {words['{b}']}"

    @staticmethod
    def _put(form, words, k="", v=""):
        for mark, text in words.items():
            form = form.replace(mark, text)
        if "{p}" in form:
            form = form.replace("{p}", _possessive(k))
        return form.replace("{k}", k).replace("{v}", v).strip()

    def _question(self, rng, forms, words, k="", v=""):
        form = rng.choice(forms).strip()
        text = self._put(form.lstrip("~"), words, k, v)
        fixed = tuple(x for x in (k, v) if x)
        if form.startswith("~"):  # to be completed
            return _cap(text, fixed)
        return _finish_question(rng, text, keep=fixed)

    def ask(self, rng, token):
        """Asks for the value of a key, or for the key of a value that only one has."""
        words, _, asks, reverse = self.frames[token["f"]]
        if reverse and token["unique"] and token["copied"] and rng.random() < 0.25:
            text = self._question(rng, reverse, words, v=token["value"])
            return Episode(text, token["key"], token["index"], self.kind, ("reverse", ((token["value"], self._predicate(token["f"])),), None))
        text = self._question(rng, asks, words, token["key"])
        return Episode(text, token["value"], token["index"], self.kind, ("latest", ((token["key"], self._predicate(token["f"])),), None))

    def unknown(self, rng, told):
        """Asks for a key that nobody has mentioned, for a predicate never told of a known one, or for a value that nobody has."""
        f, roll = rng.randrange(len(self.frames)), rng.random()
        words, _, asks, reverse = self.frames[f]
        if reverse and roll < 0.2:
            v = frame_value(rng, self.value_kind)
            if v.lower() in told:
                return None
            return Episode(self._question(rng, reverse, words, v=v), UNKNOWN, -2, "unknown", ("unknown", ((v, self._predicate(f)),), None))
        free = [k for k in self.keys if (f, k) not in self.told]
        if free and roll < 0.6:
            k = rng.choice(free)
            if not any("{n}" in ask or "{b}" in ask or "{z}" in ask or "{d}" in ask for ask in asks):
                return None
            asks = [ask for ask in asks if any(mark in ask for mark in ("{n}", "{b}", "{z}", "{d}"))]
        elif self.keys and roll < 0.85:
            k = self.names.near_miss(rng, rng.choice(self.keys))
        else:
            k = frame_key(rng, self.key_kind)
            k = k if self.names.add(k) else None
        if k is None or (not free or k not in free) and k.lower() in told:
            return None
        return Episode(self._question(rng, asks, words, k), UNKNOWN, -2, "unknown", ("unknown", ((k, self._predicate(f)),), None))
