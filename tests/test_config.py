"""Configuration: recipes and their published facts, overrides, and messages that name the nearest key."""

import json
from pathlib import Path

import pytest

from rotanext.config import (
    Config,
    flat_values,
    keys_of,
    load_config,
    nearest_key,
    recipe_names,
    saved_values,
    validate,
    validate_saved,
)  # fmt: skip
from rotanext.config.formats import RENAMED
from rotanext.errors import UserError

R50_SGD = "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_1x_dota"
R50_ADAMW = "rotated-retinanet-rbox-le90_r50_fpn_kld-stable_adamw-1x_dota"
CONVNEXT = "rotated-retinanet-rbox-le90_convnext-tiny_fpn_kld-stable_adamw-1x_dota"
PUBLISHED_RETINANET = [R50_SGD, R50_ADAMW, CONVNEXT]
PUBLISHED_RTMDET = [
    *(f"rotated-rtmdet_{size}-3x-dota{tiles}" for size in ("tiny", "s", "m", "l") for tiles in ("", "_ms")),
    "rotated-rtmdet_l-coco_pretrain-3x-dota_ms",
    "rotated-rtmdet_l-100e-aug-dota",
]
PUBLISHED = PUBLISHED_RETINANET + PUBLISHED_RTMDET


def value_of(config: Config, key: str) -> object:
    section: object = config
    for part in key.split("."):
        section = getattr(section, part)
    return section


def test_the_recipes_that_come_along() -> None:
    own = {"demo", "small", "aligned_convnext-tiny_3x_dota", "aligned_convnext-tiny_100e-aug_dota"}
    assert set(recipe_names()) == {*PUBLISHED, *own}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    assert load_config(name).name == name


@pytest.mark.parametrize("name", recipe_names())
def test_only_published_recipes_keep_absurd_boxes(name: str) -> None:
    assert load_config(name).predict.drop_absurd == (name not in PUBLISHED)


# REFERENCE.md, "The published systems": the facts of all three, then of each.
SHARED_FACTS = {
    "neck.channels": 256, "head.stacked_convs": 4, "head.anchors": "v0", "data.classes": "dota1.0", "data.image_size": 1024,
    "data.background": False, "head.box_loss": "kld-stable", "head.box_loss_weight": 5.5, "train.epochs": 12, "train.batch_size": 2,
    "train.accumulate": 1, "train.scale_lr": False, "train.schedule": "step", "train.milestones": [8, 11], "train.clip_norm": 35,
    "train.ema": 0, "train.precision": "fp32", "augment.flip_horizontal": 0.25, "augment.flip_vertical": 0.25,
    "augment.flip_diagonal": 0.25, "augment.quarter_turns": 0, "augment.rotate": 0, "augment.scale": (1, 1),
    "augment.translate": 0, "augment.brightness": 0, "augment.contrast": 0, "augment.saturation": 0, "augment.hue": 0,
    "predict.tile": 1024, "predict.overlap": 200, "predict.score_threshold": 0.05, "predict.top_k": 2000,
    "predict.iou_threshold": 0.1, "predict.max_detections": 2000, "predict.merge_iou": 0.1,
    "predict.drop_absurd": False,
}  # fmt: skip
SGD_FACTS = {
    "train.optimizer": "sgd", "train.lr": 0.0025, "train.momentum": 0.9, "train.weight_decay": 1e-4, "train.no_decay": [],
}  # fmt: skip
ADAMW_FACTS = {
    "train.optimizer": "adamw", "train.lr": 1e-4, "train.betas": (0.9, 0.999), "train.weight_decay": 0.05,
    "train.no_decay": ["norm"],
}  # fmt: skip
R50_FACTS = {
    "backbone.kind": "timm", "backbone.name": "resnet50", "backbone.weights": "resnet50.tv_in1k", "backbone.frozen_stages": 1,
    "backbone.frozen_norm": True, "backbone.drop_path": 0, "train.warmup_steps": 500,
}  # fmt: skip
CONVNEXT_FACTS = {
    "backbone.kind": "convnext", "backbone.name": "convnext_tiny", "backbone.drop_path": 0.4, "backbone.layer_scale": 1,
    "train.warmup_steps": 1000,
}  # fmt: skip
FACTS = {R50_SGD: R50_FACTS | SGD_FACTS, R50_ADAMW: R50_FACTS | ADAMW_FACTS, CONVNEXT: CONVNEXT_FACTS | ADAMW_FACTS}


