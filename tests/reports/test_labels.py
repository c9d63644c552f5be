"""The page of the data doctor: its images and its histograms."""

import json
import re
import xml.dom.minidom
from pathlib import Path

import numpy as np
import pytest

from report_pages import Page
from rotanext.labels.check import check_labels
from rotanext.reports.labels import draw_sample, draw_shot, histogram, write_check


def test_samples_have_one_size_and_leave_their_image() -> None:
    image = np.full((30, 60, 3), 9, np.uint8)
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], float)
    drawn = draw_sample(image, np.stack([square, square + np.inf, square + 1e9]))
    assert drawn.shape == (220, 440, 3)
    assert (image == 9).all()
    assert (drawn != 9).any()
    alone = draw_sample(image, square[None])
    np.testing.assert_array_equal(drawn, alone)
    assert draw_sample(image, square[None][:0]).shape == (220, 440, 3)
    assert draw_shot(image, square).shape == (220, 220, 3)


def test_histograms_count_what_lies_beyond_to_their_ends() -> None:
    page = Page(histogram("Side", np.array([-5.0, 0.5, 1.5, 99]), np.array([0, 1, 2, 3.0])))
    assert {"0 to 1: 2", "1 to 2: 1", "2 to 3: 1", "median 1", "Side: median 1, of 4"} <= set(page.text)
    assert "median" not in " ".join(Page(histogram("Angle", np.arange(3.0), np.arange(4.0), middle=False)).text)


def test_the_page_and_the_figures_are_written(tiny_dataset: Path, tmp_path: Path) -> None:
    found = check_labels(tiny_dataset / "train")
    paths = write_check(found, tmp_path / "deep")
    assert [path.name for path in paths] == ["report.html", "report.json"]
    page = Page(paths[0].read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == ["advice", "findings", "images", "classes", "distributions"]
    assert len(page.all("svg")) == len(page.all("desc")) == 7
    assert all(image["src"] and image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert json.loads(paths[1].read_text())["problems"] == found.problems


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(5), np.array([1e9, -1e9, 3.0]), np.arange(1000.0)])
def test_histograms_are_whole(values: np.ndarray) -> None:
    if len(values):
        drawn = re.search(r"<svg.*</svg>", histogram("a <b>", values, np.array([0, 1, 2, 100.0])))
        assert drawn
        image = xml.dom.minidom.parseString(drawn[0])
        assert len([group for group in image.getElementsByTagName("g") if group.getAttribute("class") == "bar"]) == 3
