"""Hostile and broken checkpoints: every layout that is accepted, changed in its content, its program, its archive or its bytes."""

import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from fuzz_inputs import NUMBERS, change_bytes, change_value, mutate_bytes, noise
from fuzz_pickles import change_program
from networks import small_config, small_network
from rotanext.boxes import CONVENTION
from rotanext.config import saved_values
from rotanext.config.formats import FORMAT
from rotanext.models.convnext import VARIANTS, ConvNeXt, Variant
from rotanext.models.network import Network

TINY = "convnext_fuzz"
VARIANTS.setdefault(TINY, Variant((1, 1, 1, 1), (4, 4, 8, 8), 1))  # small enough for a thousand loads a minute
CLASSES = ("plane", "ship")
V0 = {
    "mmrotate_version": "0.3.4",
    "mmcv_version": "1.6.0",
    "CLASSES": CLASSES,
    "epoch": 12,
    "seed": np.int64(3),
    "config": "angle_version = 'le90'\n",
}
V1 = {
    "mmengine_version": "0.3.2",
    "dataset_meta": {"classes": CLASSES, "palette": [(1, 2, 3)]},
    "experiment_name": "x",
    "cfg": "model = dict()",
}
THEIRS = (
    ("neck.lateral.", "neck.lateral_convs."), ("neck.output.", "neck.fpn_convs."), ("neck.extra.0", "neck.fpn_convs.3"),
    ("neck.extra.1", "neck.fpn_convs.4"), ("head.cls_convs.", "bbox_head.cls_convs."), ("head.reg_convs.", "bbox_head.reg_convs."),
    ("head.cls_out", "bbox_head.retina_cls"), ("head.reg_out", "bbox_head.retina_reg"),
)  # fmt: skip
MM = ((".dwconv.", ".depthwise_conv."), (".pwconv", ".pointwise_conv"))
TIMM = (("downsample_layers.0.", "stem."), (".dwconv.", ".conv_dw."), (".pwconv", ".mlp.fc"))


def _rename(key: str, pairs: Sequence[tuple[str, str]]) -> str:
    for ours, theirs in pairs:
        key = key.replace(ours, theirs)
    return key


@cache
def tiny_detector() -> Network:
    """A detector of 20,000 weights."""
    torch.manual_seed(0)
    return small_network(TINY, len(CLASSES), channels=4).eval()


@cache
def tiny_backbone() -> nn.Module:
    """The detector's backbone alone, to load into."""
    return ConvNeXt(TINY)


def _as_mmrotate(weights: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    renamed = OrderedDict()
    for key, value in weights.items():
        key = _rename(key, (*MM, *THEIRS))
        if "_convs." in key:
            stem, leaf = key.rsplit(".", 1)
            key = f"{stem}.conv.{leaf}"
        renamed[key] = value
    return renamed


def _as_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in weights.items():
        if key.startswith("downsample_layers.") and key[18] != "0":
            key = f"stages.{key[18]}.downsample.{key[20:]}"
        elif key.startswith("stages."):
            key = f"{key[:9]}blocks.{key[9:]}"
        renamed[_rename(key, TIMM)] = value
    return renamed


def _resnet_keys(prefix: str) -> dict[str, Tensor]:
    """The names of ResNet-18, with small tensors: the layout is recognised, the shapes are not right."""
    keys = {f"{prefix}conv1.weight": torch.zeros(4, 3, 7, 7)}
    for stage in range(1, 5):
        for block in range(2):
            keys |= {f"{prefix}layer{stage}.{block}.conv{i}.weight": torch.ones(4, 4, 3, 3) for i in (1, 2)}
    return keys


_HISTORY = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer"})


@contextmanager
def _toolbox_class() -> Iterator[None]:
    """A toolbox's class whose module exists only while a file is written."""
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = _HISTORY  # type: ignore[attr-defined]
    parts = ("mmengine", "mmengine.logging", name)
    before = {part: sys.modules.get(part) for part in parts}
    sys.modules.update(dict.fromkeys(parts, module))
    try:
        yield
    finally:
        for part, old in before.items():
            sys.modules.pop(part)
            if old is not None:
                sys.modules[part] = old


def saved(content: Any, legacy: bool = False) -> bytes:
    """What torch.save writes of it, today or before 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def own_header() -> dict[str, Any]:
    """What our own files say about themselves."""
    config = saved_values(small_config(TINY, channels=4))
    return {"format": FORMAT, "config": config, "class_names": list(CLASSES), "box_convention": CONVENTION}


def own_file(header: Any, weights: dict[str, Tensor] | None = None) -> bytes:
    """A file in our own format with this header."""
    return save(weights or _whole(tiny_detector_for_demo().state_dict()), {"rotanext": json.dumps(header)})


@cache
def tiny_detector_for_demo() -> Network:
    """The one that `own_header` describes."""
    return small_network(TINY, len(CLASSES), channels=4)


def _whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in weights.items()}


def _contents() -> list[dict[str, Any]]:
    """The content of every third party's detector file."""
    weights = _as_mmrotate(tiny_detector().state_dict())
    instance: Any = _HISTORY()
    instance._log_history = np.arange(4.0)
    hub = {"log_scalars": OrderedDict({"train/loss": instance}), "runtime_info": {"iter": 5}}
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return [
        {"meta": V0, "state_dict": weights, "optimizer": optimizer},
        {"meta": V1, "state_dict": weights, "message_hub": hub, "param_schedulers": [{"last_step": 1}]},
        {"meta": V0, "state_dict": wrapped | {"module.ema_backbone_norm0_weight": torch.zeros(3)}},
        {"meta": V1, "state_dict": weights | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}},
    ]


