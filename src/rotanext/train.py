"""Training, from top to bottom: data, model, optimiser, the loop, validation, files of the run."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import Tensor

from rotanext.allocator import keep_freed_memory
from rotanext.config import Config, validate
from rotanext.criterion import batch_losses, make_targets
from rotanext.data.dataset import EpochOrder, Sample, TrainingSet, make_loader, read_entries
from rotanext.data.dota import find_class_names
from rotanext.detector import Detector, build_model, find_device
from rotanext.errors import Problems, UserError, explain
from rotanext.evaluate import detect_all, score, write_report
from rotanext.files import make_folder, write_atomically
from rotanext.metrics import Report
from rotanext.models.checkpoints import load_backbone, save_detector_file
from rotanext.models.retinanet import RetinaNet
from rotanext.optim import AveragedModel, build_optimizer, rate_factor, set_rate
from rotanext.plots import plot_training
from rotanext.progress import Reporter
from rotanext.runlog import append_row, drop_rows_after, read_rows

BAD_STEPS_IN_A_ROW = 20
LOG_EVERY = 10


@dataclass
class Progress:
    """Where a training stands; with the weights, all that a resumed one needs."""

    step: int = 0  # optimiser steps done
    bad_steps: int = 0  # in a row, skipped because loss or gradient was not finite
    best: float = -1.0
    validated: int = 0  # the last epoch that was


class Trainer:
    """One training run: its parts, built from a configuration, and the folder it writes to."""

    def __init__(
        self, config: Config, folder: Path, device: str, problems: Problems, reporter: Reporter, pretrained: bool = True
    ) -> None:
        """`pretrained=False` leaves model.weights alone: a resumed training has its own."""
        self.config, self.folder, self.problems, self.report = config, folder, problems, reporter
        self.accelerator = _accelerator(device, config.train.precision)
        torch.manual_seed(config.train.seed)
        if not config.data.train:
            raise UserError("no training data: give --data FOLDER (a DOTA folder: images/ and labelTxt/), or set data.train")

        self.class_names = find_class_names(config.data.train, config.data.classes, problems)
        entries = read_entries(config.data.train, self.class_names, problems)
        self.validation = read_entries(config.data.val, self.class_names, problems) if config.data.val else []
        dataset = TrainingSet(entries, self.class_names, config)
        train = config.train
        self.order = EpochOrder(
            len(dataset), train.batch_size, train.seed, self.accelerator.process_index, self.accelerator.num_processes
        )
        self.loader = make_loader(dataset, self.order, config.data.workers)
        self.steps_per_epoch = -(-len(self.order) // train.accumulate)
        self.total_steps = self.steps_per_epoch * train.epochs

        self.model = build_model(config, len(self.class_names))
        if config.model.weights and pretrained:
            self.report.say(load_backbone(self.model.backbone, config.model.weights).text())
        self.model.to(self.accelerator.device)
        self.averaged = AveragedModel(self.model, train.ema) if train.ema else None
        optimizer = build_optimizer(self.model, train, self.accelerator.num_processes)
        self.network, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.progress = Progress()
        self.stop = False
        self._unreadable: set[str] = set()

    @property
    def final_model(self) -> RetinaNet:
        """The weights to keep: the averaged ones where there are any."""
        return self.averaged.model if self.averaged else self.model  # type: ignore[return-value]

    def run(self) -> Report | None:
        """Train to the end, or until interrupted; returns the last validation's report."""
        self._write_json("config.json", self.config.model_dump(mode="json"))
        report = None
        with self._interruptible(), self.report.training(self.total_steps, self.progress.step) as tick:
            while not self.stop:
                if self._validation_is_due():
                    report = self._validate()
                elif self.progress.step < self.total_steps:
                    self._run_epoch(tick)
                else:
                    break
                self.save()
        if self.stop:
            self.report.say(
                f"Stopped after step {self.progress.step} of {self.total_steps}; everything is saved.\n"
                f"Go on with: rotanext train --resume {self.folder}"
            )
        self._plot()
        return report

    def _validation_is_due(self) -> bool:
        """After every `validate_every` epochs and after the last one, once; a resumed training makes up for an interrupted one."""
        epoch, rest = divmod(self.progress.step, self.steps_per_epoch)
        every = self.config.train.validate_every
        due = self.progress.step == self.total_steps or (every and epoch % every == 0)
        return bool(self.validation and due and rest == 0 and epoch > self.progress.validated)

    def _run_epoch(self, tick: Any) -> None:
        """The rest of the current epoch."""
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        accumulate = self.config.train.accumulate
        self.order.epoch, self.order.start = epoch, done * accumulate
        window: list[list[Sample]] = []
        left = len(self.order) - done * accumulate
        waiting = 0
        for loaded in self.loader:
            samples = self._readable(loaded)
            window += [samples] if samples else []
            waiting += 1
            left -= 1
            if waiting == accumulate or left == 0:
                if not window:  # no picture of these batches could be read
                    self.progress.step, waiting = self.progress.step + 1, 0
                    continue
                row = self.train_step(window)
                window, waiting = [], 0
                tick(row)
                self._log(row)
                if self.stop:
                    return

    def _readable(self, loaded: list[Sample | UserError]) -> list[Sample]:
        """The samples of a batch without those whose pictures turned out to be damaged; these are said, each once."""
        for item in loaded:
            if isinstance(item, UserError) and str(item) not in self._unreadable:
                if self.problems.strict:
                    self.save()
                self._unreadable.add(str(item))
                self.problems.note(str(item))
                self.report.say(f"left out of the training: {item}")
        return [item for item in loaded if isinstance(item, Sample)]

    def train_step(self, batches: list[list[Sample]]) -> dict[str, float]:
        """One optimiser step over one or more batches; the row of figures for the log."""
        train, factor = self.config.train, rate_factor(self.progress.step, self.steps_per_epoch, self.config.train)
        lr = set_rate(self.optimizer, factor)
        self.network.train()
        sums = torch.zeros(3, device=self.accelerator.device)
        for samples in batches:
            classification, box, positives = self._losses(samples)
            loss = classification + self.config.loss.weight * box
            self.accelerator.backward(loss / len(batches))
            sums += torch.stack([classification.detach(), box.detach(), positives]) / len(batches)
        limit = train.clip_norm or float("inf")
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), limit))
        classification, box, positives = sums.tolist()
        scaled = self.accelerator.scaler is not None  # fp16: its scaler skips steps whose gradient overflows, as some do
        finite = all(map(_finite, (classification, box) if scaled else (norm, classification, box)))
        if finite or scaled:
            self.optimizer.step()
        if finite:
            self.progress.bad_steps = 0
        else:
            self._skip_bad_step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.averaged:
            self.averaged.update(self.model, self.progress.step)
        weighted = self.config.loss.weight * box
        return {
            "step": self.progress.step,
            "epoch": self.progress.step / self.steps_per_epoch,
            "loss": classification + weighted,
            "loss_cls": classification,
            "loss_box": weighted,
            "lr": lr,
            "grad_norm": norm,
            "positives": positives,
        }

    def _losses(self, samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Both losses of a batch (per positive anchor of all processes) and the number of positives."""
        device = self.accelerator.device
        batch = self.model.prepare([s.image for s in samples])
        logits, deltas = self.network(batch)
        sizes = [(x.shape[2], x.shape[3]) for x in logits]
        boxes, labels = [s.boxes.to(device) for s in samples], [s.labels.to(device) for s in samples]
        rule = self.config.assign
        targets = make_targets(sizes, boxes, labels, self.config.model.anchor_rule, rule.positive_iou, rule.negative_iou)
        losses = batch_losses(logits, deltas, targets, len(self.class_names), self.config.loss.regression)
        # Gradients are averaged over the processes, so the mean number of positives gives the loss of the whole batch.
        positives = self.accelerator.reduce(losses.positives.float(), "mean")
        normaliser = positives.clamp_min(1 / self.accelerator.num_processes)
        return losses.classification / normaliser, losses.regression / normaliser, positives

    def _skip_bad_step(self) -> None:
        self.progress.bad_steps += 1
        self.report.say(f"step {self.progress.step}: loss or gradient is not finite; this step is skipped")
        if self.progress.bad_steps >= BAD_STEPS_IN_A_ROW:
            raise UserError(
                f"{BAD_STEPS_IN_A_ROW} steps in a row had no finite loss; the training has diverged. Start again in another --run "
                "folder with a lower train.lr, more train.warmup_steps, or train.precision=fp32; this one stays as last saved."
            )

    def _validate(self) -> Report | None:
        """Score the weights to keep; None where Ctrl-C came in between."""
        epoch = self.progress.step // self.steps_per_epoch
        detector = Detector(self.final_model, self.config, self.class_names)
        entries = takewhile(lambda _: not self.stop, self.report.track(self.validation, "validating"))
        known = self.problems.count
        read, detections = detect_all(detector, entries, self.problems)
        if self.stop:
            return None
        if self.problems.count > known:
            self.report.say(f"validating without {self.problems.count - known} pictures that cannot be read")
        report = score(detections, read, self.class_names)
        self.progress.validated = epoch
        figures = {name: value or 0.0 for name, value in report.summary().items()}  # None: no object to find
        self._log({"step": self.progress.step, "epoch": epoch} | figures, always=True)
        self.report.say(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if figures[self.config.train.best_metric] > self.progress.best and self.accelerator.is_main_process:
            self.progress.best = figures[self.config.train.best_metric]
            self._save_detector("best.safetensors")
        return report

    def _log(self, row: dict[str, float], always: bool = False) -> None:
        """Append a row to metrics.jsonl and TensorBoard."""
        due = always or self.progress.step % LOG_EVERY == 0 or self.progress.step in (1, self.total_steps)
        if due and self.accelerator.is_main_process:
            append_row(self.folder / "metrics.jsonl", row)
            self.report.scalars(row, self.progress.step)

    def save(self) -> None:
        """Write the training state, then the detector file; each replaces its predecessor only when complete."""
        if not self.accelerator.is_main_process:
            return
        if not all(value.isfinite().all() for value in self.model.parameters()):
            raise UserError(
                f"after step {self.progress.step} the weights are no longer finite: the training has diverged. {self.folder} stays "
                "as last saved. Start again in another --run folder with a lower train.lr or more train.warmup_steps."
            )
        state = {
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "class_names": list(self.class_names),
            "pictures": self.order.length,
        }
        write_atomically(self.folder / "state.pt", lambda path: torch.save(state, path))
        self._save_detector("last.safetensors")

    def _save_detector(self, name: str) -> None:
        config = self.config.model_dump(mode="json")
        save_detector_file(self.folder / name, self.final_model.state_dict(), config, self.class_names, self.config.model.anchors)

    def resume(self) -> None:
        """Take up the state saved in the run's folder."""
        path = self.folder / "state.pt"
        if not path.is_file():
            raise UserError(f"{path}: no saved training to resume; start one with: rotanext train RECIPE --run {self.folder}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._check_same_data(state, path)
            self.model.load_state_dict(state["model"])
            if self.averaged:
                self.averaged.model.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["random"])
            self.progress = Progress(**state["progress"])
        except UserError:
            raise
        except Exception as error:  # a damaged file fails in a dozen ways
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            advice = f"It cannot be resumed; weights to start from may be in {self.folder / 'last.safetensors'}."
            raise UserError(explain(path, f"damage, or another training's state ({reason})", "this training's", advice)) from None
        drop_rows_after(self.folder / "metrics.jsonl", self.progress.step)

    def _check_same_data(self, state: dict[str, Any], path: Path) -> None:
        """Raise UserError where the data are no longer those that the training began with."""
        advice = "Restore the data, or start a new training in another --run folder."
        if tuple(state["class_names"]) != self.class_names:
            found = f"a training of the classes {', '.join(state['class_names'])}"
            raise UserError(explain(path, found, f"{', '.join(self.class_names)}, as in the data now", advice))
        if state.get("pictures", self.order.length) != self.order.length:
            found = f"a training on {state['pictures']} pictures"
            raise UserError(explain(path, found, f"{self.order.length}, as in the data now", advice))

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        write_atomically(self.folder / name, lambda path: path.write_text(json.dumps(values, indent=1) + "\n"))

    def _plot(self) -> None:
        path = self.folder / "metrics.jsonl"
        if self.accelerator.is_main_process and path.is_file():
            plot_training(read_rows(path), self.folder / "curves.png")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the training after the current step; a second one ends it at once."""

        def ask_to_stop(number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        previous = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _finite(value: float) -> bool:
    return value - value == 0


def _accelerator(device: str, precision: str) -> Accelerator:
    """accelerate's view of a device and a precision; raises UserError where the two do not go together."""
    where = find_device(device)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)  # accelerate takes the current one
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training in several processes is not supported yet: start one process, without torchrun")
    AcceleratorState._reset_state(True)  # a second training in one process may ask for another precision
    try:
        return Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=where.type == "cpu")
    except ValueError as error:
        raise UserError(f"train.precision = '{precision}' does not work on {where} ({error}). Use bf16 or fp32.") from None


