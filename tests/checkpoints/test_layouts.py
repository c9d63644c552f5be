"""The names that layouts give to weights, and ours: told apart, mapped, compared."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotanext.checkpoints.layouts import find_state_dict, map_keys
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.errors import UserError


def test_authors_v2_shapes() -> None:
    """The V2 files hold GRN parameters as [1, 1, 1, C]."""
    mapped = map_keys("convnext", {"stages.0.0.grn.gamma": torch.ones(1, 1, 1, 160)})
    assert mapped["stages.0.0.grn.gamma"].shape == (160,)


def test_numpy_state_dict(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"a": np.ones((2, 2), np.float32)}}))
    weights = find_state_dict(read_tensors(tmp_path / "w.pkl"), "w.pkl")
    assert torch.equal(weights["a"], torch.ones(2, 2))


@pytest.mark.parametrize("content", [{}, {"meta": 1}, {"state_dict": {"a": 1}}, {"state_dict": {}}], ids=str)
def test_no_state_dict(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="state dict"):
        find_state_dict(content, "w.pth")


def test_odd_arrays(tmp_path: Path) -> None:
    """NumPy arrays in the other byte order are numbers like any others; arrays of texts are no weights."""
    assert torch.equal(find_state_dict({"a": np.array([1, 2], ">f4")}, "w.pkl")["a"], torch.tensor([1.0, 2.0]))
    with pytest.raises(UserError, match="state dict"):
        find_state_dict({"a": np.array(["x"])}, "w.pkl")
