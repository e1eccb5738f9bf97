"""
What makes a memory of this model a memory: each check of it, on tiny random models in float64.

    python -m tests.test_live_memory      prints OK for each check; exit code 1 if one failed
    python -m pytest tests/test_live_memory.py
"""
import functools
import random
import string
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from nanochat.checkpoint_manager import weights_digest
from nanochat.common import UserError, seed_everything
from nanochat.gpt import THENGPT, THENConfig
from nanochat.memory import Writer, load_state
from nanochat.memory_file import VERSION, Content, identity
from nanochat.record import Layout, geometry
from nanochat.state import CHUNK, detach_state, forget_rows, map_state

ORDINARY, END, BOS, PAD, USER, ASSISTANT = 58, 59, 60, 61, 62, 63
MIXERS = ("swa", "kda")
CHECKS = {}


def check(title, mixers=MIXERS):
    """Registers a check, once for each write mixer it is given (as its argument), or once without argument."""
    def register(fn):
        for mixer in mixers:
            CHECKS[f"{title} ({mixer})"] = functools.partial(fn, mixer)
        if not mixers:
            CHECKS[title] = fn
        return fn
    return register


# what the checks are made of ----------------------------------------------------------------------------------------


def build(mixer, dtype=torch.float64, **overrides):
    """
    Two write layers and a read layer, twice. Nothing is left at zero or constant, so that nothing is equal by default.
    """
    special = dict(n_ordinary=ORDINARY, bos_id=BOS, end_id=END, user_id=USER, assistant_id=ASSISTANT, pad_id=PAD)
    size = dict(vocab_size=64, n_layer=6, n_head=2, n_kv_head=2 if mixer == "kda" else 1, n_embd=32, ratio=2, window=32)
    size |= dict(gist_dim=16, index_heads=2, index_dim=8)
    model = THENGPT(THENConfig(**{**special, **size, "write_mixer": mixer, **overrides}))
    model.init_weights()
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
        for p in model.parameters():
            # also where only a part begins at zero
            p.add_(0.3 * torch.randn_like(p) * ((p == 0) | (p == p.flatten()[0]).all()))
    if dtype == torch.float64:
        model.double()
    model.dtype = dtype
    return model


class Letters:
    """A tokenizer for such a model: a token is a letter, or the space between two words."""
    vocab_size, pad_id, bytes = 64, PAD, (string.ascii_letters + 6 * " ").encode()

    def token_bytes(self, id):
        return self.bytes[id:id + 1]

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode()


def streams(rows, length, seed=0):
    """
    (rows, length) ids: episodes of random length, begun by BOS at a chunk boundary, filled up with PAD; now and then a
    question turn.
    """
    rng = random.Random(seed)
    out = []
    for _ in range(rows):
        line = []
        while len(line) < length:
            said = [rng.randrange(ORDINARY) for _ in range(rng.randrange(3, 60))]
            if line and rng.random() < 0.3:
                said = [USER, *said[:-2], ASSISTANT, *said[-2:]]
            line += [BOS, *said]
            line += [PAD] * (-len(line) % CHUNK)
        out.append(line[:length])
    return torch.tensor(out)


def episode(length, seed):
    ids = streams(1, CHUNK, seed)[:, :1]
    return torch.cat([ids, torch.randint(ORDINARY, (1, length - 1), generator=torch.Generator().manual_seed(seed))],
                     dim=1)


@torch.no_grad()
def feed(model, pieces, state=None, **kwargs):
    """(logits of all pieces, the state after them)."""
    logits = []
    for piece in pieces:
        out, state = model(piece, state=state, **kwargs)
        logits.append(out)
    return torch.cat(logits, dim=1), state


def leaves(state):
    found = []
    map_state(state, lambda t: found.append(t))
    return found


def assert_close(a, b, what, tolerance=1e-9):
    """Tensors, or states, that differ by rounding at most; integers must be equal."""
    a, b = leaves(a), leaves(b)
    assert len(a) == len(b), what
    for x, y in zip(a, b):
        assert (x.shape == y.shape
                and x.dtype == y.dtype), f"{what}: {tuple(x.shape)} {x.dtype}, {tuple(y.shape)} {y.dtype}"
        if x.is_floating_point():
            assert torch.isfinite(x).all() and torch.isfinite(y).all(), f"{what}: not finite"
            worst = (x - y).abs().max() if x.numel() else 0
            assert worst <= tolerance, f"{what}: differs by {float(worst):.2g}"
        else:
            assert torch.equal(x, y), what


def assert_same(a, b, what):
    """Equal to the bit."""
    a, b = leaves(a), leaves(b)
    assert len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b)), what


