"""Text on its way in and out, as people write it and as a terminal shows it. No torch: `--help` answers at once."""
import codecs
import datetime
import json
import re

LINE_END = re.compile(r"\r\n|\r|\n")   # not splitlines(): a form feed or U+2028 within a line is text
# a line that begins like this, and does not end like a statement, is a question without its mark
ASKS = re.compile(r"(who|whom|whose|what|what's|where|where's|when|which|why|how)\b", re.IGNORECASE)
# to be told something is asked, however the line ends
WANTS = re.compile(r"(please\s+)?((can|could|would|will)\s+you\s+)?((please\s+)?tell\s+me|"
                   r"(remind|show)\s+me\s+(who|what|where|when|which|why|how)|do\s+you\s+(know|remember))\b",
                   re.IGNORECASE)
# a verb comes first in a question, and in some lines that are told ("Will called", "Do not forget the key")
MAY_ASK = re.compile(r"(am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)"
                     r"\b", re.IGNORECASE)
# what a terminal acts on, or is drawn wrong by: control characters, ends of line, marks that turn the direction of the
# text after them, halves of characters.
# Joiners, direction marks and spaces of any width belong to what people write
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNKNOWN = -1   # in the place of a time, seconds since 1970: earlier ones are below it


def split_episodes(text, unit):
    """
    [(text, line number it begins at)] of the episodes in a text. unit: line, paragraph (up to a blank line) or file.
    """
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
    """
    Whether a line of a conversation is asked rather than told: it ends in '?', asks to be told something, or begins
    with a question word and does not end in '.' or '!'.
    """
    line = line.strip().rstrip("\"')”’ ")
    stated = line.endswith((".", "!", "…"))
    return line.endswith(("?", "？", "؟")) or bool(WANTS.match(line)) or bool(ASKS.match(line)) and not stated


def may_be_question(line):
    """Whether a line that is told (see is_question) may have been meant as a question without its mark."""
    return bool(MAY_ASK.match(line.strip())) and not line.rstrip("\"')”’ ").endswith((".", "!", "…"))


def decoded(data):
    """
    The text of a file's bytes: UTF-8, or UTF-16 or UTF-32 that begins with its mark. ValueError says, in a few words,
    why it is none of these.
    """
    for mark, encoding in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                           (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise ValueError(f"damaged {encoding.upper()} text (at byte {error.start})") from error
    if (at := data.find(0)) >= 0:
        raise ValueError(f"binary, not text (NUL at byte {at})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte 0x{data[error.start]:02x} at byte {error.start}): save it as UTF-8, or "
                         "convert it with iconv") from error


def json_line(line):
    """
    The value of a line of JSON: text, or bytes of UTF-8. Each may begin with a byte-order mark, as in files that were
    put together. ValueError for all else, also for what is nested too deep to be read.
    """
    try:
        return json.loads((line if isinstance(line, str) else line.decode("utf-8")).removeprefix("\ufeff"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def printable(text, stream):
    """
    What was ingested may hold escape codes, which a terminal is not to act on, and characters that the stream can't
    take.
    """
    if stream.isatty():
        text = UNSAFE.sub("\ufffd", text)
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def shortened(text, most):
    """One line of at most so many characters."""
    line = " ".join(text[:8 * most].split())
    return line if len(line) <= most else line[:most - 1] + "…"


def lived(seconds, zone=datetime.timezone.utc):
    """
    The datetime of seconds since 1970, zone None: local time. None where they are UNKNOWN or None, or no calendar goes
    so far (milliseconds, by mistake).
    """
    try:
        return datetime.datetime.fromtimestamp(seconds, zone) if seconds not in (None, UNKNOWN) else None
    except (ValueError, OverflowError, OSError):
        return None


def iso(seconds):
    """Seconds since 1970 in ISO 8601, UTC; None where they are not known."""
    return when.isoformat() if (when := lived(seconds)) else None
