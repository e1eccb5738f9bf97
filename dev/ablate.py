"""
What each part is worth, a table on stdout and rows in docs/ablations.jsonl.

    python dev/ablate.py train --data-dir data/base --steps 150 [--only NAME …]       trains each variant from the same seed on the same batches
    python dev/ablate.py read --model-path data/then-d4 [--only NAME …]               variants of reading and of storing, of one trained model

train: accuracy on held-out lives (first token of an answer, evidence ranked first, refusals) and on timelines of 1,000 steps. read: exact match on a
timeline of 10,000 steps, 256 pairs and 64 keys assigned 5 times.
"""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # runs as a script, too

from nanochat.common import UserError, atomic_write, flag, run_main, run_record  # noqa: E402

ROWS = os.path.join(ROOT, "docs", "ablations.jsonl")
TRAIN = {   # name -> flags of base_train
    "as shipped": "", "no recall head": "--set recall=false", "KDA write layers": "--write-mixer kda", "gist: mean": "--set gist_pool=mean",
    "state reset at every step": "--carry-state no", "recall key 32": "--set recall_dim=32", "recall key 128": "--set recall_dim=128",
    "address 2 x 64": "--set address_dim=64", "another seed": "--seed 1"}
READ = {    # name -> fields of the configuration; "bits" is the precision of what is stored, None = not rounded
    "as shipped": {}, **{f"top-k {k}": {"recall_topk": k} for k in (1, 8, 64, 256)}, "read layers: top-k 8": {"read_topk": 8}, "read layers: top-k 256": {"read_topk": 256},
    "without spread": {"route_span": 1}, "recall head off": {"recall": False}, "stored in 8 bits": {"bits": 8}, "stored in bf16": {"bits": None}}


def keep(kind, name, row):
    """Puts a row in docs/ablations.jsonl, in place of an older one."""
    old = [json.loads(line) for line in open(ROWS, encoding="utf-8")] if os.path.exists(ROWS) else []
    rows = [r for r in old if (r["kind"], r["name"]) != (kind, name)] + [{"kind": kind, "name": name, "commit": run_record()["git_commit"], **row}]
    atomic_write(ROWS, lambda file: file.write("".join(json.dumps(r) + "\n" for r in rows).encode()))
    print(f"{name:28s} " + "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def train(args):
    from nanochat.checkpoint_manager import checkpoint_dir
    for name, flags in TRAIN.items():
        if args.only and name not in args.only:
            continue
        tag = "ablate-" + "".join(c if c.isalnum() else "-" for c in name)
        directory = checkpoint_dir(tag)
        if directory.exists():
            raise UserError(f"{directory} is there already: remove it to train '{name}' again")
        command = [sys.executable, "-m", "scripts.base_train", "--tag", tag, "--data-dir", args.data_dir, "--num-iterations", str(args.steps), "--matrix-lr", "0.015",
                   "--warmdown", "0.7", "--eval-segments", "16", "--eval-every", str(args.steps), *flags.split()]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        metrics = [json.loads(line) for line in open(directory / "metrics.jsonl", encoding="utf-8")]
        held_out = next(m for m in metrics if m["kind"] == "eval")
        steps = [m for m in metrics if m["kind"] == "step"]
        evaluation = subprocess.run([sys.executable, "-m", "scripts.memory_eval", "--model-path", str(directory), "--steps", "1000", "--seeds", "1", "--questions", "200",
                                     "--control-questions", "0", "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        keep("train", name, {"steps": args.steps, "first token": held_out["first"], "rest": held_out["rest"], "routed": held_out["routed"], "refused": held_out["refused"],
                             "n": held_out["n"], "text loss": round(sum(m["text"] for m in steps[-20:]) / len(steps[-20:]), 3),
                             "timeline 1k": json.loads(evaluation.stdout)["exact"], "seconds a step": round(sorted(m["seconds"] for m in steps)[len(steps) // 2], 2)})
    return 0


def read(args):
    from nanochat import record, tasks
    from nanochat.engine import load_model
    from nanochat.trials import run
    model, tokenizer, _ = load_model(args.model_path)
    shipped, bits = dict(vars(model.config)), dict(record.BITS)
    rounded = record.Layout.rounded
    for name, change in READ.items():
        if args.only and name not in args.only:
            continue
        change = dict(change)
        if "bits" in change:
            width = change.pop("bits")
            record.BITS.update(bits if width is None else dict.fromkeys(bits, width))
            record.Layout.rounded = (lambda layout, traces: traces) if width is None else rounded
        vars(model.config).update(shipped | change)
        cells = {"timeline 10k": tasks.timeline(seeds=(1,), questions=200), "256 pairs": tasks.mqar(pairs=(256,)), "overwrite 64": tasks.overwrite()}
        rows = {task: next(run(cell, model, tokenizer, ())) for task, cells in cells.items() for cell in cells}
        keep("read", name, {**{task: row["exact"] for task, row in rows.items()}, "ms a question": 1000 * rows["timeline 10k"]["seconds_a_question"]})
        record.BITS.update(bits)
        record.Layout.rounded = rounded
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=("train", "read"))
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", default="data/then-d4")
    add("--data-dir", default="data/base")
    add("--steps", type=int, default=150)
    add("--only", nargs="+", help="variants")
    args = parser.parse_args(argv)
    variants = {"train": TRAIN, "read": READ}[args.what]
    if unknown := set(args.only or ()) - set(variants):
        raise UserError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(variants)}", code=2)
    return {"train": train, "read": read}[args.what](args)


if __name__ == "__main__":
    sys.exit(run_main(main))
