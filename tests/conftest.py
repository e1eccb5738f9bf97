"""Every test starts from the same seed, and leaves torch's defaults as it found them."""

import pytest
import torch
from hypothesis import settings

from nanochat.common import seed_everything
from nanochat.gpt import THENGPT, THENConfig
from nanochat.tokenizer import Tokenizer

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


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load()


def tiny(tokenizer, **fields):
    """
    A small THENGPT for the words of the tokenizer, untrained, always the same. What it says it copies, where it can.
    """
    torch.manual_seed(0)
    words = dict(vocab_size=tokenizer.vocab_size, n_ordinary=min(tokenizer.special_tokens.values()))
    words |= {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "end", "user", "assistant", "pad")}
    model = THENGPT(THENConfig(**{**words, **dict(n_layer=4, n_kv_head=1, n_embd=32, gist_dim=16), **fields}))
    model.init_weights()
    return model
