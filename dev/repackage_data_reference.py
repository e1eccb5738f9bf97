"""Repackage a corpus as the shards that training reads: shuffled zstd parquet with a `text` column.

    python dev/repackage_data_reference.py --input corpus.jsonl.xz --output data/base
    python dev/repackage_data_reference.py --hf-dataset HuggingFaceFW/fineweb-edu --hf-config sample-10BT \
        --output data/base

Inputs are JSONL or text files (also .xz, .gz, .zst), parquet files, or a Hugging Face dataset. The last shard is for
validation. The shuffle is uniform over the whole corpus and needs 16 bytes of memory a document: the text itself waits
in a temporary file beside the output. The same inputs and seed give the same shards; they appear all at once.
"""

import argparse
import os
import sys
import tempfile
from array import array
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanochat.common import flag, run_main  # noqa: E402
from nanochat.dataset import ROW_GROUP_SIZE, read_texts, write_shards  # noqa: E402


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    flag(source, "--input", nargs="+", metavar="FILE", help=".jsonl, .txt (also .xz, .gz, .zst) or .parquet")
    flag(source, "--hf-dataset", metavar="NAME", help="a Hugging Face dataset (needs `datasets`)")
    flag(parser, "--hf-config", metavar="NAME", help="its configuration")
    flag(parser, "--hf-split", default="train", help="its split")
    flag(parser, "--output", required=True, metavar="DIR", help="new or empty directory")
    flag(parser, "--field", default="text", help="name of the JSON field or column that holds the text")
    flag(parser, "--docs-per-shard", type=int, default=50 * ROW_GROUP_SIZE)
    flag(parser, "--row-group-size", type=int, default=ROW_GROUP_SIZE)
    flag(parser, "--val-fraction", type=float, default=0.005,
         help="share of the documents in the last shard; 0 makes no validation shard")
    flag(parser, "--seed", type=int, default=1337)
    return parser


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if not 0 <= args.val_fraction < 1:
        parser.error("--val-fraction must be at least 0 and below 1")
    if args.docs_per_shard < 1 or args.row_group_size < 1 or args.seed < 0:
        parser.error("--docs-per-shard and --row-group-size must be at least 1, --seed at least 0")
    try:
        texts = hf_texts(args) if args.hf_dataset else (text for path in args.input
                                                        for text in read_texts(path, args.field))
        num_docs, num_shards = repackage(texts, Path(args.output), args.docs_per_shard, args.row_group_size,
                                         args.val_fraction, args.seed)
    except (OSError, ValueError) as error:
        print(f"repackage: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {num_docs:,} documents in {num_shards} shards", file=sys.stderr)
    return 0


def hf_texts(args):
    """Stream the texts of the Hugging Face dataset that `args` names; ValueError when that is not possible."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError("--hf-dataset needs the package `datasets`: pip install datasets") from error
    dataset = load_dataset(args.hf_dataset, args.hf_config, split=args.hf_split, streaming=True)
    for row in dataset:
        if not isinstance(row.get(args.field), str):
            raise ValueError(f"{args.hf_dataset} has no text in {args.field!r}; its columns: {', '.join(row)}")
        yield row[args.field]


def repackage(texts, output, docs_per_shard, row_group_size, val_fraction, seed):
    """Shuffle `texts` into shards in `output` (new or empty) and return (documents, shards).

    ValueError when `output` is not empty or there are too few documents.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} is not an empty directory: remove it or choose another")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as work:
        spool, ends = Path(work) / "spool", array("q", [0])
        with open(spool, "wb") as file:
            for text in texts:
                if text.strip():
                    ends.append(ends[-1] + file.write(text.encode("utf-8", "surrogatepass")))
        num_docs = len(ends) - 1
        num_val = max(1, round(num_docs * val_fraction)) if val_fraction else 0
        if num_docs <= num_val:
            raise ValueError(f"the input holds {num_docs} documents: too few for a training and a validation part")
        full, rest = divmod(num_docs - num_val, docs_per_shard)
        sizes = [docs_per_shard] * full + [rest] * (rest > 0) + [num_val] * (num_val > 0)
        order = np.random.default_rng(seed).permutation(num_docs)
        with open(spool, "rb") as file:
            write_shards(_spooled(file, ends, order), Path(work) / "shards", sizes, row_group_size)
        if output.exists():
            output.rmdir()
        os.replace(Path(work) / "shards", output)
    return num_docs, len(sizes)


def _spooled(file, ends, order):
    for index in order.tolist():
        file.seek(ends[index])
        yield file.read(ends[index + 1] - ends[index]).decode("utf-8", "surrogatepass")


if __name__ == "__main__":
    sys.exit(run_main(main))
