"""The sections that every detector has, whatever its parts: data, augmentation, training, prediction.

Those of backbones, necks and heads stand beside them, in models/ and heads/.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rotanext.models.network import Padding
from rotanext.section import Count, Fraction, Natural, NotNegative, Positive, Section, Switch

_LONGEST = 1 << 16  # pixels
Side = Annotated[int, Field(ge=0, le=_LONGEST, strict=True)]


class DataConfig(Section):
    """Which images, and how they come in."""

    train: list[str]  # DOTA folders
    val: list[str]  # DOTA folders; empty: no validation
    classes: str  # "auto": the names found in the labels; dota1.0, dota1.5, dota2.0; or a text file with one name a line
    image_size: Side  # images are resized to fit this square; 0: as they are
    padding: Padding  # images are filled up with this: the mean colour of ImageNet, or a grey of 114
    background: Switch  # train on images without objects, too
    workers: Annotated[int, Field(ge=0, le=256, strict=True)]  # processes that load images; 0: the training's own
    cache: Switch  # keep decoded images in memory


class AugmentConfig(Section):
    """Random changes of training images; all exact on corners."""

    flip_horizontal: Fraction  # chance of a flip from left to right
    flip_vertical: Fraction  # chance of a flip from top to bottom
    flip_diagonal: Fraction  # chance of both at once
    quarter_turns: Fraction  # chance of a rotation by 90, 180 or 270 degrees
    rotate: Fraction  # chance of a rotation by any angle
    round_classes: list[str]  # in an image with one of these, whose boxes have no angle of their own, by 90, 180 or 270 degrees
    scale: tuple[Positive, Positive]  # range of a random zoom
    translate: Fraction  # largest random shift, in image sizes
    resize: tuple[Positive, Positive]  # range of a random factor of the image's size
    crop: Side  # a random window of this size is cut out, and what of it lies beyond the image is grey; 0: none
    visible: Fraction  # an object stays if so much of its area is in the image, and its centre is
    fill: Literal["mean", "black", "grey"]  # what rotation, zoom and shift leave empty
    brightness: Fraction  # drawn factor: 1 plus or minus at most this
    contrast: Fraction  # as for brightness
    saturation: Fraction  # as for brightness
    hue: Annotated[float, Field(ge=0, le=0.5, strict=True)]  # largest random shift, in turns of the colour circle
    mosaic: Fraction  # chance of four images around a point, together twice as large (crop says what of them is taken)
    mosaic_turns: Switch  # each of the four is turned by a random multiple of 90 degrees
    mixup: Fraction  # chance of a second image laid over the first, half transparent
    paste: NotNegative  # mean number of objects of other images put onto free ground, rarer classes more often
    close_epochs: Natural  # the last so many epochs have neither mosaic nor mixup

    @model_validator(mode="after")
    def _consistent(self) -> "AugmentConfig":
        if self.flip_horizontal + self.flip_vertical + self.flip_diagonal > 1:
            raise ValueError("the three flip chances add up to more than 1")
        for name, (smallest, largest) in (("scale", self.scale), ("resize", self.resize)):
            if smallest > largest:
                raise ValueError(f"{name} must be [smallest, largest]")
        if self.mosaic and not self.crop:
            raise ValueError("mosaic makes images twice as large; it needs a crop, for example of data.image_size")
        return self


class TrainConfig(Section):
    """Optimisation."""

    start: str  # "" for none, or a detector's file, rotated or not: what fits of it is taken, in place of backbone.weights
    epochs: Count  # passes over the training images
    batch_size: Count  # per process
    accumulate: Count  # batches per optimiser step
    optimizer: Literal["sgd", "adamw", "muon"]  # sgd: with momentum; muon: for matrices, adamw for everything else
    lr: Positive  # highest learning rate, after the warm-up
    matrix_lr: Positive  # muon: highest learning rate of matrices (lr is that of everything else)
    matrix_steps: Annotated[int, Field(ge=1, le=20, strict=True)]  # muon: Newton-Schulz steps to make a direction orthogonal
    not_matrices: list[str]  # muon: parameters whose name contains one of these are left to adamw
    scale_lr: Switch  # multiply lr by the total batch over 2
    momentum: Fraction  # of sgd
    betas: tuple[Fraction, Fraction]  # of adamw, and of muon's part by it
    weight_decay: NotNegative  # for all parameters but those of no_decay
    no_decay: list[str]  # parameters whose name contains one of these have no weight decay
    schedule: Literal["step", "cosine"]  # how the learning rate falls
    milestones: list[Natural]  # step: epochs after which the rate falls to a tenth
    flat: Fraction  # cosine: share of the epochs before the rate begins to fall
    final_ratio: Fraction  # cosine: where the rate ends, as a share of lr
    warmup_steps: Natural  # optimiser steps in which the rate rises to lr
    warmup_ratio: Fraction  # where it begins, as a share of lr
    clip_norm: NotNegative  # largest L2 norm of the gradient; 0: no clipping
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)]  # decay of the averaged weights; 0: none
    ema_warmup: Natural  # steps n in which the decay rises, by exp(-step / n); 0: it is at most (1 + step) / (10 + step)
    precision: Literal["fp32", "bf16", "fp16"]  # of forward and backward passes; weights are fp32
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]  # of order, augmentation and first weights
    validate_every: Natural  # epochs from one validation to the next; 0: only at the end
    save_every: Natural  # steps from one saved state to the next, besides those at the end of every epoch; 0: only those
    keep: Count  # saved states that are kept, the newest ones
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]]  # where the figures go besides metrics.jsonl
    shard: Switch  # several processes share the parameters (FSDP) instead of each having them all (DDP)
    best_metric: Literal["map50", "map75", "map50_95"]  # what makes a checkpoint the best


class PredictConfig(Section):
    """From logits to detections."""

    image_size: Side  # images are resized to fit this square; 0: their own resolution
    tile: Annotated[int, Field(ge=1, le=_LONGEST, strict=True)]  # larger images are cut into tiles of this size ...
    overlap: Natural  # ... that overlap by this much (only where image_size is 0)
    score_threshold: Fraction  # lowest score of a detection
    top_k: Count  # candidates of each level that go into NMS, the best ones
    iou_threshold: Fraction  # of two boxes of a class with a larger IoU, NMS keeps the better one
    max_detections: Count  # of an image or tile
    merge_iou: Fraction  # the same as iou_threshold, for boxes of different tiles
    drop_absurd: Switch  # no boxes with a side at the head's limit, or longer than twice the diagonal of the image or tile

    @model_validator(mode="after")
    def _consistent(self) -> "PredictConfig":
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile {self.tile}")
        return self
