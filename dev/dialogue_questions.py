"""Turn annotated task dialogues and booking messages into questions on conversations, with their answers.

    python dev/dialogue_questions.py --sgd FILE --slots FILE --restaurant FILE --output FILE [--seed 0]

Dialogues (SGD): {"services", "turns": [[who, text]], "spans": [[turn, service, slot, begin, end]]}; messages
(RESTAURANTS-8K): {"text", "spans": [[slot, begin, end]]}; one JSON object a line. Slots: the file of questions by slot.

A memory is one or several conversations, a turn a line. A question is made of the slot it asks for, and kept if what it
names (thing, person, 'at first') leaves one answer. A line of output: {"src", "sents", "qas": [{"q", "a", "answers",
"evidence"}]}; no answer is "" without evidence; of several, "a" and "evidence" are lists, place by place.
"""
import argparse
import json
import lzma
import os
import random
import re
import sys
from collections import Counter, namedtuple

if not __package__:  # started as a script, not with -m
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from nanochat.common import UserError, atomic_write, flag, run_main  # noqa: E402

THINGS = dict(pair.split(":") for pair in """Restaurants:restaurant Buses:bus Calendar:calendar Events:event
Flights:flight Homes:apartment Hotels_2:house Hotels:hotel Media:movie Movies:movie Music:song RentalCars:rental-car
RideSharing:cab Travel:attraction Services_1:salon Services_2:dentist Services_3:doctor Weather:weather
Banks:transfer""".split())
# things: slots|clauses|phrase / ... '*': the value belongs to the thing named last, as a phone number does. '#': 'the
# bus'; '~': 'bus'; DO: 'does Ana' or 'do I'; IS and DOES have the thing as subject; '!': has its own question word.
TABLE = """
restaurant apartment event hotel house salon dentist doctor attraction: phone_number* /
street_address*,address*,venue_address*,address_of_location* / average_rating*,rating*|IS # rated / restaurant:
city|want to eat in;want a ~ in / cuisine|food DO want;~ DO look for / restaurant_name|choose;want a table at /
date|want the table|day of the table booking / time|want the table;want to eat|time of the table booking /
party_size|people DO want a table for;!table for how many|number of people at the table / bus:
from_location,origin|want to leave by bus|city # leaves from / to_location,destination|want to go to by bus|city #
goes to / leaving_date,departure_date|want to take #;need # / leaving_time,departure_time|DOES # leave /
fare,price|DOES # cost;IS # / from_station,origin_station_name|!which station DOES # leave from|station # leaves from
/ to_station,destination_station_name|!which station DOES # arrive at|station # arrives at /
group_size,travelers|seats DO want on #|number of # tickets / calendar: event_date|ask about in #|date asked about in
# / event_name|!what DO want in #|name of the entry in # / event_time|DOES the entry in # start|time of the entry in #
/ event_location|!where IS the entry in #|place of the entry in # / available_start_time||start of the free time in #
/ available_end_time||end of the free time in # / event: event_name|choose;want tickets for /
category,subcategory|event DO look for|kind of # / date*|want to go to # / time*|DOES # start /
city,city_of_event|want to go to an event in;look for events in / venue*,event_location*|!which venue IS # at /
number_of_tickets,number_of_seats|tickets DO want for #|number of # tickets / flight: origin_city,origin|want to fly
from|city # leaves from / destination_city,destination|want to fly to|city # goes to / departure_date|want to fly out
/ return_date|want to fly back;IS the return flight / outbound_departure_time|DOES the outbound flight leave /
inbound_departure_time|DOES the return flight leave / outbound_arrival_time|DOES the outbound flight arrive /
inbound_arrival_time|DOES the return flight arrive / price,fare|DOES # cost;IS the plane ticket /
origin_airport|!which airport DOES # leave from / destination_airport|!which airport DOES # arrive at /
passengers|plane tickets DO want|number of plane tickets / apartment: area|want to live in;look for an ~ in /
property_name|want to visit;like / rent*|IS the rent of # / visit_date|want to visit #|date of the ~ visit /
number_of_beds*|bedrooms DOES # have / number_of_baths*|baths DOES # have / hotel house:
location,destination,where_to|want a ~ in;want to stay in / hotel_name|choose;want to stay at / check_in_date|want to
check in at #;want # from / check_out_date|want to leave # / number_of_days|days DO want to stay at #|number of days
at # / price_per_night*|IS a night at # / price*,total_price*|DOES # cost|total price of # / number_of_rooms|rooms DO
need at #|number of rooms at # / movie: title,movie_name|choose;want to see / genre|movie DO want / location|want to
see a movie in|city of the cinema / show_date|want to see # / show_time|DOES # start / theater_name|!which cinema DO
choose|name of the cinema / price|IS a ~ ticket|price of a ~ ticket / number_of_tickets|movie tickets DO want|number
of ~ tickets / directed_by*||director of # / song: song_name|choose;want to hear / artist*|!who sings # /
album*|!which album IS # on / genre|music DO want / rental-car: car_name|choose|model of # / pickup_location|!where DO
pick up # / pickup_city|rent a car in / pickup_date|pick up #;need # from / dropoff_date|return #;bring back # /
pickup_time|pick up # / total_price|DOES # cost;IS # / cab: destination|!where DO want to go by cab;!where DO need #
to go / ride_fare|DOES # cost|fare of # / approximate_ride_duration|!how long DOES # ride take|duration of # ride /
wait_time|!how long IS the wait for #|waiting time for # / number_of_riders,number_of_seats|people DO need #
for|number of people in # / salon dentist doctor: stylist_name,dentist_name,doctor_name|choose;want to go to /
city|look for a ~ in;need a ~ in / appointment_date|want to see #;IS the ~ appointment / appointment_time|want the ~
appointment;IS the ~ appointment / attraction: location|look for attractions in;want to go sightseeing in /
attraction_name|want to see;choose / weather: city|ask about # in|city of # report / date|ask about #;want to know
#|day of # report / temperature|!how warm IS #|temperature in # report / humidity|!how humid IS it|humidity in #
report / wind|!how strong IS the wind|wind speed in # report / precipitation|!how likely IS rain|chance of rain in #
report / transfer: amount|DO want to send;money DO want to transfer / balance|IS in the account|account balance /
recipient_account_name|DO want to send money to|recipient of # / table: people|people DO want to bring;people DO book
for;!table for how many|number of people at # / time|want #;ask for;want to come / date|want #;ask for;want to come /
name|!what name DO give for the booking;!under which name DO book|name on the booking"""
NOUNS = {"from_location": "starting city", "origin_city": "starting city", "to_location": "destination", "area": "city",
         "destination_city": "destination", "location": "city", "directed_by": "director", "people": "number of people",
         "recipient_account_name": "recipient", "approximate_ride_duration": "ride duration", "event_date": "date"}
