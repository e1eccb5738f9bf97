"""nanochat/reading.py: what stands in a window, how it is read, the same however it is computed, and what is said."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import reading
from nanochat.gpt import THENGPT, THENConfig
from nanochat.reading import NOT_A_WORD, PLACES, SAID, SEVERAL, STEPS, UNSAID, Answer, Window
from nanochat.words import Lexicon, Line

from .conftest import tiny

ORDINARY, END, BOS, PAD, USER, ASSISTANT = 58, 59, 60, 61, 62, 63
# all that laying out needs of a tokenizer
SPECIAL = SimpleNamespace(bos_id=BOS, user_id=USER, within=np.zeros(2 ** 16, bool), asks_last=False)
ROWS = 9                                              # of word vectors


def wake(model):
    """In float64, and nothing is left at zero or constant, so that nothing is equal by default."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p) * ((p == 0) | (p == p.flatten()[0]).all()))
    vectors = model.reader.word_vectors
    vectors[1:] = torch.randint(-60, 60, vectors[1:].shape, dtype=torch.int8)
    model.dtype = torch.float64
    return model.double().requires_grad_(False)


def build(mixer="swa", **settings):
    """A small THENGPT that copies some of what it says, and generates the rest."""
    heads = 2 if mixer == "kda" else 1
    torch.manual_seed(1)
    model = THENGPT(THENConfig(vocab_size=64, n_layer=3, n_head=2, n_kv_head=heads, n_embd=32, ratio=2,
                               write_mixer=mixer, window=32, n_ordinary=ORDINARY, bos_id=BOS, end_id=END,
                               user_id=USER, pad_id=PAD,
                               assistant_id=ASSISTANT, gist_dim=16, index_heads=2, index_dim=8, word_vectors=ROWS,
                               word_dim=6, **{"nearby": 5, **settings}))
    model.init_weights()
    model.lm_head.weight.data.mul_(1000)
    return wake(model)


