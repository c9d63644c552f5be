"""Run with oriented-det installed, never imported: writes a checkpoint of one of its models and what that makes of an image.

    python oriented_det_program.py FAMILY OPTIONS FOLDER    OPTIONS: JSON of the model's arguments

FOLDER then holds checkpoints/*.pth and config.json as its trainings leave them, and outputs.npz: per level logits and boxes.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from oriented_det.models.oriented_rpn import decode_oriented_boxes, generate_oriented_anchors
from oriented_det.models.rotated_fcos import generate_fpn_points
from oriented_det.models.rotated_retinanet import RotatedRetinaNet
from oriented_det.models.rotated_rtmdet import RotatedRTMDet
from oriented_det.runtime.inference import preprocess_crop
from oriented_det.train.utils import CheckpointManager
from PIL import Image

import formula

SIZE = 256
CLASSES = ["plane", "ship", "harbor"]
# arguments of the models, by the names that the configuration has for them
ARGUMENTS = {
    "rtmdet": {
        "backbone": "backbone_name", "rtmdet_stacked_convs": "stacked_convs", "rtmdet_norm_on_bbox": "norm_on_bbox",
        "rtmdet_scale_angle": "scale_angle", "rtmdet_exp_on_reg": "exp_on_reg",
    },
    "retinanet": {
        "backbone": "backbone_name", "fpn_returned_layers": "returned_layers", "fpn_extra_level": "fpn_extra_level",
        "anchor_octave_base_scale": "octave_base_scale", "anchor_scales_per_octave": "scales_per_octave",
        "anchor_scales": "anchor_scales", "anchor_ratios": "anchor_ratios", "anchor_angles": "anchor_angles",
        "retinanet_stacked_convs": "stacked_convs", "target_means": "target_means", "target_stds": "target_stds",
        "roi_norm_factor": "norm_factor", "roi_edge_swap": "edge_swap",
    },
}  # fmt: skip


def lively(name, value):
    """Numbers for a parameter or buffer by its name, under which no map dies out and boxes stay within sight."""
    z = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))).float()
    if not value.is_floating_point():
        return value
    if name.endswith("running_var"):
        return 1 + 0.1 * z.abs()
    if name.endswith("running_mean"):
        return 0.1 * z
    if value.ndim == 0:  # a level's factor
        return 1 + 0.2 * z
    if value.ndim == 1:
        return 0.1 * z if name.endswith("bias") else (0.3 if "bn3" in name else 1.0) + 0.1 * z
    small = {"conv_cls": 0.02, "conv_bbox": 0.002, "rtm_reg": 0.2}
    return z * (2 / value[0].numel()) ** 0.5 * next((factor for part, factor in small.items() if part in name), 1.0)


def take_statistics(model, image):
    """Running statistics of the batch norms (frozen ones have none) from an image, as a training would leave them."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    model.head(list(model.backbone(image[None]).values()))
    model.eval()


def outputs(family, model, image):
    """Per level logits [P, C] and boxes [P, 5] of one image."""
    features = list(model.backbone(image[None]).values())
    sizes = [(level.shape[2], level.shape[3]) for level in features]
    if family == "rtmdet":
        logits, sides, angles = model.head(features, strides=model.fpn_strides)
        points = generate_fpn_points(sizes, model.fpn_strides, dtype=torch.float32, device=image.device)
        flat = [torch.cat([s, a], 1)[0].flatten(1).T for s, a in zip(sides, angles, strict=True)]
        boxes = [model.bbox_coder.decode(p, numbers) for p, numbers in zip(points, flat, strict=True)]
        return [level[0].flatten(1).T for level in logits], boxes
    logits, deltas = model.head(features)
    anchors = generate_oriented_anchors(
        (SIZE, SIZE), sizes, model.anchor_scales, model.anchor_ratios, model.anchor_angles, model.fpn_strides,
        octave_base_scale=model.octave_base_scale, scales_per_octave=model.scales_per_octave,
    )  # fmt: skip
    rows = [
        [level[0].view(model.num_anchors, -1, *level.shape[2:]).permute(2, 3, 0, 1).flatten(0, 2) for level in maps]
        for maps in (logits, deltas)
    ]
    boxes = [
        decode_oriented_boxes(
            a, d, model.target_means, model.target_stds, norm_factor=model.norm_factor, edge_swap=model.edge_swap, proj_xy=True
        )
        for a, d in zip(anchors, rows[1], strict=True)
    ]
    return rows[0], boxes


def main(family, options, folder):
    torch.set_grad_enabled(False)
    given = json.loads(options)
    arguments = {ARGUMENTS[family][key]: value for key, value in given.items()}
    build = RotatedRTMDet if family == "rtmdet" else RotatedRetinaNet
    model = build(len(CLASSES), pretrained_backbone=False, **arguments).eval()
    model.load_state_dict({name: lively(name, value) for name, value in model.state_dict().items()})
    image = preprocess_crop(Image.fromarray(formula.image(5, SIZE, SIZE)), {}, SIZE, SIZE)
    take_statistics(model, image)
    CheckpointManager(folder / "checkpoints").save(model, epoch=3, metrics={"mAP": np.float64(0.5)})
    config = {"model_type": f"rotated_{family}", "model": given, "class_names": CLASSES, "num_classes": len(CLASSES)}
    config["preprocessing"] = {"resize_mode": "fixed", "target_size": [SIZE, SIZE], "pad_size_divisor": 32}
    (folder / "config.json").write_text(json.dumps(config))
    logits, boxes = outputs(family, model, image)
    np.savez(folder / "outputs.npz", logits=torch.cat(logits).numpy(), boxes=torch.cat(boxes).numpy())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
