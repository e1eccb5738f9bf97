"""
Layers: the joint softmax of a read layer over window, memory and sink loses no gradient, towards what is read nor
towards how much of it is; the norm, written out, is RMSNorm.
"""
import pytest
import torch
import torch.nn.functional as F

from nanochat.gpt import THENGPT, THENConfig
from nanochat.layers import ReluSquared, norm
from nanochat.state import Traces


@pytest.mark.parametrize("topk", [8, 2])   # all traces in one matrix; selected ones gathered for each query
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_gradients_of_the_joint_softmax(topk, n_kv_head):
    model = THENGPT(THENConfig(vocab_size=64, n_layer=2, ratio=1, n_head=2, n_kv_head=n_kv_head, n_embd=8, window=16,
                               n_ordinary=60, bos_id=60, pad_id=63, gist_dim=4,
                               index_dim=4, read_topk=topk)).double()
    model.init_weights()
    model.dtype = torch.float64
    attn = model.blocks[1].attn
    torch.nn.init.normal_(attn.proj.weight)   # it starts at zero
    torch.nn.init.normal_(attn.sink)
    state = model.empty_state(1)
    local = model.local_context(torch.randint(0, 60, (1, 16)), state)[0]
    traces = state["traces"].map(lambda t: t.new_zeros(1, 3, *t.shape[2:])).as_dict()
    traces["index"] = torch.randn(1, 3, 1, 4, dtype=torch.float64)
    visible = torch.ones(1, 16, 3, dtype=torch.bool)
    visible[0, :5, 1:] = False

    def layer(x, gist, sink, k, v):
        return torch.func.functional_call(attn, {"sink": sink},
                                          (x, local, [k, v], {"traces": Traces(**{**traces, "gist": gist}),
                                                              "visible": lambda begin: visible[:, begin:],
                                                              "training": None}))[0]

    new = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    inputs = new(1, 16, 8), new(1, 3, 4), new(2, 4), new(1, 16, n_kv_head, 4), new(1, 16, n_kv_head, 4)
    local["mask"] = torch.ones_like(local["mask"])   # the carried window is seen as well
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_norm_in_bf16_is_the_norm_rounded_once(width):
    x = (torch.randn(500, width) * torch.logspace(-2, 4, 500)[:, None]).bfloat16()
    exact = F.rms_norm(x.double(), (width,), eps=torch.finfo(torch.float32).eps)
    y = norm(x).double()
    assert ((y - exact).abs() <= 2 ** -8 * exact.abs()).all()
    assert ((y.norm(dim=-1) / exact.norm(dim=-1) - 1).abs() <= 2 ** -8).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2),
                                              (torch.float16, 2e-3)])
def test_norm_is_rms_norm_and_knows_zeros(dtype, tolerance):
    x = torch.randn(5, 3, 64, dtype=dtype)
    x[0] *= 1e-3
    x[1] = 0
    grads, outs, weight = [], [], torch.randn(5, 3, 64, dtype=dtype)
    for f in (norm, lambda x: F.rms_norm(x, (64,), eps=torch.finfo(torch.float32).eps)):
        at = x.clone().requires_grad_()
        outs.append(f(at))
        (outs[-1] * weight).sum().backward()
        grads.append(at.grad)
    torch.testing.assert_close(outs[0], outs[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grads[0], grads[1], rtol=4 * tolerance, atol=4 * tolerance * float(grads[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_relu_squared_is_what_autograd_makes_of_it(dtype):
    x, weight = torch.randn(7, 50).to(dtype), torch.randn(7, 50).to(dtype)
    x[0, :5] = 0
    grads, outs = [], []
    for f in (ReluSquared.apply, lambda x: F.relu(x) * F.relu(x)):
        at = x.clone().requires_grad_()
        outs.append(f(at))
        (outs[-1] * weight).sum().backward()
        grads.append(at.grad)
    assert torch.equal(*outs) and torch.equal(*grads)
