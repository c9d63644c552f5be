"""Small networks by a recipe's values, for tests that need no data."""

from rotanext.config import Config, load_config
from rotanext.inference.detector import build_network
from rotanext.models.network import Network

TIMM = ("backbone.kind=timm", "backbone.frozen_stages=0", "backbone.frozen_norm=false")


def backbone_overrides(name: str) -> tuple[str, ...]:
    """Overrides that choose a backbone, ours or `timm:NAME`."""
    return (*TIMM, f"backbone.name={name.removeprefix('timm:')}") if name.startswith("timm:") else (f"backbone.name={name}",)


def small_config(backbone: str = "convnext_atto", *overrides: str, channels: int = 8) -> Config:
    """The demo's recipe with another backbone, one stacked convolution and nine anchors a position."""
    parts = ("head.stacked_convs=1", f"neck.channels={channels}", "head.anchor_scale=4.0")
    return load_config("demo", [*backbone_overrides(backbone), *parts, *overrides])


def small_network(backbone: str, classes: int, *overrides: str, channels: int = 8) -> Network:
    """The network of `small_config`."""
    return build_network(small_config(backbone, *overrides, channels=channels), classes)
