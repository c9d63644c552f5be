"""What checkpoints of MMRotate's RetinaNet tell: which anchors, and the recipe of their architecture."""

from pathlib import Path
from typing import Any

import pytest

from rotanext.checkpoints.layout import Checkpoint
from rotanext.checkpoints.mmrotate_retina import PUBLISHED, anchor_convention, config_values
from rotanext.config import recipe_values, validate
from rotanext.errors import UserError
from rotanext.models.network import Network


@pytest.mark.parametrize(("content", "override", "expected"), [
    ({"meta": {"mmrotate_version": "0.3.4"}}, None, "v0"),
    ({"meta": {"mmrotate_version": "1.0.0rc1"}}, None, "v1"),
    ({"meta": {"mmdet_version": "2.25.1"}}, None, "v0"),
    ({"meta": {"mmdet_version": "3.0.0"}}, None, "v1"),
    ({"meta": {"mmcv_version": "1.6.0", "CLASSES": ("a",)}}, None, "v0"),
    ({"meta": {"CLASSES": ("a",)}}, None, "v0"),
    ({"meta": {"mmengine_version": "0.1.0"}}, None, "v1"),
    ({"meta": {"dataset_meta": {"classes": ("a",)}}}, None, "v1"),
    ({"meta": {"experiment_name": "x"}}, None, "v1"),
    ({"message_hub": {}}, None, "v1"),
    ({"meta": {}}, None, None),
    ({}, None, None),
    ({"meta": "text"}, None, None),
    ({"meta": {"mmrotate_version": "0.3.4", "mmengine_version": "0.1.0"}}, None, None),  # contradiction
    ({}, "v1", "v1"),
    ({"meta": {"mmrotate_version": "0.3.4"}}, "v1", "v1"),  # the user knows better
])  # fmt: skip
def test_anchor_convention(content: dict[str, Any], override: Any, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match=r"anchors v0 .* or v1"):
            anchor_convention(Checkpoint(Path("x.pth"), {}, content), override)
    else:
        assert anchor_convention(Checkpoint(Path("x.pth"), {}, content), override)[0] == expected


def test_the_recipe_takes_on_the_architecture_of_the_weights(small: Network) -> None:
    recipe = recipe_values(PUBLISHED["convnext"])
    values = config_values(small.state_dict(), "v1", "w.pth")
    config = validate(values, "w.pth")
    assert (config.backbone.name, config.backbone.weights, config.data.classes) == ("convnext_atto", "", "auto")
    assert (config.neck.channels, config.head.stacked_convs, config.head.anchors) == (8, 1, "v1")
    assert values["train"] == recipe["train"]
    assert values["head"]["anchor_scale"] == recipe["head"]["anchor_scale"]
