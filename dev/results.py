"""
Every number of docs/results.md: run the suite, or write the page from what was measured.

    python dev/results.py run --model-path data/then-d4 --bench DIR --chat DIR --prose FILE.jsonl      appends to docs/results.jsonl
    python dev/results.py page               docs/results_notes.md, docs/results.jsonl, docs/ablations.jsonl (dev/ablate.py) -> docs/results.md

run: --only NAME … measures some of it again, in that order. A section's old rows go when its first new one comes, and what was measured stays when a run is
stopped; several processes may run at once. What needs data that is not given is left out, and said.
"""
import argparse
import fcntl
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # runs as a script, too

from nanochat.common import UserError, atomic_write, flag, run_main, run_record  # noqa: E402

ROWS, ABLATIONS, PAGE, NOTES = (os.path.join(ROOT, "docs", name) for name in ("results.jsonl", "ablations.jsonl", "results.md", "results_notes.md"))
# name, title, target of the roadmap, arguments of memory_eval; what is in braces is a path, given by the flag of that name
SUITE = (
    ("timeline", "Timeline of 10,000 steps, point in time", "99.5 %", "--task timeline --steps 10000 --seeds 1 2 3 --questions 300 --control-questions 20"),
    ("timeline-1k", "Timeline of 1,000 steps", "", "--task timeline --steps 1000 --seeds 1 2 3 --questions 100 --control-questions 20"),
    ("timeline-100k", "Timeline of 100,000 steps", "99 %", "--task timeline --steps 100000 --seeds 1 --questions 100 --control-questions 20"),
    ("timeline-asks", "Timeline, other questions", "", "--task timeline --steps 10000 --seeds 1 --questions 100 --control-questions 10 "
     "--ask paraphrase now before change everything"),
    ("changes", "Timeline of which only changes are logged", "", "--task changes --steps 1000 10000 --seeds 1 --questions 100 --control-questions 20"),
    ("passkey", "Pass key in a timeline of 10,000 steps", "100 %", "--task passkey --steps 10000 --questions 100 --control-questions 10"),
    ("passkey-forms", "Pass keys of words, and UUIDs", "100 %", "--task passkey --steps 10000 --depths 0.5 --form words uuid --questions 100 --control-questions 10"),
    ("passkey-many", "Two and four keys, among four others", "100 %", "--task passkey --steps 10000 --depths 0.5 --needles 2 4 --distractors 4 --questions 100 "
     "--control-questions 10"),
    ("passkey-prose", "Pass key in prose", "100 %", "--task passkey --prose {prose} --tokens 10000 100000 1000000 --depths 0 0.5 1 "
     "--questions 100 --control-questions 10"),
    ("passkey-prose-forms", "Pass keys of words, and UUIDs, in prose", "100 %", "--task passkey --prose {prose} --tokens 100000 --depths 0.5 --form words uuid "
     "--questions 100 --control-questions 10"),
    ("passkey-10m", "Pass key in 10 million tokens of prose", "100 %", "--task passkey --prose {prose} --tokens 10000000 --depths 0 0.5 1 "
     "--questions 20 --control-questions 4"),
    ("personality", "Personality", "98 % right, 99 % consistent", "--task personality --control-questions 20"),
    ("overwrite", "Overwritten keys", "99 %", "--task overwrite --keys 64 256 --questions 100 --control-questions 20"),
    ("mqar", "Multi-query associative recall", "", "--task mqar --pairs 64 256 1024 --per-line 1 4 --questions 100 --control-questions 10"),
    ("interleaved", "Two people's facts in real chat", "97 %", "--task interleaved --noise {chat} --lines 1000 4000 --control-questions 20"),
    ("unknown", "What was never said", "95 % refused, false refusals 1 %", "--task unknown --questions 240 --control-questions 20"),
    ("ruler", "RULER needles", "single: 95 %", "--task ruler --data {bench} --lengths 1024 4096 --questions 100 --control-questions 5"),
    ("keyvalue", "Key-value retrieval, 75 pairs", "95 %", "--task keyvalue --data {bench} --questions 100 --control-questions 5"),
    ("longeval", "LongEval lines", "95 %", "--task longeval --data {bench} --questions 100 --control-questions 5"),
    ("babi", "bAbI, zero-shot", "", "--task babi --data {bench} --questions 200 --control-questions 20"),
    ("babilong", "BABILong qa1, zero-shot", "80 % after task pretraining", "--task babilong --data {bench} --questions 100 --control-questions 5"),
    ("babilong-1m", "bAbI qa1 in 100,000 and 1,000,000 tokens of prose, zero-shot", "80 % after task pretraining", "--task babi --data {bench} --qa qa1 "
     "--prose {prose} --tokens 100000 1000000 --questions 100 --control-questions 10"),
    ("babilong-trained", "BABILong qa1 after task pretraining on bAbI's training stories", "80 %", "--model-path {babi} --task babilong --data {bench} "
     "--questions 100 --control-questions 5"),
    ("babilong-1m-trained", "bAbI qa1 in 100,000 and 1,000,000 tokens of prose, after task pretraining", "80 %", "--model-path {babi} --task babi --data {bench} "
     "--qa qa1 --prose {prose} --tokens 100000 1000000 --questions 100 --control-questions 10"),
    ("locomo", "LoCoMo, ranking", "", "--task locomo --data {bench} --questions 100 --control-questions 25"),
)
FACTS = ("steps", "tokens", "length", "conversations", "pairs", "per_line", "keys", "updates", "lines", "seed", "ask", "depth", "form", "needles", "distractors",
         "needle", "qa", "chats", "split")
