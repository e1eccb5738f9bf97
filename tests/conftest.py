"""Every test starts from the same seed, and leaves torch's defaults as it found them."""

import pytest
import torch
from hypothesis import settings

from nanochat.common import seed_everything

# a slow or busy machine is not a failure
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")

# the tensors here are small: a second thread costs more than it brings, most of all on a busy machine
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_start():
    seed_everything(1234)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
