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
from rotanext.data.augment import augment
from rotanext.data.index import Entry
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

    An image that does not decode gives the error itself as a value, since raised ones lose their shape between processes.
    """

    def __init__(self, entries: list[Entry], class_names: tuple[str, ...], config: Config) -> None:
        self.entries = [e for e in entries if config.data.background or len(e.objects.names)]
        if not self.entries:
            raise UserError("no training image has an object; set data.background=true to train on background alone")
        self.label_of = {name: i for i, name in enumerate(class_names)}
        self.config = config
        self._cache: dict[int, tuple[np.ndarray, float]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def _load(self, index: int) -> tuple[np.ndarray, float]:
        """The resized image and its scale; kept in memory where the configuration says so."""
        if index not in self._cache:
            loaded = resize_to_fit(read_pixels(self.entries[index].path), self.config.data.image_size)
            if not self.config.data.cache:
                return loaded
            self._cache[index] = loaded
        return self._cache[index]

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        epoch, index = key
        entry = self.entries[index]
        try:
            image, scale = self._load(index)
        except UserError as error:
            return error
        rng = np.random.default_rng([self.config.train.seed, epoch, index])
        config = self.config.augment
        holds_round = not set(config.round_classes).isdisjoint(entry.objects.names)
        image, corners, remain = augment(image, entry.objects.corners * scale, rng, config, holds_round)
        labels = torch.tensor([self.label_of[name] for name in entry.objects.names], dtype=torch.int64)
        keep = torch.from_numpy(remain)
        boxes = corners_to_boxes(torch.from_numpy(corners[remain]).reshape(-1, 4, 2)).float()
        if min(image.strides) < 0:  # NumPy calls a flipped image of one row or column contiguous
            image = image.copy()
        return Sample(torch.from_numpy(image), boxes, labels[keep])


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
