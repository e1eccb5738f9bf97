"""Things that change without a date, in the lives of the synthetic base: the latest word counts."""
import re

from dev.base_clock import NOW
from dev.base_threads import LATEST_NOUN, _cap, _fill, _finish_question, _options, _possessive, stranger
from dev.base_forms import CHANGES, UPDATES
from dev.base_values import UNKNOWN, Episode, name, tail, value


class Updates:
    """Items of a few kinds, side by side, each told anew up to six times; nothing but the order says which word counts."""

    kind = "updates"

    def __init__(self, rng, names, statements=30):
        held = [row for row in UPDATES if row[0] in ("slot", "register")]
        kinds = rng.choice((rng.sample(UPDATES, 1), rng.sample(UPDATES, 2), rng.sample(UPDATES, rng.randint(3, 6)), [rng.choice(held)], rng.sample(held, 2),
                            [row for row in UPDATES if row[0] == rng.choice(UPDATES)[0]] or UPDATES[:2]))
        self.rows, self.names, self.items = kinds, names, []
        self.repeats = rng.choice((2, 3, 4, 4, 6))  # times that an item is told at most
        self.slots = max(1, min(60, round(statements / (1 + self.repeats) * rng.uniform(0.8, 2))))
        self.worded = rng.choice((0.0, 0.3, 0.6, 0.9))  # share of changes that say that they are one
        self.invented = rng.choice((0.1, 0.5, 1.0))

    def tell(self, rng, index):
        """A first state, or a new one that no earlier statement had."""
        free = [item for item in self.items if item["times"] > len(item["past"])]
        if not free or len(self.items) < self.slots and rng.random() < 0.5:
            row = rng.choice(self.rows)
            near = [item["entity"] for item in self.items if item["row"][0] == row[0]]
            if near and rng.random() < 0.4 and self._free(near[-1], row):  # another thing told of the same entity
                entity = near[-1]
            else:
                entity = self.names.take(rng, row[0], rng.choice(near) if near else None)
            item = {"row": row, "entity": entity, "past": [], "times": rng.randint(1, 1 + self.repeats)}
            self.items.append(item)
        else:
            item = rng.choice(free)
        row, v = item["row"], None
        while v is None or v in item["past"]:
            v = value(rng, row[1], self.invented)
        old = item["past"][-1] if item["past"] else None
        item["past"].append(v)
        item["index"] = index
        noun = rng.choice(_options(row[2]))
        text = rng.choice(_options(row[3])) if rng.random() < 0.8 else rng.choice(("{p} {n} is {v}", "the {n} of {s} is {v}", "{n} of {s}: {v}", "{s}, {n}: {v}"))
        text += tail(rng, v, 0.15) if text.endswith("{v}") else ""
        text = text.replace("{s}", item["entity"]).replace("{p}", _possessive(item["entity"])).replace("{n}", noun).replace("{v}", v)
        text = text.replace("{x}", name(rng)) if "{x}" in text else text
        if old is not None and rng.random() < self.worded:
            text = rng.choice(CHANGES).replace("{}", text).replace("{old}", old)
        return Episode(_cap(text, (v,)) + rng.choice((".", ".", ".", "!", "")), kind=self.kind, facts=((self._key(item), v, None),)), item

    def _free(self, entity, row):
        """Whether nothing like a row was told of an entity."""
        return not any(item["entity"] == entity and (item["row"][1] == row[1] or any(set(_options(row[i])) & set(_options(item["row"][i])) for i in (2, 3, 4)))
                       for item in self.items)

    @staticmethod
    def _key(item):
        return item["entity"], item["row"][2]

    def ask(self, rng, item):
        """What holds at the moment of asking."""
        return Episode(self._question(rng, item["row"], item["entity"]), item["past"][-1], item["index"], self.kind, ("latest", (self._key(item),), None))

    def unknown(self, rng, told):
        """Asks about a thing that nobody has mentioned, or for what was never told of a known one."""
        row, roll = rng.choice(self.rows), rng.random()
        item = rng.choice(self.items) if self.items else None
        others = [r for r in UPDATES if item and r[0] == item["row"][0] and self._free(item["entity"], r)]
        if others and roll < 0.4:
            row, entity = rng.choice(others), item["entity"]
        else:
            entity = stranger(rng, self.names, row[0], [i["entity"] for i in self.items if i["row"][0] == row[0]], told)
            if entity is None:
                return None
        return Episode(self._question(rng, row, entity), UNKNOWN, -2, "unknown", ("unknown", ((entity, row[2]),), None))

    @staticmethod
    def _question(rng, row, entity):
        noun, ask = rng.choice(_options(row[2])), rng.choice(_options(row[4]))
        roll = rng.random()
        if roll < 0.35:
            text = ask
        elif roll < 0.5:
            text = rng.choice(("what is {p} {n}", "{p} {n}", "what is the {n} of {s}", "which {n} does {s} have", "give me the {n} of {s}"))
        elif roll < 0.75:
            text = rng.choice(NOW).replace("{}", ask)
        elif roll < 0.85:
            text = rng.choice(NOW).replace("{}", "what is {p} {n}")
        else:
            text = rng.choice(LATEST_NOUN)
        if re.search(r"\bdid\b", text):  # "where did she go now" is not said
            text = rng.choice((ask, f"{ask} last", f"{ask} most recently", f"{ask} in the end")) if "did" in ask else text
        return _finish_question(rng, _fill(text, entity, noun))
