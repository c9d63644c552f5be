"""Our own files of detectors: what is written reads back, and headers of any other kind are refused."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mmrotate_files import CLASSES
from networks import small_config
from rotanext.boxes import CONVENTION
from rotanext.checkpoints.detectors import read_detector_file
from rotanext.checkpoints.own import read_header, save_detector_file
from rotanext.config.formats import FORMAT
from rotanext.errors import UserError
from rotanext.models.network import Network


def test_own_format(small: Network, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "best.safetensors"
    config = small_config("convnext_atto", "head.anchors=v1")
    save_detector_file(path, small.state_dict(), config, CLASSES)
    found = read_detector_file(path)
    assert (found.layout, found.class_names, found.config) == ("rotanext detector", CLASSES, config)
    assert all(torch.equal(v, found.weights[k]) for k, v in small.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]


def test_full_disk_keeps_the_last_file(small: Network, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_detector_file(path, {"head.cls_out.weight": torch.ones(2)}, small_config(), CLASSES)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # every write beyond this fails, as on a full disk
    try:
        with pytest.raises(UserError, match=r"best\.safetensors"):
            save_detector_file(path, small.state_dict(), small_config(), CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("change", [
    {"format": 4}, {"box_convention": "le135"}, {"class_names": None}, {"class_names": [1, 2]}, {"config": None},
], ids=str)  # fmt: skip
def test_own_format_checked(small: Network, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "d.safetensors"
    save_detector_file(path, small.state_dict(), small_config(), CLASSES)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    save_file(small.state_dict(), path, {"rotanext": json.dumps(header | change)})
    with pytest.raises(UserError, match=r"d\.safetensors.*expected a rotanext detector"):
        read_detector_file(path)
    save_file(small.state_dict(), path)
    with pytest.raises(UserError, match="no readable header"):
        read_detector_file(path)


def test_a_bottomless_header(small: Network, tmp_path: Path) -> None:
    save_file(small.state_dict(), tmp_path / "d.safetensors", {"rotanext": "[" * 100_000})
    with pytest.raises(UserError, match="no readable header"):
        read_detector_file(tmp_path / "d.safetensors")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": 2}', "3"], ids=str)
def test_headers_without_what_a_detector_needs(content: str | None, tmp_path: Path) -> None:
    header = {} if content is None else {"rotanext": content}
    with pytest.raises(UserError, match=r"w\.safetensors: found no readable header"):
        read_header(header, tmp_path / "w.safetensors")


def test_a_header_of_format_1_is_read_as_it_is() -> None:
    content = {"format": 1, "box_convention": CONVENTION, "config": {"model": {}}, "class_names": ["a"], "anchors": "v1"}
    assert read_header({"rotanext": json.dumps(content)}, Path("w.safetensors")) == content


def test_the_file_says_what_it_is_to_other_programs(small: Network, tmp_path: Path) -> None:
    save_detector_file(tmp_path / "w.safetensors", small.state_dict(), small_config(), CLASSES)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    assert header.keys() == {"format", "kind", "version", "config", "class_names", "box_convention"}
    assert (header["format"], header["kind"], header["box_convention"]) == (FORMAT, "detector", CONVENTION)
    assert header["config"]["format"] == FORMAT
