"""The training loop: its steps, resuming bit for bit, bad steps, damaged data, full disks."""

import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import rotanext.training.train
from networks import FAMILIES, backbone_overrides
from rotanext.data.dataset import Sample
from rotanext.errors import Problems, UserError
from rotanext.evaluation.metrics import Evidence
from rotanext.load import load_detector
from rotanext.system.progress import Display
from rotanext.training.feeding import load_window
from rotanext.training.folder import read_run_config, state_files
from rotanext.training.loop import Trainer
from rotanext.training.runlog import read_rows
from rotanext.training.state import newest_state
from rotanext.training.train import start_training
from tiny import draw_dataset, read_state, tiny_config
from trainings import make_trainer, samples, stopping_after, train

SEVERAL = (
    "augment.mosaic=0.7", "augment.mosaic_turns=true", "augment.crop=64", "augment.resize=[0.5, 1.5]", "augment.mixup=0.5",
    "augment.paste=1.0", "train.ema_warmup=2", "train.flat=0.5",
)  # fmt: skip


@pytest.mark.parametrize(
    ("stop", "overrides"),
    [(2, ()), (3, ()), (3, SEVERAL), (3, FAMILIES["rtmdet"])],
    ids=["between-epochs", "mid-epoch", "several images in one", "another family"],
)
def test_resume_continues_bit_for_bit(stop: int, overrides: tuple[str, ...], tiny_dataset: Path, tmp_path: Path) -> None:
    common = ("train.epochs=2", "backbone.drop_path=0.5", "train.ema=0.9", "augment.brightness=0.2")
    config = tiny_config(tiny_dataset / "train", None, *common, *overrides)
    train(config, tmp_path / "straight")
    with stopping_after(stop), pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "halved")
    assert read_state(tmp_path / "halved")["progress"]["step"] == stop
    torch.rand(7)  # whatever the random generator did in between
    train(read_run_config(tmp_path / "halved"), tmp_path / "halved", resume=True)
    one, two = (read_state(tmp_path / name) for name in ("straight", "halved"))
    for part in ("model", "averaged"):
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
        assert one[part].keys() == two[part].keys()
    for index, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][index][key]) for key, value in moments.items())
    assert torch.equal(one["random"][0]["cpu"], two["random"][0]["cpu"])
    weights = [name for name in one["model"] if name.startswith("neck.") and name.endswith("weight")]
    assert not any(torch.equal(one["model"][name], one["averaged"][name]) for name in weights)
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("straight", "halved")]
    assert rows[0] == rows[1]
    last = [load_file(tmp_path / name / "last.safetensors") for name in ("straight", "halved")]
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])


def test_a_training_may_start_with_a_whole_detector(tiny_dataset: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Neck and head included, and in place of the backbone's weights, which are not asked for then."""
    config = tiny_config(tiny_dataset / "train", None, f"train.start={tiny_weights}", "backbone.weights=none.pth")
    heard = Console(record=True, width=200)
    trainer = make_trainer(config, tmp_path / "run", console=heard)
    start, model = load_file(tiny_weights), trainer.model.state_dict()
    assert all(torch.equal(model[key], value) for key, value in start.items())
    assert f"rotanext detector layout: {len(start)} tensors loaded" in heard.export_text()
    with pytest.raises(UserError, match=r"none\.pth"):
        make_trainer(tiny_config(tiny_dataset / "train", None, "train.start=none.pth"), tmp_path / "none")


def test_interrupted_validation_is_made_up_for(tiny_dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_dataset / "train", tiny_dataset / "val")
    with stopping_after(2), pytest.raises(KeyboardInterrupt):
        train(config, tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    report = train(config, tmp_path, resume=True)
    assert report is not None
    assert (tmp_path / "best.safetensors").exists()
    before = {path: path.read_bytes() for path in state_files(tmp_path)}
    assert train(config, tmp_path, resume=True) is None  # complete: nothing left to do
    assert {path: path.read_bytes() for path in state_files(tmp_path)} == before


def test_the_best_of_the_validations_is_kept(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.3])
    plain = Evidence.score

    def scored(evidence: Evidence) -> Any:
        scores, value = plain(evidence), next(values)
        summary = {"map50": value, "map75": value, "map50_95": None}
        whole = {name: getattr(scores, name) for name in ("table", "remarks", "to_json")}
        return SimpleNamespace(summary=lambda: summary, **whole, scores=scores)

    monkeypatch.setattr(Evidence, "score", scored)
    monkeypatch.setattr(rotanext.training.train, "write_scores", lambda scores, out: None)
    monkeypatch.setattr(rotanext.training.train, "_write_page", lambda trainer, scores, rows: None)
    config = tiny_config(tiny_dataset / "train", tiny_dataset / "val", "train.epochs=2", "train.validate_every=1")
    kept: list[bytes] = []
    plain_save = Trainer._save_detector

    def save(self: Trainer, name: str, weights: dict[str, torch.Tensor]) -> None:
        plain_save(self, name, weights)
        if name == "best.safetensors":
            kept.append((self.folder / name).read_bytes())

    monkeypatch.setattr(Trainer, "_save_detector", save)
    train(config, tmp_path)
    assert len(kept) == 1
    assert kept[0] == (tmp_path / "best.safetensors").read_bytes() != (tmp_path / "last.safetensors").read_bytes()
    assert read_state(tmp_path)["progress"]["best"] == 0.5


def test_accumulation_takes_the_mean_of_the_batches(tiny_dataset: Path, tmp_path: Path) -> None:
    plain = (
        "train.optimizer=sgd",
        "train.momentum=0.0",
        "train.weight_decay=0.0",
        "train.clip_norm=0.0",
        "train.ema=0.0",
        "train.lr=0.05",
    )
    trainer = make_trainer(tiny_config(tiny_dataset / "train", None, *plain, "train.accumulate=2"), tmp_path)
    assert trainer.total_steps == 1
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}

    def change(*batches: list[Sample]) -> dict[str, torch.Tensor]:
        trainer.model.load_state_dict(start)
        trainer.progress.step = 0
        trainer.train_step(list(batches))
        return {key: value - start[key] for key, value in trainer.model.state_dict().items()}

    one, two = samples(trainer, 0, 1), samples(trainer, 2, 3)
    first, second, both = change(one), change(two), change(one, two)
    assert any(value.abs().max() > 1e-5 for value in both.values())
    for key, value in both.items():
        step = 2**-23 * max(1.0, float(start[key].abs().max()))  # between one float32 number and the next, of this size
        torch.testing.assert_close(value, (first[key] + second[key]) / 2, rtol=1e-3, atol=step)


