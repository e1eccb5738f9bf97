"""
nanochat/tiers.py: a memory that is mostly in its file answers as one that is held, to the bit, and stays within its
budget.
"""
import random

import numpy as np
import pytest
import torch

from nanochat import engine, layers, tiers
from nanochat.checkpoint_manager import weights_digest
from nanochat.common import UserError
from nanochat.memory import Store, Writer, load_state
from nanochat.memory_file import Content, identity
from nanochat.search import best
from nanochat.state import CHUNK
from nanochat.tiers import Shelf, held_bytes, tiered
from nanochat.users import user_path
from scripts.query import size
from tests.test_live_memory import Letters, build, episode, feed, save_state, streams


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    torch.manual_seed(0)
    model = build("swa", torch.bfloat16, read_topk=8)
    facts = {"weights": weights_digest(model.state_dict()), "tokenizer": "f00d" * 16}
    path = tmp_path_factory.mktemp("state") / "S.pt"
    save_state(path, feed(model, [streams(1, 300 * CHUNK)])[1], model, facts)
    return model, facts, path


@pytest.mark.parametrize("capacity", [1, 7, 100])
@pytest.mark.parametrize("length", [9, 16, 40])
def test_answers_are_those_of_a_memory_that_is_held(lived, monkeypatch, capacity, length):
    model, facts, path = lived
    monkeypatch.setattr(tiers, "LEAST_CACHE", capacity)
    whole = load_state(path, model, facts)[0]
    with Store(path) as store:
        like = model.empty_traces()
        budget = 300 * (held_bytes(store.layout, like)[0] + 4) + capacity * (store.layout.stride + 8)
        part = {**whole, "traces": tiered(store, like, budget)}
        assert part["traces"].ids.shelf.capacity == capacity and len(part["traces"]) == 300
        for seed in range(3):
            question = episode(length, seed)
            for piece in (question, question[:, :1]):
                (got, after), (expected, held) = (feed(model, [piece], s) for s in (part, whole))
                assert torch.equal(got, expected)
                index = torch.arange(len(held["traces"]))[None, None]
                for name in tiers.REST:
                    assert torch.equal(getattr(after["traces"], name).index_select(0, index.flatten()),
                                       getattr(held["traces"], name)[0]), name


def test_a_budget_that_holds_everything_is_used(lived):
    model, facts, path = lived
    with Store(path) as store:
        whole = 300 * sum(held_bytes(store.layout, model.empty_traces()))
    assert isinstance(load_state(path, model, facts, whole)[0]["traces"].ids, torch.Tensor)
    with pytest.raises(UserError, match="300 traces need a RAM budget of 1 MB at least"):
        load_state(path, model, facts, 1000)


def test_the_cache_holds_what_the_file_holds(lived):
    path = lived[2]
    rng = np.random.default_rng(0)
    with Store(path) as store:
        everything, shelf = store.records(), Shelf(store, 20)
        for _ in range(200):
            numbers = rng.integers(0, 300, rng.integers(0, 40))
            assert np.array_equal(shelf.records(numbers), everything[numbers])
            cached = np.flatnonzero(shelf.place >= 0)
            assert len(cached) <= 20 and np.array_equal(shelf.rows[shelf.place[cached]], everything[cached])


