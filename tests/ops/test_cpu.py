"""The compiled operators' life outside of arithmetic: numba's cache, and what is said of compiling."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rotanext.ops import cpu


@pytest.mark.slow
def test_a_damaged_cache_is_done_without(tmp_path: Path) -> None:
    """numba's cache files are emptied, as after a power loss; a fresh process still computes."""
    code = "import torch; from rotanext.ops import rotated_nms; print(rotated_nms(torch.ones(2, 5), torch.rand(2)).shape)"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "torch.Size([1])", done.stderr
        files = list(tmp_path.rglob("*.nbi"))
        assert files
        for path in files:
            path.write_bytes(b"")


def test_compiling_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "_WORTH_A_NOTE", 0.0)
    counts = iter([3, 4])
    monkeypatch.setattr(cpu, "_compiled", lambda module: next(counts, 4))
    with caplog.at_level(logging.WARNING, "rotanext"):
        assert cpu.warm_up() > 0
    assert [record.message.split(" for ")[0] for record in caplog.records] == ["compiled the operator iou_matrix"]
