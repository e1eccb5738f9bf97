"""
The memory of an open model: it changes no logit before it has learned, its adapters count in reading alone, the
question stands after what was found, so that several are learned from one window, and a checkpoint is an adapter to one
very model.
"""
import itertools
import json
import random

import numpy as np
import pytest
import torch

from nanochat import base, engine, reading, reading_data
from nanochat.checkpoint_manager import checkpoint_dir, load_checkpoint, load_model_file
from nanochat.common import UserError, run_main
from nanochat.reading_data import Asked, Talks
from nanochat.words import Lexicon
from scripts import ingest, memory
from scripts.export_model import main as export
from tests.ranks import launch
from tests.test_base import TEXTS, VOCAB, byte_level, copied, data, smol, tokenizers, train  # noqa: F401, fixtures

LINES = ["Amina works at the library.", "The cat sleeps on the roof.", "Tom bought 12 apples.", "It rains in Cairo."]
ASKED = [("Where does Amina work?", "library", 0), ("What sleeps on the roof?", "cat", 1),
         ("How many apples did Tom buy?", "12", 2), ("Who rains?", "", None)]


@pytest.fixture(scope="module")
def made(smol):  # noqa: F811
    """A model and its tokenizer, of which what is new is no longer as it began."""
    model, tokenizer = base.open_base(str(smol)).with_memory(lora_rank=2, ratio=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name not in model.borrowed and not name.startswith("finder."):
                weight.add_(0.1 * torch.randn_like(weight))
    return model.requires_grad_(False), tokenizer


def item(n=0):
    return {"src": "a", "sents": [f"{line} {n}" for line in LINES],
            "qas": [{"q": q, "a": a, "evidence": [] if e is None else [e]} for q, a, e in ASKED]}


def ids_of(tokenizer, text, length):
    return torch.tensor([(tokenizer.encode(text) * length)[:length]])


@pytest.mark.parametrize("options", [{}, {"normalizer": tokenizers.normalizers.NFC()}])
def test_its_tokens_are_those_of_the_open_model_and_five_more(options):
    ends = base.Ends(VOCAB - 2, VOCAB - 1, VOCAB - 1)
    plain = base.BaseTokenizer(byte_level(**options).to_str(), VOCAB, ends, "here")
    made = plain.with_memory()
    lexicon = Lexicon(made)
    for text in [*TEXTS, "cafe\u0301 no", "\ud800 x"]:
        ids = made.encode(text)
        assert ids == plain.encode(text) and made.decode(ids) == plain.decode(ids)
        assert made.decode_bytes(ids).decode() == b"".join(map(made.token_bytes, ids)).decode() == plain.decode(ids)
        line, shown = lexicon.line(text), made.stream_decoder()
        said = line.text.encode()
        assert [said[a:b] for a, b in zip(line.start, line.end)] == [made.token_bytes(i) for i in ids]
        assert "".join(map(shown.feed, ids)) + shown.flush() == plain.decode(ids)
    ids = [made.bos_id, *made.encode("a"), made.end_id, made.pad_id]
    assert made.decode(ids) == "<|bos|>a<|end|><|pad|>" and made.decode(ids, skip_special=True) == "a"
    assert len({*made.special_tokens.values()}) == 5 and min(made.special_tokens.values()) == plain.vocab_size
    with pytest.raises(ValueError):
        made.decode([made.vocab_size])


def test_it_changes_no_logit_before_it_has_learned(smol):  # noqa: F811
    plain = base.open_base(str(smol)).model()
    for rank in (0, 2):
        model, tokenizer = base.open_base(str(smol)).with_memory(lora_rank=rank, ratio=1)
        assert tokenizer.vocab_size == model.config.vocab_size == plain.config.vocab_size + 5
        ids = ids_of(tokenizer, LINES[0], 37)
        with torch.no_grad():
            state = model(ids_of(tokenizer, LINES[1], 64))[1]
            for before in (None, {**model.empty_state(1), "traces": state["traces"]}):   # of what it has read, nothing
                got, want = model(ids, state=before)[0][..., :-5], plain(ids)
                assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("cut", [1, 5, 16, 40])
def test_a_stream_is_the_same_in_any_pieces(made, cut):
    model, tokenizer = made
    ids = torch.cat([ids_of(tokenizer, line, 22).index_fill(1, torch.tensor([0]), tokenizer.bos_id)
                     for line in LINES], 1)
    whole, state = model(ids)
    got, pieces = [], None
    for part in ids.split(cut, dim=1):
        logits, pieces = model(part, state=pieces)
        got.append(logits)
    torch.testing.assert_close(torch.cat(got, 1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pieces["traces"].gist, state["traces"].gist, rtol=1e-4, atol=1e-4)
    assert (whole - model(ids, read=False)[0]).abs().max() > 1e-3   # memory counts


def test_adapters_count_in_reading_alone(made):
    model, tokenizer = made
    ids, line = ids_of(tokenizer, LINES[0], 20), Lexicon(tokenizer).line(LINES[0])
    window = reading.alone([line], tokenizer)
    before = model(ids)[0], reading.read(model, window).hidden
    for adapter in model.adapters:
        adapter.up.neg_()
    after = model(ids)[0], reading.read(model, window).hidden
    for adapter in model.adapters:
        adapter.up.neg_()
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])


