"""Documents of prose on disk: zstd parquet shards with a column `text` (string). Each line that is not blank is an
episode.

    python -m nanochat.dataset -n 8     downloads shards of FineWeb-Edu: prose, some 100 MB each
"""

import argparse
import gzip
import io
import itertools
import lzma
import os
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.common import Help, UserError, atomic_write, flag, open_file, run_main
from nanochat.download import fetch
from nanochat.parquet_pages import largest_page
from nanochat.text import json_line

# FineWeb-Edu, 100B tokens, shuffled, repackaged by Andrej Karpathy: the shards nanochat trains on
FINEWEB = "https://huggingface.co/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main"
FINEWEB_SHARDS = 1823

ROW_GROUP_SIZE = 1024
_READ_ROWS = 64  # rows decoded at a time: a few MB even when documents are books
# with twice the size of the file, the bytes at most of a page, a line or a block of text
_READ_BYTES = 2**26


class ShardError(ValueError):
    """A shard that can't be read, or does not hold what is told above. Its text names the shard."""


def list_shards(directory):
    """The shards of a directory as sorted list of Path; ValueError when there are none."""
    directory = Path(directory)
    paths = sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"no *.parquet shards in {directory}: make some with dev/repackage_data_reference.py")
    return paths


def read_documents(paths, start=(0, 0)):
    """Stream (position, text) from the shards `paths`, from document `start` = (shard, row) on.

    `position` is that of the *next* document: handed back as `start`, the stream goes on right after this one.
    ValueError for a shard that cannot be read or has no text column, and for a `start` that lies outside the shards.
    """
    shard, row = start
    if not (0 <= shard <= len(paths) and row >= 0) or (shard == len(paths) and row > 0):
        raise ValueError(f"cannot resume at shard {shard} row {row}: there are {len(paths)} shards")
    for shard in range(shard, len(paths)):
        for text in _read_rows(paths[shard], row):
            row += 1
            yield (shard, row), text
        row = 0


def write_shards(docs, directory, docs_per_shard, row_group_size=ROW_GROUP_SIZE, prefix="shard"):
    """Write documents as zstd parquet shards `{prefix}_00000.parquet`, … and return their paths.

    `docs` yields texts. Each shard appears under its name only when it is complete. Lone surrogates become U+FFFD.
    `docs_per_shard` is a number, or a list of numbers, one a shard, the last holding for all that follow.
    ValueError when `directory` already holds shards: mixing two generations of data goes unseen.
    """
    directory = Path(directory)
    if any(directory.glob(f"{prefix}_*.parquet")):
        raise ValueError(f"{directory} already holds {prefix}_*.parquet: remove them or choose another directory")
    sizes = [docs_per_shard] if isinstance(docs_per_shard, int) else list(docs_per_shard)
    if not sizes or min(sizes) < 1 or row_group_size < 1:
        raise ValueError("shards and row groups need at least one document each")
    docs = iter(docs)
    paths = []
    for first in docs:
        size = sizes[min(len(paths), len(sizes) - 1)]
        path = directory / f"{prefix}_{len(paths):05d}.parquet"
        _write_shard(itertools.chain([first], itertools.islice(docs, size - 1)), path, row_group_size)
        paths.append(path)
    return paths


def document_tokens(tokenizer, text, max_tokens=1024):
    """The episodes of a document: lists of ids from <|bos|> to <|end|>, cut between words at `max_tokens` ids."""
    if max_tokens < 3:
        raise ValueError(f"max_tokens is {max_tokens}: an episode needs <|bos|>, <|end|> and one more token")
    paragraphs = [line.strip() for line in text.split("\n")]
    episodes = []
    for ids in tokenizer.encode_batch([paragraph for paragraph in paragraphs if paragraph]):
        while ids:
            end = _cut(tokenizer, ids, max_tokens - 2)
            episodes.append([tokenizer.bos_id] + ids[:end] + [tokenizer.end_id])
            ids = ids[end:]
    return episodes


