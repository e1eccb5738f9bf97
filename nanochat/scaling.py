"""
What follows from the size of a model: how long to train it, in which batches, at which rates. Rules with their sources,
and the two points they are tied to. All of it can be overridden by a flag.

    nanochat d12     524,288 tokens a step, Muon at 0.02, 1.16e9 tokens (github.com/karpathy/nanochat,
    scripts/base_train.py)
    this repository  depth 4, 8,192 tokens a step, Muon at 0.015 to 0.02, 1.6e7 tokens (dev/LOG.md)
"""
import math
from typing import NamedTuple

REFERENCE_BATCH = 2 ** 19
REFERENCE_TOKENS = 1.16e9
MIN_STEPS = 1000   # measured at depth 4: at 250 steps recall has begun, at 1,000 it has levelled (dev/LOG.md)


def training_tokens(parameters, ratio=20.0):
    """
    Tokens to train on: `ratio` for each parameter that multiplies (all but the embedding). 20: Hoffmann et al. 2022
    (arXiv 2203.15556).
    """
    return ratio * parameters


def batch_tokens(tokens):
    """
    Tokens a step for a run of `tokens`, a power of two: the best batch grows as tokens^0.383 (Power Lines, arXiv
    2505.13738).
    """
    return 2 ** round(math.log2(REFERENCE_BATCH * (tokens / REFERENCE_TOKENS) ** 0.383))


def steps_of(tokens, batch):
    """
    Optimizer steps of a run of `tokens` in batches of `batch`. Small models need more than their tokens: MIN_STEPS at
    least.
    """
    return max(MIN_STEPS, math.ceil(tokens / batch))


def lr_scale(batch):
    """
    Factor on all learning rates: the square root of the batch (Malladi et al. 2022, arXiv 2205.10782), above the
    reference batch. Below it rates stay, since both points above train well with the same one.
    """
    return max(1.0, math.sqrt(batch / REFERENCE_BATCH))


def weight_decay(reference, batch, steps):
    """
    Decay for a run of `steps`, so that weights forget over the same share of every run (Wang and Aitchison 2024, arXiv
    2405.13698): learning rate x decay x steps is that of `reference` in the reference run. Where rates follow lr_scale,
    this is nanochat's reference x sqrt(B / B0) x D0 / D.
    """
    return reference * (REFERENCE_TOKENS / REFERENCE_BATCH) / (steps * lr_scale(batch))


# -----------------------------------------------------------------------------
# What a run takes, before there is a GPU

# temporaries of the backward pass, and what the allocator loses between blocks: an assumption, not a measurement
OVERHEAD = 1.2


class Cost(NamedTuple):
    """Of one window on one device; bytes."""
    flops: int          # of all matrix products, forward and backward, masked or not
    weights: int        # fp32
    gradients: int
    optimizer: int
    activations: int    # what the forward pass keeps for the backward pass
    state: int          # what the streams remember, twice: before the window and after it

    @property
    def bytes(self):
        return self.weights + self.gradients + self.optimizer + round(OVERHEAD * (self.activations + self.state))


def cost(window, streams, slots, segments):
    """
    The Cost of a tbptt.Window(fixed=True), run forward and backward with full memories where its model is: on the meta
    device, nothing is computed or allocated. So it is counted, not modelled; what is assumed is OVERHEAD.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nanochat.optim import MuonAdamW
    from nanochat.state import map_state
    model = window.model
    new = lambda dtype: torch.zeros(streams, slots, dtype=dtype, device=model.wte.weight.device)
    batch = {"ids": new(torch.long), "targets": new(torch.long), "new_life": new(torch.bool)[:, 0]}
    state, held, kept = window.begin(model.empty_state(streams)) if hasattr(model, "empty_state") else None, [], {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(t):
        storage = t.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage   # held, so that no other one gets its address
        return t

    map_state(state, lambda t: held.append(t.nbytes) or t)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = window([batch] * segments, state)[0]
        loss.backward()
    optimizer = MuonAdamW(model.parameter_groups())
    optimizer.allocate()
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))
    weights = sum(p.nbytes for p in model.parameters())
    return Cost(counter.get_total_flops(), weights, weights, moments,
                sum(storage.nbytes() for storage in kept.values()), 2 * sum(held))