def differs(a, b):
    return bool((a - b).abs().max() > 1e-4)


def assert_cuts(model, idx, cuts, whole):
    logits, state = feed(model, idx.tensor_split(cuts, dim=1))
    assert_close(logits, whole[0], f"logits, cut at {cuts}")
    assert_close(state, whole[1], f"state, cut at {cuts}")


@check("a model begins the same, whatever its memory held before")
def beginning(mixer):
    config, begun = build(mixer, word_vectors=3).config, []
    for left in (7, 9):
        with torch.device("meta"):
            model = THENGPT(config)
        for tensor in model.to_empty(device="cpu").state_dict().values():
            tensor.fill_(left)
        torch.manual_seed(1)
        model.init_weights()
        begun.append(model.state_dict())
    assert_same(*begun, "weights")


# streams ------------------------------------------------------------------------------------------------------------


@check("a stream cut into pieces of 0, 1, 15, 16, 17 or all gives the same logits, traces and state")
def streaming(mixer):
    model, idx = build(mixer), streams(3, 5 * CHUNK + 5)
    whole = feed(model, [idx])
    assert len(whole[1]["traces"]) == 5 and whole[1]["buffer"].shape == (3, 5)
    assert whole[0].shape == (3, idx.shape[1], 64)
    for piece in (1, 15, 16, 17):
        assert_cuts(model, idx, list(range(piece, idx.shape[1], piece)), whole)
    assert_cuts(model, idx, [0, 0, 16, 16, 20, 20, idx.shape[1]], whole)
    for n in range(1, idx.shape[1] - 3, 9):   # the last token alone, at once or after others
        last = feed(model, [idx[:, :n]], last=True)
        assert_close(last[0], whole[0][:, n - 1:n], f"logits of token {n} alone")
        assert_close(feed(model, [idx[:, n:n + 3]], last[1], last=True)[0], whole[0][:, n + 2:n + 3],
                     f"... and three later")
    later = streams(3, 40, seed=1)
    cut = feed(model, idx.split(17, dim=1))[1]
    assert_close(feed(model, [later], whole[1]), feed(model, [later], cut), "what comes after")


@check("a stream cut at random gives the same")
def random_cuts(mixer):
    from hypothesis import given, settings, strategies

    model, idx = build(mixer), streams(2, 5 * CHUNK + 3)
    whole = feed(model, [idx])

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(strategies.lists(strategies.integers(0, idx.shape[1]), max_size=6))
    def compare(cuts):
        assert_cuts(model, idx, sorted(cuts), whole)

    compare()


@check("16 tokens, one by one or at once, are one trace; 15 are none")
def one_trace(mixer):
    model, idx = build(mixer), streams(1, CHUNK)
    state = feed(model, idx[:, :15].split(1, dim=1))[1]
    assert len(state["traces"]) == 0 and state["buffer"].tolist() == idx[:, :15].tolist()
    state = feed(model, [idx[:, 15:]], state)[1]
    assert len(state["traces"]) == 1 and state["buffer"].shape == (1, 0)
    assert state["traces"].ids[0, 0].tolist() == idx[0].tolist()
    assert int(state["traces"].valid) == int((idx != PAD).sum())
    assert_close(state, feed(model, [idx])[1], "the trace")


@check("no later token changes an earlier logit by a bit, nor a closed trace")
def causality(mixer):
    model, idx = build(mixer), streams(2, 5 * CHUNK)
    memory = feed(model, [streams(2, 4 * CHUNK, seed=9)])[1]
    logits, state = feed(model, [idx], memory)
    for at in (1, 15, 16, 17, 32, 63, 79):
        other = idx.clone()
        other[:, at] = (other[:, at] + 1 + torch.arange(2)) % ORDINARY
        other[:, at + 1:] = streams(2, idx.shape[1], seed=at)[:, at + 1:]
        changed, after = feed(model, [other], memory)
        assert_same(changed[:, :at], logits[:, :at], f"logits before {at}")
        assert differs(changed[:, at], logits[:, at])
        closed = 4 + at // CHUNK
        assert_same(after["traces"][:closed], state["traces"][:closed], f"traces before {at}")


@check("a row does not depend on the others, to the bit, nor on their being there")
def rows(mixer):
    model, idx = build(mixer), streams(3, 5 * CHUNK + 5)
    other = idx.clone()
    other[1:] = streams(2, idx.shape[1], seed=7)
    row = lambda out: (out[0][:1],
                       map_state({name: out[1][name] for name in ("traces", "buffer", "episode", "position")},
                                 lambda t: t[:1]))
    mine = row(feed(model, [idx]))
    assert_same(row(feed(model, [other])), mine, "beside other rows")
    assert_close(row(feed(model, [idx[:1]])), mine, "alone")


