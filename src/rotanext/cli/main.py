"""The command line: its commands, each in the file of its name, and how errors end."""

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from rotanext.cli.demo import demo
from rotanext.cli.evaluate import evaluate
from rotanext.cli.export import convert, export
from rotanext.cli.info import info
from rotanext.cli.labels import labels_app
from rotanext.cli.predict import predict
from rotanext.cli.serve import serve
from rotanext.cli.split import split
from rotanext.cli.terminal import alert, console
from rotanext.cli.train import train
from rotanext.errors import EXIT_CODES, UserError

# Options of earlier versions that got another name, by command; the nearest by spelling would be a wrong one.
RENAMED = {
    "eval": {"--gap": "--overlap"},
    "predict": {"--gap": "--overlap", "--pictures": "--images", "--no-pictures": "--no-images"},
    "serve": {"--gap": "--overlap"},
    "split": {"--gap": "--overlap"},
    "labels convert": {"--pictures": "--place-images"},
}

app = typer.Typer(
    name="rotanext",
    help="Oriented object detection with ConvNeXt backbones: train, evaluate, predict.",
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich" if sys.stderr.isatty() else None,  # no frames around lines that go to a file
)
app.add_typer(labels_app)
app.command()(demo)
app.command()(train)
app.command(name="eval")(evaluate)
app.command()(predict)
app.command()(serve)
app.command()(split)
app.command()(convert)
app.command()(export)
app.command()(info)


def refuse_renamed(words: Sequence[str]) -> None:
    """Raise UserError where the words of a command line hold an option's former name."""
    for command, options in RENAMED.items():
        if list(words[: len(command.split())]) == command.split():
            for option in (word.partition("=")[0] for word in words):
                if option in options:
                    raise UserError(f"rotanext {command} has no {option}: it is called {options[option]} now")


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit code 2, never a traceback. See `EXIT_CODES`."""
    console.quiet = alert.quiet = False
    try:
        refuse_renamed(sys.argv[1:])
        app(prog_name="rotanext")  # completion goes by this name, however it was started
    except UserError as error:
        alert.print(f"error: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        alert.print("interrupted", style="yellow")
        sys.exit(130)
    except (OSError, MemoryError) as error:
        alert.print(f"error: {str(error) or 'out of memory'}", style="red")
        sys.exit(2)
    except RuntimeError as error:
        # torch's; importing it here would slow every start
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            _own_fault()
        advice = "Use a smaller train.batch_size, --batch, tile or image size, or --device cpu."
        alert.print(f"error: {str(error).splitlines()[0]} {advice}", style="red")
        sys.exit(2)
    except Exception:
        _own_fault()


def _own_fault() -> NoReturn:
    """A fault of the program: the traceback, and where to take it; an exit code that stands for nothing else."""
    traceback.print_exc()
    alert.print("This is a fault of rotanext. Report it with the lines above and what `rotanext info --json` prints.", style="red")
    sys.exit(3)
