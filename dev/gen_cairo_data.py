"""Write the Cairo timeline: the life of one user, one episode a line, with its ground truth.

    python dev/gen_cairo_data.py [--steps 10000] [--seed 1] [--output data/synthetic-cairo-episodes.txt]

Location, mood and favourite drink change slowly and for a reason: moods follow the place and what happened, the drink
follows the season and the mood, and a move always has a motive. The model never trains on any of it: the timeline is
for ingest only, so every recall of it is zero-shot. `dev/grammar.py` keeps clear of these templates.
"""
import argparse
import json
import os
import random
import sys

if not __package__:  # started as a script, not with -m
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from nanochat.common import atomic_write  # noqa: E402

# place -> (moods it tends to, drinks that are good there)
PLACES = {
    "Zamalek": (("calm", "inspired"), ("cappuccino", "lemonade")),
    "Khan el-Khalili": (("curious", "excited"), ("mint tea", "Turkish coffee")),
    "Maadi": (("relaxed", "calm"), ("guava juice", "cappuccino")),
    "Heliopolis": (("nostalgic", "thoughtful"), ("cardamom coffee", "lemonade")),
    "Dokki": (("tired", "restless"), ("Turkish coffee", "mango juice")),
    "Garden City": (("relaxed", "thoughtful"), ("anise tea", "cappuccino")),
    "Mohandessin": (("excited", "tired"), ("mango juice", "cappuccino")),
    "Shubra": (("cheerful", "grumpy"), ("sugarcane juice", "sobia")),
    "Giza": (("inspired", "curious"), ("tamarind cooler", "hibiscus tea")),
    "Imbaba": (("restless", "cheerful"), ("sugarcane juice", "tamarind cooler")),
    "Nasr City": (("anxious", "hopeful"), ("fenugreek tea", "mango juice")),
    "Bab Zuweila": (("curious", "nostalgic"), ("mint tea", "sahlab")),
    "Sayeda Zeinab": (("hopeful", "cheerful"), ("sobia", "hibiscus tea")),
    "Manial": (("lonely", "calm"), ("anise tea", "guava juice")),
}
MOODS = ("calm", "cheerful", "tired", "anxious", "hopeful", "nostalgic", "curious", "restless", "excited", "relaxed",
         "thoughtful", "lonely", "inspired", "grumpy")
WARM_DRINKS = ("mint tea", "anise tea", "fenugreek tea", "Turkish coffee", "cardamom coffee", "cappuccino", "sahlab")
COOL_DRINKS = ("hibiscus tea", "sugarcane juice", "mango juice", "guava juice", "tamarind cooler", "lemonade", "sobia")
DRINKS = WARM_DRINKS + COOL_DRINKS
SEASON = 360  # steps in a year: half of them cool, half of them hot

# mood -> what the user then longs for
COMFORT = {"tired": ("Turkish coffee", "cardamom coffee"), "anxious": ("anise tea", "hibiscus tea"),
           "lonely": ("sahlab", "cappuccino"),
           "cheerful": ("lemonade", "mango juice"), "nostalgic": ("sobia", "fenugreek tea"),
           "excited": ("sugarcane juice", "tamarind cooler")}
MOVES = {"a better flat was free": "hopeful", "a friend asked for company": "cheerful",
         "the old street was too loud": "relaxed",
         "new work began": "excited", "the family needed help": "anxious", "a festival was on": "excited",
         "the rent went up": "grumpy",
         "there were old houses to draw": "inspired"}
EVENTS = {"a long walk by the river": "calm", "a sleepless night": "tired", "good news from home": "cheerful",
          "a missed bus": "grumpy",
          "an old song on the radio": "nostalgic", "a day without a single call": "lonely",
          "a talk with a stranger": "curious",
          "a letter from the bank": "anxious", "a sunset over the roofs": "inspired",
          "an afternoon with books": "thoughtful",
          "a promise kept": "hopeful", "too much noise": "restless", "a win of the home team": "excited",
          "a nap in the shade": "relaxed"}

TEMPLATES = (
    "t={t}: The user was in {location}, felt {mood}, and preferred {drink}{remark}.",
    "t={t}: The user felt {mood} in {location} and preferred {drink}{remark}.",
    "At t={t} the user was in {location}, feeling {mood}, with {drink} as the favourite drink{remark}.",
    "The user, at t={t}, stayed in {location}, was {mood}, and liked {drink} best{remark}.",
    "In {location}, the user felt {mood} and chose {drink} at t={t}{remark}.",
    "t={t} | location: {location} | mood: {mood} | drink: {drink}",
    "Preferring {drink}, the user felt {mood} in {location}{remark} (t={t}).",
    "The user's mood was {mood} at t={t}; the place was {location} and the drink was {drink}{remark}.",
    "Location {location}, mood {mood}, favourite drink {drink}: that was the user at t={t}{remark}.",
    "t={t}: While {mood}, the user asked for {drink} in {location}{remark}.",
    "The user preferred {drink} while in {location}, and the mood was {mood}{remark} (t={t}).",
    "At t={t}, feeling {mood}, the user drank {drink} in {location}{remark}.",
)
QUESTIONS = {
    "location": ("Where was the user at t={t}?", "What was the user's location at t={t}?",
                 "In which place was the user at t={t}?",
                 "At t={t}, where was the user?", "Which part of town was the user in at t={t}?"),
    "mood": ("How did the user feel at t={t}?", "What was the user's mood at t={t}?",
             "What mood was the user in at t={t}?",
             "At t={t}, how did the user feel?", "How was the user feeling at t={t}?"),
    "drink": ("What did the user prefer at t={t}?", "Which drink did the user prefer at t={t}?",
              "What was the user's favourite drink at t={t}?", "At t={t}, what did the user prefer to drink?",
              "What did the user like to drink at t={t}?"),
}


