"""What the rest of the package knows of a detector's head, whatever its family.

A head family is one file: its section of the configuration, its module, priors, decoding, assignment and losses. Networks give
`Raw`; `Head.decode` makes boxes of it, `Head.losses` the terms that are trained; nobody else looks inside.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Raw(NamedTuple):
    """What a network gives: maps of every level, finest first, of K priors a position, C classes and G numbers a prior."""

    logits: list[Tensor]  # [B, K * C, h, w], prior-major: before the sigmoid
    geometry: list[Tensor]  # [B, K * G, h, w], prior-major: what the head's family makes boxes of

    def images(self, part: slice) -> "Raw":
        """The same of some images of the batch."""
        return Raw([level[part] for level in self.logits], [level[part] for level in self.geometry])


class Candidates(NamedTuple):
    """Priors chosen of a batch, `[N]` int64 each: image, level, and number over all levels, which lie one after the other.

    Within a level priors are counted row by row, position by position, as in `rows` and in the `[B, P, 5]` of `Head.decode`.
    """

    image: Tensor
    level: Tensor
    prior: Tensor


class Targets(NamedTuple):
    """The objects of each image of a batch: boxes `[G, 5]` (le90, pixels of the batch) and labels `[G]` int64."""

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]


class Term(NamedTuple):
    """One term of the loss: its sum over this process's batch, and what all processes' sums together are divided by."""

    sum: Tensor  # scalar float32, differentiable
    weight: Tensor  # scalar float32; summed over the processes, and at least 1
    factor: float = 1.0  # how much the term counts in the loss


class Losses(NamedTuple):
    """The terms under the names that logs and charts show, and how many priors learn an object."""

    terms: dict[str, Term]
    positives: Tensor  # scalar float32


class Reach(NamedTuple):
    """How well priors fit objects, for the data doctor, and what to say about it."""

    fit: Tensor  # [N] from 0 to 1, of the prior that fits each object best
    least: float  # a fit below it is none: the object is hard to learn
    measure: str  # what the fit is, such as "IoU of the best anchor"
    advice: list[str]  # whole sentences


class Head(Protocol):
    """A head: an `nn.Module` with these besides."""

    num_classes: int
    priors: int  # at every position
    strides: tuple[int, ...]  # of the levels
    centres_inside: bool  # whether centres of boxes are moved into the image they were detected in

    def __call__(self, pyramid: list[Tensor]) -> Raw:
        """Raw outputs of the neck's maps `[B, channels, h, w]`, one a level."""
        ...

    def decode(self, raw: Raw, chosen: Candidates | None = None) -> Tensor:
        """Boxes `[N, 5]` (float32, le90, pixels of the batch) of chosen priors, or `[B, P, 5]` of all, level by level.

        Where the outputs describe no box, a side is 0 or less, and nothing is detected. Pure tensor arithmetic: it is traced for
        export as well.
        """
        ...

    def losses(self, raw: Raw, targets: Targets) -> Losses:
        """The loss's terms; a batch without objects, or without images, gives every parameter a zero gradient instead of none."""
        ...


class HeadSection(Protocol):
    """A family's section of the configuration, a `Section` with `kind` and these besides."""

    @property
    def kind(self) -> str:
        """The family's name."""
        ...

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> Head:
        """The head for a neck's maps of so many channels at these strides."""
        ...

    @property
    def priors(self) -> int:
        """Priors of every position."""
        ...

    def classes_of(self, weights: Mapping[str, Tensor]) -> int:
        """How many classes the network with these weights (under our names) tells apart; 0 where its head is not among them."""
        ...

    def at_limit(self, boxes: Tensor, chosen: Candidates, strides: tuple[int, ...]) -> Tensor:
        """Which boxes `[N, 5]`, decoded of chosen priors, have a side at a limit that decoding sets, `[N]` bool.

        None of them, where it sets no limit. Told by the boxes alone, as an exported network gives nothing else.
        """
        ...

    def reach(self, boxes: Tensor, strides: tuple[int, ...], recipe: str) -> Reach:
        """Which of the boxes `[N, 5]` (pixels of the network's input) its priors can learn; advice is for users of a recipe."""
        ...


def rows(maps: Sequence[Tensor], numbers: int) -> list[Tensor]:
    """Per level `[B, K * numbers, h, w]` as `[B, h * w * K, numbers]`: a row a prior, position by position."""
    return [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, numbers) for level in maps]


def joined(raw: Raw, classes: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Logits `[B, P, classes]` and geometry `[B, P, numbers]` of the priors of all levels, float32."""
    return torch.cat(rows(raw.logits, classes), 1).float(), torch.cat(rows(raw.geometry, numbers), 1).float()


def nothing_to_learn(raw: Raw) -> Tensor:
    """A zero that depends on every output, of a batch without images."""
    return torch.stack([level.sum() for maps in raw for level in maps]).sum().float()
