"""Fixtures of the tests of checkpoints."""

import pytest
import torch

from networks import small_network
from rotanext.models.network import Network


@pytest.fixture(scope="session")
def small() -> Network:
    """A small detector of our own whose weights all differ."""
    torch.manual_seed(1)
    model = small_network("convnext_atto", 2).to(memory_format=torch.contiguous_format)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model
