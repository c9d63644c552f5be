"""ONNX files: sealed, checked and opened; a small graph stands for a network (test_export.py has a traced one)."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from exported import CLASSES, small_graph
from rotanext.config import load_config
from rotanext.errors import UserError
from rotanext.export.metadata import Metadata
from rotanext.export.onnx_file import check_onnx, need, open_onnx, seal
from rotanext.export.protobuf import CHECKSUM, inspect, text_entry

METADATA = Metadata(CLASSES, load_config("small"), "fp32")
CPU = torch.device("cpu")


def sealed(path: Path, **names: str) -> Path:
    path.write_bytes(small_graph(**names))
    seal(path, METADATA)
    return path


def test_a_sealed_file_is_a_model_with_its_metadata(tmp_path: Path) -> None:
    path = sealed(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path))
    content, metadata = check_onnx(path)
    assert content == path.read_bytes()
    assert (metadata.class_names, metadata.config) == (CLASSES, METADATA.config)
    assert inspect(content).texts[CHECKSUM] == inspect(content).digest


def test_it_computes_on_any_number_of_images_of_any_size(tmp_path: Path) -> None:
    run, metadata, device = open_onnx(sealed(tmp_path / "m.onnx"), CPU)
    assert (metadata.precision, device) == ("fp32", CPU)
    for shape in ((1, 4, 5, 3), (2, 7, 3, 3)):
        images = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        logits, boxes = run(images)
        np.testing.assert_array_equal(logits, images.astype(np.float32))
        np.testing.assert_array_equal(boxes, -images.astype(np.float32))


def test_images_it_cannot_take_are_one_message(tmp_path: Path) -> None:
    run, _, _ = open_onnx(sealed(tmp_path / "m.onnx"), CPU)
    with pytest.raises(UserError, match=r"m\.onnx: found a graph that ONNX Runtime cannot compute"):
        run(np.zeros((1, 4, 5, 3), np.float32))


@pytest.mark.parametrize(("names", "found"), [({"images": "x"}, r"inputs \['x'\]"), ({"boxes": "b"}, r"outputs \['logits', 'b'\]")])
def test_ports_of_other_names_are_refused(names: dict[str, str], found: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=found):
        open_onnx(sealed(tmp_path / "m.onnx", **names), CPU)


def test_devices_that_it_has_not(tmp_path: Path) -> None:
    path = sealed(tmp_path / "m.onnx")
    with pytest.raises(UserError, match="device 'mps' cannot be used by ONNX Runtime"):
        open_onnx(path, torch.device("mps"))
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UserError, match="this ONNX Runtime has no CUDA"):
            open_onnx(path, torch.device("cuda"))


def test_operators_of_no_standard_are_neither_sealed_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small_graph("com.evil"))
    with pytest.raises(UserError, match=r"found operators of no standard: com\.evil\.Neg"):
        seal(path, METADATA)
    assert path.read_bytes() == small_graph("com.evil"), "left as it was"
    content = small_graph("com.evil") + b"".join(text_entry(name, text) for name, text in METADATA.to_texts().items())
    path.write_bytes(content + text_entry(CHECKSUM, inspect(content).digest))
    with pytest.raises(UserError, match=r"com\.evil\.Neg"):
        check_onnx(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.replace(b"Neg", b"Abs"), "a checksum that is not the one in it"),
        (lambda content: content + text_entry("author", "x"), "a checksum that is not the one in it"),
        (lambda content: content[: -len(text_entry(CHECKSUM, "0" * 64))], "a checksum that is not the one in it"),
        (lambda content: content[:-5], "no ONNX model"),
        (lambda content: b"", "in its metadata"),
    ],
    ids=["operator", "text", "no checksum", "cut", "empty"],
)
def test_changed_files_are_refused(change: object, message: str, tmp_path: Path) -> None:
    path = sealed(tmp_path / "m.onnx")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        check_onnx(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx: found that it cannot be read \(No such file"):
        check_onnx(tmp_path / "none.onnx")


def test_what_is_not_installed_is_named_with_its_extra() -> None:
    need("export", "onnx", "json")
    with pytest.raises(UserError, match=r"no_such_engine, nor_this is not installed.*pip install 'rotanext\[export\]'"):
        need("export", "no_such_engine", "onnx", "nor_this")