@cache
def detector_seeds() -> tuple[bytes, ...]:
    """Whole detector files: MMRotate 0.x and 1.x as zip and as it was before torch 1.6, and our own."""
    with _toolbox_class():
        theirs = [saved(content, legacy) for content in _contents() for legacy in (False, True)]
    return (*theirs, *[own_file(own_header())] * 4)


@cache
def backbone_seeds() -> tuple[bytes, ...]:
    """Whole backbone files: mmpretrain, the ConvNeXt authors, timm (zip, old, pickle of arrays, safetensors), and a detector."""
    weights = _whole(tiny_backbone().state_dict())
    authors = {"model": weights | {"head.weight": torch.zeros(5, 8), "head.bias": torch.zeros(5), "norm.weight": torch.ones(8)}}
    mmpretrain = {"meta": {}, "state_dict": {f"backbone.{_rename(key, MM)}": value for key, value in weights.items()}}
    arrays = {"model": {key: value.numpy() for key, value in weights.items()}}
    timm_layout = _as_timm(weights)
    files = [saved(content, legacy) for content in (authors, mmpretrain, timm_layout) for legacy in (False, True)]
    return (*files, pickle.dumps(arrays), pickle.dumps(arrays, 5), save(timm_layout), detector_seeds()[0], detector_seeds()[-1])


# --- archives


def change_zip(rng: Random, data: bytes) -> bytes:
    """A zip of torch.save with its program changed, entries missing, renamed, doubled, cut, compressed or falsely declared."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(entries))
    program = next(i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    method = zipfile.ZIP_STORED
    what = rng.random()
    if what < 0.6:
        entries[program] = (entries[program][0], change_program(rng, entries[program][1]))
    elif what < 0.68:
        del entries[at]
    elif what < 0.76:
        name = rng.choice(
            (
                "../canary",
                "/canary",
                entries[at][0] + "x",
                "",
                "archive/data.pkl",
                "a" * 70_000 if rng.random() < 0.1 else "b",
                "archive/data/\0",
            )
        )
        entries[at] = (name[:60_000], entries[at][1])
    elif what < 0.82:
        entries.append((entries[at][0], rng.randbytes(20)))
    elif what < 0.9:
        entries[at] = (entries[at][0], entries[at][1][: rng.randrange(1 + len(entries[at][1]))])
    elif what < 0.95:
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    else:
        method, entries[at] = zipfile.ZIP_DEFLATED, (entries[at][0], bytes(1 << rng.choice((10, 20, 24))))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    packed = buffer.getvalue()
    return _declare(rng, packed) if rng.random() < 0.2 else packed


def _declare(rng: Random, data: bytes) -> bytes:
    """Sizes, offsets, flags and counts in the directory of a zip replaced."""
    places = [i for i in range(len(data)) if data[i : i + 4] in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")]
    at = rng.choice(places) + rng.choice((6, 8, 10, 16, 20, 24, 28, 30, 42))
    size = rng.choice((2, 4))
    return data[:at] + (rng.choice((*NUMBERS, len(data))) % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]


def change_safetensors(rng: Random, data: bytes) -> bytes:
    """A safetensors file whose header says something else: offsets that overlap or lie outside, shapes, types, names, metadata."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if "__metadata__" in header and rng.random() < 0.6:
        metadata = header["__metadata__"]
        own = json.loads(metadata["rotanext"])
        if rng.random() < 0.3:
            part = own["config"][rng.choice(("backbone", "neck", "head"))]
            odd = (
                "timm",
                "vit_giant_patch14_clip_224",
                "resnet18",
                "convnext_atto",
                "x",
                10**9,
                10**6,
                0,
                -1,
                8,
                None,
                [1.0] * 16,
            )
            part[rng.choice(sorted(part))] = rng.choice(odd)
        metadata["rotanext"] = json.dumps(change_value(rng, own) if rng.random() < 0.8 else own)
        if rng.random() < 0.05:
            metadata["rotanext"] = "[" * 100_000
    else:
        name = rng.choice([key for key in header if key != "__metadata__"])
        entry = header[name]
        what = rng.randrange(6)
        if what == 0:
            entry["data_offsets"] = [rng.choice((*NUMBERS, len(body))), rng.choice((*NUMBERS, len(body)))]
        elif what == 1:
            entry["shape"] = rng.choice(([], [0], [2**40, 2**40], [2**63], [-1], "x", [*entry["shape"], 1], entry["shape"][::-1]))
        elif what == 2:
            entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "", "x", "C64"))
        elif what == 3:
            header[rng.choice((name + "x", "", "\0", "head.cls_out.weight", "x" * 10_000))] = header.pop(name)
        elif what == 4:
            header[name] = header[rng.choice(list(header))]
        else:
            header = change_value(rng, header)
    text = json.dumps(header).encode()
    declared = rng.choice(NUMBERS) if rng.random() < 0.05 else len(text)
    return (
        (declared % (1 << 64)).to_bytes(8, "little")
        + text
        + body[: rng.choice((len(body), len(body), rng.randrange(len(body) + 1)))]
    )


