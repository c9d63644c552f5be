"""Starting a training, or going on with one: its folder, its configuration, its processes."""

from pathlib import Path
from typing import Any

from rich.console import Console

from rotanext.config import Config, flat_values
from rotanext.errors import Problems, UserError, counted
from rotanext.evaluation.metrics import Scores
from rotanext.reports.run import Contents, write_report, write_scores
from rotanext.reports.training import plot_training
from rotanext.system.allocator import keep_freed_memory
from rotanext.system.facts import provenance
from rotanext.system.files import make_folder
from rotanext.system.processes import Processes, lost_contact
from rotanext.system.progress import Display
from rotanext.training.folder import LOG, check_data_is_there, holds_training
from rotanext.training.loop import Trainer
from rotanext.training.runlog import read_rows
from rotanext.training.state import State, newest_state, remove_leftovers
from rotanext.training.trackers import open_trackers


def start_training(
    config: Config, folder: Path, device: str, problems: Problems, console: Console, resume: bool = False
) -> Scores | None:
    """Train in `folder` from the beginning, or go on with the training saved there; returns the last validation's scores.

    In several processes (torchrun, accelerate launch) each calls it; the scores are the first one's. Raises UserError where it
    cannot, and KeyboardInterrupt after Ctrl-C, when everything is saved; of several processes the first raises, the others exit.
    """
    processes = Processes(device, config.train.precision)
    tensorboard = folder / "tensorboard" if "tensorboard" in config.train.trackers else None
    display = Display(console if processes.is_main else Console(quiet=True), tensorboard)
    try:
        state = _open_folder(folder, resume, processes, display)
        if resume:
            with processes.together():
                check_data_is_there(folder, config.data)
        if state is not None:
            config = _with_same_total(config, state, processes, display)
        with processes.together():
            if processes.is_main:
                display.trackers = open_trackers(config, folder)
        keep_freed_memory()
        trainer = Trainer(config, folder, device, problems, display, pretrained=not resume, processes=processes)
        scores, rows = _train(trainer, state)
        if scores is not None:
            write_scores(scores, folder / "evaluation")
            console.print(scores.table())
            for remark in scores.remarks():
                console.print(remark, highlight=False)
        if processes.is_main:
            _write_page(trainer, scores, rows)
    except RuntimeError as error:
        if processes.count > 1 and lost_contact(error):
            raise UserError(
                f"process {processes.rank}: another process of this training has died or hangs (its own output says why; one "
                f"killed for memory prints nothing). Go on from the last saved state with: rotanext train --resume {folder}"
            ) from error
        raise
    finally:
        display.close()
    return scores


def _write_page(trainer: Trainer, scores: Scores | None, rows: list[dict[str, Any]]) -> None:
    """Write the run's `report.html`; one that knows more than this process, from before a resumption, stays."""
    path, display, config = trainer.folder / "report.html", trainer.display, trainer.config
    rate = display.steps_per_second()
    if scores is None and path.exists() and (trainer.validation or rate is None):
        return
    speed: dict[str, float] = {}
    if rate:
        batch = config.train.batch_size * config.train.accumulate * trainer.processes.count
        speed = {"images/s, training": rate * batch, "steps/s, training": rate, "images a step": batch}
    contents = Contents(
        title=f"Training: {config.name}",
        about={"Run": trainer.folder, "Data": ", ".join(config.data.train), "Validation": ", ".join(config.data.val) or "none"},
        scores=scores,
        evidence=trainer.evidence if scores is not None else None,
        rows=rows,
        speed=speed,
        config=flat_values(config),
        environment=provenance(trainer.processes.device) | {"processes": str(trainer.processes.count)},
    )
    write_report(contents, path)
    display.say(f"figures, curves and the worst failures on one page: {path}")


def _train(trainer: Trainer, state: State | None) -> tuple[Scores | None, list[dict[str, Any]]]:
    """Run a trainer, from a state or from the beginning, and draw its curves; raises KeyboardInterrupt where it was stopped.

    The last validation's scores and the rows of the log, both of the first process.
    """
    display, processes = trainer.display, trainer.processes
    if summary := trainer.problems.summary():
        display.say(summary)
    if state is not None:
        trainer.resume(state)
    count = sum(p.numel() for p in trainer.model.parameters())
    several = f" in {processes.count} processes{', sharded' * trainer.sharded}" if processes.count > 1 else ""
    data = f"{counted(trainer.order.length, 'image')}, {counted(len(trainer.class_names), 'class')}"
    display.say(
        f"{trainer.config.name}: {data}, {count / 1e6:.1f} M parameters, "
        f"{counted(trainer.total_steps, 'step')} on {processes.device}{several}; files in {trainer.folder}"
    )
    if trainer.progress.step == trainer.total_steps:
        display.say("this training is complete; to train longer, start a new one with more train.epochs")
    scores = trainer.run()
    if 0 < trainer.progress.step == trainer.progress.skipped and not trainer.stop:
        processes.fail(
            f"no step was taken: in none of {counted(trainer.progress.step, 'step')} were loss and gradient finite, so nothing has "
            "been learnt. Start again in another --run folder with a lower train.lr, more train.warmup_steps, or "
            "train.precision=fp32."
        )
    rows = read_rows(trainer.folder / LOG) if processes.is_main else []
    if rows:
        plot_training(rows, trainer.folder / "curves.png")
    processes.leave()
    if trainer.stop and processes.is_main:
        raise KeyboardInterrupt
    if trainer.stop:
        raise SystemExit(130)
    return scores, rows


def _open_folder(folder: Path, resume: bool, processes: Processes, display: Display) -> State | None:
    """Make the run's folder ready; the state to go on from where one is wanted, the same in all processes."""
    state = None
    with processes.together():
        if not resume and processes.is_main and holds_training(folder):
            raise UserError(f"{folder} already holds a training; go on with --resume {folder}, or choose another --run folder")
        if processes.is_main:
            make_folder(folder)
            remove_leftovers(folder)
            if not resume:
                (folder / LOG).unlink(missing_ok=True)  # of a training that never came to save its state
        if resume:
            state = newest_state(folder, display.say)
    steps = processes.gather(state and state["progress"]["step"])
    if len(set(steps)) > 1:
        processes.fail(f"{folder}: the processes found states of the steps {steps}; the folder must be one that all machines share")
    return state


def _with_same_total(config: Config, state: State, processes: Processes, display: Display) -> Config:
    """The configuration with as large a batch in all as the training had, whatever the number of processes now."""
    total = state["total_batch"]
    batch, rest = divmod(total, processes.count)
    if rest:
        possible = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        processes.fail(
            f"this training's batches are {total} images in all, which {processes.count} processes cannot share equally; "
            f"go on with as many of these processes: {possible}"
        )
    if batch == config.train.batch_size:
        return config
    display.say(f"{processes.count} processes take {batch} images each: batches of {total} in all, as this training began with")
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch})})
