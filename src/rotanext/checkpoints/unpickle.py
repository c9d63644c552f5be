"""Reading of third-party checkpoint files without ever running anything out of them.

A pickle is a program for a small stack machine. Python's own machine imports what the file names and calls it; the one
below knows the same instructions but imports nothing: a name in the file becomes a `Global`, and "calling" it looks the
name up in one literal table of functions that only build tensors and plain data. Classes of the toolboxes that write
checkpoints become an inert `Placeholder`; a file that refers to anything else is refused, called or not.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import IO, Any, NamedTuple

import numpy as np
import torch

HARMLESS_PACKAGES = (
    "mmengine", "mmcv", "mmdet", "mmrotate", "mmcls", "mmpretrain", "yacs", "addict", "easydict", "argparse", "pathlib",
)  # fmt: skip
HARMLESS_NAMES = ("datetime.datetime", "datetime.date", "datetime.timedelta", "types.SimpleNamespace")
# may be named (as the type of something), but not called
INERT_NAMES = (
    "numpy.ndarray", "torch.Tensor", "torch.nn.parameter.Parameter", "builtins.int", "builtins.float", "builtins.bool",
    "builtins.str", "builtins.bytes", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.object",
)  # fmt: skip
STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
DTYPES = {str(dtype): dtype for dtype in STORAGES.values()}
STORAGE_TYPES = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()}


class Global(NamedTuple):
    """A class or function the file names, as `module.name`; never imported."""

    name: str


class Placeholder:
    """An object of a class that is not rebuilt: its name and what the file said about it, inert."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []
        self.mapping: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.name}, not rebuilt>"


class Storage(NamedTuple):
    """The numbers behind one or more tensors."""

    raw: torch.UntypedStorage
    dtype: torch.dtype


class Unfinished:
    """A NumPy array or dtype whose content comes with a later instruction; `slots` are the memo places that hold it."""

    def __init__(self, kind: str, code: str = "") -> None:
        self.kind = kind
        self.code = code
        self.slots: list[int] = []


class Refused(Exception):
    """The file names something that has no place in a checkpoint."""


# --- what may be "called": functions of plain data only


def _key(value: Any) -> Any:
    """Let only flat values be keys: hashing a million nested tuples overflows the interpreter's stack."""
    flat = (str, int, float, bytes, complex, type(None), torch.dtype, Global, Placeholder)
    parts = value if type(value) is tuple else (value,)
    if not all(type(part) in flat or type(part) is bool or isinstance(part, np.generic) for part in parts):
        raise ValueError("a key that is neither text nor a number")
    return value


def _text(value: Any) -> str:
    """A name as text; containers are refused, as writing one out can take for ever (lists that hold each other)."""
    if type(value) not in (str, int):
        raise ValueError(f"a name that is a {type(value).__name__}")
    return str(value)


