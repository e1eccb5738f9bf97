"""
The trials of memory_eval: tell the stories of a cell to the frozen model, ask, score, run the controls, explain the
misses.

A trace depends on its own episode alone, so a story is read once: a shorter story is a prefix of its traces, and an
episode that is hidden in it for one question is read apart and put between.
"""
import random
import re
import sys
import time
from collections import Counter, defaultdict

import torch

from nanochat.engine import answer, episode_text, found, ingest, window
from nanochat.scoring import refused, wilson
from nanochat.state import Traces
from nanochat.task_data import REFUSAL, Question, Story

CONTROLS = ("none", "shuffled", "other")


def shuffled(traces, seed):
    """
    The same words to be found by, but what each trace says is dealt out anew: recall must fall to guessing. Empty slots
    stay empty.
    """
    filled = (traces.valid[0] > 0).nonzero().flatten().cpu()
    order = torch.arange(len(traces))
    order[filled] = filled[torch.randperm(len(filled), generator=torch.Generator().manual_seed(seed))]
    said = {name: getattr(traces, name)[:, order.to(traces.ids.device)] for name in ("ids", "gist")}
    return Traces(**{**traces.as_dict(), **said})


def remember(model, tokenizer, wanted, progress=None):
    """
    Read what stories need to hold: wanted is a list of (story, number of episodes). One pass over all that is missing,
    so that rows are full.
    """
    need = {}
    for story, n in wanted:
        need[id(story)] = story, max(n, need.get(id(story), (story, 0))[1])
    missing = [(story, n, len(story.ends) - 1) for story, n in need.values() if n > len(story.ends) - 1]
    if not missing:
        return
    began = time.perf_counter()
    read = ingest(model, tokenizer, [text for story, n, have in missing for text in story.episodes[have:n]],
                  first_ordinal=0, progress=progress)
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
    """
    The traces of a story as they are when the question is asked. hidden: {text: traces of it}. Episode i has the
    ordinal i + 1.
    """
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
    return {**model.empty_state(1), "traces": traces.to(model.wte.weight.device),
            "episode": episode.long().to(model.wte.weight.device)}


def stage(model, tokenizer, state, question, evidence, expected):
    """
    Which stage failed a question: 'find' (the evidence, an ordinal, is not in the reading window), 'write' (the answer
    is not in its traces) or 'read'; and how many episodes were scored better.
    """
    score = found(model, tokenizer, state, question).score
    rank = int((score > score[evidence - 1]).sum())
    if evidence not in window(model, tokenizer, state, question)[1]:
        return "find", rank
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


def run(cell, model, tokenizer, controls=CONTROLS, control_questions=100, explain=False, progress=None, first=None):
    """
    Yields a row (dict) for the memory and for each control that makes sense in the cell. first: a dict that the caller
    keeps from cell to cell, in which the first answer to every question of a group is noted.
    """
    first = {} if first is None else first
    whole = lambda part: max((len(part.story.episodes) if q.after is None else q.after for q in part.questions),
                             default=0)
    others = [(part.other, min(whole(part), len(part.other.episodes))) for part in cell.parts if part.other is not None
              and "other" in controls and control_questions]
    stories = {id(part.story): part.story for part in cell.parts}.values()
    before = sum(story.seconds for story in stories)
    remember(model, tokenizer, [(part.story, whole(part)) for part in cell.parts] + others, progress)
    texts = sorted({text for part in cell.parts for q in part.questions for _, text in q.hidden})
    apart = Story(texts)
    remember(model, tokenizer, [(apart, len(texts))])
    hidden = {text: apart.traces[a:b] for text, a, b in zip(texts, apart.ends, apart.ends[1:])}
    cost = sum(story.seconds for story in stories) - before
    asked = [(part, q) for part in cell.parts for q in part.questions]
    for control in ("memory", *controls):
        mine = asked if control == "memory" else [(part, q) for part, q in _some(asked, control_questions)
                                                  if control != "other" or part.other is not None]
        if mine:
            began = time.perf_counter()
            outcomes, largest = _ask(mine, control, model, tokenizer, hidden, explain, first)
            seconds = (time.perf_counter() - began) / len(mine)
            yield {**cell.facts, "control": control, **_row(outcomes), "traces": largest, "ingest_seconds": cost,
                   "seconds_a_question": seconds}


def _some(items, n):
    """n of the items, drawn once for all, in their order."""
    return [items[i] for i in sorted(random.Random(n).sample(range(len(items)), min(n, len(items))))]


