"""Training samples: background, cache, scale and seeds; and the order of an epoch."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rotanext.boxes import corners_to_boxes
from rotanext.config import Config, load_config
from rotanext.data.dataset import EpochOrder, Sample, TrainingSet, collate, make_loader
from rotanext.data.dota import write_objects
from rotanext.data.index import read_entries
from rotanext.errors import Problems, UserError
from rotanext.images.reading import write_png
from rotanext.objects import Objects

NAMES = ("ship", "plane")
CORNERS = np.array([[[10.0, 10], [40, 10], [40, 22], [10, 22]], [[30, 30], [36, 38], [32, 41], [26, 33]]])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of 48 x 64, two of them background."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "labelTxt").mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        write_png(folder / "images" / f"p{i}.png", rng.integers(0, 255, (48, 64, 3), np.uint8))
        shown = CORNERS[: [2, 0, 1, 0, 2][i]] + i
        names = ["plane", "ship"][: len(shown)]
        write_objects(folder / "labelTxt" / f"p{i}.txt", Objects(shown, names, np.zeros(len(shown), np.int64)))
    return folder


def training_set(root: Path, *overrides: str) -> TrainingSet:
    config = load_config("small", ["data.image_size=0", *overrides])
    return TrainingSet(read_entries([str(root)], NAMES, Problems(strict=True)), NAMES, config)


_OFF = ("flip_horizontal", "flip_vertical", "flip_diagonal", "quarter_turns", "rotate", "translate", "brightness", "contrast")
PLAIN = [*(f"augment.{name}=0.0" for name in _OFF), "augment.scale=[1.0, 1.0]"]


def assert_same(a: Sample, b: Sample) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_sample_without_changes(root: Path) -> None:
    sample = training_set(root, *PLAIN)[0, 0]
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape == (48, 64, 3)
    torch.testing.assert_close(sample.boxes, corners_to_boxes(torch.from_numpy(CORNERS)).float())
    assert sample.labels.tolist() == [1, 0]  # by the list of names


@pytest.mark.parametrize(("background", "stems"), [(True, ["p0", "p1", "p2", "p3", "p4"]), (False, ["p0", "p2", "p4"])])
def test_background_images(root: Path, background: bool, stems: list[str]) -> None:
    data = training_set(root, f"data.background={str(background).lower()}")
    assert [entry.stem for entry in data.entries] == stems
    assert len(data) == len(stems)


def test_a_background_sample(root: Path) -> None:
    sample = training_set(root, "augment.rotate=1.0")[0, 1]
    assert sample.boxes.shape == (0, 5)
    assert sample.boxes.dtype == torch.float32
    assert sample.labels.shape == (0,)
    assert sample.labels.dtype == torch.int64


def test_nothing_but_background(root: Path) -> None:
    entries = [e for e in read_entries([str(root)], NAMES, Problems()) if not len(e.objects)]
    with pytest.raises(UserError, match=r"data\.background=true"):
        TrainingSet(entries, NAMES, load_config("small", ["data.background=false"]))


def test_no_folder_at_all() -> None:
    with pytest.raises(UserError, match="DOTA folder"):
        read_entries([], NAMES, Problems())


def test_several_folders(root: Path) -> None:
    assert len(read_entries([str(root), str(root)], NAMES, Problems())) == 10


def test_the_cache_changes_nothing_but_the_reading(root: Path) -> None:
    cached, read = training_set(root, "data.cache=true"), training_set(root, "data.cache=false")
    for epoch in range(3):
        for index in range(5):
            assert_same(cached[epoch, index], read[epoch, index])
    assert len(cached._cache) == 5
    assert not read._cache


@pytest.mark.parametrize(("size", "scale"), [(128, 2.0), (32, 0.5), (64, 1.0)])
def test_images_and_boxes_are_resized_together(root: Path, size: int, scale: float) -> None:
    sample = training_set(root, *PLAIN, f"data.image_size={size}")[0, 0]
    assert sample.image.shape == (48 * scale, 64 * scale, 3)
    torch.testing.assert_close(sample.boxes, corners_to_boxes(torch.from_numpy(CORNERS) * scale).float())


STRONG = ["augment.rotate=1.0", "augment.scale=[0.5, 1.5]", "augment.brightness=0.3"]


def test_seed_epoch_and_index_alone_decide(root: Path) -> None:
    first, second = training_set(root, *STRONG), training_set(root, *STRONG)
    second[0, 0], second[3, 2]  # what was asked before does not matter
    assert_same(first[2, 4], second[2, 4])
    others = [first[3, 4], training_set(root, *STRONG, "train.seed=1")[2, 4]]
    assert all(not torch.equal(first[2, 4].image, other.image) for other in others)


def test_lost_objects_lose_their_label_too(root: Path) -> None:
    data = training_set(root, *PLAIN, "augment.translate=0.6")
    counts = [(len(s.boxes), len(s.labels)) for s in (data[epoch, 0] for epoch in range(20))]
    assert all(boxes == labels for boxes, labels in counts)
    assert {boxes for boxes, _ in counts} >= {1, 2}


def test_images_with_round_objects_are_turned_by_quarters(root: Path) -> None:
    rotated = [*PLAIN, "augment.rotate=1.0"]
    free, quarters = training_set(root, *rotated), training_set(root, *rotated, "augment.round_classes=['ship', 'tank']")
    for epoch in range(3):
        turned = quarters[epoch, 0].boxes[0, 4] % (np.pi / 2)  # p0 has a ship
        assert min(turned, np.pi / 2 - turned) < 1e-5
        assert free[epoch, 0].boxes[0, 4] % (np.pi / 2) > 1e-3
        assert_same(quarters[epoch, 2], free[epoch, 2])  # p2 has none


# Several images in one

MOSAIC = ["augment.mosaic=1.0", "augment.crop=64"]
SEVERAL = [*MOSAIC, "augment.mosaic_turns=true", "augment.mixup=0.5", "augment.paste=2.0", "augment.resize=[0.5, 2.0]"]


def test_a_mosaic_is_made_of_four_images(root: Path) -> None:
    """Cropped to the whole canvas it shows them all, with their objects."""
    whole = training_set(root, *PLAIN, "augment.mosaic=1.0", "augment.crop=128")
    images = [training_set(root, *PLAIN)[0, i].image.numpy() for i in range(5)]
    counts = set()
    for epoch in range(6):
        sample = whole[epoch, 0]
        assert sample.image.shape == (128, 128, 3)
        shown = sample.image.numpy()[(sample.image.numpy() != 114).any(-1)]
        known = {tuple(pixel) for image in images for pixel in image.reshape(-1, 3).tolist()}
        assert all(tuple(pixel) in known for pixel in shown.tolist())
        counts.add(len(sample.boxes))
        assert len(sample.boxes) == len(sample.labels)
    assert max(counts) > 2, "more than any image has"


@pytest.mark.parametrize("overrides", [MOSAIC, ["augment.mixup=1.0"], ["augment.paste=3.0"], SEVERAL], ids=lambda o: o[0])
def test_seed_epoch_and_index_alone_decide_with_others_too(root: Path, overrides: list[str]) -> None:
    cached, read = training_set(root, *overrides), training_set(root, *overrides, "data.cache=false")
    one_worker = {}
    for epoch, index in [(3, 4), (0, 1), (2, 0), (3, 2), (2, 0), (0, 0)]:  # in any order
        one_worker[epoch, index] = cached[epoch, index]
        assert_same(read[epoch, index], one_worker[epoch, index])
    others = [cached[4, 4], training_set(root, *overrides, "train.seed=1")[3, 4]]
    assert all(not torch.equal(one_worker[3, 4].image, other.image) for other in others if isinstance(other, Sample))
    plain = training_set(root)
    assert sum(not torch.equal(one_worker[key].image, plain[key].image) for key in one_worker) >= 4


def test_the_number_of_workers_changes_nothing(root: Path) -> None:
    def epoch(workers: int) -> list[Sample]:
        data = training_set(root, *SEVERAL)
        return [sample for batch in make_loader(data, EpochOrder(5, 2, 0), workers) for sample in batch]

    for one, two in zip(epoch(0), epoch(2), strict=True):
        assert_same(one, two)


def test_the_last_epochs_are_without(root: Path) -> None:
    several = [*MOSAIC, "augment.mixup=1.0", "train.epochs=5"]
    closing, never = training_set(root, *several, "augment.close_epochs=2"), training_set(root, *several)
    plain = training_set(root, "augment.crop=64", "train.epochs=5")
    for epoch in range(5):
        expected = plain if epoch >= 3 else never
        assert_same(closing[epoch, 0], expected[epoch, 0])
        assert not torch.equal(plain[epoch, 0].image, never[epoch, 0].image)


def test_mixup_is_the_mean_of_two_samples(root: Path) -> None:
    mixed = training_set(root, *PLAIN, "augment.mixup=1.0")
    alone = [training_set(root, *PLAIN)[0, i] for i in range(5)]
    partners = set()
    for epoch in range(12):
        sample = mixed[epoch, 0]
        for index, other in enumerate(alone):
            if (sample.image.double() - (alone[0].image.double() + other.image) / 2).abs().max() <= 0.5:
                assert torch.equal(sample.boxes, torch.cat([alone[0].boxes, other.boxes]))
                assert torch.equal(sample.labels, torch.cat([alone[0].labels, other.labels]))
                partners.add(index)
                break
        else:
            pytest.fail("no image of the set was mixed in")
    assert len(partners) >= 4


def test_pasted_objects_are_found_in_their_images(root: Path) -> None:
    added = []
    for epoch in range(40):
        sample = training_set(root, *PLAIN, "augment.paste=1.5", "data.image_size=128")[epoch, 3]  # background
        plain = training_set(root, *PLAIN, "data.image_size=128")[epoch, 3]
        assert torch.equal(sample.image, plain.image) == (len(sample.boxes) == 0)
        for cx, cy, w, h, _ in sample.boxes.tolist():
            assert (sample.image != plain.image)[int(cy) - 1 : int(cy) + 2, int(cx) - 1 : int(cx) + 2].any()
            assert any(abs(w - a) + abs(h - b) < 1e-3 for a, b in ((60, 24), (20, 10)))  # twice CORNERS
        added += sample.labels.tolist()
    assert 30 < len(added) < 75  # some find no place
    assert set(added) == {0, 1}


def test_an_image_that_cannot_be_read_is_missing_as_one_of_several_only(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    damaged = tmp_path / "data/images/p0.png"
    content = bytearray(damaged.read_bytes())
    content[60:200] = bytes(140)
    damaged.write_bytes(content)
    for overrides in (SEVERAL, MOSAIC, ["augment.mixup=1.0"], ["augment.paste=4.0"]):
        data = training_set(tmp_path / "data", *overrides)
        for epoch in range(5):
            assert isinstance(data[epoch, 0], UserError)
            assert all(isinstance(data[epoch, index], Sample) for index in range(1, 5))


def test_collate_leaves_sizes_alone(root: Path) -> None:
    data = training_set(root)
    samples = [data[0, 0], data[0, 1]]
    assert collate(samples) is samples


# The order of an epoch


def batches(
    length: int, batch: int, epoch: int = 0, start: int = 0, process: int = 0, processes: int = 1, seed: int = 0
) -> list[list[int]]:
    order = EpochOrder(length, batch, seed, process, processes)
    order.epoch, order.start = epoch, start
    found = list(order)
    assert all(e == epoch for one in found for e, _ in one)
    return [[i for _, i in one] for one in found]


def flat(parts: list[list[int]]) -> list[int]:
    return [i for part in parts for i in part]


@pytest.mark.parametrize(("length", "batch"), [(10, 3), (9, 3), (1, 8), (8, 8), (100, 7)])
def test_an_epoch_is_a_permutation(length: int, batch: int) -> None:
    found = batches(length, batch)
    assert sorted(flat(found)) == list(range(length))
    assert all(len(one) == batch for one in found[:-1])
    assert len(found) == len(EpochOrder(length, batch, 0))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert batches(50, 4, epoch=3) == batches(50, 4, epoch=3)
    assert batches(50, 4, epoch=3) != batches(50, 4, epoch=4)
    assert batches(50, 4, epoch=3) != batches(50, 4, epoch=3, seed=1)


@pytest.mark.parametrize("start", [0, 1, 5, 12, 13])
def test_resuming_within_an_epoch_goes_on_where_it_stopped(start: int) -> None:
    assert batches(50, 4, epoch=2, start=start) == batches(50, 4, epoch=2)[start:]


@pytest.mark.parametrize(("length", "batch", "processes"), [(12, 2, 3), (10, 2, 3), (2, 1, 4), (7, 4, 2), (1, 2, 3), (9, 2, 2)])
def test_processes_share_an_epoch(length: int, batch: int, processes: int) -> None:
    parts = [batches(length, batch, process=p, processes=processes) for p in range(processes)]
    alone = batches(length, batch * processes)
    assert all(len(part) == len(alone) for part in parts), "equally many, or some would wait for ever"
    for number, whole in enumerate(alone):  # at any time all have, together, what one process with the larger batch has
        assert sorted(flat([part[number] for part in parts])) == sorted(whole)
    assert sorted(flat([flat(part) for part in parts])) == list(range(length)), "no image comes twice"
    assert len(EpochOrder(length, batch, 0, 0, processes)) == len(alone)


def test_a_share_of_nothing_is_an_empty_batch(root: Path) -> None:
    data = training_set(root)
    last = [list(make_loader(data, EpochOrder(len(data), 2, 0, p, 2), 0))[-1] for p in range(2)]
    assert [len(batch) for batch in last] == [1, 0]


def test_the_loader_gives_the_order_and_leaves_the_global_generator_alone(root: Path) -> None:
    data = training_set(root)
    order = EpochOrder(len(data), 2, 0)
    order.epoch = 1
    state = torch.get_rng_state()
    loaded = list(make_loader(data, order, 0))
    assert torch.equal(torch.get_rng_state(), state)
    expected = [[data[key] for key in batch] for batch in order]
    for found_batch, expected_batch in zip(loaded, expected, strict=True):
        for found, sample in zip(found_batch, expected_batch, strict=True):
            assert_same(found, sample)


def test_configuration_is_kept(root: Path) -> None:
    assert isinstance(training_set(root).config, Config)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3)], ids=str)
def test_images_of_one_row_or_column_are_flipped_as_any(shape: tuple[int, int, int], tmp_path: Path) -> None:
    for name in ("images", "labelTxt"):
        (tmp_path / name).mkdir()
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_png(tmp_path / "images/thin.png", pixels)
    (tmp_path / "labelTxt/thin.txt").touch()
    data = training_set(tmp_path, *PLAIN[1:], "augment.flip_horizontal=0.0", "augment.flip_diagonal=1.0", "data.background=true")
    assert data[0, 0].image.tolist() == pixels[::-1, ::-1].tolist()