@check("a trace does not depend on other episodes or on what memory holds")
def episodes(mixer):
    model, mine = build(mixer), episode(3 * CHUNK, seed=5)
    strip = lambda state: {k: v for k, v in state["traces"][len(state["traces"]) - 3:].as_dict().items()
                           if k != "episode"}
    alone = strip(feed(model, [mine])[1])
    befores = [streams(1, 6 * CHUNK, seed) for seed in (1, 2, 3)]
    together = [strip(feed(model, [torch.cat([before, mine], dim=1)])[1]) for before in befores]
    for got in together:
        assert_same(got, together[0], "after other episodes of the same length")
        assert_close(got, alone, "after other episodes", 1e-12)
    for before in befores:
        state = feed(model, [before])[1]
        assert_close(strip(feed(model, [mine], state)[1]), alone, "with traces in memory", 1e-12)
        state = {**state, "traces": state["traces"][:2]}
        assert_close(strip(feed(model, [mine], state)[1]), alone, "with some traces forgotten", 1e-12)
        assert_close(strip(model.encode(mine, state)), alone, "by the trunk alone", 1e-12)
    for at in (CHUNK, 2 * CHUNK, 3 * CHUNK):
        parts = mine.split(at, dim=1)
        state = model.empty_state(1, segment=at)
        for part in parts:
            state = model.encode(part, state)
        assert_close(strip(state), alone, f"from its beginning, by {at} slots, without an empty window", 1e-12)


# memory -------------------------------------------------------------------------------------------------------------


@check("an empty state, and one whose traces are emptied, are no memory")
def empty_memory(mixer):
    model, idx = build(mixer), episode(CHUNK - 1, seed=2)
    nothing = feed(model, [idx], read=False)[0]
    assert_same(feed(model, [idx])[0], nothing, "logits of an empty state")
    past = feed(model, [streams(1, 4 * CHUNK)])[1]
    full = feed(model, [idx], past)[0]
    assert differs(full, nothing), "memory makes no difference at all"
    assert_close(feed(model, [idx], past, read=False)[0], nothing, "read=False")
    assert_close(feed(model, [idx], forget_rows(past, torch.tensor([True])))[0], nothing, "forgotten")
    assert_same(feed(model, [idx], forget_rows(past, torch.tensor([False])))[0], full, "not forgotten")


@check("a trace is seen only after its chunk has closed")
def visibility(mixer):
    model, idx = build(mixer), episode(3 * CHUNK, seed=3)
    with_memory, without = feed(model, [idx])[0], feed(model, [idx], read=False)[0]
    assert_close(with_memory[:, :CHUNK], without[:, :CHUNK], "first chunk")
    for t in (CHUNK, CHUNK + 1, 2 * CHUNK):
        assert differs(with_memory[:, t], without[:, t]), f"the first trace is not seen at {t}"
    single = feed(model, idx.split(1, dim=1))[0]
    assert_close(single, with_memory, "token by token")


@check("reading the selected traces only is reading all, where all that can be seen are selected")
def sparse(mixer):
    model, idx = build(mixer), streams(2, 4 * CHUNK + 2, seed=4)
    state = feed(model, [streams(2, 12 * CHUNK)])[1]
    keep = torch.arange(12) % 3 == 0   # 4 of the 12 are left, and 4 come with idx
    traces = state["traces"].as_dict()
    traces["valid"] = traces["valid"] * keep
    state = {**state, "traces": type(state["traces"])(**traces)}
    dense, after = feed(model, [idx], state)
    model.config.read_topk = 8
    got, after_sparse = feed(model, [idx], state)
    assert_close(got, dense, "logits")
    assert_close(after_sparse, after, "state")
    model.config.read_topk = 1
    assert differs(feed(model, [idx], state)[0], dense), "the sparse path was not taken"


@check("a question turn is not remembered, however it is cut")
def question_turns(mixer):
    model = build(mixer)
    asked = torch.tensor([[BOS, USER, *range(17), ASSISTANT, 50, 51, 52]])
    idx = torch.cat([episode(20, seed=3), torch.full((1, 12), PAD), asked], dim=1)
    idx = torch.cat([idx, torch.full((1, -idx.shape[1] % CHUNK), PAD), episode(CHUNK, seed=4)], dim=1)
    for cuts in ([], [32], [48], [33, 47, 48, 51, 64]):
        state = feed(model, idx.tensor_split(cuts, dim=1))[1]
        assert state["traces"].valid[0].tolist() == [16, 4, 0, 0, 16], cuts


