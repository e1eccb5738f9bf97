"""The parts of the recall head, each against a plain definition (tests/test_live_memory.py has the invariants of the whole)."""
import math
import random
import re

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import recall
from nanochat.address import NEG, WordCodes, and_next, candidates, find, greatest, mix64, spread, stale, tally, top_k, untimely
from nanochat.engine import ingest, question_ids
from nanochat.gpt import THENGPT, THENConfig
from nanochat.phrases import AFTER, BEFORE
from nanochat.recall import HISTORY, WORDS, RecallHead, continued
from nanochat.state import CHUNK, CONTEXT
from nanochat.tokenizer import Tokenizer, word_hash
from nanochat.trials import as_state
from tests.test_live_memory import build, lesson, streams


def test_top_k_breaks_ties_by_the_lower_index():
    generator = torch.Generator().manual_seed(0)
    for n, k in ((1, 4), (7, 3), (40, 16), (300, 64)):
        score = torch.randint(-3, 3, (5, 3, n), generator=generator).double() / 2
        score[score == -1.5] = float("-inf")
        score[..., ::2] *= -1.0   # makes -0 and inf, too
        got = top_k(score, k)
        for row, picked in zip(score.flatten(0, 1).tolist(), got.flatten(0, 1).tolist()):
            assert picked == sorted(range(n), key=lambda i: (-row[i], i))[:k], (row, picked)


def test_an_address_reaches_the_traces_before_it_in_its_episode_as_far_as_the_span():
    episode = torch.tensor([[1, 1, 1, 1, 1, 2, 3, 3, 3], [4] * 9])
    score = torch.randn(2, 3, 9)
    for span in (1, 2, 4, 8):
        got = spread(score, episode, span)
        for b in range(2):
            for i in range(9):
                lent = [j for j in range(i, min(i + span, 9)) if episode[b, j] == episode[b, i]]
                assert torch.equal(got[b, :, i], score[b][:, lent].amax(-1)), (span, b, i)


def test_word_codes_are_the_hashes_of_the_words_however_the_stream_is_cut():
    tokenizer = Tokenizer.load()
    codes = WordCodes(tokenizer.vocab_size, 64)
    codes.init_tables(tokenizer.word_tables())
    text = "At t=1234, Ms O'Neill-Zwiebelfisch paid 3.50 (café naïve), floccinaucinihilipilification; ROOM b12c, 007, 12345678901, 8f14e45f-ceea ends; Keys of classes, buses, glass."
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id]])
    expected = re.findall(r"[^\W_]+", text)   # letters and digits that touch are one word
    numbers = [int(word) if word.isdigit() and len(word) < 10 else -1 for word in expected]
    stems = [word_hash(re.sub(r"(?<=[^s])s$", "", word.lower()) if len(word) > 3 else word) for word in expected]
    assert stems[-5:] == [word_hash(word) for word in ("key", "of", "classe", "buse", "glass")]
    expected = [word_hash(word) for word in expected]
    rng = random.Random(0)
    for cuts in [[], list(range(1, ids.shape[1]))] + [sorted(rng.choices(range(ids.shape[1]), k=5)) for _ in range(20)]:
        carry, found = torch.zeros(1, 6, dtype=torch.int64), []
        for piece in (p for p in ids.tensor_split(cuts, dim=1) if p.shape[1]):
            stem, hashes, number, carry = codes(piece, torch.zeros_like(piece, dtype=torch.bool), carry)
            found += [word for word in zip(*(t[0].tolist() for t in (stem, hashes, number))) if word[1]]
        assert found == list(zip(stems, expected, numbers)), cuts
    whole = ids, torch.zeros_like(ids, dtype=torch.bool), torch.zeros(1, 6, dtype=torch.int64)
    assert torch.equal(codes(*whole, numbers=False), codes(*whole)[0])
    one, two = codes.code(torch.tensor([word_hash("1234"), word_hash("1235")]), torch.float64)
    assert abs(float(one @ one) - 1) < 1e-12 and abs(float(one @ two)) < 0.6


