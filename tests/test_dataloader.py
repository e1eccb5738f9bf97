"""Streams: layout on the chunk grid, evidence ordinals, and a resume that is exact to the token."""
import pytest
import torch

from dev.gen_base_data import lives, render
from nanochat.dataloader import StreamLoader, life_slots
from nanochat.dataset import Episode, list_shards, write_shards
from nanochat.state import CHUNK


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    docs = [render(life) for life, _ in zip(lives(3, episodes=24), range(14))] + [("Some prose.\nIn two paragraphs.", None)]
    write_shards(docs, directory, 5)
    return list_shards(directory)


def take(loader, n):
    return [{k: v.clone() for k, v in next(loader).items()} for _ in range(n)]


def same(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b) for k in x) and len(a) == len(b)


def test_layout():
    bos, end, user, assistant, pad = 90, 91, 92, 93, 94
    fact = Episode([bos, *range(1, 20), end])                                     # 21 tokens, 2 chunks
    question = Episode([bos, user, 30, 31, assistant, 7, 8, end], True, 5, 0)     # answered by episode 0
    slots = life_slots([fact, question], pad, first_ordinal=5)
    assert len(slots["ids"]) == 3 * CHUNK
    assert slots["ids"][0] == bos and slots["ids"][2 * CHUNK] == bos and slots["ids"][21] == pad
    assert slots["targets"][20] == -1 and slots["targets"][0] == 1 and slots["targets"][19] == end
    due = slots["answers"].nonzero()[0] - 2 * CHUNK
    assert due.tolist() == [4, 5, 6]                                              # from <|assistant|> on: 7, 8, <|end|>
    assert slots["targets"][2 * CHUNK + due].tolist() == [7, 8, end]
    assert set(slots["evidence"][2 * CHUNK + due]) == {5} and (slots["evidence"] >= 0).sum() == 3


def test_streams_hold_whole_lives(shards, tokenizer):
    loader = StreamLoader(shards, tokenizer, 2, 64)
    batches = take(loader, 40)
    for row in range(2):
        ids = torch.cat([b["ids"][row] for b in batches])
        evidence = torch.cat([b["evidence"][row] for b in batches])
        starts = (ids == tokenizer.bos_id)
        assert (starts.nonzero().flatten() % CHUNK == 0).all()
        ordinal = starts.cumsum(0)
        known = evidence >= 0
        assert known.any() and (evidence[known] < ordinal[known]).all()           # asked after it was told, counted as the model counts
        # the answer is among the tokens of the episode that the evidence names
        at = known.nonzero().flatten()[0]
        told = ids[ordinal == evidence[at]].tolist()
        target = torch.cat([b["targets"][row] for b in batches])[at]
        assert int(target) in told
    assert batches[0]["new_life"].all()


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
