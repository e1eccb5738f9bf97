"""nanochat/search.py: what the scan of integers finds is what scoring everything would find, to the bit."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import search
from nanochat.recall import spread as spread_all
from nanochat.record import dequantise
from nanochat.search import Keys, exact, spread, survivors


def random_keys(rng, n, parts, d, dtype, tail=0, like_each_other=False):
    """Keys of n vectors, some of them twice, some zero, and (n + tail, P, d) the values that they stand for."""
    codes = rng.integers(-127, 128, (parts, n, d)).astype(np.int8)
    if like_each_other:
        codes = np.clip(codes[:, :1].astype(int) + rng.integers(-2, 3, codes.shape), -127, 127).astype(np.int8)
    codes[:, rng.random(n) < 0.1] = 0
    codes[:, n // 2:n // 2 + n // 4] = codes[:, :n // 4]   # ties
    like = torch.empty(1, 0, parts * d, dtype=dtype)
    keys, values = Keys(torch.from_numpy(codes), 1.0, like), dequantise(torch.from_numpy(codes), 1.0).transpose(0, 1).to(dtype)
    if tail:
        more = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(tail, parts, d))).float(), dim=-1).to(dtype)
        keys, values = torch.cat([keys, more.view(1, tail, -1)], dim=1), torch.cat([values, more])
    return keys, values


CASES = dict(seed=st.integers(0, 2 ** 32 - 1), n=st.integers(1, 300), k=st.integers(1, 40), slack=st.sampled_from([0.0, 0.5, 3.0]), margin=st.sampled_from([0.0, 1.0, 5.0]),
             dtype=st.sampled_from([torch.bfloat16, torch.float32]), tail=st.sampled_from([0, 0, 5]), hidden=st.sampled_from([0.0, 0.3, 1.0]),
             indexer=st.booleans(), close=st.booleans(), queries=st.integers(1, 3))


@settings(max_examples=100, derandomize=True, database=None)
@given(**CASES)
def test_survivors_are_those_of_scoring_everything(seed, n, k, slack, margin, dtype, tail, hidden, indexer, close, queries):
    rng = np.random.default_rng(seed)
    keys, values = random_keys(rng, n, 1 if indexer else 2, 16, dtype, tail, close)
    assert tuple(keys.shape) == (1, n + tail, values[0].numel()) and torch.equal(keys.values(torch.arange(n + tail)), values)
    q = torch.from_numpy(rng.normal(size=(queries, 4 if indexer else 2, 16)) * 10).float()
    weight = torch.from_numpy(rng.normal(size=(queries, 4))).float() if indexer else None
    visible = torch.from_numpy(rng.random((queries, n + tail)) >= hidden)
    every = exact(q, values, 1.0, weight).masked_fill(~visible, -math.inf)
    found = survivors(keys, q, k, slack, margin, visible, weight)
    for line, (index, score) in zip(every, found):
        best = line[line > -math.inf].double().sort(descending=True).values
        if not len(best):
            assert not len(index)
            continue
        bound = min(float(best[min(k, len(best)) - 1]) - slack, float(best[0]) - margin)
        assert index.tolist() == (line.double() >= bound).nonzero()[:, 0].tolist()
        assert torch.equal(score, line[index])


@settings(max_examples=60, derandomize=True, database=None)
@given(seed=st.integers(0, 2 ** 32 - 1), dtype=st.sampled_from([torch.bfloat16, torch.float32]), indexer=st.booleans(), size=st.sampled_from([1e-3, 1.0, 30.0]))
def test_the_scan_is_as_close_as_it_says(seed, dtype, indexer, size):
    rng = np.random.default_rng(seed)
    keys, values = random_keys(rng, 200, 1 if indexer else 2, 64, dtype)
    q = torch.from_numpy(rng.normal(size=(2, 4 if indexer else 2, 64)) * size).float()
    weight = torch.from_numpy(rng.normal(size=(2, 4))).float() if indexer else None
    rough, error = keys.scan(q, weight)
    away = (rough.double() - exact(q, values, 1.0, weight).double()).abs().amax(1)
    assert (away <= error).all() and (error < 0.02 * q.norm(dim=2).sum(1) * (1 if weight is None else weight.abs().amax(1))).all()
    wide = torch.einsum("mpd,npd->mnp", q.double(), values.double()) if not indexer else torch.einsum("mjd,nd->mnj", q.double(), values[:, 0].double())
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
        assert torch.equal(exact(q[m:m + 1].flip(2), values[pick].flip(2), 1.0, one)[0], every[m, pick]), "in another order of the sum"


def test_in_small_blocks_as_in_one(monkeypatch):
    keys, _ = random_keys(np.random.default_rng(1), 3000, 2, 16, torch.bfloat16, tail=3)
    q = torch.randn(5, 2, 16) * 10
    whole = survivors(keys, q, 16, 0.5, 1.0)
    monkeypatch.setattr(search, "BLOCK", 1)
    monkeypatch.setattr(search, "WIDE", 1)
    for (a, b), (c, d) in zip(whole, survivors(keys, q, 16, 0.5, 1.0)):
        assert torch.equal(a, c) and torch.equal(b, d)


@settings(max_examples=100, derandomize=True, database=None)
@given(seed=st.integers(0, 2 ** 32 - 1), n=st.integers(1, 120), k=st.integers(1, 20), span=st.sampled_from([1, 2, 8]))
def test_top_k_by_spread(seed, n, k, span):
    """The k best by spread, and their scores, are those of spreading every score; ties go to the lower index."""
    rng = np.random.default_rng(seed)
    keys, values = random_keys(rng, n, 2, 16, torch.bfloat16)
    episode = torch.from_numpy(np.sort(rng.integers(0, 1 + n // 4, n)))
    q = torch.randn(1, 2, 16) * 10
    every = spread_all(exact(q, values, 1.0)[None], episode[None], span)[0, 0]
    index, score = spread(*survivors(keys, q, k)[0], episode, span)
    order = lambda i, s: sorted(zip((-s).tolist(), i.tolist()))[:k]
    assert order(index, score) == order(torch.arange(n), every)


def test_one_part_of_several():
    codes = torch.randint(-127, 128, (3, 50, 8), dtype=torch.int8)
    keys = Keys(codes, 8 ** 0.5, torch.empty(1, 0, 3, 8))
    keys = torch.cat([keys, torch.randn(1, 2, 3, 8)], dim=1)
    for p in range(3):
        part = keys.part(p)
        assert tuple(part.shape) == (1, 52, 8)
        assert torch.equal(part.values(torch.arange(52)), keys.values(torch.arange(52))[:, p:p + 1])