@pytest.mark.parametrize("name", PUBLISHED_RETINANET, ids=["r50-sgd", "r50-adamw", "convnext-adamw"])
def test_published_facts(name: str) -> None:
    config = load_config(name)
    for key, expected in (SHARED_FACTS | FACTS[name]).items():
        assert value_of(config, key) == expected, key
    assert config.train.warmup_ratio == pytest.approx(1 / 3)


# RTMDET.md: the facts of all ten rows, of each size, and of the row that is trained in another way.
RTMDET_FACTS = {
    "backbone.kind": "cspnext", "neck.kind": "pafpn", "head.stacked_convs": 2, "head.box_loss_weight": 2, "data.padding": "grey",
    "data.classes": "dota1.0", "data.image_size": 1024, "data.background": False, "augment.flip_horizontal": 0.25,
    "augment.flip_vertical": 0.25, "augment.flip_diagonal": 0.25, "augment.quarter_turns": 0, "augment.rotate": 0.5,
    "augment.round_classes": ["storage-tank", "roundabout"], "augment.fill": "black", "augment.scale": (1, 1),
    "augment.translate": 0, "augment.visible": 0, "train.accumulate": 1, "train.optimizer": "adamw", "train.lr": 2.5e-4,
    "train.scale_lr": False, "train.betas": (0.9, 0.999), "train.weight_decay": 0.05, "train.schedule": "cosine",
    "train.flat": 0.5, "train.final_ratio": 0.05, "train.warmup_steps": 999, "train.warmup_ratio": 1e-5, "train.clip_norm": 0,
    "train.ema": 0.9998, "train.ema_warmup": 2000, "train.precision": "fp32", "predict.tile": 1024, "predict.overlap": 200,
    "predict.score_threshold": 0.05, "predict.top_k": 2000, "predict.iou_threshold": 0.1, "predict.max_detections": 2000,
}  # fmt: skip
RTMDET_SIZES = {  # channels and blocks of the neck, exponential distances, images of a process
    "tiny": (96, 1, False, 8), "s": (128, 1, False, 8), "m": (192, 2, True, 8), "l": (256, 3, True, 4),
}  # fmt: skip
RTMDET_3X = {
    "train.epochs": 36, "augment.resize": (1, 1), "augment.crop": 0, "augment.hue": 0, "augment.mosaic": 0, "augment.mixup": 0,
}  # fmt: skip
RTMDET_100E = {
    "train.epochs": 100, "augment.resize": (0.1, 2), "augment.crop": 1024, "augment.mosaic": 1, "augment.mixup": 1,
    "augment.mosaic_turns": False, "augment.close_epochs": 10,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_RTMDET)
def test_published_facts_of_rtmdet(name: str) -> None:
    config, size = load_config(name), name.removeprefix("rotated-rtmdet_").partition("-")[0]
    assert config.backbone.name == f"cspnext_{size}"
    found = config.neck.channels, config.neck.blocks, config.head.exponential, config.train.batch_size
    assert found == RTMDET_SIZES[size]
    for key, expected in (RTMDET_FACTS | (RTMDET_100E if "100e" in name else RTMDET_3X)).items():
        assert value_of(config, key) == expected, key


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("train.epochs=3", "train.epochs", 3),
        (" train.epochs = 3 ", "train.epochs", 3),
        ("train.lr=2e-3", "train.lr", 0.002),
        ("train.lr=.5", "train.lr", 0.5),
        ("train.scale_lr=true", "train.scale_lr", True),
        ("train.milestones=[2, 5]", "train.milestones", [2, 5]),
        ("augment.scale=[0.5, 2]", "augment.scale", (0.5, 2.0)),
        ("data.train=folder/with=sign", "data.train", ["folder/with=sign"]),
        ('data.train=["a", "b"]', "data.train", ["a", "b"]),
        ("backbone.weights=", "backbone.weights", ""),
        ("name=mine", "name", "mine"),
    ],
)
def test_overrides(override: str, key: str, expected: object) -> None:
    config = load_config("small", [override])
    assert value_of(config, key) == expected
    plain_values = flat_values(load_config("small"))
    assert {k: v for k, v in flat_values(config).items() if k != key} == {k: v for k, v in plain_values.items() if k != key}


