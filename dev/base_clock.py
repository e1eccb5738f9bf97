"""How the timelines of the synthetic base count: the marker, its preposition, and the numbers."""
from dev.base_words import TIME_SIGNS, TIME_WORDS

# how a moment is asked about, and the present
BEFORE = ("just before {}", "right before {}", "immediately before {}", "previous to {}", "directly before {}", "in the entry before {}",
          "one line before {}", "shortly before {}", "before {} came", "prior to {}", "the time before {}")
BEFORE_ANY = tuple(form for form in BEFORE if "entry" not in form and "line" not in form)  # also of a moment without a line
AS_OF = ("as of {}", "as of {}", "by {}", "by {}", "until {}", "around {}", "on {}", "at {}", "at {}", "up to {}", "as late as {}", "going by what held at {}", "with {} reached")
# a moment in the shape of a condition: of the past, of a moment between two lines, and of the time to come
GIVEN = ("supposing it is {}", "say it is {}", "assuming {}", "once it is {}", "should it be {}", "with {} on the clock", "as soon as {} is there", "taking {} as the moment", "given {}",
         "suppose we are at {}", "once {} has come", "picture {}", "provided it is {}")
GIVEN_LEADS = tuple(form[:form.index("{")] for form in GIVEN if not form.startswith("once {"))
NOW = ("{} now", "{} at the moment", "{} currently", "{} right now", "now, {}", "at present, {}", "{} these days", "as things stand, {}", "currently, {}",
       "{} at this point", "{} by now", "{} today", "{} in the end", "at the moment, {}", "in the end, {}", "{}, as far as we know now", "by now, {}",
       "{}, most recently", "according to the latest word, {}", "{} at present", "{}, going by the last report")


class Clock:
    """Marker and numbers of a timeline of up to n lines.

    kind is "dense" (every number has its line), "sparse" (increasing, with gaps in which the last line still holds) or
    "unordered" (the numbers are mere labels).
    """

    def __init__(self, rng, n):
        roll = rng.random()
        self.say_word = None
        if roll < 0.35:
            self.mark, self.prep = "t={n}", "at"
        elif roll < 0.7:
            self.say_word, self.prep = rng.choice(TIME_WORDS)
            self.mark = self.say_word + " {n}"
        elif roll < 0.9:
            self.mark, self.prep = rng.choice(TIME_SIGNS)
        else:
            self.mark, self.prep = "{n}", "at"
        digits = rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 5, 5))
        start = rng.randrange(1 if digits == 1 else 10 ** (digits - 1), 10 ** digits)
        self.width = rng.choice((4, 5, 6)) if rng.random() < 0.05 else 0
        roll = rng.random()
        self.kind = "dense" if roll < 0.54 else "sparse" if roll < 0.85 else "unordered"
        if roll < 0.54:
            self.numbers = range(start, start + n)
        elif roll < 0.6:
            self.numbers = range(start, start + n * 10, rng.randint(2, 10))
        elif roll < 0.79:
            self.numbers = self._irregular(rng, start, n)
        elif roll < 0.85:
            self.numbers = self._spread(rng, n)
        elif roll < 0.89:
            self.numbers = self._irregular(rng, start, n)
            rng.shuffle(self.numbers)
        else:
            self.numbers = self._similar(rng, n)

    @staticmethod
    def _irregular(rng, start, n):
        numbers, pace = [start], rng.choice((0.5, 0.3, 0.15, 0.05))
        while len(numbers) < n:
            numbers.append(numbers[-1] + 1 + int(rng.expovariate(pace)))
        return numbers

    @staticmethod
    def _spread(rng, n):
        """Times of all lengths side by side: 7, 77, 7707."""
        numbers = set()
        while len(numbers) < n:
            numbers.add(int(10 ** rng.uniform(0, 5)))
        return sorted(numbers)

    @staticmethod
    def _similar(rng, n):
        """Times that are easily confused: a digit changed, swapped, added or left out."""
        numbers = [rng.randrange(10, 100000)]
        seen = set(numbers)
        while len(numbers) < n:
            number = similar_number(rng, str(rng.choice(numbers[-40:])))
            if number and number[0] != "0" and len(number) <= 6 and int(number) not in seen:
                seen.add(int(number))
                numbers.append(int(number))
        return numbers

    def show(self, number):
        """The marker with a number in it."""
        return self.mark.format(n=str(number).zfill(self.width))

    def bare(self, i):
        """The marker of line i."""
        return self.show(self.numbers[i])

    @staticmethod
    def to_come(rng, last):
        """A number beyond the last: a little, or many times as much. Not the next one, just before which the last still is."""
        return last + rng.randint(2, rng.choice((4, 30))) if rng.random() < 0.4 else max(last + 2, int(last * rng.uniform(1.1, 3) if rng.random() < 0.5 else last * rng.uniform(2, 10)))

    def unlogged(self, rng, count):
        """A number that none of the first `count` lines has and of which they tell nothing; None where there is none."""
        if not count:
            return self.numbers[0] + rng.choice((0, 1, rng.randrange(100)))
        first, last = min(self.numbers[:count]), max(self.numbers[:count])
        far = rng.choice((3, 20, 10 ** len(str(last))))
        after, before = last + rng.randint(1, far) if rng.random() < 0.6 else self.to_come(rng, last), first - rng.randint(1, min(far, first)) if first else None
        if self.kind == "dense":
            return before if before is not None and rng.random() < 0.2 else after
        if self.kind == "sparse":
            return before
        number = similar_number(rng, str(rng.choice(self.numbers[:count]))) if rng.random() < 0.6 else str(rng.choice((before or after, after)))
        told = list(self.numbers[:count])
        if not number or int(number) in told or told == sorted(told) and int(number) > first:  # so far they might be moments
            return None
        return int(number)


def similar_number(rng, number):
    """The digits of a number with one of them changed, swapped, added or left out."""
    digits = list(number)
    i, roll = rng.randrange(len(digits)), rng.random()
    if roll < 0.5:
        digits[i] = rng.choice("0123456789")
    elif roll < 0.75:
        j = rng.randrange(len(digits))
        digits[i], digits[j] = digits[j], digits[i]
    elif roll < 0.88:
        digits.insert(i, rng.choice("0123456789"))
    else:
        del digits[i]
    return "".join(digits)