def timeline(steps, seed=1):
    """Yield one record a step: t, location, mood, drink, text, line. The same seed gives the same life."""
    rng = random.Random(f"cairo-{seed}")
    place, mood, drink = rng.choice(list(PLACES)), rng.choice(MOODS), rng.choice(DRINKS)
    phase = rng.randrange(SEASON)
    for t in range(1, steps + 1):
        remark = ""
        if t > 1 and rng.random() < (0.06 if mood in ("restless", "lonely", "grumpy") else 0.03):
            place = rng.choice([p for p in PLACES if p != place])
            reason = rng.choice(list(MOVES))
            remark = f", because {reason}"
            if rng.random() < 0.6:
                mood = MOVES[reason]
        elif t > 1 and rng.random() < 0.09:
            if rng.random() < 0.45:
                mood = rng.choice(PLACES[place][0])
            else:
                event = rng.choice(list(EVENTS))
                mood, remark = EVENTS[event], f", after {event}"
        if t > 1 and rng.random() < 0.06:
            cool = (t + phase) % SEASON < SEASON // 2
            drink, why = _next_drink(rng, place, mood, cool)
            remark = remark or why
        line = rng.choice(TEMPLATES).format(t=t, location=place, mood=mood, drink=drink, remark=remark
                                            if rng.random() < 0.7 else "")
        yield {"t": t, "location": place, "mood": mood, "drink": drink, "text": line, "line": t - 1}


def _next_drink(rng, place, mood, cool):
    """What the user turns to, and why: the mood, the place or the season."""
    roll = rng.random()
    if roll < 0.3 and mood in COMFORT:
        return rng.choice(COMFORT[mood]), ", for comfort"
    if roll < 0.55:
        return rng.choice(PLACES[place][1]), ", as the neighbours do"
    if cool:
        return rng.choice(WARM_DRINKS), ", since the evenings were cool"
    return rng.choice(COOL_DRINKS), ", since the days were hot"


def questions(records, n, seed=1):
    """Draw n questions about the records, evenly over the attributes: question, answer, attribute, t."""
    records, rng = list(records), random.Random(f"cairo-questions-{seed}")
    if not records:
        raise ValueError("no records to ask about")
    out = []
    for i in range(n):
        attribute = list(QUESTIONS)[i % len(QUESTIONS)]
        record = rng.choice(records)
        text = rng.choice(QUESTIONS[attribute]).format(t=record["t"])
        out.append({"question": text, "answer": record[attribute], "attribute": attribute, "t": record["t"]})
    rng.shuffle(out)
    return out


def write_lines(path, lines):
    """Write lines to path so that a kill leaves either the old file or the whole new one."""
    atomic_write(path, lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def main(argv=None):
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description="write the Cairo timeline and its ground truth")
    parser.add_argument("--steps", type=int, default=10000, help="number of time steps, one line each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default=os.path.join("data", "synthetic-cairo-episodes.txt"))
    args = parser.parse_args(argv)
    if args.steps < 1:
        print(f"error: --steps must be at least 1, not {args.steps}", file=sys.stderr)
        return 2
    stem, extension = os.path.splitext(args.output)
    if extension == ".jsonl":
        print("error: --output is the text file; the .jsonl beside it is the ground truth", file=sys.stderr)
        return 2
    records = []
    for record in timeline(args.steps, args.seed):
        records.append(record)
        if record["t"] % 100000 == 0:
            print(f"{record['t']:,} of {args.steps:,} steps", file=sys.stderr)
    try:
        # ground truth first: a text without its truth cannot be scored, the reverse does no harm
        write_lines(stem + ".jsonl", (json.dumps(r, ensure_ascii=False) for r in records))
        write_lines(args.output, (r["text"] for r in records))
    except OSError as error:
        print(f"error: cannot write {args.output}: {error.strerror}", file=sys.stderr)
        return 1
    words = sum(len(r["text"].split()) for r in records)
    changes = {a: sum(x[a] != y[a] for x, y in zip(records, records[1:])) for a in QUESTIONS}
    print(f"{args.output}: {len(records):,} episodes, {words:,} words, seed {args.seed}, changes " +
          ", ".join(f"{a} {c:,}" for a, c in changes.items()) + f"; ground truth in {stem}.jsonl", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
