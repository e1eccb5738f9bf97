"""
The tasks that this repository writes itself; the public benchmarks are in tasks_public.py, the trials in trials.py.

Everything is zero-shot: neither these sentences nor these values are those of the training grammar (dev/grammar.txt),
and none may be moved there. But for one thing: a plain question ("How does … feel now?", "Where was … at t=7?") has
few forms, and the grammar asks some of them of others; PARAPHRASES are in words that it never uses.
"""
import random
from itertools import islice

from nanochat.common import UserError
from nanochat.task_data import (ADJECTIVES, CITIES, KEYS, LIKED, LIKES, LIKES_ANEW, PEOPLE, REFUSAL, TASTES, WORDS,
                                Cell, Part, Question, Story, digits, distinct,
                                invented, measure, read_noise, read_prose, small_talk)


# -----------------------------------------------------------------------------
# The Cairo timeline

PARAPHRASES = {
    "location": ("Name the neighbourhood the user was staying in at t={t}.", "t={t}: whereabouts?",
                 "Could you say where the user had gone by t={t}?",
                 "If it is t={t}, where do we find the user?"),
    "mood": ("Describe the user's mood at t={t}.", "t={t}: mood?",
             "What was the user's state of mind when it was t={t}?", "Was the user happy or sad at t={t}, or what?"),
    "drink": ("What would you have poured the user at t={t}?", "t={t}: drink?",
              "Name the user's drink of choice when it was t={t}.",
              "If the user could drink anything at t={t}, what would it be?"),
}
NOW = {"location": ("Where is the user now?", "What is the user's location now?", "Where has the user got to by now?"),
       "mood": ("How does the user feel now?", "What is the user's mood now?", "How is the user feeling now?"),
       "drink": ("What does the user prefer now?", "Which drink does the user prefer now?",
                 "What is the user's favourite drink now?")}
BEFORE = {"location": ("Where was the user just before t={t}?", "What was the user's location right before t={t}?"),
          "mood": ("How did the user feel just before t={t}?", "What was the user's mood right before t={t}?"),
          "drink": ("What did the user prefer just before t={t}?",
                    "Which drink did the user prefer right before t={t}?")}
CHANGE = {"location": "When did the user's location last change before t={t}?",
          "mood": "When did the user's mood last change before t={t}?",
          "drink": "When did the user's favourite drink last change before t={t}?"}
EVERYTHING = ("Where was the user at t={t}, how did the user feel and what did the user prefer?",
              "What were the user's location, mood and favourite drink at t={t}?")
ASKS = ("point", "paraphrase", "now", "before", "change", "everything")


def timeline(steps=(10000,), seeds=(1, 2, 3), questions=300, ask=("point",)):
    """
    A life in Cairo, a line a step. A longer one begins as a shorter one does, so that one ingest serves all lengths.
    """
    lives = _lives(max(steps), seeds)
    for seed in seeds:
        records, story = lives[seed]
        other = lives[seeds[(seeds.index(seed) + 1) % len(seeds)]][1] if len(seeds) > 1 else None
        for n in sorted(steps):
            for how in ask:
                yield Cell({"steps": n, "seed": seed, "ask": how},
                           [Part(story, ask_timeline(records[:n], questions, seed, how), other)], "steps")


def _lives(steps, seeds):
    from dev.gen_cairo_data import timeline as live
    lives = {seed: list(live(steps, seed)) for seed in seeds}
    return {seed: (records, Story([r["text"] for r in records])) for seed, records in lives.items()}


