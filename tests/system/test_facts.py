"""Facts of the installation and the machine agree wherever they are told."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import rotanext
from places import ROOT
from rotanext.system import facts


def test_all_records_tell_the_same() -> None:
    lines, report, record = facts.environment(), facts.bug_report(), facts.provenance("cpu")
    for name in ("rotanext", "python", "system"):
        assert lines[name] == report[name] == record[name]
    for name in ("torch", "numpy", "numba"):
        assert lines[name] == report["packages"][name] == record[name] == version(name)
    assert report["cpu"]["model"] == record["processor"] == facts.processor()
    assert record["cores"] == str(report["cpu"]["cores"]) == str(os.cpu_count())
    assert record["computed on"] == f"cpu, {torch.get_num_threads()} CPU threads"
    assert facts.hardware().startswith(f"{facts.processor()}, {torch.get_num_threads()} threads")
    assert all(isinstance(value, str) and value for value in record.values()), "unknown facts are left out"


def test_memory_is_plausible() -> None:
    size = facts.memory()
    assert size is None or 0.1 < size < 100_000


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert facts.package_version("no-such-package-as-this") is None


def test_settings_are_told_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert facts.bug_report()["settings"]["ROTANEXT_OPS"] == "reference"
    assert "WORLD_SIZE" not in facts.bug_report()["settings"]
    assert facts.active_kernels()["cpu"] == "readable torch"


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).samefile(rotanext.__file__)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata", "version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.stdout.strip() == rotanext.__version__, built.stderr


def test_a_copy_of_the_package_knows_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it lies in somebody else's repository, as a virtual environment may."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    place = tmp_path / "lib/rotanext/system/facts.py"
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.setattr(facts, "__file__", str(place))
    monkeypatch.setattr(facts, "distribution", lambda name: (_ for _ in ()).throw(facts.PackageNotFoundError(name)))
    assert facts.commit() is None
    assert facts.provenance()["commit"] == "not known (installed from a package)"