KINDS = [kind.split("=") for kind in """count=number.of|size|duration|wait|temper|humid|precip|wind|group|passengers
date=date time=time price=price|fare|rent|amount|balance phone=phone address=address rating=rating
spot=station|airport|venue|theater person=director|artist|recipient place=city|destination|location
sort=genre|cuisine|category|album name=""".split()]
HEADS = {"place": "which city", "date": "which day", "time": "what time", "sort": "what kind of", "person": "who",
         "price": "how much", "count": "how many", "rating": "how well"}
# numbers of people, tickets and rooms are left out by the annotation: they are found by the unit they stand before
UNITS = {**dict.fromkeys("party_size group_size number_of_tickets passengers number_of_riders".split(),
                         "people|persons?|tickets?|passengers?|seats?"), "number_of_rooms": "rooms?",
         "number_of_beds": "bed ?rooms?|beds?", "number_of_baths": "bath(?:room)?s?"}
UNIT = re.compile(r" ?(%|percent|degrees( fahrenheit)?|miles per hour|minutes?|days?|people|tickets?|rooms?)(?!\w)",
                  re.I)
CITIES = {"sf": "san francisco", "sfo": "san francisco", "san fran": "san francisco", "la": "los angeles",
          "atl": "atlanta", "ny": "new york", "nyc": "new york", "vegas": "las vegas", "chi-town": "chicago",
          "philly": "philadelphia"}
