"""
Ingest: a frozen model reads text once, and what it remembers of it becomes a state file.

    python -m scripts.ingest --model_path base_checkpoints/d8/model_001000.pt --data_path data/synthetic-cairo-episodes.txt --output_path cairo_memory_state.pt
"""
import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from nanochat.common import UserError, flag, resolve_input, run_main

TEXT_SUFFIXES = (".txt", ".md")


def build_parser():
    parser = argparse.ArgumentParser(prog="python -m scripts.ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", required=True, help="model file of a checkpoint, or its directory")
    add("--data-path", required=True, nargs="+", metavar="PATH", help="UTF-8 text files, or directories of .txt and .md files")
    add("--output-path", required=True, help="the state file to write")
    add("--episode", choices=["line", "paragraph", "file"], default="line", help="what is remembered, and can be forgotten, as one (default: line)")
    add("--device", default="auto")
    add("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    add("--json", action="store_true", help="the summary as one JSON object on stdout")
    return parser


def find_files(paths):
    """[(path, name)] of the text files in `paths`, directories sorted; a name is what the state keeps of where an episode came from."""
    found = []
    for given in paths:
        path = resolve_input(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"{given}: no .txt or .md file in this directory")
            found += [(p, p.relative_to(path).as_posix()) for p in inside]
        elif path.exists():
            found.append((path, path.name))
        else:
            raise UserError(f"{given}: no such file or directory")
    return found


def read_text(path):
    """The text of a file; UserError where it is not UTF-8 text, with the byte that shows it."""
    data = path.read_bytes()
    if (at := data.find(0)) >= 0:
        raise UserError(f"{path}: binary, not text (NUL at byte {at})")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte 0x{data[error.start]:02x} at byte {error.start})") from error


def split_episodes(text, unit):
    """[(text, line number it begins at)] of the episodes in a text. unit: line, paragraph (up to a blank line) or file."""
    # not splitlines(): a form feed or U+2028 within a line is text
    lines = re.split(r"\r\n|\r|\n", text)
    if unit == "line":
        groups = [(i, i + 1) for i in range(len(lines))]
    else:
        ends = [i for i, line in enumerate(lines) if not line.strip()] if unit == "paragraph" else []
        groups = list(zip([0, *(i + 1 for i in ends)], [*ends, len(lines)]))
    episodes = []
    for begin, end in groups:
        while begin < end and not lines[begin].strip():
            begin += 1
        if whole := "\n".join(lines[begin:end]).strip():
            episodes.append((whole, begin + 1))
    return episodes


def check_output(output, files):
    """Refused before the work is done rather than after it."""
    if output.is_dir():
        raise UserError(f"{output}: a directory; --output-path names the file to write", code=2)
    if not output.parent.is_dir():
        raise UserError(f"{output.parent}: no such directory to write the state to")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"{output.parent}: no permission to write the state there")
    if output.exists() and any(output.samefile(path) for path in files):
        raise UserError(f"{output}: is read from, it can't be written to", code=2)


def main(argv=None):
    args = build_parser().parse_args(argv)
    output = Path(args.output_path).expanduser()
    files = find_files(args.data_path)
    check_output(output, [path for path, _ in files] + [p for p in [resolve_input(args.model_path)] if p.exists()])
    episodes = [(text, name, line) for path, name in files for text, line in split_episodes(read_text(path), args.episode)]
    if not episodes:
        raise UserError(f"nothing to remember: {', '.join(args.data_path)} {'is empty or' if len(files) == 1 else 'hold nothing but'} white space")

    import torch
    from tqdm import tqdm

    from nanochat import engine
    from nanochat.state_file import save_state

    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    if not args.json:
        print(f"{args.model_path} (step {facts['step']}) | device: {facts['device']} | dtype: {facts['dtype']}", file=sys.stderr)
    began = time.perf_counter()
    with tqdm(total=len(episodes), unit=" episodes", file=sys.stderr, disable=None) as bar:
        traces = engine.ingest(model, tokenizer, [text for text, _, _ in episodes], progress=bar.update)
    seconds = time.perf_counter() - began
    state = {**model.empty_state(1), "traces": traces, "episode": torch.tensor([len(episodes)])}
    save_state(output, state, model, facts, [(name, line) for _, name, line in episodes])
    tokens = int(traces.valid.sum())
    summary = {"episodes": len(episodes), "tokens": tokens, "traces": len(traces), "bytes": output.stat().st_size,
               "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds), "output": str(output)}
    if args.json:
        print(json.dumps(summary))
    else:
        print("{episodes:,} episodes, {tokens:,} tokens -> {traces:,} traces, {bytes:,} bytes in {output} | {seconds:.1f} s, {tokens_per_second:,} tokens/s".format(**summary),
              file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
