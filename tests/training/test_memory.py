"""What a training step keeps for its backward pass, counted on tensors without contents (so a GPU's sizes fit a laptop).

Counted are weights, gradients, moments and what the network's forward pass keeps; not the losses' own few maps, nor workspaces.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.models.convnext import LayerNorm

RECIPE = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
GOAL = 4.0e9  # bytes of a whole step with a batch of 2 at 1024 x 1024; 6.12e9 in the reference


def step_bytes(*overrides: str) -> int:
    """Weights, their gradients, AdamW's two moments, and all tensors that the forward pass in bf16 leaves to the backward one."""
    model = build_network(load_config(RECIPE, ["backbone.weights=", *overrides]), 15).train()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(values: Tensor) -> Tensor:
        kept[values.untyped_storage()._cdata] = values
        return values

    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        batch = torch.empty(2, 3, 1024, 1024).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(batch)
        assert outputs[0][0].shape == (2, 135, 128, 128)
    held = sum(values.untyped_storage().nbytes() for key, values in kept.items() if key not in own)
    return 4 * weights + held


def test_a_step_fits_the_goal() -> None:
    assert 2e9 < step_bytes() < GOAL  # not far below either: then something would not have been counted


def test_norms_in_float32_would_keep_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's autocast takes layer_norm to float32, the CPU's does not; here it does."""
    plain = F.layer_norm

    def as_on_cuda(x: Tensor, shape: list[int], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return plain(x.float() if torch.is_autocast_enabled("cpu") else x, shape, weight, bias, eps)

    monkeypatch.setattr(F, "layer_norm", as_on_cuda)
    ours = step_bytes()
    monkeypatch.setattr(LayerNorm, "forward", nn.LayerNorm.forward)
    assert step_bytes() > ours + 0.15e9


def test_checkpointing_saves_most_of_it() -> None:
    assert step_bytes("backbone.gradient_checkpointing=true") < 0.55 * step_bytes()
