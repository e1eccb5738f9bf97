"""
The trials of memory_eval: tell the stories of a cell to the frozen model, ask, score, run the controls, explain the misses.

A trace depends on its own episode alone, so a story is read once: a shorter story is a prefix of its traces, and an episode that is hidden in it
for one question is read apart and put between.
"""
import math
import re
import sys
import time
from collections import Counter, defaultdict

import torch

from nanochat.engine import answer, episode_text, ingest, question_ids
from nanochat.state import CHUNK, Traces
from nanochat.task_data import REFUSAL

CONTROLS = ("none", "shuffled", "other")


def refused(text):
    """Whether an answer says that the answer is not known."""
    return re.match(r"(sorry,? )?(i )?(don'?t|do not) know|(that|it|this) (was|is) (not|n't|never) (known|said|mentioned)|unknown\b|never (said|mentioned)",
                    text.strip().lower().replace("’", "'")) is not None


def shuffled(traces, seed):
    """The same addresses, but what each trace says is dealt out anew: recall must fall to guessing. Empty slots stay empty."""
    filled = (traces.valid[0] > 0).nonzero().flatten().cpu()
    order = torch.arange(len(traces))
    order[filled] = filled[torch.randperm(len(filled), generator=torch.Generator().manual_seed(seed))]
    said = {name: getattr(traces, name)[:, order.to(traces.ids.device)] for name in ("ids", "before", "keys", "gist")}
    return Traces(**{**traces.as_dict(), **said})


def remember(model, tokenizer, wanted, progress=None):
    """Read what stories need to hold: wanted is a list of (story, number of episodes). One pass over all that is missing, so that rows are full."""
    need = {}
    for story, n in wanted:
        need[id(story)] = story, max(n, need.get(id(story), (story, 0))[1])
    missing = [(story, n, len(story.ends) - 1) for story, n in need.values() if n > len(story.ends) - 1]
    if not missing:
        return
    began = time.perf_counter()
    read = ingest(model, tokenizer, [text for story, n, have in missing for text in story.episodes[have:n]], first_ordinal=0, progress=progress)
    counts = torch.bincount(read.episode[0].long(), minlength=sum(n - have for _, n, have in missing))
    at, episode, seconds = 0, 0, time.perf_counter() - began
    for story, n, have in missing:
        mine = counts[episode:episode + n - have]
        new = read[at:at + int(mine.sum())]
        ordinals = new.episode + (have + 1 - episode)
        new = Traces(**{**new.as_dict(), "episode": ordinals})
        story.traces = new if story.traces is None else Traces.cat([story.traces, new])
        story.ends += (story.ends[-1] + mine.cumsum(0)).tolist()
        story.seconds += seconds * len(new) / max(1, len(read))
        at, episode = at + len(new), episode + n - have


def traces_of(story, question, hidden):
    """The traces of a story as they are when the question is asked. hidden: {text: traces of it}. Episode i has the ordinal i + 1."""
    n = len(story.episodes) if question.after is None else question.after
    if not question.hidden:
        return story.traces[:story.ends[n]]
    parts, lengths, told = [], [], 0
    for place, text in (*question.hidden, (n, None)):
        parts.append(story.traces[story.ends[told]:story.ends[place]])
        lengths += [b - a for a, b in zip(story.ends[told:place], story.ends[told + 1:place + 1])]
        told = place
        if text is not None:
            parts.append(hidden[text])
            lengths.append(len(hidden[text]))
    traces = Traces.cat(parts)
    episode = torch.repeat_interleave(torch.arange(1, len(lengths) + 1, dtype=torch.int32), torch.tensor(lengths))[None]
    return Traces(**{**traces.as_dict(), "episode": episode})


def as_state(model, traces):
    """The state that holds these traces."""
    episode = traces.episode.amax(1) if len(traces) else torch.zeros(1, dtype=torch.int32)
    return {**model.empty_state(1), "traces": traces.to(model.wte.weight.device), "episode": episode.long().to(model.wte.weight.device)}


