"""Rotated IoU by the compiled operators and the readable ones: exact cases, public bugs by number, shapely, invariance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import places
from rotanext.boxes import boxes_to_corners
from rotanext.ops import cpu, cpu_iou, jit, reference, rotated_iou, rotated_iou_pairs
from shapes import INF, NAN, Row, random_boxes, shapely_iou

GOLDEN = places.GOLDEN / "functions.npz"
HALF = math.pi / 2
pytestmark = pytest.mark.usefixtures("implementation")


def iou(a: Row, b: Row, mode: str = "iou", dtype: torch.dtype = torch.float32) -> float:
    return rotated_iou(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype), mode).item()


# Exact cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", [1e-3, 1e-1, 1.0, 37.7, 1e3, 1e5])
@pytest.mark.parametrize("offset", [0.0, 1234.5, -1e6, 1e6])
def test_identical_boxes_have_iou_1(size: float, offset: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    angles = np.concatenate([[0, HALF, -HALF, math.pi / 4, 1e-9, math.pi], rng.uniform(-10, 10, 100)])
    ratios = rng.uniform(0.01, 1, len(angles))
    rows = [[offset, -offset, size, size * ratio, angle] for ratio, angle in zip(ratios, angles, strict=True)]
    boxes = torch.tensor(rows, dtype=dtype)
    pairs, iof = rotated_iou_pairs(boxes, boxes), rotated_iou(boxes, boxes, "iof").diagonal()
    # In float32 exactly; in float64 to the last digits of the area.
    tolerance = 0 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(pairs, torch.ones_like(pairs), rtol=0, atol=tolerance)
    torch.testing.assert_close(iof, torch.ones_like(pairs), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([50, 50, 40, 20, 0.3], [50, 50, 20, 10, 0.3], 0.25),  # contained, parallel
        ([50, 50, 100, 100, 0.0], [50, 50, 10, 5, 1.1], 50 / 10000),  # contained, turned
        ([0, 0, 1e5, 1e5, 0.7], [100, 50, 1, 1, 0.1], 1e-10),  # a point on a continent
        ([0, 0, 100, 6, math.pi / 4], [0, 0, 100, 6, -math.pi / 4], 36 / 1164),  # crossed
        ([500, 500, 100, 6, math.pi / 4], [500, 500, 100, 6, -math.pi / 4], 36 / 1164),
        ([10, 20, 30, 8, 0.4], [10, 20, 8, 30, 0.4 + HALF], 1.0),  # the other description of the same box
        ([10, 20, 30, 8, 0.4], [10, 20, 30, 8, 0.4 + math.pi], 1.0),
        ([10, 20, 30, 8, -HALF], [10, 20, 30, 8, HALF], 1.0),
        ([0, 0, 10, 10, 0], [0, 0, 10, 10, math.pi / 4], 1 / math.sqrt(2)),  # an octagon
        ([0, 0, 10, 10, 0], [5, 0, 10, 10, 0], 1 / 3),  # collinear edges
        ([0, 0, 10, 4, 0.6], [5 * math.cos(0.6), 5 * math.sin(0.6), 10, 4, 0.6], 1 / 3),  # collinear and turned
        ([0, 0, 10, 10, 0], [10, 0, 10, 10, 0], 0.0),  # touching along an edge
        ([0, 0, 10, 10, 0], [10, 10, 10, 10, 0], 0.0),  # touching in a corner
        ([0, 0, 10, 10, 0], [5 + 5 * math.sqrt(2), 0, 10, 10, math.pi / 4], 0.0),  # a corner on an edge
        ([0, 0, 10, 10, 0], [10.001, 0, 10, 10, 0], 0.0),
        ([0, 0, 10, 10, 0], [1e6, 1e6, 10, 10, 0.5], 0.0),
    ],
    ids=[
        "contained", "contained-turned", "contained-tiny", "crossed", "crossed-off-origin", "quarter", "half-turn", "open-end",
        "octagon", "collinear", "collinear-turned", "touch-edge", "touch-corner", "corner-on-edge", "apart", "far",
    ],
)  # fmt: skip
def test_known_cases(a: Row, b: Row, expected: float) -> None:
    for first, second in ((a, b), (b, a)):
        assert iou(first, second) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert iou(first, second, dtype=torch.float64) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_iof_divides_by_the_first_area() -> None:
    small, large = [50.0, 50, 10, 10, 0.2], [50.0, 50, 40, 20, 0.2]
    assert iou(small, large, "iof") == pytest.approx(1)
    assert iou(large, small, "iof") == pytest.approx(1 / 8)
    with pytest.raises(ValueError, match="'giou'"):
        iou(small, large, "giou")


@pytest.mark.parametrize("shift", [1e-3, 1e-2, 0.1, 1.0])
def test_nearly_identical_large_boxes(shift: float) -> None:
    a = [12345.0, 23456.0, 20000.0, 9000.0, 0.7]
    b = [12345.0 + shift * math.cos(0.7), 23456.0 + shift * math.sin(0.7), 20000.0, 9000.0, 0.7]
    expected = (20000 - shift) / (20000 + shift)
    assert iou(a, b, dtype=torch.float64) == pytest.approx(expected, abs=1e-12)
    assert iou(a, b) == pytest.approx(1, abs=2 * shift / 20000 + 1e-6)


@pytest.mark.parametrize(
    "box",
    [
        [50, 50, 0, 0, 0], [50, 50, 20, 0, 0.3], [50, 50, 0, 20, 0.3],
        [INF, 50, 20, 10, 0], [50, -INF, 20, 10, 0], [50, 50, INF, 10, 0], [50, 50, INF, INF, 0.5], [50, 50, 20, 10, INF],
        [INF] * 5, [NAN, 50, 20, 10, 0], [50, 50, NAN, 10, 0], [50, 50, 20, 10, NAN], [NAN] * 5,
    ],
    ids=lambda box: "_".join(str(x) for x in box),
)  # fmt: skip
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_boxes_without_a_finite_area_have_iou_0(box: Row, mode: str) -> None:
    plain = [50.0, 50, 30, 20, 0.1]
    assert iou(box, plain, mode) == 0
    assert iou(plain, box, mode) == 0
    assert iou(box, box, mode) == 0


def test_negative_sides_have_no_area() -> None:
    assert iou([5.0, 5, -7, -7, 0.1], [5.0, 5, -7, -7, 0.1]) == 0
    assert iou([5.0, 5, -7, -7, 0.1], [5.0, 5, 7, 7, 0.1]) == 0


# Public bugs of other implementations (angles given in degrees there)


def test_mmcv_2621_identical_boxes_are_not_a_third() -> None:
    box = [0.0, 0.0, 180.6422271729, 136.3633728027, 0.9559648633]
    assert iou(box, box) == 1
    for deviation in (-2, -1, -0.5, 0.5, 1, 2):  # "a deviation of 1 gives 0.33, one of 2 gives 0.98"
        wider = [0.0, 0.0, box[2] + deviation, *box[3:]]
        assert iou(box, wider) == pytest.approx(min(box[2], wider[2]) / max(box[2], wider[2]), rel=1e-6)


def test_mmcv_2952_hair_thin_boxes_are_not_negative() -> None:
    b = [151.0080, 436.2173, 302.0159, 313.7347, 3.1184]
    for length in (1.9711e3, 1.9711e10):
        assert 0 <= iou([1.3507e02, 4.0672e02, 7.9445e-7, length, 1.7708], b) < 1e-6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (  # detectron2#2154: 0.600224
            [296.6620178222656, 458.73883056640625, 23.515729904174805, 47.677001953125, 0.08795166015625],
            [296.66201, 458.73882, 23.51573, 47.67702, 0.087951],
        ),
        (  # detectron2#2167: 0.5848
            [2563.7446289, 1436.7901611, 2174.7033691, 214.0950012, 115.1183472],
            [2563.7446289, 1436.7902832, 2174.7028809, 214.0949554, 115.1183548],
        ),
    ],
    ids=["2154", "2167"],
)
def test_detectron2_2154_nearly_identical_boxes(a: Row, b: Row) -> None:
    a, b = [*a[:4], math.radians(a[4])], [*b[:4], math.radians(b[4])]
    assert iou(a, b) == pytest.approx(1, abs=1e-5)


def test_detectron2_4889_never_negative_nor_above_1() -> None:
    """A large negative IoU came out for some thin, nearly parallel boxes."""
    rng = np.random.default_rng(4889)
    a = random_boxes(2000, rng, 10, 1e-3, 1e4)
    b = a + torch.from_numpy(rng.choice([0, 1e-7, 1e-4, 1e-2], (2000, 5)) * rng.standard_normal((2000, 5)))
    b[:, 2:4] = b[:, 2:4].abs()
    for pair in ((a, b), (a.float(), b.float())):
        found = rotated_iou_pairs(*pair)
        assert ((found >= 0) & (found <= 1)).all()


def test_detectron2_1266_boxes_far_beyond_any_image() -> None:
    a = [160.0, 153.0, 230.0, 23.0, math.radians(-37)]
    b = [-1.117407639806935e17, 1.3858420478349148e18, 1000.0000610351562, 1000.0000610351562, math.radians(1612)]
    assert iou(a, b) == 0


def test_rrpn_44_iou_is_not_above_1() -> None:
    found = iou([46.83, 44.03, 3.9, 1.63, 0], [46.83, 44.03, 1.63, 3.9, 1.45])  # was 1.35
    assert 0.85 < found <= 1


# Shapely, properties


@pytest.mark.parametrize(
    ("extent", "least", "most"),
    [(100, 0.5, 80), (30, 10, 60), (100, 1e-2, 300), (2, 1, 3)],
    ids=["mixed", "dense", "slender", "heap"],
)
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_rotated_iou_against_shapely(extent: float, least: float, most: float, mode: str) -> None:
    rng = np.random.default_rng(int(extent))
    a, b = (random_boxes(40, rng, extent, least, most) for _ in range(2))
    expected = shapely_iou(boxes_to_corners(a), boxes_to_corners(b), mode)
    assert (expected > 0).sum() > 100
    np.testing.assert_allclose(rotated_iou(a, b, mode).numpy(), expected, atol=1e-9)
    moved = [x + torch.tensor([1000.0, 500, 0, 0, 0]) for x in (a, b)]
    np.testing.assert_allclose(
        rotated_iou(moved[0].float(), moved[1].float(), mode).numpy(), expected, atol=1e-4 if least >= 0.5 else 1e-2
    )


def test_iou_and_iof_against_the_reference() -> None:
    golden = np.load(GOLDEN)
    a, b = torch.from_numpy(golden["iou_a"]), torch.from_numpy(golden["iou_b"])
    for mode in ("iou", "iof"):
        np.testing.assert_allclose(rotated_iou(a, b, mode).numpy(), golden[mode], rtol=1e-4, atol=1e-6)


box = st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.1, 80), st.floats(0.1, 80), st.floats(-7, 7)).map(list)


@settings(deadline=None)
@given(box, box, st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(-7, 7), st.floats(1e-3, 1e3))
def test_symmetry_and_invariance(a: Row, b: Row, dx: float, dy: float, turn: float, scale: float) -> None:
    def moved(row: Row) -> Row:
        x, y, w, h, angle = row
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        return [scale * x + dx, scale * y + dy, scale * w, scale * h, angle + turn]

    plain = iou(a, b, dtype=torch.float64)
    assert 0 <= plain <= 1
    assert iou(b, a, dtype=torch.float64) == pytest.approx(plain, abs=1e-9)
    assert iou([a[0] + dx, a[1] + dy, *a[2:]], [b[0] + dx, b[1] + dy, *b[2:]], dtype=torch.float64) == pytest.approx(
        plain, abs=1e-8
    )
    # At scale 1e-3 and offset 1e4 an ulp of the centre is 2e-8 of the smallest side.
    assert iou(moved(a), moved(b), dtype=torch.float64) == pytest.approx(plain, abs=1e-6)


@pytest.mark.usefixtures("three_threads")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(150, np.random.default_rng(0)), random_boxes(90, np.random.default_rng(1))
    expected = reference.rotated_iou(a, b), reference.rotated_iou_pairs(a[:90], b)
    monkeypatch.setattr(jit, "_WORTH_A_THREAD", 1)
    found = rotated_iou(a, b), rotated_iou_pairs(a[:90], b)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# Gradients of pairs


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize(
    ("extent", "least", "most"), [(60, 2, 40), (10, 5, 30), (100, 1e-2, 300), (2, 1, 3)], ids=["mixed", "dense", "slender", "heap"]
)
def test_gradients_are_the_readable_ones(extent: float, least: float, most: float, mode: str) -> None:
    rng = np.random.default_rng(int(extent))
    a, b = random_boxes(2000, rng, extent, least, most), random_boxes(2000, rng, extent, least, most)
    b[:200] = a[:200]
    b[200:400, 4] = a[200:400, 4]
    upstream = torch.from_numpy(rng.standard_normal(2000))
    expected = reference.iou_pairs_gradients(a, b, upstream, mode)
    for found, wanted in zip(cpu.iou_pairs_gradients(a, b, upstream, mode), expected, strict=True):
        scale = wanted.abs().amax(1, keepdim=True).clamp_min(1e-3)
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-7)
        assert (wanted.abs() > 1e-3).any(1).sum() > 90


def odd_boxes(n: int, rng: np.random.Generator, odd: Row) -> Tensor:
    boxes = random_boxes(n, rng, 30, 1, 40).float()
    where = torch.from_numpy(rng.random((n, 5)) < 0.1)
    boxes[where] = torch.from_numpy(rng.choice(odd, (n, 5))).float()[where]
    return boxes


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_gradients_of_odd_boxes_are_the_readable_ones(mode: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (odd_boxes(4000, rng, [NAN, INF, -INF, 0, -5, 0.01, 1000]) for _ in range(2))
    expected = reference.iou_pairs_gradients(a, b, torch.ones(4000), mode)
    for found, wanted in zip(cpu.iou_pairs_gradients(a, b, torch.ones(4000), mode), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
        assert (wanted != 0).any(1).sum() > 500


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=["float64", "float32", "float16"])
def test_gradients_of_all_boxes_are_finite(dtype: torch.dtype) -> None:
    """Also where what is exact is beyond the type: then they are 0."""
    rng = np.random.default_rng(1)
    a, b = (odd_boxes(4000, rng, [NAN, INF, 0, -5, 1e-20, 1e-30, 1e30, 1e9]).to(dtype) for _ in range(2))
    b[:2000] = a[:2000]
    for function in (cpu.iou_pairs_gradients, reference.iou_pairs_gradients):
        for mode in ("iou", "iof"):
            for found in function(a, b, torch.ones(4000, dtype=dtype), mode):
                assert found.dtype == dtype
                assert torch.isfinite(found).all()


@pytest.mark.usefixtures("three_threads")
def test_threads_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(150, np.random.default_rng(0)), random_boxes(150, np.random.default_rng(1))
    expected = cpu.iou_pairs_gradients(a, b, a[:, 0], "iou")
    monkeypatch.setattr(jit, "_WORTH_A_THREAD", 1)
    for found, wanted in zip(cpu.iou_pairs_gradients(a, b, a[:, 0], "iou"), expected, strict=True):
        assert torch.equal(found, wanted)


# Prepared boxes


def test_a_prepared_box_knows_its_extents() -> None:
    boxes = random_boxes(200, np.random.default_rng(0))
    corners, rows = boxes_to_corners(boxes), torch.from_numpy(cpu_iou.prepare(boxes.numpy()))
    half = (corners.amax(1) - corners.amin(1)) / 2
    torch.testing.assert_close(rows[:, [cpu_iou.EX, cpu_iou.EY]], half, rtol=0, atol=1e-12)
    torch.testing.assert_close(rows[:, cpu_iou.AREA], boxes[:, 2] * boxes[:, 3])
    reach = (corners - boxes[:, None, :2]).norm(dim=2)
    torch.testing.assert_close(rows[:, cpu_iou.RADIUS, None].expand(-1, 4), reach)
    empty = cpu_iou.prepare(np.array([[5.0, 5, -3, -4, 0.1], [5, 5, 0, 4, 0.1], [5, 5, NAN, 4, 0.1]]))
    assert empty[:, cpu_iou.AREA].tolist() == [0, 0, 0]


def test_what_overlaps_is_never_rejected() -> None:
    rng = np.random.default_rng(1)
    a, b = random_boxes(60, rng, 60, 0.01, 60), random_boxes(60, rng, 60, 0.01, 60)
    overlap = reference.rotated_iou(a, b) > 0
    first, second = cpu_iou.prepare(a.numpy()), cpu_iou.prepare(b.numpy())
    meet = torch.tensor([[cpu_iou.meet(one, other) for other in second] for one in first])
    assert not (overlap & ~meet).any()
    assert 100 < overlap.sum() < meet.sum() < 0.1 * meet.numel()  # and little else is let through
