"""`rotanext convert` and `rotanext export`: detectors from and to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from rotanext.cli.terminal import AnchorsOption, ClassesOption, QuietOption, WeightsOption, alert, console, opened, print_result


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of any known layout.")],
    target: Annotated[Path, typer.Argument(help="The file to write, ending in .safetensors.")],
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a checkpoint of MMRotate, mmpretrain, the ConvNeXt authors, timm or torchvision into ours."""
    from rotanext.convert import convert_checkpoint

    for line in convert_checkpoint(source, target, anchors, classes):
        console.print(line)


def export(
    weights: WeightsOption,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .onnx, .xml (OpenVINO, with a .bin) or .pt2 (torch).")],
    form: Annotated[str, typer.Option("--format", help="onnx, openvino or torch.")] = "onnx",
    precision: Annotated[str, typer.Option("--precision", help="fp32, fp16 or int8.")] = "fp32",
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="For int8: a folder of images like those it will see.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Images to compare it with PyTorch on; by default those it was trained with, or drawn ones."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--eval", help="A DOTA folder: score both, PyTorch's and the exported.")] = None,
    anchors: AnchorsOption = None,
    classes: ClassesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write a detector for ONNX Runtime, OpenVINO or torch.export, compared with PyTorch; exit code 1 where they differ."""
    from rotanext.export.job import ExportOptions, check_options, written
    from rotanext.export.job import export as run
    from rotanext.system.progress import Display

    options = ExportOptions(form, out, precision, calibrate, check, data)
    check_options(options)
    detector = opened(weights, "cpu", anchors, classes)
    parity, target = run(detector, options, Display(console))
    print_result(parity.text())
    if parity.faults:
        alert.print(f"the exported detector differs from PyTorch's beyond tolerance; it was kept as {target}", style="red")
        raise typer.Exit(1)
    console.print(f"{target} ({sum(f.stat().st_size for f in written(target)) / 1e6:.1f} MB); the report is {target}.parity.json")
