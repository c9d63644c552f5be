"""`rotanext export` and `rotanext convert`: their options, what they say, and how they end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rotanext.convert
from rotanext.errors import UserError
from rotanext.export import job
from rotanext.export.job import ExportOptions
from rotanext.export.parity import TOLERANCES, Parity


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> tuple[list[ExportOptions], Parity]:
    """Exports only note their options and write a file of 3 MB; the comparison they tell of."""
    asked, parity = list[ExportOptions](), Parity("fp32", "ONNX Runtime", TOLERANCES["fp32"])

    def export(detector: Any, options: ExportOptions, display: Any) -> tuple[Parity, Path]:
        assert detector.class_names == ("plane", "ship")
        asked.append(options)
        target = options.out.with_name(f"{options.out.name}.failed") if parity.faults else options.out
        target.write_bytes(bytes(3_000_000))
        return parity, target

    monkeypatch.setattr(job, "export", export)
    return asked, parity


def test_defaults(exported: tuple[list[ExportOptions], Parity], cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    done = cli("export", "-w", tiny_weights, "--out", tmp_path / "m.onnx")
    assert done.code == 0, done.err
    assert exported[0] == [ExportOptions("onnx", tmp_path / "m.onnx")]
    assert done.out == exported[1].text() + "\n"  # the result, and nothing else
    assert f"{tmp_path}/m.onnx (3.0 MB); the report is {tmp_path}/m.onnx.parity.json" in done.err


def test_all_options(exported: tuple[list[ExportOptions], Parity], cli: Callable, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.xml"
    (tmp_path / "m.bin").write_bytes(bytes(1_000_000))
    options = ("--format", "openvino", "--precision", "int8", "--calibrate", tmp_path, "--check", tmp_path, "--eval", tmp_path)
    done = cli("export", "-w", tiny_weights, "--out", out, *options)
    assert done.code == 0, done.err
    assert exported[0] == [ExportOptions("openvino", out, "int8", tmp_path, tmp_path, tmp_path)]
    assert "(4.0 MB)" in done.err  # with its weights


def test_a_difference_is_code_1(
    exported: tuple[list[ExportOptions], Parity], cli: Callable, tiny_weights: Path, tmp_path: Path
) -> None:
    exported[1].score_difference = 1.0
    done = cli("export", "-w", tiny_weights, "--out", tmp_path / "m.onnx", "-q")
    assert done.code == 1
    assert "FAILED: scores differ by 1" in done.out
    assert f"it was kept as {tmp_path}/m.onnx.failed" in done.err


def test_wrong_options_are_told_before_the_weights_are_read(
    exported: tuple[list[ExportOptions], Parity], cli: Callable, tmp_path: Path
) -> None:
    done = cli("export", "-w", tmp_path / "none.pth", "--out", tmp_path / "m.bin")
    assert done.code == 2
    assert "one that ends in .onnx" in done.err
    assert cli("export", "-w", tmp_path / "none.pth").code == 2  # no --out
    assert exported[0] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), (None, None)), (("--anchors", "v1", "--classes", "dota1.0"), ("v1", "dota1.0"))],
    ids=["plain", "all"],
)
def test_converting(
    options: tuple[str, ...], expected: tuple[str | None, ...], cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(rotanext.convert, "convert_checkpoint", lambda *given: asked.append(given) or ["first [line]", "second"])
    done = cli("convert", "a.pth", "b.safetensors", *options)
    assert asked == [(Path("a.pth"), Path("b.safetensors"), *expected)]
    assert (done.code, done.out, done.err) == (0, "", "first [line]\nsecond\n")
    assert cli("convert", "a.pth", "b.safetensors", "--quiet").err == ""


def test_a_conversion_that_is_refused(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise UserError("no such thing")

    monkeypatch.setattr(rotanext.convert, "convert_checkpoint", refuse)
    assert cli("convert", "a.pth", "b.safetensors") == (2, "", "error: no such thing\n")
