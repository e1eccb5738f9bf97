"""nanochat/optim.py: AdamW is torch's, Muon's updates are orthogonal, a resumed run is the same run."""

import io
import re

import pytest
import torch

from nanochat.gpt import THENGPT, config_from_depth
from nanochat.optim import MuonAdamW, lr_multiplier, orthogonalize


def fill_grads(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)


def make(seed=0):
    """Two stacks of matrices, one tall and one wide, and an AdamW part."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(32, 16), (32, 16), (16, 48), (24, 8), (10,)]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    groups = [
        {"kind": "muon", "params": params[:3], "lr": 0.02, "weight_decay": 0.1},
        {"kind": "adamw", "params": params[3:], "lr": 0.003},
    ]
    return params, MuonAdamW(groups)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_part_is_torch_adamw(weight_decay):
    settings = dict(lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=weight_decay)
    start = [torch.randn(20, 30), torch.randn(7), torch.randn(3, 4, 5)]
    ours = [torch.nn.Parameter(t.clone()) for t in start]
    theirs = [torch.nn.Parameter(t.clone()) for t in start]
    a = MuonAdamW([{"kind": "adamw", "params": ours, **settings}])
    b = torch.optim.AdamW(theirs, foreach=False, **settings)
    for step in range(20):
        fill_grads(ours, step)
        fill_grads(theirs, step)
        if step % 3 == 0:  # its step count now lags behind the others'
            ours[1].grad = theirs[1].grad = None
        a.step()
        b.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)


def test_adamw_reads_a_gradient_of_another_layout():
    p, q = (torch.nn.Parameter(torch.ones(3, 5)) for _ in range(2))
    grad = torch.randn(5, 3)
    p.grad, q.grad = grad.T, grad.T.contiguous()
    MuonAdamW([{"kind": "adamw", "params": [p, q], "lr": 0.1}]).step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96), (1, 40)])
def test_orthogonalize_gives_singular_values_near_one(shape, dtype):
    U, S, Vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    G = (U * torch.logspace(0, -2, len(S))) @ Vh
    G = G * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)  # the scale must not matter
    X = orthogonalize(G, dtype)
    assert X.dtype == dtype and X.shape == G.shape
    values = torch.linalg.svdvals(X.float())
    assert 0.5 < values.min() and values.max() < 1.5
    overlap = (X.float() * (U @ Vh)).sum(dim=(1, 2)) / min(shape)
    assert (overlap > 0.8).all()


def test_a_stack_is_orthogonalized_matrix_by_matrix():
    G = torch.randn(4, 12, 20)
    G[2] = 0  # a layer that is not used yet
    together = orthogonalize(G, torch.float32)
    for x, g in zip(together, G):
        torch.testing.assert_close(x, orthogonalize(g[None], torch.float32)[0])
    assert torch.equal(together[2], torch.zeros(12, 20))


@pytest.mark.parametrize("shape, scale", [((64, 16), 2.0), ((16, 64), 1.0), ((32, 32), 1.0)])
def test_muon_update_is_near_orthogonal_and_scaled(shape, scale):
    p = torch.nn.Parameter(torch.randn(shape))
    before = p.detach().clone()
    fill_grads([p], 0)
    MuonAdamW([{"kind": "muon", "params": [p], "lr": 0.02}]).step()
    values = torch.linalg.svdvals((p.detach() - before) / (0.02 * scale))
    assert 0.5 < values.min() and values.max() < 1.5


def test_no_single_gradient_leads_what_follows():
    """Muon's updates are the same, however large the gradient of one of the steps is."""
    ends = []
    for size in (1.0, 1000.0, 0.001):
        p = torch.nn.Parameter(torch.zeros(12, 20))
        optimizer = MuonAdamW([{"kind": "muon", "params": [p], "lr": 0.02}])
        for step in range(6):
            fill_grads([p], step)
            p.grad *= size if step == 2 else 1.0
            optimizer.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[1], ends[0], atol=2e-4, rtol=0)   # of 0.08: the iteration may run in bf16
    torch.testing.assert_close(ends[2], ends[0], atol=2e-4, rtol=0)


