"""A detector's network: preparing batches, its parts joined, and what its state holds."""

import pytest
import torch
from torch import Tensor

from networks import FAMILIES, small_config, small_network
from rotanext.models.network import MEAN, STD, Network

SIZES = [((32, 32),), ((1, 1),), ((64, 40), (33, 96)), ((32, 64), (64, 32), (5, 7))]


def pixels(*size: int) -> Tensor:
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def network(family: str) -> Network:
    return small_network("convnext_atto", 3, family=family)


@pytest.mark.parametrize("padding", ["mean", "grey"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_images_are_normalised_and_filled_up(sizes: tuple[tuple[int, int], ...], padding: str) -> None:
    """With the mean colour, which is not black, or with grey."""
    network = small_network("convnext_atto", 3, f"data.padding={padding}")
    images = [pixels(*size) for size in sizes]
    batch = network.prepare(images)
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    assert (batch.shape, batch.dtype) == ((len(sizes), 3, height, width), torch.float32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for found, image in zip(batch, images, strict=True):
        h, w, _ = image.shape
        expected = (image.float() - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(found[:, :h, :w].permute(1, 2, 0), expected)
        fill = (114 - torch.tensor(MEAN)) / torch.tensor(STD) if padding == "grey" else torch.zeros(3)
        for outside in (found[:, h:], found[:, :, w:]):
            torch.testing.assert_close(outside, fill[:, None, None].expand_as(outside))


def test_a_batch_of_no_images(network: Network) -> None:
    batch = network.prepare([])
    assert batch.shape == (0, 3, 32, 32)
    logits, geometry = network(batch)
    assert {len(level) for level in (*logits, *geometry)} == {0}


def test_a_batch_has_the_type_of_the_network() -> None:
    low = small_network("convnext_atto", 1).to(torch.bfloat16)
    assert low.prepare([pixels(8, 8)]).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
def test_raw_outputs_of_every_level(size: tuple[int, int], network: Network, family: str) -> None:
    with torch.no_grad():
        logits, geometry = network(network.prepare([pixels(*size), pixels(8, 8)]))
    levels = small_config(family=family).neck.level_sizes(*size)
    priors = network.head.priors
    assert [tuple(level.shape) for level in logits] == [(2, priors * 3, *level) for level in levels]
    numbers = 6 if family == "aligned" else 5  # of a box
    assert [tuple(level.shape) for level in geometry] == [(2, priors * numbers, *level) for level in levels]
    assert network.num_classes == 3


def test_an_image_alone_gives_what_it_gives_in_a_batch(network: Network) -> None:
    network.eval()
    one, two = pixels(64, 64), pixels(64, 64)
    with torch.no_grad():
        alone, together = network(network.prepare([one])), network(network.prepare([two, one]))
    for maps, others in zip(alone, together, strict=True):
        for level, other in zip(maps, others, strict=True):
            torch.testing.assert_close(level[0], other[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["convnext_atto", "cspnext_tiny", "timm:test_convnext"])
def test_every_trained_parameter_has_a_gradient(backbone: str, family: str) -> None:
    """Those of the finest map, which the neck does not use, are not trained: processes that share gradients would wait for them."""
    scale = ["backbone.layer_scale=1.0"] if backbone == "convnext_atto" else []
    made = small_network(backbone, 2, *scale, family=family).train()
    sum(level.square().sum() for maps in made(torch.randn(2, 3, 64, 64)) for level in maps).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = {n for n, p in made.named_parameters() if not p.requires_grad}
    unused = backbone == "convnext_atto" and made.neck.first == 1
    assert frozen == ({"backbone.norm0.weight", "backbone.norm0.bias"} if unused else set())


def test_weights_hold_the_parts_and_no_normalisation(network: Network, family: str) -> None:
    """Mean, deviation and padding are constants; files of weights neither need nor change them."""
    names = network.state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"backbone", "neck", "head"}
    other = small_network("convnext_atto", 3, family=family)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other.mean.flatten(), torch.tensor(MEAN))
    torch.testing.assert_close(other.std.flatten(), torch.tensor(STD))