def read_run_config(folder: Path) -> Config:
    """The configuration a run was started with."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: not found; {folder} is not the folder of a training run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        advice = "Restore the file; the checkpoints hold the configuration, too."
        raise UserError(explain(path, f"that it cannot be read ({error})", "the configuration of the run", advice)) from None
    return validate(values, str(path))


def start_training(
    config: Config, folder: Path, device: str, problems: Problems, console: Console, resume: bool = False
) -> Report | None:
    """Train in `folder` from the beginning, or go on with the training saved there; returns the last validation's report.

    Raises UserError where it cannot, and KeyboardInterrupt after Ctrl-C, when everything is saved.
    """
    if not resume and any((folder / name).exists() for name in ("state.pt", "last.safetensors", "best.safetensors")):
        raise UserError(f"{folder} already holds a training; go on with --resume {folder}, or choose another --run folder")
    make_folder(folder)
    keep_freed_memory()
    reporter = Reporter(console, tensorboard=folder / "tensorboard")
    try:
        trainer = Trainer(config, folder, device, problems, reporter, pretrained=not resume)
        if summary := problems.summary():
            reporter.say(summary)
        if resume:
            trainer.resume()
        else:
            (folder / "metrics.jsonl").unlink(missing_ok=True)  # of a training that never came to save its state
        count = sum(p.numel() for p in trainer.model.parameters())
        reporter.say(
            f"{config.name}: {len(trainer.loader.dataset)} pictures, {len(trainer.class_names)} classes, "  # type: ignore[arg-type]
            f"{count / 1e6:.1f} M parameters, {trainer.total_steps} steps on {trainer.accelerator.device}; files in {folder}"
        )
        if trainer.progress.step == trainer.total_steps:
            reporter.say("this training is complete; to train longer, start a new one with more train.epochs")
        report = trainer.run()
        if trainer.stop:
            raise KeyboardInterrupt
        if report is not None:
            write_report(report, folder / "evaluation")
            console.print(report.table())
    finally:
        reporter.close()
    return report
