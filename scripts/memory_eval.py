"""
Does the frozen model recall what it ingested? A table, a line a cell and control: see docs/evaluation.md.

Own tasks: timeline, changes, passkey, personality, mqar, overwrite, interleaved, unknown. With --data: babi, babilong,
ruler, keyvalue, longeval; people's questions: everyday, cases, qa, locomo; finding alone, beside others: finding.
"""
import argparse
import contextlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path

from nanochat.common import Help, UserError, flag, run_main
from nanochat.peers import PEERS, sought
from nanochat.people import PEOPLE, ask, report, table
from nanochat.task_data import KEYS
from nanochat.tasks import ASKS, TASKS as OWN
from nanochat.tasks_public import PUBLIC

TASKS = {**OWN, **PUBLIC, **PEOPLE, "finding": sought}


def peers(text):
    """For argparse: names of PEERS with commas between; ValueError for another."""
    if unknown := set(names := text.split(",")) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(PEERS)}")
    return list(dict.fromkeys(names))


SEVERAL = dict(nargs="+", metavar="N")
OF_TASK = (   # flags of the tasks, by the names of their arguments; no defaults, these are the tasks' own
    ("--seeds", dict(type=int, help="lives, or draws", **SEVERAL)),
    ("--questions", dict(type=int, metavar="N", help="")),
    ("--seed", dict(type=int, metavar="N", help="a cell, of people's a source; what draws people's questions")),
    ("--together", dict(action="store_true", default=None, help="")),
    ("--mistyped", dict(action="store_true", default=None,
                        help="qa: all passages of a source are one memory; questions have typing errors")),
    ("--steps", dict(type=int, help="lengths of the timeline", **SEVERAL)),
    ("--tokens", dict(type=int, help="lengths of the haystack of prose", **SEVERAL)),
    ("--ask", dict(choices=ASKS, nargs="+", metavar="HOW", help=f"timeline: {' '.join(ASKS)}")),
    ("--depths", dict(type=float, help="where the needle is, 0 = first, 1 = last", **SEVERAL)),
    ("--form", dict(choices=KEYS, nargs="+", metavar="FORM", help=f"of keys: {' '.join(KEYS)}")),
    ("--needles", dict(help="passkey: how many keys are hidden; ruler: its tasks", **SEVERAL)),
    ("--distractors", dict(type=int, help="keys that are not asked for", **SEVERAL)),
    ("--prose", dict(metavar="FILE", help="JSON lines with a \"text\" each (.xz, too), or plain text")),
    ("--inside", dict(action="store_true", default=None, help="the needle stands within a paragraph of it")),
    ("--noise", dict(metavar="PATH", help="JSON lines of chat (\"user\", \"text\"), or a directory of them")),
    ("--conversations", dict(type=int, help="personality: after how many the probes are asked", **SEVERAL)),
    ("--probes", dict(type=int, metavar="N", help="")),
    ("--updates", dict(type=int, metavar="N",
                       help="wordings of each probe; how often a key, or how many likes, get another value")),
    ("--pairs", dict(type=int, help="mqar: how many", **SEVERAL)),
    ("--per-line", dict(type=int, help="pairs in an episode", **SEVERAL)),
    ("--keys", dict(type=int, help="overwrite: how many", **SEVERAL)),
    ("--lines", dict(type=int, help="interleaved: of chat", **SEVERAL)),
    ("--data", dict(nargs="+", metavar="PATH",
                    help="a public benchmark: its file or directory; files of people's questions")),
    ("--qa", dict(nargs="+", metavar="QA", help="tasks of bAbI (qa1 …)")),
    ("--lengths", dict(help="of babilong (0k 1k …) or ruler (1024 …)", **SEVERAL)),
    ("--split", dict(choices=("sentence", "paragraph"), help="what is an episode of running text")),
    ("--peers", dict(type=peers, metavar="NAMES", help=f"finding: others beside it, of {','.join(PEERS)}")))


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.memory_eval --model_path data/then-d6 --task timeline "
                                           "--seeds 1 2 3 [options]\n       "
                                           "python -m scripts.memory_eval --model_path data/then-d6 --task passkey "
                                           "--prose FILE.jsonl --tokens 10000 100000",
                                     description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", required=True, metavar="MODEL")
    add("--task", "--tasks", choices=TASKS, default="timeline", metavar="TASK")
    add("--control-questions", type=int, default=100, help="a cell and control; 0 leaves the controls out")
    add("--explain", action="store_true", help="every miss, and whether finding, reading or writing failed")
    add("--heatmap", metavar="FILE.png", help="a picture of exact match by length and depth (needs matplotlib)")
    add("--misses", metavar="FILE", help="")
    add("--json", action="store_true",
        help="wrong answers to people's questions, to look at them; one JSON object a row")
    add("--device", default="auto", help="")
    add("--dtype", default="auto", help="cpu, cuda; fp32, bf16, fp16")
    of_task = parser.add_argument_group("of the task",
                                        "what is left out has the task's own default; what the task does not know is "
                                        "refused")
    for name, kw in OF_TASK:
        flag(of_task, name, **kw)
    return parser


