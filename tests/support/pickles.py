"""Pickles written by hand."""


def raw(*lines: bytes) -> bytes:
    return b"\x80\x04" + b"".join(lines)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()