def test_the_moment_of_an_episode_is_its_number_of_the_greatest_gate():
    rng = random.Random(0)
    for _ in range(50):
        n = rng.randrange(1, 40)
        gate = torch.tensor([[rng.choice((-2.0, 0.5, 1.0, 3.0)) for _ in range(n)] for _ in range(2)])
        number = torch.tensor([[rng.choice((-1, -1, 3, 40, 500)) for _ in range(n)] for _ in range(2)])
        begins = torch.rand(2, n) < 0.1
        expected = torch.full((2, n), -1)
        for b in range(2):
            best, held = float("-inf"), -1
            for i in range(n):
                if begins[b, i]:
                    best, held = float("-inf"), -1
                if number[b, i] >= 0 and gate[b, i] >= best:
                    best, held = gate[b, i], number[b, i]
                expected[b, i] = held
        at = rng.randrange(n)
        carry, got = torch.zeros(2, 2, dtype=torch.int64), []
        for piece in (slice(0, at), slice(at, n)):
            if number[:, piece].shape[1]:
                out, carry = greatest(gate[:, piece], number[:, piece], begins[:, piece], carry)
                got.append(out)
        assert torch.equal(torch.cat(got, dim=1), expected)


def test_what_a_newer_episode_matches_nearly_as_well_is_stale():
    episode = torch.tensor([[1, 1, 2, 3, 3, 3, 4]])
    score = torch.randn(1, 5, 7).double() * 2
    score[0, 1, 3:] = float("-inf")
    score[0, 2] = float("-inf")
    margin = torch.full((1, 5, 1), 1.5).double()
    got = stale(score, episode[:, None], margin)
    for m in range(5):
        best = max(score[0, m].max(), -1e4)
        for i in range(7):
            newer = max([0.0] + [float(score[0, m, j] - best + 1.5) for j in range(7) if episode[0, j] > episode[0, i]])
            assert abs(got[0, m, i] - (1 - math.exp(-newer))) < 1e-9, (m, i)


def test_before_a_moment_and_as_of_it_are_routed_to_the_latest_line_that_fits():
    model = build("swa")
    head = model.recall
    width = head.address.heads * head.address.dim
    same = torch.ones(1, 1, width).double() / width ** 0.5
    empty = model.empty_state(1)["traces"]
    moments = [3, 7, 7, 12, -1, 40]
    traces = type(empty)(**{name: t.new_zeros(1, len(moments), *t.shape[2:]) for name, t in empty.as_dict().items()})
    traces = type(empty)(**{**traces.as_dict(), "address": same.expand(1, len(moments), width), "moment": torch.tensor([moments]),
                            "episode": torch.arange(1, len(moments) + 1)[None]})
    visible = torch.ones(1, 1, len(moments), dtype=torch.bool)
    for asked, relation, expected in ((12, "as of", 3), (30, "as of", 3), (7, "as of", 2), (7, "before", 0), (12, "before", 2), (41, "before", 5), (-1, "now", 5)):
        order = torch.tensor([[[-9.0 if relation == "now" else 9.0, 9.0 if relation == "before" else -9.0, 9.0, 0.0, -9.0]]]).double()
        _, score, hints = head.address.route({"b": same, "moment": torch.tensor([[asked]]), "order": order}, traces, visible)
        assert int(score.argmax()) == expected, (asked, relation, score)
        assert (float(hints[0, 0, 1]) == 0) == (asked in moments and asked >= 0) and (float(hints[0, 0, 2]) == 0) == (0 <= asked < 40)