def test_damage_is_found_when_it_is_read(lived, tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST_CACHE", 10)
    model, facts, path = lived
    copy = tmp_path / "S.pt"
    for suffix in (".pt", ".traces"):
        copy.with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    with Store(copy) as store:
        like = model.empty_traces()
        traces = tiered(store, like, 300 * (held_bytes(store.layout, like)[0] + 4) + 10 * (store.layout.stride + 8))
        data = bytearray(copy.with_suffix(".traces").read_bytes())
        data[-3] ^= 1
        copy.with_suffix(".traces").write_bytes(data)
        traces.ids.index_select(0, torch.arange(299))
        with pytest.raises(UserError, match="checksum of record 299"):
            traces.ids.index_select(0, torch.tensor([299]))


def test_sizes():
    assert [size(text) for text in ("1000", "256MB", "1.5 GiB", "2k", "1B")] == [1000, 2 ** 28, 3 * 2 ** 29, 2048, 1]
    for text in ("", "much", "1.2.3", "-5"):
        with pytest.raises(ValueError):
            size(text)


def test_users_do_not_meet(lived, tmp_path):
    """
    Thirty users, told their lives in turns: each has the files, to the byte, and the answers of a user who is alone.
    """
    model, facts, _ = lived
    names, rng = [f"user{i}" for i in range(30)], random.Random(0)
    lives = {name: [episode(rng.randrange(5, 40), rng.randrange(10 ** 6))[0].tolist() for _ in range(4)]
             for name in names}
    tell = lambda path, part: engine.remember(model, Letters(), path, part, [(None, -1, -1)] * len(part))
    (tmp_path / "alone").mkdir()
    (tmp_path / "all").mkdir()
    for part in (slice(0, 2), slice(2, 4)):
        for name in rng.sample(names, len(names)):
            with Writer(user_path(tmp_path / "all", name), identity(model, facts)) as memory:
                tell(memory, lives[name][part])
    for name in rng.sample(names, len(names)):
        with Writer(tmp_path / "alone/S.pt", identity(model, facts), anew=True) as memory:
            memory.rewrite(Content(identity(model, facts)), [])
            tell(memory, lives[name])
        here = user_path(tmp_path / "all", name)
        for suffix in (".pt", ".traces"):
            assert here.with_suffix(suffix).read_bytes() == (tmp_path / "alone/S.pt").with_suffix(suffix).read_bytes()
        states = [load_state(path, model, facts)[0] for path in (here, tmp_path / "alone/S.pt")]
        assert len({feed(model, [episode(12, 7)], state)[0].numpy().tobytes() for state in states}) == 1
    assert (sorted(p.name for p in (tmp_path / "all").iterdir())
            == sorted(f"{name}{suffix}" for name in names for suffix in (".pt", ".traces")))


def test_commits_of_any_size_give_the_same_files(lived, tmp_path, monkeypatch):
    model, facts, _ = lived
    lines = [episode(n, n)[0].tolist() for n in (5, 33, 700, 16, 17, 40, 1, 90)]   # 700 tokens are read in two segments
    for name, commit, held in (("one", 2048, 2 ** 18), ("few", 3, 2 ** 18), ("small", 2048, 64)):
        monkeypatch.setattr(engine, "COMMIT", commit)
        monkeypatch.setattr(engine, "HELD", held)
        commits = [traces for _, traces, _ in engine.commits(model, Letters(), lines, lines)]
        assert len(commits) == {"one": 1, "few": 3, "small": 5}[name]
        assert sum(commits, []) == [-(-len(line) // CHUNK) for line in lines]
        with Writer(tmp_path / f"{name}.pt", identity(model, facts)) as memory:
            engine.remember(model, Letters(), memory, lines, [("x", i, -1) for i in range(len(lines))])
    assert all((tmp_path / f"{name}{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()
               for name in ("few", "small") for suffix in (".pt", ".traces"))


def test_a_long_episode_is_read_in_segments_as_in_one():
    model = build("swa", torch.float64)
    line = episode(600, 1)
    read, whole = engine.ingest_ids(model, Letters(), line.tolist()), feed(model, [line])[1]["traces"]
    for name, column in whole[:37].as_dict().items():
        if name not in ("words", "episode", "valid"):
            assert torch.allclose(getattr(read, name)[:, :37].double(), column.double(), atol=1e-9), name


def test_memory_is_not_searched_for_padding(lived, monkeypatch):
    model, facts, path = lived
    searched, state = [], load_state(path, model, facts)[0]
    monkeypatch.setattr(layers, "best", lambda keys, q, *rest: searched.append(len(q)) or best(keys, q, *rest))
    feed(model, [episode(9, 0)], state, last=True)
    assert searched == [9, 1], "the last read layer for the last token alone"
