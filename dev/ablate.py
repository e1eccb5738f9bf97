"""
What each part is worth: rows of docs/ablations.jsonl, which `python dev/results.py page` shows.

    python dev/ablate.py train [--steps 100]                      trains each variant from the same seed on the same lives, about two minutes each
    python dev/ablate.py read --model-path data/then-d4           variants of reading and of storing, of one trained model

train: plain lives (dev/gen_base_data.py --plain-shards), which are learned fastest; measured on held-out ones and on a timeline of 1,000 steps. read: exact
match on a timeline of 10,000 steps and on 64 keys assigned 5 times. Variants come in the order of their worth, and each is written when it is done: what
docs/ablations.jsonl has under the same command is not measured again, unless it is named by --only.
"""
import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # runs as a script, too

from dev import gen_base_data  # noqa: E402
from dev.results import ABLATIONS, read_rows, replace_rows, shown  # noqa: E402
from nanochat.common import UserError, flag, run_main, run_record  # noqa: E402

TRAIN = {   # name -> flags of base_train
    "as shipped": "", "no recall head": "--set recall=false", "state reset at every step": "--carry-state no", "KDA write layers": "--write-mixer kda",
    "gist: mean": "--set gist_pool=mean", "recall key 32": "--set recall_dim=32", "recall key 128": "--set recall_dim=128", "another seed": "--seed 1"}
