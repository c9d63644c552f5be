"""From checkpoint files to detectors, and `rotanext convert`."""

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
from mmrotate_files import reference_weights
from networks import backbone_overrides
from places import TESTS
from process_memory import forget_peak, status
from rotanext.checkpoints.layouts import map_keys
from rotanext.config import load_config
from rotanext.data.dota import CLASS_LISTS
from rotanext.errors import UserError
from rotanext.inference.detector import Detector, build_network
from rotanext.load import load_detector, read_detector, save_detector

V0 = {"mmrotate_version": "0.1.0", "mmdet_version": "2.19.0"}
V1 = {"mmengine_version": "0.3.2", "dataset_meta": {"classes": CLASS_LISTS["dota1.0"]}}
IMAGE = formula.image(3, 96, 128)


@pytest.fixture(scope="module")
def mmrotate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes checkpoints in MMRotate's layout: a ConvNeXt-atto of 15 classes unless told otherwise."""
    weights: dict[int, dict[str, torch.Tensor]] = {}
    folder = tmp_path_factory.mktemp("mmrotate")

    def write(name: str, meta: dict[str, Any], classes: int = 15, drop: str = "-", add: str = "") -> Path:
        if classes not in weights:
            weights[classes] = reference_weights("convnext_atto", classes)
        kept = {key: value for key, value in weights[classes].items() if drop not in key}
        if add:
            kept[add] = torch.zeros(3)
        torch.save({"meta": meta, "state_dict": kept, "optimizer": {"state": {}, "param_groups": []}}, folder / name)
        return folder / name

    return write


def same(a: rotanext.Detector, b: rotanext.Detector) -> None:
    one, two = (detector(IMAGE, score_threshold=0.3) for detector in (a, b))
    assert len(one) > 0
    assert torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.labels, two.labels)


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


@pytest.mark.parametrize("meta", [V0, V1], ids=["v0", "v1"])
def test_convert_a_detector(meta: dict[str, Any], mmrotate: Callable[..., Path], cli: Callable, tmp_path: Path) -> None:
    source, target = mmrotate("a.pth", meta), tmp_path / "ours.safetensors"
    done = cli("convert", source, target)
    assert done.code == 0, done.err
    assert "anchors v" in done.err
    assert f"{target}: a detector of 15 classes" in done.err
    same(load_detector(source, "cpu"), load_detector(target, "cpu"))
    again = cli("convert", target, tmp_path / "again.safetensors")
    assert again.code == 0, again.err
    assert (tmp_path / "again.safetensors").read_bytes() == target.read_bytes()


def test_convert_a_backbone(cli: Callable, tmp_path: Path) -> None:
    config = load_config("demo", ["neck.channels=8"])
    backbone = build_network(config, 2).backbone
    pairs = ((".dwconv.", ".depthwise_conv."), (".pwconv", ".pointwise_conv"))
    theirs = {}
    for key, value in backbone.state_dict().items():
        for ours, other in pairs:
            key = key.replace(ours, other)
        theirs[f"backbone.{key}"] = value
    theirs["head.fc.bias"] = next(iter(theirs.values()))  # shares its memory with another tensor
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    done = cli("convert", tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert done.code == 0, done.err
    assert f"use them as backbone.weights={tmp_path / 'ours.safetensors'}" in done.err
    assert map_keys("convnext", load_file(tmp_path / "ours.safetensors")).keys() > backbone.state_dict().keys() - {
        "norm3.weight",
        "norm3.bias",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{weights}", "{tmp}/a.pth"), "must end in .safetensors"),
        (("{weights}", "{tmp}/a.safetensors", "--anchors", "v2"), "--anchors is 'v2'; expected v0 or v1"),
        (("{tmp}/none.pth", "{tmp}/a.safetensors"), "none.pth: found No such file"),
        (("{weights}", "{tmp}/file/a.safetensors"), "could not be written"),
        (("{weights}", "{tmp}/a.safetensors", "--classes", "dota1.0"), "2 classes; expected 15"),
    ],
)
def test_conversions_that_cannot_be(
    arguments: tuple[str, ...], message: str, cli: Callable, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = cli("convert", *(argument.format(weights=tiny_weights, tmp=tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.glob("*.safetensors"))


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
