"""Checkpoint files of every container: broken ones are refused, plain data survives."""

import io
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pickles import raw, text
from rotanext.checkpoints.tensor_files import read_checkpoint, read_tensors
from rotanext.errors import UserError


def storage_file(elements: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A zip whose tensor claims what it likes about 12 bytes of data."""
    body = io.BytesIO()
    torch.save({"w": torch.arange(3.0)}, body)
    result = io.BytesIO()
    numbers = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in size) + b"t"
    steps = b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in stride) + b"t"
    program = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + elements.to_bytes(4, "little") + b"tQJ"
        + offset.to_bytes(4, "little") + numbers + steps + b"\x89}tRs."
    )  # fmt: skip
    with zipfile.ZipFile(body) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            target.writestr(name, program if name.endswith("data.pkl") else source.read(name))
    return result.getvalue()


@pytest.mark.parametrize(("elements", "size", "stride", "offset", "good"), [
    (3, (3,), (1,), 0, True),
    (3, (2,), (2,), 0, True),
    (3, (4,), (1,), 0, False),
    (3, (3,), (1,), 1, False),
    (3, (2,), (3,), 0, False),
    (10**9, (3,), (1,), 0, False),
    (3, (10**9,), (0,), 0, False),  # expanded from one element: small here, huge when copied
    (3, (3, 1), (1,), 0, False),
])  # fmt: skip
def test_tensors_stay_in_their_data(
    elements: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int, good: bool, tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(storage_file(elements, size, stride, offset))
    if good:
        assert read_tensors(tmp_path / "w.pth")["w"].shape == size
    else:
        with pytest.raises(UserError, match=r"w\.pth"):
            read_tensors(tmp_path / "w.pth")


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10**6))
    return buffer.getvalue()


def nested_key() -> bytes:
    return raw(b"})" + b"\x85" * 200_000 + b"Ns.")


def copies() -> bytes:
    """One text, encoded again and again into a list."""
    again = b"h\x01h\x00h\x02\x86Ra"
    parts = [
        b"]",
        text("a" * 200),
        b"q\x00a",
        b"c_codecs\nencode\nq\x01a",
        text("latin1"),
        b"q\x02a",
        again * 5000,
        b".",
    ]
    return raw(*parts)


WHOLE = io.BytesIO()
torch.save({"w": torch.arange(1000.0), "m": {"a": [1, 2.5, "x"]}}, WHOLE)
OLD = io.BytesIO()
torch.save({"w": torch.arange(1000.0)}, OLD, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("content", [
    b"", b"hello, I am a text file\n", b"PK", b"PK\x03\x04" + bytes(50), b"\x80", bytes(range(256)) * 9, b"\x80\x02.",
    b"\x80\x02K\x01.", b"\x80\x02]a.", b"\x80\x02h\x05.", b"\x80\x02(u.", b"\x80\x04\x95" + b"\xff" * 8, b"{}",
    (10**15).to_bytes(8, "little") + b"{}", (20).to_bytes(8, "little") + b'{"a":1}', WHOLE.getvalue()[:-100],
    WHOLE.getvalue()[:900], WHOLE.getvalue().replace(b"\x00\x00\x80?", b"\x00\x00\x00?"), OLD.getvalue()[:-100],
    OLD.getvalue()[:200], bomb(), nested_key(), copies(), raw(b"]q\x00h\x00a."),
    raw(b"K\x01" + b"2\x86" * 60 + b"2\x93."),
], ids=[
    "empty", "text", "two-bytes", "zip-start", "pickle-start", "noise", "no-value", "number", "empty-stack", "no-memo",
    "no-dict", "huge-frame", "json", "huge-header", "bad-header", "zip-cut", "zip-cut-early", "zip-flipped", "old-cut",
    "old-cut-early", "bomb", "nested-key", "copies", "recursive-list", "doubling",
])  # fmt: skip
def test_broken_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth: found"):
        read_tensors(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="expected a checkpoint file"):
            read_tensors(path)


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    """No prefix of a checkpoint loads, and none shows a traceback."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3)}, buffer)
    path = tmp_path / "w.pth"
    for length in range(0, len(buffer.getvalue()), 7):
        path.write_bytes(buffer.getvalue()[:length])
        with pytest.raises(UserError):
            read_tensors(path)


@pytest.mark.parametrize("options", [
    {}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5},
], ids=str)  # fmt: skip
def test_plain_data_survives(options: dict[str, Any], tmp_path: Path) -> None:
    base = torch.randn(10)
    content = {
        "view": base[2:5], "base": base, "transposed": torch.randn(4, 3).t(), "scalar": torch.tensor(3), "none": None,
        "bf16": torch.randn(3).bfloat16(), "empty": torch.zeros(0, 3), "flag": True, "negative": -5, "long": 2**70,
        "parameter": torch.nn.Parameter(torch.ones(2)), "dtype": torch.float16, "set": {1, "a"}, "bytes": b"\x00\xff",
        "np": np.arange(6).reshape(2, 3).T, "np_text": np.array(["a", "bc"]), "np_scalar": np.float32(1.5),
        "big_endian": np.arange(3, dtype=">i4"), "size": torch.Size([1, 2]),
        "nested": OrderedDict(a=[(1, 2.5), {"b": "ü"}]),
    }  # fmt: skip
    torch.save(content, tmp_path / "w.pth", **options)
    found = read_tensors(tmp_path / "w.pth")
    assert list(found) == list(content)
    for key, value in content.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[key], value.detach())
            assert found[key].dtype == value.dtype
        else:
            assert np.array_equal(found[key], value) if isinstance(value, np.ndarray) else found[key] == value
    assert found["view"].untyped_storage().data_ptr() == found["base"].untyped_storage().data_ptr()


def test_safetensors_bring_their_header(tmp_path: Path) -> None:
    save_file({"w": torch.arange(3.0)}, tmp_path / "a.safetensors", {"rotanext": "{}"})
    content, header = read_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(content["w"], torch.arange(3.0))
    assert header == {"rotanext": "{}"}
    save_file({"w": torch.arange(3.0)}, tmp_path / "b.pth")  # told by its content, not by its name
    assert read_checkpoint(tmp_path / "b.pth")[1] == {}
    torch.save({"w": torch.arange(3.0)}, tmp_path / "c.safetensors")
    assert torch.equal(read_tensors(tmp_path / "c.safetensors")["w"], torch.arange(3.0))


@pytest.mark.parametrize("value", [torch.arange(3.0), [torch.zeros(1)], "text"], ids=["tensor", "list", "text"])
def test_a_checkpoint_is_a_dict(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"found a pickled {type(value).__name__}; expected a dict with tensors"):
        read_tensors(tmp_path / "w.pth")


def test_advice_for_a_missing_file_names_the_one_beside_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Check the path\."):
        read_tensors(tmp_path / "best.safetensors")
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(UserError, match=r"There is .*last\.safetensors\."):
        read_tensors(tmp_path / "best.safetensors")
