"""
Query: the frozen model answers from a state file, and says which episodes it answered from.

    python -m scripts.query --model_path base_checkpoints/d8/model_001000.pt --state_path cairo_memory_state.pt
    python -m scripts.query --model_path base_checkpoints/d8/model_001000.pt --state-dir memories --user alice

Interactive on a terminal (/help lists the commands). One question with -p, one a line piped to stdin, or one JSON object a line in
--questions FILE.jsonl. Answers go to stdout, everything else to stderr.
"""
import argparse
import json
import os
import re
import sys

from nanochat.common import UserError, flag, run_main
from nanochat.users import add_user, state_path

HELP = "ask a question; Ctrl-C stops the answer, Ctrl-D or /quit leaves"
SHOWN = 3   # episodes named under an answer; --json gives all


def positive(text):
    if (value := int(text)) < 1:
        raise ValueError
    return value


def size(text):
    """Bytes of '256MB', '1.5GB' or '1000000'. For argparse: ValueError where it is none."""
    if not (parts := re.fullmatch(r"([\d.]+)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)):
        raise ValueError(text)
    return int(float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " "))


def build_parser():
    parser = argparse.ArgumentParser(prog="python -m scripts.query", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", required=True, help="model file of a checkpoint, or its directory")
    add("--state-path", help="the state file to answer from")
    add_user(parser)
    add("--ram-budget", type=size, metavar="BYTES", help="RAM that memory may take (256MB, 4GB): beyond it, traces are read from the file when they are needed")
    add("--no-memory", action="store_true", help="answer with an emptied state")
    add("-p", "--prompt", metavar="QUESTION", help="one question")
    add("--questions", metavar="FILE.jsonl", help='{"question": …} a line; prints one JSON object a line')
    add("--max-tokens", type=positive, default=48, help="of an answer")
    add("--json", action="store_true", help="print one JSON object for each question")
    add("--device", default="auto")
    add("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    return parser


def read_questions(path):
    """[dict] of a JSONL file, each with a str 'question'; blank lines are skipped. UserError (code 2) names the line that is wrong."""
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON in UTF-8 ({error})", code=2) from error
        if not isinstance(item, dict) or not isinstance(item.get("question"), str) or not item["question"].strip():
            raise UserError(f"{path}, line {number}: needs an object with a 'question'", code=2)
        items.append(item)
    if not items:
        raise UserError(f"{path}: no question in it", code=2)
    return items


def printable(text, stream):
    """What was ingested may hold escape codes: a terminal is not to act on them."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text) if stream.isatty() else text


def note(text):
    """A dim line on stderr, plain where that is not a terminal or $NO_COLOR is set."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    text = printable(" ".join(text.split()), sys.stderr)
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


class Memory:
    """A model with a state, that answers on stdout."""

    def __init__(self, args):
        from nanochat import engine
        from nanochat.memory import load_state

        self.engine, self.max_tokens = engine, args.max_tokens
        self.model, self.tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
        self.state, self.sources = (self.model.empty_state(1), []) if args.no_memory else load_state(args.path, self.model, facts, args.ram_budget)
        self.about = f"{len(self.sources):,} episodes in {len(self.state['traces']):,} traces" if not args.no_memory else "no memory"
        self.about += f" | device: {facts['device']} | dtype: {facts['dtype']}"

    def ask(self, question, on_text=None):
        return self.engine.answer(self.model, self.tokenizer, self.state, question, self.max_tokens, on_text=on_text)

    def episodes(self, answer):
        """[{"episode", "text", "score", "source"}], best first; source: FILE:LINE or None."""
        found = []
        for source in answer.sources:
            at = self.sources[source["episode"] - 1]
            found.append({"episode": source["episode"], "text": self.engine.episode_text(self.state["traces"], self.tokenizer, source["episode"]),
                          "score": round(source["score"], 4), "source": f"{at[0]}:{at[1]}" if at else None})
        return found

    def print_text(self, question):
        def show(piece):
            print(printable(piece, sys.stdout), end="", flush=True)

        try:
            answer = self.ask(question, show)
        finally:
            print(flush=True)
        episodes = self.episodes(answer)
        for e in episodes[:SHOWN]:
            note(f"from {e['score']:.2f} {e['text']}" + (f" [{e['source']}]" if e["source"] else ""))
        if not episodes:
            note("from nothing")

    def print_json(self, item):
        answer = self.ask(item["question"])
        out = {"question": item["question"], "answer": answer.text, "confidence": float(f"{answer.confidence:.4g}"), "episodes": self.episodes(answer),
               "seconds": round(answer.seconds, 4)}
        rest = {name: value for name, value in item.items() if name not in out}
        if "answer" in item:
            rest.setdefault("expected", item["answer"])
        print(json.dumps({**out, **rest}), flush=True)


def command(line):
    """Carries out a /command; True where it was the last."""
    if line == "/quit":
        return True
    print(HELP if line == "/help" else f"error: unknown command {printable(line.split()[0], sys.stderr)} (/help, /quit)", file=sys.stderr)
    return False


def read_line():
    # readline must know the prompt to redraw the line, and writes it to stdout: only where that is the terminal, too
    if sys.stdout.isatty():
        return input("> ")
    if sys.stderr.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return input()


def interactive(memory, ask):
    try:
        import readline  # noqa: F401  line editing and history for input()
    except ImportError:
        pass  # Windows
    note(f"{memory.about} | {HELP}")
    while True:
        try:
            line = read_line().strip()
            if line.startswith("/"):
                if command(line):
                    return 0
            elif line:
                ask(line)
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return 0
        except UnicodeDecodeError:
            print("error: that was not UTF-8", file=sys.stderr)


def piped(ask):
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            line = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"stdin, line {number}: not UTF-8 text", code=2) from error
        if line.startswith("/"):
            if command(line):
                break
        elif line:
            ask(line)
    return 0


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    args.path = None if args.no_memory else state_path(parser, args, "state_path")
    if args.prompt is not None and args.questions:
        parser.error("-p and --questions exclude each other")
    if args.prompt is not None and not args.prompt.strip():
        parser.error("-p needs a question")
    items = read_questions(args.questions) if args.questions else None

    from tqdm import tqdm

    memory = Memory(args)
    ask = (lambda question: memory.print_json({"question": question})) if args.json else memory.print_text
    if items:
        # on one terminal, the answers are progress enough
        for item in tqdm(items, unit=" questions", file=sys.stderr, disable=sys.stdout.isatty() or None):
            memory.print_json(item)
        return 0
    if args.prompt is not None:
        ask(args.prompt)
        return 0
    return interactive(memory, ask) if sys.stdin.isatty() else piped(ask)


if __name__ == "__main__":
    sys.exit(run_main(main))
