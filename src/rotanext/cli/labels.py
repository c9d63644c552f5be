"""`rotanext labels`: convert and check labels."""

from pathlib import Path
from typing import Annotated

import typer

from rotanext.cli.terminal import JsonOption, QuietOption, StrictOption, console, finish, print_json, print_result
from rotanext.errors import Problems

labels_app = typer.Typer(name="labels", help="Labels of other tools: convert and check them.", no_args_is_help=True)
_FORMATS = "dota, yolo-obb, coco, coco-rbox, rolabelimg, hrsc, dior-r, cvat, labelme, label-studio or voc."

ImagesOption = Annotated[Path | None, typer.Option("--images", help="Where the images lie, if not where the format has them.")]
FromOption = Annotated[str, typer.Option("--from", help=_FORMATS)]


@labels_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The data set: a folder, or the file where a format has one.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    from_format: FromOption,
    to_format: Annotated[str, typer.Option("--to", help=_FORMATS)],
    images: ImagesOption = None,
    placing: Annotated[
        str, typer.Option("--place-images", help="The new data set gets links to the images, copies or none.")
    ] = "link",
    copied: Annotated[bool, typer.Option("--copy", help="The same as --place-images copy.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    strict: StrictOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn labels of one format into another, and say what the other cannot hold.

    Exit code 0: done; 1: done but for what was skipped; 2: refused.
    """
    from rotanext.labels.convert import convert_labels

    problems = Problems(strict)
    done = convert_labels(
        source,
        out,
        from_format,
        to_format,
        images=images,
        placing="copy" if copied else placing,
        overwrite=overwrite,
        problems=problems,
    )
    console.print(f"{done.text()}: {out} ({to_format})")
    for line in done.lines(skipped=problems.count > 0):
        console.print(f"  {line}", style="yellow" if line.startswith(("lost: ", "note: ")) else "dim")
    finish(problems)


@labels_app.command()
def check(
    data: Annotated[Path, typer.Argument(help="The data set to train on.")],
    val: Annotated[Path | None, typer.Option("--val", help="The data set to validate on: is it apart from the other?")] = None,
    from_format: Annotated[str, typer.Option("--from", help=_FORMATS)] = "dota",
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose head and image size count; small by default.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="The same, of a detector; its classes count, too.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="dota1.0, dota1.5, dota2.0 or a text file: the only classes that may occur.")
    ] = None,
    images: ImagesOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="A folder for report.html and report.json.")] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels/--no-pixels", help="Decode all images, to find damaged ones and copies in other bytes.")
    ] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look for faults in labels, leaks between training and validation, and objects that the detector can hardly learn.

    Exit code 0: clean (perhaps with notices); 1: problems were found; 2: refused.
    """
    from rotanext.labels.check import check_labels, choose
    from rotanext.reports.labels import write_check
    from rotanext.system.progress import Display

    config, names = choose(recipe, weights, classes)
    found = check_labels(
        data, val, form=from_format, config=config, class_names=names, images=images, pixels=pixels, track=Display(console).track
    )
    if out is not None:
        for path in write_check(found, out):
            console.print(f"wrote {path}", style="dim")
    if as_json:
        print_json(found.to_json())
    else:
        print_result(found.text())
    if found.problems:
        raise typer.Exit(1)


@labels_app.command(name="check-submission")
def submission(
    path: Annotated[Path, typer.Argument(metavar="ZIP", help="What DOTA's test server is to get.")],
    images: Annotated[Path | None, typer.Option("--images", help="The test set's images, whose names must be those.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="dota1.0, dota1.5 or dota2.0; guessed otherwise.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a zip of Task1 files before the server does.

    Exit code 0: fine; 1: the server would refuse or misread something; 2: no zip.
    """
    from rotanext.labels.submission import check_submission

    found = check_submission(path, images, version)
    if as_json:
        print_json(found.to_json())
    else:
        print_result(found.text())
    if found.problems:
        raise typer.Exit(1)
