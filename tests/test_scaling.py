"""Scaling rules: they meet the points they are tied to, and their laws."""
import math

import pytest

from nanochat import scaling


def test_the_reference_run_is_its_own_answer():
    tokens, batch = scaling.REFERENCE_TOKENS, scaling.REFERENCE_BATCH
    steps = scaling.steps_of(tokens, batch)
    assert scaling.batch_tokens(tokens) == batch and scaling.lr_scale(batch) == 1
    assert scaling.weight_decay(0.28, batch, steps) == pytest.approx(0.28, rel=1e-3)


@pytest.mark.parametrize("factor", [4, 16, 100])
def test_laws(factor):
    tokens, batch = scaling.REFERENCE_TOKENS * factor, scaling.batch_tokens(scaling.REFERENCE_TOKENS * factor)
    assert math.log2(batch / scaling.REFERENCE_BATCH) == pytest.approx(0.383 * math.log2(factor), abs=0.5)
    assert math.log2(batch).is_integer()
    steps = scaling.steps_of(tokens, batch)
    # what a weight forgets over a run is the same in all of them, and the form nanochat gives follows
    assert (scaling.lr_scale(batch) * scaling.weight_decay(1, batch, steps) * steps
            == pytest.approx(scaling.weight_decay(1, scaling.REFERENCE_BATCH, 1)))
    assert scaling.weight_decay(1, batch,
                                steps) == pytest.approx(math.sqrt(batch / scaling.REFERENCE_BATCH) / factor, rel=1e-3)


def test_small_runs_keep_what_was_measured():
    # not an eighth, as the square root would have it
    assert scaling.lr_scale(8192) == 1
    assert scaling.steps_of(scaling.training_tokens(1e6), 2 ** 19) == scaling.MIN_STEPS
    assert scaling.steps_of(scaling.training_tokens(27e6), 2 ** 19) == math.ceil(20 * 27e6 / 2 ** 19) > 1000
    assert scaling.training_tokens(10, ratio=8) == 80
