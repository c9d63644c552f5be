"""Small networks by a recipe's values, for tests that need no data."""

from rotanext.config import Config, load_config
from rotanext.inference.detector import build_network
from rotanext.models.network import Network

TIMM = ("backbone.kind=timm", "backbone.frozen_stages=0", "backbone.frozen_norm=false")
# The parts of a detector of each family, as overrides of the demo's recipe: one stacked convolution, nine anchors a position.
FAMILIES = {
    "aligned": ("head.stacked_convs=1",),
    "retina": (
        "neck.kind=fpn", "head.kind=retina", "head.stacked_convs=1", "head.anchors=v0", "head.anchor_scale=4.0",
        "head.anchor_octaves=3", "head.anchor_ratios=[1.0,0.5,2.0]", "head.positive_iou=0.4", "head.negative_iou=0.3",
        "head.box_loss=kld-stable", "head.box_loss_weight=5.5",
    ),
    "rtmdet": (
        "neck.kind=pafpn", "neck.blocks=1", "data.padding=grey",
        "head.kind=rtmdet", "head.stacked_convs=1", "head.exponential=true", "head.offset=0.0", "head.box_loss_weight=2.0",
    ),
}  # fmt: skip


def backbone_overrides(name: str) -> tuple[str, ...]:
    """Overrides that choose a backbone, ours or `timm:NAME`."""
    if name.startswith("timm:"):
        return (*TIMM, f"backbone.name={name.removeprefix('timm:')}")
    kind = ("backbone.kind=cspnext", "backbone.style=mmdetection") if name.startswith("cspnext") else ()
    return (*kind, f"backbone.name={name}")


def small_config(backbone: str = "convnext_atto", *overrides: str, channels: int = 8, family: str = "retina") -> Config:
    """The demo's recipe with another backbone and the head of a family."""
    return load_config("demo", [*backbone_overrides(backbone), *FAMILIES[family], f"neck.channels={channels}", *overrides])


def small_network(backbone: str, classes: int, *overrides: str, channels: int = 8, family: str = "retina") -> Network:
    """The network of `small_config`."""
    return build_network(small_config(backbone, *overrides, channels=channels, family=family), classes)