NAMES = """Ana Maya Tom Lena Omar Priya Jonas Kofi Elif Bruno Nadia Felix Ingrid Mateo Yara Hugo Amina Derek Rosa Viktor
Leila Owen Mei Carlos Greta Idris Paula Samir Tessa Boris Clara Dmitri Esther Farid Gwen Hana Ivo Jada Kenji""".split()
STYLES = ("{n}: {t}", "{n}: {t}", "[{c}] {n}: {t}", "{c} {n}: {t}", "<{n}> {t}", "{n} > {t}", "- {n}: {t}")
FIRST, LAST = ("at first", "originally", "to begin with"), ("in the end", "now", "finally", "")
CONFIRM = re.compile(r"\bconfirm|\b(right|correct)\b.{0,9}\?|following|make sure|making sure|to review|be clear", re.I)
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
WEEK = "mon tue wed thu fri sat sun".split()
MONTH = r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
NUMBER, DAY = r"\b(" + "|".join(NUMBERS) + r")\b", r"\b(" + "|".join(DAYS) + r")\b"
# what may be an unannotated value of its kind: where one stands, "never told" is not certain
PROOF = {"date": MONTH + "|" + DAY + r"|\d(st|nd|rd|th)\b|day|night|week|tomorrow|month", "phone": r"\d{3}|\d \d\d",
         "time": r"\d ?[ap]\.?m\b|\d[:.]\d\d|clock|noon|morning|evening|midnight|hour|\bat \w+\b",
         "rating": r"\d\.\d|star|rated", "price": r"[$£€]|dollar|bucks|free\b|\bcost.*\d",
         "address": r"\d\d|street|avenue|road|drive|plaza",
         "place": r"\b(in|at|to|from|near|around|for) (?-i:[A-Z])",
         "count": NUMBER + r"|\d|\b(me|us|we|alone|couple|family|friends?|myself|an?)\b"}
Row = namedtuple("Row", "thing slots kind star noun clauses phrase")
Mention = namedtuple("Mention", "talk row line text norm by sure")  # sure: the person's own or confirmed, not an offer


def read_table():
    """(thing, slot) -> Row; the kind of a slot and what it is called are in its name."""
    rows = {}
    for cell in " ".join(TABLE.split()).split(" / "):
        if new := re.match(r"([a-z -]+): ", cell):
            things, cell = new[1].split(), cell[new.end():]
        slots, clauses, phrase = (cell + "||").split("|")[:3]
        noun = NOUNS.get(slots.strip("*").split(",")[0], slots.split(",")[0].strip("*").replace("_", " "))
        kind = next(kind for kind, words in KINDS if re.search(words, noun))
        for thing in things:
            row = Row(thing, slots.replace("*", "").split(","), kind, "*" in slots, thing if kind == "name" else noun,
                      clauses.split(";") if clauses else [], phrase or f"{'name' if kind == 'name' else noun} of #")
            rows.update({(thing, slot): row for slot in row.slots})
    return rows


ROWS = read_table()


