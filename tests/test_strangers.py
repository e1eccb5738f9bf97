"""Files from strangers: forged ones are refused in one line, run nothing, and take no more memory than is theirs."""
import gzip
import io
import json
import os

import resource
import signal
import subprocess
import sys
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat import checkpoint_manager as cm
from nanochat import download
from nanochat.common import UserError, create_file, open_file, read_small, repo_root
from nanochat.dataset import read_documents, read_lines, read_texts
from nanochat.memory import Store, Writer
from nanochat.memory_file import FORMAT, VERSION
from nanochat.plain_file import STORAGES, load_plain
from nanochat.record import Layout
from nanochat.tokenizer import Tokenizer
from tests.conftest import tiny
from tests.test_memory import GEOMETRY, IDENTITY, add, build, expected, held

MB = 2 ** 20
META = {"config": {}, "tokenizer": ""}


def plain(data):
    return load_plain(io.BytesIO(data), "x.pt", "file of ours")


def archive(pickled, storages=(), how=zipfile.ZIP_STORED):
    """A file as torch.save makes one, of any pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name, data in (("data.pkl", pickled), *((f"data/{i}", data) for i, data in enumerate(storages))):
            file.writestr("archive/" + name, data)
    return out.getvalue()


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def pickled(value):
    with zipfile.ZipFile(io.BytesIO(saved(value))) as file:
        return file.read("archive/data.pkl")


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, (dict, list, tuple)):
        pairs = zip(a.items(), b.items()) if isinstance(a, dict) else zip(a, b)
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in pairs)
    return type(a) is type(b) and a == b


# .pt ------------------------------------------------------------------------------------------------------------------


def test_what_torch_saves_is_read_as_torch_reads_it():
    weight = torch.randn(30, 20)
    value = {"a": weight, "tied": weight.detach(), "turned": torch.randn(3, 5).T, "part": weight[3:7, 2:],
             "none": weight[:0], "number": torch.tensor(3),
             "types": [torch.zeros(3, dtype=d) for d in STORAGES.values()],
             3: [1, 2 ** 70, -5, 300, 1.5, True, None, "é\ud800", (), ((),), [], {}, "twice", "twice"],
             "others": [torch.bfloat16, torch.device("cpu")]}
    data = saved(value)
    got = plain(data)
    assert same(got, torch.load(io.BytesIO(data), weights_only=True)) and got["a"].data_ptr() == got["tied"].data_ptr()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


laugh = lambda i: b"]q" + bytes([i + 1]) + b"(" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e"
laughs = b"\x80\x02]q\x00" + b"".join(map(laugh, range(40))) + b"."
TEXT = b"X\x00\x00\x10\x00" + b"a" * MB + b"q\x00"
WIDE = torch.zeros(100000)
STORED = pickled({"x": torch.zeros(1000)})


@pytest.mark.parametrize("data, message", [
    (lambda: archive(STORED, [bytes(4000)], zipfile.ZIP_DEFLATED), "entries are compressed"),
    (lambda: archive(STORED, [bytes(3999)]), "not of the size"),
    (lambda: archive(STORED, [bytes(4001)]), "not of the size"),
    (lambda: archive(STORED), "no item named"),
    (lambda: saved({"x": torch.zeros(1).expand(10 ** 9)}), "larger than its storage"),
    (lambda: saved({"x": torch.zeros(10).as_strided((10, 1000), (1, 0))}), "larger than its storage"),
    (lambda: saved({"x": torch.zeros(10 ** 9, device="meta")}), "more than plain data"),
    (lambda: saved({"x": torch.zeros(10 ** 4, 10 ** 4).to_sparse()}), "more than plain data"),
    (lambda: saved([WIDE.view(n, -1) for n in (1, 2, 4, 5, 10)]), "more than the file can hold"),
    (lambda: archive(laughs), "a container or tensor is in it twice"),
    (lambda: archive(b"\x80\x02(" + TEXT + b"h\x00" * 1000 + b"t."), "more than the file can hold"),
    (lambda: archive(b"\x80\x02(" + b"]" * (MB + 9) + b"t."), "too many objects"),
    (lambda: archive(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."), "more than plain data"),
    (lambda: archive(b"\x80\x02ctorch\nsave\n."), "more than plain data"),
    (lambda: archive(b"\x80\x02}}b."), "more than plain data"),
    (lambda: archive(b"\x80\x02ccollections\nOrderedDict\n]\x85R."), "more than plain data"),
    (lambda: archive(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."), "."),
    (lambda: archive(b"\x80\x02r"), "."),
    (lambda: archive(b"."), "pop from empty list"),
    (lambda: b"PK\x03\x04" + b"PK\x01\x02" * 70000, "too many entries"),
])
def test_a_forged_archive_is_refused(data, message):
    with pytest.raises(UserError, match=f"x.pt: truncated or damaged, or not a file of ours .*{message}") as caught:
        plain(data())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_entries_that_overlap_are_refused():
    data = bytearray(archive(pickled([torch.zeros(1000) + i for i in range(9)]), [bytes(4000)] * 9))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        first = next(e.header_offset for e in file.infolist() if e.filename == "archive/data/0")
    whole, at = bytes(data[:first + 5000]) + bytes(data[data.index(b"PK\x01\x02"):]), 0
    cut = bytearray(whole)
    end = cut.rindex(b"PK\x05\x06")
    cut[end + 16:end + 20] = (first + 5000).to_bytes(4, "little")
    while (at := cut.find(b"PK\x01\x02", at + 1)) >= 0:   # every entry of the directory is that of the first storage
        if cut[at + 46:].startswith(b"archive/data/"):
            cut[at + 42:at + 46] = first.to_bytes(4, "little")
    with pytest.raises(UserError, match="entries are larger than the file"):
        plain(bytes(cut))


def test_nothing_runs(tmp_path):
    for value in (Evil(tmp_path / "ran"), {"x": [Evil(tmp_path / "ran")]}):
        with pytest.raises(UserError, match="more than plain data"):
            plain(saved(value))
    assert not (tmp_path / "ran").exists()


def test_what_is_expanded_is_saved_whole(tmp_path):
    cm.save_checkpoint(tmp_path, 1, {}, None, META, {"x": torch.ones(1).expand(5)})
    assert torch.equal(cm.load_checkpoint(tmp_path, 1).train_state["x"], torch.ones(5))
    with pytest.raises(TypeError, match="float8"):
        cm.save_checkpoint(tmp_path, 2, {"w": torch.zeros(3).to(torch.float8_e5m2)}, None, META)


# states ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"chunk": 16.0e9}, {"chunk": 8}, {"id_bytes": 3}, {"index": [1.0, 4, 8]},
                                    {"index": [10 ** 9, 10 ** 9, 8]}, {"gist": [1, -8, 4]}, {"gist": [1, 8, 5]}])
def test_a_record_is_of_a_sane_size(change):
    with pytest.raises(ValueError):
        Layout({**GEOMETRY, **change})


@pytest.mark.parametrize("key, value", [("weights", 12345), ("geometry", {**GEOMETRY, "index": [2 ** 20, 64, 8]}),
                                        ("buffer", torch.zeros(16, dtype=torch.int64))])
def test_a_forged_state_is_refused(tmp_path, key, value):
    from nanochat.memory_file import digest
    path = tmp_path / "S.pt"
    build(path, [1, 2])
    state = torch.load(path, weights_only=True)
    if key in state:
        state[key] = value
    else:
        state["meta"] = json.dumps({**json.loads(state["meta"]), key: value})
    torch.save({**state, "sha256": digest(state)}, path)
    with pytest.raises(UserError, match="damaged, not what a Live Memory state holds"):
        Store(path)


def test_what_takes_the_place_of_a_file_is_not_written_through_a_link(tmp_path):
    path, victim = tmp_path / "S.pt", tmp_path / "victim"
    victim.write_text("precious")
    for name in ("S.pt.new", "S.traces.new"):
        (tmp_path / name).symlink_to(victim)
    build(path, [1, 2])
    for name in ("S.pt.new", "S.traces.new"):
        (tmp_path / name).symlink_to(victim)
    with Writer(path) as writer:
        (tmp_path / "S.traces.new").symlink_to(victim)   # put there while it is open
        (tmp_path / "S.pt.new").symlink_to(victim)
        writer.delete([1])
        (tmp_path / "S.pt.new").symlink_to(victim)
        add(writer, [3])
    assert held(path) == expected([2, 3]) and victim.read_text() == "precious"
    (tmp_path / "T.traces").symlink_to(tmp_path / "made")
    with pytest.raises(UserError, match="T.traces: a link"):
        Writer(tmp_path / "T.pt", IDENTITY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["S.pt", "S.traces", "T.traces", "victim"]


def test_a_download_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.bin.part").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="a link"):
        download.fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", attempts=1)
    assert (tmp_path / "victim").read_text() == "precious"


# fifos and devices ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path):
    """Makes fifos; whoever waits for one is woken by SIGALRM, long after."""
    def waited(*_):
        raise AssertionError("a fifo is waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(60)

    def make(name):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        return tmp_path / name
    yield make
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_nobody_waits_for_a_fifo(fifo, tmp_path):
    from scripts import memory
    build(tmp_path / "S.pt", [1, 2])
    readers = {
        "F.pt": lambda path: Store(path), "S.traces": lambda path: Store(tmp_path / "S.pt"),
        "G.traces": lambda path: Writer(tmp_path / "G.pt", IDENTITY),
        "m.tar": lambda path: memory.main(["import", str(path), "--binary", "--state-path", str(tmp_path / "new.pt")]),
        "meta_000001.json": lambda path: cm.load_model_file(tmp_path / "model_000001.pt"),
        "tokenizer.json": lambda path: Tokenizer.load(tmp_path), "a.parquet": lambda path: list(read_documents([path])),
        "a.jsonl": lambda path: list(read_lines(path)), "a.txt": lambda path: list(read_texts(path)),
        ".b.bin.part": lambda path: download.fetch("http://127.0.0.1:9/b.bin", tmp_path / "b.bin", attempts=1),
    }
    for name, read in readers.items():
        path = fifo(name)
        with pytest.raises((UserError, ValueError), match="a fifo, a socket or a device|no such model file"):
            read(path)
        path.unlink()
    fifo("meta_000002.json")
    assert cm.find_last_step(tmp_path) is None


def test_files_are_files(tmp_path):
    with pytest.raises(UserError, match="/dev/zero: not a file"):
        read_small("/dev/zero", 10)
    (tmp_path / "a").write_bytes(b"12345")
    assert read_small(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UserError, match="larger than the 4 bytes"):
        read_small(tmp_path / "a", 4)
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    os.close(create_file(tmp_path / "b"))   # the name is removed, the file under the other name stays
    assert (tmp_path / "a").read_bytes() == b"12345" and (tmp_path / "b").read_bytes() == b""


# manifests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.pt", "shards_000001/../x", "..", ".a", "", 5])
def test_a_manifest_names_files_of_its_directory_only(tmp_path, name):
    cm.save_checkpoint(tmp_path, 1, {}, None, {"config": {}, "tokenizer": ""})
    path = tmp_path / "meta_000001.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["model"]["name"] = name
    manifest["sha256"] = cm._manifest_digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="lists something else than files of this directory"):
        cm.load_checkpoint(tmp_path, 1)
    assert cm.find_last_step(tmp_path) is None


# models ---------------------------------------------------------------------------------------------------------------


def test_shapes_are_compared_before_weights_are_made(tokenizer):
    model = tiny(tokenizer)
    weights, fields = model.state_dict(), model.describe()["config"]

    def build_model(weights=weights, **change):
        return cm.build_model(type(model), type(model.config), {**fields, **change}, weights, "m.pt")

    got = build_model()
    assert all(torch.equal(w, weights[name]) for name, w in got.state_dict().items())
    for change in ({"n_embd": 10 ** 7}, {"vocab_size": 10 ** 9}, {"n_layer": 10 ** 9}, {"window": 10 ** 9}, 
                   {"word_bytes": 10 ** 12}, {"gist_dim": 2 ** 62}, {"n_head": 0}, {"n_layer": 2.5}, {"n_embd": "64"},
                   {"new_field": 1}):
        with pytest.raises(UserError, match="m.pt is of another"):
            build_model(**change)
    rows = len(weights["wte.weight"])
    for scale in (torch.ones(rows, 10 ** 3), torch.ones(1), torch.ones(1, rows)):
        with pytest.raises(UserError, match="m.pt is of another model configuration"):
            build_model({**weights, "wte.weight:scale": scale})


# memory, measured -----------------------------------------------------------------------------------------------------


def bombs(directory):
    """Small files that stand for 200 MB and more, as (what reads it, path)."""
    column = lambda dtype: torch.zeros(1, dtype=dtype).expand(50 * MB)
    columns = {"traces": column(torch.int32), "time": column(torch.int64)}
    torch.save({"format": FORMAT, "version": VERSION, "meta": "{}", **columns, "sha256": ""}, directory / "strides.pt")
    yield "state", directory / "strides.pt"
    with zipfile.ZipFile(directory / "packed.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        content = pickled({"x": torch.zeros(0, dtype=torch.uint8)})
        out.writestr("archive/version", "3\n")
        out.writestr("archive/data.pkl", content.replace(b"K\x00", b"J" + (200 * MB).to_bytes(4, "little"), 1))
        with out.open("archive/data/0", "w") as entry:
            for _ in range(200):
                entry.write(bytes(MB))
    yield "state", directory / "packed.pt"
    with tarfile.open(directory / "m.tar.gz", "w:gz", compresslevel=1) as out:
        entry = tarfile.TarInfo("S.pt")
        entry.size = 200 * MB
        out.addfile(entry, Zeros())
        out.addfile(tarfile.TarInfo("S.traces"))
    yield "tar", directory / "m.tar.gz"
    fields = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 24 * 1024}
    meta = {"config": {"model_class": "THENGPT", "config": fields}, "tokenizer": Tokenizer.load().fingerprint}
    cm.save_checkpoint(directory / "model", 1, {"x": torch.zeros(1)}, None, meta)
    yield "model", directory / "model"
    table = pa.table({"text": ["a" * (200 * MB)]})
    pq.write_table(table, directory / "page.parquet", compression="zstd", use_dictionary=False)
    yield "parquet", directory / "page.parquet"
    table = pa.table({"text": ["a" * (6 * MB)] * 64})
    pq.write_table(table, directory / "dictionary.parquet", compression="zstd", dictionary_pagesize_limit=32 * MB)
    yield "parquet", directory / "dictionary.parquet"
    with gzip.open(directory / "a.jsonl.gz", "wb", compresslevel=1) as out:
        for _ in range(200):
            out.write(b" " * MB)
    yield "lines", directory / "a.jsonl.gz"


class Zeros(io.RawIOBase):
    def read(self, size=-1):
        return bytes(size)


def defused():
    """What the child process does: each file is read, and the memory that it took is said in MB."""
    from nanochat.engine import load_model
    from scripts import memory
    readers = {"state": Store, "model": lambda path: load_model(path, "cpu", "fp32"),
               "parquet": lambda path: sum(len(text) > 0 for _, text in read_documents([path])),
               "tar": lambda path: memory.main(["import", path, "--binary", "--state-path", path + ".pt"]),
               "lines": lambda path: list(read_lines(path))}
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 1500 * MB,) * 2)
    for kind, path in json.loads(sys.argv[1]):
        before = peak()
        try:
            said = f"read: {readers[kind](path)}"
        except (UserError, ValueError) as error:
            said = str(error)
        except MemoryError:
            said = "out of memory"
        print(json.dumps([os.path.basename(path), said, peak() - before]))


def test_memory_stays_in_proportion_to_the_file(tmp_path):
    forged = [(kind, str(path)) for kind, path in bombs(tmp_path)]
    child = [sys.executable, "-c", "from tests.test_strangers import defused; defused()", json.dumps(forged)]
    done = subprocess.run(child, cwd=repo_root(), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    got = {name: (said, grown) for name, said, grown in map(json.loads, done.stdout.splitlines())}
    messages = {"strides.pt": "larger than its storage", "packed.pt": "compressed", "m.tar.gz": "packed",
                "model": "another", "page.parquet": "out of proportion", "dictionary.parquet": "read: 64",
                "a.jsonl.gz": "out of proportion"}
    assert got.keys() == messages.keys()
    for name, (said, grown) in got.items():
        assert messages[name] in said and grown < 150, (name, said, grown)
