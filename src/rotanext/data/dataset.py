"""Training images with their boxes, in an order that depends on the seed and the epoch alone."""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rotanext.boxes import corners_to_boxes
from rotanext.config import Config
from rotanext.data.augment import Example, augment
from rotanext.data.index import Entry
from rotanext.data.mixup import mixup
from rotanext.data.mosaic import random_mosaic
from rotanext.data.paste import cut_out, free_place, paste, random_turn, stock_of
from rotanext.errors import UserError
from rotanext.images.resize import resize_to_fit
from rotanext.images.scenes import read_pixels


class Sample(NamedTuple):
    """One image (uint8 RGB `[H, W, 3]`) with boxes `[G, 5]` (le90) and labels `[G]`."""

    image: Tensor
    boxes: Tensor
    labels: Tensor


class TrainingSet(Dataset[Sample | UserError]):
    """Augmented training samples; indexed by (epoch, index), which alone decide the random changes.

    Where several images make one (mosaic, mixup, pasted objects) the others are drawn from the whole index by the same generator,
    not from images that happen to have been read before: so neither a resumption nor the number of workers changes a sample.
    Their pixels come like all pixels, through the cache where there is one; without it each costs another reading.

    An image that does not decode gives the error itself as a value, since raised ones lose their shape between processes. As one of
    several it is left out, and told of when its own turn comes.
    """

    def __init__(self, entries: list[Entry], class_names: tuple[str, ...], config: Config) -> None:
        self.entries = [e for e in entries if config.data.background or len(e.objects.names)]
        if not self.entries:
            raise UserError("no training image has an object; set data.background=true to train on background alone")
        self.label_of = {name: i for i, name in enumerate(class_names)}
        self.config = config
        self._round = [label for name, label in self.label_of.items() if name in config.augment.round_classes]
        self._stock = stock_of([self._labels(entry) for entry in self.entries]) if config.augment.paste else None
        self._cache: dict[int, tuple[np.ndarray, float]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def _labels(self, entry: Entry) -> np.ndarray:
        return np.array([self.label_of[name] for name in entry.objects.names], np.int64)

    def _load(self, index: int) -> tuple[np.ndarray, float]:
        """The resized image and its scale; kept in memory where the configuration says so."""
        if index not in self._cache:
            loaded = resize_to_fit(read_pixels(self.entries[index].path), self.config.data.image_size)
            if not self.config.data.cache:
                return loaded
            self._cache[index] = loaded
        return self._cache[index]

    def _read(self, index: int) -> Example:
        """A labelled image as it is."""
        entry = self.entries[index]
        pixels, scale = self._load(index)
        return Example(pixels, entry.objects.corners * scale, self._labels(entry))

    def _filled(self, index: int, rng: np.random.Generator) -> Example:
        """A labelled image with objects pasted onto its free ground."""
        example = self._read(index)
        for _ in range(rng.poisson(self.config.augment.paste) if self._stock and len(self._stock.images) else 0):
            example = self._with_another(example, rng)
        return example

    def _with_another(self, example: Example, rng: np.random.Generator) -> Example:
        """An image with one more object, or without where that finds no place."""
        assert self._stock is not None
        index, number = self._stock.draw(rng)
        try:
            cutting = cut_out(self._read(index), number)
        except UserError:
            return example
        if cutting is None:
            return example
        degrees = random_turn(rng, cutting.source.labels[number] in self._round)
        centre = free_place(cutting, example.pixels.shape[1::-1], example.corners, degrees, rng)
        return example if centre is None else paste(example, cutting, centre, degrees)

    def _partner(self, rng: np.random.Generator) -> Example | None:
        """Another image, with objects pasted; none where it cannot be read."""
        try:
            return self._filled(int(rng.integers(len(self))), rng)
        except UserError:
            return None

    def _changed(self, example: Example, rng: np.random.Generator, several: bool) -> Example:
        """The image after all changes that it can have on its own or, where `several` may make one, as the first of a mosaic."""
        config = self.config.augment
        if several and config.mosaic and rng.random() < config.mosaic:
            example = random_mosaic([example, *(self._partner(rng) for _ in range(3))], rng, config.mosaic_turns)
        holds_round = bool(np.isin(example.labels, self._round).any())
        pixels, corners, remain = augment(example.pixels, example.corners, rng, config, holds_round)
        return Example(pixels, corners[remain], example.labels[remain])

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        epoch, index = key
        config, train = self.config.augment, self.config.train
        several = epoch < train.epochs - config.close_epochs
        rng = np.random.default_rng([train.seed, epoch, index])
        try:
            example = self._filled(index, rng)
        except UserError as error:
            return error
        example = self._changed(example, rng, several)
        if several and config.mixup and rng.random() < config.mixup and (partner := self._partner(rng)) is not None:
            example = mixup(example, self._changed(partner, rng, several))
        boxes = corners_to_boxes(torch.from_numpy(example.corners).reshape(-1, 4, 2)).float()
        image = example.pixels
        if min(image.strides) < 0:  # NumPy calls a flipped image of one row or column contiguous
            image = image.copy()
        return Sample(torch.from_numpy(image), boxes, torch.from_numpy(example.labels))


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) of one epoch, from batch `start` on: a permutation by seed and epoch, dealt to the processes.

    The batches that the processes have at the same time are, together, those of one process with so many times the batch. All have
    equally many; at the end of an epoch a batch may be smaller than others', or empty, but no image comes twice.
    """

    def __init__(self, length: int, batch_size: int, seed: int, process: int = 0, processes: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.process, self.processes = process, processes
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.length // (self.batch_size * self.processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        mine = order[self.process :: self.processes]
        for at in range(self.start, len(self)):
            yield [(self.epoch, int(i)) for i in mine[at * self.batch_size : (at + 1) * self.batch_size]]


def collate(samples: list[Sample | UserError]) -> list[Sample | UserError]:
    """Samples keep their own sizes; the model pads them to a batch."""
    return samples


def _worker_signals(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the main one alone decides how to stop, and ends the workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def make_loader(dataset: TrainingSet, order: EpochOrder, workers: int) -> "DataLoader[Sample | UserError]":
    """Loads the batches of `order`; uses its own random generator, so that the global one stays as training left it."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_worker_signals,
        generator=torch.Generator().manual_seed(0),
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
    )
