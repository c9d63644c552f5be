"""Exported detectors against PyTorch, in every format, and what is refused. Networks are tiny: tracing takes time.

All that needs a traced network is in this one file: one process traces it, once. What modules do without it is in their own files.
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import rotanext
from exported import CLASSES, image
from networks import FAMILIES
from places import ROOT
from rotanext.config import saved_values
from rotanext.errors import UserError
from rotanext.export import job, onnx_file
from rotanext.export.job import ExportOptions, export
from rotanext.export.metadata import Metadata
from rotanext.export.onnx_file import seal
from rotanext.export.parity import TOLERANCES, Parity, compare
from rotanext.export.protobuf import CHECKSUM, inspect, text_entry
from rotanext.images.reading import read_image
from rotanext.inference.detector import Detector
from rotanext.load import load_detector, read_detector, save_detector
from rotanext.system.progress import Display
from tiny import Outcome

Export = Callable[..., tuple[Parity, Path]]


@pytest.fixture(scope="module")
def written(detector: Detector, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, model.xml, model.bin and model.pt2 of one trace."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        program = job.traced_program(detector, "fp32")
        norms = any(hasattr(module, "fold_norms") for module in detector.model.modules())
        plain = job.traced_program(detector, "fp32", fold=False) if norms else program
        patch.setattr(job, "traced_program", lambda *_, fold: program if fold else plain)
        job.write_onnx(program, folder / "graph.onnx")
        patch.setattr(job, "write_onnx", lambda _, path: shutil.copy(folder / "graph.onnx", path))
        for name, form in (("model.onnx", "onnx"), ("model.xml", "openvino"), ("model.pt2", "torch")):
            parity, target = export(detector, ExportOptions(form, folder / name, check=images), Display())
            assert parity.faults == [], parity.text()
            assert target == folder / name
    return folder


@pytest.fixture
def reuse(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exports in this test take the graph that was written already."""
    monkeypatch.setattr(job, "traced_program", lambda *_, **__: None)
    monkeypatch.setattr(job, "write_onnx", lambda _, path: shutil.copy(written / "graph.onnx", path))
    return written


def assert_same(found: rotanext.Detections, expected: rotanext.Detections) -> None:
    assert len(expected) > 5
    assert found.class_names == expected.class_names
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("detector", FAMILIES, indirect=True, scope="module")
@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
@pytest.mark.parametrize(("size", "batch"), [((96, 96), 1), ((33, 70), 1), ((130, 200), 1), ((130, 160), 3), ((8, 5), 1)])
def test_exported_files_detect_what_the_checkpoint_does(
    written: Path, detector: Detector, name: str, size: tuple[int, int], batch: int
) -> None:
    exported = load_detector(written / name, "cpu")
    scene = image(*size)
    if min(size) < 32:
        assert len(exported(scene)) == len(detector(scene))
    else:
        assert_same(exported(scene, batch_size=batch), detector(scene, batch_size=batch))


def test_reports_lie_beside_the_files_and_nothing_else_is_left(written: Path) -> None:
    names = {"model.onnx", "model.xml", "model.bin", "model.pt2", "graph.onnx"}
    assert {p.name for p in written.iterdir()} == names | {f"model.{s}.parity.json" for s in ("onnx", "xml", "pt2")}
    report = json.loads((written / "model.onnx.parity.json").read_text())
    assert report["passed"]
    assert report["detections"] > 20
    assert report["matched"] == 1.0
    assert report["score_difference"] < 1e-4
    assert len({tuple(b) for b in report["batches"]}) > 2


def test_onnx_file_has_standard_operators_metadata_and_free_sizes(written: Path, detector: Detector) -> None:
    model = onnx.load(written / "model.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {""}
    assert not model.functions
    assert [entry.domain for entry in model.opset_import] == [""]
    assert str(ROOT) not in str(model)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, 0, 0, 3]
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert texts == inspect((written / "model.onnx").read_bytes()).texts
    assert json.loads(texts["rotanext.class_names"]) == list(CLASSES)
    assert texts["rotanext.box_convention"].startswith("le90")
    assert json.loads(texts["rotanext.normalisation"])["mean"] == [123.675, 116.28, 103.53]
    assert json.loads(texts["rotanext.config"]) == saved_values(detector.config)
    assert texts["rotanext.version"]


