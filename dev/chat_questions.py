"""
Chats of people as memories with questions, for scripts.memory_eval --tasks finding: a line a turn, "Speaker: text".

    python dev/chat_questions.py --input friendsqa_dev.json irc_ubuntu.jsonl slack_racket_elm.jsonl --output chats.jsonl

FriendsQA (.json): its questions; evidence is the turns that its answers name. Logs (.jsonl, {"log", "user", "text"},
and a turn's number "i" with "reply_to" [numbers], or "conv" the conversation): a turn of up to 300 characters that ends
in "?" is asked, evidence is what others said in reply, and the turn itself is not remembered. Each file is one memory.
"""
import argparse
import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import Help, UserError, atomic_write, flag, run_main  # noqa: E402

LONGEST = 300   # characters of a question
ADDRESSED = re.compile(r"^(?:<@[^>]+>|[\w\[\]|-]+:)[,:]?\s+")   # to whom a turn is said


def friends(path):
    """(lines, [(question, indices of lines)]) of FriendsQA."""
    lines, asked = [], []
    for chat in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for part in chat["paragraphs"]:
            place = {turn["uid"]: len(lines) + n for n, turn in enumerate(part["utterances:"])}
            lines += [f"{' and '.join(turn['speakers'])}: {turn['utterance']}" for turn in part["utterances:"]]
            asked += [(qa["question"], sorted({place[answer["utterance_id"]] for answer in qa["answers"]}))
                      for qa in part["qas"]]
    return lines, asked


def log(path, most):
    """The same of the first `most` turns of a log."""
    turns = [turn for turn in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if turn["user"]][:most]
    number = {(turn["log"], turn["i"]): n for n, turn in enumerate(turns) if "i" in turn}
    replies, first = defaultdict(list), {}
    for n, turn in enumerate(turns):
        of = ([number.get((turn["log"], i)) for i in turn.get("reply_to", [])] if number
              else [first.setdefault((turn["log"], turn["conv"]), n)])
        for m in of:
            if m is not None and m < n and turns[m]["user"] != turn["user"]:
                replies[m].append(n)
    asked = {m for m in replies if turns[m]["text"].rstrip().endswith("?") and len(turns[m]["text"]) <= LONGEST}
    place = {n: k for k, n in enumerate(n for n in range(len(turns)) if n not in asked)}
    found = [(ADDRESSED.sub("", turns[m]["text"]), [place[n] for n in replies[m] if n in place]) for m in sorted(asked)]
    return ([" ".join(f"{turns[n]['user']}: {turns[n]['text']}".split()) for n in place],
            [(" ".join(q.split()), evidence) for q, evidence in found if q and evidence])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    flag(parser, "--input", nargs="+", required=True, metavar="FILE", help="")
    flag(parser, "--output", required=True, metavar="FILE", help="JSON lines")
    flag(parser, "--turns", type=int, default=10_000, help="of a log that are read")
    args = parser.parse_args(argv)
    if args.turns < 1:
        raise UserError("--turns must be at least 1", code=2)
    rows = []
    for path in map(Path, args.input):
        try:
            lines, asked = friends(path) if path.suffix == ".json" else log(path, args.turns)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no chat of a known form ({type(error).__name__}: {error})") from error
        rows.append({"src": path.name.partition(".")[0], "sents": lines,
                     "qas": [{"q": q, "a": "", "evidence": evidence} for q, evidence in asked]})
        print(f"{path}: {len(lines):,} turns, {len(asked):,} questions", file=sys.stderr)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomic_write(args.output, lambda file: file.write(text.encode("utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