def test_the_tokens_before_an_entry_are_counted_that_the_stream_has_just_said():
    model = build("swa")
    rng, ordinary = random.Random(0), model.config.n_ordinary
    for _ in range(20):
        line = torch.tensor([[[[rng.choice((-1, 3, 4)) for _ in range(CONTEXT)] + [rng.choice((3, 4, 3, 4, ordinary)) for _ in range(CHUNK)] for _ in range(2)] for _ in range(3)]])
        recent = torch.tensor([[[rng.choice((3, 4)) for _ in range(HISTORY)] for _ in range(3)]])
        recent[0, 1, -5] = ordinary                                       # an answer of four tokens so far
        recent[0, 2] = line[0, 2, 0, 1:]                                  # of which a whole trace goes on
        got = model.recall.matched(line, recent)
        for m in range(3):
            for k in range(2):
                for j in range(CHUNK):
                    known, count = line[0, m, k, :CONTEXT + j].tolist(), 0
                    for n, token in enumerate(reversed(recent[0, m].tolist())):
                        if token >= ordinary or n < len(known) and known[-1 - n] != token:
                            break
                        count += 1
                    assert got[0, m, k, j] == count, (m, k, j)


def head_that_reads():
    """The tokenizer, and a recall head that knows its words."""
    tokenizer = Tokenizer.load()
    head = RecallHead(THENConfig(vocab_size=tokenizer.vocab_size, n_ordinary=min(tokenizer.special_tokens.values()), end_id=tokenizer.end_id))
    head.address.codes.init_tables(tokenizer.word_tables())
    return tokenizer, head


def test_a_copy_begins_with_a_word_and_may_end_with_its_episode():
    tokenizer, head = head_that_reads()
    ids = [tokenizer.bos_id, *tokenizer.encode("is '4711', or Zwiebel"), tokenizer.end_id]
    line = torch.tensor([-1] * CONTEXT + ids + [tokenizer.pad_id] * (CHUNK - len(ids)))[None, None, None]
    pieces = [tokenizer.decode([t], skip_special=True) for t in line[0, 0, 0, CONTEXT:].tolist()]
    for last, begins in ((tokenizer.assistant_id, True), (5, False)):
        recent = torch.full((1, 1, HISTORY), last)
        got, within, _ = (t[0, 0, 0].tolist() for t in head.copyable(line, recent, head.matched(line, recent)))
        inside = False
        for j, (piece, copied) in enumerate(zip(pieces, got)):
            letters = piece.strip(" ',")
            inside = inside and bool(letters) and not piece.startswith(" ")
            expected = bool(piece) and not (begins and inside) or not begins and j == len(ids) - 1
            assert copied == expected, (begins, j, piece)
            assert within[j] == inside, (j, piece)
            inside = bool(letters)


def test_the_right_entry_is_the_one_that_goes_on_as_the_answer_does():
    model = build("swa")
    special, head = model.config.n_ordinary, model.recall
    evidence = [7, 1, 5, 9, 2, 1, 5, 1, 2, 8, 4, 4, 4, 4, 4, 4]           # "… 1 5 1 2 8": the answer is 5 1 2, of which 1 5 9 and the 2 before are not
    ids = torch.tensor([[[evidence]]])
    turn = torch.tensor([[special, 3, special + 1, 5, 1, 2, special + 2, 3]])
    targets = torch.cat([turn[:, 1:], turn[:, :1]], dim=1)
    for position, right in ((2, {6}), (3, {7}), (4, {8}), (5, {9})):      # 5, 1, 2, and where it ends, what comes next
        line = torch.cat([torch.full((1, 1, 1, CONTEXT), -1), ids], dim=-1)
        recent = torch.cat([torch.full((1, HISTORY), -1), turn[:, :position + 1]], dim=1)[:, None, -HISTORY:]
        copied = head.matched(line, recent).flatten(2)
        got = continued(ids.flatten(2), copied, turn, targets, torch.tensor([[position]]), special)
        assert set(got[0, 0].nonzero().flatten().tolist()) == right, position
    got = continued(ids.flatten(2), torch.zeros_like(ids.flatten(2)), turn, targets, torch.tensor([[4]]), special)   # nothing goes on: the second of two values
    assert set(got[0, 0].nonzero().flatten().tolist()) == {4, 8}


