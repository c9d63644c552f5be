"""OpenVINO's two files: checked as bytes, written and computed; a small graph stands for a network."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import CLASSES, small_graph
from rotanext.config import load_config
from rotanext.errors import UserError
from rotanext.export.metadata import Metadata
from rotanext.export.openvino_file import check_openvino, open_openvino, sealed, weights_of, write_openvino
from rotanext.system.signals import signal_stack

CPU = torch.device("cpu")


def pair(folder: Path, document: bytes = b"<net/>", weights: bytes = b"1234") -> Path:
    """A sealed .xml and its .bin, whatever they hold."""
    (folder / "m.bin").write_bytes(weights)
    (folder / "m.xml").write_bytes(sealed(document, weights))
    return folder / "m.xml"


def test_what_was_sealed_comes_back_without_its_seal(tmp_path: Path) -> None:
    assert check_openvino(pair(tmp_path)) == (b"<net/>", b"1234")
    twice = sealed(sealed(b"<net/>", b"1"), b"1234")  # the last seal counts
    (tmp_path / "m.xml").write_bytes(twice)
    assert check_openvino(tmp_path / "m.xml") == (sealed(b"<net/>", b"1"), b"1234")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("m.xml", sealed(b"<other/>", b"1234").replace(b"other", b"otter"), "a checksum that is not the one in it"),
        ("m.xml", sealed(b"<net/>", b"1234")[:-9], "a checksum that is not the one in it"),
        ("m.xml", b"<net/>", "no checksum of rotanext"),
        ("m.xml", b"", "no checksum of rotanext"),
        ("m.bin", b"1235", "a checksum that is not the one in it"),
        ("m.bin", b"", "a checksum that is not the one in it"),
        ("m.bin", None, r"m\.bin cannot be read .*side by side"),
        ("m.xml", None, r"m\.xml cannot be read"),
    ],
    ids=["document", "seal cut", "no seal", "empty", "weights", "no weights", "no .bin", "no .xml"],
)
def test_other_bytes_are_refused(file: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = pair(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        check_openvino(path)
    assert str(error.value).startswith(str(path))


def test_a_seal_is_no_graph(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match=r"m\.xml: found a graph that OpenVINO cannot compute"):
        open_openvino(pair(tmp_path), None)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small graph as m.xml and m.bin."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("openvino")
    (folder / "g.onnx").write_bytes(small_graph())
    write_openvino(folder / "g.onnx", folder / "m.xml", Metadata(CLASSES, load_config("small"), "fp32"))
    return folder / "m.xml"


def test_it_computes_on_any_number_of_images_of_any_size(written: Path) -> None:
    before = signal_stack()
    assert weights_of(written).is_file()
    run, metadata, device = open_openvino(written, CPU)
    assert (metadata.class_names, metadata.precision, device) == (CLASSES, "fp32", CPU)
    for shape in ((1, 4, 5, 3), (2, 7, 3, 3)):
        images = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        logits, boxes = run(images)
        np.testing.assert_array_equal(logits, images.astype(np.float32))
        np.testing.assert_array_equal(boxes, -images.astype(np.float32))
    assert signal_stack() == before, "OpenVINO's own is freed later: the next signal would end the program"


def test_results_stay_when_the_next_image_is_computed(written: Path) -> None:
    run, _, _ = open_openvino(written, None)
    first, _ = run(np.full((1, 2, 2, 3), 7, np.uint8))
    run(np.zeros((1, 2, 2, 3), np.uint8))
    assert first.min() == 7


def test_only_on_the_cpu(written: Path) -> None:
    with pytest.raises(UserError, match="device 'cuda' cannot be used by OpenVINO"):
        open_openvino(written, torch.device("cuda"))


def test_ports_of_other_names_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "g.onnx").write_bytes(small_graph(boxes="other"))
    write_openvino(tmp_path / "g.onnx", tmp_path / "m.xml", Metadata(CLASSES, load_config("small"), "fp32"))
    with pytest.raises(UserError, match=r"found ports .*other"):
        open_openvino(tmp_path / "m.xml", None)


def test_graphs_without_metadata_are_not_ours(written: Path, tmp_path: Path) -> None:
    document, weights = check_openvino(written)
    shutil.copy(weights_of(written), tmp_path / "m.bin")
    (tmp_path / "m.xml").write_bytes(sealed(document.replace(b"rotanext", b"somebody"), weights))
    with pytest.raises(UserError, match="in its metadata; expected a file written by rotanext export"):
        open_openvino(tmp_path / "m.xml", None)