def test_converges_on_least_squares():
    X = torch.randn(256, 16)
    target = X @ torch.randn(16, 8) + 3.0
    W, bias = torch.nn.Parameter(torch.zeros(8, 16)), torch.nn.Parameter(torch.zeros(8))
    optimizer = MuonAdamW([{"kind": "muon", "params": [W], "lr": 0.1}, {"kind": "adamw", "params": [bias], "lr": 0.2}])
    losses = []
    for step in range(200):
        optimizer.scale_lr(lr_multiplier(step, 200, 0, 100))
        loss = (X @ W.T + bias - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_resume_is_bit_identical():
    params, optimizer = make()
    for step in range(5):
        fill_grads(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, file)
    for step in range(5, 10):
        fill_grads(params, step)
        optimizer.step()

    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed, optimizer2 = make(seed=1)
    with torch.no_grad():
        for p, w in zip(resumed, saved["weights"]):
            p.copy_(w)
    optimizer2.load_state_dict(saved["optimizer"])
    for step in range(5, 10):
        fill_grads(resumed, step)
        optimizer2.step()

    assert all(torch.equal(p, q) for p, q in zip(params, resumed))
    one, two = optimizer.state_dict(), optimizer2.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for key, state in one["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(two["state"][key][name]))


def test_parameters_without_gradient_are_left_alone():
    params, optimizer = make()
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before)) and not optimizer.state
    fill_grads(params[:1] + params[3:4], 0)
    optimizer.step()
    assert [not torch.equal(p, b) for p, b in zip(params, before)] == [True, False, False, True, False]


def test_each_group_has_its_own_rate_and_the_multiplier_scales_it():
    params, optimizer = make()
    optimizer.scale_lr(0.5)
    optimizer.scale_lr(0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.0015]
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = 0.0
    fill_grads(params, 0)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params[:3], before))
    assert not torch.equal(params[3], before[3])


@pytest.mark.parametrize(
    "group, message",
    [
        ({"lr": 0.1}, "needs kind"),
        ({"kind": "muon"}, "needs an lr"),
        ({"kind": "muon", "lr": 0.1, "betas": (0, 0)}, "unknown settings in a muon group: betas"),
        ({"kind": "muon", "lr": 0.1, "params": [torch.nn.Parameter(torch.ones(3))]}, r"takes matrices.*\(3,\)"),
    ],
)
def test_malformed_groups_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.ones(2, 2))], **group}])


@pytest.mark.parametrize("mixer", ["swa", "kda"])
def test_groups_do_not_depend_on_sizes(mixer):
    """A weight is in the same group at whatever depth, however many heads there are, and in a model that is tiny."""
    groups = {}
    tiny = dict(n_embd=16, n_head=2, n_kv_head=2, gist_dim=8, index_dim=2)
    sizes = [(depth, {}) for depth in (2, 4, 8, 12, 16, 20)] + [(4, tiny)]
    for depth, fields in sizes:
        with torch.device("meta"):
            model = THENGPT(config_from_depth("THENGPT", depth, write_mixer=mixer, **fields))
        names = {id(p): re.sub(r"blocks\.\d+", "blocks", name) for name, p in model.named_parameters()
                 if p.requires_grad}
        for i, group in enumerate(model.parameter_groups()):
            for p in group["params"]:
                groups.setdefault(names.pop(id(p)), set()).add(i)
        assert not names   # all are in one
    assert all(len(found) == 1 for found in groups.values()), groups
    for name in ("attn.q", "attn.proj", "mlp.fc", "attn.index_q", "attn.memory_k"):
        assert groups[f"blocks.{name}.weight"] == {0}


# -----------------------------------------------------------------------------


@pytest.mark.parametrize("position, expected",
                         [(-1, 0), (0, 0), (5, 0.5), (10, 1), (60, 1), (80, 0.55), (100, 0.1), (200, 0.1)])
def test_schedule_in_any_unit(position, expected):
    assert lr_multiplier(position, 100, 10, 40, final=0.1) == pytest.approx(expected)
    assert lr_multiplier(position / 100, 1.0, 0.1, 0.4, final=0.1) == pytest.approx(expected)


def test_the_schedule_may_start_above_nothing():
    rates = [lr_multiplier(position, 100, 10, 0, start=0.2) for position in (0, 5, 10, 50)]
    assert rates == pytest.approx([0.2, 0.6, 1, 1])


def test_schedule_shapes_and_edges():
    assert lr_multiplier(0, 10, 0, 0) == lr_multiplier(10, 10, 0, 0) == 1.0
    assert lr_multiplier(10, 10, 0, 10) == 0.0
    # cosine starts and ends flat
    assert lr_multiplier(9, 10, 0, 10, shape="cosine") < lr_multiplier(9, 10, 0, 10)
    assert lr_multiplier(1, 10, 0, 10, shape="cosine") > lr_multiplier(1, 10, 0, 10)
    assert lr_multiplier(5, 10, 0, 10, shape="cosine") == pytest.approx(0.5)
    steps = [lr_multiplier(step + 0.5, 8, 2, 4) for step in range(8)]
    assert steps == [0.25, 0.75, 1, 1, 0.875, 0.625, 0.375, 0.125]
    for bad in [(0, 0, 0, 0), (0, 10, 6, 6), (0, 10, -1, 0)]:
        with pytest.raises(ValueError, match="do not fit"):
            lr_multiplier(*bad)
    with pytest.raises(ValueError, match="shape"):
        lr_multiplier(0, 10, 0, 0, shape="square")
