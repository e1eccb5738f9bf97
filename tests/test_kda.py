import pytest
import torch
from hypothesis import given, settings, strategies as st

from nanochat.kda import CHUNK, kda_chunk, kda_gate, kda_naive, kda_step, short_conv


def make(T, dtype=torch.float64, seed=0, g=None, beta=None, B=2, H=3, Dk=8, Dv=12):
    """q, k, v, g, beta, state; g and beta over their whole range, or constant."""
    rng = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=rng, dtype=torch.float64)
    normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
    q, k = (torch.nn.functional.normalize(normal(B, T, H, Dk), dim=-1) for _ in range(2))
    gates = -5 * rand(B, T, H, Dk) if g is None else torch.full((B, T, H, Dk), g)
    betas = rand(B, T, H) if beta is None else torch.full((B, T, H), beta)
    state = normal(B, H, Dk, Dv).to(torch.promote_types(dtype, torch.float32))
    return [x.to(dtype) for x in (q, k, normal(B, T, H, Dv), gates, betas)] + [state]


def cut(inputs, start, stop):
    return [x[:, start:stop] for x in inputs[:5]]


def steps(q, k, v, g, beta, state=None, reset=None):
    assert reset is None
    outputs = []
    for t in range(q.shape[1]):
        o, state = kda_step(*cut([q, k, v, g, beta], t, t + 1), state)
        outputs.append(o)
    return torch.cat(outputs, 1), state


def outputs_and_grads(form, inputs, reset=None, scale=1.0):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    results = form(*inputs, reset=reset)
    rng = torch.Generator().manual_seed(7)
    loss = sum((r * torch.randn(r.shape, generator=rng, dtype=torch.float64).to(r.dtype)).sum() for r in results)
    return [*results, *torch.autograd.grad(loss * scale, inputs)]


def relative_rms(a, b):
    a, b = a.double(), b.double()
    return ((a - b).square().mean() / b.square().mean().clamp_min(1e-300)).sqrt().item()


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("num_chunks", [1, 2, 7])  # 7: a whole group of chunks and a part of one
def test_forms_agree(num_chunks, with_reset):
    inputs = make(num_chunks * CHUNK)
    reset = torch.rand(2, num_chunks, generator=torch.Generator().manual_seed(1)) < 0.5 if with_reset else None
    expected = outputs_and_grads(kda_naive, inputs, reset)
    forms = [kda_chunk] if with_reset else [kda_chunk, steps]
    for form in forms:
        for got, want in zip(outputs_and_grads(form, inputs, reset), expected, strict=True):
            assert got.dtype == torch.float64
            torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_recurrence_is_the_paper_s():
    """Equation 1 with explicit matrices, for one head."""
    q, k, v, g, beta, state = make(5, B=1, H=1)
    S = state[0, 0]
    for t in range(5):
        kt, bt = k[0, t, 0], beta[0, t, 0]
        S = (torch.eye(8) - bt * torch.outer(kt,
                                             kt)) @ torch.diag(g[0, t, 0].exp()) @ S + bt * torch.outer(kt, v[0, t, 0])
    o, got = kda_naive(q, k, v, g, beta, state)
    torch.testing.assert_close(got[0, 0], S)
    torch.testing.assert_close(o[0, -1, 0], S.T @ q[0, -1, 0] / 8**0.5)


def test_absent_state_is_zeros():
    inputs = make(CHUNK)
    zeros = torch.zeros_like(inputs[5])
    for form in (kda_naive, kda_chunk):
        for got, want in zip(form(*inputs[:5]), form(*inputs[:5], zeros)):
            assert torch.equal(got, want)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 7), max_size=4), st.integers(0, 99))