# --- contents


def _odd_tensor(rng: Random, tensor: Any) -> Any:
    """Something else in the place of a tensor."""
    if not isinstance(tensor, Tensor):
        return None
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: torch.zeros(()), lambda: torch.zeros(0), lambda: tensor.flatten(), lambda: tensor[None], lambda: tensor.double(),
        lambda: tensor.to(torch.int8), lambda: tensor.to(torch.complex64), lambda: tensor * float("nan"), lambda: tensor / 0,
        lambda: tensor.to(torch.bool), lambda: tensor.bfloat16(), lambda: tensor.numpy(), lambda: np.array(["a"]), lambda: "text",
        lambda: None, lambda: [tensor], lambda: {"a": tensor}, lambda: 3, lambda: tensor.to_sparse(), lambda: nn.Parameter(tensor),
        lambda: torch.zeros(1).expand(10**6), lambda: tensor[..., :1], lambda: tensor.reshape(-1, 1),
        lambda: np.float32(1.5), lambda: np.zeros((0, 3)), lambda: np.array([1, 2], ">f4"), lambda: np.zeros(2, np.uint16),
    )  # fmt: skip
    try:
        return rng.choice(kinds)()
    except (RuntimeError, TypeError, IndexError):  # of a type for which there is no such change, after an earlier one
        return None


def change_weights(rng: Random, weights: dict[str, Any]) -> None:
    key = rng.choice(list(weights))
    what = rng.randrange(6)
    if what == 0:
        del weights[key]
    elif what == 1:
        other: Any = rng.choice(
            ("x", "", "backbone.stages.9.9.dwconv.weight", f"{key}.x", 3, ("a",), None, "backbone.stages.0.٣.gamma")
        )
        weights[other] = weights.pop(key)
    elif what == 2:
        weights[rng.choice(list(weights))] = weights[key]  # the same data under two names
    else:
        outer = [k for k in weights if isinstance(k, str) and ("out" in k or "retina" in k or "neck" in k)]
        key = rng.choice(outer) if outer and rng.random() < 0.4 else key
        weights[key] = _odd_tensor(rng, weights[key])


def change_content(rng: Random) -> bytes:
    """A detector's file that torch.save wrote, but of something else."""
    with _toolbox_class():
        content = rng.choice(_contents())
        weights = content["state_dict"]
        if rng.random() < 0.1:
            weights.update(rng.choice((_resnet_keys("backbone."), _resnet_keys(""))))
        for _ in range(rng.choice((1, 1, 2, 5))):
            if weights and rng.random() < 0.6:
                change_weights(rng, weights)
            elif isinstance(content.get("meta"), dict):
                content["meta"] = change_value(rng, {k: v for k, v in content["meta"].items() if k != "seed"})
        if rng.random() < 0.1:
            content = rng.choice(
                ({"model": content}, {"state_dict": content}, weights, [content], {"state_dict": 3, "model": weights})
            )
        return saved(content, legacy=rng.random() < 0.3)


def mutate_checkpoint(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A checkpoint changed at one of its levels; see the functions above."""
    luck = rng.random()
    if luck < 0.05:
        return noise(rng, seeds)
    if luck < 0.25:
        return mutate_bytes(rng, seeds)
    if luck < 0.45:
        return change_content(rng)
    data = rng.choice(seeds)
    if data[:2] == b"PK":
        return change_zip(rng, data)
    if data[8:9] == b"{":
        return change_safetensors(rng, data)
    head = rng.choice((400, len(data)))  # an old file's program, with its data left behind it
    return change_program(rng, data[:head]) + data[head:] if luck < 0.9 else change_bytes(rng, data, seeds)


def mutate_zip_or_bytes(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A training's state: as `mutate_checkpoint`, without the contents of other files."""
    luck = rng.random()
    if luck < 0.6:
        return change_zip(rng, rng.choice(seeds))
    return noise(rng, seeds) if luck < 0.65 else mutate_bytes(rng, seeds)