def task_of(args):
    """The task with the flags that it takes: a function of the tokenizer that yields cells."""
    task = TASKS[args.task]
    takes = inspect.signature(task).parameters
    given = {name: value for name, value in vars(args).items() if value is not None and "--"
             + name.replace("_", "-") in dict(OF_TASK)}
    for name, value in given.items():
        if name not in takes:
            raise UserError(f"--{name.replace('_', '-')} means nothing to the task {args.task}; it takes " +
                            ", ".join("--" + n.replace("_", "-") for n in takes if n != "tokenizer"), code=2)
        if name == "data" and args.task in PUBLIC:
            if len(value) > 1:
                raise UserError(f"--data is one file or directory for the task {args.task}", code=2)
            given[name] = value = value[0]
        if name == "needles" and args.task == "passkey":
            try:
                given[name] = value = [int(v) for v in value]
            except ValueError:
                raise UserError(f"--needles are numbers for the task passkey, not {' '.join(value)}", code=2) from None
        low = {"steps": 2, "depths": 0, "distractors": 0, "conversations": 0, "updates": 0, "seeds": None,
               "seed": None}.get(name, 1)
        for v in value if isinstance(value, list) else [value]:
            if low is not None and isinstance(v, (int, float)) and v < low:
                raise UserError(f"--{name.replace('_', '-')} must be at least {low}", code=2)
    if any(d > 1 for d in given.get("depths", ())):
        raise UserError("--depths must be at most 1", code=2)
    return lambda tokenizer: task(**given, **({"tokenizer": tokenizer} if "tokenizer" in takes else {}))


def show(row):
    """A row of the table."""
    facts = {k: v for k, v in row.items() if k in ("seed", "ask", "steps", "tokens", "depth", "form", "needles",
                                                   "distractors", "conversations", "pairs", "per_line",
                                                   "keys", "lines", "qa", "length", "needle", "chats") and v != "point"}
    skip = {*facts, "task", "control", "n", "exact", "error", "guess", "misses", "by_depth", "traces", "ingest_seconds",
            "seconds_a_question"}
    kinds = "  ".join(f"{k} {v:5.1f}" for k, v in row.items() if k not in skip and isinstance(v, float))
    return (f"{' '.join(f'{k} {v}' for k, v in facts.items())}  {row['control']:8s}  exact {row['exact']:5.1f} ± "
            f"{row['error']:.1f} %  ({kinds})  n={row['n']}  "
            f"guess {row['guess']:4.1f} %  {1000 * row['seconds_a_question']:.0f} ms a question  {row['misses'] or ''}")


def heatmap(rows, path):
    """
    A picture of (cell, row) with memory: length downwards, depth of the evidence to the right, exact match as colour;
    seeds are put together.
    """
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    vary = [name for name in rows[0][0].facts if name not in ("seed", "depth", rows[0][0].length)
            and len({cell.facts[name] for cell, _ in rows}) > 1]
    number = lambda value: f"{value:,}" if isinstance(value, int) else value
    points = {}
    for cell, row in rows:
        label = " ".join([f"{number(cell.facts[cell.length])} {cell.length}",
                          *(f"{name} {cell.facts[name]}" for name in vary)])
        for depth, (exact, n) in ({row["depth"]: (row["exact"], row["n"])} if "depth" in row
                                  else {float(d): v for d, v in row["by_depth"].items()}).items():
            points.setdefault((label, depth), []).append((exact, n))
    if not points:
        raise UserError("there is nothing to draw: the task does not know where its evidence lies")
    figure, axes = plt.subplots(figsize=(1.5 + 0.7 * len({depth for _, depth in points}),
                                         1.5 + 0.5 * len({label for label, _ in points})), layout="constrained")
    draw(axes, points)
    axes.set_title(rows[0][1]["task"])
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw(axes, points):
    """The heat map of points {(label, depth): [(exact match, n), …]} on axes of matplotlib."""
    labels, depths = ([*dict.fromkeys(axis)] for axis in zip(*points))
    depths.sort()
    grid = [[float("nan")] * len(depths) for _ in labels]
    for (label, depth), values in points.items():
        grid[labels.index(label)][depths.index(depth)] = sum(e * n for e, n in values) / sum(n for _, n in values)
    image = axes.imshow(grid, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(depths)), depths)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("depth of the evidence (0 = first)")
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if value == value:
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8)
    axes.figure.colorbar(image, label="exact match, %")


