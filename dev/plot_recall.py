"""
The picture in the README: recall during training, on timelines never seen against the controls, by depth, and pass keys by length and depth.

    python dev/plot_recall.py --metrics docs/training.jsonl --cells docs/results.jsonl --output docs/recall.png

metrics: of a run, or what docs keep of the shipped model's two. cells: what `python -m scripts.memory_eval --json` printed. What is not in it is not drawn. Needs matplotlib (requirements-dev.txt).
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # runs as a script, too

from dev.results import read_rows  # noqa: E402
from nanochat.common import UserError, flag, run_main  # noqa: E402
from scripts.memory_eval import draw  # noqa: E402

NAMES = {"memory": "with its\nstate", "none": "no\nmemory", "shuffled": "traces\nshuffled", "other": "another\nlife's state"}


def training(axes, evals):
    steps = [e["step"] for e in evals]
    axes.plot(steps, [e["first"] for e in evals], "o-", color="tab:blue", label="first word piece of the answer, with the state")
    axes.plot(steps, [e["routed"] for e in evals], "s--", color="tab:green", label="the right episode is addressed first")
    if all("first_empty" in e for e in evals):
        axes.plot(steps, [e["first_empty"] for e in evals], "o:", color="tab:gray", label="the same, state emptied")
    axes.set(xlabel="training step", ylabel="%", ylim=(0, 101), title="Training: held-out lives")
    axes.legend(loc="center right", fontsize=8)


def against_controls(axes, cells):
    """Bars of the length that the most cells have."""
    lengths = [c["steps"] for c in cells]
    steps = max(lengths, key=lambda n: (lengths.count(n), n))
    cells = [c for c in cells if c["steps"] == steps]
    controls, seeds = [c for c in NAMES if any(x["control"] == c for x in cells)], sorted({x["seed"] for x in cells})
    width = 0.8 / len(seeds)
    for i, seed in enumerate(seeds):
        values = [next((x["exact"] for x in cells if x["seed"] == seed and x["control"] == c), 0) for c in controls]
        bars = axes.bar([k + (i - (len(seeds) - 1) / 2) * width for k in range(len(controls))], values, width * 0.92, label=f"timeline seed {seed}")
        axes.bar_label(bars, [f"{v:.3g}" for v in values], fontsize=6)
    axes.axhline(max(x["guess"] for x in cells if x["control"] == "memory"), color="tab:red", lw=0.8, ls=":", label="most frequent answer")
    axes.set_xticks(range(len(controls)), [NAMES[c] for c in controls])
    axes.set(ylabel="exact match, %", ylim=(0, 108), title=f"Zero-shot recall, {steps:,} episodes, weights frozen")
    axes.legend(fontsize=8, loc="upper right")


def by_depth(axes, cells):
    """A curve a length, seeds put together."""
    for steps in sorted({c["steps"] for c in cells}):
        sums = {}
        for depth, (exact, n) in (item for c in cells if c["steps"] == steps for item in c["by_depth"].items()):
            right, asked = sums.get(float(depth), (0, 0))
            sums[float(depth)] = right + exact * n, asked + n
        axes.plot([d + 0.05 for d in sorted(sums)], [sums[d][0] / sums[d][1] for d in sorted(sums)], "o-", label=f"{steps:,} steps")
    axes.set(xlabel="where the evidence is (0 = first written, 1 = last)", ylabel="exact match, %", xlim=(0, 1), ylim=(0, 101), title="Timeline by depth")
    axes.legend(fontsize=8, loc="lower right")


def passkeys(axes, cells):
    points = {}
    for c in sorted(cells, key=lambda c: ("tokens" in c, c.get("tokens", c.get("steps")), c["form"])):
        length = f"{c['tokens']:,} tokens" if "tokens" in c else f"{c['steps']:,} steps"
        points.setdefault((f"{length}, {c['form']}", c["depth"]), []).append((c["exact"], c["n"]))
    draw(axes, points)
    axes.set_title("One pass key in a timeline, and in prose")


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
    cells = read_rows(args.cells)
    timeline = [c for c in cells if c["task"] == "timeline" and c["ask"] == "point"]
    told = [c for c in timeline if c["control"] == "memory"]
    keys = [c for c in cells if c["task"] == "passkey" and c["control"] == "memory" and (c["needles"], c["distractors"]) == (1, 0)]
    panels = [(how, rows) for how, rows in ((training, [m for m in read_rows(args.metrics) if m["kind"] == "eval"]), (against_controls, timeline), (by_depth, told),
                                            (passkeys, keys)) if rows]
    if not panels:
        raise UserError(f"there is nothing to draw in {args.metrics} and {args.cells}")
    figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(11, 4 * -(-len(panels) // 2)), squeeze=False, layout="constrained")
    for place in axes.flat[len(panels):]:
        place.set_axis_off()
    for place, (how, rows) in zip(axes.flat, panels):
        how(place, rows)
    figure.savefig(args.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
