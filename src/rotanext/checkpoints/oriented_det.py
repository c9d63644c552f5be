"""What oriented-det (0.4.1) tells of its detectors, whatever the family: its configuration is a JSON file beside the checkpoint."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from rotanext.checkpoints.layout import Checkpoint, is_number
from rotanext.errors import UserError, explain
from rotanext.models.network import MEAN, STD

_LARGEST = 16 << 20  # bytes of a configuration
_PREDICT = {  # where values of `predict` stand in the configuration's `model`
    "score_threshold": "inference_pre_nms_score_threshold", "iou_threshold": "final_nms_iou_threshold",
    "max_detections": "max_detections_per_image",
}  # fmt: skip


class Settings(NamedTuple):
    """The configuration beside a checkpoint, and what to say of where it is from."""

    values: dict[str, Any]
    note: str

    def of(self, section: str, key: str, usual: Any) -> Any:
        """A value of a section; `usual` where there is none."""
        found = self.values.get(section)
        return found.get(key, usual) if isinstance(found, dict) else usual


def settings(path: Path) -> Settings:
    """What lies beside a checkpoint: its own JSON file, or `config.json` of its run; UserError for one that cannot be read."""
    for place in (path.with_suffix(".json"), path.parent / "config.json", path.parent.parent / "config.json"):
        try:
            if not place.is_file() or place.stat().st_size > _LARGEST:
                continue
            values = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            advice = "It is the configuration of the checkpoint beside it: fetch it again, or take it away."
            raise UserError(explain(place, f"no JSON ({type(error).__name__})", "oriented-det's configuration", advice)) from None
        if isinstance(values, dict) and "model_type" in values and "_base_" not in values:  # whole, as trainings save it
            return Settings(values, f"configuration: {place}")
    return Settings({}, f"no configuration beside the file ({path.stem}.json or config.json): taken to be its published system's")


def numbers(value: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers of a list, so many; None for anything else."""
    if not isinstance(value, list | tuple) or not value or (count is not None and len(value) != count):
        return None
    return tuple(float(v) for v in value) if all(is_number(v) for v in value) else None


def refuse_other_pixels(found: Settings, path: Path) -> None:
    """UserError for pixels that were normalised by other numbers than ours (which are for values to 255)."""
    for key, ours in (("normalize_mean", MEAN), ("normalize_std", STD)):
        values = numbers(found.of("preprocessing", key, [number / 255 for number in ours]), 3)
        if values is None or not all(math.isclose(255 * v, number, rel_tol=1e-3) for v, number in zip(values, ours, strict=True)):
            advice = "Pixels of other mean or deviation cannot be given to it here: train again."
            raise UserError(explain(path, f"{key} {values}", f"{[round(number / 255, 4) for number in ours]}", advice))


def class_names(found: Settings) -> tuple[str, ...] | None:
    """The class names in the order of the outputs, None where there are none."""
    names = found.values.get("class_names")
    known = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if known else None  # type: ignore[arg-type]


def of_detecting(found: Settings, recipe: dict[str, Any], **others: str) -> dict[str, dict[str, Any]]:
    """The sections `data` and `predict` of a recipe, with the configuration's values of sizes, scores and NMS."""
    data, predict = {**recipe["data"], "classes": "auto"}, dict(recipe["predict"])
    for ours, theirs in {**_PREDICT, **others}.items():
        value = found.of("model", theirs, None)
        if is_number(value):
            predict[ours] = float(value) if isinstance(predict[ours], float) else int(value)
    size = found.of("preprocessing", "target_size", None)
    size = size if isinstance(size, list | tuple) else [size]
    if all(type(side) is int and side > 0 for side in size):
        overlap = max(size) * predict["overlap"] // predict["tile"]
        data["image_size"], predict["tile"], predict["overlap"] = max(size), max(size), overlap
    return {"data": data, "predict": predict}


def said_of_averages(checkpoint: Checkpoint) -> list[str]:
    """That the weights of an epoch's checkpoint are not the averaged ones, where it has both (best_mAP_*.pth holds the latter)."""
    if "ema_state_dict" not in checkpoint.content:
        return []
    taken = "taken is model_state_dict, as oriented-det does; its best_mAP_*.pth hold averages"
    return [f"ignored: ema_state_dict, the averaged weights: {taken}"]