def _pairs(items: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    return OrderedDict((_key(key), value) for key, value in pairs)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("text in another encoding than Latin-1 or UTF-8")
    return text.encode(encoding)


def _tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
    """A view into `storage` that stays inside it."""
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor of impossible size")
    elements = storage.raw.nbytes() // storage.dtype.itemsize
    numel = 1
    for n in size:
        numel *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else -1
    if last >= elements or numel > elements:
        raise ValueError("a tensor larger than its data")
    return torch.empty(0, dtype=storage.dtype).set_(storage.raw, offset, size, stride)


def _parameter(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor


def _from_type(function: Global, _kind: Any, arguments: tuple[Any, ...], _state: Any) -> torch.Tensor:
    if function.name not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"):
        raise Refused(function.name)
    return CALLS[function.name](*arguments)


def _dtype(code: str, *_: Any) -> Unfinished:
    if not code or code.lstrip("<>=|")[:1] not in tuple("biufcSU"):
        raise ValueError(f"a NumPy array of {code}")
    return Unfinished("dtype", code)


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, data: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcSU":
        raise ValueError("an array of something other than numbers or texts")
    raw = data.encode("latin-1") if type(data) is str else data
    return np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: np.dtype[Any], data: Any) -> Any:
    return _array(dtype, (1,), False, data)[0]


def _method(owner: Any, name: Any) -> Placeholder:
    """What pickles before protocol 4 write for a class's method kept as a value, as MMEngine's history buffers do; inert."""
    if type(owner) is not Global or not _is_toolbox_class(*owner.name.rpartition(".")[::2]):
        raise Refused("builtins.getattr")
    return Placeholder(f"{owner.name}.{_text(name)}")


CALLS: dict[str, Callable[..., Any]] = {
    "builtins.set": lambda items=(): {_key(item) for item in items},
    "builtins.frozenset": lambda items=(): frozenset(_key(item) for item in items),
    "builtins.getattr": _method,
    "builtins.complex": lambda real, imaginary: complex(real, imaginary),
    "builtins.bytearray": lambda *content: bytes(_encode(*content) if len(content) == 2 else b"".join(content)),
    "collections.OrderedDict": _pairs,
    "collections.Counter": _pairs,
    "collections.defaultdict": lambda *_: OrderedDict(),
    "collections.deque": lambda items=(), *_: list(items),
    "_codecs.encode": _encode,
    "torch.Size": lambda size: tuple(size),
    "torch.device": lambda *parts: ":".join(_text(part) for part in parts),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": lambda *_: Unfinished("array"),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: _array(dtype, shape, order == "F", data),
}


def _is_toolbox_class(module: str, name: str) -> bool:
    """Whether `module.name` is a class of a toolbox that writes checkpoints: it may be named, and stood in for."""
    # a class is told by its capital letter; a dotted name would reach through a class for something else
    return module.split(".")[0] in HARMLESS_PACKAGES and name.isidentifier() and name.lstrip("_")[:1].isupper()


def _global(module: str, name: str) -> Any:
    """What stands for `module.name`; raises Refused for names outside the tables."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if full in DTYPES:
        return DTYPES[full]
    known = full in CALLS or full in STORAGE_TYPES or full in INERT_NAMES or full in HARMLESS_NAMES
    if known or _is_toolbox_class(module, name):
        return Global(full)
    raise Refused(full)


class Machine:
    """Runs one pickle; `limit` bounds the data that calls may take, `storage` answers for tensors' data."""

    def __init__(self, limit: int, storage: Callable[[Any], Storage]) -> None:
        self.limit = limit
        self.storage = storage
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """The value of the pickle that starts at the file's position, which ends up just behind it."""
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in VALUES:
                self.stack.append(argument)
            elif name in MAKERS:
                value = MAKERS[name](self)  # first: it may swap the stack
                self.stack.append(value)
            elif name in CHANGERS:
                CHANGERS[name](self)
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])  # type: ignore[index]
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                self.remember(len(self.memo) if argument is None else argument)
            elif name == "GLOBAL":
                self.stack.append(_global(*str(argument).split(" ", 1)))
            elif name not in ("PROTO", "FRAME"):
                raise Refused(f"the instruction {name}")
        raise EOFError

    def remember(self, slot: int) -> None:
        value = self.memo[slot] = self.stack[-1]
        if isinstance(value, Unfinished):
            value.slots.append(slot)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is set:
            target.update(_key(item) for item in items)
        elif type(target) is Placeholder:
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        else:
            raise TypeError("elements for something that is no list")

    def assign(self, items: list[Any]) -> None:
        target = self.stack[-1]
        mapping = target.mapping if type(target) is Placeholder else target
        if type(mapping) not in (dict, OrderedDict):
            raise TypeError("entries for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[_key(key)] = value

    def call(self, callee: Any, arguments: Any) -> Any:
        if type(callee) is not Global or type(arguments) is not tuple:
            raise Refused("a call of something that is no class")
        # what a call copies is paid for, so that a small file cannot ask for the same large copy again and again
        self.limit -= sum(len(part) for part in arguments if isinstance(part, str | bytes | list | tuple | dict))
        if self.limit < 0:
            raise ValueError("more data than the file holds")
        if callee.name in CALLS:
            return CALLS[callee.name](*arguments)
        if callee.name in STORAGE_TYPES or callee.name in INERT_NAMES:
            raise Refused(f"a call of {callee.name}")
        return Placeholder(callee.name, arguments)

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if type(target) is Placeholder:
            target.state = state
        elif type(target) is Unfinished:
            if target.kind == "dtype":
                value: Any = np.dtype(target.code).newbyteorder(">" if state[1] == ">" else "=")
            else:
                value = _array(state[2], state[1], bool(state[3]), state[4])
            self.stack[-1] = value
            for slot in target.slots:
                self.memo[slot] = value
        elif type(target) is not OrderedDict:  # whose state is torch's `_metadata`: versions of modules, not needed
            raise Refused(f"a state for an object of type {type(target).__name__}")


VALUES = (  # instructions whose argument is the value
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "NONE", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
MAKERS: dict[str, Callable[[Machine], Any]] = {  # instructions that leave a new value on the stack
    "EMPTY_LIST": lambda m: [],
    "EMPTY_TUPLE": lambda m: (),
    "EMPTY_DICT": lambda m: {},
    "EMPTY_SET": lambda m: set(),
    "NEWTRUE": lambda m: True,
    "NEWFALSE": lambda m: False,
    "DUP": lambda m: m.stack[-1],
    "TUPLE": lambda m: tuple(m.since_mark()),
    "TUPLE1": lambda m: tuple(m.take(1)),
    "TUPLE2": lambda m: tuple(m.take(2)),
    "TUPLE3": lambda m: tuple(m.take(3)),
    "FROZENSET": lambda m: frozenset(_key(item) for item in m.since_mark()),
    "STACK_GLOBAL": lambda m: _global(*(_text(part) for part in m.take(2))),
    "REDUCE": lambda m: m.call(*m.take(2)),
    "NEWOBJ": lambda m: m.call(*m.take(2)),
    "NEWOBJ_EX": lambda m: m.call(*m.take(3)[:2]),
    "BINPERSID": lambda m: m.storage(m.take(1)[0]),
}
CHANGERS: dict[str, Callable[[Machine], None]] = {  # instructions that change what is there
    "MARK": lambda m: m.mark(),
    "APPEND": lambda m: m.extend(m.take(1)),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "ADDITEMS": lambda m: m.extend(m.since_mark()),
    "SETITEM": lambda m: m.assign(m.take(2)),
    "SETITEMS": lambda m: m.assign(m.since_mark()),
    "BUILD": lambda m: m.build(m.take(1)[0]),
}
