"""nanochat/finding.py: which episodes a question is about, against the plain way of counting it."""
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.finding import AGES, Asks, FindingHead, occurrences, plain, rank, scores, told
from nanochat.reading_data import find
from nanochat.words import STEMS, Lexicon

STEM = st.one_of(st.integers(0, 6), st.sampled_from([1, STEMS - 1]))
QUESTION = st.lists(STEM, max_size=8)
MEMORY = st.lists(st.lists(STEM, min_size=1, max_size=6), min_size=1, max_size=10)   # the stems of each episode
SCORES = st.lists(st.integers(0, 3).map(float), max_size=14)


def said(asked, memory, joined=()):
    episode = np.repeat(np.arange(len(memory)), [len(stems) for stems in memory])
    stems = np.array([stem for one in memory for stem in one], np.int32)
    return occurrences(np.array(asked, np.int32), np.isin(np.arange(len(asked)), joined), stems, episode,
                       np.array([len(one) for one in memory]))


def counted(stems):
    """How often each stem is said: tokens that follow each other with one stem are one word."""
    return Counter(stem for i, stem in enumerate(stems) if stem and (i == 0 or stems[i - 1] != stem))


def by_hand(numbers, asks, asked, memory, cosines):
    """The scores of one question, by dictionaries."""
    k, b, scale = math.exp(numbers[0]), 1 / (1 + math.exp(-numbers[1])), numbers[2]
    mean = sum(map(len, memory)) / len(memory)
    base = []
    for stems, cosine in zip(memory, cosines):
        score = scale * max(cosine)
        for stem in set(asked) - {0}:
            often = sum(stem in one for one in memory)
            n, at = counted(stems)[stem], len(asked) - asked[::-1].index(stem)
            rarity = math.log(1 + (len(memory) - often + 0.5) / (often + 0.5))
            room = k * (1 - b + b * len(stems) / max(mean, 1))
            score += asks.weight[0, at].item() * rarity * n * (k + 1) / (n + room)
        base.append(score)
    before, after = asks.near[0].tolist()
    out = []
    for e, score in enumerate(base):
        bucket = sum(len(base) - 1 - e >= step for step in AGES)
        out.append(score + (before * base[e - 1] if e else 0) + (after * base[e + 1] if e + 1 < len(base) else 0)
                   + asks.age[0, bucket].item())
    return out


@settings(max_examples=100, deadline=None)
@given(asked=QUESTION, memory=MEMORY, seed=st.integers(0, 1000))
def test_the_score_is_that_of_the_formula(asked, memory, seed):
    rng = torch.Generator().manual_seed(seed)
    new = lambda *shape: torch.rand(*shape, generator=rng)
    asks, numbers = Asks(new(1, 9), new(1, 4), new(1, 2) - 0.5, new(1, len(AGES) + 1)), new(3) * 2 - 1
    traces = [1 + int(3 * new(1)) for _ in memory]   # of each episode
    owner = torch.repeat_interleave(torch.arange(len(memory)), torch.tensor(traces))
    cosine = new(1, len(owner)) * 2 - 1
    got = scores(numbers, asks, [said(asked, memory)], cosine, owner)[0]
    want = by_hand(numbers.tolist(), asks, asked, memory, [part.tolist() for part in cosine[0].split(traces)])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(memory=MEMORY, questions=st.lists(QUESTION, min_size=1, max_size=3))
def test_several_questions_are_scored_as_each_alone(memory, questions):
    torch.manual_seed(0)
    Q, new = len(questions), torch.randn
    asks = Asks(new(Q, 9), new(Q, 4), new(Q, 2), new(Q, len(AGES) + 1))
    cosine, owner, numbers = new(Q, len(memory)), torch.arange(len(memory)), new(3)
    every = [said(asked, memory) for asked in questions]
    whole = scores(numbers, asks, every, cosine, owner)
    for i in range(Q):
        one = Asks(*(getattr(asks, name)[i:i + 1] for name in ("weight", "vector", "near", "age")))
        torch.testing.assert_close(scores(numbers, one, every[i:i + 1], cosine[i:i + 1], owner)[0], whole[i])


