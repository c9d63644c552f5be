"""What every head family keeps to, whatever it is: heads/contract.py. The toy head of docs/extending.md is among them."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import extending
from networks import small_config
from rotanext.config import load_config, recipe_names, sections_of
from rotanext.export.graph import DecodedNetwork, trace
from rotanext.heads import HeadConfig
from rotanext.heads.contract import Candidates, Head, Raw, Reach, Targets, rows
from rotanext.models.network import Network

CLASSES, CHANNELS = 3, 8
STRIDES = small_config().neck.strides
SIZES = ((17, 13), (9, 7), (5, 3), (3, 2), (1, 1))  # of the levels' maps: odd ones, as none of them need be even
NONE = (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
OBJECTS = (torch.tensor([[40.0, 40, 50, 20, 0.4], [90, 80, 30, 30, -0.8], [64, 64, 4, 3, 0.1]]), torch.tensor([2, 0, 1]))
OTHERS = (torch.tensor([[70.0, 30, 60, 40, -0.3], [1000, -50, 900, 1, 1.5]]), torch.tensor([1, 1]))
KINDS = [kind for section in sections_of(HeadConfig) for kind in get_args(section.model_fields["kind"].annotation)]


def sections_of_recipes(kind: str) -> list[Any]:
    """A family's sections as the first and the last of its recipes have them; the toy's is that of the page."""
    if kind == "toy":
        return [extending.module("src/rotanext/heads/toy.py").ToyConfig(kind="toy", span=4.0)]
    found = [config.head for config in map(load_config, recipe_names()) if config.head.kind == kind]
    assert found, f"no recipe has head.kind = '{kind}'"
    return found[:1] if found[0] == found[-1] else [found[0], found[-1]]


SECTIONS = [(kind, section) for kind in [*KINDS, "toy"] for section in sections_of_recipes(kind)]


@pytest.fixture(params=[section for _, section in SECTIONS], ids=[kind for kind, _ in SECTIONS])
def section(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def head(section: Any) -> Any:
    return section.build(CHANNELS, STRIDES, CLASSES)


def maps(batch: int, spread: float = 1.0) -> list[Tensor]:
    return [torch.randn(batch, CHANNELS, height, width) * spread for height, width in SIZES]


def targets(*images: tuple[Tensor, Tensor]) -> Targets:
    return Targets([boxes for boxes, _ in images], [labels for _, labels in images])


def total(head: Head, raw: Raw, wanted: Targets) -> Tensor:
    return torch.stack([term.factor * term.sum for term in head.losses(raw, wanted).terms.values()]).sum()


def test_raw_outputs_have_the_maps_sizes(head: Any) -> None:
    raw = head(maps(2))
    assert isinstance(raw, Raw)
    assert [level.shape for level in raw.logits] == [(2, head.priors * CLASSES, *size) for size in SIZES]
    numbers = raw.geometry[0].shape[1] // head.priors
    assert [level.shape for level in raw.geometry] == [(2, head.priors * numbers, *size) for size in SIZES]


def test_the_section_tells_what_the_head_is(section: Any, head: Any) -> None:
    assert section.priors == head.priors
    assert (head.strides, head.num_classes) == (STRIDES, CLASSES)
    weights = {f"head.{name}": value for name, value in head.state_dict().items()}
    assert section.classes_of(weights) == CLASSES
    assert section.classes_of({"backbone.weight": torch.zeros(1)}) == 0


@pytest.mark.parametrize("spread", [1.0, 1e3], ids=["usual", "wild"])
def test_boxes_are_finite_and_regular(head: Any, spread: float) -> None:
    with torch.no_grad():
        boxes = head.decode(head(maps(2, spread)))
    assert boxes.shape == (2, sum(h * w for h, w in SIZES) * head.priors, 5)
    assert boxes.dtype == torch.float32
    assert boxes.isfinite().all()
    assert (boxes[..., 2] >= boxes[..., 3]).all()
    assert (boxes[..., 3] > 0).any()  # the others are none
    assert ((boxes[..., 4] >= -math.pi / 2) & (boxes[..., 4] < math.pi / 2)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chosen_boxes_are_those_of_all(head: Any, dtype: torch.dtype) -> None:
    with torch.no_grad():
        raw = head(maps(2))
    raw = Raw(*([level.to(dtype) for level in part] for part in raw))
    counts = [h * w * head.priors for h, w in SIZES]
    level = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(counts))
    prior = torch.arange(sum(counts))
    every = torch.cat([torch.stack([torch.full_like(level, image), level, prior], 1) for image in range(2)])
    some = every[torch.randperm(len(every))[:500]]
    found = head.decode(raw, Candidates(*some.unbind(1)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head.decode(raw)[some[:, 0], some[:, 2]], rtol=0, atol=0)
    assert head.decode(raw, Candidates(*some[:0].unbind(1))).shape == (0, 5)


def test_boxes_at_a_limit_are_told(section: Any, head: Any) -> None:
    """Of usual outputs there are none; a family whose sides have no limit has none at all."""
    counts = [h * w * head.priors for h, w in SIZES]
    every = Candidates(
        torch.zeros(sum(counts), dtype=torch.int64),
        torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(counts)),
        torch.arange(sum(counts)),
    )
    with torch.no_grad():
        raw = head(maps(1))
    found = section.at_limit(head.decode(raw)[0], every, STRIDES)
    assert (found.shape, found.dtype) == ((sum(counts),), torch.bool)
    assert not found.any()
    # what no output can exceed is a limit
    far = [head.decode(Raw(raw.logits, [torch.full_like(level, value) for level in raw.geometry]))[0] for value in (40.0, 80.0)]
    limited = (far[0][:, 2:4] == far[1][:, 2:4]).any(1) & far[0].isfinite().all(1)
    assert torch.equal(section.at_limit(far[1], every, STRIDES), limited)
    none = Candidates(*(values[:0] for values in every))
    assert section.at_limit(far[0][:0], none, STRIDES).shape == (0,)


@pytest.mark.parametrize("images", [[], [NONE], [NONE, NONE]], ids=["no image", "an empty one", "two empty ones"])
def test_without_objects_every_gradient_is_there(head: Any, images: list[tuple[Tensor, Tensor]]) -> None:
    raw = head(maps(len(images)))
    found = head.losses(raw, targets(*images))
    assert found.positives == 0
    total(head, raw, targets(*images)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert images or (parameter.grad == 0).all(), name


def test_without_objects_no_box_is_learnt(head: Any) -> None:
    raw = head(maps(2))
    geometry = [level.detach().requires_grad_() for level in raw.geometry]
    total(head, Raw(raw.logits, geometry), targets(NONE, NONE)).backward()
    assert all(level.grad is not None and (level.grad == 0).all() for level in geometry)


def test_a_batch_is_the_sum_of_its_images(head: Any) -> None:
    images = [OBJECTS, NONE, OTHERS]
    raw = head(maps(3))
    whole = head.losses(raw, targets(*images))
    parts = [head.losses(raw.images(slice(at, at + 1)), targets(image)) for at, image in enumerate(images)]
    assert whole.positives == sum(part.positives for part in parts) > 0
    for name, term in whole.terms.items():
        for value in ("sum", "weight"):
            torch.testing.assert_close(getattr(term, value), sum(getattr(part.terms[name], value) for part in parts))


def test_terms_are_the_same_whatever_the_batch(head: Any) -> None:
    """All processes add up the same terms, also one that has nothing to learn."""
    found = [head.losses(head(maps(len(images))), targets(*images)).terms for images in ([], [NONE], [OBJECTS])]
    assert found[0].keys() == found[1].keys() == found[2].keys() != set()
    assert all(term.factor == found[0][name].factor for terms in found for name, term in terms.items())


def test_losses_are_float32_whatever_the_outputs(head: Any) -> None:
    raw = head(maps(1))
    half = Raw(*([level.to(torch.bfloat16) for level in part] for part in raw))
    for images in ([], [OBJECTS]):
        part = half.images(slice(len(images)))
        found = head.losses(part, targets(*images))
        figures = [found.positives, *(value for term in found.terms.values() for value in (term.sum, term.weight))]
        assert {(value.dtype, value.ndim) for value in figures} == {(torch.float32, 0)}
        assert all(value.isfinite() for value in figures)


def test_it_learns_an_image_by_heart(head: Any) -> None:
    """Not at every step, nor from the first one on: where targets follow from what is predicted, they change as well."""
    pyramid, wanted = maps(1), targets(OBJECTS)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    found = []
    for _ in range(101):
        terms = head.losses(head(pyramid), wanted).terms.values()
        loss = torch.stack([term.factor * term.sum / term.weight.clamp_min(1) for term in terms]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < max(found) / 2


def test_reach_has_a_fit_for_every_box(section: Any) -> None:
    found = section.reach(torch.cat([OBJECTS[0], OTHERS[0]]), STRIDES, "small")
    assert isinstance(found, Reach)
    assert found.fit.shape == (5,)
    assert ((found.fit >= 0) & (found.fit <= 1)).all()
    assert 0 < found.least <= 1
    assert found.measure
    assert all(line.endswith(".") for line in found.advice)
    nothing = section.reach(torch.zeros(0, 5), STRIDES, "small")
    assert nothing.fit.shape == (0,)


def test_a_network_with_it_can_be_exported(section: Any) -> None:
    plain = extending.module("src/rotanext/models/plain.py").PlainConfig(kind="plain", weights="", width=4)
    neck = small_config().neck
    network = Network(plain, neck, section, CLASSES, "grey").eval()
    decoded = DecodedNetwork(network)
    program = trace(decoded).module(check_guards=False)
    for shape in ((1, 70, 33, 3), (3, 64, 96, 3)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.no_grad():
            found, expected = program(images), decoded(images)
        counts = sum(h * w for h, w in neck.level_sizes(*shape[1:3])) * section.priors
        assert [value.shape for value in found] == [(shape[0], counts, CLASSES), (shape[0], counts, 5)]
        torch.testing.assert_close(found, expected)
        raw = network(network.prepare(list(images)))
        torch.testing.assert_close(torch.cat(rows(raw.logits, CLASSES), 1), expected[0])