def test_int8_is_quantised_evaluated_and_standard(detector: Detector, reuse: Path, images: Path, tmp_path: Path) -> None:
    options = ExportOptions("onnx", tmp_path / "m.onnx", "int8", images, images, images)
    parity, target = export(detector, options, Display())
    assert parity.accuracy is not None
    assert set(parity.accuracy) == {"PyTorch fp32", "ONNX Runtime int8"}
    assert "map50" in parity.text()
    assert parity.score_difference > 1e-3  # it is no fp32
    found = inspect(target.read_bytes())
    assert ("", "QuantizeLinear") in found.operators
    assert not found.foreign
    assert found.texts["rotanext.precision"] == "int8"


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_tampered_weights_fail_and_the_earlier_file_stays(
    detector: Detector, reuse: Path, images: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(_: object, path: Path) -> None:
        model = onnx.load(reuse / "graph.onnx")
        largest = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        values = np.frombuffer(largest.raw_data, np.float32) * 1.5
        largest.raw_data = values.astype(np.float32).tobytes()
        onnx.save(model, path)

    monkeypatch.setattr(job, "write_onnx", tampered)
    out = tmp_path / {"onnx": "m.onnx", "openvino": "m.xml"}[form]
    out.write_text("the earlier one")
    parity, target = export(detector, ExportOptions(form, out, check=images), Display())
    assert parity.faults
    assert target.name == f"{out.name}.failed"
    assert target.exists()
    assert out.read_text() == "the earlier one"
    assert not json.loads(target.with_name(f"{target.name}.parity.json").read_text())["passed"]
    assert "FAILED" in parity.text()


def test_command_exits_with_1_where_it_differs(
    detector: Detector, reuse: Path, tmp_path: Path, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_detector(detector, tmp_path / "w.safetensors")
    arguments = ("export", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "m.onnx")
    done = cli(*arguments)
    assert done.code == 0
    assert "match at IoU" in done.out
    predicted = cli("predict", reuse / "model.onnx", "--weights", tmp_path / "m.onnx", "--out", tmp_path / "o")
    assert predicted.code == 2  # no image
    monkeypatch.setitem(TOLERANCES, "fp32", TOLERANCES["fp32"].__class__(0.0, 0.0, 1.1))
    failed = cli(*arguments[:-1], tmp_path / "n.onnx")
    assert failed.code == 1
    assert "beyond tolerance" in failed.err
    assert not (tmp_path / "n.onnx").exists()


def test_predict_and_eval_take_exported_files(written: Path, images: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    for name in ("model.onnx", "model.xml", "model.pt2"):
        done = cli("predict", images / "images", "--weights", written / name, "--out", tmp_path / name)
        assert done.code == 0, done.err
        assert (tmp_path / name / "detections.json").is_file()
    assert "exported by rotanext" in done.err
    done = cli("eval", images, "--weights", written / "model.onnx", "--out", tmp_path / "eval")
    assert done.code == 0, done.err


def test_differences_are_told_even_without_detections(detector: Detector, written: Path) -> None:
    """A network that is unsure of everything is compared all the same, anchor by anchor."""
    quiet = detector.reconfigured(score_threshold=1.0)
    exported = load_detector(written / "model.onnx").reconfigured(score_threshold=1.0)
    parity = compare(quiet, exported, [image(96, 96)], "fp32", "ONNX Runtime")
    assert parity.detections == 0
    assert parity.priors >= 500
    assert 0 < parity.score_difference < 1e-4


@pytest.mark.parametrize(("name", "module"), [("model.onnx", "onnxruntime"), ("model.xml", "openvino")])
def test_missing_runtimes_are_named_with_their_extra(
    written: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda wanted: None if wanted == module else real(wanted))
    with pytest.raises(UserError, match=rf"{module} is not installed.*pip install 'rotanext\[(onnx|openvino)\]'"):
        load_detector(written / name)


def test_exported_detectors_only_detect(written: Path, tmp_path: Path) -> None:
    exported, notes = read_detector(written / "model.onnx")
    assert exported.class_names == CLASSES
    assert "exported by rotanext" in notes[0]
    assert exported.reconfigured(tile=64, overlap=0).config.predict.tile == 64
    with pytest.raises(UserError, match="can only detect"):
        save_detector(exported, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="choose the precision when exporting"):
        load_detector(written / "model.onnx", precision="fp16")
    with pytest.raises(UserError, match="Leave out --anchors"):
        load_detector(written / "model.onnx", anchors="v0")
    with pytest.raises(UserError, match="nothing there"):
        load_detector(tmp_path / "none.onnx")
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert load_detector(written / "model.onnx", classes=str(tmp_path / "names.txt")).class_names == ("a", "b")
    with pytest.raises(UserError, match="--classes auto: found a choice for training"):
        load_detector(written / "model.onnx", classes="auto")


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_absurd_boxes_are_dropped_of_exported_files_too(written: Path, detector: Detector, name: str) -> None:
    counts = []
    for drop in (True, False):
        exported = load_detector(written / name, "cpu").reconfigured(drop_absurd=drop)
        expected = detector.reconfigured(drop_absurd=drop)(image(130, 200))
        assert_same(exported(image(130, 200)), expected)
        counts.append(len(expected))
    assert counts[0] != counts[1]


def test_openvino_in_half_precision_knows_the_clamp(detector: Detector, reuse: Path, images: Path, tmp_path: Path) -> None:
    """Limit and anchors are rounded in such a file."""
    parity, target = export(detector, ExportOptions("openvino", tmp_path / "m.xml", "fp16", check=images), Display())
    assert parity.faults == [], parity.text()
    wide = {"iou_threshold": 1.0, "top_k": 10**6, "max_detections": 10**6, "score_threshold": 0.0}
    for drop in (True, False):
        exported, plain = (one.reconfigured(drop_absurd=drop, **wide) for one in (load_detector(target, "cpu"), detector))
        assert len(exported(image(96, 96))) == len(plain(image(96, 96)))


def test_pt2_files_become_checkpoints_again(written: Path, detector: Detector, tmp_path: Path) -> None:
    save_detector(load_detector(written / "model.pt2", "cpu"), tmp_path / "x.safetensors")
    assert_same(load_detector(tmp_path / "x.safetensors", "cpu")(image(96, 96)), detector(image(96, 96)))


def _flip(content: bytes, at: float) -> bytes:
    place = int(len(content) * at)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
@pytest.mark.parametrize("how", ["cut", "flip early", "flip late", "empty", "noise"])
def test_damaged_files_are_refused_in_one_message(written: Path, tmp_path: Path, name: str, how: str) -> None:
    content = (written / name).read_bytes()
    changed = {
        "cut": content[: len(content) // 2], "flip early": _flip(content, 0.3), "flip late": _flip(content, 0.9),
        "empty": b"", "noise": bytes(range(256)) * 20,
    }[how]  # fmt: skip
    (tmp_path / name).write_bytes(changed)
    shutil.copy(written / "model.bin", tmp_path)
    if name == "model.pt2" and how.startswith("flip"):  # it may hit the program, which is not read
        with suppress(UserError):
            assert_same(load_detector(tmp_path / name, "cpu")(image(96, 96)), load_detector(written / name, "cpu")(image(96, 96)))
    else:
        with pytest.raises(UserError, match=name):
            load_detector(tmp_path / name, "cpu")


def test_damaged_weights_of_openvino_are_refused(written: Path, tmp_path: Path) -> None:
    shutil.copy(written / "model.xml", tmp_path)
    with pytest.raises(UserError, match="side by side"):
        load_detector(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(_flip((written / "model.bin").read_bytes(), 0.5))
    with pytest.raises(UserError, match="a checksum that is not the one in it"):
        load_detector(tmp_path / "model.xml")


def _resealed(model: onnx.ModelProto) -> bytes:
    kept = [entry for entry in model.metadata_props if entry.key != CHECKSUM]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    content = model.SerializeToString()
    return content + text_entry(CHECKSUM, inspect(content).digest)


def test_files_made_to_deceive_are_refused(written: Path, tmp_path: Path) -> None:
    """With a right checksum, which anyone can compute."""

    def foreign(model: onnx.ModelProto) -> None:
        model.graph.node[3].domain = "com.evil"

    def elsewhere(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    def more_classes(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "rotanext.class_names":
                entry.value = '["a", "b", "c"]'

    def renamed(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "something"

    for change, message in ((foreign, "com.evil"), (elsewhere, "another file"), (more_classes, "outputs"), (renamed, "found")):
        model = onnx.load(written / "model.onnx")
        change(model)
        (tmp_path / "m.onnx").write_bytes(_resealed(model))
        with pytest.raises(UserError, match=message):
            load_detector(tmp_path / "m.onnx")(image(40, 40))


def test_sealing_refuses_operators_of_no_standard(written: Path, detector: Detector, tmp_path: Path) -> None:
    model = onnx.load(written / "graph.onnx")
    model.graph.node[0].domain = "com.microsoft"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"com\.microsoft"):
        seal(tmp_path / "m.onnx", Metadata(CLASSES, detector.config, "fp32"))


def test_pt2_files_are_read_without_unpickling(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load"))
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("torch.export.load"))
    load_detector(written / "model.pt2", "cpu")
    with zipfile.ZipFile(written / "model.pt2") as old, zipfile.ZipFile(tmp_path / "m.pt2", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(entry.filename, content)
    with pytest.raises(UserError, match="pickled weights"):
        load_detector(tmp_path / "m.pt2", "cpu")


def test_images_are_read_as_they_are(written: Path, detector: Detector, images: Path) -> None:
    image = read_image(images / "images/p0.png")
    assert_same(load_detector(written / "model.onnx")(image), detector(image))
