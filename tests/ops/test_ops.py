"""Rotated IoU and polygon IoU: exact cases, public bugs by number, shapely, invariance."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon
from torch import Tensor

import places
from rotanext import ops
from rotanext.boxes import boxes_to_corners
from rotanext.heads.anchors import V0
from rotanext.ops import jit, polygon_iou, reference, rotated_iou, rotated_iou_pairs

GOLDEN = places.GOLDEN / "functions.npz"
HALF = math.pi / 2
INF, NAN = math.inf, math.nan
Row = list[float]
pytestmark = pytest.mark.usefixtures("implementation")


def iou(a: Row, b: Row, mode: str = "iou", dtype: torch.dtype = torch.float32) -> float:
    return rotated_iou(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype), mode).item()


def random_boxes(n: int, rng: np.random.Generator, extent: float = 100, least: float = 0.5, most: float = 80) -> Tensor:
    sizes = np.exp(rng.uniform(math.log(least), math.log(most), (n, 2)))
    centres, angles = rng.uniform(0, extent, (n, 2)), rng.uniform(-4, 4, (n, 1))
    return torch.from_numpy(np.concatenate([centres, sizes, angles], 1))


def shapely_iou(a: Tensor, b: Tensor, mode: str = "iou") -> np.ndarray:
    """Matrix of IoUs of `[N, 4, 2]` corners by shapely."""
    p, q = ([Polygon(c) for c in corners.numpy()] for corners in (a, b))
    shared = np.array([[x.intersection(y).area for y in q] for x in p])
    area_a, area_b = np.array([[x.area] for x in p]), np.array([[y.area for y in q]])
    return shared / (area_a if mode == "iof" else area_a + area_b - shared)


# Rotated IoU: exact cases


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


def test_no_boxes() -> None:
    none, some = torch.zeros(0, 5), torch.ones(3, 5)
    assert rotated_iou(none, some).shape == (0, 3)
    assert rotated_iou(some, none).shape == (3, 0)
    assert polygon_iou(torch.zeros(0, 4, 2), torch.zeros(3, 4, 2)).shape == (0, 3)


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


# Rotated IoU: shapely, properties, gradients


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


def test_matrix_equals_pairs_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    a, b = random_boxes(37, rng), random_boxes(23, rng)
    whole = rotated_iou(a, b)
    i, j = torch.cartesian_prod(torch.arange(37), torch.arange(23)).unbind(1)
    torch.testing.assert_close(whole.flatten(), rotated_iou_pairs(a[i], b[j]), atol=1e-15, rtol=1e-12)
    polygons = polygon_iou(boxes_to_corners(a), boxes_to_corners(b))
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", 32)
    torch.testing.assert_close(rotated_iou(a, b), whole, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(polygon_iou(boxes_to_corners(a), boxes_to_corners(b)), polygons, atol=1e-15, rtol=1e-12)


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


@pytest.mark.parametrize(
    "b",
    [
        [5, 5, 10, 4, 0.3], [5, 5, 10, 4, 0.3 + HALF], [6, 5, 10, 4, 0.5], [5, 5, 2, 1, 0.3], [900, 5, 10, 4, 0.3], [5, 5, 0, 0, 0],
        [5, 5, 1e5, 1e-5, 1], [NAN, 5, 10, 4, 0.3], [5, INF, 10, 4, 0.3], [5, 5, INF, 4, 0.3], [5, 5, 10, 4, NAN],
    ],
    ids=["identical", "quarter", "overlap", "inside", "apart", "point", "hair", "nan", "infinite", "endless", "no-angle"],
)  # fmt: skip
def test_gradients_are_finite(b: Row) -> None:
    first = torch.tensor([[5.0, 5, 10, 4, 0.3]], requires_grad=True)
    second = torch.tensor([b], dtype=torch.float32, requires_grad=True)
    for mode in ("iou", "iof"):
        rotated_iou(first, second, mode).sum().backward()
        rotated_iou_pairs(first, second, mode).sum().backward()
    assert torch.isfinite(first.grad).all()
    assert torch.isfinite(second.grad).all()


def test_gradient_by_differences() -> None:
    rng = np.random.default_rng(6)
    a, b = random_boxes(20, rng, 10, 5, 30), random_boxes(20, rng, 10, 5, 30)
    assert torch.autograd.gradcheck(rotated_iou_pairs, (a.requires_grad_(), b.requires_grad_()), eps=1e-7, atol=1e-4)


# Polygon IoU

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
DART = [[0, 0], [10, 5], [0, 10], [4, 5]]  # concave


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (SQUARE, SQUARE, 1.0),
        (SQUARE, SQUARE[::-1], 1.0),
        (DART, DART, 1.0),
        (DART, DART[::-1], 1.0),
        (SQUARE, DART, 0.3),
        (SQUARE, [[x + 5, y] for x, y in SQUARE], 1 / 3),
        (SQUARE, [[x + 10, y] for x, y in SQUARE], 0.0),
        (DART, [[0, 4], [3, 4], [3, 6], [0, 6]], 0.0),  # in the dart's notch
        (SQUARE, [[3, 3]] * 4, 0.0),
        (SQUARE, [[0, 0], [10, 10], [10, 10], [0, 0]], 0.0),
        (SQUARE, [[NAN, 0], [1, 0], [1, 1], [0, 1]], 0.0),
        (SQUARE, [[0, 0], [INF, 0], [INF, 10], [0, 10]], 0.0),
    ],
    ids=[
        "same",
        "reversed",
        "dart",
        "dart-reversed",
        "dart-in-square",
        "third",
        "touching",
        "notch",
        "point",
        "line",
        "nan",
        "inf",
    ],
)
def test_polygon_iou_known_cases(a: list[Row], b: list[Row], expected: float) -> None:
    p, q = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    for roll in range(4):
        rolled = q.roll(roll, 1)
        assert polygon_iou(p, rolled).item() == pytest.approx(expected, abs=1e-12)
        assert polygon_iou(rolled, p).item() == pytest.approx(expected, abs=1e-12)


def simple_quads(n: int, seed: int) -> Tensor:
    """Random simple quadrilaterals, convex and concave, of both orientations."""
    rng, quads = np.random.default_rng(seed), []
    while len(quads) < n:
        quad = rng.uniform(0, 60, (4, 2)) + rng.uniform(0, 60, 2)
        if Polygon(quad).is_valid:
            quads.append(quad)
    return torch.from_numpy(np.array(quads))


def test_polygon_iou_against_shapely() -> None:
    a, b = simple_quads(60, 1), simple_quads(60, 2)
    orientation = reference.polygon_area(a).sign()
    assert {-1, 1} == set(orientation.tolist())
    assert any(not Polygon(q).equals(Polygon(q).convex_hull) for q in a.numpy())
    expected = shapely_iou(a, b)
    np.testing.assert_allclose(polygon_iou(a, b).numpy(), expected, atol=1e-10)
    far = torch.tensor([1e5, -1e5], dtype=torch.float64)
    np.testing.assert_allclose(polygon_iou(a + far, b + far).numpy(), expected, atol=1e-8)


def test_polygon_area_is_positive_clockwise_on_the_screen() -> None:
    assert reference.polygon_area(torch.tensor([SQUARE], dtype=torch.float64)).item() == 100
    assert reference.polygon_area(torch.tensor([SQUARE[::-1]], dtype=torch.float64)).item() == -100


BOXES = torch.tensor([[10.0, 10, 8, 4, 0.3], [11, 10, 8, 4, 0.2], [40, 40, 3, 9, -1.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: rotated_iou(BOXES[:, :4], BOXES),
        lambda: rotated_iou(BOXES[0], BOXES),
        lambda: rotated_iou(BOXES, BOXES.tolist()),
        lambda: rotated_iou_pairs(BOXES, BOXES[:1]),
        lambda: rotated_iou_pairs(BOXES[:2], BOXES),
        lambda: ops.rotated_nms(BOXES, torch.rand(300)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3, 1)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), torch.zeros(2)),
        lambda: ops.rotated_nms(BOXES[:, :4], torch.rand(3)),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), None, -0.5),
        lambda: ops.rotated_nms(BOXES, torch.rand(3), None, math.nan),
    ],
)
def test_other_shapes_are_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        call()


def test_whole_numbers_and_other_layouts_are_taken() -> None:
    whole = BOXES.round().long()
    torch.testing.assert_close(rotated_iou(whole, whole), rotated_iou(whole.float(), whole.float()))
    assert ops.rotated_nms(whole, torch.tensor([3, 2, 1])).tolist() == [0, 2]
    transposed = BOXES.t().contiguous().t()
    torch.testing.assert_close(rotated_iou(transposed, BOXES), rotated_iou(BOXES, BOXES))
    half = BOXES.half()
    assert rotated_iou(half, half).dtype == torch.float16
    with torch.inference_mode():
        assert ops.rotated_nms(BOXES, torch.rand(3), iou_threshold=torch.tensor(0.3)).shape == (2,)  # type: ignore[arg-type]


def test_negative_sides_have_no_area() -> None:
    assert iou([5.0, 5, -7, -7, 0.1], [5.0, 5, -7, -7, 0.1]) == 0
    assert iou([5.0, 5, -7, -7, 0.1], [5.0, 5, 7, 7, 0.1]) == 0


def test_overlapping_polygons_are_those_of_the_matrix() -> None:
    rng = np.random.default_rng(3)
    shapes = [SQUARE, SQUARE[::-1], DART, [[0, 0], [10, 10], [10, 10], [0, 0]], [[0, 0], [12, 3], [9, 14], [-4, 6]]]
    a, b = (
        torch.tensor(
            np.array([shapes[k] for k in rng.integers(0, 5, n)]) * rng.uniform(0.1, 3, (n, 1, 1)) + rng.uniform(0, 40, (n, 1, 2))
        )
        for n in (120, 90)
    )
    a[::3] = a[::3] @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    b[5], b[9, 2, 0], a[7, 1, 1], b[11] = a[3], NAN, INF, b[12]
    i, j, iou = map(torch.from_numpy, ops.overlapping_polygons(a.numpy(), b.numpy()))
    matrix = polygon_iou(a, b)
    wanted = (matrix > 1e-12).nonzero(as_tuple=True)
    assert len(i) > 300
    assert torch.equal(torch.stack([i, j]), torch.stack(wanted))
    torch.testing.assert_close(iou, matrix[wanted], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="must be"):
        ops.overlapping_polygons(a[0].numpy(), b.numpy())


@pytest.mark.usefixtures("three_threads")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(150, np.random.default_rng(0)), random_boxes(90, np.random.default_rng(1))
    expected = reference.rotated_iou(a, b), reference.rotated_iou_pairs(a[:90], b)
    monkeypatch.setattr(jit, "_WORTH_A_THREAD", 1)
    found = rotated_iou(a, b), rotated_iou_pairs(a[:90], b)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert ops.implementation(torch.device("cpu")).__name__.endswith(("cpu", "reference"))
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    assert ops.implementation(torch.device("cuda")) is reference


# What torch sees


OPERATORS = torch.ops.rotanext


@pytest.mark.parametrize("gradient", [False, True])
def test_operators_pass_torchs_own_checks(gradient: bool) -> None:
    a, b = random_boxes(7, np.random.default_rng(0), 40).float(), random_boxes(5, np.random.default_rng(1), 40).float()
    a.requires_grad_(gradient), b.requires_grad_(gradient)
    for arguments in ((a, b, "iou"), (a[:5], b, "iof")):
        torch.library.opcheck(OPERATORS.iou_matrix.default, arguments)
    torch.library.opcheck(OPERATORS.iou_pairs.default, (a[:5], b, "iou"))
    scores, labels = torch.rand(7), torch.arange(7) % 2
    for chosen in (None, labels):
        torch.library.opcheck(OPERATORS.nms.default, (a.detach(), scores, chosen, 0.1))
    sizes = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
    anchors = torch.cat(V0.grid(sizes))
    for layout in ([], V0.layout(sizes)):
        torch.library.opcheck(OPERATORS.assign_anchors.default, (anchors, b.detach(), 0.5, 0.4, layout))


def test_compile_and_export_see_through() -> None:
    class Last(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            keep = ops.rotated_nms(boxes * 2, scores, None, 0.3)
            return boxes[keep], rotated_iou(boxes, boxes[:3]).amax(1)

    boxes, scores = random_boxes(20, np.random.default_rng(0), 40).float(), torch.rand(20)
    expected = Last()(boxes, scores)
    assert len(expected[0]) < 20
    exported = torch.export.export(Last(), (boxes, scores))
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"rotanext.nms.default", "rotanext.iou_matrix.default"} <= names
    compiled = torch.compile(Last(), fullgraph=True, backend="aot_eager")
    for function in (exported.module(), compiled):
        for found, wanted in zip(function(boxes, scores), expected, strict=True):
            assert torch.equal(found, wanted)


def test_gradients_of_far_boxes_are_zero() -> None:
    a, b = torch.tensor([[0.0, 0, 2, 2, 0]], requires_grad=True), torch.tensor([[9.0, 0, 2, 2, 0]], requires_grad=True)
    rotated_iou(a, b).sum().backward()
    assert not a.grad.any()
    assert not b.grad.any()


def test_nms_ranks_nan_last(implementation: str) -> None:
    boxes = torch.tensor([[10.0, 10, 8, 4, 0], [10, 10, 8, 4, 0.01], [50, 50, 8, 4, 0]])
    assert ops.rotated_nms(boxes, torch.tensor([math.nan, 0.5, 0.9]), None, 0.1).tolist() == [2, 1]
