"""`rotanext predict`: its options become those of prediction, in this process or on a cluster."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotanext.archive import cluster
from rotanext.archive.cluster import Summary
from rotanext.archive.options import ClusterOptions
from rotanext.images.raster import RasterOptions, raster_options
from rotanext.inference import predict
from rotanext.inference.predict import PredictOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What prediction in this process is called with; it finds nothing."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(predict, "predict", lambda *given: calls.append(given) or {})
    return calls


def test_defaults(asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path) -> None:
    done = cli("predict", "a.png", "b", "-w", tiny_weights)
    assert done.code == 0, done.err
    ((detector, sources, out, options, problems, _),) = asked
    assert (sources, out, problems.strict) == (["a.png", "b"], Path("runs/predict"), False)
    assert options == PredictOptions(None, 0.3, 1, True, False, RasterOptions())
    assert (detector.precision, detector.compiled, detector.config.predict.image_size) == ("fp32", False, 64)
    assert "results are in runs/predict" in done.err


def test_all_options(asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    options = (
        "--out", "o", "--score", 0.2, "--draw", 0.4, "--no-images", "--batch", 3, "--image-size", 0, "--tile", 96, "--overlap", 32,
        "--across-classes", "--bands", "4,3,2", "--stretch", "2%:98%", "--device", "cpu", "--precision", "bf16", "--anchors", "v1",
        "--classes", tmp_path / "names.txt", "--strict",
    )  # fmt: skip
    done = cli("predict", "a.png", "-w", tiny_weights, *options)
    assert done.code == 0, done.err
    ((detector, _, out, found, problems, _),) = asked
    assert (out, problems.strict) == (Path("o"), True)
    assert found == PredictOptions(0.2, 0.4, 3, False, True, raster_options("4,3,2", "2%:98%"))
    config = detector.config
    assert (config.predict.image_size, config.predict.tile, config.predict.overlap) == (0, 96, 32)
    assert (config.head.anchors, detector.class_names, detector.precision) == ("v1", ("a", "b"), "bf16")


@pytest.mark.parametrize(
    "options",
    [("--score", 1.5), ("--draw", -1), ("--batch", 0), ("--bands", "x"), ("--stretch", "x"), ("--overlap", 4096), ("--workers", 2)],
    ids=lambda options: options[0],
)
def test_values_out_of_range(options: tuple[Any, ...], asked: list[tuple[Any, ...]], cli: Callable, tiny_weights: Path) -> None:
    done = cli("predict", "a.png", "-w", tiny_weights, *options)
    assert done.code == 2
    assert asked == []


def test_an_archive(cli: Callable, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Any, ...]]) -> None:
    """Ray is not needed to say what is wanted of it; a scene that failed is code 1."""
    calls: list[tuple[Any, ...]] = []

    def archive(*given: Any) -> Summary:
        calls.append(given)
        given[5].note("s3://b/x.tif: found nothing there")
        return Summary(2, 0, 1, 1, 7, 4, 1.0)

    monkeypatch.setattr(cluster, "predict_archive", archive)
    options = ("--ray", "auto", "--workers", 2, "--cores-per-worker", 3, "--chunk", 5, "--device", "cuda", "--json")
    done = cli("predict", "s3://b/in", "-w", tiny_weights, "--out", "s3://b/out", *options)
    assert done.code == 1
    ((detector, source, target, found, on, _, _),) = calls
    assert (source, target, detector.device.type) == ("s3://b/in", "s3://b/out", "cpu")  # the workers have their own device
    assert on == ClusterOptions("auto", 2, 3, 5, "cuda")
    assert found.images
    result = json.loads(done.out)
    assert (result["done"], result["out"], result["skipped"]) == (1, "s3://b/out", 1)
    assert result["problems"] == ["s3://b/x.tif: found nothing there"]
    assert "1 of 2 scenes done, 1 failed" in done.err
    assert asked == []