def norm(kind, text):
    """A value in one spelling: 'the 8th' is 'March 8th', 'half past 5' is '5:30 pm', 'SF' is 'San Francisco'."""
    text = re.sub(r"[^\w$:.-]+", " ", text.lower()).strip(" .")
    if kind == "date":  # the dialogues' today is Friday, March 1st
        month, day = re.search(MONTH, text), re.search(DAY + r"|\d+", text)
        week = re.search(r"\b(" + "|".join(WEEK) + ")", text)
        if day and (month or re.search(r"\d(st|nd|rd|th)|the ", text)):
            return f"{month[1] if month else 'mar'} {DAYS.index(day[0]) if day[0] in DAYS else int(day[0])}"
        if week:
            return f"mar {WEEK.index(week[1]) + 4 - 7 * (week[1] in WEEK[5:] and 'this' in text)}"
        return {"today": "mar 1", "tomorrow": "mar 2", "day after tomorrow": "mar 3"}.get(text, text)
    if kind in ("time", "count", "price", "rating"):
        text = re.sub(NUMBER, lambda word: str(NUMBERS.index(word[0])), text)
        clock = re.search(r"(half past|quarter past|quarter to)? ?(\d{1,2})(?:[:.](\d\d))?", text)
        if kind == "time" and clock:
            part = {"half past": 30, "quarter past": 15, "quarter to": -15}.get(clock[1], 0)
            return str((60 * int(clock[2]) + int(clock[3] or 0) + part) % 720)
        number = re.search(r"\d[\d.]*", text.replace(" ", ""))
        return number[0].rstrip(".") if number and kind != "time" else text
    text = re.sub(r"^the ", "", text)
    return CITIES.get(text, text)


def gather(turns, things, spans):
    """A talk: its turns, its things (their services), what it tells. A name within another is a spelling of it."""
    talk = {"turns": turns, "things": things, "told": [], "text": "\n".join(text for _, text in turns)}
    for row, turn, start, end in sorted(spans, key=lambda span: span[1:]):
        by, text = turns[turn]
        sure, text = by == "U" or bool(CONFIRM.search(text)), text[start:end].strip(" ,;!?")
        text = text if re.search(r"[ap]\.m\.$", text, re.I) else text.rstrip(".")
        if not text:
            raise ValueError("an empty span")
        value = norm(row.kind, text)
        if row.kind in ("name", "place", "spot", "address", "person"):
            value = next((m.norm for m in talk["told"] if m.row is row and (m.norm in value or value in m.norm)), value)
        talk["told"].append(Mention(0, row, turn, text, value, by, sure))
    return talk


def read_dialogue(record):
    """A talk of a dialogue of sgd; without things it has two services of: a span does not say which one it is of."""
    called = {s: THINGS.get(s, THINGS.get(s.split("_")[0])) for s in record["services"]}
    seen = Counter([*called.values(), *(s.split("_")[0] for s in called)])
    family = {s.split("_")[0]: s for s, thing in called.items() if thing and seen[thing] == seen[s.split("_")[0]] == 1}
    turns = [(by, re.sub(r"\s", " ", text)) for by, text in record["turns"]]
    spans = [(ROWS[called[family[s]], slot], turn, start, end) for turn, s, slot, start, end in record["spans"]
             if s in family and (called[family[s]], slot) in ROWS]
    things = {called[s]: s for s in family.values()}
    counts = {id(row): row for (thing, _), row in ROWS.items() if thing in things and row.slots[0] in UNITS}.values()
    shared = Counter(UNITS[row.slots[0]] for row in counts)  # 'people' of the table, or of the cab?
    for row in counts:
        unit = UNITS[row.slots[0]]
        spans += [(row, turn, *number.span(1)) for turn, (_, text) in enumerate(turns) if shared[unit] == 1
                  for number in re.finditer(rf"(\b\d|{NUMBER}) (?:{unit})\b", text, re.I)]
    return {**gather(turns, things, spans), "families": {s.split("_")[0] for s in called}}


def read_message(record):
    """A talk of one message about a table; first and last name are one name."""
    text, spans = re.sub(r"\s", " ", record["text"]), {slot: (start, end) for slot, start, end in record["spans"]}
    name = [spans[part] for part in ("first_name", "last_name") if part in spans]
    if name and not text[name[0][1]:name[-1][0]].strip():
        spans["name"] = name[0][0], name[-1][1]
    told = [(ROWS["table", slot], 0, *at) for slot, at in spans.items() if ("table", slot) in ROWS]
    return {**gather([("U", text)], {"table": ""}, told), "families": {"Restaurants"}}