def ask_people(args, lives):
    """A task of people.py, through the interface for programs. Wrong answers are written as they come."""
    from tqdm import tqdm

    from nanochat.engine import load_model
    from nanochat.live_memory import LiveMemory
    loaded, outcomes = load_model(args.model_path, args.device, args.dtype), []
    print(f"device: {loaded[2]['device']} | dtype: {loaded[2]['dtype']}", file=sys.stderr)
    with open(args.misses, "w", encoding="utf-8") if args.misses else contextlib.nullcontext() as misses:
        asked = tqdm(total=sum(len(life.asked) for life in lives), unit=" questions", file=sys.stderr, disable=None,
                     leave=False)
        for outcome in ask(args.task, lives, lambda: LiveMemory(loaded)):
            outcomes.append(outcome)
            if misses and not outcome["right"]:
                print(json.dumps(outcome, ensure_ascii=False), file=misses, flush=True)
            asked.update()
        asked.close()
    rows = report(args.task, outcomes)
    print("\n".join(map(json.dumps, rows) if args.json else table(rows)))
    return 0


def find_evidence(args, memories, finders):
    """The task finding: where the evidence is found, by the model and by its peers."""
    from tqdm import tqdm

    from nanochat.engine import load_model
    from nanochat.peers import measure, memory, report
    model, tokenizer, facts = load_model(args.model_path, args.device, args.dtype)
    print(f"device: {facts['device']} | dtype: {facts['dtype']}", file=sys.stderr)
    finders = {"memory": memory(model, tokenizer), **finders}
    with tqdm(total=len(finders) * sum(len(one.asked) for one in memories), unit=" questions", file=sys.stderr,
              disable=None, leave=False) as bar:
        rows = report(measure(finders, memories, bar.update), memories)
    print("\n".join(map(json.dumps, rows) if args.json else table(rows)))
    return 0


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.control_questions < 0:
        raise UserError("--control-questions must be at least 0", code=2)
    cells = args.task in OWN or args.task in PUBLIC
    for name, known in (("misses", args.task in PEOPLE), ("explain", cells), ("heatmap", cells)):
        if getattr(args, name) and not known:
            raise UserError(f"--{name} means nothing to the task {args.task}", code=2)
    task = task_of(args)
    if args.task in PEOPLE:
        return ask_people(args, task(None))
    if args.task == "finding":
        return find_evidence(args, *task(None))
    if args.heatmap:   # it is drawn at the end of what may take hours
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("--heatmap needs matplotlib: pip install -r requirements-dev.txt")
        if not Path(args.heatmap).absolute().parent.is_dir():
            raise UserError(f"--heatmap {args.heatmap}: there is no such directory")
    from tqdm import tqdm

    from nanochat.engine import load_model
    from nanochat.trials import CONTROLS, run
    model, tokenizer, facts = load_model(args.model_path, args.device, args.dtype)
    print(f"device: {facts['device']} | dtype: {facts['dtype']}", file=sys.stderr)
    cells, rows, first = task(tokenizer), [], {}
    with tqdm(unit=" episodes read", file=sys.stderr, disable=None, leave=False) as bar:
        for cell in cells:
            for row in run(cell, model, tokenizer, CONTROLS if args.control_questions else (), args.control_questions,
                           args.explain, bar.update, first):
                row = {"task": args.task, **row}
                bar.clear()
                print(json.dumps(row) if args.json else show(row), flush=True)
                if row["control"] == "memory":
                    rows.append((cell, row))
    if args.heatmap and rows:
        heatmap(rows, args.heatmap)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
