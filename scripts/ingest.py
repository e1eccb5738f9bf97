"""
Ingest: a frozen model reads text once, and what it remembers of it becomes a state: S.pt and, beside it, S.traces.

    python -m scripts.ingest --model_path data/then-d6 --data_path notes.txt --output_path notes.pt
    torchrun --standalone --nproc_per_node=8 -m scripts.ingest ...     episodes are read by one process a GPU, the files
    are the same to the byte

What the state holds of this text already is not read again: the same command twice does nothing, and one that was
killed goes on where it was. A state that holds other episodes is left alone: --append adds to them, --replace deletes
them. A file that is no state is never written over.
"""
import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from array import array
from collections import Counter

from nanochat.common import Help, UserError, flag, resolve_input, run_main
from nanochat.text import decoded, printable, split_episodes
from nanochat.users import add_user, moment, state_path
from scripts.memory import add_export, keep_export

TEXT_SUFFIXES = (".txt", ".md")


def build_parser():
    parser = argparse.ArgumentParser(usage="python -m scripts.ingest --model_path data/then-d6 --data_path notes.txt "
                                           "--output_path S.pt [options]", description=__doc__, formatter_class=Help,
                                     allow_abbrev=False)
    add = lambda *names, **kw: flag(parser, *names, **kw)
    add("--model-path", required=True, help="model file of a checkpoint, or its directory")
    add("--data-path", required=True, nargs="+", metavar="PATH",
        help="text files (UTF-8, or UTF-16 with its mark), or directories of .txt and .md files")
    add("--output-path", help="the state file to write (S.traces comes beside it)")
    add_user(parser)
    there = parser.add_mutually_exclusive_group()
    flag(there, "--append", action="store_true", help="keep what the state holds, add what it does not hold yet")
    flag(there, "--replace", action="store_true", help="hold this text alone: what else the state holds is deleted")
    add_export(parser)
    add("--time", type=moment, default=-1, metavar="TIME",
        help="when this was lived, to be forgotten by: now, or ISO 8601 (default: not recorded)")
    add("--episode", choices=["line", "paragraph", "file"], default="line",
        help="what is remembered, and can be forgotten, as one (default: line)")
    add("--device", default="auto")
    add("--dtype", default="auto", help="auto, fp32, bf16 or fp16")
    add("--json", action="store_true", help="the summary as one JSON object on stdout")
    return parser


def find_files(paths):
    """
    [(path, name, whether it was named itself)] of the text files in `paths`, directories sorted, what is hidden in them
    (.git, .trash) left out; a name is what the state keeps of where an episode came from.
    """
    found = []
    for given in paths:
        if not given.strip():   # Path("") would be the current directory
            raise UserError("--data-path is blank (an unset variable?)", code=2)
        path = resolve_input(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES and p.is_file()
                            and not any(part.startswith(".") for part in p.relative_to(path).parts))
            if not inside:
                raise UserError(f"{given}: no .txt or .md file in this directory")
            found += [(p, p.relative_to(path).as_posix(), False) for p in inside]
        elif path.exists():
            found.append((path, path.name, True))
        else:
            raise UserError(f"{given}: no such file or directory")
    return found


def read_texts(files):
    """
    Yields (text, name) of find_files' files. UserError where one that was named is not text, with the byte that shows
    it; one of a directory is said on stderr, and left out.
    """
    for path, name, named in files:
        try:
            yield decoded(path.read_bytes()), name
        except (ValueError, OSError) as error:
            reason = f"{path}: {getattr(error, 'strerror', None) or error}"
            if named:
                raise UserError(reason) from error
            print(printable(f"skipped: {reason}", sys.stderr), file=sys.stderr)


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


def begun(memory, encoded, rows, exactly=False):
    """
    How many of these episodes `memory` holds: it must begin with them, or they with it; None where they differ.
    encoded: token ids of each (sequences); rows: its (source, line, time). Times may differ, those of the memory stay.
    exactly: times may not differ, and the memory may hold no other episodes.
    """
    compared = 3 if exactly else 2
    if exactly and len(memory) > len(encoded):
        return None
    same = all(memory.content.row(i)[:compared] == row[:compared] and there.tolist() == list(ids)
               for i, there, ids, row in zip(range(1, len(memory) + 1), memory.episode_ids(), encoded, rows))
    return min(len(memory), len(encoded)) if same else None