def test_half_precision_trains_on_the_cpu(tiny_dataset: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(tiny_dataset / "train", None, "train.precision=bf16"), tmp_path)
    assert trainer.accelerator.mixed_precision == "bf16"
    batch = samples(trainer, 0)
    rows = [trainer.train_step([batch]) for _ in range(2)]
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_cls"] + rows[0]["loss_box"])
    assert all(0 < row["loss"] < 100 for row in rows)
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in trainer.model.parameters())
    trainer.save()
    trainer.resume()
    assert trainer.progress.step == 2


def test_steps_without_finite_loss_are_skipped_until_too_many(tiny_dataset: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(tiny_dataset / "train"), tmp_path)
    plain = trainer._losses
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    batch = samples(trainer, 0)

    def bad_step() -> None:
        nan = trainer.model.head.cls_out.bias.sum() * float("nan")
        trainer._losses = lambda _: ({"cls": nan, "box": nan}, torch.tensor(1.0))  # type: ignore[method-assign]
        trainer.train_step([batch])

    for _ in range(19):
        bad_step()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert trainer.progress.skipped == 19
    trainer._losses = plain  # type: ignore[method-assign]
    assert trainer.train_step([batch])["skipped"] == 19  # a good one in between: the count starts again
    assert trainer.progress.bad_steps == 0
    for _ in range(19):
        bad_step()
    with pytest.raises(UserError, match=r"20 steps in a row had no finite loss.*lower train\.lr"):
        bad_step()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_skipped_step_leaves_the_statistics_of_batch_norms(tiny_dataset: Path, tmp_path: Path) -> None:
    overrides = (*backbone_overrides("timm:resnet18"), "backbone.drop_path=0.0", "train.ema=0.9")
    trainer = make_trainer(tiny_config(tiny_dataset / "train", None, *overrides), tmp_path)
    batch = samples(trainer, 0)
    networks = (trainer.model, trainer.averaged.model)  # type: ignore[union-attr]
    before = [value.clone() for network in networks for value in network.state_dict().values()]
    with torch.no_grad():
        trainer.model.mean.fill_(float("nan"))  # as an image whose activations overflow
    assert trainer.train_step([batch])["skipped"] == 1
    assert all(map(torch.equal, before, [value for network in networks for value in network.state_dict().values()]))


@pytest.fixture
def background(tmp_path: Path) -> Path:
    root = draw_dataset(tmp_path / "background", 2)
    for label in (root / "labelTxt").iterdir():
        label.write_text("")
    (tmp_path / "names.txt").write_text("plane\nship\n")
    return root


@pytest.mark.parametrize("family", FAMILIES)
def test_background_alone_trains(background: Path, tmp_path: Path, family: str) -> None:
    config = tiny_config(background, None, f"data.classes={tmp_path / 'names.txt'}", *FAMILIES[family])
    trainer = make_trainer(config, tmp_path / "run")
    before = [weight.clone() for weight in trainer.model.head.cls_out.parameters()]
    row = trainer.train_step([samples(trainer, 0, 1)])
    assert (row["loss_box"], row["positives"]) == (0.0, 0.0)
    assert row["loss_cls"] > 0
    assert not any(map(torch.equal, before, trainer.model.head.cls_out.parameters()))


