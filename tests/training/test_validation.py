"""Validation within a training: every entry once, images that cannot be read named, and stops heard."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from networks import small_network
from rotanext.data.index import read_dataset
from rotanext.errors import Problems, UserError
from rotanext.inference.detector import Detector
from rotanext.system.processes import Processes
from rotanext.system.progress import Display
from rotanext.training.validation import validate
from tiny import draw_dataset, tiny_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return draw_dataset(tmp_path / "val", 3)


def run(data: Path, stopped: bool = False, problems: Problems | None = None) -> tuple[bool, object]:
    config = tiny_config(data, data)
    names, entries = read_dataset([data], "auto", Problems())
    detector = Detector(small_network("convnext_atto", 2, "head.anchor_scale=2.0"), config, names)
    if problems is not None:
        (data / "images/p1.png").write_bytes(b"damaged since")
    display = Display(Console(quiet=True))
    return validate(detector, entries, Processes("cpu", "fp32"), display, problems or Problems(), lambda: stopped, data)


def test_all_entries_are_compared_with_their_labels(data: Path) -> None:
    finished, evidence = run(data)
    assert finished
    assert evidence.stems == ("p0", "p1", "p2")  # type: ignore[attr-defined]
    assert evidence.truths.image_count == 3  # type: ignore[attr-defined]
    assert torch.is_grad_enabled()


def test_a_stop_ends_it_without_evidence(data: Path) -> None:
    assert run(data, stopped=True) == (False, None)


def test_an_image_that_cannot_be_read_is_left_out_and_named(data: Path) -> None:
    problems = Problems()
    _, evidence = run(data, problems=problems)
    assert evidence.stems == ("p0", "p2")  # type: ignore[attr-defined]
    assert problems.count == 1
    assert "p1.png" in problems.first[0]


def test_a_folder_that_has_vanished_ends_the_training(data: Path) -> None:
    names, entries = read_dataset([data], "auto", Problems())
    detector = Detector(small_network("convnext_atto", 2, "head.anchor_scale=2.0"), tiny_config(data, data), names)
    data.rename(data.with_name("away"))
    with pytest.raises(UserError, match="rotanext train --resume"):
        validate(detector, entries, Processes("cpu", "fp32"), Display(Console(quiet=True)), Problems(), lambda: False, data)