def is_booking(talk):
    """Is a message clear without what it answers ('8'), and about the table?"""
    return len(talk["text"].split()) > 2 and not re.search(r"flight|hotel|train|taxi|plane", talk["text"], re.I)


def build(talks, mode, rng):
    """A memory of talks: lines in one style, who asks in each talk (None: they don't say), what is told where."""
    names = sorted(set(NAMES) - {word.title() for talk in talks for word in re.findall(r"\w+", talk["text"])})
    rng.shuffle(names)
    memory = {"talks": talks, "sents": [], "labels": [], "told": [], "who": [], "helper": []}
    style, clock, user = rng.choice(STYLES), rng.randrange(420, 1200), rng.choice(("I", "the user"))
    left = []
    for number, talk in enumerate(talks):
        me = mode == "me" or mode == "messages" and number == 0 and rng.random() < 0.4
        label = {"user": "User", "none": ""}.get(mode) or ("Me" if me else names.pop())
        helper = names.pop() if mode in ("me", "named") and rng.random() < 0.6 else rng.choice(("Agent", "Assistant"))
        memory["who"].append({"user": user, "none": None}.get(mode, "I" if me else label))
        memory["helper"].append(None if mode == "none" else helper if helper in NAMES else f"the {helper.lower()}")
        left.append([({"U": label, "S": helper}[by], turn, text) for turn, (by, text) in enumerate(talk["turns"])])
    order = [number for number, turns in enumerate(left) for _ in turns]
    if mode == "messages":
        rng.shuffle(order)
    for number in order:
        label, turn, text = left[number].pop(0)
        clock += rng.randrange(3)
        told = [m for m in talks[number]["told"] if m.line == turn]
        memory["told"] += [m._replace(talk=number, line=len(memory["sents"])) for m in told]
        time = f"{clock // 60 % 24:02}:{clock % 60:02}"
        memory["sents"].append(text if mode == "none" else style.format(n=label, t=text, c=time))
        memory["labels"].append(label)
    return memory


def ask(row, who, rng, wanted=True, named=False, must=False, bare=False, entity="", when="", described=""):
    """
    A question for a slot in a random wording, or None. wanted: the person wants this value; named: it has to say who;
    must: as what they want; bare: the noun is enough; entity: of the thing of this name; described: the slot once more.
    """
    pool = [f"{'who' if row.kind == 'person' else 'what'} IS the {row.phrase}", f"the {row.phrase}", row.phrase]
    pool += [f"what IS the {described}"] if described else []
    pool += [row.noun, f"what {row.noun}"] if bare and row.kind in HEADS else []
    for clause in row.clauses:
        head = HEADS.get(row.kind, f"which {row.noun}").replace("which", rng.choice(("which", "what")))
        clause = clause if re.search("DO|IS|!", clause) else "DO " + clause
        pool += [clause[1:] if clause[0] == "!" else f"{head} {clause}"] * 4
    wants = [text for text in pool if re.search(r"\bDO\b", text)]
    plain = [text for text in pool if text not in wants and (not entity or "#" in text)]
    if wanted and who and wants and not entity and (must or rng.random() < 0.7):
        text = rng.choice(wants)
    elif must or not plain:
        return None
    else:
        text = rng.choice(plain) + (f" for {'me' if who == 'I' else who}" if named else "")
    present = when == "now" or when not in FIRST and rng.random() < 0.5
    does, thing = "does" if present else "did", row.thing.replace("-", " ")
    text = re.sub(r"\bDO\b", f"{'do' if who == 'I' and present else does} {who}", re.sub(r"\bDOES\b", does, text))
    text = re.sub(r"\bIS\b", "is" if present else "was", text)
    text = text.replace("~", thing).replace("#", entity or f"the {thing}")
    return f"{when}, {text}" if when and rng.random() < 0.3 else f"{text} {when}".strip()


