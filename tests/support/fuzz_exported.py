"""Inputs for the readers of exported files: small files with everything those read, and changes that keep the checksum right."""

import json
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper

from fuzz_inputs import mutate_bytes, mutate_json, mutate_text
from rotanext.config import load_config
from rotanext.export.metadata import PREFIX, Metadata
from rotanext.export.onnx_file import check_onnx
from rotanext.export.openvino_file import open_openvino, sealed
from rotanext.export.protobuf import CHECKSUM, inspect, text_entry
from rotanext.export.torch_file import read_program

_METADATA = Metadata(("plane", "ship"), load_config("demo"), "fp32")
WEIGHTS = np.array([1, 2, 3], np.float32).tobytes()


def _sealed(content: bytes) -> bytes:
    return content + text_entry(CHECKSUM, inspect(content).digest)


def onnx_seeds() -> tuple[bytes, ...]:
    """A graph of two operators and a weight, with the metadata of a detector."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    nodes = [helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT), helper.make_node("Mul", ["x", "w"], ["logits"])]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    content = helper.make_model(helper.make_graph(nodes, "g", [images], [logits], [weight])).SerializeToString()
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


def openvino_seeds() -> tuple[bytes, ...]:
    """The .xml of a graph of three operators, as openvino writes it, sealed together with WEIGHTS."""
    import openvino
    from openvino import opset13 as ops

    images = ops.parameter([-1, -1, -1, 3], np.uint8, name="images")
    images.output(0).set_names({"images"})
    product = ops.multiply(ops.convert(images, "f32"), ops.constant(np.frombuffer(WEIGHTS, np.float32)))
    results = []
    for name in ("logits", "boxes"):
        result = ops.result(product if name == "logits" else ops.negative(product))
        result.output(0).set_names({name})
        results.append(result)
    model = openvino.Model(results, [images], "detector")
    for name, text in _METADATA.to_texts().items():
        model.set_rt_info(text, ["rotanext", name.removeprefix(PREFIX)])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "m.xml", compress_to_fp16=False)
        content = (Path(folder) / "m.xml").read_bytes()
        assert (Path(folder) / "m.bin").read_bytes() == WEIGHTS
    return (sealed(content, WEIGHTS),)


def mutate_openvino(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Changed bytes; in four of five files they are changed before the checksum is computed, so that OpenVINO gets them."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, seeds)
    bare = [seed[: -len(sealed(b"", WEIGHTS))] for seed in seeds]
    return sealed((mutate_text if rng.random() < 0.7 else mutate_bytes)(rng, bare), WEIGHTS)


def read_openvino_checked(path: Path) -> object:
    """What `load_detector` gets of the files, OpenVINO's own reading and compiling included."""
    path.with_suffix(".bin").write_bytes(WEIGHTS)
    _, metadata, _ = open_openvino(path, None)
    assert metadata.class_names
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