# training -----------------------------------------------------------------------------------------------------------


def lesson(seed):
    """A training segment of two rows: ids, targets."""
    ids = streams(2, 4 * CHUNK, seed)
    targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], PAD)], dim=1)
    targets[targets >= ORDINARY] = -1
    return ids, targets


def train(model, parameters, seed, state):
    """
    (total loss, state) of one segment, computed with a copy of the parameters, so that gradients tell which segment
    they reach.
    """
    return torch.func.functional_call(model, parameters, (*lesson(seed), state))


def copies(model, n):
    return [{name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()} for _ in range(n)]


def reached(loss, parameters):
    """Names of the parameters that a loss has a gradient in."""
    grads = torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
    assert all(torch.isfinite(g).all() for g in grads if g is not None), "a gradient is not finite"
    return {name for name, g in zip(parameters, grads) if g is not None and g.abs().max() > 0}


@check("the gradient reaches what earlier segments wrote, up to detach_state and not past it")
def horizon(mixer):
    model = build(mixer, read_reach=64)
    first, second, third = copies(model, 3)
    _, state = train(model, first, 1, model.empty_state(2))
    loss, state = train(model, second, 2, state)
    write_side = {"wte.weight", "gist_value.weight", "gist_gate.weight", "gist_slot", "index_k.0.weight",
                  "index_k.1.weight", "blocks.0.attn.k.weight", "blocks.1.mlp.fc.weight"}
    got = reached(loss, first)
    assert write_side <= got, f"no gradient in {sorted(write_side - got)} of the segment before"
    assert "lm_head.weight" not in got and "lm_head.weight" in reached(loss, second)
    state = detach_state(state)
    assert not any(t.requires_grad for t in leaves(state))
    loss, state = train(model, third, 3, state)
    assert not reached(loss, first) and not reached(loss, second), "the gradient went past detach_state"
    assert write_side <= reached(loss, third), "no gradient within the segment"
    assert len(detach_state(state, max_traces=5)["traces"]) == 5


@check("the gradient of a window of segments is the sum of theirs, and windows follow one another")
def windows(mixer):
    model = build(mixer)
    state = model.empty_state(2)
    for window in range(2):
        losses, parameters = [], copies(model, 1)[0]
        for segment in range(3):
            loss, state = train(model, parameters, 3 * window + segment, state)
            losses.append(loss)
        grads = [torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
                 for loss in losses]
        sum(losses).backward()
        for (name, p), *parts in zip(parameters.items(), *grads):
            total = sum((g for g in parts if g is not None), torch.zeros_like(p))
            assert_close(p.grad if p.grad is not None else torch.zeros_like(p), total, f"gradient of {name}")
        stale, state = state, detach_state(state)
    loss, _ = train(model, parameters, 9, stale)
    try:
        loss.backward()
    except RuntimeError:
        return
    raise AssertionError("without detach_state the second backward must fail, or it would not be the boundary")


# the state as a file ------------------------------------------------------------------------------------------------


def lived(mixer, dtype):
    """A model, its facts and a state of one row with 9 traces and an open chunk that begins an episode."""
    model = build(mixer, dtype)
    state = feed(model, [torch.cat([streams(1, 9 * CHUNK), episode(5, seed=8)], dim=1)])[1]
    state["traces"] = replace(state["traces"], words=torch.randint_like(state["traces"].words, 2 ** 16))
    return model, {"weights": weights_digest(model.state_dict()), "tokenizer": "f00d" * 16}, state


def save_state(path, state, model, facts, sources=()):
    """A state of one row as a file; sources: (name, line) or None of the first episodes."""
    lengths = state["traces"].episode[0].bincount(minlength=int(state["episode"]) + 1)[1:].tolist()
    rows = [(*at, -1) if at else (None, -1, -1) for at in [*sources, *[None] * len(lengths)][:len(lengths)]]
    mine = identity(model, facts)
    with Writer(path, mine, anew=True) as memory:
        memory.rewrite(Content(mine, buffer=state["buffer"][0].numpy()).extended(lengths, rows, []),
                       [Layout(mine["geometry"]).pack(state["traces"])])


