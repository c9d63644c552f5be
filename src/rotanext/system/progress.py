"""What a long job shows: rich progress on a terminal, plain lines elsewhere; TensorBoard files and trackers where wanted."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
_PLAIN_EVERY = 15.0  # seconds between plain lines
_RATE_OVER = 60.0  # seconds that the rate shown, and the time left, are measured over
_LATEST = 1000  # steps that a rate is measured on


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
        """Print a line above the progress bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

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

    def _note_step(self, step: float) -> float:
        """Remember when a step was done; steps a second over the last minute (at least ten steps), 0 for the first one."""
        now = time.monotonic()
        self._steps.append((now, step))
        del self._steps[:-_LATEST]
        recent = next((i for i, (then, _) in enumerate(self._steps) if now - then <= _RATE_OVER), len(self._steps) - 1)
        then, before = self._steps[max(0, min(recent, len(self._steps) - 11))]
        return (step - before) / (now - then) if now > then else 0.0

    def _columns(self) -> Progress:
        return Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )

    @contextmanager
    def training(self, total: int, done: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """A callable that takes each step's row; shows losses, learning rate, steps a second and the time left."""
        last = time.monotonic()
        if self.console.is_terminal:
            with self._columns() as bar:
                task = bar.add_task("training", total=total, completed=done, note="")

                def tick(row: dict[str, float]) -> None:
                    rate = self._note_step(row["step"])
                    terms = " ".join(f"{key.removeprefix('loss_')} {row[key]:.3f}" for key in row if key.startswith("loss_"))
                    note = f"loss {row['loss']:.3f} ({terms}) lr {row['lr']:.1e} {rate:.2f} steps/s"
                    bar.update(task, completed=row["step"], note=note)

                yield tick
        else:

            def tick(row: dict[str, float]) -> None:
                nonlocal last
                rate = self._note_step(row["step"])
                now = time.monotonic()
                if now - last >= _PLAIN_EVERY or row["step"] == total:
                    last = now
                    keys = ("loss", *(key for key in row if key.startswith("loss_")), "lr", "grad_norm")
                    values = " ".join(f"{key} {row[key]:.4g}" for key in keys)
                    pace = f"{rate:.2f} steps/s, {_spelt((total - row['step']) / rate)} left" if rate else ""
                    self.say(f"step {row['step']}/{total} {values} {pace}".rstrip())

            yield tick

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Go through `total` items with a bar on a terminal, or a line now and then."""
        start = last = time.monotonic()
        if self.console.is_terminal:
            with self._columns() as bar:
                self._bar = bar
                task = bar.add_task(what, total=total, note="")
                try:
                    for item in items:
                        yield item
                        bar.update(task, advance=1)
                finally:
                    self._bar = None
            return
        for index, item in enumerate(items):
            yield item
            now = time.monotonic()
            if now - last >= _PLAIN_EVERY or (index + 1 == total and now - start > 2):
                last = now
                self.say(f"{what}: {index + 1}/{total}, {(index + 1) / (now - start):.1f}/s")

    @contextmanager
    def archive(self, total: int) -> Iterator[Callable[[int | None, int | None], None]]:
        """A callable that takes how many of `total` scenes are finished, or how many tiles have been computed more."""
        start = last = time.monotonic()
        scenes = tiles = 0

        def note() -> str:
            return f"{tiles / max(time.monotonic() - start, 1e-9):.1f} tiles/s"

        if self.console.is_terminal:
            with self._columns() as bar:
                task = bar.add_task("scenes", total=total, note="")

                def tick(finished: int | None, computed: int | None) -> None:
                    nonlocal tiles
                    tiles += computed or 0
                    bar.update(task, completed=finished, note=note())

                yield tick
        else:

            def tick(finished: int | None, computed: int | None) -> None:
                nonlocal last, scenes, tiles
                tiles += computed or 0
                scenes = scenes if finished is None else finished
                if time.monotonic() - last >= _PLAIN_EVERY:
                    last = time.monotonic()
                    self.say(f"scenes: {scenes}/{total}, {note()}")

            yield tick

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A callable that takes how many tiles of one item are done, and of how many; within `track`, its bar lies below."""
        start = last = time.monotonic()
        if self._bar is not None:
            bar, task = self._bar, self._bar.add_task(what, visible=False, note="")

            def tick(done: int, total: int) -> None:
                rate = f"{done / max(time.monotonic() - start, 1e-9):.1f} tiles/s"
                bar.update(task, completed=done, total=total, note=rate, visible=total > 1)

            try:
                yield tick
            finally:
                bar.remove_task(task)
        else:

            def tick(done: int, total: int) -> None:
                nonlocal last
                now = time.monotonic()
                if now - last >= _PLAIN_EVERY:
                    last = now
                    rate = done / (now - start)
                    self.say(f"{what}: {done}/{total} tiles, {rate:.1f} tiles/s, {(total - done) / rate:.0f} s left")

            yield tick


def _spelt(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
