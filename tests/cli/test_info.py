"""`rotanext info`."""

import getpass
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from places import ROOT


def test_info(cli: Callable) -> None:
    done = cli("info")
    assert done.code == 0
    for word in ("rotanext", "torch", "timm", "devices", "cpu (", "rotated ops", "le90"):
        assert word in done.out


def test_bug_report(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    done = cli("info", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["packages"]["torch"]
    assert report["kernels"]["cpu"] == "readable torch"
    assert report["settings"]["ROTANEXT_OPS"] == "reference"
    assert report["cpu"]["cores"] >= 1
    assert report["box_convention"].startswith("le90")
    told = set(re.findall(r"[^\s\"',:]+", done.out))  # whole words: a user may be called "cpu"
    for secret in {getpass.getuser(), socket.gethostname(), str(Path.home()), str(Path.cwd())} - {"root", "user"}:
        assert secret not in told
    assert str(Path.home()) not in done.out
    assert str(ROOT) not in done.out
    assert not re.search(r"/(home|root|Users|tmp|usr)/", done.out)
