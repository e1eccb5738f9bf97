"""nanochat/finding.py: which episodes a question is about, against the plain way of counting it."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.finding import rank, search
from nanochat.words import STEMS, Lexicon

STEM = st.one_of(st.integers(0, 6), st.sampled_from([1, STEMS - 1]))
QUESTION = st.lists(STEM, max_size=8)
MEMORY = st.lists(st.lists(STEM, max_size=6), max_size=10)   # the stems of each episode
SCORES = st.lists(st.integers(0, 3).map(float), max_size=14)


def plain(asked, memory):
    """The score of each episode, by dictionaries: the words it shares with the question, each by how few say it."""
    said = [set(stems) - {0} for stems in memory]
    often = {stem: sum(stem in one for one in said) for stem in set(asked) - {0}}
    rarity = {stem: math.log(1 + (len(memory) - n + 0.5) / (n + 0.5)) for stem, n in often.items()}
    return [sum(rarity[stem] for stem in rarity if stem in one) for one in said]


def found(asked, memory):
    episode = np.repeat(np.arange(len(memory)), [len(stems) for stems in memory]).astype(np.int32)
    said = np.array([stem for stems in memory for stem in stems], np.int32)
    return search(np.array(asked, np.int32), said, episode, len(memory))


@settings(max_examples=100)
@given(asked=QUESTION, memory=MEMORY)
def test_the_score_is_that_of_counting_words(asked, memory):
    score = found(asked, memory)
    assert score.shape == (len(memory),) and score.dtype == np.float64
    np.testing.assert_allclose(score, plain(asked, memory), rtol=1e-12, atol=0)
    assert ((score > 0) == [bool(set(asked) & set(stems) - {0}) for stems in memory]).all()


@settings(max_examples=50)
@given(asked=QUESTION, memory=MEMORY, seed=st.integers(0, 1000))
def test_neither_order_nor_repetition_nor_the_shape_of_rows_counts(asked, memory, seed):
    score, rng = found(asked, memory), np.random.default_rng(seed)
    np.testing.assert_array_equal(found(asked[::-1] + asked, [stems + stems[::-1] for stems in memory]), score)
    order = rng.permutation(len(memory))
    np.testing.assert_allclose(found(asked, [memory[i] for i in order]), score[order], rtol=1e-12)
    rows = np.zeros((len(memory), 7), np.int32)   # as traces are: a row of slots, filled up with 0
    for row, stems in zip(rows, memory):
        row[:len(stems)] = stems
    episode = np.arange(len(memory), dtype=np.int32)
    np.testing.assert_array_equal(search(np.array(asked, np.int32), rows, episode, len(memory)), score)


@settings(max_examples=50)
@given(asked=QUESTION, memory=MEMORY, data=st.data())
def test_what_is_forgotten_counts_no_more(asked, memory, data):
    """Words are rarer or more frequent then, so scores change; but what says all that another says stays before it."""
    i = data.draw(st.integers(0, len(memory)))
    rest = memory[:i] + memory[i + 1:]
    before, after = np.delete(found(asked, memory), slice(i, i + 1)), found(asked, rest)
    assert ((before > 0) == (after > 0)).all()
    shared = [set(asked) & set(stems) - {0} for stems in rest]
    for a, one in enumerate(shared):
        for b, other in enumerate(shared):
            if one > other:
                assert before[a] > before[b] and after[a] > after[b]
            if one == other:
                assert np.isclose(after[a], after[b], rtol=1e-12)


def test_a_rare_word_says_more_than_a_frequent_one():
    memory = [[1, 2], [1, 3], [1, 4], [1, 5], [2]]
    score = found([1, 3], memory)
    assert found([3], memory)[1] > found([1], memory)[1] and rank(score)[0] == 1 and score[4] == 0


@settings(max_examples=100)
@given(score=SCORES)
def test_the_best_come_first_then_those_beside_better_ones_then_the_older(score):
    near = [sum(score[j] for j in (i - 1, i + 1) if 0 <= j < len(score)) for i in range(len(score))]
    assert rank(np.array(score)).tolist() == sorted(range(len(score)), key=lambda i: (-score[i], -near[i], i))


@settings(max_examples=100)
@given(score=st.one_of(SCORES, st.lists(st.floats(0, 50), max_size=14)), most=st.integers(0, 16))
def test_the_best_few_are_the_first_of_all(score, most):
    score = np.array(score)
    assert rank(score, most).tolist() == rank(score)[:most].tolist()


def test_an_empty_memory_and_a_question_without_words():
    nothing = np.zeros(0, np.int32)
    for asked in (nothing, np.array([3, 0])):
        for said in (nothing, np.zeros((0, 16), np.int32)):
            score = search(asked, said, nothing, 0)
            assert score.shape == (0,) and rank(score).tolist() == rank(score, 5).tolist() == []
    assert search(np.array([1]), nothing, nothing, 3).tolist() == [0, 0, 0]   # episodes without words
    for asked in ([], [0, 0]):
        score = found(asked, [[1], [0], [1, 2]])
        assert score.tolist() == [0, 0, 0] and rank(score).tolist() == [0, 1, 2]


@pytest.mark.parametrize("question, best", [("Where did the cats sleep?", 1), ("Who visited Zoe?", 2),
                                            ("what about 48,200", 3), ("日本", 4), ("the RIVERS", 0)])
def test_texts_are_found_by_their_words_in_any_form(tokenizer, question, best):
    texts = ["The river was wide.", "A cat slept on the mat.", "ZOË had a visit of mine.", "There were 48,200 of them.",
             "日本は遠い。"]
    lexicon = Lexicon(tokenizer)
    lines = [lexicon.line(text) for text in texts]
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    score = search(lexicon.line(question).stem, np.concatenate([line.stem for line in lines]), owner, len(lines))
    assert rank(score)[0] == best and score[best] > 0
