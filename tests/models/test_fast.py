"""The network rearranged for detecting gives what the trained one gives."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from networks import small_network
from rotanext.errors import UserError
from rotanext.images.reading import read_image, write_png
from rotanext.load import load_detector
from rotanext.models.convnext import Block
from rotanext.models.fast import PRECISIONS, CompiledNetwork, WinogradConv, for_inference
from rotanext.models.network import Network
from rotanext.ops.cpu_winograd import convolve, transform_weight
from rotanext.system.readahead import read_ahead


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (13, 7), (32, 3), (37, 50)])
@pytest.mark.parametrize("batch", [1, 3])
def test_winograd_is_the_convolution(height: int, width: int, batch: int) -> None:
    x, conv = torch.randn(batch, 40, height, width), nn.Conv2d(40, 33, 3, padding=1)
    expected = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    with torch.no_grad():
        found = convolve(x, transform_weight(conv.weight), conv.bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def test_winograd_without_bias() -> None:
    x, conv = torch.randn(1, 32, 9, 9), nn.Conv2d(32, 32, 3, padding=1, bias=False)
    torch.testing.assert_close(WinogradConv(conv)(x), conv(x), rtol=0, atol=2e-5)


@pytest.fixture(params=["convnext_atto", "convnextv2_atto", "timm:resnet18"])
def model(request: pytest.FixtureRequest) -> Network:
    scale = ["backbone.layer_scale=0.3"] if "convnext" in request.param else []
    made = small_network(request.param, 3, "backbone.drop_path=0.1", *scale, channels=32).eval()
    for block in made.modules():
        if isinstance(block, Block) and block.grn is not None:
            nn.init.normal_(block.grn.gamma)
    return made


def test_equal_outputs(model: Network) -> None:
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(2, 3, 96, 160)
    expected = model(batch)
    fast = for_inference(model)
    with torch.inference_mode():
        found = fast(batch)
    for levels in zip(found, expected, strict=True):
        for one, other in zip(*levels, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # the original stays as it was
    assert any(isinstance(module, WinogradConv) for module in fast.modules())


def test_the_scale_is_folded_once() -> None:
    block = Block(8, 1, 0.3, 0.0)
    nn.init.uniform_(block.gamma)
    x = torch.randn(1, 8, 5, 5).to(memory_format=torch.channels_last)
    expected = block(x)
    for _ in range(2):
        block.fold_layer_scale()
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_near(precision: str) -> None:
    model = small_network("convnext_atto", 3, "backbone.layer_scale=1.0", channels=32).eval()
    nn.init.normal_(model.head.cls_out.weight, std=1.0)
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, _ = model(batch)
        found, _ = for_inference(model, precision)(batch.to(PRECISIONS[precision]))
    assert found[0].dtype == PRECISIONS[precision]
    spread = expected[0].std()
    assert (found[0].float() - expected[0]).abs().max() < (0.2 if precision == "bf16" else 0.03) * spread


def test_compile_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        def fail(_: torch.Tensor) -> None:
            raise RuntimeError("no compiler here\nmore")

        return fail

    model = small_network("convnext_atto", 1).eval()
    monkeypatch.setattr(torch, "compile", broken)
    network = CompiledNetwork(model)
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="no compiler here"):
            first = network(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = network(batch)
        expected = model(batch)
    assert torch.equal(first[0][0], expected[0][0])
    assert torch.equal(second[1][0], expected[1][0])


def test_a_network_that_trains_in_low_precision_detects_in_full() -> None:
    """accelerate's autocast, which it hangs on the model that it trains, does not come along."""
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model = small_network("convnext_atto", 1, channels=32).eval()
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(batch)
        prepared = accelerator.prepare(model)
        found = for_inference(prepared)(batch)
    assert found[0][0].dtype == torch.float32
    torch.testing.assert_close(found[0][0], expected[0][0], rtol=1e-4, atol=1e-4)


def test_compiled_is_the_same(model: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode: compiler(module, backend="aot_eager", fullgraph=True))
    network, batch = CompiledNetwork(for_inference(model, winograd=False)), torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found, expected = network(batch), model(batch)
    torch.testing.assert_close(found[0][0], expected[0][0], rtol=1e-4, atol=1e-4)


def test_winograd_in_threads(pools: list[int]) -> None:
    x, conv = torch.randn(1, 32, 70, 90), nn.Conv2d(32, 32, 3, padding=1)
    torch.testing.assert_close(WinogradConv(conv)(x), conv(x), rtol=0, atol=2e-5)
    assert 3 in pools


def test_detection_within_autocast(tiny_weights: Path) -> None:
    """A detector called by someone who trains in low precision computes in its own."""
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    detector = load_detector(tiny_weights, "cpu")
    expected = detector(image, score_threshold=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = detector(image, score_threshold=0.0)
    assert torch.equal(found.boxes, expected.boxes)


def test_precision_and_names(tiny_weights: Path) -> None:
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    exact = load_detector(tiny_weights, "cpu")(image, score_threshold=0.0)
    near = load_detector(tiny_weights, "cpu", precision="bf16")(image, score_threshold=0.0)
    assert near.boxes.dtype == torch.float32
    assert near.scores.mean().item() == pytest.approx(exact.scores.mean().item(), rel=0.05)
    with pytest.raises(UserError, match="precision is 'int3'"):
        load_detector(tiny_weights, "cpu", precision="int3")


def test_images_are_read_ahead_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_png(path, np.full((4, 4, 3), k, np.uint8))
    paths[2].write_bytes(b"no image")
    asked: list[int] = []

    def items() -> Iterator[int]:
        for k in range(5):
            asked.append(k)
            yield k

    found = []
    for k, image in read_ahead(items(), lambda k: read_image(paths[k])):
        assert len(asked) <= k + 2
        found.append((k, str(image) if isinstance(image, UserError) else int(image[0, 0, 0])))
    assert [k for k, _ in found] == [0, 1, 2, 3, 4]
    assert [value for k, value in found if k != 2] == [0, 1, 3, 4]
    assert "2.png" in str(found[2][1])


def test_reading_ahead_stops_with_its_reader(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    asked = []
    for _ in read_ahead(range(100), lambda k: asked.append(k) or tmp_path / "a.png"):  # type: ignore[func-returns-value]
        break
    assert len(asked) <= 3
