"""
What follows from the size of a model: how long to train it, in which batches, at which rates. Rules with their sources, and the two points they
are tied to. All of it can be overridden by a flag.

    nanochat d12     524,288 tokens a step, Muon at 0.02, 1.16e9 tokens (github.com/karpathy/nanochat, scripts/base_train.py)
    this repository  depth 4, 8,192 tokens a step, Muon at 0.015 to 0.02, 1.6e7 tokens (dev/LOG.md)
"""
import math

REFERENCE_BATCH = 2 ** 19
REFERENCE_TOKENS = 1.16e9
MIN_STEPS = 1000   # measured at depth 4: at 250 steps recall has begun, at 1,000 it has levelled (dev/LOG.md)


def training_tokens(parameters, ratio=20.0):
    """Tokens to train on: `ratio` for each parameter that multiplies (all but the embedding). 20: Hoffmann et al. 2022 (arXiv 2203.15556)."""
    return ratio * parameters


def batch_tokens(tokens):
    """Tokens a step for a run of `tokens`, a power of two: the best batch grows as tokens^0.383 (Power Lines, arXiv 2505.13738)."""
    return 2 ** round(math.log2(REFERENCE_BATCH * (tokens / REFERENCE_TOKENS) ** 0.383))


def steps_of(tokens, batch):
    """Optimizer steps of a run of `tokens` in batches of `batch`. Small models need more than their tokens: MIN_STEPS at least."""
    return max(MIN_STEPS, math.ceil(tokens / batch))


def lr_scale(batch):
    """
    Factor on all learning rates: the square root of the batch (Malladi et al. 2022, arXiv 2205.10782), above the reference batch. Below it rates
    stay, since both points above train well with the same one.
    """
    return max(1.0, math.sqrt(batch / REFERENCE_BATCH))


def weight_decay(reference, batch, steps):
    """
    Decay for a run of `steps`, so that weights forget over the same share of every run (Wang and Aitchison 2024, arXiv 2405.13698): learning rate x decay x
    steps is that of `reference` in the reference run. Where rates follow lr_scale, this is nanochat's reference x sqrt(B / B0) x D0 / D.
    """
    return reference * (REFERENCE_TOKENS / REFERENCE_BATCH) / (steps * lr_scale(batch))