def test_background_that_the_recipe_leaves_out(background: Path, tmp_path: Path) -> None:
    config = tiny_config(background, None, f"data.classes={tmp_path / 'names.txt'}", "data.background=false")
    with pytest.raises(UserError, match=r"set data\.background=true"):
        make_trainer(config, tmp_path / "run")


def test_a_damaged_image_is_left_out_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = draw_dataset(tmp_path / "data", 4)
    path = root / "images/p2.png"
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)  # header and end are whole, so that only decoding finds it
    path.write_bytes(content)
    config = tiny_config(root, None, "data.cache=false", "train.epochs=2")
    train(config, tmp_path / "run", strict=False)
    assert read_state(tmp_path / "run")["progress"]["step"] == 4
    with pytest.raises(UserError, match=r"p2\.png: found a file that does not decode"):
        train(config, tmp_path / "strict")
    trainer = make_trainer(config, tmp_path / "said", strict=False, console=Console(stderr=True))
    loaded = [trainer.loader.dataset[0, 2], *samples(trainer, 0)]
    for _ in range(2):
        batches = trainer._agree(load_window(iter([loaded]), 1, [str(root)]))  # type: ignore[arg-type]
        assert [len(batch) for batch in batches] == [1]
    assert capsys.readouterr().err.count("left out of the training") == 1
    assert trainer.problems.count == 1
    alone = tiny_config(root, None, "data.cache=false", "train.batch_size=1", "train.epochs=1")
    train(alone, tmp_path / "alone", strict=False)  # nothing of one of the batches is left
    assert read_state(tmp_path / "alone")["progress"]["step"] == 4


def test_a_full_disk_leaves_the_last_checkpoint(tiny_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    trainer = make_trainer(tiny_config(tiny_dataset / "train", None, "train.epochs=3"), run)
    trainer.resume()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # no file above a megabyte: writing fails half-way
    try:
        with pytest.raises(UserError, match=r"state-00000006\.pt: could not be written .* the previous file, if any, is untouched"):
            trainer.run()
        with pytest.raises(UserError, match=r"last\.safetensors: could not be written"):
            trainer._save_detector("last.safetensors", trainer.final_model.state_dict())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {"config.json", "metrics.jsonl"}
    assert not list(run.rglob("*.part")) + list(run.rglob(".*.part"))
    assert load_detector(run / "last.safetensors", "cpu").class_names == ("plane", "ship")
    trainer.resume()
    assert trainer.progress.step == 4


def test_skipped_steps_are_counted_in_the_log_and_at_the_end(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Trainer._losses

    def losses(self: Trainer, batch: list[Sample]) -> Any:
        terms, positives = plain(self, batch)
        return terms | {"cls": terms["cls"] * (float("nan") if self.progress.step == 2 else 1.0)}, positives

    monkeypatch.setattr(Trainer, "_losses", losses)
    console = Console(stderr=True, soft_wrap=True)
    config = tiny_config(tiny_dataset / "train", None, "train.epochs=2", "train.save_every=1")
    with stopping_after(3), pytest.raises(KeyboardInterrupt):
        start_training(config, tmp_path / "run", "cpu", Problems(), console)
    start_training(config, tmp_path / "run", "cpu", Problems(), console, resume=True)
    assert [row["skipped"] for row in read_rows(tmp_path / "run/metrics.jsonl")] == [0, 1]
    assert capsys.readouterr().err.count("1 of 4 steps were skipped: loss or gradient was not finite") == 1


def test_states_within_an_epoch(tiny_dataset: Path, tmp_path: Path) -> None:
    saved: list[int] = []
    trainer = make_trainer(tiny_config(tiny_dataset / "train", None, "train.batch_size=1", "train.save_every=3"), tmp_path)
    trainer.save = lambda: saved.append(trainer.progress.step)  # type: ignore[method-assign]
    trainer.config = trainer.config.model_copy(update={"train": trainer.config.train.model_copy(update={"epochs": 2})})
    trainer.total_steps = 8
    trainer.run()
    assert saved == [3, 4, 6, 8]


def test_images_that_all_fail_end_the_training_where_they_began(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "data", 4)
    config = tiny_config(root, None, "data.cache=false", "train.epochs=9", "train.batch_size=1")
    (tmp_path / "run").mkdir()
    trainer = Trainer(config, tmp_path / "run", "cpu", Problems(), Display(Console(quiet=True)))
    plain = trainer.train_step

    def step(batches: list) -> dict[str, float]:
        row = plain(batches)
        if trainer.progress.step == 3:
            for path in (root / "images").iterdir():
                path.write_bytes(b"")
        return row

    trainer.train_step = step  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"for 5 steps in a row no image could be read\. Check .*; then go on"):
        trainer.run()
    assert newest_state(tmp_path / "run", pytest.fail)["progress"]["step"] == 3
    assert trainer.problems.count == 4
