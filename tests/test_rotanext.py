"""The package itself: its public names, which are imported on first use."""

import os
import re
import subprocess
import sys

import pytest

import rotanext
from places import ROOT


@pytest.mark.parametrize("name", rotanext.__all__)
def test_public_names_lead_to_what_is_defined_elsewhere(name: str) -> None:
    found = getattr(rotanext, name)
    assert found.__name__ == name
    assert found.__module__ == rotanext._HOMES[name]


def test_all_homes_are_public() -> None:
    assert set(rotanext._HOMES) == set(rotanext.__all__)


def test_other_names_are_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="module 'rotanext' has no attribute 'load_detectors'"):
        rotanext.load_detectors  # noqa: B018
    assert not hasattr(rotanext, "torch")


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", rotanext.__version__)


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import rotanext, sys; print(*({'torch', 'numpy', 'cv2', 'pydantic', 'numba'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
