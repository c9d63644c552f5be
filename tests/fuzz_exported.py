"""Inputs for the readers of exported files: small files with everything those read, and changes that keep the checksum right."""

import json
import struct
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random

import onnx
from onnx import TensorProto, helper

from fuzz_inputs import mutate_bytes, mutate_json
from rotanext.config import load_config
from rotanext.export.metadata import Metadata
from rotanext.export.onnx_file import check_onnx
from rotanext.export.protobuf import CHECKSUM, inspect, text_entry
from rotanext.export.torch_file import read_program

_METADATA = Metadata(("plane", "ship"), load_config("demo"), "fp32")


def _sealed(content: bytes) -> bytes:
    return content + text_entry(CHECKSUM, inspect(content).digest)


def onnx_seeds() -> tuple[bytes, ...]:
    """A graph of two operators and a weight, with the metadata of a detector."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    nodes = [helper.make_node("Cast", ["pictures"], ["x"], to=TensorProto.FLOAT), helper.make_node("Mul", ["x", "w"], ["logits"])]
    pictures = helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["b", "h", "w", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    content = helper.make_model(helper.make_graph(nodes, "g", [pictures], [logits], [weight])).SerializeToString()
    content += b"".join(text_entry(name, text) for name, text in _METADATA.to_texts().items())
    assert onnx.load_from_string(content).graph.name == "g"
    return (_sealed(content),)


def mutate_onnx(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Changed bytes; in half of the files they are changed before the checksum is computed, so that it is right."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, seeds)
    bare = [seed[: -len(text_entry(CHECKSUM, "0" * 64))] for seed in seeds]
    content = mutate_bytes(rng, bare)
    try:
        return _sealed(content)
    except ValueError:
        return content


def read_onnx_checked(path: Path) -> object:
    """What `load_detector` knows of an ONNX file before a runtime sees it."""
    _, metadata = check_onnx(path)
    assert all(isinstance(name, str) and name for name in metadata.class_names)
    return metadata.class_names


def program_seeds() -> tuple[bytes, ...]:
    """An archive as torch.export writes them, of one weight."""
    meta = {"dtype": 7, "sizes": [{"as_int": 2}, {"as_int": 1}], "strides": [{"as_int": 1}, {"as_int": 1}]}
    entry = {
        "path_name": "weight_0",
        "is_param": True,
        "use_pickle": False,
        "tensor_meta": meta | {"storage_offset": {"as_int": 0}},
    }
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/extra/rotanext.json", json.dumps(_METADATA.to_texts()))
        archive.writestr("m/data/weights/model_weights_config.json", json.dumps({"config": {"network.w": entry}}))
        archive.writestr("m/data/weights/weight_0", struct.pack("<2f", 1.0, 2.0))
    return (buffer.getvalue(),)


def mutate_program(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Changed bytes of the archive, or an archive with one entry's content changed."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, seeds)
    with zipfile.ZipFile(BytesIO(rng.choice(seeds))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(entries))
    entries[name] = (mutate_json if name.endswith(".json") else mutate_bytes)(rng, [entries[name]])
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def read_program_checked(path: Path) -> object:
    """Configuration and weights of a .pt2 file."""
    _, metadata, weights = read_program(path)
    assert metadata.class_names
    return {name: tuple(value.shape) for name, value in weights.items()}
