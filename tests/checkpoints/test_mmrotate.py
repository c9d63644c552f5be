"""What checkpoints of MMRotate tell of their detectors: anchors, angles, architecture, class names."""

from typing import Any

import pytest

from rotanext.checkpoints.mmrotate import anchor_convention, check_angles
from rotanext.errors import UserError


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
            anchor_convention(content, "x.pth", override)
    else:
        assert anchor_convention(content, "x.pth", override)[0] == expected


@pytest.mark.parametrize(("text", "accepted"), [("angle_version = 'le90'", True), ("angle_version = 'oc'", False), ("", True)])
def test_another_angle_version_is_refused(text: str, accepted: bool) -> None:
    """Detectors for other conventions have the same tensors; only the configuration in the metadata tells."""
    content = {"meta": {"config": text}}
    if accepted:
        assert "le90" in check_angles(content, "epoch_12.pth")
    else:
        with pytest.raises(UserError, match="angle version oc"):
            check_angles(content, "epoch_12.pth")
