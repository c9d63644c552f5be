"""Choosing tiles: full ones first, rare classes early, background as asked."""

from pathlib import Path

import numpy as np

from rotanext.data.dota import list_items, read_objects
from rotanext.data.select import choose_tiles, thin_out
from rotanext.data.split import split_dataset
from rotanext.errors import Problems
from rotanext.synthetic.scenes import CLASS_NAMES, make_dataset


def test_full_tiles_come_first_and_rare_classes_early() -> None:
    counts = np.array([[0, 0], [8, 0], [1, 0], [8, 0], [8, 0], [0, 1]])
    assert choose_tiles(counts, 2).tolist() == [1, 3]
    assert choose_tiles(counts, 4).tolist() == [1, 3, 4, 5]  # one of the second class before one more of the first
    assert sorted(choose_tiles(counts, 99).tolist()) == list(range(6))


def test_a_row_of_many_does_not_outweigh_variety() -> None:
    assert choose_tiles(np.array([[100, 0], [7, 7]]), 1).tolist() == [1]


def test_thinning_keeps_what_was_chosen(tmp_path: Path) -> None:
    make_dataset(tmp_path / "scenes", 2, 512, seed=4, scale=1.6)
    split_dataset(tmp_path / "scenes", tmp_path / "tiles", size=128, overlap=32, workers=1, progress=False)
    before = list_items(tmp_path / "tiles", Problems())
    thin_out(tmp_path / "tiles", 10, CLASS_NAMES, background=0.2)
    after = list_items(tmp_path / "tiles", Problems())
    assert len(before) > 20
    assert len(after) == 10
    held = [len(read_objects(item.label, Problems())) for item in after if item.label]
    assert held.count(0) == 2
    assert np.mean([count for count in held if count]) > 2