def test_within_a_word_the_gate_leans_to_going_on_as_far_as_an_answer_began_as_a_copy(monkeypatch):
    """... by WHOLE times the share of the copy that goes on, within a word, with what was said; times the gate where the answer began, if that is known."""
    model, ids, logits, positions = build("swa"), streams(1, 24 * CHUNK, seed=3), {}, range(6 * CHUNK, 24 * CHUNK)
    kind = model.recall.address.codes.kind
    kind.copy_(1 + (torch.arange(len(kind)) % 3 > 0))   # words of some tokens
    assert (ids[0, 6 * CHUNK:] == model.config.assistant_id).sum() > 1
    for whole, before in ((0.0, None), (3.0, None), (3.0, 0.25)):
        monkeypatch.setattr("nanochat.recall.WHOLE", whole)
        with torch.no_grad():
            x, context, _ = model.segment(ids, model.empty_state(1))
            copy = model.answer(x, torch.tensor([positions]), context, began=before and torch.tensor([before]).double())[1]
        logits[whole, before] = copy["g"].logit()
    p, entry_ids, copied = copy["entries"]
    line = torch.cat([context["traces"].before[0, copy["select"][0], -1:], entry_ids[0].unflatten(1, (-1, CHUNK))], dim=-1).long()   # with the token before a trace's first
    within = (kind[line[..., 1:].clamp(min=0)] > 1) & (line[..., :-1] >= 0)
    share = (p * (copied > 0) * within.flatten(1)).sum(-1)
    assert share.max() > 0.01 and torch.allclose(logits[3.0, None] - logits[0.0, None], 3 * share, atol=1e-6)
    began = [0.25]
    for m, at in enumerate(positions):
        answer, special = ids[0, at] == model.config.assistant_id, ids[0, at] >= model.config.n_ordinary
        began.append(float(copy["g"][0, m] * p[0, m].sum()) if answer else 1.0 if special else began[-1])
    assert len(set(began)) > 3 and began[-1] == copy["began"]
    assert torch.allclose(logits[3.0, 0.25] - logits[0.0, None], 3 * share * torch.tensor(began[1:]), atol=1e-6)


def test_what_is_known_counts_apart_where_an_answer_begins_and_where_it_goes_on():
    """... a special token is the last: the begin of the stream, of an episode, of an answer."""
    model, ids, logits = build("swa"), streams(1, 12 * CHUNK, seed=3), {}
    positions = torch.arange(6 * CHUNK, ids.shape[1])
    begins = ids[0, positions] >= model.config.n_ordinary
    for moved in (None, 0, 1):
        with torch.no_grad():
            if moved is not None:
                model.recall.known[2].bias[moved] += 1
            x, context, _ = model.segment(ids, model.empty_state(1))
            logits[moved] = model.answer(x, positions[None], context)[1]["g"].logit()[0]
    assert 0 < begins.sum() < len(begins)
    assert torch.allclose(logits[0] - logits[None], begins.double(), atol=1e-6)
    assert torch.allclose(logits[1] - logits[0], 1 - begins.double(), atol=1e-6)


def test_missing_is_what_the_question_names_and_an_episode_does_not_say():
    episode, alive = torch.tensor([[[2, 1, 1, 3]]]), torch.ones(1, 1, 4)
    place = torch.zeros(1, 1, 4, 19, dtype=torch.int64)
    for k, said in enumerate(([10, 11], [12], [13, 10], [14])):   # what either trace of an episode says is said
        place[:, :, k, :len(said)] = torch.tensor(said)
    everywhere = list(range(900, 900 + WORDS - 4))
    place[:, :, :, 19 - len(everywhere):] = torch.tensor(everywhere)
    weights = {10: (1.0, 3.0), 12: (2.0, 1.0), 13: (0.5, 0.0), 14: (4.0, 0.0), 99: (0.1, 7.0), **{word: (0.5, 0.5) for word in everywhere}}   # 99 matters least: WORDS are looked for
    episode, alive, place = (torch.cat([t, t[:, :, :1]], dim=2) for t in (episode, alive, place))
    alive[..., -1] = 0   # no trace: what it says is said by nobody
    *weighed, words = RecallHead.missing(torch.tensor([[list(weights)]]), torch.tensor([[list(weights.values())]]), place, episode, alive)
    missing, named = (t[:, :, :, :4] for t in weighed)
    assert sorted(words.flatten().tolist()) == sorted(set(weights) - {99})
    assert missing.shape == (1, 1, 2, 4, WORDS) and named.sum(-1).flatten().tolist() == [7.5 + 0.5 * len(everywhere), 4 + 0.5 * len(everywhere)]
    # 10 is said by the episodes of three of the four traces, 12 and 13 of two, 14 of one: so much less they are missed
    assert missing.sum(-1)[0, 0].tolist() == [[2 / 2 + 0.5 / 2 + 4 * 0.75, 3.0, 3.0, 1 / 4 + 2 / 2 + 0.5 / 2], [1 / 2, 0.0, 0.0, 3 / 4 + 1 / 2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9)), min_size=1, max_size=12), st.lists(st.integers(-4, 4), max_size=8))