@torch.no_grad()
def stage(model, tokenizer, state, question, evidence, expected):
    """
    Which stage failed a question: 'address' (the evidence, an ordinal, is not the best-scored episode), 'write' (the answer is not in its traces)
    or 'read'; and how many episodes were scored better.
    """
    ids = question_ids(tokenizer, question)
    device = model.wte.weight.device
    grid = torch.tensor([ids + [tokenizer.pad_id] * (-len(ids) % CHUNK)], device=device)
    live = {**model.empty_state(1), "traces": state["traces"], "episode": state["episode"]}
    x, context, _ = model.segment(grid, live, keep=False)
    score = model.answer(x, torch.tensor([[len(ids) - 1]], device=device), context)[1]["score"][0, 0]
    episode = context["traces"].episode[0]
    best = score[episode == evidence].max()
    rank = len(set(episode[score > best].tolist()) - {evidence})
    if rank:
        return "address", rank
    return ("read" if expected in episode_text(state["traces"], tokenizer, evidence) else "write"), rank


def plain(text):
    """Lower case, without punctuation and articles: what public benchmarks compare (SQuAD's normalisation)."""
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split())


def score(question, text):
    """0 to 1: exact match, or the share of the parts that the answer holds."""
    text = text.strip()
    if question.answer == REFUSAL:
        return float(refused(text))
    if question.parts:
        return sum(part in text for part in question.parts) / len(question.parts)
    return float(plain(text) == plain(question.answer) if question.loose else text == question.answer)


@torch.no_grad()
def log_likelihood(model, tokenizer, state, question, answers, read=True):
    """Mean log-probability a token of each of the answers (and of their end)."""
    device = model.wte.weight.device
    live = {**model.empty_state(1), "traces": state["traces"], "episode": state["episode"]}
    first, live, *_ = model(torch.tensor([question_ids(tokenizer, question)], device=device), state=live, read=read, last=True)
    out = []
    for text in answers:
        ids = [*tokenizer.encode(" " + text), tokenizer.end_id]
        log_p = torch.cat([first[:, -1:], model(torch.tensor([ids[:-1]], device=device), state=live, read=read)[0]], dim=1)[0]
        out.append(float(log_p[torch.arange(len(ids)), torch.tensor(ids, device=device)].mean()))
    return out


def run(cell, model, tokenizer, controls=CONTROLS, control_questions=100, explain=False, progress=None, first=None):
    """
    Yields a row (dict) for the memory and for each control that makes sense in the cell. first: a dict that the caller keeps from cell to cell, in
    which the first answer to every question of a group is noted.
    """
    first = {} if first is None else first
    whole = lambda part: max((len(part.story.episodes) if q.after is None else q.after for q in part.questions), default=0)
    others = [(part.other, min(whole(part), len(part.other.episodes))) for part in cell.parts if part.other is not None and "other" in controls and control_questions]
    before = sum(story.seconds for story in {id(p.story): p.story for p in cell.parts}.values())
    remember(model, tokenizer, [(part.story, whole(part)) for part in cell.parts] + others, progress)
    texts = sorted({text for part in cell.parts for q in part.questions for _, text in q.hidden})
    read, hidden = ingest(model, tokenizer, texts, first_ordinal=0), {}
    for i, text in enumerate(texts):
        here = (read.episode[0] == i).nonzero().flatten()
        hidden[text] = read[int(here[0]):int(here[-1]) + 1]
    cost = sum(story.seconds for story in {id(p.story): p.story for p in cell.parts}.values()) - before
    asked = [(part, q) for part in cell.parts for q in part.questions]
    for control in ("memory", *controls):
        mine = asked if control == "memory" else [(part, q) for part, q in _spread(asked, control_questions) if control != "other" or part.other is not None]
        if mine:
            yield _ask(cell, mine, control, model, tokenizer, hidden, explain, cost, first)


def wilson(p, n, z=1.96):
    """Half the width, in per cent, of the 95 % interval of a share p of n (Wilson's, which is not zero where p is 0 or 1)."""
    return 100 * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)