def test_the_last_override_counts() -> None:
    assert load_config("small", ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epoch=3", ["'train.epoch'", "'train.epochs'"]),
        ("epochs=3", ["'epochs'", "'train.epochs'"]),
        ("head.lr=3", ["'head.lr'", "'train.lr'"]),
        ("train.learning_rate=3", ["'train.learning_rate'", "nearest"]),
        ("train=3", ["'train'", "nearest"]),
        ("=3", ["nearest"]),
        ("train.epochs", ["train.epochs", "KEY=VALUE"]),
        ("train.epochs=many", ["train.epochs", "'many'", "integer"]),
        ("train.epochs=2.5", ["train.epochs", "2.5", "integer"]),
        ("train.epochs=0", ["train.epochs", "0", "greater than or equal to 1"]),
        ("train.lr=-1", ["train.lr", "-1", "greater than 0"]),
        ("train.lr=nan", ["train.lr", "nan", "finite"]),
        ("train.lr=[1]", ["train.lr", "number"]),
        ("train.optimizer=adam", ["train.optimizer", "'adam'", "'sgd', 'adamw' or 'muon'"]),
        ("head.radius=-1", ["head.radius", "-1", "greater than or equal to 0"]),
        ("augment.flip_horizontal=0.9", ["augment", "more than 1"]),
        ("augment.scale=[2.0, 1.0]", ["augment", "[smallest, largest]"]),
        ("augment.scale=[1.0]", ["augment.scale"]),
        ("predict.overlap=1024", ["predict", "smaller than tile"]),
        ("data.train=3", ["data.train", "list"]),
    ],
)
def test_wrong_overrides(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config("small", [override])
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("key", keys_of())
def test_every_key_is_its_own_nearest(key: str) -> None:
    assert nearest_key(key).rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: 'small'"):
        load_config("smal")


def plain(name: str = "small") -> dict:
    return json.loads(load_config(name).model_dump_json())


@pytest.mark.parametrize("name", recipe_names())
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(indent=2))
    assert load_config(str(path)) == config
    assert validate(json.loads(path.read_text()), "here") == config
    path.write_text(json.dumps(saved_values(config)))
    assert load_config(str(path)) == config == validate_saved(saved_values(config), "here")


def write(path: Path, values: object) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_a_users_file_with_a_missing_and_an_unknown_key(tmp_path: Path) -> None:
    values = plain()
    del values["train"]["lr"], values["augment"]
    values["train"]["learning_rate"] = values["neck"]["epochs"] = 1
    path = write(tmp_path / "mine.json", values)
    with pytest.raises(UserError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(path) for line in lines)
    assert {line.removeprefix(f"{path}: ") for line in lines} >= {
        "key 'train.lr' is missing",
        "key 'augment' is missing",
        "unknown key 'neck.epochs'; nearest: 'train.epochs'",
    }
    assert "unknown key 'train.learning_rate'; nearest: '" in str(error.value)


def test_an_override_can_supply_what_a_users_file_lacks(tmp_path: Path) -> None:
    values = plain()
    del values["train"]["lr"], values["head"]["radius"], values["head"]["box_loss_weight"]
    path = write(tmp_path / "mine.json", values)
    assert load_config(path, ["train.lr=0.1", "head.box_loss_weight=2", "head.radius=2"]).head.box_loss_weight == 2


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("a.toml", b"[train\n", "not valid TOML"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[1, 2]", "list"),
        ("a.json", b'{"train": 3}', "train"),
        ("a.toml", b"name = '\xff\xfe'", "text"),
        ("a.toml", None, "no such file"),
    ],
    ids=["toml", "json", "list", "no-section", "bytes", "missing"],
)
@pytest.mark.parametrize("overrides", [[], ["train.epochs=3"]], ids=["plain", "override"])
def test_broken_files(file: str, content: bytes | None, part: str, overrides: list[str], tmp_path: Path) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(str(path), overrides)
    assert str(path) in str(error.value)
    assert part in str(error.value)