def read_texts(path, field="text"):
    """Stream the texts of a file: .jsonl or .json lines (`field` of each object), .txt (blocks between blank lines),
    either also as .xz, .gz or .zst; or .parquet (column `field`). ValueError says which file and line is wrong."""
    path = Path(path)
    kinds = [suffix for suffix in path.suffixes if suffix not in _OPENERS]
    kind = kinds[-1] if kinds else ""
    if kind == ".parquet":
        yield from _read_rows(path, 0, field)
        return
    if kind not in (".jsonl", ".json", ".ndjson", ".txt"):
        raise ValueError(f"{path}: unknown kind of file; expected .jsonl, .txt (or these with .xz, .gz, .zst) or "
                         ".parquet")
    try:
        with _open_text(path) as file:
            lines = _bounded_lines(file, path)
            yield from _text_blocks(lines, path) if kind == ".txt" else _json_texts(lines, path, field)
    except (EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not UTF-8 text: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error


def read_lines(path):
    """Stream (number, line) of the lines of a text file that are not blank, also of one packed as .xz, .gz or .zst.
    ValueError as read_texts."""
    path = Path(path)
    try:
        with _open_text(path) as file:
            yield from ((number, line) for number, line in enumerate(_bounded_lines(file, path), 1) if line.strip())
    except (EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or not UTF-8 text: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error


def _read_rows(path, start, column="text"):
    """Yield the texts of the rows of one shard from row `start`, without reading row groups before it."""
    try:
        with open(open_file(path), "rb") as pages, pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if "evidence" in names:
                raise ShardError(f"{path} is of the old form, with questions: they are JSON lines now (dev/grammar.py)")
            if column not in names:
                raise ShardError(f"{path} has no column {column!r}; its columns: {', '.join(names)}")
            kind = file.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ShardError(f"column {column!r} of {path} holds {kind}, not text")
            if start > file.metadata.num_rows:
                raise ShardError(f"cannot resume at row {start} of {path}: it has {file.metadata.num_rows} rows")
            before, groups = 0, []
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not groups and before + rows <= start:
                    before += rows
                else:
                    groups.append(group)
            row = before
            for group in groups:
                columns = map(file.metadata.row_group(group).column, range(file.metadata.num_columns))
                page = max(largest_page(pages, chunk) for chunk in columns if chunk.path_in_schema == column)
                if page > _most(path):
                    raise ShardError(f"{path}: a page of {page:,} bytes is out of proportion to the file: "
                                     "write it with smaller row groups")
                # of a dictionary, each row may be all of a page; rows are held twice, as columns and as texts
                rows = max(1, min(_READ_ROWS, _READ_BYTES // max(2 * page, 1)))
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column]):
                    skip = max(0, start - row)
                    texts = batch.column(column).slice(skip).to_pylist()
                    if None in texts:
                        raise ShardError(f"{path} row {row + skip + texts.index(None)} has no text")
                    yield from texts
                    row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, UserError) as error:
        raise ShardError(f"cannot read shard {path}: {str(error).splitlines()[0]}") from error


def _write_shard(docs, path, row_group_size):
    schema = pa.schema([pa.field("text", pa.string())])
    docs = iter(docs)

    def write(file):
        how = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
        with pq.ParquetWriter(file, schema, **how) as writer:
            while rows := list(itertools.islice(docs, row_group_size)):
                table = pa.Table.from_arrays([pa.array([_clean(text) for text in rows], pa.string())], schema=schema)
                writer.write_table(table, row_group_size=row_group_size)

    atomic_write(path, write)


def _clean(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


def _cut(tokenizer, ids, limit):
    """Where to cut `ids` to at most `limit` tokens: before a space in the second half if there is one."""
    if len(ids) <= limit:
        return len(ids)
    for end in range(limit, limit // 2, -1):
        if tokenizer.token_bytes(ids[end]).startswith(b" "):
            return end
    return limit


_OPENERS = {".xz": lzma.open, ".gz": gzip.open, ".zst": lambda file: pa.input_stream(file, compression="zstd")}


def _open_text(path):
    file = open(open_file(path), "rb")
    return io.TextIOWrapper(_OPENERS.get(path.suffix, lambda packed: packed)(file), encoding="utf-8-sig")


def _most(path):
    """What is held of a file at once, in bytes: a few bytes of a packed file may stand for any number."""
    return 2 * os.stat(path).st_size + _READ_BYTES


def _bounded_lines(file, path):
    most, number = _most(path), 0
    while line := file.readline(most + 1):
        number += 1
        if len(line) > most:
            raise ValueError(f"{path} line {number}: longer than {most:,} characters, out of proportion to the file")
        yield line


def _json_texts(lines, path, field):
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                text = json_line(line)[field]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} line {number}: not a JSON object with {field!r}") from error
            if not isinstance(text, str):
                raise ValueError(f"{path} line {number}: {field!r} is not a string")
            yield text


def _text_blocks(lines, path):
    most = _most(path)
    for filled, block in itertools.groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            held, size = [], 0
            for line in block:
                held.append(line)
                size += len(line)
                if size > most:
                    raise ValueError(f"{path}: more than {most:,} characters without a blank line, "
                                     "out of proportion to the file")
            yield "".join(held).rstrip("\n")


def main(argv=None):
    parser = argparse.ArgumentParser(usage="python -m nanochat.dataset -n 3 [options]",
                                     description="Download shards of FineWeb-Edu, as parquet files for training.",
                                     epilog="Interrupted, it goes on where it was. Other sets: "
                                            "dev/repackage_data_reference.py", formatter_class=Help, allow_abbrev=False)
    flag(parser, "-n", "--num-shards", type=int, required=True, metavar="N",
         help=f"the first N, at most {FINEWEB_SHARDS}")
    flag(parser, "--output-dir", default="data/fineweb")
    flag(parser, "--workers", type=int, default=4, help="downloads at a time")
    flag(parser, "--url", default=FINEWEB, metavar="URL", help="where shard_00000.parquet and the others are: a mirror")
    flag(parser, "--attempts", type=int, default=6, help="failures in a row, of one shard, after which to give up")
    flag(parser, "--timeout", type=float, default=30, help="seconds of silence after which a connection is given up")
    args = parser.parse_args(argv)
    if not 1 <= args.num_shards <= FINEWEB_SHARDS or min(args.workers, args.attempts) < 1:
        parser.error(f"--num-shards must be 1 to {FINEWEB_SHARDS}, --workers and --attempts at least 1")

    from tqdm import tqdm

    def download(number):
        path = Path(args.output_dir) / f"shard_{number:05d}.parquet"
        how = fetch(f"{args.url}/{path.name}", path, args.attempts, args.timeout, progress=came)
        if how == "unchecked":   # then at least it must be what it is called
            try:
                pq.ParquetFile(path).close()
            except (pa.ArrowInvalid, OSError) as error:
                path.unlink()
                where = f"{args.url}/{path.name}"
                raise UserError(f"{where} is no parquet file, and the server names no checksum") from error
        return how

    def came(size):
        if ended.is_set():
            raise UserError("interrupted")
        bar.update(size)

    ended = threading.Event()   # one has failed, or Ctrl-C: the others end with the next bytes that come
    with tqdm(unit="B", unit_scale=True, file=sys.stderr, disable=None,
              desc=args.output_dir) as bar, ThreadPoolExecutor(args.workers) as pool:
        futures = [pool.submit(download, number) for number in range(args.num_shards)]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            found = [future.result() for future in done]
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    said = ", ".join(f"{found.count(how)} {what}"
                     for how, what in (("here", "there before"), ("checked", "checked by SHA-256"),
                              ("unchecked", "with no checksum to check"))
                     if how in found)
    print(f"{args.num_shards} shards in {args.output_dir}: {said}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