def _spread(items, n):
    """n of the items, evenly over all of them."""
    return [items[i * len(items) // n] for i in range(n)] if n < len(items) else items


def _ask(cell, asked, control, model, tokenizer, hidden, explain, cost, first):
    right, n, misses, depths = Counter(), Counter(), Counter(), defaultdict(list)
    groups, refusals, false, stale, gains, largest, key, began = defaultdict(list), 0, 0, 0, [], 0, None, time.perf_counter()
    for part, q in asked:
        if key != (id(part), q.after, q.hidden):   # one state for the questions that share it
            traces = traces_of(part.other, type(q)("", "", after=min(q.after or len(part.story.episodes), len(part.other.episodes))), {}) if control == "other" \
                else traces_of(part.story, q, hidden)
            traces = traces[:0] if control == "none" else shuffled(traces, 1) if control == "shuffled" else traces
            state, key = as_state(model, traces), (id(part), q.after, q.hidden)
            largest = max(largest, len(traces))
        if q.rivals:
            text, points, gain = _rank(model, tokenizer, state, q)
            gains.append(gain)
        else:
            # what is longer than this is wrong however it goes on
            text = answer(model, tokenizer, state, q.text, max_tokens=8 + 2 * len(tokenizer.encode(q.answer))).text.strip()
            points = score(q, text)
        n[q.kind] += 1
        right[q.kind] += points
        refusals += refused(text)
        false += q.answer != REFUSAL and refused(text)
        stale += text in q.stale
        if q.group:
            groups[q.group].append((q.answer, text, points, first.setdefault((control, q.group, q.text), text) == text))
        if q.evidence >= 0:
            told = (len(part.story.episodes) if q.after is None else q.after) + len(q.hidden)
            depths[min(9, 10 * q.evidence // max(1, told))].append(points)
        if points < 1 and control == "memory":
            why, rank = "false answer" if q.answer == REFUSAL else "unexplained", None
            if q.evidence >= 0 and model.config.recall and len(traces):
                why, rank = stage(model, tokenizer, state, q.text, q.evidence + 1, q.parts[0] if q.parts else q.answer)
            misses[why] += 1
            if explain:
                proof = part.told(q)[q.evidence] if q.evidence >= 0 else ""
                print(f"  {why}{'' if rank is None else f' (rank {rank})'}: {q.text} | {q.answer} | got {text!r} | {proof}", file=sys.stderr)
    total = sum(n.values())
    most = sum(max(Counter(q.answer for _, q in asked if q.kind == kind).values()) for kind in n)
    row = {**cell.facts, "control": control, "n": total, "exact": 100 * sum(right.values()) / total}
    if set(n) != {"all"}:
        row |= {kind: 100 * right[kind] / n[kind] for kind in sorted(n)}
    row |= {"error": wilson(row["exact"] / 100, total), "guess": 100 * most / total, "misses": dict(misses)}
    if gains:   # ranked against others: a guess is one of them
        row |= {"guess": 100 * sum(1 / (1 + len(q.rivals)) for _, q in asked) / total, "gain": 100 * sum(gains) / total}
    alike = [g for g in groups.values() if len({answer for answer, *_ in g}) == 1]   # one thing in several wordings, and at several times
    if alike:
        asked_alike = sum(map(len, alike))
        row["consistent"] = 100 * sum(max(Counter(text for _, text, *_ in g).values()) for g in alike) / asked_alike
        row["as_at_first"] = 100 * sum(again for g in alike for *_, again in g) / asked_alike
    if len(alike) < len(groups):
        row["together"] = 100 * sum(all(points == 1 for _, _, points, _ in g) for g in groups.values() if g not in alike) / (len(groups) - len(alike))
    known = sum(q.answer != REFUSAL for _, q in asked)
    if refusals or known < total:
        row["false_refusals"] = 100 * false / max(1, known)
    if any(q.stale for _, q in asked):
        row["stale"] = 100 * stale / total
    row["by_depth"] = {f"{d / 10}": [100 * sum(p) / len(p), len(p)] for d, p in sorted(depths.items())}
    return row | {"traces": largest, "ingest_seconds": cost, "seconds_a_question": (time.perf_counter() - began) / total}


def _rank(model, tokenizer, state, q):
    """The answer that is likeliest among the right one and its rivals, whether it is the right one, and the same by what memory adds to each."""
    answers = [q.answer, *q.rivals]
    with_memory = log_likelihood(model, tokenizer, state, q.text, answers)
    without = log_likelihood(model, tokenizer, state, q.text, answers, read=False)
    added = [a - b for a, b in zip(with_memory, without)]
    best = max(range(len(answers)), key=lambda i: (with_memory[i], -i))
    return answers[best], float(best == 0 and with_memory.count(max(with_memory)) == 1), float(added[0] > max(added[1:]))