def ask_timeline(records, n, seed, how="point"):
    """n questions about the records, as dev/gen_cairo_data.py asks them or in one of the other ways of ASKS."""
    from dev.gen_cairo_data import questions as draw
    steps, rng = len(records), random.Random(f"timeline-{how}-{seed}-{len(records)}")
    if how == "point":
        return [Question(q["question"], q["answer"], q["t"] - 1, q["attribute"], steps) for q in draw(records, n, seed)]
    out = []
    for i in range(n):
        attribute = list(NOW)[i % 3]
        t = rng.randint(2, steps)
        record, earlier = records[t - 1], records[t - 2]
        if how == "paraphrase":
            out.append(Question(rng.choice(PARAPHRASES[attribute]).format(t=t), record[attribute], t - 1, attribute,
                                steps))
        elif how == "now":   # the life is stopped at many moments: a prefix of a store is a store
            t = rng.randint(max(2, steps // 2), steps)
            out.append(Question(rng.choice(NOW[attribute]), records[t - 1][attribute], t - 1, attribute, t))
        elif how == "before":
            out.append(Question(rng.choice(BEFORE[attribute]).format(t=t), earlier[attribute], t - 2, attribute, steps))
        elif how == "change":
            changed = t - 1
            while changed > 1 and records[changed - 1][attribute] == records[changed - 2][attribute]:
                changed -= 1
            out.append(Question(CHANGE[attribute].format(t=t), f"t={changed}", changed - 1, attribute, steps))
        else:
            values = tuple(record[a] for a in NOW)
            out.append(Question(rng.choice(EVERYTHING).format(t=t), ", ".join(values), t - 1, "all", steps,
                                parts=values))
    return out


def changes(steps=(10000,), seeds=(1, 2, 3), questions=300):
    """
    The same lives, but a line is written only when something has changed: "at t=550" means the latest line at or
    before.
    """
    for seed in seeds:
        records, _ = _lives(max(steps), [seed])[seed]
        kept = [r for r, before in zip(records, [{}] + records) if any(r[a] != before.get(a) for a in NOW)]
        story = Story([r["text"] for r in kept])
        for n in sorted(steps):
            lines = sum(r["t"] <= n for r in kept)
            moments = {r["t"]: i for i, r in enumerate(kept)}
            out = []
            for q in ask_timeline(records[:n], questions, seed):
                t = q.evidence + 1
                line = max(i for moment, i in moments.items() if moment <= t)
                out.append(Question(q.text, q.answer, line, "logged" if t in moments else "between", lines))
            yield Cell({"steps": n, "seed": seed}, [Part(story, out)], "steps")


# -----------------------------------------------------------------------------
# Keys in a haystack

ONE_KEY, WHICH_KEY = "The pass key is {v}. Remember it, you will be asked.", "What is the pass key?"
NAMED_KEY, WHICH_NAMED = ("The pass key that goes with the {x} is {v}. Remember it, you will be asked.",
                          "What is the pass key that goes with the {x}?")


def passkey(tokenizer=None, steps=None, tokens=None, depths=(0.0, 0.25, 0.5, 0.75, 1.0), form=("digits",), needles=(1,),
            distractors=(0,), prose=None,
            inside=False, seeds=(1,), questions=100):
    """
    Keys hidden at a depth of a haystack: `steps` of a Cairo timeline, or `tokens` of prose. One needle is *the* pass
    key; several needles, and distractors, which are keys never asked for, are told apart by a name. inside: the needle
    stands within a paragraph of prose.
    """
    if prose is None and (tokens or inside):
        raise UserError("lengths in tokens, and needles inside a paragraph, need --prose FILE", code=2)
    if prose is not None and steps:
        raise UserError("--steps and --prose are two haystacks: choose one", code=2)
    if max(needles) + max(distractors) > 500:
        raise UserError("at most 500 needles and distractors", code=2)
    for seed in seeds:
        rng = random.Random(f"passkey-{seed}")
        spare = []
        if prose is None:
            hay = _lives(max(steps or (10000,)), [seed])[seed][1]
            lengths = {n: n for n in steps or (10000,)}
        else:
            paragraphs = read_prose(prose, rng)
            hay = Story([])
            lengths = measure(tokenizer, paragraphs, tokens or (10000, 100000), hay.episodes, prose)
            spare = [p for p in islice(paragraphs, 500) if ". " in p]
            if inside and not spare:
                raise UserError(f"{prose} has no paragraph left to put a needle in")
        for length, base in sorted(lengths.items()):
            text = "\n".join(hay.episodes[:base])
            for many in needles:
                for traps in distractors:
                    for kind in form:
                        for depth in depths:
                            asked = []
                            for trial in range(max(1, questions // many)):
                                asked += _hide(rng, text, base, depth, kind, many, traps, spare if inside else None,
                                               f"{trial}")
                            yield Cell({"steps" if prose is None else "tokens": length, "depth": depth, "form": kind,
                                        "needles": many, "distractors": traps,
                                        "inside": inside, "seed": seed}, [Part(hay, asked)], "steps" if prose is None
                                        else "tokens")


def _hide(rng, text, base, depth, kind, many, traps, spare, group):
    """The questions of one trial: `many` needles, the first of them at the depth, the others and the traps anywhere."""
    values = []
    while len(values) < many + traps:
        value = KEYS[kind](rng)
        if value not in text and value not in values:
            values.append(value)
    names = distinct(rng, many + traps, lambda rng: f"{rng.choice(ADJECTIVES)} {rng.choice(WORDS)}")
    lines = [(ONE_KEY if many + traps == 1 else NAMED_KEY).format(v=v, x=x) for v, x in zip(values, names)]
    if spare:
        first, _, rest = rng.choice(spare).partition(". ")
        lines[0] = f"{first}. {lines[0]} {rest}"
    places = [round(depth * base)] + [rng.randint(0, base) for _ in lines[1:]]
    order = sorted(range(len(lines)), key=lambda k: (places[k], k))
    hidden = tuple((places[k], lines[k]) for k in order)
    ask = WHICH_KEY if many + traps == 1 else WHICH_NAMED
    return [Question(ask.format(x=names[k]), values[k], places[k] + order.index(k), "all", base, hidden,
                     group if many > 1 else "") for k in range(many)]


# -----------------------------------------------------------------------------
# Who somebody is

def personality(conversations=(0, 10, 100), seeds=(1, 2, 3, 4), probes=3, updates=4, noise=None):
    """
    Likes are stated once, some are changed once, some are never told; then other conversations, eight turns each. The
    same probes, in several wordings, after each number of conversations: right, and the same each time; a change wins;
    what was never said is not known.
    """
    stories = [_person(seed, max(conversations), probes, updates, noise) for seed in seeds]
    for n in sorted(conversations):
        parts = []
        for i, (story, asked, told) in enumerate(stories):
            here = [Question(q.text, q.answer, q.evidence, q.kind, told + 8 * n, (), q.group, q.stale) for q in asked]
            parts.append(Part(story, here, stories[(i + 1) % len(stories)][0] if len(stories) > 1 else None))
        yield Cell({"conversations": n}, parts, "conversations")


def _person(seed, conversations, probes, updates, noise):
    """(story, questions with their evidence, how many episodes hold the likes)."""
    rng = random.Random(f"personality-{seed}")
    topics = rng.sample(list(TASTES), len(TASTES))
    stated, never = topics[:-4], topics[-4:]
    said, questions = {}, []
    lines = [(topic, rng.choice(TASTES[topic].split()), None) for topic in stated]
    for topic, value, _ in lines[:updates]:
        lines.append((topic, rng.choice([v for v in TASTES[topic].split() if v != value]), value))
    episodes = []
    for topic, value, old in lines:
        said.setdefault(topic, []).append((value, len(episodes)))
        episodes.append(rng.choice(LIKES_ANEW if old else LIKES).format(n=topic, v=value, old=old))
        episodes += small_talk(rng, rng.randint(0, 2))
    for topic in stated:
        value, where = said[topic][-1]
        for text in rng.sample(LIKED, min(probes, len(LIKED))):
            questions.append(Question(text.format(n=topic), value, where, "updated" if len(said[topic]) > 1
                                      else "stated", None, (), f"{seed}-{topic}",
                                      tuple(v for v, _ in said[topic][:-1])))
    for topic in never:
        for text in rng.sample(LIKED, min(probes, len(LIKED))):
            questions.append(Question(text.format(n=topic), REFUSAL, kind="never", group=f"{seed}-{topic}"))
    told = len(episodes)
    episodes += small_talk(rng, 8 * conversations) if noise is None else read_noise(noise, rng, 8 * conversations)
    return Story(episodes), questions, told


# -----------------------------------------------------------------------------
# Keys and values

PAIR, WHICH_PAIR = "{k} goes with {v}", ("What goes with {k}?", "{k} goes with what?")
PEG = ("Peg {k} has the tag {v}.", "On peg {k} hangs the tag {v}.", "Peg {k} was given the tag {v}.")
WHICH_PEG = ("Which tag hangs on peg {k} after all that?", "What is the most recent tag of peg {k}?",
             "Which tag has peg {k} got in the end?")


def mqar(pairs=(64, 256, 1024), per_line=(1,), seeds=(1, 2), questions=100):
    """
    Multi-query associative recall: pairs of invented words and numbers, one or several an episode, any of them asked
    for.
    """
    for n in sorted(pairs):
        for width in per_line:
            parts = []
            for seed in seeds:
                rng = random.Random(f"mqar-{seed}-{n}-{width}")
                keys, values = distinct(rng, n,
                                        invented), distinct(rng, n,
                                                            lambda rng: digits(rng, rng.choice((4, 5))
                                                                               + len(str(n)) // 5))
                lines = ["; ".join(PAIR.format(k=k, v=v) for k, v in list(zip(keys, values))[i:i + width]) + "."
                         for i in range(0, n, width)]
                asked = [Question(rng.choice(WHICH_PAIR).format(k=keys[i]), values[i], i // width)
                         for i in rng.sample(range(n), min(n, -(-questions // len(seeds))))]
                parts.append(Part(Story(lines), asked))
            for part, following in zip(parts, parts[1:] + parts[:1]):
                part.other = following.story if len(parts) > 1 else None
            yield Cell({"pairs": n, "per_line": width}, parts, "pairs")


def overwrite(keys=(64,), updates=4, seeds=(1, 2), questions=100):
    """
    Keys that are given a value and then `updates` others; the latest wins. All values differ, so that a stale answer
    shows.
    """
    for n in sorted(keys):
        parts = []
        for seed in seeds:
            rng = random.Random(f"overwrite-{seed}-{n}")
            names, values = distinct(rng, n,
                                     invented), iter(distinct(rng, n * (updates + 1),
                                                              lambda rng: digits(rng, 2 + len(str(n * updates)))))
            lines, held = [], {k: [] for k in names}
            for _ in range(updates + 1):
                for k in rng.sample(names, n):
                    v = next(values)
                    held[k].append((v, len(lines)))
                    lines.append(rng.choice(PEG).format(k=k, v=v))
            asked = []
            for k in rng.sample(names, min(n, -(-questions // len(seeds)))):
                asked.append(Question(rng.choice(WHICH_PEG).format(k=k), *held[k][-1],
                                      stale=tuple(v for v, _ in held[k][:-1])))
            parts.append(Part(Story(lines), asked))
        yield Cell({"keys": n, "updates": updates}, parts, "keys")


# -----------------------------------------------------------------------------
# Real noise

CHAT_FACTS = (   # what is said in a chat, what is asked about it, and the value
    (("my flight gets in at {v} btw", "looks like I land at {v}"), "At what time does {u}'s flight get in?",
     lambda rng: f"{rng.randint(10, 23)}:{rng.randint(10, 59)}"),
    (("the wifi password at my place is {v}", "wifi here: {v}, in case you come over"),
     "What is the wifi password at {u}'s place?", lambda rng: invented(rng) + digits(rng, 3)),
    (("I booked us a table under the name {v}", "table is booked, ask for {v}"),
     "Under which name did {u} book the table?", lambda rng: invented(rng).capitalize()),
    (("old sofa is sold, the guy paid {v}", "someone paid {v} for the old sofa lol"),
     "What did {u} get paid for the old sofa?", lambda rng: digits(rng, 3)),
    (("my desk extension is {v} from Monday", "you can reach my desk on {v}"), "What is the extension of {u}'s desk?",
     lambda rng: digits(rng, 4)),
    (("they are sending me to {v} for the conference", "conference is in {v} this year, I'm going"),
     "In which city is {u}'s conference?", lambda rng: rng.choice(CITIES)),
    (("my sister named the baby {v}", "it's a girl, my sister went with {v}"), "What did {u}'s sister name the baby?",
     lambda rng: rng.choice(PEOPLE)),
    (("ticket number for my bug is {v}", "filed my bug, it's ticket {v}"), "What is the ticket number of {u}'s bug?",
     lambda rng: digits(rng, 6)),
    (("the gate to my yard opens with {v}", "if you get to my yard early the gate wants {v}"),
     "With what does the gate to {u}'s yard open?", lambda rng: digits(rng, 4)),
    (("my team is called {v} now don't ask", "we renamed my team to {v}"), "What is {u}'s team called?",
     lambda rng: invented(rng).capitalize()),
)


def interleaved(noise=None, lines=(1000,), seeds=(1, 2, 3, 4, 5)):
    """
    Two people's logs, each in other people's real chat, interleaved line by line; both tell the same kinds of things,
    with other values.
    """
    if noise is None:
        raise UserError("the task interleaved needs --noise, a JSON lines file of chat (\"user\", \"text\") or a "
                        "directory of them", code=2)
    for n in sorted(lines):
        parts = []
        for seed in seeds:
            rng = random.Random(f"interleaved-{seed}-{n}")
            users = rng.sample(PEOPLE, 2)
            said = read_noise(noise, rng, n)
            told = []
            for u in users:
                for statements, ask, make in CHAT_FACTS:
                    value = make(rng)
                    while value in users or any(value == v for *_, v in told):
                        value = make(rng)
                    told.append((rng.randrange(n + 1), f"{u}: {rng.choice(statements).format(v=value)}",
                                 ask.format(u=u), value))
            for place, line, _, _ in sorted(told, reverse=True):
                said.insert(place, line)
            parts.append(Part(Story(said), [Question(ask, value, said.index(line)) for _, line, ask, value in told]))
        for part, following in zip(parts, parts[1:] + parts[:1]):
            part.other = following.story if len(parts) > 1 else None
        yield Cell({"lines": n, "noise": str(noise)}, parts, "lines")


# -----------------------------------------------------------------------------
# What was never said

CHOICE, WHICH_CHOICE = "{u} told me that the {n} of choice is {v}.", "Which {n} is {u}'s choice?"


def unknown(steps=(1000,), seeds=(1, 2, 3), questions=120):
    """
    Half of the questions are about what was said; the others about a time to come, a stranger, and a taste that was
    never told.
    """
    for n in sorted(steps):
        parts = []
        for seed in seeds:
            rng = random.Random(f"unknown-{seed}-{n}")
            records, life = _lives(n, [seed])[seed]
            people = rng.sample(PEOPLE, 20)
            friends, strangers, topics = people[:10], people[10:], list(TASTES)
            told = {(u, topic): rng.choice(TASTES[topic].split()) for u in friends for topic in rng.sample(topics, 5)}
            lines = list(life.episodes)
            for (u, topic), value in told.items():
                lines.insert(rng.randint(0, len(lines)), CHOICE.format(u=u, n=topic, v=value))
            where = {line: i for i, line in enumerate(lines)}
            silent = [(u, topic) for u in friends for topic in topics if (u, topic) not in told]
            each = max(1, questions // len(seeds) // 6)
            asked = [Question(WHICH_CHOICE.format(u=u, n=topic), told[u, topic],
                              where[CHOICE.format(u=u, n=topic, v=told[u, topic])], "known")
                     for u, topic in rng.sample(sorted(told), min(len(told), each))]
            for q in ask_timeline(records, 2 * each, seed):
                asked.append(Question(q.text, q.answer, where[records[q.evidence]["text"]], "known"))
            asked += [Question(WHICH_CHOICE.format(u=u, n=topic), REFUSAL, kind="taste")
                      for u, topic in rng.sample(silent, min(len(silent), each))]
            asked += [Question(WHICH_CHOICE.format(u=rng.choice(strangers), n=rng.choice(topics)), REFUSAL,
                               kind="stranger") for _ in range(each)]
            asked += [Question(rng.choice(PARAPHRASES[a] + BEFORE[a]).format(t=rng.randint(2 * n, 9 * n)), REFUSAL,
                               kind="future") for a in (list(NOW) * each)[:each]]
            parts.append(Part(Story(lines), asked))
        yield Cell({"steps": n}, parts, "steps")


TASKS = {"timeline": timeline, "changes": changes, "passkey": passkey, "personality": personality, "mqar": mqar,
         "overwrite": overwrite,
         "interleaved": interleaved, "unknown": unknown}
