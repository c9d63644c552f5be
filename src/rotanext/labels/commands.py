"""`rotanext labels`: convert and check labels."""

from pathlib import Path
from typing import Annotated

import typer

from rotanext.errors import Problems, UserError

labels_app = typer.Typer(name="labels", help="Labels of other tools: convert and check them.", no_args_is_help=True)
_FORMATS = "dota, yolo-obb, coco, coco-rbox, rolabelimg, hrsc, dior-r, cvat, labelme, label-studio or voc."

ImagesOption = Annotated[Path | None, typer.Option("--images", help="Where the pictures lie, if not where the format has them.")]
FromOption = Annotated[str, typer.Option("--from", help=_FORMATS)]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse invalid labels instead of skipping and counting them.")]


@labels_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The data set: a folder, or the file where a format has one.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    from_format: FromOption,
    to_format: Annotated[str, typer.Option("--to", help=_FORMATS)],
    images: ImagesOption = None,
    pictures: Annotated[
        str, typer.Option("--pictures", help="The new data set gets links to the pictures, copies or none.")
    ] = "link",
    copied: Annotated[bool, typer.Option("--copy", help="The same as --pictures copy.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    strict: StrictOption = False,
) -> None:
    """Turn labels of one format into another, and say what the other cannot hold.

    Exit code 0: done; 1: done but for what was skipped; 2: refused.
    """
    from rotanext.cli import _finish, console
    from rotanext.labels.convert import convert_labels

    pictures = "copy" if copied else pictures
    if pictures not in ("link", "copy", "none"):
        raise UserError(f"--pictures is '{pictures}'; expected link, copy or none")
    problems = Problems(strict)
    done = convert_labels(
        source,
        out,
        from_format,
        to_format,
        images=images,
        pictures=pictures,  # type: ignore[arg-type]
        overwrite=overwrite,
        problems=problems,
    )
    console.print(f"{done.pictures} pictures with {done.objects} objects of {len(done.class_names)} classes: {out} ({to_format})")
    for line in done.lost:
        console.print(f"  {line}" if line.startswith("note: ") else f"  lost: {line}", style="yellow")
    if all(line.startswith("note: ") for line in done.lost):
        console.print("  nothing was lost", style="dim")
    _finish(problems)
