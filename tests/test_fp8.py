"""fp8: close to bf16 forward and backward, nothing else changes. On the CPU; no GPU has run it."""
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanochat import fp8
from nanochat.common import UserError
from nanochat.gpt import GPT, THENGPT, GPTConfig, THENConfig
from nanochat.layers import Adapter, Linear


def model_of(cls=THENGPT, **more):
    config = (THENConfig if cls is THENGPT
              else GPTConfig)(vocab_size=64, n_layer=4, n_head=2, n_kv_head=2, n_embd=32, **more)
    model = cls(config)
    torch.manual_seed(0)
    model.init_weights()
    model.dtype = torch.bfloat16
    return model


def error(a, b):
    return ((a - b).float().norm() / b.float().norm()).item()


@pytest.mark.parametrize("recipe, bound", [("tensorwise", 0.06), ("rowwise", 0.06)])
def test_products_and_gradients_are_close(recipe, bound):
    exact = Linear(48, 64)
    scaled = Linear(48, 64)
    torch.nn.init.normal_(exact.weight, std=0.1)
    scaled.load_state_dict(exact.state_dict())
    scaled.__class__, scaled.rowwise = fp8.Float8Linear, recipe == "rowwise"
    for linear in (exact, scaled):   # an adapter is added to either
        linear.adapter = Adapter(48, 64, 16)
        linear.adapter.on = True
        torch.nn.init.ones_(linear.adapter.up)
        torch.nn.init.constant_(linear.adapter.down, 0.1)
    x = (torch.randn(2, 16, 48) * torch.logspace(-2, 2, 48)).to(torch.bfloat16)
    xs = [x.clone().requires_grad_() for _ in range(2)]
    dy = torch.randn(2, 16, 64, dtype=torch.bfloat16)
    ys = [f(x) for f, x in zip((exact, scaled), xs)]
    for y in ys:
        y.backward(dy)
    assert ys[1].dtype == torch.bfloat16 and 1e-4 < error(ys[1], ys[0]) < bound   # it is fp8, and it is near
    assert error(xs[1].grad, xs[0].grad) < 2 * bound and error(scaled.weight.grad, exact.weight.grad) < 2 * bound
    assert scaled.weight.grad.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(scaled(x), exact(x))   # evaluation: bf16, to the bit


def test_rowwise_keeps_what_one_scale_would_lose():
    x = torch.ones(32, 32)
    x[0] *= 1e-8
    x[1] *= 1e4
    near = {}
    for rowwise in (False, True):
        y = fp8.product(x, torch.eye(32), torch.float8_e4m3fn, torch.float8_e4m3fn, rowwise, torch.float32)
        near[rowwise] = error(y[0], x[0])
    assert near[False] == 1 and near[True] < 0.05


@pytest.mark.parametrize("value", [0.0, 1e-30, 3e38, -3e38])
@pytest.mark.parametrize("dim", [None, 1])
def test_quantize_never_overflows(value, dim):
    x = torch.full((16, 16), value)
    q, scale = fp8.quantize(x, torch.float8_e4m3fn, dim)
    back = q.float() * scale
    assert torch.isfinite(back).all() and (value != 0 or not back.any())
    assert (abs(value) < 1 or (back / x - 1).abs().max() < 0.07)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value):
    x = torch.ones(16, 16)
    x[3, 5] = value
    q, scale = fp8.quantize(x, torch.float8_e4m3fn)
    assert not torch.isfinite(q.float() * scale)[3, 5]


@pytest.mark.parametrize("mixer", ["swa", "kda"])
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_a_model_trains_in_fp8_and_nothing_else_changes(mixer, recipe):
    plain, model = model_of(write_mixer=mixer), model_of(write_mixer=mixer)
    fp8.convert(model, recipe)
    assert list(model.state_dict()) == list(plain.state_dict()) and model.parameter_table() == plain.parameter_table()
    assert [len(g["params"]) for g in model.parameter_groups()] == [len(g["params"]) for g in plain.parameter_groups()]
    kept = {name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, Linear) and type(m) is Linear}
    changed = {name.split(".")[-1] for name, m in model.named_modules() if type(m) is fp8.Float8Linear}
    assert changed == {"q", "k", "v", "proj", "fc"}
    assert {"lm_head", "gist_value", "index_q", "index_w", "memory_k"} <= kept
    idx = torch.randint(0, 60, (2, 64))
    flops, losses = [], []
    for m in (plain, model):
        torch.manual_seed(1)
        with FlopCounterMode(display=False) as counter:
            loss, _ = m(idx, idx)
            loss.backward()
        flops.append(counter.get_total_flops())
        losses.append(loss)
    assert flops[0] == flops[1]
    assert losses[0] != losses[1] and error(losses[1], losses[0]) < 0.05
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        assert torch.equal(model(idx)[0], plain(idx)[0])


def test_refusals(monkeypatch):
    with pytest.raises(UserError, match="SM 8.9"):
        fp8.check(torch.device("cpu"), torch.bfloat16, "tensorwise")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    fp8.check(torch.device("cuda"), torch.bfloat16, "tensorwise")
    with pytest.raises(UserError, match="this GPU is SM 8.9"):
        fp8.check(torch.device("cuda"), torch.bfloat16, "rowwise")
    with pytest.raises(UserError, match="--dtype bf16"):
        fp8.check(torch.device("cuda"), torch.float16, "tensorwise")
    model = GPT(GPTConfig(vocab_size=64, n_layer=1, n_head=2, n_kv_head=2, n_embd=40))
    with pytest.raises(UserError, match="multiples of 16"):
        fp8.convert(model)
    odd = Linear(32, 32)
    odd.__class__ = fp8.Float8Linear
    with pytest.raises(ValueError, match="17 tokens"):
        odd(torch.randn(17, 32))