def test_any_split_is_the_whole(cuts, seed):
    inputs = make(8 * CHUNK, seed=seed)
    reset = torch.rand(2, 8, generator=torch.Generator().manual_seed(seed)) < 0.3
    whole = outputs_and_grads(kda_chunk, inputs, reset)
    bounds = [0, *sorted(set(cuts)), 8]

    def in_parts(*args, reset):
        state, parts = args[5], []
        for a, b in zip(bounds, bounds[1:]):
            o, state = kda_chunk(*cut(args, a * CHUNK, b * CHUNK), state, reset[:, a:b])
            parts.append(o)
        return torch.cat(parts, 1), state

    for got, want in zip(outputs_and_grads(in_parts, inputs, reset), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", [kda_naive, kda_chunk])
def test_reset_is_separate_sequences(form):
    """To the bit: nothing of one episode, not even a NaN, is in the next."""
    inputs = make(4 * CHUNK)
    reset = torch.tensor([[False, False, True, False], [True, False, False, False]])
    o, state = form(*inputs, reset)
    second, second_state = form(*cut(inputs, 2 * CHUNK, 4 * CHUNK))
    assert torch.equal(o[0, 2 * CHUNK :], second[0]) and torch.equal(state[0], second_state[0])
    alone, alone_state = form(*inputs[:5])
    assert torch.equal(o[1], alone[1]) and torch.equal(state[1], alone_state[1])
    inputs[2][0, 3] = torch.nan
    poisoned, poisoned_state = form(*inputs, reset)
    assert torch.equal(poisoned[0, 2 * CHUNK :], second[0]) and torch.equal(poisoned_state[0], second_state[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [kda_naive, kda_chunk])
def test_causal_to_the_bit(form, dtype):
    inputs = make(3 * CHUNK, dtype)
    o, _ = form(*inputs)
    for t in (1, 15, 16, 25, 47):
        other = make(3 * CHUNK, dtype, seed=1)
        for x, y in zip(inputs[:5], other):
            y[:, :t] = x[:, :t]
        assert torch.equal(form(*other[:5], inputs[5])[0][:, :t], o[:, :t])


@pytest.mark.parametrize("form", [kda_naive, kda_chunk])
def test_padding_leaves_the_state(form):
    inputs = make(3 * CHUNK, torch.float32)
    _, state = kda_naive(*cut(inputs, 0, 21), inputs[5])
    inputs[3][:, 21:] = 0
    inputs[4][:, 21:] = 0
    torch.testing.assert_close(form(*inputs)[1], state)
    *_, same = form(*cut(inputs, 32, 48), state)  # a chunk of nothing but padding changes nothing at all
    assert torch.equal(same, state)


@pytest.mark.parametrize("form", [kda_naive, kda_chunk])
def test_bfloat16(form):
    inputs = make(4 * CHUNK, torch.bfloat16)
    got = outputs_and_grads(form, inputs)
    want = outputs_and_grads(form, [x.float() for x in inputs])
    assert got[0].dtype == torch.bfloat16 and got[1].dtype == torch.float32
    assert [x.dtype for x in got[2:7]] == [torch.bfloat16] * 5
    assert max(relative_rms(a, b) for a, b in zip(got, want)) < 1e-2


def test_autocast_does_not_lower_the_precision():
    inputs = make(2 * CHUNK, torch.float32)
    for form in (kda_naive, kda_chunk):
        with torch.autocast("cpu", torch.bfloat16):
            o, state = form(*inputs)
        assert torch.equal(o, form(*inputs)[0]) and state.dtype == torch.float32


@pytest.mark.parametrize("beta", [0.0, 1.0, None])
@pytest.mark.parametrize("g", [-5.0, 0.0, None])
def test_extreme_gates(g, beta):
    inputs = make(12 * CHUNK, torch.float32, g=g, beta=beta)
    exact = outputs_and_grads(kda_naive, [x.double() for x in inputs])
    naive = outputs_and_grads(kda_naive, inputs)
    for got, want, true in zip(outputs_and_grads(kda_chunk, inputs), naive, exact, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        assert relative_rms(got, true) < 1e-4 or true.abs().max() < 1e-30


def test_small_gradients_survive_strong_decay():
    """A mean over many tokens makes gradients of 1e-8; times e^-80 they would leave fp32."""
    inputs = make(4 * CHUNK, torch.float32, g=-5.0)
    tiny = outputs_and_grads(kda_chunk, inputs, scale=1e-8)[2:7]
    for got, want in zip(tiny, outputs_and_grads(kda_chunk, inputs)[2:7]):
        assert relative_rms(got * 1e8, want) < 1e-4


def test_length_must_be_whole_chunks():
    with pytest.raises(ValueError, match="multiple of 16, got 20"):
        kda_chunk(*make(20))


def test_gate():
    x, A_log, dt_bias = torch.randn(2, 5, 3, 8) * 20, torch.randn(3), torch.randn(3, 8)
    g = kda_gate(x, A_log, dt_bias)
    assert g.shape == x.shape and -5 <= g.min() < -4 and -1 < g.max() <= 0
    expected = -5 * torch.sigmoid(A_log[2].exp() * (x[1, 4, 2, 7] + dt_bias[2, 7]))
    torch.testing.assert_close(g[1, 4, 2, 7], expected)


def conv_reference(x, weight, tail=None):
    tail = x.new_zeros(x.shape[0], 3, x.shape[2]) if tail is None else tail
    padded = torch.cat([tail, x], 1).transpose(1, 2)
    y = torch.nn.functional.conv1d(padded, weight[:, None], groups=x.shape[2])
    return torch.nn.functional.silu(y).transpose(1, 2)


def conv_inputs(T=64, D=6, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=rng, dtype=torch.float64).to(dtype) for s in ((2, T, D), (D, 4), (2, 3, D))]


def test_short_conv_reference_and_gradients():
    inputs = [x.requires_grad_() for x in conv_inputs()]
    got, tail = short_conv(*inputs)
    want = conv_reference(*inputs)
    torch.testing.assert_close(got, want)
    assert torch.equal(tail, inputs[0][:, -3:])
    dy = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, dy), torch.autograd.grad(want, inputs, dy)):
        torch.testing.assert_close(a, b)
    x, weight, tail = (x.detach().clone().requires_grad_() for x in conv_inputs(T=32, D=2))
    reset = torch.tensor([[False, True], [True, False]])
    assert torch.autograd.gradcheck(lambda *args: short_conv(*args, reset), (x, weight, tail))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 63), max_size=5))
def test_short_conv_any_split_is_the_whole(cuts):
    x, weight, tail = conv_inputs(dtype=torch.float32)
    whole, last = short_conv(x, weight, tail)
    parts = []
    for a, b in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 64]):
        y, tail = short_conv(x[:, a:b], weight, tail)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(tail, last)


def test_short_conv_reset_is_separate_sequences():
    x, weight, tail = conv_inputs()
    reset = torch.tensor([[False, False, True, False], [True, False, False, False]])
    y, _ = short_conv(x, weight, tail, reset)
    first, carried = short_conv(x[:, :32], weight, tail)
    assert torch.equal(y[0, :32], first[0])
    assert torch.equal(y[0, 32:], short_conv(x[:, 32:], weight)[0][0])
    assert torch.equal(y[1], short_conv(x, weight)[0][1])
    with pytest.raises(ValueError, match="multiple of 16"):
        short_conv(x[:, :20], weight, tail, reset[:, :1])


def test_short_conv_bfloat16():
    x, weight, tail = conv_inputs(dtype=torch.bfloat16)
    y, next_tail = short_conv(x, weight.float(), tail)
    assert y.dtype == next_tail.dtype == torch.bfloat16
    assert relative_rms(y, conv_reference(x.double(), weight.double(), tail.double())) < 1e-2