def test_frozen_it_says_the_same_with_half_the_weights(smol):  # noqa: F811
    (model, tokenizer), (frozen, _) = (base.open_base(str(smol)).with_memory(lora_rank=2, ratio=1) for _ in range(2))
    frozen.load_state_dict(model.state_dict())
    model.requires_grad_(False).dtype = torch.bfloat16
    frozen.freeze(torch.bfloat16)
    held = lambda model: sum(weight.nbytes for weight in model.parameters())
    assert held(frozen) < 0.6 * held(model)
    ids, line = ids_of(tokenizer, LINES[0], 37), Lexicon(tokenizer).line(LINES[0])
    window = reading.alone([line], tokenizer)
    for one, other in zip(model(ids)[1]["traces"].as_dict().values(), frozen(ids)[1]["traces"].as_dict().values()):
        assert torch.equal(one, other)
    assert torch.equal(model(ids)[0], frozen(ids)[0])
    assert reading.answers(model, window) == reading.answers(frozen, window)
    assert torch.equal(model.asks(window).vector, frozen.asks(window).vector)


def test_what_is_not_trained_is_kept_small_and_gradients_are_the_same(smol):  # noqa: F811
    (model, tokenizer), (small, _) = (base.open_base(str(smol)).with_memory(dtype=torch.bfloat16, lora_rank=2, ratio=1)
                                      for _ in range(2))
    small.load_state_dict(model.state_dict())
    small.narrow()
    assert small.wte.weight.dtype == small.blocks[0].mlp.fc.weight.dtype == torch.bfloat16
    assert all(weight.dtype == torch.float32 for weight in small.parameters() if weight.requires_grad)
    batch = reading_data.collate_talks(talks(tokenizer, 4))
    for one in (model, small):
        sum(one.reading_losses(*batch)[0].values()).backward()
    assert any(weight.grad is not None for weight in model.parameters())
    for weight, other in zip(model.parameters(), small.parameters()):
        assert weight.grad is other.grad is None or torch.equal(weight.grad, other.grad)


def test_the_question_stands_after_what_was_found(made):
    _, tokenizer = made
    lexicon = Lexicon(tokenizer)
    asked, lines = lexicon.line(ASKED[0][0]), [lexicon.line(line) for line in LINES]
    for budget, order, kept in ((512, [2, 0, 1, 3], LINES), (3 * len(asked) + 4, [2], LINES[2:3])):
        columns, begin = reading.lay_out(asked, lines, order, tokenizer, budget)
        text = tokenizer.decode(columns["ids"])
        assert text == "".join([*(f"<|bos|>{line}" for line in kept), f"<|user|>{asked.text}"])
        assert len({len(column) for column in columns.values()}) == 1 and len(columns["ids"]) <= budget
        assert [LINES[i] for i in begin] == kept
        for i, at in begin.items():
            assert columns["ids"][at:at + len(lines[i])].tolist() == lines[i].ids.tolist()
            assert set(columns["ordinal"][at:at + len(lines[i])]) == {i}
        assert set(columns["ordinal"][-len(asked) - 1:]) == {-1}   # nothing of it is copied
    long = lexicon.line(" ".join(LINES * 9))
    assert len(reading.lay_out(long, lines, [0], tokenizer, 40)[0]["ids"]) <= 40


