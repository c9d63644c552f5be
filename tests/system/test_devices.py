"""Devices by name: what there is works, what there is not is a user's error that names what there could be."""

import pytest
import torch

from rotanext.errors import UserError
from rotanext.system.devices import find_device


def test_auto_is_the_best_there_is() -> None:
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert find_device("auto") == best


def test_a_named_device() -> None:
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta", "", "cpu:x"])
def test_one_that_holds_no_numbers_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"device '{name}' cannot be used: .+\. Use cpu, cuda, cuda:1, mps or auto\."):
        find_device(name)
