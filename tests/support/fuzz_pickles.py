"""Pickles that attack or ask for too much, and changes of the programs that pickles are."""

import pickletools
import struct
from random import Random

from fuzz_inputs import NUMBERS


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


_SHELL, _EVAL = _text("touch canary"), _text("open('canary', 'w')")
# pieces of a pickle that would leave one value on the stack, after having done something
HOSTILE = (
    b"cos\nsystem\n" + _SHELL + b"\x85R",
    b"cposix\nsystem\n" + _SHELL + b"\x85R",
    b"cbuiltins\neval\n" + _EVAL + b"\x85R",
    b"c__builtin__\nexec\n" + _EVAL + b"\x85R",
    b"cbuiltins\nopen\n" + _text("canary") + _text("w") + b"\x86R",
    b"csubprocess\nPopen\n" + _SHELL + b"\x85R",
    b"(" + _SHELL + b"ios\nsystem\n",
    b"(cos\nsystem\n" + _SHELL + b"o",
    _text("os") + _text("system") + b"\x93" + _SHELL + b"\x85R",
    _text("pathlib") + _text("Path.touch") + b"\x93" + _text("canary") + b"\x85R",
    b"cpathlib\nPosixPath\n" + _text("canary") + b"\x85R" + b"}" + _text("touch") + b"Nsb",
    b"cmmengine\nConfig\n" + _SHELL + b"\x85R(cos\nsystem\n" + _SHELL + b"tb",
    b"ctorch.hub\nload\n" + _text("a/b") + _text("c") + b"\x86R",
    b"ctorch.serialization\nload\n" + _text("canary") + b"\x85R",
    b"cfunctools\npartial\n(cos\nsystem\n" + _SHELL + b"tR)R",
    b"c_codecs\nencode\n" + _SHELL + _text("zip") + b"\x86R",
    b"cbuiltins\ngetattr\n(cos\n__dict__\n" + _text("system") + b"tR",
    b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pos.system\n", _SHELL + b"Q",
    b"ctypes\nFunctionType\n)R", b"cctypes\nCDLL\n" + _text("libc.so.6") + b"\x85R", b"ccopyreg\n__newobj__\ncos\nsystem\n\x85R",
)  # fmt: skip
# pieces that ask for much: memory, time or depth
GREEDY = (
    b"]" + b"2a" * 3000,
    b")" + b"\x85" * 100_000,
    b"K\x01" + b"2\x86" * 40,
    b"(" * 100_000 + b"t" * 100_000,
    b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b"cbuiltins\nbytearray\n](" + b"J\xff\xff\xff\x7f" * 50 + b"e\x85R",
    b"cbuiltins\nset\nJ\xff\xff\xff\x7f\x85R",
    b"ccollections\ndeque\n" + _text("x" * 5000) + b"J\xff\xff\xff\x7f\x86R",
    b"ctorch\nSize\n(" + b"J\xff\xff\xff\x7f" * 10 + b"t\x85R",
    b"cnumpy\ndtype\n" + _text("f4" * 2000) + b"\x85R",
    b"cnumpy\ndtype\n" + _text("S2147483647") + b"\x85R",
    b"cnumpy\ndtype\n" + _text("U9999999999999") + b"\x85R",
    b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + _text("f8") + b"\x85R" + _text("x") + b"\x86R",
    b"cnumpy.core.numeric\n_frombuffer\n(" + _text("x" * 8)
    + b"cnumpy\ndtype\n" + _text("f8") + b"\x85R(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + _text("C") + b"tR",
    b"\x8a\xff" + b"\x7f" * 255,
    b"L" + b"9" * 100_000 + b"L\n", b"I" + b"9" * 5000 + b"\n",
    b"\x8b\xff\xff\xff\x7f", b"\x96" + b"\xff" * 8, b"Fnan\n",
    b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"cdatetime\ndatetime\n" + _text("x") + b"\x85R",
    b"0" * 10, b"\x95" + b"\x00" * 8, b"\x80\xff",
)  # fmt: skip


def _program_places(program: bytes) -> list[int]:
    places = []
    try:
        for _, _, at in pickletools.genops(program):
            places.append(at)
    except Exception:
        pass
    return [at for at in places if at is not None] or [0]


def change_program(rng: Random, program: bytes) -> bytes:
    """A pickle with instructions inserted, exchanged, dropped or repeated, or with other numbers in them."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = _program_places(program)
        at = rng.choice(places)
        end = min((place for place in places if place > at), default=len(program))
        what = rng.random()
        if what < 0.35:
            program = program[:at] + rng.choice(rng.choice((HOSTILE, GREEDY))) + program[rng.choice((at, at, end)) :]
        elif what < 0.45:
            program = program[: places[-1]] + rng.choice((b"0", b"")) + rng.choice((*HOSTILE, *GREEDY)) + program[places[-1] :]
        elif what < 0.6:
            program = program[:at] + rng.choice(pickletools.opcodes).code.encode("latin-1") + program[at + 1 :]
        elif what < 0.7:
            program = program[:at] + program[end:]
        elif what < 0.8:
            program = program[:end] + program[at:end] * rng.choice((1, 1, 3, 1000)) + program[end:]
        elif program[at : at + 1] in (b"K", b"M", b"J"):
            program = program[:at] + b"J" + struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF) + program[end:]
        else:
            other = rng.choice(places)
            program = program[:at] + program[other : other + rng.randrange(1, 40)] + program[end:]
    return program
