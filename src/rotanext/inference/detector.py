"""A detector ready for use: network, configuration and class names, called on an image."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rotanext.config import Config, validate
from rotanext.detections import Detections
from rotanext.errors import UserError
from rotanext.heads.contract import Candidates, Raw
from rotanext.images.scenes import Crop, ImageScene, Scene, shrunk
from rotanext.inference.postprocess import detect, detect_decoded
from rotanext.inference.stitch import MergeRule
from rotanext.inference.tiles import Tick, Tiling, detect_scene, detect_tiles, unheard
from rotanext.models.fast import PRECISIONS, CompiledNetwork, for_inference
from rotanext.models.network import Network

READERS = 4  # threads that read windows for a GPU
CropDetector = Callable[[list[Crop], float], list[Detections]]  # crops of one size and the lowest score to detections of each


def build_network(config: Config, num_classes: int) -> Network:
    """The network a configuration describes, with random weights."""
    made = Network(config.backbone, config.neck, config.head, num_classes, config.data.padding)
    return made.to(memory_format=torch.channels_last)


class ExportedNetwork(Protocol):
    """A network in a file that another engine computes, normalising and decoding included; see export/runtime.py."""

    num_classes: int
    device: torch.device

    def __call__(self, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Per level logits `[B, P_l, C]` and boxes `[B, P, 5]` (le90, pixels) of uint8 RGB images `[B, H, W, 3]`."""
        ...


