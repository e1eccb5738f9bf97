"""
Does the frozen model recall what it ingested?

    python -m scripts.memory_eval --model_path data/then-d4 --task timeline --seeds 1 2 3

timeline: the Cairo timeline of each seed is ingested and asked about, exact match by attribute, against three controls: no memory, the
same traces with what they say dealt out anew, and another seed's state. One JSON line a cell with --json; --explain says for every miss
whether addressing, reading or writing failed.
"""
import argparse
import json
import sys
import time
from collections import Counter

from nanochat.common import UserError, flag, run_main

TASKS = ("timeline",)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", required=True)
    add("--task", choices=TASKS, default="timeline")
    add("--steps", type=int, default=10000, help="length of the timeline")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--questions", type=int, default=300, help="a seed")
    add("--control-questions", type=int, default=100, help="a seed and control; 0 leaves the controls out")
    add("--explain", action="store_true", help="for every miss: what was asked, answered and which stage failed")
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--json", action="store_true", help="one JSON object a cell on stdout")
    return parser


def shuffled(traces, seed):
    """The same addresses, but what each trace says is dealt out anew: recall must fall to guessing."""
    import torch

    from nanochat.state import Traces
    order = torch.randperm(len(traces), generator=torch.Generator().manual_seed(seed))
    said = traces[order].as_dict()
    return Traces(**{**traces.as_dict(), **{name: said[name] for name in ("ids", "before", "keys", "gist")}})


def stage(model, tokenizer, state, question, evidence, expected):
    """Which stage failed a question: 'address' (the evidence is not the best-scored episode), 'write' (the answer is not in its traces) or 'read'."""
    import torch

    from nanochat.engine import episode_text, question_ids
    from nanochat.state import CHUNK
    ids = question_ids(tokenizer, question)
    grid = torch.tensor([ids + [tokenizer.pad_id] * (-len(ids) % CHUNK)])
    live = {**model.empty_state(1), "traces": state["traces"], "episode": state["episode"]}
    x, context, _ = model.segment(grid, live, keep=False)
    score = model.answer(x, torch.tensor([[len(ids) - 1]]), context)[1]["score"][0, 0]
    episode = context["traces"].episode[0]
    best = score[episode == evidence].max()
    rank = len(set(episode[score > best].tolist()) - {evidence})
    if rank:
        return "address", rank
    return ("read" if expected in episode_text(state["traces"], tokenizer, evidence) else "write"), rank


def timeline_cells(args, model, tokenizer):
    """Yields one dict a cell (seed x control)."""
    from dev.gen_cairo_data import questions, timeline
    import torch

    from nanochat.engine import answer, ingest
    states = {}
    for seed in args.seeds:
        records = list(timeline(args.steps, seed))
        began = time.perf_counter()
        states[seed] = records, ingest(model, tokenizer, [r["text"] for r in records]), time.perf_counter() - began
        print(f"seed {seed}: {args.steps} episodes, {len(states[seed][1])} traces in {states[seed][2]:.1f} s", file=sys.stderr)
    for seed in args.seeds:
        records, traces, seconds = states[seed]
        asked = questions(records, args.questions, seed)
        other = states[args.seeds[(args.seeds.index(seed) + 1) % len(args.seeds)]][1]
        memories = {"memory": traces, "none": model.empty_state(1)["traces"], "shuffled": shuffled(traces, seed), "other": other}
        if len(args.seeds) == 1:
            del memories["other"]
        for control, memory in memories.items():
            mine = asked if control == "memory" else asked[:args.control_questions]
            if not mine:
                continue
            state = {**model.empty_state(1), "traces": memory.to(model.wte.weight.device), "episode": memory.episode.amax(1) if len(memory) else torch.zeros(1)}
            right, n, misses, began = Counter(), Counter(), Counter(), time.perf_counter()
            for question in mine:
                got = answer(model, tokenizer, state, question["question"])
                n[question["attribute"]] += 1
                right[question["attribute"]] += got.text.strip() == question["answer"]
                if got.text.strip() != question["answer"] and control == "memory":
                    why, rank = stage(model, tokenizer, state, question["question"], question["t"], question["answer"])
                    misses[why] += 1
                    if args.explain:
                        print(f"  {why} (rank {rank}): {question['question']} | {question['answer']} | got {got.text!r} | {records[question['t'] - 1]['text']}", file=sys.stderr)
            guess = {a: Counter(q["answer"] for q in mine if q["attribute"] == a).most_common(1)[0][1] / n[a] for a in n}
            yield {"task": "timeline", "steps": args.steps, "seed": seed, "control": control, "n": sum(n.values()),
                   "exact": 100 * sum(right.values()) / sum(n.values()), **{a: 100 * right[a] / n[a] for a in sorted(n)},
                   "guess": 100 * sum(guess[a] * n[a] for a in n) / sum(n.values()), "misses": dict(misses), "traces": len(memory),
                   "ingest_seconds": seconds, "seconds_a_question": (time.perf_counter() - began) / len(mine)}


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.steps < 2 or args.questions < 1:
        raise UserError("--steps must be at least 2 and --questions at least 1", code=2)
    from nanochat.engine import load_model
    model, tokenizer, facts = load_model(args.model_path, args.device, args.dtype)
    print(f"device: {facts['device']} | dtype: {facts['dtype']}", file=sys.stderr)
    rows = []
    for cell in timeline_cells(args, model, tokenizer):
        rows.append(cell)
        if args.json:
            print(json.dumps(cell), flush=True)
        else:
            attributes = "  ".join(f"{a} {cell[a]:5.1f}" for a in ("location", "mood", "drink") if a in cell)
            print(f"seed {cell['seed']}  {cell['control']:8s}  exact {cell['exact']:5.1f} %  ({attributes})  n={cell['n']}  guess {cell['guess']:4.1f} %  "
                  f"{1000 * cell['seconds_a_question']:.0f} ms a question  {cell['misses'] or ''}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