def words(text):
    """The words of a text, between spaces: what is inside of what can be asked with `in`."""
    return " " + re.sub(r"\W+", " ", text.lower()).strip() + " "


def add(qas, memory, question, picks, rng, label=None):
    """Add a question, as a sentence or a note, answered by `picks` (none: nowhere), unless it tells the answer."""
    texts = [label] if label else [m.text for m in picks]
    if not question or any(words(text) in words(question) for text in texts):
        return
    register = rng.random()
    if register < 0.6:
        question = question[0].upper() + question[1:] + "?"
    else:
        question = (question.lower() if register < 0.8 else question) + rng.choice(("", "", "?"))
    answers = set(texts)
    if len(picks) == 1 and not label:
        told, line = picks[0], memory["sents"][picks[0].line]
        answers |= {m.text for m in memory["told"] if (m.talk, m.norm) == (told.talk, told.norm) and m.row is told.row}
        if unit := UNIT.match(line, line.rfind(told.text) + len(told.text)):
            answers.add(told.text + unit[0])
    qas.append({"q": question, "a": texts if len(texts) > 1 else "".join(texts), "answers": sorted(answers),
                "evidence": [m.line for m in picks]})


def how_to_ask(memory, talk, row, schema):
    """What `ask` has to know of a slot: is there another talk of such a thing, or another value of its kind?"""
    named = sum(row.thing in other["things"] for other in memory["talks"]) > 1
    kin = [m for m in memory["told"] if m.row.kind == row.kind and (m.talk == talk or not named)]
    said = [schema.get(f"{memory['talks'][talk]['things'][row.thing]}.{slot}", "") for slot in row.slots]
    clear = [text[0].lower() + text[1:] for text in said if row.thing in text and not re.search(" or |/", text)]
    return {"named": named, "bare": all(m.row is row and m.talk == talk for m in kin), "described": "".join(clear[:1])}


def about_slot(memory, told, schema, rng):
    """The questions on one slot of one talk, of which something is told."""
    qas, talk, row, first, last = [], told[0].talk, told[0].row, told[0], told[-1]
    who, helper, thing = memory["who"][talk], memory["helper"][talk], row.thing.replace("-", " ")
    how = how_to_ask(memory, talk, row, schema)
    clear = [m for m in told if all(n.norm == m.norm for n in told if n.line == m.line)]
    values = sorted({m.norm: m for m in reversed(told)}.values(), key=lambda m: m.line)  # each where it is told first
    names = [m for m in memory["told"] if (m.talk, m.row.thing, m.row.kind) == (talk, row.thing, "name")]
    settled = last.sure and (row.kind != "name" or last.by == "S")  # to name a restaurant is not yet to choose it
    if not row.star or len({m.norm for m in names}) < 2:
        if last in clear and (settled or len(values) == 1):
            for _ in range(1 + (rng.random() < 0.4)):
                when = rng.choice(LAST) if len(values) > 1 else ""
                add(qas, memory, ask(row, who, rng, settled, when=when, **how), [last], rng)
        if first in clear and settled and first.sure and first.norm != last.norm:
            add(qas, memory, ask(row, who, rng, when=rng.choice(FIRST), must=bool(who), **how), [first], rng)
    nouns = re.sub("([^aeo])y$", r"\1ie", row.noun.replace("-", " ")) + "s"
    offers, wishes = ([m for m in values if m.by == by and m.sure == (by == "U")] for by in "SU")
    offered = row.kind in ("name", "time") and not row.star and row.thing != "calendar"
    if offered and len(offers) > 1 and offers[0] is first:
        to = f" to {'me' if who == 'I' else who}" if how["named"] else ""
        did = f"did {helper} suggest{to}" if helper else "was suggested"
        if first in clear:
            add(qas, memory, f"which {nouns[:-1]} {did} first", [first], rng)
        if offers[-1] in clear and all(m.norm == offers[-1].norm for m in told if m.line > offers[-1].line):
            add(qas, memory, f"which {nouns[:-1]} {did} last", offers[-1:], rng)
        if len(offers) < 5:
            add(qas, memory, f"which {nouns} {did.replace('was', 'were')}", offers, rng)
    if 1 < len(wishes) < 5 and who and row.kind in ("place", "date", "time"):
        add(qas, memory, f"which {nouns} did {who} mention for the {thing}", wishes, rng)
    return qas + about_named(memory, told, names, rng) if row.star else qas


