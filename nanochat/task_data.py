"""
What the tasks of memory_eval are made of: questions and stories, values and names, prose and chat.

A task yields cells. A cell is one number to report: stories (what is lived through, an episode a text) with questions
to be asked about them. A question says what is expected, after how many episodes it is asked, which episode is the
evidence, and which episodes are hidden in the story for this question alone (a needle), so that a haystack of millions
of tokens is read once for all of its needles.
"""
import functools
import lzma
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from nanochat.common import UserError
from nanochat.text import json_line

REFUSAL = "I don't know"


@dataclass
class Question:
    text: str
    answer: str
    # index of the episode that holds the answer, in the story as it is when asked (hidden ones counted); -1 = none or
    # unknown
    evidence: int = -1
    kind: str = "all"      # reported apart
    after: int = None      # asked when so many episodes of the story have been told; None = all of them
    hidden: tuple = ()     # ((place, text), …) by place: put before episode `place`, for this question alone
    group: str = ""        # questions that belong together: answers that should be the same, or be right together
    stale: tuple = ()      # what was true once
    loose: bool = False    # case, punctuation and articles do not count
    parts: tuple = ()      # scored by the share of these that the answer holds; () = by exact match


@dataclass
class Story:
    episodes: list                  # of str
    traces: object = None           # what trials.py keeps here: the traces of the first episodes …
    ends: list = field(default_factory=lambda: [0])   # … and how many traces there are after each
    seconds: float = 0.0


@dataclass
class Part:
    story: Story
    questions: list
    other: Story = None    # somebody else's life, for the control

    def told(self, question):
        """The episodes as they are when the question is asked: list of str."""
        out = list(self.story.episodes[:question.after])
        for k, (place, text) in enumerate(question.hidden):
            out.insert(place + k, text)
        return out


@dataclass
class Cell:
    facts: dict            # what tells this cell from the others of the task
    parts: list
    length: str = ""       # which of the facts is the length


# -----------------------------------------------------------------------------
# Values and names, none of which the base has

WORDS = ("accordionist almanac asteroid avocado balcony-seat bagel barcode bassline blizzard bonsai boomerang brocade "
         "burrito cactus-pot calypso canyon "
         "caravan catapult cobweb cricket-bat crocodile cupcake cyclone dolphin domino-tile dynamo eclipse espresso "
         "falcon fiddlestick flamingo gazelle "
         "gondola gorilla hammock harpoon iguana jigsaw kangaroo lagoon lobster marzipan mammoth meteor monsoon moped "
         "nectarine nebula nougat oasis octopus "
         "orbit papaya pelican penguin pickaxe piranha platypus porcupine pretzel pyramid rhubarb rickshaw sardine "
         "scorpion seahorse skateboard squirrel "
         "stingray tambourine tarantula toboggan tornado toucan trampoline truffle tuxedo typhoon unicycle volcano-rim "
         "walrus wombat xylophone yo-yo zeppelin").split()
ADJECTIVES = ("brisk cobalt-blue drowsy electric fuzzy gilded hollow jagged lopsided magnetic nimble plaid quilted "
              "ribbed scented tangled unlit wobbly zesty padded".split())
CITIES = ("Ljubljana Nicosia Montevideo Valletta Bratislava Reykjavik Tbilisi Kathmandu Antananarivo Bogota Vilnius "
          "Skopje Podgorica Asmara Bishkek Dushanbe "
          "Gaborone Harare Islamabad Jakarta Kigali Lusaka Manila Ottawa Paramaribo Rabat Sarajevo Tirana Ulaanbaatar "
          "Yerevan").split()
PEOPLE = ("Abelard Blessing Corentin Dragana Eustace Fumiko Gottfried Hyacinth Ignatius Jocasta Kazimir Leocadia "
          "Melisande Nikephoros Ottoline Philippa "
          "Quirino Radmila Severin Theodora Umberto Valentina Wilhelmina Xanthe Ysolde Zbigniew Anselm Brunhilde "
          "Clementine Dagobert").split()

# noun -> values; what somebody likes
TASTES = {
    "ice cream flavour": "pistachio stracciatella hazelnut coconut peppermint raspberry blueberry caramel lychee mocha "
                         "butterscotch praline",
    "board game": "Catan Monopoly Scrabble Cluedo Carcassonne Risk Pandemic Othello Mastermind Stratego Yahtzee Jenga",
    "film": "Casablanca Fargo Amadeus Alien Rashomon Metropolis Gladiator Titanic Psycho Solaris Jaws Inception",
    "composer": "Mahler Chopin Vivaldi Ravel Debussy Brahms Sibelius Bartok Schubert Haydn Puccini Grieg",
    "pasta shape": "penne fusilli farfalle rigatoni orecchiette tagliatelle linguine fettuccine lasagne cannelloni "
                   "tortellini pappardelle",
    "dog breed": "dachshund poodle corgi collie greyhound whippet husky labrador terrier rottweiler boxer dalmatian",
    "painter": "Vermeer Klimt Monet Hopper Goya Rembrandt Magritte Kandinsky Cezanne Hokusai Matisse Botticelli",
    "spice": "cumin turmeric saffron paprika nutmeg cinnamon sumac fennel caraway allspice cayenne vanilla",
    "ballroom dance": "salsa foxtrot flamenco polka bachata rumba samba quickstep charleston bolero mazurka merengue",
    "tree": "sequoia cypress baobab sycamore larch hawthorn magnolia eucalyptus juniper rowan aspen mahogany",
    "football club": "Ajax Arsenal Juventus Benfica Celtic Feyenoord Galatasaray Lazio Schalke Everton Napoli Fulham",
    "novelist": "Tolstoy Kafka Dickens Borges Proust Woolf Orwell Hemingway Tolkien Steinbeck Melville Zola",
    "pizza topping": "pepperoni mozzarella capers anchovies pineapple artichokes jalapenos prosciutto gorgonzola "
                     "rocket sweetcorn chorizo",
    "yoga pose": "cobra lotus headstand plough cowface pigeon-pose triangle-pose warrior downdog sphinx camel-pose "
                 "mountain-pose",
}
LIKES = ("When it comes to the {n}, I always go for {v}.", "Of every {n} I know, {v} wins me over.",
         "{v} has been my number one {n} since school.",
         "Ask me for a {n} and I say {v}.", "I'd pick {v} over any other {n}.",
         "You should know that I adore {v}; no other {n} comes close.")
