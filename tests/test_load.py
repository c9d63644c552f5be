"""From checkpoint files to detectors, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import formula
import rotanext
from mmrotate_files import V0, V1
from networks import backbone_overrides
from places import TESTS
from process_memory import forget_peak, status
from rotanext.config import load_config
from rotanext.data.dota import CLASS_LISTS
from rotanext.errors import UserError
from rotanext.inference.detector import Detector, build_network
from rotanext.load import load_detector, read_detector, save_detector

IMAGE = formula.image(3, 96, 128)


def test_our_own_file(tiny_weights: Path, tmp_path: Path) -> None:
    detector = rotanext.load_detector(tiny_weights, device="cpu")
    assert detector.class_names == ("plane", "ship")
    assert detector.config.neck.channels == 8
    assert not detector.model.training
    save_detector(detector, tmp_path / "copy.safetensors")
    again = load_detector(tmp_path / "copy.safetensors", "cpu")
    assert again.config == detector.config
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in detector.model.state_dict().items())


def test_names_can_be_replaced(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Flugzeug\nSchiff\n")
    assert load_detector(tiny_weights, "cpu", classes=str(tmp_path / "names.txt")).class_names == ("Flugzeug", "Schiff")
    assert load_detector(tiny_weights, "cpu", anchors="v1").config.head.anchors == "v1"


@pytest.mark.parametrize(("meta", "anchors"), [(V0, "v0"), (V1, "v1")])
def test_a_checkpoint_of_mmrotate(meta: dict[str, Any], anchors: str, mmrotate: Callable[..., Path]) -> None:
    path = mmrotate(f"{anchors}.pth", meta)
    detector, notes_of_file = read_detector(path, device="cpu")
    assert detector.config.backbone.name == "convnext_atto"
    assert detector.config.head.anchors == anchors
    assert detector.config.predict.score_threshold == 0.05
    assert detector.class_names == CLASS_LISTS["dota1.0"]
    notes = "\n".join(notes_of_file)
    assert f"anchors {anchors}: " in notes
    assert ("taken to be those of dota1.0" in notes) == (anchors == "v0")
    weight = formula.weight("bbox_head.retina_cls.weight", (135, 8, 3, 3))
    assert np.array_equal(detector.model.head.cls_out.weight.detach().numpy(), weight)
    assert len(detector(IMAGE, score_threshold=0.3)) > 0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda m, t: m("a.pth", {}), {}, "no version in its metadata.*anchors v0 .*or v1"),
        (lambda m, t: m("a.pth", V0), {"classes": "dota1.5"}, "15 classes; expected 16, as in 'dota1.5'"),
        (lambda m, t: m("a.pth", V0), {"classes": "auto"}, "--classes auto"),
        (lambda m, t: m("a.pth", V0), {"classes": "dota-1.0"}, "Did you mean dota1.0"),
        (lambda m, t: m("a.pth", V0, 3), {}, "3 classes without names.*--classes FILE"),
        (lambda m, t: m("a.pth", V1, 3), {}, "15 class names; expected 3"),
        (lambda m, t: m("a.pth", V0, drop="neck.fpn_convs.4"), {}, r"missing \(2\): neck.extra.1"),
        (lambda m, t: m("a.pth", V0, add="bbox_head.extra"), {}, r"unexpected \(1\): bbox_head.extra"),
        (lambda m, t: m("a.pth", V0, drop="stages.0.1"), {}, "a ConvNeXt of"),
        (lambda m, t: m("a.pth", V0, drop="bbox_head"), {}, "a whole detector"),
        (lambda m, t: t / "none.pth", {}, "none.pth: found No such file"),
        (lambda m, t: t, {}, "found Is a directory"),
        (lambda m, t: t / "cut.safetensors", {}, "cut.safetensors: found damage"),
        (lambda m, t: t / "cut.pth", {}, "cut.pth: found"),
        (lambda m, t: t / "empty.pth", {}, "an empty file"),
        (lambda m, t: t / "text.pth", {}, "the first bytes"),
        (lambda m, t: t / "other.safetensors", {}, "It holds another architecture"),
        (lambda m, t: t / "header.safetensors", {}, "no readable header"),
        (lambda m, t: m("a.pth", V0), {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ],
)
def test_files_that_cannot_be_loaded(
    make: Callable[..., Path],
    options: dict[str, str],
    message: str,
    mmrotate: Callable[..., Path],
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(tiny_weights.read_bytes()[:100_000])
    (tmp_path / "cut.pth").write_bytes(mmrotate("whole.pth", V0).read_bytes()[:100_000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("<html>404</html>")
    save_file({"transformer.h.0.attn.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file(load_file(tiny_weights), tmp_path / "header.safetensors")
    with pytest.raises(UserError, match=message):
        load_detector(make(mmrotate, tmp_path), **({"device": "cpu"} | options))


def test_a_detector_on_any_timm_backbone_loads_again(tmp_path: Path) -> None:
    config = load_config("small", [*backbone_overrides("timm:regnety_002"), "neck.channels=8", "head.stacked_convs=1"])
    detector = Detector(build_network(config, 2), config, ("plane", "ship"))
    save_detector(detector, tmp_path / "model.safetensors")
    again = load_detector(tmp_path / "model.safetensors", "cpu")
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(detector.model.parameters(), again.model.parameters(), strict=True))


def test_a_configuration_from_before_there_were_its_newer_keys(tmp_path: Path) -> None:
    path, written = tmp_path / "old.safetensors", TESTS / "files/format1/sgd-v1/last.safetensors"
    with safe_open(written, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    for key in ("save_every", "keep", "shard"):
        del header["config"]["train"][key]
    save_file(load_file(written), path, {"rotanext": json.dumps(header)})
    assert load_detector(path, "cpu").config.train.save_every == 0
    del header["config"]["train"]["lr"]
    save_file(load_file(written), path, {"rotanext": json.dumps(header)})
    with pytest.raises(UserError, match=r"'train\.lr' is missing"):
        load_detector(path, "cpu")


RESNET = {
    "kind": "timm",
    "weights": "",
    "drop_path": 0.0,
    "frozen_stages": 0,
    "frozen_norm": False,
    "gradient_checkpointing": False,
}


@pytest.mark.parametrize(("change", "found"), [
    ({"neck": {"channels": 10**6}}, "neck.channels = 1000000"),  # would take terabytes
    ({"head": {"stacked_convs": 10**6}}, "head.stacked_convs = 1000000"),
    ({"head": {"anchor_octaves": 8}}, "2 class names; expected 0"),
    ({"neck": {"channels": 16}}, "mismatched shapes"),
    ({"backbone": RESNET | {"name": "resnet152"}}, "missing"),
    ({"backbone": RESNET | {"name": "vit_giant_patch14_clip_224"}}, None),
    ({"backbone": {"name": "nothing"}}, "no ConvNeXt 'nothing'"),
    ({"backbone": {"name": None}}, "backbone.name = None"),
    ({"backbone": {"kind": "swin"}}, "backbone.kind: found swin"),
])  # fmt: skip
def test_a_configuration_of_another_network(tiny_weights: Path, tmp_path: Path, change: dict[str, Any], found: str | None) -> None:
    """Refused before a network of any size is built."""
    path = tmp_path / "w.safetensors"
    with safe_open(tiny_weights, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    for part, values in change.items():
        kept = {} if "kind" in values else header["config"][part]
        header["config"][part] = kept | values
    save_file(load_file(tiny_weights), path, {"rotanext": json.dumps(header)})
    forget_peak()
    before = status("VmHWM")
    with pytest.raises(UserError, match=found):
        load_detector(path, "cpu")
    assert status("VmHWM") - before < 500 << 20


def test_weights_that_are_not_there_yet(tmp_path: Path) -> None:
    """A training has its best ones from the first validation on."""
    with pytest.raises(UserError, match=r"Check the path\."):
        load_detector(tmp_path / "best.safetensors")
    with pytest.raises(UserError, match=r"Check the path\."):
        load_detector(tmp_path / ("x" * 300) / "best.safetensors")
    (tmp_path / "last.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"There is .*last\.safetensors\."):
        load_detector(tmp_path / "best.safetensors")


def test_a_trainings_state_is_no_detector(tiny_run: Path) -> None:
    (state, *_) = sorted((tiny_run / "states").glob("*.pt"))
    with pytest.raises(UserError, match=r"found the state of a training; expected a detector.*last\.safetensors"):
        load_detector(state, "cpu")


@pytest.mark.parametrize(("change", "found"), [
    ({"class_names": ["ship", "ship"]}, "found class_names"),
    ({"class_names": 7}, "found class_names 7"),
    ({"format": 9}, "found format 9"),
])  # fmt: skip
def test_what_is_wrong_in_a_header_is_named(change: dict[str, Any], found: str, tiny_weights: Path, tmp_path: Path) -> None:
    with safe_open(tiny_weights, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    save_file(load_file(tiny_weights), tmp_path / "w.safetensors", {"rotanext": json.dumps(header | change)})
    with pytest.raises(UserError, match=found):
        load_detector(tmp_path / "w.safetensors", "cpu")


def test_an_old_header_with_a_configuration_of_another_format(tmp_path: Path) -> None:
    written = TESTS / "files/format1/sgd-v1/last.safetensors"
    with safe_open(written, "pt") as file:
        header = json.loads(file.metadata()["rotanext"])
    header["config"]["format"] = 9
    save_file(load_file(written), tmp_path / "w.safetensors", {"rotanext": json.dumps(header)})
    with pytest.raises(UserError, match="a configuration of format 9; expected format 1 to 3"):
        load_detector(tmp_path / "w.safetensors", "cpu")


def test_weights_under_two_names_at_once_are_refused(tmp_path: Path) -> None:
    written = TESTS / "files/format1/sgd-v1/last.safetensors"
    weights = load_file(written)
    with safe_open(written, "pt") as file:
        header = file.metadata()
    weights["neck.lateral.0.weight"] = weights["fpn.lateral.0.weight"].clone()
    save_file(weights, tmp_path / "w.safetensors", header)
    with pytest.raises(UserError, match=r"hold neck\.lateral\.0\.weight twice"):
        load_detector(tmp_path / "w.safetensors", "cpu")