def about_named(memory, told, names, rng):
    """The phone number of which one? A value of a slot with a star is of the name that was told last."""
    qas, row, owners = [], told[0].row, []
    for m in told:
        line = max((n.line for n in names if n.line <= m.line), default=None)
        owners.append({n.norm for n in names if n.line == line})
    for name in {n.norm: n for n in names}.values():
        mine = [m for m, owner in zip(told, owners) if owner == {name.norm}]
        other = any(m.norm == name.norm and m.talk != name.talk for m in memory["told"])
        if other or len({m.norm for m in mine}) > 1 or any(len(owner) != 1 for owner in owners):
            continue
        if mine or row.kind in ("phone", "address", "rating"):  # without: told of another one, a near miss
            add(qas, memory, ask(row, None, rng, entity=name.text), mine[-1:], rng)
    return qas


def who_said(memory, rng):
    """Who told a value: the label of its line, where no other line has it, or of the first line that has it."""
    qas = []
    for m in memory["told"]:
        label = memory["labels"][m.line]
        if label in NAMES and memory["helper"][m.talk] and m.row.kind != "count":
            lines = {n for n, line in enumerate(memory["sents"]) if m.text.lower() in line.lower()}
            lines |= {n.line for n in memory["told"] if (n.row.kind, n.norm) == (m.row.kind, m.norm)}
            wish = m.by == "U" and m.row.kind in ("place", "date", "time", "sort")
            question = "who asked for {}" if wish and rng.random() < 0.5 else "who mentioned {}"
            if any(memory["labels"][n] != label for n in lines):
                question = rng.choice(("who mentioned {} first", "who was the first to mention {}"))
            if min(lines) == m.line:
                add(qas, memory, question.format(m.text), [m], rng, label)
    return rng.sample(qas, min(2, len(qas)))


def not_told(memory, schema, rng):
    """Questions without an answer here: on a slot that is never told, on a thing or a person that does not occur."""
    qas, text = [], "\n".join(memory["sents"]).lower()
    for number, talk in enumerate(memory["talks"]):
        told = {id(m.row) for m in talk["told"]}
        rows = {id(ROWS[key]): ROWS[key] for key in ROWS if key[0] in talk["things"]}
        for row in (row for key, row in rows.items() if key not in told and row.kind in PROOF):
            left, service = talk["text"], talk["things"][row.thing]
            for m in talk["told"]:  # the number of the hotel is not that of the dentist
                if m.row.thing != row.thing and row.kind in ("phone", "rating"):
                    left = left.replace(m.text, "")
            in_service = row.thing == "table" or any(f"{service}.{slot}" in schema for slot in row.slots)
            if in_service and not re.search(PROOF[row.kind], left, re.I):
                how = {**how_to_ask(memory, number, row, schema), "bare": False}
                add(qas, memory, ask(row, memory["who"][number], rng, **how), [], rng)
    strangers = [name for name in NAMES if name.lower() not in text]
    families = set().union(*(talk["families"] for talk in memory["talks"]))
    here = {thing for service, thing in THINGS.items() if service.split("_")[0] in families}
    row, who = rng.choice(list(ROWS.values())), rng.choice(memory["who"])
    thing, question = row.thing.replace("-", " "), ask(row, who, rng)
    if row.thing not in here | {"table"} and thing.split()[-1] not in text and thing in question:
        add(qas, memory, question, [], rng)
    if who in NAMES and memory["told"]:
        add(qas, memory, ask(rng.choice(memory["told"]).row, rng.choice(strangers), rng, must=True), [], rng)
    return qas