# name -> fields of the configuration. "bits": the precision of what is stored, None = not rounded; "index", "gists": what read layers select by, and whether they read
READ = {
    "as shipped": {}, "indexer: the trace's mean": {"index": "mean"}, "recall head off": {"recall": False}, "read layers without memory": {"gists": False},
    **{f"top-k {k}": {"recall_topk": k, "recall_candidates": max(32, k // 2)} for k in (8, 64, 256)},
    **{f"candidates {k}": {"recall_candidates": k // 2} for k in (16, 256)}, "stored in bf16": {"bits": None}, "stored in 8 bits": {"bits": 8},
    "read layers: top-k 8": {"read_topk": 8}, "read layers: top-k 256": {"read_topk": 256}, "without spread": {"route_span": 1}, "top-k 1": {"recall_topk": 1}}


def variants(kind, every, command, only):
    """The names of the variants that are to be measured."""
    there = {row["name"] for row in read_rows(ABLATIONS) if row["kind"] == kind and row["command"] == command}
    return [name for name in every if (name in only if only else name not in there)]


def keep(kind, name, command, results):
    """Puts a row in docs/ablations.jsonl, in place of an older one. results: {what: number}."""
    row = {"kind": kind, "name": name, "command": command, "commit": run_record()["git_commit"], "results": results}
    replace_rows(ABLATIONS, [row], lambda old: (old["kind"], old["name"]) == (kind, name))
    print(f"{name:28s} " + "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in results.items()), flush=True)


def train(args):
    command = f"python dev/ablate.py train --steps {args.steps} --questions {args.questions}"
    names = variants("train", TRAIN, command, args.only)
    with tempfile.TemporaryDirectory() as work:
        data, checkpoint = os.path.join(work, "lives"), os.path.join(work, "base_checkpoints")
        made = ["--output-dir", data, "--shards", "2", "--plain-shards", "2", "--lives-per-shard", str(args.steps + 50), "--question-share", "0.5", "--seed", "7"]
        if names and gen_base_data.main(made):   # a step takes the slots of about half a life
            raise UserError("the lives could not be generated")

        def run(script, *more):
            done = subprocess.run([sys.executable, "-m", script, *more], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "NANOCHAT_BASE_DIR": work})
            if done.returncode:
                raise UserError(f"{name}: {script} ended with {done.returncode}")
            return done.stdout

        for number, name in enumerate(names):
            directory = os.path.join(checkpoint, str(number))
            run("scripts.base_train", "--tag", str(number), "--data-dir", data, "--num-iterations", str(args.steps), "--matrix-lr", "0.015", "--warmdown", "0.7",
                "--eval-every", str(args.steps), *TRAIN[name].split())
            metrics = read_rows(os.path.join(directory, "metrics.jsonl"))
            held_out, steps = next(m for m in reversed(metrics) if m["kind"] == "eval"), [m for m in metrics if m["kind"] == "step"]
            timeline = json.loads(run("scripts.memory_eval", "--model-path", directory, "--steps", "1000", "--seeds", "1", "--questions", str(args.questions),
                                      "--control-questions", "0", "--json"))
            results = {"first token": held_out["first"], "rest": held_out["rest"], "memory emptied": held_out["first_empty"], "evidence first": held_out["routed"],
                       "n": held_out["n"], "timeline 1k": timeline["exact"], "of": timeline["n"],
                       "text loss": round(sum(m["text"] for m in steps[-20:]) / len(steps[-20:]), 3), "seconds a step": round(sorted(m["seconds"] for m in steps)[len(steps) // 2], 2)}
            if "recall=false" in TRAIN[name]:
                del results["evidence first"]   # nothing is addressed
            keep("train", name, command, results)
    return 0


@contextlib.contextmanager
def reading(model, change):
    """The model, and how traces are stored, as a variant of READ says."""
    from nanochat import record
    change, config, bits, rounded = dict(change), dict(vars(model.config)), dict(record.BITS), record.Layout.rounded
    if "bits" in change:
        width = change.pop("bits")
        record.BITS.update(dict.fromkeys(bits, width) if width else {})
        record.Layout.rounded = rounded if width else lambda layout, traces: traces
    if not change.pop("gists", True):
        model.read_context = lambda *args: None
    if change.pop("index", None):
        by_the_mean(model)
    vars(model.config).update(change)
    try:
        yield
    finally:
        vars(model.config).update(config)
        record.BITS.update(bits)
        record.Layout.rounded = rounded
        for module in (model, *(block.attn for block in model.blocks)):   # what was put before the methods of the class
            module.__dict__.pop("read_context", None)
            module.__dict__.pop("index_scores", None)


def by_the_mean(model):
    """
    In the place of the trained indexer: a read layer's own queries against its own keys of each trace's gist, the mean over the heads. So a trace is selected
    by what it is pooled to, and nothing is learned for it (as in MoBA).
    """
    gist, context = [None], model.read_context

    def read_context(*args):
        out = context(*args)
        gist[0] = out["traces"].gist
        return out

    def index_scores(attn, x, index):
        from nanochat.layers import norm, wide
        q, (k, _) = norm(attn.q(x).unflatten(-1, (attn.n_head, attn.head_dim))), attn.memory_kv(gist[0], x.dtype)
        return (q.flatten(2) @ k.flatten(2).transpose(1, 2)).to(wide(x.dtype)) / attn.n_head

    model.read_context = read_context
    for block in model.blocks:
        if block.attn.kind == "dsa":
            block.attn.index_scores = functools.partial(index_scores, block.attn)


def to_ask(questions):
    """The cells that variants of reading are measured on: {name: Cell}."""
    from nanochat import tasks
    return {"timeline 10k": next(tasks.timeline(seeds=(1,), questions=questions)), "overwrite 64": next(tasks.overwrite(questions=questions))}


def read(args):
    from nanochat.engine import load_model
    from nanochat.trials import run
    command = f"python dev/ablate.py read --model-path {shown(args.model_path)} --questions {args.questions}"
    model, tokenizer, _ = load_model(args.model_path)
    cells = to_ask(args.questions)   # told once, for all variants but those that store otherwise
    for name in variants("read", READ, command, args.only):
        with reading(model, READ[name]):
            rows = {task: next(run(cell, model, tokenizer, ())) for task, cell in (to_ask(args.questions) if "bits" in READ[name] else cells).items()}
        keep("read", name, command, {**{task: row["exact"] for task, row in rows.items()}, "n": rows["timeline 10k"]["n"],
                                     "ms a question": 1000 * rows["timeline 10k"]["seconds_a_question"]})
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=("train", "read"))
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", default="data/then-d4", help="read: the trained model")
    add("--steps", type=int, default=100, help="train: of each variant, 8,192 slots each")
    add("--questions", type=int, default=100, help="a cell")
    add("--only", nargs="+", metavar="VARIANT", help="these, again")
    args = parser.parse_args(argv)
    every = {"train": TRAIN, "read": READ}[args.what]
    if unknown := set(args.only or ()) - set(every):
        raise UserError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(every)}", code=2)
    return {"train": train, "read": read}[args.what](args)


if __name__ == "__main__":
    sys.exit(run_main(main))
