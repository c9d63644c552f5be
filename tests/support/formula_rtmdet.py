"""Deterministic weights for the golden files of RTMDet, the same on every machine: rules for layers that formula.py has not.

A rule looks at the reference's name and the shape alone. Levels 1 and 2 of the head's shared 3x3 convolutions get level 0's numbers,
as in every real checkpoint: there the three names hold one tensor.
"""

import re
import zlib

import numpy as np

import formula

_SHARED = re.compile(r"^(bbox_head\.(?:cls|reg)_convs)\.\d+\.(\d+\.conv\.weight)$")
_OWN = re.compile(r"\.(conv|fc|rtm_cls\.\d|rtm_reg\.\d|rtm_ang\.\d)\.(weight|bias)$|\.bn\.(weight|bias)$")


def weight(name: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """One parameter or buffer, float32 (int64 for BatchNorm's counter), from its name and shape alone."""
    name = _SHARED.sub(r"\1.0.\2", name)
    if not _OWN.search(name) or "neck.lateral_convs" in name or "neck.fpn_convs" in name:
        return formula.weight(name, shape, salt)  # running statistics; ConvNeXt; plain FPN
    rng = np.random.RandomState(zlib.crc32((salt + name).encode()) & 0x7FFFFFFF)
    z = rng.standard_normal(tuple(shape))
    fan_in = int(np.prod(shape[1:]))
    leaf = name.rsplit(".", 1)[-1]
    if ".rtm_cls." in name:
        v = z * np.sqrt(1.0 / fan_in) if leaf == "weight" else -3.0 + 0.3 * z
    elif ".rtm_reg." in name:  # in strides from the point to the box's four sides, or their logarithm
        v = 0.4 * z * np.sqrt(1.0 / fan_in) if leaf == "weight" else 1.0 + 0.2 * z
    elif ".rtm_ang." in name:  # radians, sometimes beyond +-90 degrees
        v = 1.5 * z * np.sqrt(1.0 / fan_in) if leaf == "weight" else 0.3 * z
    elif name.endswith(".pointwise_conv.bn.weight"):  # small, as at the end of a residual branch: float32 noise does not grow
        v = 0.3 + 0.03 * z
    elif name.endswith(".bn.weight"):
        v = 1.0 + 0.1 * z
    elif leaf == "bias":
        v = 0.1 * z
    elif ".depthwise_conv." in name:  # near the identity, for the same reason
        v = 0.5 * z * np.sqrt(2.0 / fan_in)
        v[:, 0, 2, 2] += 1.0
    else:
        v = z * np.sqrt(2.0 / fan_in)
    return np.asarray(v, dtype=np.float32)


def state_dict(shapes: dict[str, list[int]], salt: str = "", running: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A whole state dict under the reference's parameter names.

    `running` is a golden file's array `bn_running`: the running means and variances that make the evaluation mode realistic,
    one after the other in the order of `shapes`. Without it they are the formula's (mean near 0, variance near 1).
    """
    out = {name: weight(name, tuple(shape), salt) for name, shape in shapes.items()}
    if running is not None:
        at = 0
        for name, shape in shapes.items():
            if name.endswith((".running_mean", ".running_var")):
                out[name] = np.asarray(running[at : at + shape[0]], np.float32)
                at += shape[0]
        assert at == len(running)
    return out
