"""Broken inputs made from whole ones: bytes, texts, nested values and images. All randomness comes from the `Random` given."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, Sequence[bytes]], bytes]

NUMBERS = (0, 1, -1, 2, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
ODD_NUMBERS = (
    b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e309", b"1e-320", b"-0", b"0", b"1_000", b"0x10", b"9" * 5000, b"1e6",
    b"-1", b"1,5", b"2147483648", b"18446744073709551616", b"True", b"", b"1.2.3", "٣".encode(), "½".encode(), b"--1", b"1e",
)  # fmt: skip
ODD_TEXTS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x85", b"\x0b", b"\x0c", b"\x1c", b"\t\t", b"\r", b"\n", b"\xe2\x80\xa8", b"x" * 100_000,
    b"../../etc/passwd", b"%s%n", b"{0}", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"[bold]", b"'\"", b"#", b" ",
    b"1 " * 5000,
)  # fmt: skip


def _span(rng: Random, length: int, longest: int = 64) -> tuple[int, int]:
    """Start and end of a piece of something of this length, mostly short."""
    start = rng.randrange(length + 1)
    size = rng.randrange(longest) if rng.random() < 0.8 else rng.randrange(length + 1)
    return start, min(length, start + size)


def _number(rng: Random) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice((*NUMBERS, rng.getrandbits(64), rng.randrange(1 << 16))) % (1 << 8 * width)
    return value.to_bytes(width, rng.choice(("little", "big")))


def _flip(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _replace(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data), 8)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    block = rng.choice((rng.randbytes(rng.randrange(1, 64)), bytes(rng.randrange(1, 4096)), b"\xff" * rng.randrange(1, 64)))
    return data[:at] + block + data[at:]


def _delete(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data))
    return data[:start] + data[end:]


def _duplicate(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data))
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _header_number(rng: Random, data: bytes) -> bytes:
    """A number put where sizes, counts and offsets are: near the start, near the end, or anywhere, mostly aligned."""
    where = rng.choice((min(64, len(data)), min(512, len(data)), len(data)))
    at = rng.randrange(where) if rng.random() < 0.7 else len(data) - 1 - rng.randrange(where)
    at -= at % rng.choice((1, 2, 4))
    new = _number(rng)
    return data[:at] + new + data[at + len(new) :]


def _truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


BYTE_CHANGES = (_flip, _flip, _replace, _replace, _insert, _delete, _duplicate, _header_number, _header_number, _truncate)


def change_bytes(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A few changes that know nothing of the format."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        if not data:
            return data
        data = _splice(rng, data, rng.choice(others)) if rng.random() < 0.05 else rng.choice(BYTE_CHANGES)(rng, data)
    return data


def noise(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Random bytes, some of them behind a true beginning."""
    start = rng.choice((b"", rng.choice(seeds)[: rng.choice((2, 4, 8, 16))]))
    return start + rng.randbytes(rng.choice((0, 1, 3, 8, 9, 30, 300, 5000)))