class Detector:
    """Finds oriented objects in images of any size; keeps nothing of one image for the next.

    `detector(image)` takes uint8 RGB `[H, W, 3]` and gives `Detections` in that image's pixels. An image larger than the
    configured tile is cut into overlapping tiles whose detections are merged; a smaller one is a single tile.

    It computes with a copy of the model, made at the first call (later changes of `model` do not reach it), in a precision of
    `models.fast.PRECISIONS`, and compiled by torch.compile if wanted (a warning says why where that fails; it goes on without).
    In place of the model there may be an exported network, which has its precision and engine in itself.
    """

    def __init__(
        self,
        model: Network | ExportedNetwork,
        config: Config,
        class_names: tuple[str, ...],
        *,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        if model.num_classes != len(class_names):
            raise UserError(f"the model has {model.num_classes} classes, but {len(class_names)} class names were given")
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        self.config, self.class_names = config, class_names
        self.precision, self.compiled = precision, compiled
        self._model: Network | None = None
        self.exported: ExportedNetwork | None = None
        if isinstance(model, Network):
            self._model = model.eval()
        else:
            self.exported = model

    @property
    def model(self) -> Network:
        """The network in PyTorch; UserError where the detector was loaded from an exported file."""
        if self._model is None:
            raise UserError("an exported detector can only detect; for anything else load the checkpoint it was exported from")
        return self._model

    @cached_property
    def network(self) -> Callable[[Tensor], Raw]:
        """The network that computes: raw outputs of a prepared batch."""
        fast = for_inference(self.model, self.precision, winograd=not self.compiled)
        return CompiledNetwork(fast) if self.compiled else fast

    def reconfigured(self, **values: int | float | None) -> "Detector":
        """A detector of the same weights with other values of `config.predict`; None keeps one. UserError for a wrong one.

        This detector itself where all are kept.
        """
        changed = {key: value for key, value in values.items() if value is not None}
        if not changed:
            return self
        whole = self.config.model_dump()
        config = validate(whole | {"predict": whole["predict"] | changed}, "prediction options")
        return Detector(self.exported or self.model, config, self.class_names, precision=self.precision, compiled=self.compiled)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.mean.device if self.exported is None else self.exported.device

    def __call__(
        self,
        image: np.ndarray,
        *,
        score_threshold: float | None = None,
        image_size: int | None = None,
        batch_size: int = 1,
        across_classes: bool = False,
    ) -> Detections:
        """Detections in a uint8 RGB image `[H, W, 3]`, best first; tiles are computed `batch_size` at a time.

        score_threshold (0 to 1) and image_size (fit into this square; 0: own resolution) replace the configured values. Where
        tiles overlap, boxes of one class compete, or of any, `across_classes`. Raises UserError for anything that is not such a
        image.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"the detector takes a uint8 RGB array [H, W, 3]; found {found}")
        if 0 in image.shape:
            raise UserError(f"the image is empty: its shape is {list(image.shape)}")
        return self.on_scene(
            ImageScene(image),
            score_threshold=score_threshold,
            image_size=image_size,
            batch_size=batch_size,
            across_classes=across_classes,
        )

    def on_scene(
        self,
        scene: Scene,
        *,
        score_threshold: float | None = None,
        image_size: int | None = None,
        batch_size: int = 1,
        across_classes: bool = False,
        tick: Tick = unheard,
        detect_crops: CropDetector | None = None,
    ) -> Detections:
        """The same on a scene that is read in windows, such as a `Raster`; `tick(done, total)` hears how many tiles are done.

        `detect_crops` computes the tiles in this detector's place: a queue, for example, that leads to this detector's own
        `detect_crops` and computes tiles of several scenes at once.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}; expected a whole number of at least 1")
        if score_threshold is not None and not (isinstance(score_threshold, int | float) and 0 <= score_threshold <= 1):
            raise UserError(f"score_threshold is {score_threshold!r}; expected a number from 0 to 1")
        if image_size is not None and not (isinstance(image_size, int) and image_size >= 0):
            raise UserError(f"image_size is {image_size!r}; expected a number of pixels, or 0 for the image's own size")
        options = self.config.predict
        threshold = options.score_threshold if score_threshold is None else score_threshold
        scene, scale, tiling = self.cut(scene, batch_size, image_size)
        fill = self._fill(tiling.count(scene.width, scene.height), batch_size)
        rule = MergeRule(options.merge_iou, across_classes)
        compute = detect_crops or partial(self.detect_crops, fill=fill)
        found = detect_scene(scene, lambda crops: compute(crops, threshold), self.class_names, tiling, rule, tick)
        return found if scale == 1 else found.scaled(1 / scale)

    def on_tiles(
        self, scene: Scene, part: range, *, score_threshold: float | None = None, batch_size: int = 1
    ) -> list[tuple[int, Detections]]:
        """Detections of some tiles of a scene at its own resolution, each in its tile's pixels, with the tile's index.

        `part` says which of `tiling(batch_size).windows(...)`; those in which nothing is to be seen are left out. A `SceneMerger`
        that takes all tiles in order has what `on_scene` gives.
        """
        tiling = self.tiling(batch_size)
        threshold = self.config.predict.score_threshold if score_threshold is None else score_threshold
        windows = tiling.windows(scene.width, scene.height)
        fill = self._fill(len(windows), batch_size)
        batches = detect_tiles(scene, lambda crops: self.detect_crops(crops, threshold, fill), tiling, windows, part)
        return [tile for batch in batches for tile in batch]

    def tiling(self, batch_size: int = 1) -> Tiling:
        """How scenes are cut where they are not resized."""
        options = self.config.predict
        elsewhere = self.device.type != "cpu"  # so that the CPU's cores are free meanwhile
        return Tiling(options.tile, options.overlap, batch_size, readers=READERS if elsewhere else 1, merge_aside=elsewhere)

    def cut(self, scene: Scene, batch_size: int = 1, image_size: int | None = None) -> tuple[Scene, float, Tiling]:
        """The scene as its tiles are read from it, the scale applied to it, and how it is cut: resized, it is one tile."""
        tiling = self.tiling(batch_size)
        size = self.config.predict.image_size if image_size is None else image_size
        if not size:
            return scene, 1.0, tiling
        resized, scale = shrunk(scene, size)
        return resized, scale, replace(tiling, tile=size, overlap=0)

    def tile_count(self, width: int, height: int) -> int:
        """Into how many tiles `cut` cuts a scene, without opening it."""
        return 1 if self.config.predict.image_size else self.tiling().count(width, height)

    def _fill(self, tiles: int, batch_size: int) -> int:
        """To how many images a batch is filled up, in a scene of so many tiles: a smaller last one would be compiled anew."""
        if not self.compiled or self.exported is not None or tiles <= batch_size:
            return 0
        return batch_size if isinstance(self.network, CompiledNetwork) and self.network.works else 0

    def detect_crops(self, crops: list[Crop], threshold: float, fill: int = 0) -> list[Detections]:
        """Detections of each crop, in its own pixels, on the CPU; the batch is filled up to at least `fill` images."""
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            if self.exported is not None:
                empty = [np.zeros_like(crops[0])] * (fill - len(crops))
                levels, boxes = self.exported(np.stack([*crops, *empty]))
                sizes = [crop.shape[:2] for crop in crops]
                found = detect_decoded(levels, boxes, sizes, self.config.predict, threshold, self._at_limit)
            else:
                found = self._compute(crops, threshold, fill)
        # cloned outside of inference mode, they are ordinary tensors
        return [Detections(b.clone().cpu(), s.clone().cpu(), c.clone().cpu(), self.class_names) for b, s, c in found]

    def _compute(self, crops: list[np.ndarray], threshold: float, fill: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes, scores and labels of each crop by the network in PyTorch."""
        batch = self.model.prepare([torch.from_numpy(np.require(c, requirements=["C", "W"])) for c in crops])
        if len(crops) < fill:
            batch = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, fill - len(crops)))
        raw = self.network(batch.to(PRECISIONS[self.precision]))
        # A CPU rounds an array's last elements in another way than the rest, so there each image is settled by itself:
        # its detections then do not depend on those it shares a batch with.
        parts = [slice(i, i + 1) for i in range(len(crops))] if self.device.type == "cpu" else [slice(0, len(crops))]
        head, sizes, options = self.model.head, [crop.shape[:2] for crop in crops], self.config.predict
        return [one for part in parts for one in detect(raw.images(part), head, sizes[part], options, threshold, self._at_limit)]

    def _at_limit(self, boxes: Tensor, chosen: Candidates) -> Tensor:
        """What the head says of decoded boxes; see `heads.contract.HeadSection.at_limit`."""
        return self.config.head.at_limit(boxes, chosen, self.config.neck.strides)