@settings(max_examples=50, deadline=None)
@given(asked=QUESTION, memory=MEMORY)
def test_a_head_that_has_learned_nothing_is_bm25(asked, memory):
    head = FindingHead(SimpleNamespace(n_embd=8, gist_dim=4))
    head.init_weights()
    asks = head(torch.randn(1, 9, 8), torch.ones(1, 9, dtype=torch.bool))
    got = scores(head.numbers, asks, [said(asked, memory)], torch.randn(1, len(memory)), torch.arange(len(memory)))[0]
    np.testing.assert_allclose(got.detach(), plain(said(asked, memory)), rtol=1e-5, atol=1e-6)
    shares = [bool(set(asked) & set(stems) - {0}) for stems in memory]
    assert ((plain(said(asked, memory)) > 0) == shares).all()


@settings(max_examples=50, deadline=None)
@given(asked=QUESTION, memory=MEMORY)
def test_rows_of_traces_say_what_a_line_says(asked, memory):
    rows = np.zeros((len(memory), 7), np.int32)   # as traces are: slots filled up with 0
    for row, stems in zip(rows, memory):
        row[:len(stems)] = stems
    length = np.array([len(stems) for stems in memory])
    none = np.zeros(len(asked), bool)
    one = said(asked, memory)
    other = occurrences(np.array(asked, np.int32), none, rows, np.arange(len(memory)), length)
    for name in ("word", "episode", "times", "rarity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_rare_word_says_more_than_a_frequent_one():
    memory = [[1, 2], [1, 3], [1, 4], [1, 5], [2]]
    score = plain(said([1, 3], memory))
    assert plain(said([3], memory))[1] > plain(said([1], memory))[1] and rank(score)[0] == 1 and score[4] == 0


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(STEM, min_size=1, max_size=6), memory=MEMORY, data=st.data())
def test_joined_words_are_a_word_more_where_one_follows_on_the_other(asked, memory, data):
    at = sorted(data.draw(st.sets(st.integers(0, len(asked) - 1))))
    pairs = {(asked[i - 1], asked[i]) for i in at if i and asked[i - 1] != asked[i] and asked[i - 1] and asked[i]}
    alone, got = said(asked, memory), said(asked, memory, at)
    more = []
    for e, stems in enumerate(memory):
        for a, b in pairs:
            times = sum(pair == (a, b) for pair in zip(stems, stems[1:]))
            often = sum((a, b) in zip(one, one[1:]) for one in memory)
            place = len(asked) - asked[::-1].index(b)
            more += [(place, e, times, math.log(1 + (len(memory) - often + 0.5) / (often + 0.5)))] * (times > 0)
    rows = lambda s: list(zip(s.word.tolist(), s.episode.tolist(), s.times.tolist(), s.rarity.tolist()))
    assert sorted(rows(got)) == sorted(rows(alone) + more)


