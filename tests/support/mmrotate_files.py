"""Weights under the names that MMRotate gives them."""

from collections import OrderedDict

from torch import Tensor


def as_mmrotate(state_dict: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """The reference's names, written out here a second time so that the map is not tested against itself."""
    pairs = [
        (".dwconv.", ".depthwise_conv."), (".pwconv", ".pointwise_conv"), ("neck.lateral.", "neck.lateral_convs."),
        ("neck.output.", "neck.fpn_convs."), ("neck.extra.0", "neck.fpn_convs.3"), ("neck.extra.1", "neck.fpn_convs.4"),
        ("head.cls_convs.", "bbox_head.cls_convs."), ("head.reg_convs.", "bbox_head.reg_convs."),
        ("head.cls_out", "bbox_head.retina_cls"), ("head.reg_out", "bbox_head.retina_reg"),
    ]  # fmt: skip
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state_dict.items():
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        if "_convs." in key:
            stem, leaf = key.rsplit(".", 1)
            key = f"{stem}.conv.{leaf}"
        renamed[key] = value
    return renamed
