"""
Downloads from a server that fails, stalls, truncates, lies and resumes: what arrives is whole, or nothing is there.
"""
import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import dataset
from nanochat.common import UserError
from nanochat.dataset import list_shards, read_documents
from nanochat.download import fetch

BODY = bytes(range(256)) * 1000


@pytest.fixture
def server():
    """
    A server on localhost like that of Hugging Face; `moods` says what goes wrong with the next GETs of the bytes, one
    after another.
    """
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def say(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            name = self.path.rsplit("/", 1)[-1]
            body = server.files.get(name)
            if body is None:
                return self.say(404)
            if self.path.startswith("/resolve"):   # the bytes are elsewhere, and what they are is said here
                promise = {"X_Linked_ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                           "X_Linked_Size": len(body)} if server.promises else {}
                return self.say(302, Location=f"http://127.0.0.1:{server.server_port}/bytes/{name}", **promise)
            if self.command == "HEAD":
                return self.say(200, **({"Content-Length": server.length} if server.length else {}))
            mood = server.moods.pop(0) if server.moods else None
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
            server.asked.append(start)
            if mood == "500":
                return self.say(500)
            if mood == "no resume":
                start = 0
            if mood == "lie":
                body = body[:-1] + b"?"
            body = body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if mood in ("truncate", "stall", "drip"):
                self.wfile.write(body[:len(body) // 2])
                self.wfile.flush()
                if mood == "stall":
                    server.released.wait(20)
                while mood == "drip" and not server.released.wait(0.1):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                self.close_connection = True
            else:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.files, server.moods, server.asked = {"a.bin": BODY}, [], []
    server.promises, server.released = True, threading.Event()
    server.length = None
    server.url = f"http://127.0.0.1:{server.server_port}/resolve"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("moods, asked", [
    ([], [0]), (["500", "500"], [0, 0, 0]), (["truncate"], [0, len(BODY) // 2]),
    (["truncate", "truncate"], [0, len(BODY) // 2, len(BODY) * 3 // 4]),
    (["truncate", "no resume"], [0, len(BODY) // 2]), (["lie"], [0, 0]),
    (["truncate", "500", "lie", "truncate"], None)])
def test_whatever_goes_wrong_the_file_is_whole(server, tmp_path, moods, asked):
    server.moods = list(moods)
    told = []
    assert fetch(f"{server.url}/a.bin", tmp_path / "d" / "a.bin", pause=0, progress=told.append) == "checked"
    assert (tmp_path / "d" / "a.bin").read_bytes() == BODY and [p.name for p in (tmp_path / "d").iterdir()] == ["a.bin"]
    assert sum(told) == len(BODY) and (asked is None or server.asked == asked)
    assert fetch(f"{server.url}/a.bin", tmp_path / "d" / "a.bin") == "here" and (asked is None or server.asked == asked)


def test_a_stalled_connection_is_given_up(server, tmp_path):
    server.moods = ["stall"]
    began = time.monotonic()
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", timeout=0.5, pause=0) == "checked"
    assert time.monotonic() - began < 15 and server.asked == [0, len(BODY) // 2]


def test_given_up_in_one_line_and_gone_on_with_later(server, tmp_path):
    server.moods = ["truncate"] + ["500"] * 3
    with pytest.raises(UserError, match="given up after 3 attempts .*500.*kept") as error:
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", attempts=3, pause=0)
    assert "\n" not in str(error.value) and not (tmp_path / "a.bin").exists()
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", pause=0) == "checked" and server.asked[-1] == len(BODY) // 2
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/b.bin", tmp_path / "b.bin", pause=60)   # asking again would not help


@pytest.mark.parametrize("length", ["abc", "-5", "1e300"])
def test_a_length_that_is_no_number_is_one_line(server, tmp_path, length):
    server.length = length
    with pytest.raises(UserError, match="a length that is no number"):
        fetch(f"http://127.0.0.1:{server.server_port}/bytes/a.bin", tmp_path / "a.bin", attempts=2, pause=0)


def test_a_part_of_something_else_is_thrown_away(server, tmp_path):
    (tmp_path / ".a.bin.part").write_bytes(b"x" * 100)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", pause=0) == "checked" and server.asked == [100, 0]
    (tmp_path / ".b.bin.part").write_bytes(b"x" * (len(BODY) + 1))
    server.files["b.bin"] = BODY
    assert fetch(f"{server.url}/b.bin", tmp_path / "b.bin", pause=0) == "checked"


def shards(count):
    found = {}
    for number in range(count):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": [f"shard {number} row {row}" for row in range(3)]}), sink)
        found[f"shard_{number:05d}.parquet"] = sink.getvalue().to_pybytes()
    return found


@pytest.mark.parametrize("promises", [True, False])
def test_dataset_downloads_what_training_reads(server, tmp_path, capsys, promises):
    server.files, server.promises, server.moods = shards(3), promises, ["500", "500"]
    argv = ["-n", "3", "--url", server.url, "--output_dir", str(tmp_path / "fineweb"), "--workers", "2"]
    assert dataset.main(argv) == 0
    assert ("3 checked by SHA-256" if promises else "3 with no checksum") in capsys.readouterr().err
    assert ([text for _, text in read_documents(list_shards(tmp_path / "fineweb"))]
            == [f"shard {n} row {row}" for n in range(3) for row in range(3)])
    assert dataset.main(argv) == 0 and "3 there before" in capsys.readouterr().err


def test_dataset_refuses_what_is_no_parquet(server, tmp_path):
    server.files, server.promises = {"shard_00000.parquet": b"<html>please log in</html>"}, False
    with pytest.raises(UserError, match="no parquet file"):
        dataset.main(["-n", "1", "--url", server.url, "--output-dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    server.files = shards(1)
    with pytest.raises(UserError, match="shard_00001.parquet: 404"):
        dataset.main(["-n", "2", "--url", server.url, "--output-dir", str(tmp_path)])
    assert [p.name for p in tmp_path.glob("*.parquet")] in ([], ["shard_00000.parquet"])
    with pytest.raises(SystemExit):
        dataset.main(["-n", "0"])


def test_one_that_fails_ends_the_others_at_once(server, tmp_path):
    server.files, server.moods = {"shard_00000.parquet": bytes(10 ** 8)}, ["drip"]   # it would come for ever
    began = time.monotonic()
    with pytest.raises(UserError, match="shard_00001.parquet: 404"):
        dataset.main(["-n", "2", "--url", server.url, "--output-dir", str(tmp_path)])
    assert time.monotonic() - began < 15 and (tmp_path / ".shard_00000.parquet.part").exists(), "to be gone on from"