def test_what_a_question_says_is_found_with_all_it_weighs(said, what):
    hashes, weight = (torch.tensor(t).expand(2, len(said)) for t in zip(*said))
    named, total = tally(hashes, weight[..., None].double())
    at, known = find(named, torch.tensor(what, dtype=torch.int64).expand(2, -1))
    assert known.tolist() == [[w != 0 and w in dict(said) for w in what]] * 2
    assert (total[..., 0].gather(-1, at) * known).tolist() == [[sum(m for h, m in said if h == w) if w else 0 for w in what]] * 2
    assert total.sum(1).flatten().tolist() == [sum(m for _, m in said)] * 2   # each weight once


def test_the_loss_of_reading_does_not_ask_where_the_routing_went():
    """Which word of the evidence it is has nothing to do with how the evidence is addressed, and is learned even where it would not be found."""
    model = build("swa", recall_topk=2)
    ids, targets, _, _ = lesson(2)
    with torch.no_grad():
        state = model(streams(2, 8 * CHUNK, seed=1), state=model.empty_state(2))[1]
    episode = state["traces"].episode
    alone = [next(i for i in range(8) if (row == row[i]).sum() == 1 and state["traces"].valid[b, i] > 8) for b, row in enumerate(episode)]   # an episode of one trace
    answers = torch.arange(ids.shape[1]).expand_as(ids) % 9 == 4
    for b, i in enumerate(alone):
        targets[b, answers[b]] = state["traces"].ids[b, i, 5].long()
    evidence = torch.where(answers, torch.stack([row[i] for row, i in zip(episode, alone)])[:, None].long(), -1)
    got = []
    for scale in (0.0, 3.0, -3.0):
        model.recall.address.scale.data.fill_(scale)
        torch.manual_seed(0)
        losses, _ = model(ids, targets, state, answers, evidence, parts=True)
        got.append(losses["read"].item())
        gradient, = torch.autograd.grad(losses["read"], model.recall.address.scale, retain_graph=True)
        assert gradient.abs().max() < 1e-9 and torch.autograd.grad(losses["read"], model.recall.query.weight)[0].abs().max() > 1e-6
    assert got[0] > 0.1 and max(got) - min(got) < 1e-9, got


