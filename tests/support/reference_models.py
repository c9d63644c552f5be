"""The published systems with the reference's weights, rebuilt from names and shapes."""

import torch

import formula
from rotanext.checkpoints.layouts import load_strict, map_keys
from rotanext.config import load_config
from rotanext.inference.detector import build_network
from rotanext.models.network import Network

RECIPES = {
    "convnext-tiny": "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota",
    "r50": "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota",
}


def reference_model(which: str, shapes: dict[str, list[int]], salt: str, overrides: list[str]) -> Network:
    """The recipe's model with the reference's weights, loaded strictly from the reference's layout."""
    config = load_config(RECIPES[which], overrides)
    model = build_network(config, 15)
    weights = {name: torch.from_numpy(value) for name, value in formula.state_dict(shapes, salt).items()}
    load_strict(model, map_keys("mmrotate retinanet", weights), which, "mmrotate retinanet")
    return model


def own_name(name: str) -> str:
    """Our name of one of the reference's parameters."""
    return next(iter(map_keys("mmrotate retinanet", {name: torch.zeros(())})))