def test_each_word_of_a_question_is_weighed_by_all_of_it(smol):  # noqa: F811
    model, tokenizer = base.open_base(str(smol)).with_memory(ratio=1)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.finder.weight.weight)
    lexicon = Lexicon(tokenizer)
    lines = [lexicon.line(text) for text in ("Where does she work?", "Where does she live?", "Where is it?")]
    with torch.no_grad():
        whole = model.asks(reading.alone(lines, tokenizer))
        assert (whole.weight[0, 1] - whole.weight[1, 1]).abs() > 1e-4   # "Where", from what follows it
        for row, line in enumerate(lines):
            one = model.asks(reading.alone([line], tokenizer))
            n = len(line) + 1   # with <|user|>
            torch.testing.assert_close(one.weight[0, :n], whole.weight[row, :n], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.vector[0], whole.vector[row], rtol=1e-4, atol=1e-5)


def test_each_answer_is_copied_from_where_it_stands(made):
    _, tokenizer = made
    lexicon, r = Lexicon(tokenizer), random.Random(0)
    sources = {"a": [reading_data.memory_of(item(n), lexicon) for n in range(3)]}
    for budget in range(32, 72, 2):   # lines that are cut off
        ask = Asked(sources, tokenizer)
        ask.budgets = [budget]
        assert all(columns["ordinal"][place] >= 0 for columns, tokens in filter(None, (ask(r) for _ in range(20)))
                   for _, at in tokens for place in at)
    make = Asked(sources, tokenizer)
    for columns, tokens in itertools.islice(filter(None, (make(r) for _ in range(60))), 40):
        text = tokenizer.decode(columns["ids"])
        answer = next(a for q, a, _ in ASKED if text.endswith("<|user|>" + q))
        told = tokenizer.decode([token for token, _ in tokens], skip_special=True).strip()
        assert told == (answer or reading_data.REFUSAL)
        assert all(columns["ids"][place] == token for token, at in tokens for place in at)
        assert bool(answer) == any(at for _, at in tokens)


def talks(tokenizer, count, **settings):
    lexicon = Lexicon(tokenizer)
    make = Talks({"a": [reading_data.memory_of(item(n), lexicon) for n in range(3)]}, tokenizer, **settings)
    return reading_data.drawn_by(make, random.Random(0), count)


def test_several_questions_are_asked_after_one_window(made):
    _, tokenizer = made
    for withheld in (0, 1):
        told = []
        for columns, asked in talks(tokenizer, 30, withheld=withheld):
            assert 1 <= len(asked) <= len(ASKED) and (columns["ordinal"] >= 0).all()
            for ids, wanted, source in asked:
                assert len(ids) == len(wanted) == len(source) and ids[0] == tokenizer.user_id
                q, _, begun = tokenizer.decode(ids[1:]).partition("<|assistant|>")
                said = [token for token in wanted if token >= 0]
                assert tokenizer.encode(begun) == said[:-1] and said[-1] == tokenizer.end_id
                answer = next(a for question, a, _ in ASKED if question == q)
                told.append(tokenizer.decode(said, skip_special=True).strip())
                assert told[-1] in (answer, reading_data.REFUSAL)
                copies = [(token, at) for token, at in zip(wanted, source) if at >= 0]
                assert all(columns["ids"][at] == token for token, at in copies)
                assert bool(copies) == (told[-1] != reading_data.REFUSAL)
            assert not withheld or told[-len(asked)] == reading_data.REFUSAL
        assert {*told} == {a or reading_data.REFUSAL for _, a, _ in ASKED}


def test_a_question_among_several_is_read_as_if_it_were_alone(made):
    model, tokenizer = made
    examples = talks(tokenizer, 5, withheld=0.2)
    losses, _ = model.reading_losses(*reading_data.collate_talks(examples))
    said, beside, count = 0.0, 0.0, 0
    for columns, asked in examples:
        for ids, wanted, source in asked:
            q = ids.index(tokenizer.assistant_id)
            whole = {name: np.append(column, np.full(q, {"ordinal": -1}.get(name, 0)))
                     for name, column in columns.items()}
            whole["ids"][-q:] = ids[:q]
            read = reading.read(model, reading.batch([whole]))
            answer = torch.tensor([ids[q:]])
            y, _ = reading.say(model, read, answer, torch.full_like(answer, -1), 0, read.past)
            place = model.reader.copy(y, read)
            said -= torch.log_softmax(model.head(y[0]), -1).gather(1, torch.tensor(wanted[q:])[:, None]).sum()
            beside -= sum(p[at] for p, at in zip(place[0], source[q:]) if at >= 0)
            count += 1
    torch.testing.assert_close(losses["read"], said / count, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["copy"], beside / count, rtol=1e-4, atol=1e-4)


