"""
A memory as one HTML page that needs no network: a timeline of its episodes, a search box, what each trace holds, and
for questions that were asked with `scripts.query --json --routing` how far they address each episode. The page is
view.html with the data put in.
"""
import json
from pathlib import Path

from nanochat.common import UserError
from nanochat.memory_file import traces_path
from nanochat.text import json_line

MOST = 50_000   # episodes on a page that a browser still shows at once


def page(store, tokenizer, answers=(), last=MOST):
    """
    The page as text. store: an open memory.Store; answers: of read_answers; last: how many of the newest episodes are
    on it.
    """
    content = store.content
    first = max(0, len(store) - last) + 1
    episodes = []
    for ordinal, ids in enumerate(store.episode_ids(first), first):
        name, line, time = content.row(ordinal)
        words, tokens = trace_words(tokenizer, ids, store.layout.geometry["chunk"])
        episodes.append([words, tokens, int(content.source[ordinal - 1]), line, time])
    shown = "" if len(episodes) == len(store) else f", the newest {len(episodes):,} are on this page"
    data = {"name": store.path.name, "file": traces_path(store.path).name, "first": first,
            "first_record": int(content.first[first - 1]),
            "header": store.end - len(content.checks) * store.layout.stride, "stride": store.layout.stride,
            "sources": content.names, "episodes": episodes,
            "about": f"{len(store):,} episodes{shown}; {len(content.checks):,} traces, {store.bytes:,} bytes; model "
                     f"{content.identity['weights'][:12]}",
            "questions": [checked(answer, len(store)) for answer in answers]}
    template = Path(__file__).with_name("view.html").read_text(encoding="utf-8")
    # no text may end the script element it stands in
    return template.replace("{{data}}", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def trace_words(tokenizer, ids, chunk):
    """
    The words of each trace of an episode, and its number of tokens; a character that is cut by the end of a trace is in
    the one that ends it.
    """
    decoder, words, tokens = tokenizer.stream_decoder(skip_special=True), [], []
    for at in range(0, len(ids), chunk):
        part = ids[at:at + chunk].tolist()
        words.append("".join(map(decoder.feed, part)))
        tokens.append(len(part))
    if words:
        words[-1] += decoder.flush()
    return words, tokens


def read_answers(path):
    """[dict] of a file that scripts.query --json wrote. UserError (code 2) names the line that is not of it."""
    answers = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                item = json_line(line)
                answers.append({"question": str(item["question"]), "answer": str(item["answer"]),
                                "confidence": float(item["confidence"]),
                                "episodes": [(int(e["episode"]), float(e["score"])) for e in item["episodes"]],
                                "routing": [(int(id), float(share)) for id, share in item.get("routing", ())]})
                json.dumps(answers[-1], allow_nan=False)   # a browser reads no nan
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise UserError(f"{path}, line {number}: not an answer of scripts.query --json ({error})",
                                code=2) from error
    return answers


def checked(answer, count):
    if any(not 1 <= id <= count for id, _ in answer["episodes"] + answer["routing"]):
        raise UserError(f"the answer to '{answer['question']}' is read from an episode that is not in this memory: ask "
                        "it again")
    # without --routing, what is known is what was copied from
    return {**answer, "routing": answer["routing"] or answer["episodes"]}