def texts_of(memory):
    """
    Counter of (source, hash of a text), for `new_episodes`. UserError where a record is damaged: nothing is added to
    that.
    """
    return Counter((memory.content.row(i)[0], content_hash(ids)) for i, ids in enumerate(memory.episode_ids(), 1))


def new_episodes(there, encoded, rows):
    """
    Indices of the episodes to be added to what is there (a Counter of texts_of, which then counts them, too): a text is
    new where it occurs more often in its source than it is there. encoded and rows: as for `begun`.
    """
    seen, new = Counter(), []
    for i, (ids, (name, _, _)) in enumerate(zip(encoded, rows)):
        key = name, content_hash(ids)
        seen[key] += 1
        if seen[key] > there[key]:
            new.append(i)
    there |= seen
    return new


def content_hash(ids):
    return hashlib.blake2b(array("I", map(int, ids)).tobytes(), digest_size=16).digest()


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    output = state_path(parser, args, "output_path", make=True)
    files = find_files(args.data_path)
    check_output(output, [path for path, _, _ in files] + [p for p in [resolve_input(args.model_path)] if p.exists()])
    found = [(text, name, line) for text, name in read_texts(files)
             for text, line in split_episodes(text, args.episode)]
    if not found:
        raise UserError(f"nothing to remember: {', '.join(args.data_path)} "
                        f"{'is empty or' if len(files) == 1 else 'hold nothing but'} white space")

    from tqdm import tqdm

    from nanochat import distributed, engine
    from nanochat.memory import Writer
    from nanochat.memory_file import Content, identity

    model, tokenizer, facts = engine.load_model(args.model_path, args.device, args.dtype)
    ranks = distributed.start(model.wte.weight.device)
    if not args.json and ranks.first:
        print(f"{args.model_path} (step {facts['step']}) | device: {facts['device']} | dtype: {facts['dtype']}"
              + (f" | {ranks.world} ranks" if ranks.world > 1 else ""), file=sys.stderr)
    began = time.perf_counter()
    rows, encoded = [(name, line, args.time) for _, name,
                     line in found], engine.episode_ids(tokenizer, [text for text, _, _ in found])
    del found
    mine = identity(model, facts)
    with contextlib.ExitStack() as stack:
        stack.callback(distributed.stop)
        memory, new, replaced = None, None, False
        if ranks.first:
            memory = stack.enter_context(Writer(output, mine, anew=args.replace))
            if args.append:
                new = new_episodes(texts_of(memory), encoded, rows)
            else:
                known = begun(memory, encoded, rows, args.replace) if memory.whole else None
                replaced = known is None
                if replaced and not args.replace:
                    raise UserError(f"{output} holds {len(memory):,} episodes that are not this text: --append keeps "
                                    "them, "
                                    "--replace deletes them", code=2)
                new = range(known or 0, len(encoded))
            if replaced:
                keep_export(args, memory, range(1, len(memory) + 1))
                print(f"in the place of {len(memory):,} episodes of {output}", file=sys.stderr)
        new = ranks.share(new)
        tokens = sum(len(encoded[i]) for i in new)
        with tqdm(total=tokens, unit=" tokens", unit_scale=True, file=sys.stderr,
                  disable=None if ranks.first else True) as bar:
            what = [encoded[i] for i in new], [rows[i] for i in new], lambda n: bar.update(n * ranks.world), ranks
            if replaced:   # beside what is there: a kill leaves that
                chunk = mine["geometry"]["chunk"]
                content = Content(mine).extended([-(-len(ids) // chunk) for ids in encoded], rows, [])
                memory.rewrite(content, (records for records, _, _ in engine.commits(model, tokenizer, *what)))
            else:
                engine.remember(model, tokenizer, memory, *what)
        if not ranks.first:
            return 0
        seconds = time.perf_counter() - began
        summary = {"episodes": len(memory), "added": len(new), "skipped": len(encoded) - len(new), "tokens": tokens,
                   "traces": len(memory.content.checks),
                   "bytes": memory.bytes, "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds),
                   "output": str(output)}
    if args.json:
        print(json.dumps(summary))
    else:
        print("{added:,} episodes added, {skipped:,} known | {tokens:,} tokens in {seconds:.1f} s, "
              "{tokens_per_second:,} tokens/s | "
              "{episodes:,} episodes in {traces:,} traces, {bytes:,} bytes in {output}".format(**summary),
              file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
