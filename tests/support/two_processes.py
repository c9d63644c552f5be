"""What test_distributed.py runs under torchrun, in two processes; its one-process counterparts use the same functions.

    torchrun --nproc-per-node 2 tests/support/two_processes.py FOLDER

FOLDER holds the data sets; what each process found comes back as FOLDER/found-RANK.pt.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from networks import FAMILIES, backbone_overrides
from rotanext.config import Config
from rotanext.data.dataset import Sample
from rotanext.errors import Problems, UserError
from rotanext.evaluation.evaluate import detect_shared
from rotanext.inference.detector import Detector
from rotanext.system import processes
from rotanext.system.processes import _accelerator as processes_accelerator
from rotanext.system.progress import Display
from rotanext.training.folder import state_files
from rotanext.training.loop import Trainer
from rotanext.training.sharding import local
from rotanext.training.state import newest_state
from tiny import tiny_config

QUIET = Console(quiet=True)
SIX_STEPS = ("train.epochs=2", "train.warmup_steps=2", "train.save_every=2", "train.keep=9", "train.clip_norm=0.5")
NORMS = (*backbone_overrides("timm:test_resnet"), "backbone.drop_path=0.0", "train.ema=0.9")  # batch norms that are trained
OWN = (*FAMILIES["aligned"], "train.optimizer=muon", "train.lr=0.002", "backbone.layer_scale=1.0", "train.epochs=2")
DROPPED = ("backbone.drop_path=0.5", "train.precision=bf16")  # what draws random numbers
# name: data set, images of a process and of one alone, other settings
EQUAL: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "ddp": ("even", 1, SIX_STEPS),
    "sharded": ("even", 1, (*SIX_STEPS, "train.shard=true")),
    "uneven": ("uneven", 2, ("train.epochs=2",)),  # 5 images in batches of 4: nothing is left for the second process
    "accumulated": ("uneven", 1, ("train.epochs=2", "train.accumulate=2", "train.optimizer=sgd", "train.lr=0.01")),
    "backgrounds": ("backgrounds", 1, ()),
    "one-damaged": ("damaged", 1, ("data.cache=false",)),
    "bf16": ("uneven", 2, ("train.precision=bf16",)),
    "sharded-bf16": ("uneven", 2, ("train.precision=bf16", "train.shard=true")),
    "checkpointing": ("uneven", 2, ("backbone.gradient_checkpointing=true",)),
    "norms": ("uneven", 2, (*NORMS, "train.epochs=2")),
    "sharded norms": ("uneven", 2, (*NORMS, "train.epochs=2", "train.shard=true")),
    "rtmdet": ("uneven", 2, (*FAMILIES["rtmdet"], "train.epochs=2")),
    "our own": ("uneven", 2, OWN),
    "sharded, our own": ("uneven", 2, (*OWN, "train.shard=true")),
    "several images in one": ("uneven", 2, ("augment.mosaic=0.5", "augment.crop=64", "augment.mixup=0.5", "augment.paste=1.0")),
}


def config_of(root: Path, data: str, batch: int, *overrides: str) -> Config:
    return tiny_config(root / data, None, f"data.classes={root / 'names.txt'}", f"train.batch_size={batch}", *overrides)


def make(config: Config, folder: Path) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config, folder, "cpu", Problems(), Display(QUIET))


def rows_of(trainer: Trainer, most: int = 99) -> list[dict[str, float]]:
    """Run a training, at most so many steps of it; the rows of all its steps."""
    rows: list[dict[str, float]] = []
    plain = trainer.train_step

    def step(batches: list[list[Sample]]) -> dict[str, float]:
        rows.append(plain(batches))
        trainer._asked = trainer.stop = len(rows) >= most
        return rows[-1]

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.run()
    return rows


def outcome(action: Callable[[], Any]) -> tuple[str, str]:
    """How an action ended: the kind of its exception, and what that says."""
    try:
        action()
    except (UserError, SystemExit) as error:
        return type(error).__name__, str(error)
    return "", ""


def equal_to_one(root: Path, processes: int) -> dict[str, Any]:
    """Rows and weights of every case of EQUAL, with the same images a step whatever the number of processes."""
    found = {}
    for name, (data, batch, overrides) in EQUAL.items():
        trainer = make(config_of(root, data, batch * 2 // processes, *overrides), root / f"{name}-{processes}")
        rows = rows_of(trainer)
        state = newest_state(trainer.folder, print) if trainer.processes.is_main else {}
        found[name] = {
            "rows": rows,
            "model": state.get("model"),
            "problems": trainer.problems.count,
            "parts": sum(p.numel() if not hasattr(p, "to_local") else p.to_local().numel() for p in trainer.model.parameters()),
        }
    return found


def resumed(root: Path, name: str, *overrides: str) -> dict[str, bool]:
    """Whether a training that was stopped and resumed ends as the uninterrupted one, bit for bit."""
    config = config_of(root, "uneven", 1, "train.epochs=2", *overrides)
    straight, halved = make(config, root / f"{name}-straight"), make(config, root / f"{name}-halved")
    rows_of(straight)
    assert len(rows_of(make(config, halved.folder), 4)) == 4  # in the middle of the second epoch
    torch.rand(7)
    again = make(config, halved.folder)
    again.resume()
    assert again.progress.step == 4
    rows_of(again)
    if not straight.processes.is_main:
        return {}
    one, two = newest_state(straight.folder, print), newest_state(halved.folder, print)
    same = {part: all(torch.equal(one[part][key], two[part][key]) for key in one[part]) for part in ("model", "averaged")}
    random = [[process["cpu"] for process in state["random"]] for state in (one, two)]
    same["random"] = all(map(torch.equal, *random))
    same["processes differ"] = not torch.equal(*random[0])
    return same


def bad_steps(root: Path) -> dict[str, Any]:
    """A loss that is not finite in the second process alone."""
    trainer = make(config_of(root, "even", 1), root / "nan")
    batch = [trainer.loader.dataset[0, trainer.processes.rank]]
    before = [value.clone() for value in trainer.model.state_dict().values()]
    plain = trainer._losses

    def losses(samples: list[Sample]) -> Any:
        terms, positives = plain(samples)
        return terms | {"cls": terms["cls"] * (float("nan") if trainer.processes.rank == 1 else 1.0)}, positives

    trainer._losses = losses  # type: ignore[method-assign]
    row = trainer.train_step([batch])
    same = all(map(torch.equal, before, trainer.model.state_dict().values()))
    ends = [outcome(lambda: trainer.train_step([batch])) for _ in range(19)]
    return {"skipped": row["skipped"], "same": same, "ends": ends}


def not_finite(root: Path, name: str, precision: str, *overrides: str) -> list[dict[str, Any]]:
    """What steps leave behind whose gradient is not finite, or too large to have a norm, in the last process alone.

    One position of one layer's output gets such a gradient before gradients are shared; or one weight does, in this process's own
    gradients (its shard), after that. fp16 has a scaler as on GPUs.
    """
    config = config_of(root, "even", 1, f"train.precision={precision}", "train.ema=0.9", "train.accumulate=2", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        if precision == "fp16":
            patch.setattr(processes, "_check_precision", lambda *_: None)
            patch.setattr(processes, "_accelerator", _scaled_on_the_cpu)
        trainer = make(config, root / f"not-finite-{name}")
    mine = trainer.processes.rank == trainer.processes.count - 1
    window = [[trainer.loader.dataset[0, i]] for i in (trainer.processes.rank, 2 + trainer.processes.rank)]
    values = {"output": 0.0, "weight": 0.0}
    parameter = trainer.model.backbone.downsample_layers[0][0].weight  # type: ignore[index, union-attr]
    clip = trainer.accelerator.clip_grad_norm_

    def spoil_output(module: Any, inputs: Any, output: torch.Tensor) -> None:
        if value := values["output"]:
            output.register_hook(lambda gradient: (gradient.float() + value).to(gradient.dtype))

    def spoil_weight(*arguments: Any) -> Any:
        if values["weight"]:
            local([parameter.grad])[0][0, 0, 0, 0] = values["weight"]
        return clip(*arguments)

    def kept() -> list[torch.Tensor]:
        moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
        networks = [trainer.model, trainer.averaged.model]  # type: ignore[union-attr]
        return [v.clone() for v in local([*(v for network in networks for v in network.state_dict().values()), *moments])]

    if mine:
        trainer.model.head.cls_out.register_forward_hook(spoil_output)
        trainer.accelerator.clip_grad_norm_ = spoil_weight
    found = []
    for place, value in [("", 0.0), *((p, v) for p in values for v in (float("nan"), float("inf"), 1e30)), ("", 0.0)]:
        values.update({"output": 0.0, "weight": 0.0} | ({place: value} if place else {}))
        before, scaler = kept(), trainer.accelerator.scaler
        scale = scaler.get_scale() if scaler else 1.0
        row = trainer.train_step(window)
        found.append({
            "place": place, "value": value, "skipped": row["skipped"],
            "change of scale": scaler.get_scale() / scale if scaler else 1.0,
            "same": len(before) == len(after := kept()) and all(map(torch.equal, before, after)),
            "finite": all(v.isfinite().all() for v in after),
        })  # fmt: skip
    return found


def _scaled_on_the_cpu(device: str, precision: str) -> Accelerator:
    """accelerate's view of a GPU in fp16, on a CPU, where it has neither autocast nor scaler."""
    accelerator = processes_accelerator(device, precision)
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=256.0)
    return accelerator


