"""Streams: layout on the chunk grid, and a resume that is exact to the token."""
import pytest
import torch

from nanochat.dataloader import StreamLoader, life_slots
from nanochat.dataset import list_shards, write_shards
from nanochat.state import CHUNK


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    says = lambda n, step: f"Step {step}: document {n} says {'so ' * (step % 9)}."
    docs = ["\n".join(says(n, step) for step in range(20 + n)) for n in range(14)]
    write_shards([*docs, "Some prose.\nIn two paragraphs."], directory, 5)
    return list_shards(directory)


def take(loader, n):
    return [{k: v.clone() for k, v in next(loader).items()} for _ in range(n)]


def same(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b) for k in x) and len(a) == len(b)


def test_layout():
    bos, end, pad = 90, 91, 94
    slots = life_slots([[bos, *range(1, 20), end], [bos, 7, 8, end]], pad)   # 21 tokens, 2 chunks; 4, one
    assert len(slots["ids"]) == len(slots["targets"]) == 3 * CHUNK
    assert slots["ids"][0] == bos and slots["ids"][2 * CHUNK] == bos and slots["ids"][21] == pad
    assert slots["targets"][20] == -1 and slots["targets"][0] == 1 and slots["targets"][19] == end
    assert slots["targets"][2 * CHUNK:2 * CHUNK + 4].tolist() == [7, 8, end, -1]


def test_streams_hold_whole_lives(shards, tokenizer):
    batches = take(StreamLoader(shards, tokenizer, 2, 64), 40)
    for row in range(2):
        ids, targets = (torch.cat([b[name][row] for b in batches]) for name in ("ids", "targets"))
        starts = ids == tokenizer.bos_id
        assert starts.sum() > 20 and (starts.nonzero().flatten() % CHUNK == 0).all()
        due = (targets[:-1] >= 0).nonzero().flatten()
        assert (targets[due] == ids[due + 1]).all()
        said = tokenizer.decode([i for i in ids.tolist() if i < tokenizer.bos_id])
        # in order, nothing left out
        assert f"Step 0: document {row} says .Step 1: document {row} says so .Step 2" in said
    assert batches[0]["new_life"].all() and not batches[1]["new_life"].any()


@pytest.mark.parametrize("done", [0, 1, 7, 30])
def test_resume_is_exact(shards, tokenizer, done):
    whole = take(StreamLoader(shards, tokenizer, 3, 48), done + 20)
    loader = StreamLoader(shards, tokenizer, 3, 48)
    take(loader, done)
    position = loader.position()
    assert same(whole[done:], take(StreamLoader(shards, tokenizer, 3, 48, position=position), 20))


def test_ranks_share_the_documents(shards, tokenizer):
    firsts = [next(StreamLoader(shards, tokenizer, 1, 32, rank=r, world_size=2))["ids"][0].tolist() for r in range(2)]
    both = next(StreamLoader(shards, tokenizer, 2, 32))["ids"].tolist()
    assert firsts == both


def test_refusals(shards, tokenizer):
    with pytest.raises(ValueError, match="whole chunks"):
        StreamLoader(shards, tokenizer, 1, 40)
    position = StreamLoader(shards, tokenizer, 1, 32).position()
    with pytest.raises(ValueError, match="not 2 of 32"):
        StreamLoader(shards, tokenizer, 2, 32, position=position)