@pytest.mark.parametrize("override", ["train.epochs=true", "train.lr=true", "data.cache=1", "train.epochs=3.0", 'train.epochs="3"'])
def test_a_value_of_another_type_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].replace(".", r"\.")):
        load_config("small", [override])


@pytest.mark.parametrize(("name", "text", "found"), [
    ("deep.json", "[" * 100_000, "not valid JSON"),
    ("deep.toml", "a = " + "[" * 10_000, "not valid TOML"),
    ("digits.json", '{"name": ' + "9" * 5000 + "}", "not valid JSON"),
    ("digits.toml", "name = " + "9" * 5000, "not valid TOML"),
    ("dotted.toml", "a." * 50_000 + "b = 1", "found 100005 characters"),  # takes a minute to read
    ("long.json", json.dumps({"name": [1] * 100_000}), "name = "),
    ("many.json", json.dumps({f"key{i}": 1 for i in range(1000)}), "more faults"),
], ids=lambda value: value[:10])  # fmt: skip
def test_monstrous_recipes(name: str, text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / name))
    assert found in str(error.value)
    assert name in str(error.value)
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize("old", RENAMED)
def test_keys_of_format_1_name_their_successor(old: str) -> None:
    with pytest.raises(UserError, match=f"'{old}' is now '{RENAMED[old]}'"):
        load_config("small", [f"{old}=1"])
    assert RENAMED[old] in keys_of()


def test_a_recipe_of_format_1_is_told_where_its_keys_went(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(
        'name = "old"\n[model]\nbackbone = "convnext_atto"\nfpn_channels = 64\n[loss]\nweight = 5.5\n'
    )
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "old.toml"))
    for text in ("'model.backbone' is now 'backbone.name'", "'model.fpn_channels' is now 'neck.channels'", "'loss.weight' is now"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["backbone.kind=timm"], ["key 'backbone.frozen_stages' is missing", "key 'backbone.frozen_norm' is missing"]),
        (["backbone.kind=swin"], ["backbone.kind", "found swin", "'convnext', 'cspnext', 'timm'"]),
        (["head.kind=other"], ["head.kind", "found other", "'retina', 'rtmdet'"]),
        (["backbone.frozen_stages=1"], ["no key 'backbone.frozen_stages' of kind 'convnext'"]),
    ],
)
def test_kinds(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config("small", overrides)
    for part in parts:
        assert part in str(error.value)


def test_another_kind_leaves_the_values_of_the_first_behind() -> None:
    config = load_config(
        "small", ["backbone.kind=timm", "backbone.name=resnet18", "backbone.frozen_stages=0", "backbone.frozen_norm=false"]
    )
    assert (config.backbone.kind, config.backbone.drop_path) == ("timm", load_config("small").backbone.drop_path)


def test_a_format_of_the_future_is_refused() -> None:
    with pytest.raises(UserError, match="a configuration of format 4; expected format 1 to 3"):
        validate_saved(saved_values(load_config("small")) | {"format": 4}, "here")


def test_folders_of_any_name_come_through(tmp_path: Path) -> None:
    """Values that a program has chosen are not read as text."""
    names = [str(tmp_path / name) for name in ('a "quoted" one', "2024", "true", "x\U0001f600y", "[1]")]
    assert load_config("small", ["train.epochs=1"], {"data.train": names}).data.train == names


@pytest.mark.parametrize("value", ['["a', '["\\ud83d"]', "{a", "'b"])
def test_what_looks_like_toml_must_be(value: str) -> None:
    with pytest.raises(UserError, match="no valid TOML"):
        load_config("small", [f"data.train={value}"])


@pytest.mark.parametrize("override", [
    "train.seed=99999999999999999999", "data.workers=100000", "data.image_size=999999999", "predict.tile=999999999",
    "predict.top_k=99999999999999999999", "train.epochs=99999999999999999999", "train.accumulate=99999999999999999999",
])  # fmt: skip
def test_numbers_that_nothing_can_hold(override: str) -> None:
    with pytest.raises(UserError, match=f"{override.partition('=')[0]} = .*less than or equal to"):
        load_config("small", [override])