def _ask(asked, control, model, tokenizer, hidden, explain, first):
    """
    Asks every (part, question). Returns the outcomes, a list of dicts, and the number of traces of the largest memory.
    """
    outcomes, key, largest = [], None, 0
    for part, q in asked:
        if key != (id(part), q.after, q.hidden):   # one state for the questions that share it
            key = id(part), q.after, q.hidden
            traces = _memory(part, q, control, hidden)
            state, largest = as_state(model, traces), max(largest, len(traces))
        # what is longer than this is wrong however it goes on
        text = answer(model, tokenizer, state, q.text, max_tokens=8 + 2 * len(tokenizer.encode(q.answer))).text.strip()
        points, why, rank = score(q, text), None, None
        told = len(part.story.episodes) if q.after is None else q.after
        if points < 1 and control == "memory":
            why = "false answer" if q.answer == REFUSAL else "unexplained"
            if q.evidence >= 0:
                why, rank = stage(model, tokenizer, state, q.text, q.evidence + 1, q.parts[0] if q.parts else q.answer)
            if explain:
                proof = part.told(q)[q.evidence] if q.evidence >= 0 else ""
                print(f"  {why}{'' if rank is None else f' (rank {rank})'}: {q.text} | {q.answer} | got {text!r} | "
                      f"{proof}", file=sys.stderr)
        outcomes.append({"q": q, "text": text, "points": points, "why": why, "rank": rank,
                         "depth": q.evidence / max(1, told + len(q.hidden)),
                         "again": first.setdefault((control, q.group, q.text), text) == text if q.group else None})
    return outcomes, largest


def _memory(part, q, control, hidden):
    """The traces that a question is asked with under a control."""
    if control == "other":
        told = len(part.story.episodes) if q.after is None else q.after
        return traces_of(part.other, Question("", "", after=min(told, len(part.other.episodes))), {})
    traces = traces_of(part.story, q, hidden)
    return {"memory": lambda: traces, "none": lambda: traces[:0], "shuffled": lambda: shuffled(traces, 1)}[control]()


def _row(outcomes):
    """What is reported of the outcomes of a cell."""
    total, mean = len(outcomes), lambda values: 100 * sum(values) / max(1, len(values))
    kinds, groups, depths = defaultdict(list), defaultdict(list), defaultdict(list)
    for o in outcomes:
        kinds[o["q"].kind].append(o)
        if o["q"].group:
            groups[o["q"].group].append(o)
        if o["q"].evidence >= 0:
            depths[min(9, int(10 * o["depth"]))].append(o["points"])
    row = {"n": total, "exact": mean([o["points"] for o in outcomes])}
    if set(kinds) != {"all"}:
        row |= {kind: mean([o["points"] for o in kinds[kind]]) for kind in sorted(kinds)}
    row["error"] = wilson(row["exact"] / 100, total)
    row["guess"] = 100 * sum(max(Counter(o["q"].answer for o in of).values()) for of in kinds.values()) / total
    row["misses"] = dict(Counter(o["why"] for o in outcomes if o["why"]))
    ranks = [o["rank"] for o in outcomes if o["rank"]]
    if ranks:   # how near the evidence was where another episode came first
        row["found_ranks"] = {"below 8": sum(r < 8 for r in ranks), "below 64": sum(8 <= r < 64 for r in ranks),
                              "beyond": sum(r >= 64 for r in ranks)}
    # one thing in several wordings, and at several times
    alike = [g for g in groups.values() if len({o["q"].answer for o in g}) == 1]
    if alike:
        row["consistent"] = 100 * sum(max(Counter(o["text"] for o in g).values()) for g in alike) / sum(map(len, alike))
        row["as_at_first"] = mean([o["again"] for g in alike for o in g])
    apart = [g for g in groups.values() if len({o["q"].answer for o in g}) > 1]
    if apart:
        row["together"] = mean([all(o["points"] == 1 for o in g) for g in apart])
    known = [refused(o["text"]) for o in outcomes if o["q"].answer != REFUSAL]
    if any(known) or len(known) < total:
        row["false_refusals"] = mean(known)
    if any(o["q"].stale for o in outcomes):
        row["stale"] = mean([o["text"] in o["q"].stale for o in outcomes])
    row["by_depth"] = {f"{d / 10}": [mean(p), len(p)] for d, p in sorted(depths.items())}
    return row