def test_candidates_are_the_newest_and_the_best_none_twice():
    fresh, score = torch.tensor([[[9.0, 1.0, 2.0, 8.0, 0.0, NEG]]]), torch.tensor([[[9.0, 7.0, 3.0, 8.0, 6.0, NEG]]])
    assert candidates(fresh, score, 2).tolist() == [[[0, 1, 3, 4]]]       # 0 and 3 as they are, 1 and 4 where nothing is replaced
    assert candidates(fresh, score, 4).tolist() == [[[0, 1, 2, 3, 4, 5]]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, k = int(rng.integers(1, 30)), int(rng.integers(1, 12))
        score = torch.from_numpy(np.where(rng.random((2, 3, n)) < 0.5, rng.integers(0, 5, (2, 3, n)), -np.inf)).float()
        got = candidates(score - torch.from_numpy(rng.integers(0, 5, (2, 3, n))), score, k)
        assert got.shape == (2, 3, min(2 * k, n)) and (got[..., 1:] > got[..., :-1]).all()
        assert ((score > NEG).sum(-1).clamp(max=got.shape[-1]) == (score.gather(2, got) > NEG).sum(-1)).all()   # none that is visible is given up for one that is not


def test_a_trace_is_read_with_the_one_that_follows_it():
    empty = build("swa").empty_state(1)["traces"]
    episode = [1, 1, 1, 2, 3, 3, 4]
    traces = type(empty)(**{name: t.new_zeros(1, 7, *t.shape[2:]) for name, t in empty.as_dict().items()})
    traces = type(empty)(**{**traces.as_dict(), "episode": torch.tensor([episode]).int()})
    visible = torch.tensor([[[True] * 5 + [False, True]]])
    select, score = torch.tensor([[[0, 1, 3, 4, 6]]]), torch.tensor([[[5.0, 2.0, 4.0, 3.0, 1.0]]])
    back, index, got = and_next(select, score, traces, visible, torch.zeros_like(score))
    # 1 follows 0, and 2 follows 1; nothing follows 3 and 6 in their episodes, and 5 is not to be seen
    assert sorted(zip(index[0, 0].tolist(), got[0, 0].tolist(), back[0, 0].tolist())) == [(0, 5.0, 0), (1, 5.0, 1), (2, 2.0, 1), (3, 4.0, 2), (4, 3.0, 3)]
    _, index, _ = and_next(select, score, traces, visible, torch.tensor([[[0.0, 0.0, 0.0, 0.0, 100.0]]]))
    assert set(index[0, 0].tolist()) == {0, 1, 3, 4, 6}


def that_reads():
    """The tokenizer, and a small model that knows its words."""
    tokenizer = Tokenizer.load()
    model = THENGPT(THENConfig(vocab_size=tokenizer.vocab_size, n_layer=4, n_head=1, n_kv_head=1, n_embd=64, n_ordinary=min(tokenizer.special_tokens.values()), end_id=tokenizer.end_id,
                               bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id, user_id=tokenizer.user_id, assistant_id=tokenizer.assistant_id))
    model.init_weights(tokenizer.word_tables())
    return tokenizer, model


def entries_by(monkeypatch, constant):
    """A dict that keeps, by the value that a constant of recall.py has, the distribution over entries at the last position that was read, and their token ids."""
    entries, read = {}, RecallHead.read

    def spy(*args, **kwargs):
        out = read(*args, **kwargs)
        entries[getattr(recall, constant)] = [t[0, -1] for t in out[1]["entries"][:2]]
        return out

    monkeypatch.setattr(RecallHead, "read", spy)
    return entries


def test_the_words_of_a_trace_are_those_of_the_text_wherever_its_chunks_end():
    tokenizer, model = that_reads()
    text = "Of all crosspatches, a Wolfenbüttler 271828 xylophonist-in-residence was the crankiest zanzibarite quartermaster."
    for shift in range(CHUNK):
        ids = [tokenizer.bos_id, *tokenizer.encode("a " * shift + text + " So.")]
        ids += [tokenizer.pad_id] * (-len(ids) % CHUNK)
        with torch.no_grad():
            traces = model(torch.tensor([ids]), state=model.empty_state(1))[1]["traces"]
            line, said = model.recall.said(traces, torch.arange(len(traces))[None, None])
            whole = torch.tensor([ids + [0]])
            words = model.recall.address.codes(whole, whole == tokenizer.bos_id, torch.zeros(1, 6, dtype=torch.int64))[0][0, :-1]
        expected = mix64(words)
        around = F.pad(expected, (BEFORE, AFTER)).unfold(0, BEFORE + CHUNK + AFTER, CHUNK)
        ends = [-1] + expected.nonzero().flatten().tolist()
        long = {end for last, end in zip(ends, ends[1:]) if end - last > CHUNK - BEFORE}   # began before what is known of the chunk before
        differ = {(k * CHUNK - BEFORE + j, j) for k, j in (said[0, 0] != around).nonzero().tolist()}
        assert torch.equal(line[0, 0, :, -CHUNK:], torch.tensor(ids).view(-1, CHUNK))
        assert line.shape[-1] == 2 * CHUNK and torch.equal(line[0, 0, 1:, :CHUNK], line[0, 0, :-1, -CHUNK:])   # and what stands before it, which the trace before knows
        assert all(j < BEFORE - CONTEXT and i in long for i, j in differ), differ
        assert (expected != 0).sum() >= 15


def test_what_it_costs_to_be_of_another_time():
    moment = torch.tensor([-1, 5, 9, 10, 11])
    cost = untimely(moment, torch.tensor(10), *(torch.tensor(c) for c in (8.0, 4.0, 2.0)))
    assert torch.allclose(cost, torch.tensor([8.0, 2 * math.log(6), 2 * math.log(2), 4.0, 8.0]))
    assert untimely(moment, torch.tensor(-1), *(torch.tensor(c) for c in (8.0, 4.0, 2.0))).tolist() == [0.0] * 5


def test_what_is_gone_on_with_began_with_a_word():
    tokenizer, head = head_that_reads()
    special = head.config.n_ordinary
    ids = tokenizer.encode("is 66616, not 61")
    digit = lambda k: ids.index(tokenizer.encode("6")[0]) + k
    line = torch.tensor([-1] * CONTEXT + ids + [-1] * (CHUNK - len(ids)))[None, None, None]
    for said, right in (("6", {1, len(ids) - 1 - digit(0)}), ("66", {2}), ("666", {3}), ("6661", {4}), ("661", set())):   # ... of "61", too
        recent = torch.tensor([special] * (HISTORY - len(said)) + tokenizer.encode(said))[None, None]
        copied = head.matched(line, recent)
        copyable, _, entire = head.copyable(line, recent, copied)
        assert {int(j) - digit(0) for j in (entire & copyable)[0, 0, 0].nonzero()} == right, said
        assert all(copyable[0, 0, 0, j] or copied[0, 0, 0, j] == len(said) for j in range(len(ids)))   # what goes on with less of it is as it was


def test_an_answer_longer_than_what_is_compared_is_gone_on_with_wherever_it_began():
    """An identifier of many tokens: what stands HISTORY tokens before the next one is within a word, and that says nothing of where the answer began."""
    tokenizer, head = head_that_reads()
    special = head.config.n_ordinary
    ids = tokenizer.encode("28dd6f44cebe427aba1a35e453cbf561")
    assert HISTORY + 1 < len(ids) <= 2 * CHUNK
    unknown = 2 * CHUNK - len(ids)
    line = torch.tensor([-1] * unknown + ids)[None, None, None]
    for j in range(CHUNK):   # the answer so far is all that stands before entry j
        recent = torch.tensor(([special] * HISTORY + ids[:CHUNK + j - unknown])[-HISTORY:])[None, None]
        copyable, _, entire = head.copyable(line, recent, head.matched(line, recent))
        assert (entire & copyable)[0, 0, 0, j], j


def test_an_answer_does_not_begin_with_a_word_of_the_question_however_many_tokens_it_has(monkeypatch):
    tokenizer, model = that_reads()
    told = [tokenizer.bos_id, *tokenizer.encode("The tired old xylophonist with crosspatches is Wolfenstein."), tokenizer.end_id]
    asked = question_ids(tokenizer, "Who is <crosspatches>?")
    assert told.index(tokenizer.encode(" crosspatches")[-1]) >= CHUNK > told.index(tokenizer.encode(" crosspatches")[0])   # the next chunk goes on with it
    entries = entries_by(monkeypatch, "OWN")
    with torch.no_grad():
        state = model(torch.tensor([told + [tokenizer.pad_id] * (-len(told) % CHUNK)]), state=model.empty_state(1))[1]
        for own in (0.0, 4.0):
            monkeypatch.setattr(recall, "OWN", own)
            model(torch.tensor([asked]), state=state)
    (before, ids), (after, _) = entries[0.0], entries[4.0]
    change = {i: c for i, c in zip(ids.tolist(), (after / before).log().tolist())}
    first = lambda word: change[tokenizer.encode(word)[0]]
    assert abs(first(" with") - first(" Wolfenstein")) < 1e-4 and first(" crosspatches") < first(" with") - 0.5


def test_an_answer_does_not_begin_with_a_frequent_word_but_with_a_number(monkeypatch):
    tokenizer, model = that_reads()
    entries = entries_by(monkeypatch, "COMMON")
    with torch.no_grad():
        state = as_state(model, ingest(model, tokenizer, ["The crosspatches has become 7 xylophonist."]))
        for common in (0.0, 2.0):
            monkeypatch.setattr(recall, "COMMON", common)
            model(torch.tensor([question_ids(tokenizer, "Who?")]), state=state)
    (before, ids), (after, _) = entries[0.0], entries[2.0]
    change = {tokenizer.decode([i]): float(c) for i, c in zip(ids.tolist(), (after / before).log().tolist())}
    first = lambda word: change[tokenizer.decode(tokenizer.encode(word)[:1])]
    assert all(abs(change[" has"] - change[w] - d) < 1e-4 for w, d in ((" become", 0), (" ", -2), ("7", -2)))
    assert all(abs(change[" has"] - first(w) + 2) < 1e-4 for w in (" crosspatches", " xylophonist"))


def test_who_does_not_say_the_word_that_matters_most_is_ranked_behind_one_that_does(monkeypatch):
    tokenizer, model = that_reads()
    model.recall.address.order.bias.data[2] = -100   # nothing is replaced: the scores differ by what is counted here
    scores, choose = {}, RecallHead.choose

    def spy(*args, **kwargs):
        out = choose(*args, **kwargs)
        scores[recall.NAMED] = out[0][0, -1]
        return out

    monkeypatch.setattr(RecallHead, "choose", spy)
    with torch.no_grad():
        state = as_state(model, ingest(model, tokenizer, ["Ada had tea.", "Bob had tea.", "Zoe had tea."]))
        for asked, behind in (("Bob had?", [True, False, True]), ("Eve had?", [False] * 3)):
            for named in (0.0, 6.0):
                monkeypatch.setattr(recall, "NAMED", named)
                model(torch.tensor([question_ids(tokenizer, asked)]), state=state)
            # at first every word of a question matters by a half, and the less the more say it: what nobody says, or everybody, is no reason to rank anybody behind
            expected = [-6 * 0.5 * (1 - 1 / 3) * b for b in behind]
            assert torch.allclose(scores[6.0] - scores[0.0], torch.tensor(expected), atol=1e-4), asked


def test_the_address_says_which_entry_is_copied_and_not_whether(monkeypatch):
    model, ids, got = build("swa"), streams(1, 12 * CHUNK, seed=3), {}
    with torch.no_grad():
        x, context, _ = model.segment(ids, model.empty_state(1))
        for nearest in (1.0, 3.0):
            monkeypatch.setattr(recall, "NEAREST", nearest)
            got[nearest] = model.answer(x, torch.arange(6 * CHUNK, ids.shape[1])[None], context)
    assert torch.equal(got[1.0][0], got[3.0][0])
    p, q = (got[n][1]["entries"][0].unflatten(-1, (-1, CHUNK)) for n in (1.0, 3.0))
    seen = (p > 1e-12) & (q > 1e-12)
    change = (q / p).log().masked_fill(~seen, torch.nan)
    spread = change.nan_to_num(-torch.inf).amax(-1) - change.nan_to_num(torch.inf).amin(-1)
    assert (spread[seen.any(-1)] < 1e-6).all()   # within a trace the same
    assert ((change.nan_to_num(-torch.inf).amax((-1, -2)) - change.nan_to_num(torch.inf).amin((-1, -2))) > 0.5).any()
    assert torch.allclose(q.sum((-1, -2)), torch.ones(()).double())