def mutate_bytes(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with changed bytes, noise, or now and then the seed itself."""
    luck = rng.random()
    if luck < 0.02:
        return rng.choice(seeds)
    return noise(rng, seeds) if luck < 0.07 else change_bytes(rng, rng.choice(seeds), seeds)


# --- texts


def _change_fields(rng: Random, lines: list[bytes]) -> None:
    at = rng.randrange(len(lines))
    fields = lines[at].split(b" ")
    field = rng.randrange(len(fields))
    what = rng.randrange(6)
    if what == 0:
        del fields[field]
    elif what == 1:
        fields.insert(field, rng.choice(ODD_TEXTS))
    elif what == 2:
        fields[field] = rng.choice(fields)
    elif what == 3:
        fields[field] = repr(rng.uniform(-1, 1) * 10 ** rng.randrange(-3, 9)).encode()
    else:
        fields[field] = rng.choice(ODD_NUMBERS)
    lines[at] = rng.choice((b" ", b" ", b" ", b"\t", b"  ", b"\xc2\xa0", b",")).join(fields)


def _change_lines(rng: Random, lines: list[bytes]) -> None:
    at = rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, rng.choice(lines))
    elif what == 2:
        lines.insert(at, rng.choice(ODD_TEXTS))
    elif what == 3:
        lines[at] = lines[at] * rng.choice((2, 100))
    else:
        lines[at] = lines[at] + rng.choice(ODD_TEXTS)


def mutate_text(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A text with changed fields, lines, line ends, encoding or bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, seeds)
    lines = rng.choice(seeds).splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        if lines:
            rng.choice((_change_fields, _change_fields, _change_lines))(rng, lines)
    data = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\n\r")).join(lines)
    luck = rng.random()
    if luck < 0.1:
        data = data.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig")), "replace"
        )
    elif luck < 0.2:
        data = change_bytes(rng, data, seeds)
    return data


# --- nested values


def _odd_value(rng: Random) -> Any:
    many: Any = rng.choice(NUMBERS)
    return rng.choice((
        None, True, False, "", "x", "\0", "é" * 1000, "\ud800", [], {}, [[]], {"": {}}, [None], many, float(many), 1e308, -1e308,
        1e-320,
        float("nan"), float("inf"), 10**400, "1", "nan", [1, "a", None], {"type": "x"}, "resnet18", "convnext_atto", "../x",
        [0.5] * 1000,
    ))  # fmt: skip


def change_value(rng: Random, value: Any) -> Any:
    """A copy of nested lists and dicts with one place changed: another type, no or a renamed key, or itself nested deeper."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        what = rng.random()
        if what < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.14:
            return {(k + rng.choice(("_", "s", "\0")) if k == key else k): v for k, v in value.items()}
        return value | {key: change_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return rng.choice(
            (value[:at] + value[at + 1 :], value + value, [*value[:at], change_value(rng, value[at]), *value[at + 1 :]])
        )
    if rng.random() < 0.08:
        for _ in range(rng.choice((1, 3, 60, 300))):
            value = rng.choice(([value], {"a": value}))
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice(
            (-value, value + 1, value * 1000, float(value) if abs(value) < 1e300 else 0, str(value), 10 ** rng.randrange(20))
        )
    return _odd_value(rng)


def _nested(rng: Random) -> bytes:
    depth = rng.choice((10, 900, 5000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opening * depth + b"1" + closing * rng.choice((depth, 0))


def mutate_json(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A JSON text (one value a line) with changed values, deep nesting, or changed as a text."""
    luck = rng.random()
    if luck < 0.3:
        return mutate_text(rng, seeds)
    data = rng.choice(seeds)
    lines = data.splitlines() if data.count(b"\n{") else [data or b"{}"]
    at = rng.randrange(len(lines))
    value = json.loads(lines[at])
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = change_value(rng, value)
    lines[at] = json.dumps(value).encode()
    if luck < 0.38:
        places = [i for i, byte in enumerate(lines[at]) if byte == ord(":")] or [0]
        place = rng.choice(places) + 1
        lines[at] = lines[at][:place] + rng.choice((_nested(rng), *ODD_NUMBERS)) + b"," + lines[at][place:]
    elif luck < 0.4:
        lines[at] = _nested(rng)
    return b"\n".join(lines) + b"\n"


def mutate_toml(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A TOML text with changed values, keys and sections, or changed as a text."""
    if rng.random() < 0.25:
        return mutate_text(rng, seeds)
    lines = rng.choice(seeds).splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition(b"=")
        value = rng.choice((
            *ODD_NUMBERS, b'"x"', b"''", b'"""', b"[]", b"[[]]", b"{}", b"{a = 1, a = 2}", b"1979-05-27", b"07:32:00", b"true",
            b"[1, 'a']",
            b"[" * 10 ** rng.randrange(1, 6), b"{a=" * 10 ** rng.randrange(1, 5), b'"\\ud800"', b'"\\U00110000"',
            b"[" * 300 + b"]" * 300,
            json.dumps(_odd_value(rng)).encode(), b"0o777", b"1e400", b"[" + b"1," * 20_000 + b"]",
        ))  # fmt: skip
        if equals:
            lines[at] = rng.choice((key, key, key, b"a." * rng.choice((1, 1, 500, 2000)) + b"b", b'""')) + b"= " + value
        else:
            lines[at] = rng.choice(
                (b"[model]", b"[[model]]", b"[" * 1000, b"[backbone.name]", b"x", b"[a." + b"b." * 1000 + b"c]", b"[]")
            )
    return b"\n".join(lines)


# --- images


def _repair_png(data: bytes) -> bytes:
    """The same chunks with the right checksums, so that the decoder looks further."""
    out, at = [data[:8]], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        out.append(data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + length
    return b"".join(out)


def change_tiff(rng: Random, data: bytes) -> bytes:
    """A TIFF with a changed entry in its first directory: tag, type, count or value."""
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[:4]
    try:
        first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, first)[0]
    except struct.error:
        return data
    size, head = (20, 8) if big else (12, 2)
    entry = first + head + size * rng.randrange(max(1, min(count, 64)))
    offset, code = rng.choice(((0, "H"), (2, "H"), (4, "Q" if big else "I"), (size - 4, "I"), (size - 4, "I"), (size - 4, "H")))
    at = entry + (offset if offset < size - 4 or not big else 12)
    bits = 8 * struct.calcsize(code)
    value = rng.choice((*NUMBERS, rng.randrange(20), rng.randrange(1 << 16), 256 + rng.randrange(90), len(data), len(data) - 1))
    if at + bits // 8 > len(data):
        return data
    changed = bytearray(data)
    struct.pack_into(order + code, changed, at, value % (1 << bits))
    return bytes(changed)


def mutate_image(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """An image with changed bytes: PNG checksums mostly made right again, TIFF directories changed entry by entry."""
    if rng.random() < 0.1:
        return mutate_bytes(rng, seeds)
    data = rng.choice(seeds)
    if data[:2] in (b"II", b"MM") and rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = change_tiff(rng, data)
        return data if rng.random() < 0.8 else change_bytes(rng, data, seeds)
    changed = change_bytes(rng, data, seeds)
    return _repair_png(changed) if changed.startswith(b"\x89PNG") and rng.random() < 0.8 else changed