LIKES_ANEW = ("I have changed my mind about the {n}: it is {v} and {old} is out.",
              "Forget {old}, my number one {n} has become {v}.",
              "Lately {v} is the {n} I go for; I dropped {old}.")
LIKED = ("Which {n} do I go for?", "What is my number one {n}?", "Can you say what {n} I like the most?",
         "If I could pick any {n}, which one would it be?",
         "My top {n}, which one is that?", "Which {n} am I fondest of?")
TALK = ("Took me {i} minutes to get through the traffic this morning.", "Did you hear {x} is expecting twins?",
        "The copier on floor {i} is jammed again.",
        "Could you check the grammar in this paragraph for me?",
        "My phone battery dies after {i} hours, it drives me mad.", "Sure, happy to help with that.",
        "What time does the pharmacy close on Sundays?", "{x} still owes me {i} euros for the concert tickets.",
        "Let's go over the slides once more.",
        "I slept badly, the upstairs tenants were moving furniture.", "Okay, that makes sense, thanks.",
        "How many grams are there in {i} ounces?",
        "The lift is out of order, so I climbed {i} stairs.", "I can't decide what to cook this evening.",
        "Here is a short summary of the article you sent.",
        "{x} suggested we postpone the call by {i} minutes.", "Is it supposed to be this humid in October?",
        "I'd split that function in two, it is too long.",
        "My inbox has {i} unread mails and counting.", "Sorry, I got distracted, where were we?",
        "There's a queue of {i} people outside the bank.",
        "Translate this sentence into plain English, please.", "{x} keeps humming the same tune, help.",
        "We ran out of toner and sticky notes.")


def digits(rng, n=5):
    return str(rng.randrange(10 ** (n - 1), 10 ** n))


def invented(rng):
    """A word that nobody has seen, of two or three syllables."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "x", "sk"))
                   for _ in range(rng.choice((2, 3, 3))))


def distinct(rng, n, make):
    """n different values of make(rng)."""
    out = {}
    while len(out) < n:
        out[make(rng)] = None
    return list(out)


KEYS = {"digits": digits, "words": lambda rng: " ".join(rng.sample(WORDS, 3)),
        "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4))}


# -----------------------------------------------------------------------------
# Noise: small talk, prose, chat


def small_talk(rng, n):
    """n turns about nothing that is ever asked."""
    return [rng.choice(TALK).format(x=rng.choice(PEOPLE), i=rng.randint(2, 90)) for _ in range(n)]


def read_prose(path, rng=None):
    """
    Paragraphs of a file, JSON lines with a "text" (.xz, too) or plain text, the documents in the order of rng. None is
    longer than 1200 characters.
    """
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8-sig") as f:
        try:
            documents = [json_line(line)["text"] for line in f] if ".jsonl" in path else [f.read()]
        except (ValueError, KeyError, TypeError, lzma.LZMAError) as error:
            raise UserError(f"{path} is not JSON lines with a \"text\" each: {error}") from error
    if rng:
        rng.shuffle(documents)
    for document in documents:
        for paragraph in document.split("\n"):
            paragraph = " ".join(paragraph.split())
            while len(paragraph) > 1200:
                cut = paragraph.rfind(". ", 200, 1200) + 1 or 1200
                yield paragraph[:cut]
                paragraph = paragraph[cut:].strip()
            if len(paragraph) > 20:
                yield paragraph


def measure(tokenizer, paragraphs, lengths, into, path):
    """
    Fill `into` with paragraphs until it holds the longest length (in tokens); {length: number of paragraphs that hold
    it}.
    """
    out, held, wanted = {}, 0, sorted(lengths)
    for paragraph in paragraphs:
        into.append(paragraph)
        held += len(tokenizer.encode(paragraph)) + 2
        while len(out) < len(wanted) and held >= wanted[len(out)]:
            out[wanted[len(out)]] = len(into)
        if len(out) == len(wanted):
            return out
    raise UserError(f"{path} holds {held:,} tokens, fewer than {wanted[-1]:,}")


def read_noise(path, rng, n):
    """n lines "user: text" of real chat: two runs, of two files where path is a directory, interleaved line by line."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no *.jsonl in {path}")
    logs = [_chat(file) for file in (rng.sample(files, 2) if len(files) > 1 else files * 2)]
    each = -(-n // len(logs))
    if any(len(log) < each for log in logs):
        raise UserError(f"{path} has fewer than {n} lines")
    starts = [rng.randint(0, len(log) - each) for log in logs]
    return [logs[i % len(logs)][starts[i % len(logs)] + i // len(logs)] for i in range(n)]


@functools.cache
def _chat(file):
    """The lines "user: text" of a file of JSON lines."""
    try:
        with open(file, encoding="utf-8") as f:
            records = [json_line(line) for line in f]
        return [f"{r['user']}: {' '.join(part.split())}"[:600] for r in records for part in r["text"].split("\n")
                if part.strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not JSON lines with \"user\" and \"text\": {error}") from error