@check("a saved state comes back, rounded once to the precision of a record, with the same answers")
def state_file(mixer):
    for dtype in (torch.bfloat16, torch.float32):
        model, facts, state = lived(mixer, dtype)
        count = int(state["episode"])
        sources = [("notes.txt", 1), None][:count]
        with tempfile.TemporaryDirectory() as directory:
            path, again = Path(directory) / "S.pt", Path(directory) / "again.pt"
            save_state(path, state, model, facts, sources)
            loaded, table = load_state(path, model, facts)
            save_state(again, loaded, model, facts, table)
            # bf16 has 8 bits: 126 may come back as 127
            for suffix in (".pt", ".traces") if dtype == torch.float32 else ():
                assert (again.with_suffix(suffix).read_bytes()
                        == path.with_suffix(suffix).read_bytes()), "saved again, it is another file"
        assert table == sources + [None] * (count - len(sources)) and int(loaded["episode"]) == count
        rounded = Layout(geometry(model)).rounded(state["traces"])
        assert_same(loaded["traces"][:len(rounded)], rounded, "traces")
        for name, most in (("words", 0), ("index", 0.02), ("gist", 0.4)):
            assert_close(getattr(rounded, name), getattr(state["traces"], name), f"rounding of {name}", most)
        assert_same(loaded["buffer"], state["buffer"], "buffer")
        kept = {**state, "traces": rounded}
        more = streams(1, 30, seed=6)[:, 1:]
        # selected by search, or by scoring everything: a score may differ in its last bits
        assert_close(feed(model, [more], loaded)[0], feed(model, [more], kept)[0], "what comes after", 1e-4)
        question = episode(9, seed=11)
        closed = lambda s: {**model.empty_state(1), "traces": s["traces"], "episode": s["episode"]}
        assert_close(feed(model, [question], closed(loaded))[0], feed(model, [question], closed(kept))[0], "answer",
                     1e-4)


@check("a state file that is damaged or of another model is refused in one line", mixers=())
def refused():
    model, facts, state = lived("swa", torch.bfloat16)
    wider, farther = build("swa", torch.bfloat16, gist_dim=24), build("swa", torch.bfloat16, window=48)
    with tempfile.TemporaryDirectory() as directory:
        good, bad = Path(directory) / "S.pt", Path(directory) / "bad.pt"
        save_state(good, state, model, facts)
        data = good.read_bytes()

        def refusal(path, *model_and_facts):
            try:
                load_state(path, *model_and_facts)
            except UserError as error:
                assert "\n" not in str(error) and str(path) in str(error)
                return str(error)
            raise AssertionError("not refused")

        def refusal_of(content):
            bad.write_bytes(content)
            bad.with_suffix(".traces").write_bytes(good.with_suffix(".traces").read_bytes())
            return refusal(bad, model, facts)

        assert "other weights" in refusal(good, model, {**facts, "weights": "0" * 64})
        assert "another tokenizer" in refusal(good, model, {**facts, "tokenizer": "0" * 64})
        assert "gist is [1, 16, 4] there, [1, 24, 4] here" in refusal(good, wider, facts)
        assert "another configuration" in refusal(good, farther, facts)
        assert "no such state file" in refusal(Path(directory) / "none.pt", model, facts)
        assert "no such state file" in refusal(Path(directory), model, facts)
        assert "not a Live Memory state" in refusal_of(b"t=1: a text") and "not a Live Memory state" in refusal_of(b"")
        torch.save({"format": "live-memory-checkpoint", "version": 1}, bad)
        assert "not a Live Memory state" in refusal(bad, model, facts)
        torch.save({"format": "live-memory-state", "version": 99}, bad)
        assert "version 99" in refusal(bad, model, facts)
        torch.save({"format": "live-memory-state", "version": VERSION, "sha256": 1}, bad)
        assert "damaged" in refusal(bad, model, facts)
        torch.save({"format": "live-memory-state", "run": print}, bad)
        assert "more than plain data" in refusal(bad, model, facts)
        for length in range(4, len(data), len(data) // 40):
            assert "damaged" in refusal_of(data[:length])
        rng, harmless = random.Random(0), 0
        for _ in range(150):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            bad.write_bytes(flipped)
            try:
                plain = lambda state: {**state, "traces": state["traces"][:len(state["traces"])]}
                assert_same(plain(load_state(bad, model, facts)[0]), plain(load_state(good, model, facts)[0]),
                            "a flipped bit was not seen")
                harmless += 1   # in the padding between the parts of the file
            except UserError:
                pass
        assert harmless < 75


# --------------------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc):
    metafunc.parametrize("title", CHECKS)


def test_live_memory(title):
    CHECKS[title]()


def main():
    torch.set_num_threads(1)
    failed = 0
    for title, run in CHECKS.items():
        seed_everything(1234)
        try:
            run()
            print(f"OK  {title}", flush=True)
        except ModuleNotFoundError as error:
            print(f"--  {title}: not checked, needs {error.name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {title}", flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
