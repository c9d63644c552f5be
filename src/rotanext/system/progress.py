"""What a long job shows: rich progress on a terminal, plain lines elsewhere; TensorBoard files and trackers where wanted."""

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
_PLAIN_EVERY = 15.0  # seconds between plain lines
_RATE_OVER = 60.0  # seconds that the rate shown, and the time left, are measured over
_LATEST = 1000  # steps that a rate is measured on
_MOMENT = 2.0  # seconds: what took less needs no line at its end
_FIXED = 8 + 1 + 4  # columns of a bar's line: the time, the count's slash, spaces between
Show = Callable[[float, int, str], None]


class Track(Protocol):
    """Goes through `total` items and shows, under the name `what`, how far it is."""

    def __call__(self, items: Iterable[T], what: str, total: int) -> Generator[T]:
        """The same items."""
        ...


def untracked(items: Iterable[T], what: str, total: int) -> Generator[T]:
    """A `Track` that shows nothing."""
    yield from items


class Display:
    """Tells the user how a job goes."""

    def __init__(self, console: Console | None = None, tensorboard: Path | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._folder = tensorboard
        self._writer: Any = None
        self.trackers: list[Any] = []  # accelerate's, started; see training/trackers.py
        self._bar: Progress | None = None
        self._steps: list[tuple[float, float]] = []  # times and steps of the latest rows

    def say(self, text: str) -> None:
        """Print a line above the progress bar, and the bar as it is now below it."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        if self._bar is not None:
            self._bar.refresh()

    def scalars(self, row: dict[str, float], step: int) -> None:
        """Add the figures of a row to the TensorBoard files and the trackers."""
        figures = {key: value for key, value in row.items() if key not in ("step", "epoch") and math.isfinite(value)}
        self._each_tracker(lambda tracker: tracker.log(figures, step=step))
        if self._folder is None:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # a second to import

                self._writer = SummaryWriter(str(self._folder))
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    self._writer.add_scalar(key, value, step)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Flush the TensorBoard files, end the trackers' runs."""
        self._each_tracker(lambda tracker: tracker.finish())
        self.trackers = []
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._give_up(error)

    def _each_tracker(self, do: Callable[[Any], object]) -> None:
        """Do something with each; one that fails, such as for want of a network, is let go of, and the training goes on."""
        for tracker in list(self.trackers):
            try:
                do(tracker)
            except Exception as error:  # a service of somebody else: any kind
                self.trackers.remove(tracker)
                self.say(f"{tracker.name}: the figures could not be sent ({error}); going on without it")

    def _give_up(self, error: OSError) -> None:
        """Go on without TensorBoard: a full disk must not end a training through its least important file."""
        self.say(f"{self._folder}: TensorBoard's files could not be written ({error}); going on without them")
        self._folder = self._writer = None

    def steps_per_second(self) -> float | None:
        """How fast the training goes: the median over its latest steps, which pauses to validate and save do not change."""
        pairs = zip(self._steps, self._steps[1:], strict=False)
        each = [(later[0] - earlier[0]) / (later[1] - earlier[1]) for earlier, later in pairs if later[1] > earlier[1]]
        middle = statistics.median(each) if each else 0.0
        return 1 / middle if middle > 0 else None

    @property
    def _draws(self) -> bool:
        """Whether there is a terminal that can redraw a line, and something to be shown on it."""
        return self.console.is_interactive and not self.console.quiet

    def _note_step(self, step: float) -> float:
        """Remember when a step was done; steps a second over the last minute (at least ten steps), 0 for the first one."""
        now = time.monotonic()
        self._steps.append((now, step))
        del self._steps[:-_LATEST]
        recent = next((i for i, (then, _) in enumerate(self._steps) if now - then <= _RATE_OVER), len(self._steps) - 1)
        then, before = self._steps[max(0, min(recent, len(self._steps) - 11))]
        return (step - before) / (now - then) if now > then else 0.0

    @contextmanager
    def _shown(
        self, what: str, total: int, done: int = 0, plain: str = "{what}: {done}/{total}, {note}", moment: float = _MOMENT
    ) -> Iterator[Show]:
        """A callable that takes how many are done, of how many, and a note, and shows them: a bar, or a line now and then.

        Within another one its bar lies below that one's, and goes when it is done. `plain` is the form of the lines, of which
        the last comes in any case unless all took less than `moment` seconds.
        """
        if self._draws:
            outer = self._bar
            with nullcontext(outer) if outer else self._bars() as bar:
                self._bar = bar
                shown = _cut(what, self.console.width // 4)
                task = bar.add_task(shown, total=total, completed=done, visible=total > 1 or not outer, note="")

                def draw(done: float, total: int, note: str) -> None:
                    room = self.console.width - len(shown) - _bar_width(self.console) - 2 * len(str(total)) - _FIXED
                    bar.update(task, completed=done, total=total, note=_cut(note, room), visible=total > 1 or not outer)

                try:
                    yield draw
                finally:
                    self._bar = outer
                    if outer:
                        bar.remove_task(task)
            return
        start = last = time.monotonic()

        def write(done: float, total: int, note: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PLAIN_EVERY or (done == total and now - start >= moment):
                last = now
                self.say(plain.format(what=what, done=done, total=total, note=note).rstrip(" ,"))

        yield write

    def _bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", style="bold", markup=False),  # names of files, too
            BarColumn(bar_width=_bar_width(self.console)),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )

    @contextmanager
    def training(self, total: int, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """A callable that takes each step's row; shows steps a second, the time left, all losses there are, learning rate."""
        with self._shown("training", total, done, "step {done}/{total} {note}", moment=0) as show:

            def tick(row: dict[str, float]) -> None:
                rate, step = self._note_step(row["step"]), row["step"]
                left = f", {spelt((total - step) / rate)} left" if rate and step < total else ""
                pace = f"{rate:.2f} steps/s{left}" if rate else ""
                parts = [key for key in row if key.startswith("loss_")]
                if self._draws:
                    terms = " ".join(f"{key.removeprefix('loss_')} {row[key]:.3f}" for key in parts)
                    note = f"{pace}, loss {row['loss']:.3f} ({terms}), lr {row['lr']:.1e}"
                else:
                    note = " ".join([*(f"{key} {row[key]:.4g}" for key in ("loss", *parts, "lr", "grad_norm")), pace])
                show(step, total, note.lstrip(" ,"))

            yield tick

    def track(
        self,
        items: Iterable[T],
        what: str,
        total: int,
        unit: str = "images",
        units: Callable[[T], int] = lambda _: 1,
        moment: float = _MOMENT,
    ) -> Generator[T]:
        """Go through `total` items; shows the time left and the units of work a second, one an item or what `units` says of it.

        Where output is no terminal, less than `moment` seconds are not worth a line.
        """
        start, work = time.monotonic(), 0
        with self._shown(what, total, moment=moment) as show:
            for done, item in enumerate(items, 1):
                yield item
                work += units(item)
                show(done, total, _pace(work, unit, start, done / total))

    @contextmanager
    def archive(self, total: int) -> Iterator[Callable[[int | None, int | None], None]]:
        """A callable that takes how many of `total` scenes are finished, or how many tiles have been computed more."""
        start = time.monotonic()
        scenes = tiles = 0
        with self._shown("scenes", total) as show:

            def tick(finished: int | None, computed: int | None) -> None:
                nonlocal scenes, tiles
                tiles += computed or 0
                scenes = scenes if finished is None else finished
                show(scenes, total, _pace(tiles, "tiles", start, scenes / total))

            yield tick

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A callable that takes how many tiles of one item are done, and of how many; within `track`, its bar lies below."""
        start = time.monotonic()
        with self._shown(what, 1, plain="{what}: {done}/{total} tiles, {note}") as show:

            def tick(done: int, total: int) -> None:
                show(done, total, _pace(done, "tiles", start, done / total))

            yield tick


def _pace(work: int, unit: str, start: float, part: float) -> str:
    """Units of work a second since `start`, and the time left when a part of all is done: "3.1 tiles/s, 40 s left"."""
    taken = max(time.monotonic() - start, 1e-9)
    left = f", {spelt(taken / part * (1 - part))} left" if 0 < part < 1 else ""
    return f"{work / taken:.1f} {unit}/s{left}"


def _bar_width(console: Console) -> int:
    return 24 if console.width >= 100 else 12


def _cut(text: str, room: int) -> str:
    """A text that fits where a wrapped one would break the bar it stands beside."""
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…"


def spelt(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