def test_gradients_reach_all_that_is_learned():
    head = FindingHead(SimpleNamespace(n_embd=8, gist_dim=4))
    head.init_weights()
    gist = torch.randn(6, 4, requires_grad=True)
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    with torch.no_grad():
        head.numbers[2] = 1.0   # of the vectors nothing is used before
    memory = [[1, 2], [1, 3], [2, 4]]
    asks = head(hidden, torch.ones(2, 5, dtype=torch.bool))
    every = [said([1, 3], memory), said([2, 4, 1], memory)]
    score = scores(head.numbers, asks, every, asks.vector @ gist.T, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.logsumexp(score, 1).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert gist.grad.abs().sum() > 0


@settings(max_examples=100)
@given(score=st.one_of(SCORES, st.lists(st.floats(-50, 50), max_size=14)), most=st.integers(0, 16))
def test_the_best_come_first_then_the_older_and_the_best_few_are_the_first_of_all(score, most):
    score = np.array(score)
    assert rank(score).tolist() == sorted(range(len(score)), key=lambda i: (-score[i], i))
    assert rank(score, most).tolist() == rank(score)[:most].tolist()


def test_an_empty_memory_and_a_question_without_words():
    nothing = np.zeros(0, np.int32)
    for asked in (nothing, np.array([3, 0])):
        for stems in (nothing, np.zeros((0, 16), np.int32)):
            score = plain(occurrences(asked, asked > 0, stems, nothing, nothing))
            assert score.shape == (0,) and rank(score).tolist() == rank(score, 5).tolist() == []
    # episodes without words
    assert plain(occurrences(np.array([1]), np.array([True]), nothing, nothing, np.ones(3))).tolist() == [0, 0, 0]
    for asked in ([], [0, 0]):
        assert plain(said(asked, [[1], [0], [1, 2]])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("question, best", [("Where did the cats sleep?", 1), ("Who visited Zoe?", 2),
                                            ("what about 48,200", 3), ("日本", 4), ("the RIVERS", 0)])
def test_texts_are_found_by_their_words_in_any_form(tokenizer, question, best):
    texts = ["The river was wide.", "A cat slept on the mat.", "ZOË had a visit of mine.", "There were 48,200 of them.",
             "日本は遠い。"]
    lexicon = Lexicon(tokenizer)
    order = find(lexicon.line(question), [lexicon.line(text) for text in texts])
    assert order[0] == best


CODE = ["I write C by hand.", "I write C++ by hand.", "I write C# by hand.", "Grade: C+ for the hand."]
TICKETS = ["The ticket of 37 people.", "See ticket #37.", "See ticket #370.", "Room 37 #4"]
PATHS = ["The app is in python and the source at home.", "Look into src/app.py first.", "Look into lib/app.py first.",
         "nginx reads /etc/nginx/nginx.conf at start", "nginx.conf is not in /etc/ssh", "etc. etc."]
PEOPLE = ["Write to anna@example.com", "Anna has an example on com", "Write to bob@example.com",
          "It is at https://example.com/docs/page", "user:id is the key", "the id of a user"]
NUMBERS = ["It was 5 degrees.", "It was -5 degrees.", "Up by 3.2 points", "Up by +3.2%", "Down by -3.2%",
           "He ran 10km.", "He ran 12km.", "He has 10 hens."]
SPACELESS = ["北京在下雨。", "京北有雪。", "北方和东京", "私は東京に住む"]


@pytest.mark.parametrize("texts, question, best", [
    (CODE, "who uses C++?", 1), (CODE, "who uses C#", 2), (CODE, "what did I write in C?", 0), (CODE, "Ｃ＋＋", 1),
    (CODE, "C+", 3), (TICKETS, "what about #37?", 1), (TICKETS, "and (#370)?", 2), (TICKETS, "ticket 37", 1),
    (PATHS, "what is in src/app.py?", 1), (PATHS, "lib/app.py", 2), (PATHS, "who reads /etc/nginx/nginx.conf?", 3),
    (PATHS, "nginx/nginx.conf", 3), (PEOPLE, "anna@example.com", 0), (PEOPLE, "who is bob@example.com?", 2),
    (PEOPLE, "https://example.com/docs/page", 3), (PEOPLE, "example.com/docs/page", 3),
    (PEOPLE, "user:id", 4),
    (NUMBERS, "when was it -5?", 1), (NUMBERS, "when was it −5?", 1), (NUMBERS, "when was it 5?", 0),
    (NUMBERS, "+3.2%", 3), (NUMBERS, "who ran 10km?", 5), (NUMBERS, "10 km", 5),
    (SPACELESS, "北京", 0), (SPACELESS, "京北", 1), (SPACELESS, "東京", 3)])
def test_what_people_write_is_found_as_a_whole(tokenizer, texts, question, best):
    lexicon = Lexicon(tokenizer)
    assert find(lexicon.line(question), [lexicon.line(text) for text in texts])[0] == best


@pytest.mark.parametrize("texts, question, those", [
    (CODE, "C", {0, 1, 2, 3}), (TICKETS, "37", {0, 1, 3}), (PATHS, "app.py", {0, 1, 2}), (PATHS, "src", {1}),
    (PATHS, "nginx", {3, 4}), (PATHS, "nginx.conf", {3, 4}), (PATHS, "etc", {3, 4, 5}), (PEOPLE, "ANNA", {0, 1}),
    (PEOPLE, "example", {0, 1, 2, 3}), (PEOPLE, "docs page", {3}), (PEOPLE, "users", {4, 5}), (NUMBERS, "5", {0, 1}),
    (NUMBERS, "3.2", {2, 3, 4}), (NUMBERS, "3.2%", {2, 3, 4}), (NUMBERS, "10", {5, 7}), (NUMBERS, "km", {5, 6}),
    (SPACELESS, "京", {0, 1, 2, 3}), (SPACELESS, "東", {3})])
def test_what_people_write_is_found_by_its_parts(tokenizer, texts, question, those):
    lexicon = Lexicon(tokenizer)
    line, lines = lexicon.line(question), [lexicon.line(text) for text in texts]
    score = plain(occurrences(line.stem, line.joined, *told(lines)))
    assert set(np.flatnonzero(score).tolist()) == those
