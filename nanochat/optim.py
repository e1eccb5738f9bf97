"""
Muon for the matrices inside the network, AdamW for everything else, in one optimizer; and the learning-rate schedule.

Muon: the momentum of a matrix is replaced by the nearest orthogonal matrix before it is applied, so that every
direction of the update is equally large (https://kellerjordan.github.io/posts/muon/). Matrices of one shape are
stacked and orthogonalized together. AdamW runs as torch's fused kernel: one pass over memory, on CPU too.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from nanochat.common import fast_dtype

# Polar Express (arXiv 2505.16932): a Newton-Schulz iteration whose quintic is the best one for each of its five steps.
# At the same cost it ends closer to orthogonal than the fixed quintic (3.4445, -4.7750, 2.0315) of the first Muon.
NEWTON_SCHULZ_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(G: Tensor, dtype: torch.dtype) -> Tensor:
    """
    U V^T of each matrix U S V^T in `G` (n, rows, cols), approximately: singular values end near 1, unless they were
    below about 1/1000 of the matrix norm. Computed and returned in `dtype` (fp32 or bf16). Zero matrices stay zero.
    """
    X = G.to(dtype)
    tall = X.size(-2) > X.size(-1)
    if tall:  # the Gram matrix of the shorter side is the smaller one
        X = X.mT
    # 2% of room, because the steps diverge above norm 1 and the norm itself is rounded
    X = X / (X.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in NEWTON_SCHULZ_STEPS:
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if tall else X


def local(t: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, any other tensor as it is. It shares the memory."""
    return t.to_local() if isinstance(t, DTensor) else t


def gathered(part: Tensor, p: Tensor) -> Tensor:
    """The whole of a tensor of which this rank holds `part`, cut as the parameter `p` is. All ranks must call."""
    if not isinstance(p, DTensor):
        return part
    return DTensor.from_local(part, p.device_mesh, p.placements, run_check=False, shape=p.shape,
                              stride=p.stride()).full_tensor()


