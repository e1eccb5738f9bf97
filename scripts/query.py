"""
Query: the frozen model answers from a memory, and says which episodes it answered from.

Interactive on a terminal: what you say is remembered, what you ask is answered (/help). One question with -p, one a
line piped to stdin, or one JSON object a line in --questions FILE.jsonl. Answers go to stdout, everything else to
stderr.
"""
import argparse
import re
import sys

from nanochat.chat import Chat, note
from nanochat.common import Help, UserError, flag, run_main
from nanochat.text import json_line
from nanochat.users import add_user, state_path


def positive(text):
    if (value := int(text)) < 1:
        raise ValueError
    return value


def probability(text):
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError
    return value


def size(text):
    """Bytes of '256MB', '1.5GB' or '1000000'. For argparse: ValueError where it is none."""
    if not (parts := re.fullmatch(r"([\d.]+)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)):
        raise ValueError(text)
    if (found := float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " ")) > 2 ** 62:
        raise ValueError(text)
    return int(found)


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.query --model_path data/then-d6 --state_path S.pt [-p "
                                           "QUESTION] [options]",
                                     description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", metavar="PATH", required=True, help="model file of a checkpoint, or its directory")
    add("--state-path", metavar="PATH",
        help="the state file to answer from; a conversation begins it if it is not there")
    add_user(parser)
    add("-p", "--prompt", metavar="QUESTION", help="one question")
    add("--questions", metavar="FILE", help='JSON lines with a "question"; prints one JSON object a line')
    add("--json", action="store_true", help="print one JSON object for each question")
    add("--style", choices=("short", "sentence"), default="short",
        help="sentence: answers are whole sentences, and small talk is answered, by the open model that the model "
             "began with")
    add("--routing", action="store_true",
        help="in the JSON, too: how far each episode was addressed (scripts.memory view draws it)")
    add("--incognito", action="store_true", help="nothing is written: what you say is known until you leave")
    add("--no-memory", action="store_true",
        help="nothing is read or remembered: the answers are those of an empty memory")
    add("--min-confidence", type=probability, default=0.0, metavar="P",
        help="less sure answers are \"I don't know\" (0 to 1, default: 0)")
    add("--max-tokens", type=positive, default=48, metavar="N", help="of an answer (default: 48)")
    add("--ram-budget", type=size, metavar="BYTES",
        help="RAM that traces may take (256MB, 4GB); the rest is read from the file when it is needed")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps")
    add("--dtype", default="auto", metavar="NAME", help="auto, fp32, bf16 or fp16")
    return parser


def read_questions(path):
    """
    [dict] of a JSONL file, each with a str 'question'; blank lines are skipped. UserError (code 2) names the line that
    is wrong.
    """
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json_line(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON in UTF-8 ({error})", code=2) from error
        if not isinstance(item, dict) or not isinstance(item.get("question"), str) or not item["question"].strip():
            raise UserError(f"{path}, line {number}: needs an object with a 'question'", code=2)
        items.append(item)
    if not items:
        raise UserError(f"{path}: no question in it", code=2)
    return items


def terminal_reader():
    """Lines typed on a terminal: line editing, and the history of this conversation, in RAM alone."""
    try:
        import readline  # noqa: F401  input() uses it
    except ImportError:
        pass  # Windows

    def read(prompt):
        # readline must know the prompt to redraw the line, and writes it to stdout: only where that is the terminal,
        # too
        if sys.stdout.isatty():
            return input(prompt)
        if sys.stderr.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)
        return input()

    return read


def pipe_reader():
    lines = enumerate(sys.stdin.buffer, 1)

    def read(_):
        number, line = next(lines, (0, None))
        if line is None:
            raise EOFError
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            error.where = f"stdin, line {number}: "
            raise

    return read


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.prompt is not None and args.questions:
        parser.error("-p and --questions exclude each other")
    if args.prompt is not None and not args.prompt.strip():
        parser.error("-p needs a question")
    if args.routing and not (args.json or args.questions):
        parser.error("--routing is for --json or --questions")
    one_way = args.prompt is not None or args.questions is not None
    talk = not one_way and sys.stdin.isatty()
    path = None if args.no_memory else state_path(parser, args, "state_path", make=talk and not args.incognito)
    items = read_questions(args.questions) if args.questions else None

    from tqdm import tqdm

    from nanochat.live_memory import LiveMemory
    from nanochat.talk import Voice

    # a conversation may begin a memory; to ask one that is not there is a mistake
    read_only = args.incognito or one_way or path is not None and not talk and not path.exists()
    with LiveMemory(args.model_path, path, read_only=read_only, ram_budget=args.ram_budget,
                    min_confidence=args.min_confidence, max_tokens=args.max_tokens,
                    device=args.device, dtype=args.dtype) as memory:
        voice = Voice(memory.model, memory.tokenizer) if args.style == "sentence" else None
        chat = Chat(memory, terminal_reader() if talk else pipe_reader(), args.json, args.routing, args.no_memory, talk,
                    voice)
        if items:
            # on one terminal, the answers are progress enough
            return chat.answer_all(tqdm(items, unit=" questions", file=sys.stderr, disable=sys.stdout.isatty() or None))
        if args.prompt is not None:
            chat.ask({"question": args.prompt})
            return 0
        if talk:
            new = "" if path is None or path.exists() else f"{path}: a new memory | "
            note(f"{new}{len(memory):,} episodes | device: {memory.facts['device']} | dtype: {memory.facts['dtype']} | "
                 "/help")
        return chat.run()


if __name__ == "__main__":
    sys.exit(run_main(main))