def test_what_learns_where_words_stand_changes_no_word(smol):  # noqa: F811
    model, tokenizer = base.open_base(str(smol)).with_memory(lora_rank=2, ratio=1)
    losses, _ = model.reading_losses(*reading_data.collate_talks(talks(tokenizer, 3)))
    losses["copy"].backward(retain_graph=True)
    reader = {name for name, _ in model.named_parameters() if name.startswith("reader.")}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == reader
    model.zero_grad()
    losses["read"].backward()
    assert reader.isdisjoint(name for name, weight in model.named_parameters() if weight.grad is not None)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture
def questions(data):  # noqa: F811
    """The flags of a short run, with questions among the data."""
    folder = data[data.index("--data-dir") + 1]
    with open(f"{folder}/q.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(item(n)) + "\n" for n in range(8))
    flags = data[:]
    flags[flags.index("--model-class") + 1] = "THENGPT"
    return [*flags, "--eval-questions", "2", "--window-tokens", "512", "--lora-rank", "2"]


def test_a_checkpoint_is_an_adapter_to_one_model(copied, questions, tmp_path, capsys):  # noqa: F811
    argv = [*questions, "--init-from", str(copied), "--num-iterations"]
    assert train([*argv, "2", "--tag", "whole"]) == 0
    assert train([*argv, "2", "--tag", "halved", "--save-every", "1", "--warmdown", "0"]) == 0
    saved = load_model_file(checkpoint_dir("whole"))
    assert not any(name.endswith(("attn.q.weight", "mlp.fc.weight", "wte.weight")) for name in saved["model"])
    assert saved["meta"]["base"]["name"] == str(copied)
    model, tokenizer, _ = engine.load_model(checkpoint_dir("whole"))
    assert any(adapter.up.any() for adapter in model.adapters)
    # made in bf16 at once, so that fp32 never takes memory: the bits of the one that is cast afterwards
    narrow, cast = engine.load_model(checkpoint_dir("whole"), dtype="bf16")[0], base.remembering("", saved, ())[0]
    assert narrow.wte.weight.dtype == torch.bfloat16
    assert all(map(torch.equal, narrow.state_dict().values(), cast.freeze(torch.bfloat16).state_dict().values()))
    traces = engine.ingest(model, tokenizer, LINES)
    state = {**model.empty_state(1), "traces": traces, "episode": torch.tensor([len(LINES)])}
    answer = engine.answer(model, tokenizer, state, "Where does Amina work?", max_tokens=4)
    assert answer.text and all(1 <= e.id <= len(LINES) for e in answer.episodes)
    assert engine.found(model, tokenizer, state, "Where does Amina work?").best[0] == 1
    # shipped as it is, and whole, without what it was an adapter to
    question = reading.alone([engine.asked(model, tokenizer, "Where does Amina work?")], tokenizer)
    for name, flags in (("adapter", []), ("merged", ["--merge"])):
        flags = ["--output-path", str(tmp_path / name), *flags]
        assert export(["--model-path", str(checkpoint_dir("whole")), *flags]) == 0
        shipped = engine.load_model(tmp_path / name)[0]
        assert bool(shipped.adapters) == (name == "adapter") == ("base" in load_model_file(tmp_path / name)["meta"])
        read = [reading.read(one, question).hidden for one in (shipped, model)]
        assert (read[0] - read[1]).norm() < 0.05 * read[1].norm()   # in bf16, and its largest matrices in 8 bits
    # trained further, at a rate of 0: the same
    begun = ["--lr-scale", "0", "--tag", "further", "--num-iterations", "1"]
    assert train([*questions, "--init-from", str(tmp_path / "adapter"), *begun]) == 0
    again, shipped = (load_model_file(path) for path in (checkpoint_dir("further"), tmp_path / "adapter"))
    assert again["meta"]["base"] == shipped["meta"]["base"] and not torch.isnan(again["model"]["special"]).any()
    assert all(torch.equal(again["model"][name], t.float()) for name, t in shipped["model"].items()
               if "adapter" in name)
    # what is remembered is read, and forgotten, in words
    (notes := tmp_path / "notes.txt").write_text("\n".join(LINES))
    state, told = str(tmp_path / "notes.pt"), ["--model-path", str(tmp_path / "adapter"), "--data-path", str(notes)]
    assert ingest.main([*told, "--output-path", state]) == 0
    capsys.readouterr()
    for name, flags in (("adapter", ["forget", "--match", LINES[1], "--yes"]), ("merged", ["list"])):
        flags += ["--state-path", state, "--model-path", str(tmp_path / name)]
        assert memory.main(flags) == 0
        out = capsys.readouterr().out
        assert LINES[0] in out or name == "adapter"
        assert (LINES[1] in out) == (name == "adapter")
    with pytest.raises(UserError, match="none of the models that ship: --model-path"):
        memory.main(["list", "--state-path", state])
    # another model of that name
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "rope_theta": 2e5, "rope_parameters": None}))
    with pytest.raises(UserError, match="rope_base"):
        engine.load_model(checkpoint_dir("whole"))
    (copied / "config.json").write_text(json.dumps(config))
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="adapter to another"):
        engine.load_model(checkpoint_dir("whole"))
    (copied / "model.safetensors").unlink()
    (copied / "config.json").unlink()
    with pytest.raises(UserError, match="is an adapter to"):
        engine.load_model(checkpoint_dir("whole"))
    assert engine.load_model(tmp_path / "merged")[1].decode(tokenizer.encode("the end")) == "the end"


