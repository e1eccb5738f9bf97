"""
torch.compile: a stateful step is one graph, however its memory grows, and computes what the plain one does. Traced
here; no GPU has run the compiled code.
"""
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor

from nanochat import layers
from nanochat.common import UserError
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig
from nanochat.scaling import cost
from nanochat.tbptt import Window, compile_blocks, compile_window
from scripts.base_train import main
from tests.test_base_train import TINY
from tests.test_reading import build, losses, some_answer, some_columns


def tiny(mixer="swa", device="cpu"):
    with torch.device(device):
        model = THENGPT(THENConfig(vocab_size=64, n_layer=2, ratio=1, n_head=2, n_kv_head=2, n_embd=32,
                                   write_mixer=mixer, n_ordinary=60, bos_id=60, user_id=61,
                                   assistant_id=62, pad_id=63, gist_dim=16, index_dim=8))
    if device == "cpu":
        torch.manual_seed(0)
        model.init_weights()
    return model


def batch(B=2, T=32, new_lives=(False, False)):
    idx = torch.randint(0, 60, (B, T))
    idx[:, ::16] = 60
    return {"ids": idx, "targets": torch.where(idx < 60, idx, -1), "new_life": torch.tensor(new_lives)}


@pytest.mark.parametrize("mixer", ["swa", "kda"])
def test_twenty_steps_with_growing_memory_are_one_graph(mixer):
    torch._dynamo.reset()
    model, counter = tiny(mixer), CompileCounter()
    fixed, growing = Window(model, {"text": 0.3}, 24, fixed=True), Window(model, {"text": 0.3}, 24)
    compiled = compile_window(fixed, backend=counter)
    one, two = fixed.begin(model.empty_state(2)), model.empty_state(2)
    filled = []
    for step in range(20):
        segments, losses = [batch(new_lives=(step == 3, step == 17))], []
        for window, state in ((compiled, one), (growing, two)):
            torch.manual_seed(step)   # both draw the same positions
            loss, _, state = window(segments, state)
            loss.backward()
            losses.append(loss.item())
            one, two = (state, two) if window is compiled else (one, state)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), step
        assert len(one["traces"]) == 24
        filled.append(int((one["traces"].valid > 0).sum()))
    assert counter.frame_count == 1
    assert filled[:3] == sorted(filled[:3])
    assert filled[0] < filled[2] <= max(filled) == 48   # it has grown until it was full


def test_windows_and_answers_of_every_length_are_one_graph_each_with_the_gradients_of_the_plain_blocks():
    torch._dynamo.reset()
    counter, plain, compiled = CompileCounter(), *(build().requires_grad_(True) for _ in range(2))
    compile_blocks(compiled, backend=counter)
    for lengths in ((7, 4), (9, 3, 5), (20,)):
        columns = [some_columns(seed, 5, lengths) for seed in (1, 2, 3)]
        answers = [some_answer(c, 7, len(lengths) + 1) for c in columns]
        for model in (plain, compiled):
            model.zero_grad()
            losses(model, columns, answers)[0]["read"].backward()
        for (name, p), q in zip(plain.named_parameters(), compiled.parameters()):
            assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.allclose(p.grad, q.grad)), name
    assert counter.frame_count == 2


def test_attention_over_a_short_window_in_bf16_is_that_of_a_long_one(monkeypatch):
    model = tiny()
    torch.nn.init.normal_(model.blocks[0].attn.proj.weight)   # it begins with zeros
    x, (cos, sin) = torch.randn(2, 24, 32, requires_grad=True), model.rotary(torch.arange(24)[None])
    mask = torch.zeros(2, 1, 1, 24)
    mask[1, ..., 20:] = float("-inf")

    def out_and_gradient(dtype):
        y, _ = model.blocks[0].attn.over(x.to(dtype), cos.to(dtype), sin.to(dtype), mask.to(dtype))
        return y, torch.autograd.grad(y.float().square().sum(), x)[0]

    exact, short = out_and_gradient(torch.float32), out_and_gradient(torch.bfloat16)
    monkeypatch.setattr(layers, "SHORT", 0)
    for a, b, c in zip(exact, short, out_and_gradient(torch.bfloat16)):
        assert not torch.equal(b, c)   # they are computed differently
        assert all(torch.allclose(a, other.float(), atol=0.03 * a.abs().max().item()) for other in (b, c))


@pytest.mark.parametrize("flags, words", [(["--fsdp"], "--compile yes with --fsdp"), ([], "install g[+][+]")])
def test_what_cannot_be_compiled_is_said_before_anything_is_set_up(flags, words):
    with inductor.patch({"cpp.cxx": ("nothing-of-this-name",)}), pytest.raises(UserError, match=words):
        main([*TINY, "--compile", "yes", *flags])


def test_a_state_with_more_traces_keeps_the_newest():
    """A run that goes on with a smaller --train-memory."""
    model = tiny()
    state = model.encode(batch(T=128)["ids"], model.empty_state(2))
    for room in (3, 8, 12):
        traces = Window(model, {}, room, fixed=True).begin(state)["traces"]
        kept = min(room, 8)
        assert len(traces) == room and torch.equal(traces.ids[:, room - kept:], state["traces"].ids[:, 8 - kept:])
        assert not traces.valid[:, :room - kept].any()


@pytest.mark.slow
def test_what_a_growing_shape_would_cost():
    """The counter above can count: without room from the beginning, a step is not one graph."""
    torch._dynamo.reset()
    model, counter = tiny(), CompileCounter()
    window = Window(model, {}, 24)
    compiled, state = torch.compile(window, backend=counter, dynamic=False), model.empty_state(2)
    for _ in range(3):
        state = compiled([batch()], state)[2]
    assert counter.frame_count > 1


def test_cost_on_meta_is_the_cost():
    """What --dry-run counts without computing is what a real window takes, to the byte and the FLOP."""
    costs = [cost(Window(tiny(device=device), {"text": 0.3}, 24, fixed=True), 2, 32, 2) for device in ("meta", "cpu")]
    assert costs[0] == costs[1]
    model = tiny()
    parameters = sum(p.numel() for p in model.parameters())
    assert costs[0].weights == 4 * parameters and 4 * parameters < costs[0].optimizer < 8 * parameters
    larger = cost(Window(tiny(device="meta"), {"text": 0.3}, 24, fixed=True), 4, 32, 2)
    assert larger.flops == 2 * costs[0].flops and larger.state == 2 * costs[0].state
    assert costs[0].activations < larger.activations < 2 * costs[0].activations


def test_flops_of_a_plain_gpt():
    """
    Six for each parameter that multiplies and token, and attention: 12 x width x slots a layer and token (half of it
    masked).
    """
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=128, n_layer=2, n_head=2, n_kv_head=2, n_embd=64))
    T, matrices = 64, sum(p.numel() for p in model.parameters()) - model.wte.weight.numel()
    found = cost(Window(model, {}, 0), 3, T, 1).flops / (3 * T)
    assert found == pytest.approx(6 * matrices + 2 * 12 * 64 * T, rel=0.15)


def test_dry_run_says_what_a_run_takes(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert main([*TINY, "--dry-run", "--num-iterations", "10", "--data-dir", "nowhere", "--fp8"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("reading head", "tokens a step 256, steps 10, tokens 2,560", "FLOPs a token",
                                        "activations", "hours on one device", "an assumption"))
    assert not list(tmp_path.iterdir())
