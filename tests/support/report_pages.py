"""Pages of reports read as a browser would, images of charts looked at, and evaluations to report on."""

from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

from rotanext.evaluation.metrics import Evidence, Predictions, Scores, Truths, evaluate

_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds; raises where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for tag, attributes in self.tags if tag == name]


def grid_evidence(names: tuple[str, ...], images: tuple[Path | None, ...], stems: tuple[str, ...]) -> Evidence:
    """Objects on a grid in every image, most of them found, some by the wrong class or in the wrong place."""
    rng = np.random.default_rng(0)
    objects, found = [], []
    for _ in images:
        centres = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 1, 2) * 40 + 30.0
        shape = np.array([[-14, -5], [14, -5], [14, 5], [-14, 5]])
        labels = rng.integers(0, len(names), 36)
        objects.append((centres + shape, labels, rng.random(36) < 0.1))
        guesses = np.where(rng.random(36) < 0.8, labels, rng.integers(0, len(names), 36))
        found.append((centres + shape + rng.normal(0, 1.5, (36, 1, 2)), rng.uniform(0.1, 1, 36), guesses))
    sizes = np.full((len(images), 2), 250.0)
    return Evidence(names, Predictions.of_images(found), Truths.of_images(objects), stems, images, sizes)


def random_scores(classes: int, objects: int = 80) -> Scores:
    """Of objects of so many classes, most of them found."""
    rng = np.random.default_rng(classes)
    corners = rng.uniform(0, 1000, (objects, 1, 2)) + np.array([[0, 0], [30, 0], [30, 20], [0, 20]])
    labels = rng.integers(0, max(classes, 1), objects)
    guesses = np.where(rng.random(objects) < 0.8, labels, rng.integers(0, max(classes, 1), objects))
    kept = rng.random(objects) < 0.8
    moved = corners[kept] + rng.normal(0, 3, (int(kept.sum()), 1, 2))
    predictions = Predictions.of_images([(moved, rng.random(len(moved)), guesses[kept])])
    truths = Truths.of_images([(corners, labels, np.zeros(objects))])
    return evaluate(predictions, truths, [f"quite-a-long-name-{k}" for k in range(classes)])


def checked_image(path: Path) -> np.ndarray:
    """A chart's file: of a readable size, with something on it, nothing cut off."""
    image = cv2.imread(str(path))
    assert image is not None
    assert 400 < image.shape[0] < 4000
    assert 400 < image.shape[1] < 4000
    assert image.std() > 3  # something is drawn
    assert (image[0] == 255).all()  # and nothing is cut off at the edges
    assert (image[:, -1] == 255).all()
    return image