def a_line(ids, words, seed=0):
    """A Line of these tokens and words, of which two have one stem: 1 and 2, 3 and 4, …"""
    words = np.array(words, np.int64)
    nothing = np.zeros(len(ids), np.int32)
    vectors = np.random.default_rng(seed).integers(0, ROWS, len(ids), np.int32)
    return Line("", np.array(ids, np.int32), words, ((words + 1) // 2).astype(np.int32), vectors, nothing > 0, nothing,
                nothing)


def some_line(rng, n):
    return a_line(rng.integers(0, ORDINARY, n), rng.integers(0, 12, n), int(rng.integers(1000)))


def some_columns(seed, question=5, lengths=(7, 4, 9), budget=64):
    rng = np.random.default_rng(seed)
    question, lines = some_line(rng, question), [some_line(rng, n) for n in lengths]
    return reading.lay_out(question, lines, rng.permutation(len(lines)).tolist(), SPECIAL, budget)[0]


def some_window(*args, **kwargs):
    return reading.batch([some_columns(*args, **kwargs)])


def some_answer(columns, seed, n=5):
    """[(token id, [places])]: copied from one place or two, or generated, and the end."""
    rng, out = np.random.default_rng(seed), []
    open = np.flatnonzero(columns["ordinal"] >= 0)
    for t in range(n):
        if len(open) and rng.random() < 0.6:
            places = rng.choice(open, 2 - t % 2, replace=False).tolist()
            out.append((int(columns["ids"][places[0]]), places))
        else:
            out.append((int(rng.integers(0, ORDINARY)), []))
    return [*out, (END, [])]


def padded(answers):
    """An Answer."""
    longest, most = max(map(len, answers)), max(len(places) for tokens in answers for _, places in tokens)
    ids, source = torch.full((len(answers), longest), -1), torch.full((len(answers), longest, max(most, 1)), -1)
    for b, tokens in enumerate(answers):
        for t, (token, places) in enumerate(tokens):
            ids[b, t] = token
            source[b, t, :len(places)] = torch.tensor(places, dtype=torch.int64)
    return Answer(ids, source)


def losses(model, columns, answers):
    return model.reading_losses(reading.batch(columns), padded(answers))


def said(answers):
    """What a model is given that says these answers: (ids, source), each a token later."""
    a = padded(answers)
    first = torch.full((len(answers), 1), ASSISTANT)
    source = torch.cat([torch.full_like(first, -1), a.source[:, :-1, 0]], 1)
    return torch.cat([first, a.ids[:, :-1].clamp(min=0)], 1), source


def step_by_step(model, window, tokens):
    """At each token of an answer [(token id, places)]: (probability of each place, gate, probability of each id)."""
    read = reading.read(model, window)
    past, last, source = read.past, ASSISTANT, -1
    for at, (token, places) in enumerate(tokens):
        y, past = reading.say(model, read, torch.tensor([[last]]), torch.tensor([[source]]), at, past)
        place, gate = model.reader.copy(y, read), model.reader.copies(y)
        yield place[0, 0].exp(), float(torch.sigmoid(gate[0, 0])), torch.softmax(model.head(y[0, 0]), -1)
        last, source = token, places[0] if places else -1


def chances(model, window, tokens):
    """The probability of each token of an answer, by the formula: copied from its places, or else generated."""
    steps = zip(step_by_step(model, window, tokens), tokens)
    return [float(g * p[places].sum() if places else (1 - g) * v[token]) for (p, g, v), (token, places) in steps]


def near(a, b, tolerance=1e-9):
    assert a.shape == b.shape and torch.isfinite(a).all() and torch.isfinite(b).all()
    assert (a - b).abs().max() <= tolerance


# what stands in a window ----------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(lengths=st.lists(st.integers(1, 30), max_size=8), budget=st.integers(0, 80), data=st.data())
def test_the_first_that_fit_are_taken_and_stand_in_the_order_of_time(lengths, budget, data):
    order = data.draw(st.permutations(range(len(lengths))))
    kept = reading.select(order, lengths, budget)
    assert kept == sorted(set(kept)) and set(kept) >= set(order[:1])
    room = budget
    for i in order:   # each is taken if and only if there is room for it, but for the first
        assert (i in kept) == (lengths[i] + 1 <= room or i == order[0])
        room -= lengths[i] + 1 if i in kept else 0
    assert room >= 0 or kept == [order[0]]


def bucket(n, steps):
    return sum(step <= n for step in steps)


@settings(max_examples=100)
@given(seed=st.integers(0, 2 ** 32 - 1), question=st.integers(0, 40),
       lengths=st.lists(st.integers(1, 30), max_size=8), budget=st.integers(16, 120))
def test_a_window_is_what_is_told_of_it(seed, question, lengths, budget):
    rng = np.random.default_rng(seed)
    question, lines = some_line(rng, question), [some_line(rng, n) for n in lengths]
    order = rng.permutation(len(lines)).tolist()
    columns, begin = reading.lay_out(question, lines, order, SPECIAL, budget)
    head = 1 + min(len(question), budget // 2)
    kept = reading.select(order, lengths, budget - head)
    size = {i: lengths[i] for i in kept}
    if kept:   # only the first may be cut
        size[order[0]] = min(lengths[order[0]], budget - head - 1)
    assert {len(column) for column in columns.values()} == {head + sum(size.values()) + len(kept)}
    assert len(columns["ids"]) <= budget
    assert list(begin) == kept
    owner, ids, rank, age = [-1] * head, [USER, *question.ids[:head - 1]], [0] * head, [0] * head
    words, stems, vectors = ([0, *column[:head - 1]] for column in (question.word, question.stem, question.vector))
    for newer, i in zip(range(len(kept), 0, -1), kept):
        assert begin[i] == len(ids) + 1
        n = size[i]
        owner += [i] * (n + 1)
        rank += [bucket(order.index(i) + 1, STEPS)] * (n + 1)
        age += [bucket(newer, STEPS)] * (n + 1)
        ids, vectors = [*ids, BOS, *lines[i].ids[:n]], [*vectors, 0, *lines[i].vector[:n]]
        words, stems = [*words, 0, *lines[i].word[:n]], [*stems, 0, *lines[i].stem[:n]]
    for name, wanted in (("ids", ids), ("ordinal", owner), ("rank", rank), ("age", age), ("vector", vectors)):
        assert columns[name].tolist() == [int(x) for x in wanted], name
    assert max(rank + age) < PLACES and min(rank[head:] + age[head:], default=1) > 0
    # does the word occur in the question, as it is or by its stem, and how many episodes say it
    asked, match = {"word": set(words[:head]) - {0}, "stem": set(stems[:head]) - {0}}, []
    for word, stem, i in zip(words, stems, owner):
        several = bucket(len({o for s, o in zip(stems, owner) if s == stem and o >= 0}), SEVERAL)
        if not stem:
            match.append(NOT_A_WORD)
        elif i < 0:
            match.append(UNSAID + several)
        else:
            match.append(SAID + (several + len(SEVERAL) * (word in asked["word"]) if stem in asked["stem"] else 0))
    assert columns["match"].tolist() == match and max(match) < reading.MATCHES


def test_values_of_match_are_told_apart():
    question, same, stem, other = a_line([1], [3]), a_line([1], [3]), a_line([2], [4]), a_line([3], [5])
    columns, begin = reading.lay_out(question, [same, stem, other], [0, 1, 2], SPECIAL)
    of = [int(columns["match"][begin[i]]) for i in range(3)]
    assert of == [SAID + 2 + len(SEVERAL), SAID + 2, SAID] and int(columns["match"][1]) == UNSAID + 2


def test_a_question_may_have_half_the_window_and_no_more_than_so_much():
    long, line = a_line(range(50), [1] * 50), a_line(range(9), [2] * 9)
    columns, begin = reading.lay_out(long, [line], [0], SPECIAL, 40)
    assert (columns["ordinal"] == -1).sum() == 21 and begin[0] == 22
    assert columns["ids"][22:31].tolist() == list(range(9))
    very = a_line([7] * 400, [1] * 400)
    assert (reading.lay_out(very, [line], [0], SPECIAL, 1000)[0]["ordinal"] == -1).sum() == reading.QUESTION + 1


@pytest.mark.parametrize("seconds, before", [(0, "[1970-01-01 00:00] "), (1_700_000_000, "[2023-11-14 22:13] "),
                                             (-1, ""), (None, ""), (10 ** 15, "")])
def test_a_known_time_stands_before_an_episode(seconds, before):
    assert reading.dated("I slept.", seconds) == before + "I slept." and reading.said_before(seconds) == before


def test_a_batch_is_filled_up_at_the_end():
    columns = [some_columns(1), some_columns(2, 3, ()), some_columns(3, 0, (20,))]
    window = reading.batch(columns)
    for b, c in enumerate(columns):
        for name in vars(window):
            values, row = c[name], getattr(window, name)[b].tolist()
            assert row == values.tolist() + [-2 if name == "ordinal" else 0] * (len(row) - len(values))
    moved = window.to("cpu")
    assert isinstance(moved, Window) and torch.equal(moved.ordinal, window.ordinal)


# reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["swa", "kda"])
def test_windows_are_read_and_answered_alike_alone_and_in_a_padded_batch(mixer):
    model = build(mixer)
    columns = [some_columns(1), some_columns(2, 3, ()), some_columns(3, 0, (20, 3, 2, 6)), some_columns(4, 9, (1,))]
    answers = [some_answer(c, seed, n) for seed, (c, n) in enumerate(zip(columns, (5, 2, 6, 0)))]
    whole = reading.read(model, reading.batch(columns))
    ys, _ = reading.say(model, whole, *said(answers), 0, whole.past)
    places, gates = model.reader.copy(ys, whole), model.reader.copies(ys)
    total = 0
    for b, (c, tokens) in enumerate(zip(columns, answers)):
        T, A = len(c["ids"]), len(tokens)
        one = reading.read(model, reading.batch([c]))
        near(whole.hidden[b, :T], one.hidden[0])
        near(whole.keys[b, :T], one.keys[0])
        y, _ = reading.say(model, one, *said([tokens]), 0, one.past)
        place, gate = model.reader.copy(y, one), model.reader.copies(y)
        near(ys[b, :A], y[0])
        near(places[b, :A, :T], place[0])
        near(gates[b, :A], gate[0])
        near(model.head(ys[b, :A]), model.head(y[0]))
        total += losses(model, [c], [tokens])[0]["read"]
    near(losses(model, columns, answers)[0]["read"], total / len(columns))


def test_a_window_sees_itself_in_both_directions_and_each_of_its_features():
    model, window = build(), some_window(5)
    before = reading.read(model, window)
    kinds = {"ids": ORDINARY, "vector": ROWS, "match": reading.MATCHES, "rank": PLACES, "age": PLACES}
    for name, count in kinds.items():
        table = getattr(window, name).clone()
        table[0, -1] = (table[0, -1] + 2) % count
        after = reading.read(model, Window(**{**vars(window), name: table}))
        assert (after.hidden - before.hidden)[0].abs().amax(-1).min() > 1e-9, name   # every token sees the last


@pytest.mark.parametrize("settings, seen", [({"both_ways": False}, 0), ({"both_ways": False, "nearby": 0}, 0), ({}, 1)])
def test_one_direction_sees_nothing_that_stands_later(settings, seen):
    model, window = build(**settings), some_window(3)
    other = Window(*(getattr(window, f).clone()
                     for f in ("ids", "vector", "match", "rank", "age", "within", "ordinal")))
    other.ids[0, -1] = (other.ids[0, -1] + 1) % ORDINARY
    assert torch.equal(reading.read(model, window).hidden[:, :-1], reading.read(model, other).hidden[:, :-1]) != seen


def test_an_answer_is_one_thing_however_it_is_cut_and_sees_nothing_later():
    model, columns = build(), [some_columns(1), some_columns(2, 2, (4,))]
    read = reading.read(model, reading.batch(columns))
    ids, source = said([some_answer(c, 7, 6) for c in columns])
    whole, after = reading.say(model, read, ids, source, 0, read.past)
    for cuts in ([1, 2, 3, 4, 5, 6], [3], [2, 5]):
        past, out, at = read.past, [], 0
        for i, s in zip(ids.tensor_split(cuts, 1), source.tensor_split(cuts, 1)):
            y, past = reading.say(model, read, i, s, at, past)
            out.append(y)
            at += i.shape[1]
        near(torch.cat(out, 1), whole)
        for (k, v), (k2, v2) in zip(past, after):
            near(k, k2)
            near(v, v2)
    for t in range(1, ids.shape[1]):
        for name in ("ids", "source"):
            other = {"ids": ids.clone(), "source": source.clone()}
            last = columns[1]["ids"].size - 1
            other[name][:, t] = (ids[:, t] + 1) % ORDINARY if name == "ids" else torch.where(source[:, t] < 0, last, -1)
            y, _ = reading.say(model, read, other["ids"], other["source"], 0, read.past)
            near(y[:, :t], whole[:, :t])
            assert (y - whole)[:, t:].abs().amax(-1).min() > 1e-9, (name, t)


def test_only_episodes_are_copied_and_all_that_may_be_said_has_probability_one():
    model = build()
    columns = [some_columns(1), some_columns(2, 3, (5,))]
    window = reading.batch(columns)
    read = reading.read(model, window)
    ids, source = said([some_answer(c, 3) for c in columns])
    y, _ = reading.say(model, read, ids, source, 0, read.past)
    place = model.reader.copy(y, read)
    key = read.hidden @ model.reader.key.weight.T   # what a place holds, and what stands before it
    key[:, 1:] += read.hidden[:, :-1] @ model.reader.key_before.weight.T
    score = torch.einsum("bad,btd->bat", y @ model.reader.query.weight.T, key) / y.shape[-1] ** 0.5
    score = torch.where((window.ordinal >= 0)[:, None], score.exp(), 0)
    near(place.exp(), score / score.sum(-1, keepdim=True))
    closed = (window.ordinal < 0)[:, None].expand(place.shape)
    assert (place[closed] <= -1e9).all() and (place.exp()[closed] == 0).all() and closed[1].any() and closed[0].any()
    near(place.exp().sum(-1), torch.ones(place.shape[:2], dtype=torch.float64))
    for p, g, v in step_by_step(model, reading.batch(columns[:1]), some_answer(columns[0], 3)):
        assert abs(float(g * p.sum() + (1 - g) * v.sum()) - 1) < 1e-9


def test_the_loss_is_the_likelihood_step_by_step():
    model = build()
    columns = [some_columns(1), some_columns(2, 3, ()), some_columns(3, 4, (12, 2))]
    answers = [some_answer(c, seed, n) for seed, (c, n) in enumerate(zip(columns, (4, 1, 6)))]
    got, shares = losses(model, columns, answers)
    assert any(len(places) == 2 for tokens in answers for _, places in tokens)
    want = [sum(map(math.log, chances(model, reading.batch([c]), tokens))) for c, tokens in zip(columns, answers)]
    assert abs(float(got["read"]) + sum(want) / 3) < 1e-8 * abs(sum(want))
    begins = [bool(tokens[0][1]) for tokens in answers]
    first = [next(step_by_step(model, reading.batch([c]), tokens)) for c, tokens in zip(columns, answers)]
    right = [int(p.argmax()) in tokens[0][1] and g > 0.5 for (p, g, _), tokens in zip(first, answers)]
    assert float(shares["gate"]) == pytest.approx(sum((g > 0.5) == b for (_, g, _), b in zip(first, begins)) / 3)
    assert float(shares["begin"]) == pytest.approx(sum(r and b for r, b in zip(right, begins)) / max(sum(begins), 1))


def test_an_answer_that_begins_right_is_counted_as_right():
    model, columns = build(), some_columns(1)
    model.reader.gate.weight.zero_()
    p, _, _ = next(step_by_step(model, reading.batch([columns]), [(0, [])]))
    with torch.no_grad():
        read = reading.read(model, reading.batch([columns]))
        y, _ = reading.say(model, read, torch.tensor([[ASSISTANT]]), torch.tensor([[-1]]), 0, read.past)
        model.reader.gate.weight.copy_(y[0])   # sure that it copies
    best, worst = int(p.argmax()), int(p.masked_fill(p == 0, 2).argmin())
    for place, share in ((best, 1.0), (worst, 0.0)):
        _, shares = losses(model, [columns], [[(int(columns["ids"][place]), [place]), (END, [])]])
        assert float(shares["begin"]) == share and float(shares["gate"]) == 1
    assert float(losses(model, [columns], [[(3, []), (END, [])]])[1]["gate"]) == 0


@pytest.mark.parametrize("mixer", ["swa", "kda"])
def test_all_of_the_reader_and_every_block_learns(mixer):
    model = build(mixer).requires_grad_(True)
    columns = [some_columns(1), some_columns(2, 3, (5, 8))]
    answers = [some_answer(c, seed, 6) for seed, c in enumerate(columns)]
    assert {bool(places) for tokens in answers for _, places in tokens[:-1]} == {True, False}
    losses(model, columns, answers)[0]["read"].backward()
    named = dict(model.named_parameters())
    wanted = [name for name in named if name.startswith("reader.")] + ["wte.weight", "lm_head.weight"]
    parts = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc", "mlp.proj")
    wanted += [f"blocks.{i}.{part}.weight" for i in range(3) for part in parts]
    for name in wanted:
        grad = named[name].grad
        assert grad is not None and torch.isfinite(grad).all() and grad.abs().max() > 1e-12, name
    assert len([name for name in wanted if name.startswith("reader.")]) == 12   # a new part of it is told here


# saying ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def build_ending(window):
    """A model that is about to end, or rather likely to, after three tokens of an answer to a window."""
    model = build()
    tokens = [(token, [place] if place >= 0 else []) for token, place, _ in reading.steps(model, window, 3)]
    read = reading.read(model, window)
    y = reading.say(model, read, *said([[*tokens, (END, [])]]), 0, read.past)[0][0, -1]
    model.lm_head.weight[END] = y
    model.reader.gate.weight -= (model.reader.gate(y) + 2) * y / y.dot(y)
    return model


def test_a_token_is_copied_if_the_gate_says_so_and_the_likeliest_then_the_same_in_a_batch():
    model = build_ending(some_window(0, 4, (6, 3)))
    columns = [some_columns(seed, 4, (6, 3)) for seed in range(5)]
    columns += [some_columns(9, 3, ()), some_columns(10, 6, (14, 2))]
    together, kinds, ends = reading.answers(model, reading.batch(columns), 8), set(), 0
    for c, answer in zip(columns, together):
        steps = list(reading.steps(model, reading.batch([c]), 8))
        ended = steps[-1][0] == END
        assert [(token, place) for token, place, _ in steps][:len(steps) - ended] == answer
        assert ended or len(steps) == 8
        assert all(token != END for token, _, _ in steps[:-1])
        tokens = [(token, [place] if place >= 0 else []) for token, place, _ in steps]
        for at, ((p, g, v), (token, place,
                             chance)) in enumerate(zip(step_by_step(model, reading.batch([c]), tokens), steps)):
            # a special token is never said, but the end, and that not at once
            p = p.masked_fill(torch.from_numpy(c["ids"] == BOS), 0)
            v = v.masked_fill(torch.tensor([i >= ORDINARY and (i != END or at == 0) for i in range(len(v))]), 0)
            # a token is copied from all places that say it
            p = torch.stack([p[torch.from_numpy(c["ids"] == i)].sum() for i in c["ids"]])
            assert chance == pytest.approx(float(g * p[place] if place >= 0 else (1 - g) * v[token]), rel=1e-9)
            assert chance == pytest.approx(float(g * p.max() if g >= 0.5 and p.max() > 0 else (1 - g) * v.max()),
                                           rel=1e-9)
            before = steps[at - 1][1] + 1 if at and steps[at - 1][1] >= 0 else -1
            if place >= 0 and 0 <= before < len(p) and c["ordinal"][before] >= 0 and c["ids"][before] == token:
                assert place == before   # and goes on where it can
            assert place < 0 or c["ordinal"][place] >= 0 and c["ids"][place] == token
        kinds |= {place >= 0 for _, place, _ in steps}
        ends += ended
    assert kinds == {True, False} and ends   # the model is one that does both, and comes to an end


def test_without_episodes_nothing_is_copied():
    model, window = build(), some_window(3, 6, ())
    assert (window.ordinal < 0).all()
    steps = list(reading.steps(model, window, 6))
    assert steps and all(place == -1 and 0 < chance <= 1 for _, place, chance in steps)
    value = model.reading_losses(window, padded([[(4, []), (END, [])]]))[0]["read"]
    assert torch.isfinite(value)
    near(value, -torch.tensor(sum(map(math.log, chances(model, window, [(4, []), (END, [])]))), dtype=torch.float64))


def test_a_model_of_the_tokenizer_reads_texts(tokenizer):
    model = wake(tiny(tokenizer, word_vectors=3, n_layer=2, ratio=1))
    lexicon = Lexicon(tokenizer, ["zoe", "cat"])
    lines = [lexicon.line(text) for text in ("Zoë lives in Lyon.", "The cat sleeps.")]
    columns, begin = reading.lay_out(lexicon.line("Where does Zoe live?"), lines, [0, 1], tokenizer)
    steps = list(reading.steps(model, reading.batch([columns]), 4))
    assert steps and all(0 < chance <= 1 for _, _, chance in steps)
    shown = "<|user|>Where does Zoe live?<|bos|>Zoë lives in Lyon.<|bos|>The cat sleeps."
    assert tokenizer.decode(columns["ids"].tolist()) == shown
    question, first, second = np.split(columns["vector"], [begin[0], begin[1]])
    assert 1 in question and 1 in first and 2 in second and 2 not in question and 2 not in first


def test_the_words_of_a_reader_are_those_of_its_list(tokenizer):
    listed = "paris\nnaïve\n".encode()
    model = tiny(tokenizer, word_vectors=3, word_bytes=len(listed), n_layer=1, ratio=1)
    model.reader.word_list.copy_(torch.tensor(list(listed), dtype=torch.uint8))
    assert model.reader.words() == ["paris", "naïve"] and tiny(tokenizer, n_layer=1, ratio=1).reader.words() == []


# the text of an answer ------------------------------------------------------------------------------------------------


def run(tokenizer, text, at):
    return [(token, at + i) for i, token in enumerate(tokenizer.encode(text))]


def spoken(tokenizer, text):
    return [(token, -1) for token in tokenizer.encode(text)]


@settings(max_examples=60)
@given(text=st.text(max_size=30))
def test_what_is_copied_in_one_run_or_generated_stands_as_it_is(tokenizer, text):
    for tokens in (run(tokenizer, text, 9), spoken(tokenizer, text)):
        assert reading.text_of(tokenizer, tokens) == text.strip()


@settings(max_examples=60)
@given(tokens=st.lists(st.tuples(st.integers(0, 400), st.integers(-1, 6)), max_size=12))
def test_any_tokens_have_a_text_with_all_their_bytes(tokenizer, tokens):
    text = reading.text_of(tokenizer, tokens)
    assert text == text.strip()
    if "\ufffd" not in text:
        assert "".join(text.split()) == "".join(tokenizer.decode([token for token, _ in tokens]).split())


def test_runs_are_joined(tokenizer):
    text = lambda *parts: reading.text_of(tokenizer, [token for part in parts for token in part])
    paris, london, comma = run(tokenizer, " Paris", 10), run(tokenizer, "London", 40), spoken(tokenizer, ",")
    assert text(paris, comma, london) == "Paris, London" == text(paris, comma, run(tokenizer, " London", 40))
    assert text(paris, london) == "Paris London" and text(london, paris) == "London Paris"
    others = run(tokenizer, " 東京", 3), comma, run(tokenizer, "Zoë", 90), comma, run(tokenizer, "🙂", 50)
    assert text(*others) == "東京, Zoë, 🙂"
    cut = run(tokenizer, "🙂", 5)
    assert len(cut) > 1 and text(cut[:1]) == "\ufffd" and text(cut) == "🙂" and text([]) == ""
    assert text(paris[:1], run(tokenizer, " Rome", 70)).endswith(" Rome")
