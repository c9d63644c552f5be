"""One training run, from top to bottom: data, model, optimiser, the loop, validation, files of the run."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from rotanext.checkpoints.own import save_detector_file
from rotanext.checkpoints.pretrained import load_backbone, load_start
from rotanext.config import Config
from rotanext.config.formats import FORMAT
from rotanext.data.dataset import EpochOrder, Sample, TrainingSet, make_loader
from rotanext.data.index import read_datasets
from rotanext.errors import Problems, UserError, explain, first_line
from rotanext.evaluation.metrics import Evidence, Scores
from rotanext.heads.contract import Targets
from rotanext.inference.detector import Detector, build_network
from rotanext.models.network import Network
from rotanext.system.processes import Processes
from rotanext.system.progress import Display
from rotanext.system.signals import asked_to_stop
from rotanext.training.feeding import StepData, batches_of, load_window
from rotanext.training.folder import BEST, CONFIG, LAST, LOG, STATES, to_go_on, write_run_config
from rotanext.training.optimizer import AveragedModel, build_optimizer, rate_factor, set_rate
from rotanext.training.runlog import append_row, keep_rows
from rotanext.training.sharding import load_optimizer, load_weights, shard, synchronise_norms, wants_shards, whole, whole_on_main
from rotanext.training.state import (
    Progress,
    State,
    check_same_data,
    newest_state,
    random_state,
    save_state,
    seed_process,
    set_random_state,
)
from rotanext.training.validation import validate, whole_network

BAD_STEPS_IN_A_ROW = 20
EMPTY_STEPS_IN_A_ROW = 5
LOG_EVERY = 10


class Trainer:
    """One training run: its parts, built from a configuration, and the folder it writes to.

    In several processes each has one, with its share of the data; they do everything at the same time, and the first writes and
    speaks.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        device: str,
        problems: Problems,
        display: Display,
        pretrained: bool = True,
        processes: Processes | None = None,
    ) -> None:
        """`pretrained=False` leaves backbone.weights alone: a resumed training has its own."""
        self.config, self.folder, self.problems, self.display = config, folder, problems, display
        self.processes = processes or Processes(device, config.train.precision)
        self.accelerator = self.processes.accelerator
        torch.manual_seed(config.train.seed)
        with self.processes.together():
            self._read_data()
            self._build_network(pretrained)
        self._distribute()
        seed_process(config.train.seed, self.processes.rank)
        self.progress = Progress()
        self.evidence: Evidence | None = None  # of the last validation
        self.stop = False  # all processes know
        self._asked = False  # to stop, this process
        self._told: set[str] = set()  # unreadable images
        self._trouble: str | None = None  # of this process, to be told to the others
        self._empty = 0  # steps in a row for which no image could be read
        self._rows = 0  # in the log

    def _read_data(self) -> None:
        data, train = self.config.data, self.config.train
        if not data.train:
            raise UserError("no training data: give --data FOLDER (a DOTA folder: images/ and labelTxt/), or set data.train")
        read = read_datasets(data.train, data.val, data.classes, self.problems, self.processes, self.display.track)
        self.class_names, entries, self.validation = read
        dataset = TrainingSet(entries, self.class_names, self.config)
        self.order = EpochOrder(len(dataset), train.batch_size, train.seed, self.processes.rank, self.processes.count)
        self.loader = make_loader(dataset, self.order, data.workers)
        self.steps_per_epoch = -(-len(self.order) // train.accumulate)
        self.total_steps = self.steps_per_epoch * train.epochs

    def _build_network(self, pretrained: bool) -> None:
        self.model = build_network(self.config, len(self.class_names))
        start, weights = self.config.train.start, self.config.backbone.weights
        if pretrained and start:  # it has a backbone, too
            self.display.say(load_start(self.model, start).text())
        elif pretrained and weights:
            self.display.say(load_backbone(self.model.backbone, weights).text())
        synchronise_norms(self.model, self.processes)

    def _distribute(self) -> None:
        """Model, averaged model and optimiser on this process's device, shared with the others or equal to theirs."""
        train = self.config.train
        self.model.to(self.processes.device)
        self.averaged = AveragedModel(self.model, train.ema, train.ema_warmup) if train.ema else None
        self.sharded = wants_shards(self.processes, train.shard)
        if self.sharded:
            shard(self.model, self.processes)
            if self.averaged:
                shard(self.averaged.model, self.processes)
        optimizer = build_optimizer(self.model, train, self.processes.count)
        if self.sharded:
            self.network, self.optimizer = self.model, self.processes.prepare(optimizer)
        else:
            self.network, self.optimizer = self.processes.prepare(self.model, optimizer)
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training]
        self._running = [buffer for norm in norms for buffer in norm.buffers()]  # statistics, which the forward pass changes

    @property
    def final_model(self) -> Network:
        """The weights to keep: the averaged ones where there are any."""
        return self.averaged.model if self.averaged else self.model  # type: ignore[return-value]

    def run(self) -> Scores | None:
        """Train to the end, or until interrupted; returns the last validation's report (to the first process)."""
        with self.processes.together():
            if self.processes.is_main:
                write_run_config(self.folder, self.config)
        scores = None
        with asked_to_stop(self._ask), self.display.training(self.total_steps, self.progress.step) as tick:
            while not self.stop:
                if self._validation_is_due():
                    scores = self._validate()
                elif self.progress.step < self.total_steps:
                    self._run_epoch(tick)
                else:
                    break
                self.save()
        if self.progress.skipped:
            self.display.say(f"{self.progress.skipped} of {self.progress.step} steps were skipped: loss or gradient was not finite")
        if self.stop:
            self.display.say(
                f"Stopped after step {self.progress.step} of {self.total_steps}; everything is saved.\n"
                f"Go on with: rotanext train --resume {self.folder}"
            )
        return scores

    def _ask(self) -> bool:
        """Ask for a stop after the current step; whether it had been asked for already."""
        before, self._asked = self._asked, True
        return before

    def _stopped(self) -> bool:
        """Whether this process knows of a wish to stop."""
        return self._asked or self.stop

    def _validation_is_due(self) -> bool:
        """After every `validate_every` epochs and after the last one, once; a resumed training makes up for an interrupted one."""
        epoch, rest = divmod(self.progress.step, self.steps_per_epoch)
        every = self.config.train.validate_every
        due = self.progress.step == self.total_steps or (every and epoch % every == 0)
        return bool(self.validation and due and rest == 0 and epoch > self.progress.validated)

    def _run_epoch(self, tick: Any) -> None:
        """The rest of the current epoch."""
        accumulate, every = self.config.train.accumulate, self.config.train.save_every
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        self.order.epoch, self.order.start = epoch, done * accumulate
        batches = batches_of(self.loader)
        while self.progress.step < (epoch + 1) * self.steps_per_epoch:
            left = len(self.order) - (self.progress.step - epoch * self.steps_per_epoch) * accumulate
            window = self._agree(load_window(batches, min(accumulate, left), self.config.data.train))
            if self.stop:
                return
            if not window:
                self._pass_over()
                continue
            self._empty = 0
            row = self.train_step(window)
            tick(row)
            self._log(row)
            if self.stop:
                return
            if every and self.progress.step % every == 0 and self.progress.step % self.steps_per_epoch:
                self.save()

    def _agree(self, window: StepData) -> list[list[Sample]]:
        """This process's batches for the next step, some of them perhaps empty; none where all are empty in all processes.

        What one process has to say, all hear. Where loading has failed everything so far is saved, and the training ends.
        """
        unreadable = [text for text in window.unreadable if text not in self._told]
        failure = self._trouble or window.failure
        asked, news, *images = self.processes.sum([self._asked, bool(unreadable or failure), *map(len, window.batches)])
        self.stop = self.stop or asked > 0
        if news and not self.stop:  # a worker that ended with its process group, on a signal to stop, is no failure
            heard = self.processes.gather((unreadable, failure))
            for message in [text for _, text in heard if text]:
                self.save()
                self.processes.fail(f"{message} Go on with: rotanext train --resume {self.folder}")
            self._note_unreadable([text for texts, _ in heard for text in texts])
        return [batch for batch, count in zip(window.batches, images, strict=True) if count]

    def _note_unreadable(self, messages: list[str]) -> None:
        """Say which images turned out to be damaged, each once; they are left out of their batches."""
        for message in messages:
            if message not in self._told:
                if self.problems.strict:
                    self.save()
                    self.processes.fail(message)
                self._told.add(message)
                self.problems.note(message)
                self.display.say(f"left out of the training: {message}")

    def _pass_over(self) -> None:
        """Count a step for which no image could be read; too many end the training, back where they began."""
        self.progress.step += 1
        self._empty += 1
        if self._empty >= EMPTY_STEPS_IN_A_ROW:
            self.progress.step -= self._empty
            self.save()
            self.processes.fail(
                f"for {self._empty} steps in a row no image could be read. Check {', '.join(self.config.data.train)}; then go on "
                f"with: rotanext train --resume {self.folder}"
            )

    def train_step(self, batches: list[list[Sample]]) -> dict[str, float]:
        """One optimiser step over one or more batches; the row of figures for the log."""
        train, factor = self.config.train, rate_factor(self.progress.step, self.steps_per_epoch, self.config.train)
        lr = set_rate(self.optimizer, factor)
        self.network.train()
        terms: dict[str, Tensor] = {}
        sums = torch.zeros((), device=self.processes.device)
        statistics = [(buffer, buffer.clone()) for buffer in self._running]
        for number, samples in enumerate(batches, 1):
            with self._gradients_shared(number == len(batches)):
                terms, positives = self._losses(samples)
                loss = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(loss / len(batches))
            sums = sums + torch.stack([*(term.detach() for term in terms.values()), positives]) / len(batches)
        norm = whole(self.accelerator.clip_grad_norm_(self.network.parameters(), train.clip_norm or float("inf")))
        # The norm of equal gradients, if all is well; where one process's are not finite, no process may take the step.
        mine = torch.tensor([float(norm), float(self._asked)], device=self.processes.device)
        *values, count, norms, asked = self.processes.mean(torch.cat([sums, mine])).tolist()  # what decides is the same for all
        self.stop = self.stop or asked > 0
        finite = all(map(math.isfinite, (*values, norms)))
        if finite:
            self.optimizer.step()
            self.progress.bad_steps = 0
        else:
            self._skip_bad_step(statistics)
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.averaged and finite:
            self.averaged.update(self.model, self.progress.step)
        return {
            "step": self.progress.step,
            "epoch": self.progress.step / self.steps_per_epoch,
            "loss": sum(values),
            **{f"loss_{name}": value for name, value in zip(terms, values, strict=True)},
            "lr": lr,
            "grad_norm": float(norm),
            "positives": count * self.processes.count,
            "skipped": self.progress.skipped,
        }

    def _gradients_shared(self, now: bool) -> AbstractContextManager[Any]:
        """Within it, gradients are averaged over the processes; before a step's last batch that would be for nothing (DDP)."""
        return nullcontext() if now or self.sharded else self.accelerator.no_sync(self.network)

    def _losses(self, samples: list[Sample]) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of a batch's loss, each as it counts: by the weight of all processes, times their number; mean positives."""
        device = self.processes.device
        batch = self.model.prepare([s.image for s in samples])
        with self.accelerator.autocast() if self.sharded else nullcontext():  # otherwise accelerate has put it into the network
            raw = self.network(batch)
        targets = Targets([s.boxes.to(device) for s in samples], [s.labels.to(device) for s in samples])
        terms, positives = self.model.head.losses(raw, targets)
        # Gradients are averaged over the processes, so mean weights give the loss of the whole batch.
        *weights, positives = self.processes.mean(torch.stack([*(term.weight for term in terms.values()), positives]))
        least = 1 / self.processes.count
        counted = zip(terms.items(), weights, strict=True)
        return {name: term.factor * (term.sum / weight.clamp_min(least)) for (name, term), weight in counted}, positives

    def _skip_bad_step(self, statistics: list[tuple[Tensor, Tensor]]) -> None:
        """Leave all as before the step; with fp16 the next losses are scaled less, in all processes alike."""
        for buffer, before in statistics:
            buffer.copy_(before)
        if scaler := self.accelerator.scaler:
            scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
        self.progress.bad_steps += 1
        self.progress.skipped += 1
        self.display.say(f"step {self.progress.step}: loss or gradient is not finite; this step is skipped")
        if self.progress.bad_steps >= BAD_STEPS_IN_A_ROW:
            self.processes.fail(
                f"{BAD_STEPS_IN_A_ROW} steps in a row had no finite loss; the training has diverged. Start again in another --run "
                "folder with a lower train.lr, more train.warmup_steps, or train.precision=fp32; this one stays as last saved."
            )

    def _validate(self) -> Scores | None:
        """Score the weights to keep; None where Ctrl-C came in between, and on all processes but the first."""
        network, scores = self.final_model, None
        if self.sharded:
            network = whole_network(network, self.config, len(self.class_names), self.processes)
        detector = Detector(network, self.config, self.class_names)
        done = validate(detector, self.validation, self.processes, self.display, self.problems, self._stopped, self.folder)
        if not done.finished:
            self.stop = True
            return None
        self.progress.validated = self.progress.step // self.steps_per_epoch
        with self.processes.together():
            if done.evidence is not None:
                self.evidence, scores = done.evidence, done.evidence.score()
                self._note_scores(scores, network)
        return scores

    def _note_scores(self, scores: Scores, network: Network) -> None:
        """Log a validation's figures, and keep the network where it is the best so far."""
        epoch = self.progress.validated
        figures = {name: value or 0.0 for name, value in scores.summary().items()}  # None: no object to find
        self._log({"step": self.progress.step, "epoch": epoch} | figures, always=True)
        self.display.say(f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if figures[self.config.train.best_metric] > self.progress.best:
            self.progress.best = figures[self.config.train.best_metric]
            self._save_detector(BEST, network.state_dict())

    def _log(self, row: dict[str, float], always: bool = False) -> None:
        """Append a row to the log, TensorBoard and the other trackers, where it is due."""
        due = always or self.progress.step % LOG_EVERY == 0 or self.progress.step in (1, self.total_steps)
        if not due or not self.processes.is_main:
            return
        try:
            append_row(self.folder / LOG, row)
        except UserError as error:
            self._trouble = str(error)
        self._rows += 1
        self.display.scalars(row, self.progress.step)

    def save(self) -> None:
        """Write the training state, then the detector file; each replaces its predecessor only when complete."""
        state = {
            "progress": vars(self.progress).copy(),
            "model": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "random": self.processes.gather_on_main(random_state(self.processes.device)),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "class_names": list(self.class_names),
            "images": self.order.length,
            "total_batch": self.order.batch_size * self.order.processes,
            "rows": self._rows,
            "format": FORMAT,
        }
        state = whole_on_main(state, self.processes) if self.sharded else state
        with self.processes.together():
            if self._trouble:
                raise UserError(self._trouble)
            if self.processes.is_main:
                self._write(state)

    def _write(self, state: State) -> None:
        if not all(value.isfinite().all() for value in state["model"].values()):
            raise UserError(
                f"after step {self.progress.step} the weights are no longer finite: the training has diverged. {self.folder} stays "
                "as last saved. Start again in another --run folder with a lower train.lr or more train.warmup_steps."
            )
        save_state(self.folder, self.progress.step, state, self.config.train.keep)
        self._save_detector(LAST, state["averaged"] or state["model"])

    def _save_detector(self, name: str, weights: dict[str, Tensor]) -> None:
        save_detector_file(self.folder / name, weights, self.config, self.class_names, to_go_on(self.folder))

    def resume(self, state: State | None = None) -> None:
        """Take up a state, by default the newest in the run's folder; the log forgets what came after it."""
        state = state or newest_state(self.folder, self.display.say)
        with self.processes.together():
            check_same_data(self.folder, state, self.class_names, self.order.length)
            try:
                load_weights(self.model, state["model"])
                if self.averaged:
                    load_weights(self.averaged.model, state["averaged"])
                load_optimizer(self.optimizer, state["optimizer"])
                if self.accelerator.scaler and state["scaler"]:
                    self.accelerator.scaler.load_state_dict(state["scaler"])
                self.progress = Progress(**state["progress"])
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                advice = f"Has the run's {CONFIG} been changed? Restore it, or start a new training in another --run folder."
                found = f"a state that does not fit ({first_line(error)})"
                raise UserError(explain(self.folder / STATES, found, "this training's", advice)) from None
            if self.processes.is_main:
                keep_rows(self.folder / LOG, state["rows"])
        self._rows = state["rows"]
        if self.processes.rank < len(state["random"]):
            set_random_state(state["random"][self.processes.rank], self.processes.device)
        else:  # there were fewer processes
            seed_process(self.config.train.seed, self.processes.rank, self.progress.step)
