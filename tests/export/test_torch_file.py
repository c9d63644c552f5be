"""torch.export's files, read by ourselves: weights and metadata from an archive like those that torch writes, nothing run."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exported import CLASSES, image
from rotanext.errors import UserError
from rotanext.export.metadata import Metadata
from rotanext.export.torch_file import open_program, read_program, write_program
from rotanext.inference.detector import Detector

Entries = dict[str, Any]
CPU = torch.device("cpu")
TYPES = {torch.float16: 6, torch.float32: 7}


def entries_of(detector: Detector, dtype: torch.dtype = torch.float32) -> Entries:
    """What torch.export.save writes of a detector's weights and metadata: names in the archive to bytes, or to JSON."""
    index, files = {}, {}
    for number, (name, value) in enumerate(detector.model.state_dict().items()):
        value = value.detach().to(dtype).contiguous()
        meta = {
            "dtype": TYPES[dtype],
            "sizes": [{"as_int": size} for size in value.shape],
            "strides": [{"as_int": step} for step in value.stride()],
            "storage_offset": {"as_int": 0},
        }
        index[f"network.{name}"] = {"path_name": f"weight_{number}", "use_pickle": False, "tensor_meta": meta}
        files[f"m/data/weights/weight_{number}"] = value.numpy().tobytes()
    texts = Metadata(CLASSES, detector.config, "fp32").to_texts()
    return {"m/extra/rotanext.json": texts, "m/data/weights/model_weights_config.json": {"config": index}} | files


def write(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content if isinstance(content, bytes | str) else json.dumps(content))
    return path


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 1e-2)])
def test_weights_and_metadata(detector: Detector, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    config, metadata, weights = read_program(write(tmp_path / "m.pt2", entries_of(detector, dtype)))
    assert (config, metadata.class_names) == (detector.config, CLASSES)
    assert weights.keys() == detector.model.state_dict().keys()
    for name, value in detector.model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=tolerance, atol=tolerance, check_stride=False)


def test_a_detector_of_it(detector: Detector, tmp_path: Path) -> None:
    """Layer scale, which tracing folds into other weights, may be missing: it is 1 then."""
    entries = entries_of(detector)
    opened, _ = open_program(write(tmp_path / "m.pt2", entries), CPU, None, precision="fp32", compiled=False)
    assert torch.equal(opened(image(96, 96)).boxes, detector(image(96, 96)).boxes)
    index = entries["m/data/weights/model_weights_config.json"]["config"]
    for name in [name for name in index if name.endswith(".gamma")]:
        del index[name]
    opened, _ = open_program(write(tmp_path / "n.pt2", entries), CPU, ("a", "b"), precision="fp32", compiled=False)
    assert opened.class_names == ("a", "b")
    gammas = [value for name, value in opened.model.state_dict().items() if name.endswith(".gamma")]
    assert gammas
    assert all(torch.equal(value, torch.ones_like(value)) for value in gammas)


def first(entries: Entries) -> dict[str, Any]:
    return next(iter(entries["m/data/weights/model_weights_config.json"]["config"].values()))


def set_meta(key: str, value: Any) -> Callable[[Entries], None]:
    return lambda entries: first(entries)["tensor_meta"].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: first(e).update(use_pickle=True), "pickled weights, which are not read"),
        (lambda e: first(e).update(use_pickle=0), "pickled weights"),
        (lambda e: first(e).update(path_name="none"), "no program of rotanext"),
        (set_meta("dtype", 8), "numbers of type 8"),
        (set_meta("sizes", [{"as_int": 10**9}]), "weights of sizes other"),
        (set_meta("sizes", [{"as_int": -1}]), "a size that is not a whole number"),
        (set_meta("sizes", [{"as_expr": "__import__('os')"}]), "no program of rotanext"),
        (set_meta("strides", [{"as_int": 10**6}] * 4), "no program of rotanext"),
        (set_meta("storage_offset", {"as_int": 10**6}), "no program of rotanext"),
        (lambda e: e.pop("m/data/weights/model_weights_config.json"), "no program of rotanext"),
        (lambda e: e.update({"m/data/weights/model_weights_config.json": "[]"}), "holds no table"),
        (lambda e: e.update({"m/data/weights/model_weights_config.json": {"config": 3}}), "no list of weights"),
        (lambda e: e.update({"m/extra/rotanext.json": {}}), "in its metadata"),
        (lambda e: e.update({"m/extra/rotanext.json": "{"}), "no program of rotanext"),
    ],
    ids=[
        "pickle", "pickle as a number", "no such entry", "type", "sizes", "negative", "expression", "strides", "offset", "no index",
        "a list", "no weights", "no metadata", "no JSON",
    ],
)  # fmt: skip
def test_archives_of_another_kind_are_refused(
    detector: Detector, change: Callable[[Entries], None], message: str, tmp_path: Path
) -> None:
    entries = entries_of(detector)
    change(entries)
    with pytest.raises(UserError, match=message) as error:
        read_program(write(tmp_path / "m.pt2", entries))
    assert str(error.value).startswith(str(tmp_path / "m.pt2"))


def test_a_small_file_cannot_become_a_large_one(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is compressed or too large"):
        read_program(write(tmp_path / "m.pt2", entries_of(detector), zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "empty archive"])
def test_files_that_are_no_archives(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.pt2: found no program of rotanext"):
        read_program(tmp_path / "m.pt2")
    with pytest.raises(UserError, match=r"none\.pt2: found that it cannot be read"):
        read_program(tmp_path / "none.pt2")


def test_weights_that_are_no_numbers(detector: Detector, tmp_path: Path) -> None:
    entries = entries_of(detector)
    name = f"m/data/weights/{first(entries)['path_name']}"
    entries[name] = b"\xff" * len(entries[name])
    path = write(tmp_path / "m.pt2", entries)
    with pytest.raises(UserError, match="found weights that are not numbers"):
        open_program(path, CPU, None, precision="fp32", compiled=False)


def test_weights_of_another_network(detector: Detector, tmp_path: Path) -> None:
    entries = entries_of(detector)
    index = entries["m/data/weights/model_weights_config.json"]["config"]
    del index["network.head.cls_out.bias"]
    path = write(tmp_path / "m.pt2", entries)
    with pytest.raises(UserError, match=r"missing \(1\): head\.cls_out\.bias"):
        open_program(path, CPU, None, precision="fp32", compiled=False)


def test_whole_numbers_among_the_weights(tmp_path: Path) -> None:
    """Batch norms count their batches."""
    from places import TESTS
    from rotanext.export.graph import DecodedNetwork, trace
    from rotanext.load import load_detector

    detector = load_detector(TESTS / "files/format1/sgd-v1/last.safetensors", "cpu")
    metadata = Metadata(detector.class_names, detector.config, "fp32")
    write_program(trace(DecodedNetwork(detector.model)), tmp_path / "m.pt2", metadata)
    again = load_detector(tmp_path / "m.pt2", "cpu")
    for name, value in detector.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
