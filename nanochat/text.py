"""Text on its way in and out, as people write it and as a terminal shows it. No torch: `--help` answers at once."""
import datetime
import re

LINE_END = re.compile(r"\r\n|\r|\n")   # not splitlines(): a form feed or U+2028 within a line is text
# a line that begins like this, and does not end like a statement, is a question without its mark
ASKS = re.compile(r"(who|whom|whose|what|what's|where|where's|when|which|why|how)\b", re.IGNORECASE)


def split_episodes(text, unit):
    """[(text, line number it begins at)] of the episodes in a text. unit: line, paragraph (up to a blank line) or file."""
    lines = LINE_END.split(text)
    if unit == "line":
        groups = [(i, i + 1) for i in range(len(lines))]
    else:
        ends = [i for i, line in enumerate(lines) if not line.strip()] if unit == "paragraph" else []
        groups = list(zip([0, *(i + 1 for i in ends)], [*ends, len(lines)]))
    episodes = []
    for begin, end in groups:
        while begin < end and not lines[begin].strip():
            begin += 1
        if whole := "\n".join(lines[begin:end]).strip():
            episodes.append((whole, begin + 1))
    return episodes


def is_question(line):
    """Whether a line of a conversation is asked rather than told: it ends in '?', or begins with a question word and does not end in '.' or '!'."""
    line = line.strip().rstrip("\"')”’ ")
    return line.endswith(("?", "？", "؟")) or bool(ASKS.match(line)) and not line.endswith((".", "!", "…"))


def printable(text, stream):
    """What was ingested may hold escape codes, which a terminal is not to act on, and characters that the stream can't take."""
    if stream.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def shortened(text, most):
    """One line of at most so many characters."""
    line = " ".join(text[:8 * most].split())
    return line if len(line) <= most else line[:most - 1] + "…"


def lived(seconds, zone=datetime.timezone.utc):
    """The datetime of seconds since 1970, zone None: local time. None where they are not known, or no calendar goes so far (milliseconds, by mistake)."""
    try:
        return datetime.datetime.fromtimestamp(seconds, zone) if seconds is not None and seconds >= 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def iso(seconds):
    """Seconds since 1970 in ISO 8601, UTC; None where they are not known."""
    return when.isoformat() if (when := lived(seconds)) else None