NOT_FINITE: dict[str, tuple[str, ...]] = {
    f"{precision}{'-sharded' * sharded}{'-unclipped' * unclipped}": (
        precision, f"train.shard={str(sharded).lower()}", f"train.clip_norm={0.0 if unclipped else 0.5}",
    )
    for precision in ("fp32", "bf16", "fp16")
    for sharded in (False, True)
    for unclipped in (False, True)
}  # fmt: skip


def all_not_finite(root: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """`not_finite` in every precision, with and without shards and clipping."""
    return {name: not_finite(root, f"{name}-{count}", *settings) for name, settings in NOT_FINITE.items()}


def failures(root: Path) -> dict[str, tuple[str, str]]:
    """How errors in one process end both."""
    full = make(config_of(root, "even", 1), root / "full")

    def no_room(state: Any) -> None:
        raise UserError("state.pt: could not be written (No space left on device)")

    full._write = no_room  # type: ignore[method-assign]
    logged = make(config_of(root, "even", 1), root / "logged")
    if logged.processes.is_main:  # the log cannot be written any more
        (logged.folder / "metrics.jsonl").mkdir()
    gone = make(config_of(root, "even", 1), root / "gone")
    if gone.processes.rank == 1:  # on its machine
        gone.config = config_of(root, "none", 1)
        gone.loader.dataset.entries = [e._replace(path=root / "none/images/x.png") for e in gone.loader.dataset.entries]  # type: ignore[attr-defined]
        gone.loader.dataset._cache.clear()  # type: ignore[attr-defined]
    strict = make(config_of(root, "damaged", 1, "data.cache=false"), root / "strict")
    strict.problems.strict = True
    return {
        "full": outcome(full.run),
        "log": outcome(logged.run),
        "gone": outcome(gone.run),
        "strict": outcome(strict.run),
        "data": outcome(lambda: make(config_of(root, "none" if strict.processes.rank else "even", 1), root / "data")),
    }


def stopped_by_one(root: Path) -> int:
    """Steps done where only the second process is asked to stop, in the third step."""
    trainer = make(config_of(root, "even", 1), root / "stopped")
    plain = trainer.train_step

    def step(batches: list[list[Sample]]) -> dict[str, float]:
        trainer._asked = trainer.processes.rank == 1 and trainer.progress.step == 2
        return plain(batches)

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.run()
    return trainer.progress.step


def validated(root: Path) -> Any:
    """Detections on nine images, one of them damaged, of an untrained network."""
    config = config_of(root, "val", 1, "predict.score_threshold=0.009")
    trainer = make(config, root / "validated")
    entries = trainer.loader.dataset.entries  # type: ignore[attr-defined]
    processes = trainer.processes
    detector = Detector(trainer.model, config, trainer.class_names)
    found = detect_shared(detector, entries, entries[processes.rank :: processes.count], processes, lambda: False)
    stopped = detect_shared(detector, entries, entries[processes.rank :: processes.count], processes, lambda: processes.rank == 1)
    assert found is not None
    return [(e.stem, str(d) if isinstance(d, UserError) else (d.boxes, d.scores, d.labels)) for e, d in found], stopped is None


def main(root: Path) -> None:
    from rotanext.evaluation import evaluate

    evaluate._AT_ONCE = 2  # several rounds of gathering
    found = {
        "equal": equal_to_one(root, 2),
        "resumed": resumed(root, "resumed", *DROPPED),
        "resumed sharded": resumed(root, "resumed-sharded", *DROPPED, "train.shard=true"),
        "resumed norms": resumed(root, "resumed-norms", *NORMS),
        "resumed sharded norms": resumed(root, "resumed-sharded-norms", *NORMS, "train.shard=true"),
        "bad steps": bad_steps(root),
        "not finite": all_not_finite(root, 2),
        "stopped": stopped_by_one(root),
        "validated": validated(root),
        "failures": failures(root),
    }
    one = make(config_of(root, "even", 1, *SIX_STEPS, "train.shard=true"), root / "ddp-1-resumed")
    one.resume()  # begun by one process
    found["from one"] = {"step": one.progress.step, "rows": rows_of(one)}
    torch.save(found, root / f"found-{one.processes.rank}.pt")
    assert one.processes.rank == 0 or not state_files(root / "nothing")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
