"""Pickles that attack, and programs that are damaged."""

import codecs
import copyreg
import functools
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pickles import raw, text
from rotanext.checkpoints.layouts import find_state_dict
from rotanext.checkpoints.tensor_files import read_tensors
from rotanext.checkpoints.unpickle import Placeholder
from rotanext.errors import UserError
from rtmdet_files import mmengine


class Reduces:
    """Pickles as a call of `function(*arguments)`, with `state` set afterwards."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


COMMAND = "touch canary"
ATTACKS: dict[str, Any] = {
    "os.system": Reduces(os.system, COMMAND),
    "subprocess": Reduces(subprocess.call, COMMAND, True),
    "eval": Reduces(eval, "open('canary', 'w')"),
    "exec": Reduces(exec, "open('canary', 'w')"),
    "open": Reduces(open, "canary", "w"),
    "import": Reduces(__import__, "antigravity"),
    "getattr": Reduces(getattr, "x", "upper"),
    "getattr-module": raw(text("builtins"), text("getattr"), b"\x93cos\nsystem\n", text("x"), b"\x86R."),
    "getattr-type": raw(b"cbuiltins\ngetattr\ncnumpy\nndarray\n", text("tofile"), b"\x86R."),
    "getattr-method": raw(b"cbuiltins\ngetattr\ncmmengine.config\nConfig\n", text("fromfile"), b"\x86R", text("c"), b"\x85R."),
    "getattr-getattr": raw(b"cbuiltins\ngetattr\ncbuiltins\ngetattr\n", text("x"), b"\x86R."),
    "getattr-odd-name": raw(b"cbuiltins\ngetattr\ncmmengine.config\nConfig\n]\x86R."),
    "partial": Reduces(functools.partial, os.system, COMMAND),
    "torch.hub": Reduces(torch.hub.load, "a/b", "c"),
    "torch.load": Reduces(torch.load, "canary"),
    "copyreg": Reduces(copyreg._reconstructor, dict, object, None),  # type: ignore[attr-defined]
    "codecs.open": Reduces(codecs.open, "canary", "w"),
    "setstate": Reduces(functools.partial, print, state=(os.system, (COMMAND,), {}, None)),
    # names that only a hand-written pickle holds
    "dotted": raw(text("os"), text("path.os.system"), b"\x93", text(COMMAND), b"\x85R."),
    "dotted-class": raw(text("mmengine.runner"), text("Runner.from_cfg"), b"\x93", text(COMMAND), b"\x85R."),
    "harmless-function": raw(text("mmcv"), text("load"), b"\x93", text("canary"), b"\x85R."),
    "lookalike-package": raw(text("mmengine_evil"), text("Thing"), b"\x93)R."),
    "runstring": raw(b"cnumpy.testing._private.utils\nrunstring\n", text("open('canary','w')"), b"}\x86R."),
    "called-value": raw(text("x"), text("y"), b"\x85R."),
    "called-dtype": raw(b"ctorch\nfloat32\n", text("y"), b"\x85R."),
    "called-int": raw(b"cbuiltins\nint\n", text("1" * 99), b"\x85R."),
    "instance": raw(b"(", text(COMMAND), b"ios\nsystem\n."),
    "object": raw(b"(cos\nsystem\n", text(COMMAND), b"o."),
    "extension": raw(b"\x82\x01."),
    "state-of-list": raw(b"]}", text("append"), text(COMMAND), b"sb."),
    "persistent": raw(text("module"), b"Q."),
    "never-called": raw(b"}", text("x"), b"cos\nsystem\ns."),
}  # fmt: skip


def pack(attack: Any, container: str) -> bytes:
    buffer = io.BytesIO()
    if isinstance(attack, bytes):
        if container == "zip":
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("archive/data.pkl", attack)
        else:
            buffer.write(attack)
    else:
        torch.save({"state_dict": {"w": attack}}, buffer, _use_new_zipfile_serialization=container == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["zip", "pickle"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.pth").write_bytes(pack(ATTACKS[name], container))
    with pytest.raises(UserError, match=r"model\.pth: found") as error:
        read_tensors("model.pth")
    assert os.listdir() == ["model.pth"]  # noqa: PTH208
    if name in ("os.system", "dotted", "never-called"):
        assert "system" in str(error.value)


def test_methods_of_a_toolboxs_class_are_stood_in_for(tmp_path: Path) -> None:
    """MMEngine's history buffers hold their class's methods, which are pickled as calls of getattr; nothing is looked up."""
    with mmengine() as cls:
        torch.save({"hub": cls()}, tmp_path / "epoch_1.pth")
        program = zipfile.ZipFile(tmp_path / "epoch_1.pth").read("epoch_1/data.pkl")
    assert b"getattr" in program
    found = read_tensors(tmp_path / "epoch_1.pth")["hub"]
    methods = found.state["statistics_methods"]
    assert list(methods) == ["min", "max", "current", "mean"]
    assert all(type(method) is Placeholder and not callable(method) for method in methods.values())
    assert methods["min"].name == "mmengine.logging.history_buffer.HistoryBuffer.min"
    assert "mmengine" not in sys.modules


def test_the_canary_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file does its harm to Python's own machine."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(ATTACKS["os.system"]))
    assert Path("canary").exists()


WHOLE = io.BytesIO()
torch.save({"w": torch.arange(1000.0), "m": {"a": [1, 2.5, "x"]}}, WHOLE)


def test_damaged_programs(tmp_path: Path) -> None:
    """Whatever a byte of the program becomes, the answer is a value or a UserError."""
    with zipfile.ZipFile(WHOLE) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    program = entries["archive/data.pkl"]
    path = tmp_path / "w.pth"
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(400):
        position, value = random.randint(len(program)), random.randint(256)
        changed = program[:position] + bytes([value]) + program[position + 1 :]
        with zipfile.ZipFile(path, "w") as target:
            for name, content in entries.items():
                target.writestr(name, changed if name == "archive/data.pkl" else content)
        try:
            read_tensors(path)
        except UserError:
            refused += 1
    assert refused > 200


def test_recursive_state_dict(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(raw(b"}q\x00", text("state_dict"), b"h\x00s."))
    with pytest.raises(UserError, match="state dict"):
        find_state_dict(read_tensors(tmp_path / "w.pth"), "w.pth")


def test_messages_stay_short(tmp_path: Path) -> None:
    """A damaged program's text is not written out in full."""
    (tmp_path / "w.pth").write_bytes(raw(b"F" + b"1.x" * 30_000 + b"\n."))
    with pytest.raises(UserError, match=r"w\.pth: found damage") as error:
        read_tensors(tmp_path / "w.pth")
    assert len(str(error.value)) < 1000
    (tmp_path / "w.pth").write_bytes(raw(b"cmodule\n" + b"Name" * 30_000 + b"\n."))
    with pytest.raises(UserError, match=r"module\.NameName") as error:
        read_tensors(tmp_path / "w.pth")
    assert len(str(error.value)) < 1000
