"""As much of an ONNX file as can be said without an ONNX library: metadata, checksum, operators; nothing of it is run.

Checked before a runtime sees the file, as runtimes are not made for hostile ones. A protobuf message is a sequence of fields,
each a number, a kind (0: integer, 1: 8 bytes, 2: bytes of a stated length, 5: 4 bytes) and a value.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

STANDARD = ("", "ai.onnx")
CHECKSUM = "rotanext.sha256"
_METADATA = 14  # ModelProto.metadata_props
# Messages within messages: field numbers of onnx.proto that lead to operators and tensors.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_OPERATOR, _DOMAIN = 4, 7  # NodeProto.op_type, NodeProto.domain
_LOCATION, _EXTERNAL = 14, 13  # TensorProto.data_location, TensorProto.external_data
_DEEPEST = 16


class Field(NamedTuple):
    """One field: its number, its value (an integer, or bytes), and where it begins and ends in the message."""

    number: int
    value: int | memoryview
    start: int
    end: int


@dataclass
class Inspection:
    """What a file says of itself, and what of it no exported file may have."""

    texts: dict[str, str]
    digest: str
    operators: set[tuple[str, str]] = field(default_factory=set)  # (domain, name)
    external: bool = False  # weights in other files

    @property
    def foreign(self) -> list[str]:
        """Operators that are not of the ONNX standard."""
        return sorted(f"{domain}.{name}" for domain, name in self.operators if domain not in STANDARD)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it ends within a number")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message; ValueError where it is none."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        kind = key & 7
        value: int | memoryview
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError("it ends within a field")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"a field of kind {kind}")
        yield Field(key >> 3, value, start, at)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("a number in the place of a text")
    return bytes(value).decode("utf-8")


def _entry(value: int | memoryview) -> tuple[str, str]:
    """Name and text of a metadata entry."""
    if isinstance(value, int):
        raise ValueError("a number in the place of metadata")
    parts = {item.number: _text(item.value) for item in fields(value) if item.number in (1, 2)}
    return parts.get(1, ""), parts.get(2, "")


def inspect(content: bytes) -> Inspection:
    """Read an ONNX file's bytes; ValueError where they are none. The digest is of everything but the checksum itself."""
    data = memoryview(content)
    texts: dict[str, str] = {}
    digest = hashlib.sha256()
    for item in fields(data):
        if item.number == _METADATA:
            name, text = _entry(item.value)
            if name in texts:
                raise ValueError(f"metadata '{name[:50]}' twice")
            texts[name] = text
        else:
            digest.update(data[item.start : item.end])
    for name in sorted(set(texts) - {CHECKSUM}):
        digest.update(f"\0{name}\0{texts[name]}".encode())
    found = Inspection(texts, digest.hexdigest())
    _walk(data, "model", found, 0)
    return found


def _walk(data: memoryview, kind: str, found: Inspection, depth: int) -> None:
    """Note the operators and tensors within a message."""
    if depth > _DEEPEST:
        raise ValueError("graphs within graphs without end")
    operator = domain = ""
    for item in fields(data):
        child = _CHILDREN[kind].get(item.number)
        if child is not None and not isinstance(item.value, int):
            _walk(item.value, child, found, depth + 1)
        elif kind == "node" and item.number == _OPERATOR:
            operator = _text(item.value)
        elif kind == "node" and item.number == _DOMAIN:
            domain = _text(item.value)
        elif kind == "tensor" and (item.number == _EXTERNAL or (item.number == _LOCATION and item.value)):
            found.external = True
    if kind == "node":
        found.operators.add((domain, operator))


def text_entry(name: str, text: str) -> bytes:
    """A metadata entry, to be put behind a model's bytes: a message's fields may stand in any order."""
    parts = [_field(1, name.encode()), _field(2, text.encode())]
    return _field(_METADATA, b"".join(parts))


def _field(number: int, value: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
