"""nanochat/search.py: what the scan of integers finds is what scoring everything would find, to the bit."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import search
from nanochat.record import dequantise
from nanochat.search import NEG, Keys, best, exact


def random_keys(rng, n, parts, d, dtype, bits=8, tail=0, like_each_other=False):
    """Keys of n vectors, some of them twice, some zero, and (n + tail, P, d) the values that they stand for."""
    top = 2 ** (bits - 1) - 1
    codes = rng.integers(-top, top + 1, (n, parts, d)).astype(np.int8)
    if like_each_other:
        codes = np.clip(codes[:1].astype(int) + rng.integers(-1, 2, codes.shape), -top, top).astype(np.int8)
    codes[rng.random(n) < 0.1] = 0
    codes[n // 2:n // 2 + n // 4] = codes[:n // 4]   # ties
    codes, like = torch.from_numpy(codes), torch.empty(1, 0, parts * d, dtype=dtype)
    keys, values, at = Keys(n, (parts, d), bits, 1.0, like), dequantise(codes, 1.0).to(dtype), 0
    while at < n:
        size = int(rng.integers(1, n + 1))
        keys.fill(at, codes[at:at + size])
        at += size
    if tail:
        more = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(tail, parts, d))).float(),
                                             dim=-1).to(dtype)
        keys, values = torch.cat([keys, more.view(1, tail, -1)], dim=1), torch.cat([values, more])
    return keys, values


def ranked(score, k):
    """Indices of the k best of a row, ties by the lower index; only those that are visible."""
    return [i for _, i in sorted((-x, i) for i, x in enumerate(score.tolist()) if x > NEG)[:k]]


@settings(max_examples=80, derandomize=True, database=None)
@given(seed=st.integers(0, 2 ** 32 - 1), n=st.integers(1, 300), k=st.integers(1, 40),
       dtype=st.sampled_from([torch.bfloat16, torch.float32]),
       bits=st.sampled_from([4, 8]), tail=st.sampled_from([0, 0, 5]), hidden=st.sampled_from([0.0, 0.3, 1.0]),
       indexer=st.booleans(), close=st.booleans(), count=st.integers(1, 3), negative=st.booleans(),
       group=st.sampled_from([2, 64]))
def test_the_best_are_those_of_scoring_everything(seed, n, k, dtype, bits, tail, hidden, indexer, close, count,
                                                  negative, group):
    rng = np.random.default_rng(seed)
    keys, values = random_keys(rng, n, 1 if indexer else 2, 16, dtype, bits, tail, close)
    assert tuple(keys.shape) == (1, n + tail, values[0].numel())
    assert torch.equal(keys.values(torch.arange(n + tail)), values)
    assert torch.equal(keys[:, 1::2][0], values[1::2].flatten(1))
    q = torch.from_numpy(rng.normal(size=(count, 4 if indexer else 2, 16)) * 10).float()
    weight = torch.from_numpy(rng.normal(size=(count, 4))).float() if indexer else None
    weight = -weight.abs() if indexer and negative else weight   # the best is then 0, of many
    visible = torch.from_numpy(rng.random((count, n + tail)) >= hidden)
    every = exact(q, values, 1.0, weight).masked_fill(~visible, NEG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "GROUP", group)   # of 2: as in a memory of many thousands
        index, score = best(keys, q, k, visible, weight)
    assert index.shape == score.shape == (count, min(k, n + tail))
    for m in range(count):
        expected = ranked(every[m], k)
        found = score[m] > NEG
        assert index[m][found].tolist() == expected and torch.equal(score[m][found], every[m][expected])
        assert not index[m][~found].any() and found[:len(expected)].all()


@settings(max_examples=60, derandomize=True, database=None)
@given(seed=st.integers(0, 2 ** 32 - 1), dtype=st.sampled_from([torch.bfloat16, torch.float32]),
       bits=st.sampled_from([4, 8]), indexer=st.booleans(),
       size=st.sampled_from([1e-3, 1.0, 30.0]))
def test_the_scan_is_as_close_as_it_says(seed, dtype, bits, indexer, size):
    rng = np.random.default_rng(seed)
    keys, values = random_keys(rng, 201, 1 if indexer else 2, 64, dtype, bits, tail=20)
    q = torch.from_numpy(rng.normal(size=(2, 4 if indexer else 2, 64)) * size).float()
    weight = torch.from_numpy(rng.normal(size=(2, 4))).float() if indexer else None
    above = keys.scan(q, weight).double() - exact(q, values, 1.0, weight).double()
    assert (above >= 0).all()
    assert (above.amax(1) < 0.04 * q.norm(dim=2).sum(1) * (1 if weight is None else weight.abs().amax(1))).all()
    wide = torch.einsum("mpd,npd->mnp", q.double(),
                        values.double()) if not indexer else torch.einsum("mjd,nd->mnj", q.double(),
                                                                          values[:, 0].double())
    wide = wide.sum(2) if not indexer else (wide.relu() * weight[:, None].double()).sum(2)
    assert (exact(q, values, 1.0, weight).double() - wide).abs().max() < 1e-5 * max(size, 1) * 8


@pytest.mark.parametrize("indexer", [False, True])
def test_a_score_does_not_depend_on_the_company(indexer):
    rng = np.random.default_rng(0)
    keys, values = random_keys(rng, 500, 1 if indexer else 2, 64, torch.float32)
    q, weight = torch.randn(7, 4 if indexer else 2, 64), torch.randn(7, 4) if indexer else None
    every = exact(q, values, 1.0, weight)
    for m in range(7):
        one = None if weight is None else weight[m:m + 1]
        pick = torch.randperm(500)[:int(rng.integers(1, 500))]
        assert torch.equal(exact(q[m:m + 1], values[pick], 1.0, one)[0], every[m, pick])
        assert torch.equal(exact(q[m:m + 1].flip(2), values[pick].flip(2), 1.0, one)[0],
                           every[m, pick]), "in another order of the sum"


@pytest.mark.parametrize("bits", [4, 8])
def test_in_small_blocks_as_in_one(monkeypatch, bits):
    keys, _ = random_keys(np.random.default_rng(1), 3001, 2, 16, torch.bfloat16, bits, tail=3)
    q, visible = torch.randn(5, 2, 16) * 10, torch.ones(1, 3004, dtype=torch.bool)
    whole = best(keys, q, 16, visible)
    monkeypatch.setattr(search, "BLOCK", 1)
    monkeypatch.setattr(search, "WIDE", 1)
    for a, b in zip(whole, best(keys, q, 16, visible)):
        assert torch.equal(a, b)


def test_one_part_of_several():
    keys = Keys(50, (3, 8), 8, 8 ** 0.5, torch.empty(1, 0, 3, 8))
    keys.fill(0, torch.randint(-127, 128, (50, 3, 8), dtype=torch.int8))
    keys = torch.cat([keys, torch.randn(1, 2, 3, 8)], dim=1)
    for p in range(3):
        part = keys.part(p)
        assert tuple(part.shape) == (1, 52, 8)
        assert torch.equal(part.values(torch.arange(52)), keys.values(torch.arange(52))[:, p:p + 1])