def whole_norm(t: Tensor) -> Tensor:
    """The Frobenius norm of a matrix, 0-d; of a sharded one all ranks must call."""
    norm = t.norm()
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def sharded_like(whole: Tensor, p: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank holds whole, cut as the parameter `p` is. Nothing is sent."""
    if not isinstance(p, DTensor):
        return whole
    spread = DTensor.from_local(whole, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
    return spread.redistribute(placements=p.placements).to_local()


class MuonAdamW(torch.optim.Optimizer):
    """
    Parameter groups carry `kind`:

        {"kind": "muon", "params": [2-D matrices], "lr", "momentum": 0.95, "weight_decay": 0.0}
        {"kind": "adamw", "params": [...], "lr", "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.0}

    Only `kind`, `params` and `lr` are required. Each group also keeps `initial_lr`, its peak, which `scale_lr` scales.
    Weight decay is decoupled. Parameters without a gradient are skipped. Raises ValueError for a malformed group.

    Gradients are not clipped. Muon takes the direction of each gradient alone into the momentum (normalized momentum,
    Cutkosky and Mehta 2020, arXiv 2002.03305): the gradients of heads that copy are heavy-tailed, and one of fifty
    times the usual norm would otherwise be the momentum for the next fifty updates, all of full size. Under AdamW one
    gradient alone moves a weight by less than lr: (1 - 0.8) / sqrt(1 - 0.95) = 0.9, however large it is.

    Parameters may be sharded (FSDP2): AdamW and the momentum work on this rank's part; for Muon every rank gathers
    whole matrices, orthogonalizes them all, and keeps its part.
    """

    DEFAULTS = {
        "muon": {"momentum": 0.95, "weight_decay": 0.0},
        "adamw": {"betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.0},
    }

    def __init__(self, param_groups: list[dict]):
        super().__init__(param_groups, defaults={})

    def add_param_group(self, param_group: dict) -> None:
        kind = param_group.get("kind")
        if kind not in self.DEFAULTS:
            raise ValueError(f"a parameter group needs kind 'muon' or 'adamw', not {kind!r}")
        if "lr" not in param_group:
            raise ValueError(f"a {kind} group needs an lr")
        unknown = set(param_group) - {"kind", "params", "lr", "initial_lr", "name"} - set(self.DEFAULTS[kind])
        if unknown:
            raise ValueError(f"unknown settings in a {kind} group: {', '.join(sorted(unknown))}")
        param_group = {"initial_lr": param_group["lr"], **self.DEFAULTS[kind], **param_group}
        super().add_param_group(param_group)
        wrong = [tuple(p.shape) for p in self.param_groups[-1]["params"] if kind == "muon" and p.ndim != 2]
        if wrong:
            self.param_groups.pop()
            raise ValueError(f"Muon takes matrices, not parameters of shape {wrong[0]}")

    def scale_lr(self, multiplier: float) -> None:
        """Sets every group's lr to `multiplier` times its initial_lr."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * multiplier

    def _state_of(self, p: Tensor, kind: str) -> dict:
        state = self.state[p]
        if not state:
            state.update({"momentum_buffer": torch.zeros_like(p)} if kind == "muon" else
                         {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)})
        return state

    @torch.no_grad()
    def allocate(self) -> None:
        """Makes the state of every parameter, as the first step would: what a sharded checkpoint is read into."""
        for group in self.param_groups:
            for p in group["params"]:
                self._state_of(p, group["kind"])

    @torch.no_grad()
    def step(self, closure=None):
        """One update. Returns what `closure` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._step_muon if group["kind"] == "muon" else self._step_adamw)(group)
        return loss

    def _step_muon(self, group: dict) -> None:
        stacks = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                stacks[p.shape, p.device, p.dtype].append(p)
        for (shape, device, _), params in stacks.items():
            grads = [local(p.grad) for p in params]
            buffers = [local(self._state_of(p, "muon")["momentum_buffer"]) for p in params]
            # every step has the same say in the momentum
            norms = [whole_norm(p.grad).clamp(min=1e-30) for p in params]
            grads = [g / norm for g, norm in zip(grads, norms)]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            # Nesterov: look ahead along the new momentum
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])
            updates = torch.stack([gathered(u, p) for u, p in zip(updates, params)])
            # fp16 has too little range for the iteration
            ns_dtype = torch.bfloat16 if fast_dtype(device)[0] == torch.bfloat16 else torch.float32
            updates = orthogonalize(updates, ns_dtype).to(params[0].dtype)
            parts = [local(p) for p in params]
            if group["weight_decay"]:
                torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
            # a tall matrix maps few inputs to many outputs: the scale keeps the change of its output per entry alike
            scale = math.sqrt(max(1.0, shape[0] / shape[1]))
            torch._foreach_add_(parts, [sharded_like(u, p) for u, p in zip(updates.unbind(), params)],
                                alpha=-group["lr"] * scale)

    def _step_adamw(self, group: dict) -> None:
        stacks = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self._state_of(p, "adamw")
            state["step"] += 1
            stacks[p.device, p.dtype, state["step"]].append(p)
        beta1, beta2 = group["betas"]
        for (device, _, step), params in stacks.items():
            # the kernel walks raw memory, so a gradient must be laid out like its parameter
            parts, grads = [local(p) for p in params], [local(p.grad) for p in params]
            grads = [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in zip(parts, grads)]
            count = torch.full((), float(step), device=device)
            torch._fused_adamw_(
                parts,
                grads,
                [local(self.state[p]["exp_avg"]) for p in params],
                [local(self.state[p]["exp_avg_sq"]) for p in params],
                [],  # max_exp_avg_sqs, of amsgrad
                [count] * len(parts),
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def lr_multiplier(position: float, total: float, warmup: float, warmdown: float, final: float = 0.0,
                  shape: str = "linear", start: float = 0.0) -> float:
    """
    Learning rate as a fraction of its peak: a linear ramp from `start` over the first `warmup`, then 1, then over the
    last `warmdown` of `total` down to `final`, 'linear' or 'cosine'.

    All four lengths share one unit, whichever bounds the run: iterations, seconds of a time budget, or progress with
    total=1. Positions outside are clamped. For 0-based iterations pass step + 0.5, the middle of the update: then
    neither the first nor the last one is lost to a multiplier of 0. Raises ValueError where the lengths do not fit.
    """
    if total <= 0 or warmup < 0 or warmdown < 0 or warmup + warmdown > total:
        raise ValueError(f"warmup {warmup} and warmdown {warmdown} do not fit into a run of {total}")
    if shape not in ("linear", "cosine"):
        raise ValueError(f"unknown shape of the warmdown: {shape!r}")
    position = min(max(position, 0.0), total)
    if position < warmup:
        return start + (1.0 - start) * position / warmup
    if position <= total - warmdown:
        return 1.0
    left = (total - position) / warmdown
    if shape == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return final + (1.0 - final) * left
