"""`rotanext eval`."""

import json
from collections.abc import Callable
from pathlib import Path

from tiny import draw_dataset


def test_json_of_eval(cli: Callable, tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 2)
    (root / "images/p0.png").write_bytes(b"x")
    done = cli("eval", root, "--weights", tiny_weights, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert done.code == 1
    result = json.loads(done.out)
    assert result["images"] == 1
    assert set(result["mean"]["area"]) == {"map50", "map75", "map50_95"}
    assert result["skipped"] == 1
    assert "p0.png" in result["problems"][0]
    assert "Skipped 1 invalid item" in done.err