PLAIN = {"task", "control", "n", "exact", "error", "guess", "misses", "by_depth", "traces", "ingest_seconds", "seconds_a_question", "section", "command", "inside",
         "noise", "address_ranks", "run"}


def replace_rows(path, rows, old):
    """Puts rows (dicts) at the end of a JSON-lines file, in place of those of which old(row) is true. Of several processes one at a time."""
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)   # the file itself is replaced, so it can't be what is locked
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        kept = [row for row in read_rows(path) if not old(row)]
        atomic_write(path, lambda file: file.write("".join(json.dumps(row) + "\n" for row in kept + rows).encode()))
    finally:
        os.close(directory)


def read_rows(path):
    """The rows of a JSON-lines file; [] where there is none."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def shown(path):
    """A path as a command tells it to others: as it was given, but of an absolute one its name alone."""
    return os.path.basename(os.path.normpath(path)) if os.path.isabs(path) else path


def run(args):
    sections = {name: (title, arguments) for name, title, _, arguments in SUITE}
    if unknown := set(args.only or ()) - set(sections):
        raise UserError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}", code=2)
    given = {"bench": args.bench, "chat": args.chat, "prose": args.prose, "babi": args.babi}
    stamp, failed = {"commit": run_record()["git_commit"]}, []
    for name in args.only or sections:
        title, arguments = sections[name]
        missing = [k for k in given if f"{{{k}}}" in arguments and not given[k]]
        if missing:
            print(f"{name}: left out, needs --{missing[0]}", file=sys.stderr)
            continue
        arguments = arguments if "--model-path" in arguments else f"--model-path {{model}} {arguments}"
        paths = {**given, "model": args.model_path}
        told = "python -m scripts.memory_eval " + arguments.format(**{k: shown(v) for k, v in paths.items() if v})
        print(f"{name}: {title}", file=sys.stderr, flush=True)
        began, rows = time.perf_counter(), []
        command = [sys.executable, "-m", "scripts.memory_eval", "--json", *(word.format(**paths) for word in arguments.split())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            for line in process.stdout:
                row = json.loads(line)
                row.pop("noise", None)
                rows.append({"section": name, "command": told, "run": stamp, **row})
                replace_rows(args.rows, rows, lambda old: old["section"] == name)
        if process.returncode:
            failed.append(name)
        print(f"{name}: {'failed after ' if process.returncode else ''}{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if failed:
        raise UserError(f"memory_eval failed in {', '.join(failed)}")
    return 0


def number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if isinstance(value, float) else str(value)


def table(rows):
    """Markdown lines of the rows of a section: a line a cell, its controls beside it."""
    key = lambda row: tuple((f, json.dumps(row[f])) for f in FACTS if f in row)
    facts = [f for f in FACTS if any(f in r for r in rows) and (len({json.dumps(r.get(f)) for r in rows}) > 1 or f in ("steps", "tokens", "keys", "pairs"))]
    cells = {}
    for row in rows:
        cells.setdefault(key(row), {})[row["control"]] = row
    kinds = list(dict.fromkeys(k for r in rows if r["control"] == "memory" for k, v in r.items() if k not in PLAIN and k not in FACTS and isinstance(v, float)))
    controls = [c for c in ("none", "shuffled", "other") if any(c in cell for cell in cells.values())]
    head = [f.replace("_", " ") for f in facts] + ["exact match, %", *(k.replace("_", " ") for k in kinds), *(f"control: {c}" for c in controls), "guess", "n", "misses"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell in cells.values():
        row = cell["memory"]
        values = [number(row[f] if f == "depth" else row.get(f, "")) for f in facts] + [f"**{row['exact']:.1f}** ± {row['error']:.1f}"]
        values += [number(row[k]) if k in row else "" for k in kinds] + [f"{cell[c]['exact']:.1f}" if c in cell else "" for c in controls]
        values += [f"{row['guess']:.1f}", str(row["n"]), ", ".join(f"{n} {why}" for why, n in row["misses"].items())]
        out.append("| " + " | ".join(values) + " |")
    return out


ABLATED = {"train": ("### Ablations: trained without", "Each trained from the same seed on the same lives, far shorter than the shipped model"),
           "read": ("### Ablations: read and stored otherwise", "The shipped model, its weights as they are")}


def ablations(rows):
    """Markdown lines of the rows that dev/ablate.py has left."""
    out = []
    for kind, (title, what) in ABLATED.items():
        mine = [r for r in rows if r["kind"] == kind]
        if mine:
            names = list(dict.fromkeys(k for r in mine for k in r["results"]))
            settings = "; ".join(dict.fromkeys(r["command"] for r in mine))
            out += [title, "", f"{what}.", "", f"    {settings}", "", "| variant | " + " | ".join(names) + " |", "|" + "---|" * (1 + len(names))]
            out += [f"| {r['name']} | " + " | ".join(number(r["results"].get(k, "")) for k in names) + " |" for r in mine] + [""]
    return out


def page(args):
    rows = read_rows(args.rows)
    if not rows:
        raise UserError(f"{args.rows}: nothing has been measured yet, see run")
    with open(NOTES, encoding="utf-8") as file:
        out = [file.read().rstrip(), ""]
    for name, title, target, _ in SUITE:
        mine = [r for r in rows if r["section"] == name]
        if mine:
            cost = 1000 * sum(r["seconds_a_question"] * r["n"] for r in mine) / sum(r["n"] for r in mine)
            out += [f"### {title}", "", *([f"Asked for: {target}.", ""] if target else []), f"    {mine[0]['command']}", "", *table(mine), "",
                    f"Largest memory {max(r['traces'] for r in mine):,} traces; {cost:.0f} ms a question.", ""]
    out += ablations(read_rows(args.ablations))
    atomic_write(args.page, lambda file: file.write("\n".join(out).encode()))
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=("run", "page"))
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", default="data/then-d4")
    add("--bench", help="directory of the public benchmarks")
    add("--chat", help="directory of real chat, *.jsonl with \"user\" and \"text\"")
    add("--prose", help="JSON lines with a \"text\" each")
    add("--babi", help="checkpoint that was trained further on bAbI's training stories (dev/gen_babi_lives.py)")
    add("--only", nargs="+", help="sections")
    add("--rows", default=ROWS)
    add("--ablations", default=ABLATIONS)
    add("--page", default=PAGE)
    args = parser.parse_args(argv)
    return {"run": run, "page": page}[args.what](args)


if __name__ == "__main__":
    sys.exit(run_main(main))