def test_a_run_goes_on_as_if_it_had_not_been_stopped(smol, questions):  # noqa: F811
    argv = [*questions, "--init-from", str(smol), "--warmdown", "0", "--save-every", "2"]
    assert train([*argv, "--num-iterations", "4", "--tag", "whole"]) == 0
    assert train([*argv, "--num-iterations", "2", "--tag", "halved"]) == 0
    assert train([*argv, "--num-iterations", "4", "--tag", "halved", "--resume", "latest"]) == 0
    whole, halved = (load_checkpoint(checkpoint_dir(tag), 4).model for tag in ("whole", "halved"))
    assert all(torch.equal(whole[name], halved[name]) for name in whole)


@pytest.mark.slow
def test_ranks_learn_the_adapter_that_one_would(smol, questions, tmp_path):  # noqa: F811
    """DDP and FSDP2 on the same batches; of what is sharded, only what learns is saved, and it is gone on from."""
    argv = ["scripts.base_train", *questions, "--init-from", str(smol), "--warmdown", "0", "--save-every", "2",
            "--num-iterations", "3", "--set", "ratio=1"]
    runs, checkpoints = [[*argv, "--tag", "ddp"]], tmp_path / "base_checkpoints"
    runs += [[*argv, "--tag", "fsdp", "--fsdp"], ["copy", str(checkpoints / "fsdp"), str(checkpoints / "again")],
             [*argv, "--tag", "again", "--fsdp", "--resume", "2"]]
    done = launch(2, runs, env={"NANOCHAT_BASE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-9000:]
    ddp, fsdp, again = (load_checkpoint(checkpoint_dir(tag), 3, parts=("model",)).model
                        for tag in ("ddp", "fsdp", "again"))
    fresh = base.open_base(str(smol)).with_memory(lora_rank=2, ratio=1)[0].state_dict()
    assert ddp.keys() == fsdp.keys() and not any("attn.q.weight" in name for name in fsdp)
    assert all(torch.equal(fsdp[name], again[name]) for name in fsdp)
    ups = [name for name in ddp if name.endswith("adapter.up")]   # they begin at zero
    apart, moved = (torch.cat([part(name).flatten() for name in ups]).norm()
                    for part in (lambda name: ddp[name] - fsdp[name], lambda name: ddp[name] - fresh[name]))
    assert moved > 0 and apart <= 0.1 * moved


def test_all_of_it_may_learn(smol, questions):  # noqa: F811
    assert train([*questions[:-1], "0", "--init-from", str(smol), "--num-iterations", "1", "--tag", "full"]) == 0
    model, tokenizer, _ = engine.load_model(checkpoint_dir("full"))
    assert not model.adapters and tokenizer.asks_last
    fresh = base.open_base(str(smol)).with_memory()[0]
    assert not torch.equal(model.blocks[0].attn.q.weight, fresh.blocks[0].attn.q.weight)


def test_a_rank_without_a_model_to_adapt_is_refused(questions, capsys):
    assert run_main(lambda: train([*questions, "--num-iterations", "1"])) == 2
    assert "--lora-rank" in capsys.readouterr().err
