"""Shards: writing, streaming with exact resume, episodes of a document, and repackaging of other formats."""

import gzip
import importlib.util
import json
import lzma
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.dataset import document_tokens, list_shards, read_documents, read_texts, write_shards
from nanochat.tokenizer import SPECIAL_NAMES, Tokenizer

SCRIPT = Path(__file__).resolve().parent.parent / "dev" / "repackage_data_reference.py"
spec = importlib.util.spec_from_file_location("repackage_data_reference", SCRIPT)
repackage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repackage)

TOKENIZER = Tokenizer.load()
BOS, END = TOKENIZER.bos_id, TOKENIZER.end_id


def numbered(count):
    return [f"document {i}" for i in range(count)]


@pytest.mark.parametrize("docs_per_shard", [10, 25, 1000])
def test_resume_at_every_position_equals_the_whole(tmp_path, docs_per_shard):
    docs = numbered(200) if docs_per_shard > 100 else numbered(57)
    paths = write_shards(docs, tmp_path, docs_per_shard, row_group_size=70 if docs_per_shard > 100 else 4)
    assert paths == list_shards(tmp_path) and len(paths) == -(-len(docs) // docs_per_shard)
    whole = list(read_documents(paths))
    assert [text for _, text in whole] == docs
    assert list(read_documents(paths, (0, 0))) == whole
    for done, (position, _) in enumerate(whole, 1):
        assert list(read_documents(paths, position)) == whole[done:]


def test_leftover_surrogates(tmp_path):
    write_shards(["a", "b\ud800"], tmp_path, 10)
    assert pq.read_schema(list_shards(tmp_path)[0]).names == ["text"]
    assert [text for _, text in read_documents(list_shards(tmp_path))] == ["a", "b\ufffd"]


def test_a_failed_write_leaves_nothing(tmp_path):
    def docs():
        yield "a"
        raise RuntimeError("source died")

    with pytest.raises(RuntimeError):
        write_shards(docs(), tmp_path, 10, row_group_size=1)
    assert list(tmp_path.iterdir()) == []


def test_shard_errors_are_clear(tmp_path):
    with pytest.raises(ValueError, match="no .*parquet shards in"):
        list_shards(tmp_path)
    paths = write_shards(["a"] * 3, tmp_path, 2)
    with pytest.raises(ValueError, match="already holds"):
        write_shards(["a"], tmp_path, 2)
    for start in [(0, 3), (3, 0), (2, 1), (-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match="cannot resume"):
            list(read_documents(paths, start))
    assert list(read_documents(paths, (2, 0))) == []
    (tmp_path / "shard_00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="cannot read shard .*00001"):
        list(read_documents(paths))
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column 'text'.*content"):
        list(read_documents([tmp_path / "x.parquet"]))
    pq.write_table(pa.table({"text": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="holds int64, not text"):
        list(read_documents([tmp_path / "x.parquet"]))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 1 has no text"):
        list(read_documents([tmp_path / "x.parquet"]))


@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(SPECIAL_NAMES + ("\n", "\n\n", "a word " * 40))),
                max_size=8).map("".join), st.integers(3, 40))
@settings(max_examples=200, deadline=None)
def test_prose_keeps_every_line_and_interprets_nothing(text, max_tokens):
    episodes = document_tokens(TOKENIZER, text, max_tokens=max_tokens)
    for episode in episodes:
        assert episode[0] == BOS and episode[-1] == END and 3 <= len(episode) <= max_tokens
        assert max(episode[1:-1]) < BOS
    body = b"".join(TOKENIZER.decode_bytes(episode[1:-1]) for episode in episodes).decode()
    assert body == "".join(line.strip() for line in text.split("\n"))


def test_prose_is_cut_between_words():
    parts = [TOKENIZER.decode(episode, skip_special=True)
             for episode in document_tokens(TOKENIZER, "the remarkable gardener sleeps " * 20, max_tokens=32)]
    assert len(parts) > 3 and all(part.startswith(" ") for part in parts[1:])


def test_a_shard_of_the_old_form_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "evidence": [[0]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet is of the old form"):
        list(read_documents(list_shards(tmp_path)))


def test_read_texts_of_every_format(tmp_path):
    texts = ["first\n\nwith a gap", "sëcond 🤗"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(lines.encode())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert list(read_texts(path)) == texts, path
    (tmp_path / "v1.2 notes.txt").write_text("\n\none\ntwo\n \n\nthree", encoding="utf-8")
    assert list(read_texts(tmp_path / "v1.2 notes.txt")) == ["one\ntwo", "three"]


@pytest.mark.parametrize("name, data, message", [
    ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2: not a JSON object with 'text'"),
    ("a.jsonl", b'{"text": 3}\n', "line 1: 'text' is not a string"),
    ("a.jsonl", b"\xff\xfe", "damaged or not UTF-8"),
    ("a.jsonl.xz", b"nothing like xz", "damaged or not UTF-8"),
    ("a.jsonl.gz", b"nothing like gz", "cannot read"),
    ("a.jsonl.zst", b"nothing like zst", "cannot read"),
    ("a.csv", b"a,b", "unknown kind of file"),
    ("none.jsonl", None, "cannot read .*No such file"),
])
def test_read_texts_errors(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_texts(tmp_path / name))


def corpus(tmp_path, count=100):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"dócument {i}"}) + "\n" for i in range(count)) + '{"text": " "}\n')
    return str(path)


def test_repackage_shuffles_and_holds_out_the_last_shard(tmp_path):
    common = ["--input", corpus(tmp_path), "--docs-per-shard", "40", "--row_group_size", "8", "--val-fraction", "0.1"]
    results = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert repackage.main([*common, "--output", str(tmp_path / name), "--seed", seed]) == 0
        paths = list_shards(tmp_path / name)
        files = [pq.ParquetFile(path) for path in paths]
        assert [file.metadata.num_rows for file in files] == [40, 40, 10, 10]
        assert files[0].num_row_groups == 5 and files[0].metadata.row_group(0).column(0).compression == "ZSTD"
        results[name] = [text for _, text in read_documents(paths)]
        assert sorted(results[name]) == sorted(f"dócument {i}" for i in range(100))
    assert results["a"] == results["b"] != results["c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "corpus.jsonl"]


def test_repackage_errors_leave_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    source = corpus(tmp_path, 1)
    before = sorted(tmp_path.iterdir())
    for argv, message in [(["--input", str(tmp_path / "no.jsonl")], "cannot read"),
                          (["--input", source], "too few"),
                          (["--hf-dataset", "x/y"], "pip install datasets")]:
        assert repackage.main([*argv, "--output", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert repackage.main(["--input", source, "--output", str(tmp_path)]) == 1
    assert "not an empty directory" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
