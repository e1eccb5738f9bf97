"""
The picture in the README: recall during training, and on timelines never seen, against the controls.

    python dev/plot_recall.py --metrics base_checkpoints/then-d4/metrics.jsonl --cells docs/results.jsonl --output docs/recall.png

cells: what `python -m scripts.memory_eval --json` printed. Needs matplotlib (requirements-dev.txt).
"""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from nanochat.common import UserError, flag, run_main  # noqa: E402

NAMES = {"memory": "with its state", "none": "no memory", "shuffled": "traces shuffled", "other": "another\nlife's state"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    for name in ("--metrics", "--cells", "--output"):
        flag(parser, name, required=True)
    args = parser.parse_args(argv)
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("matplotlib is missing: pip install -r requirements-dev.txt") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    read = lambda path: [json.loads(line) for line in open(path, encoding="utf-8")]
    evals = [m for m in read(args.metrics) if m["kind"] == "eval"]
    cells = [c for c in read(args.cells) if c["task"] == "timeline" and c["ask"] == "point"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    steps = [e["step"] for e in evals]
    left.plot(steps, [e["first"] for e in evals], "o-", color="tab:blue", label="first word piece of the answer, with the state")
    left.plot(steps, [e["routed"] for e in evals], "s--", color="tab:green", label="the right episode is addressed first")
    left.plot(steps, [e["first_empty"] for e in evals], "o:", color="tab:gray", label="the same, state emptied")
    left.set(xlabel="training step", ylabel="%", ylim=(0, 101), title="Training: held-out lives")
    left.legend(loc="center right", fontsize=8)
    controls = [c for c in NAMES if any(x["control"] == c for x in cells)]
    seeds = sorted({x["seed"] for x in cells})
    width = 0.8 / len(seeds)
    for i, seed in enumerate(seeds):
        values = [next((x["exact"] for x in cells if x["seed"] == seed and x["control"] == c), 0) for c in controls]
        bars = right.bar([k + (i - (len(seeds) - 1) / 2) * width for k in range(len(controls))], values, width * 0.92, label=f"timeline seed {seed}")
        right.bar_label(bars, [f"{v:.0f}" for v in values], fontsize=8)
    guess = max(x["guess"] for x in cells if x["control"] == "memory")
    right.axhline(guess, color="tab:red", lw=0.8, ls=":", label="most frequent answer")
    right.set_xticks(range(len(controls)), [NAMES[c] for c in controls])
    right.set(ylabel="exact match, %", ylim=(0, 108), title=f"Zero-shot recall, {cells[0]['steps']:,} episodes, weights frozen")
    right.legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(args.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