def questions(memory, schema, rng):
    """The questions of a memory: some of those with an answer, and so many without that they are 15 %."""
    slots = {}
    for m in memory["told"]:
        slots.setdefault((m.talk, id(m.row)), []).append(m)
    asked = [q for told in slots.values() for q in about_slot(memory, told, schema, rng)]
    asked += who_said(memory, rng) + not_told(memory, schema, rng)
    rng.shuffle(asked)
    asked = list({q["q"].lower().rstrip("?"): q for q in asked}.values())
    told = [q for q in asked if q["evidence"]][:5 + 2 * min(4, len(memory["talks"]))]
    return told + [q for q in asked if not q["evidence"]][:int(len(told) * 0.2 + rng.random())]


def memories(dialogues, messages, rng):
    """(source, memory): each dialogue alone and once among others; each message twice, among those of other people."""
    modes = ("named", "named", "me", "user", "none")
    for talk in dialogues:
        yield "sgd", build([talk], rng.choice(modes), rng)
    rest = rng.sample(dialogues, len(dialogues))
    while rest:
        mode, size, group = rng.choice(modes), rng.randint(2, 4), []
        for talk in rest[:size]:  # without names it is the things that tell the talks apart
            if mode == "named" or not any(talk["things"].keys() & other["things"].keys() for other in group):
                group.append(talk)
        rest = rest[size:]
        yield "sgd", build(group, mode, rng)
    rest = rng.sample(messages, len(messages)) + rng.sample(messages, len(messages))
    while rest:
        people, size = [], rng.randint(5, 25)
        for talk in rest[:size]:
            if people and rng.random() < 0.15:  # a second message of the same person
                one, more = people.pop(), [m._replace(line=1) for m in talk["told"]]
                turns, told = one["turns"][:1] + talk["turns"], [m for m in one["told"] if m.line == 0] + more
                talk = {**talk, "turns": turns, "text": "\n".join(text for _, text in turns), "told": told}
            people.append(talk)
        rest = rest[size:]
        yield "restaurant8k", build(people, "messages", rng)


def load(path, read):
    """What `read` makes of the records of a JSON lines file, plain or .xz."""
    out = []
    try:
        with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    out.append(read(json.loads(line)))
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    raise UserError(f"{path}, line {number}: {type(error).__name__}: {error}") from None
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    return out


def main(argv=None):
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description="write questions on dialogues and messages", allow_abbrev=False)
    for name in ("--sgd", "--slots", "--restaurant", "--output"):
        flag(parser, name, metavar="FILE", required=True)
    flag(parser, "--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        with open(args.slots, encoding="utf-8") as file:
            schema = dict(json.load(file))
    except (ValueError, TypeError) as error:
        raise UserError(f"{args.slots}: no slot descriptions: {error}") from None
    dialogues = load(args.sgd, read_dialogue)
    messages = [m for m in load(args.restaurant, read_message) if is_booking(m)]
    rng, lines, count = random.Random(args.seed), [], Counter()
    for source, memory in memories(dialogues, messages, rng):
        if qas := questions(memory, schema, rng):
            lines.append(json.dumps({"src": source, "sents": memory["sents"], "qas": qas}, ensure_ascii=False))
            count.update([source] + ["answered" if q["evidence"] else "refused" for q in qas])
    atomic_write(args.output, lambda file: file.writelines(f"{line}\n".encode() for line in lines))
    print(f"{args.output}: " + ", ".join(f"{n:,} {what}" for what, n in sorted(count.items())), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
