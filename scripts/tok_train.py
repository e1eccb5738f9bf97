"""Train the tokenizer and write it as text.

    python -m scripts.tok_train --input prose.jsonl data/base --max-chars 12000000 8000000 --output my-tokenizer

Inputs are JSONL or text files (also .xz, .gz, .zst), parquet files, or directories of parquet shards. Special tokens
in them are taken out before training. The same inputs and options give the same tokenizer.
"""

import argparse
import datetime
import re
import shlex
import sys
from pathlib import Path

from nanochat.common import Help, flag, run_main
from nanochat.dataset import list_shards, read_texts
from nanochat.tokenizer import MARKERS, PATTERN, SPECIAL_NAMES, Tokenizer, save_tokenizer

# Marks that get a token of their own even where the input has few.
TYPOGRAPHY = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"


def build_parser():
    parser = argparse.ArgumentParser(prog="python -m scripts.tok_train", description=__doc__.split("\n")[0],
                                     formatter_class=Help, allow_abbrev=False)
    flag(parser, "--input", nargs="+", required=True, metavar="PATH", help="files or shard directories")
    flag(parser, "--vocab-size", type=int, default=8192, help="with the special tokens")
    flag(parser, "--max-chars", type=int, nargs="+", default=[0], metavar="N",
         help="at most N characters, sampled evenly: one number for all inputs or one for each; 0 is all")
    flag(parser, "--exclude", nargs="+", default=[], metavar="WORD", help="drop documents that hold a WORD")
    flag(parser, "--output", default="data/tokenizer",
         help="directory to write; a new data/tokenizer does not fit the small model that ships")
    return parser


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    smallest = 257 + len(SPECIAL_NAMES)
    if args.vocab_size < smallest:
        parser.error(f"--vocab-size must be at least {smallest}: 256 bytes, the special tokens and one merge")
    if len(args.max_chars) not in (1, len(args.input)):
        parser.error(f"--max-chars needs one number or one for each of the {len(args.input)} inputs")
    try:
        import rustbpe
    except ImportError:
        print("tok_train: training needs rustbpe: pip install rustbpe", file=sys.stderr)
        return 1
    limits = args.max_chars * len(args.input) if len(args.max_chars) == 1 else args.max_chars
    try:
        samples = [sample(path, limit, args.exclude) for path, limit in zip(args.input, limits)]
        ranks = train(rustbpe, samples, args.vocab_size - len(SPECIAL_NAMES))
        names = [Path(path).name for path in args.input]
        command = ["python", "-m", "scripts.tok_train", "--input", *names, "--vocab-size", str(args.vocab_size),
                   "--max-chars", *map(str, args.max_chars)] + (["--exclude", *args.exclude] if args.exclude else [])
        made = {"command": shlex.join(command), "date": datetime.date.today().isoformat(),
                "inputs": [{"name": name, "chars": sum(map(len, texts))} for name, texts in zip(names, samples)]}
        fingerprint = save_tokenizer(args.output, ranks, made)
        tokenizer = Tokenizer.load(args.output)
    except (OSError, ValueError) as error:
        print(f"tok_train: {error}", file=sys.stderr)
        return 1
    for name, texts in zip(names, samples):
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        print(f"{name}: {size:,} bytes, {tokens:,} tokens, {size / tokens:.3f} bytes a token")
    print(f"{args.output}: {tokenizer.vocab_size} tokens, fingerprint {fingerprint}")
    return 0


def sample(path, limit, exclude):
    """Texts of a file or shard directory, without special tokens: all, or about `limit` characters drawn evenly
    over the whole input, so that an input sorted by source keeps its mix. ValueError when nothing is left."""
    unwanted = re.compile(r"\b(?:" + "|".join(map(re.escape, exclude)) + r")\b", re.IGNORECASE) if exclude else None

    def documents():
        for file in list_shards(path) if Path(path).is_dir() else [path]:
            for text in read_texts(file):
                if not (unwanted and unwanted.search(text)):
                    yield text

    share = limit / max(1, sum(map(len, documents()))) if limit else 1.0
    seen, kept, texts = 0, 0, []
    for text in documents():
        seen += len(text)
        if kept + len(text) <= seen * share:
            kept += len(text)
            # Split, not joined: what stood on two sides of a marker must not merge.
            texts.extend(part for part in MARKERS.split(text) if part)
    if not texts:
        raise ValueError(f"{path} holds no text to train on")
    return texts


def train(rustbpe, samples, num_ranks):
    """{bytes: id} of exactly `num_ranks` tokens; ValueError when the text has too few merges for that."""
    texts = [text for sample in samples for text in sample]
    marks = "\n".join(TYPOGRAPHY) + "\n"
    texts.append(marks * (1 + sum(map(len, texts)) // 1000))
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), num_ranks, pattern=PATTERN)
    ranks = {bytes(token): index for token, index in trainer.get_mergeable_ranks()}
    if len(ranks) < num_ranks:
        raise ValueError(f"the input has enough variety for {len(ranks)} tokens only, {num_ranks} are needed: "
                         "add text or lower --vocab-size")
    return ranks


if __name__ == "__main__":
    sys.exit(run_main(main))
