"""The network rearranged for detecting gives what the trained one gives."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from networks import small_network
from rotanext import ops
from rotanext.errors import UserError
from rotanext.load import load_detector
from rotanext.models import fast
from rotanext.models.convnext import Block
from rotanext.models.fast import PRECISIONS, CompiledNetwork, FoldedBlock, WinogradConv, for_inference
from rotanext.models.network import Network


@pytest.fixture(autouse=True)
def _winograd_for_narrow_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_CHANNELS_WORTH_WINOGRAD", 32)


def test_winograd_without_bias() -> None:
    x, conv = torch.randn(1, 32, 9, 9), nn.Conv2d(32, 32, 3, padding=1, bias=False)
    torch.testing.assert_close(WinogradConv(conv)(x), conv(x), rtol=0, atol=2e-5)


@pytest.fixture(params=["convnext_atto", "convnextv2_atto", "timm:resnet18", "cspnext_tiny", "convnext_atto rtmdet"])
def model(request: pytest.FixtureRequest) -> Network:
    backbone, _, family = request.param.partition(" ")
    family = family or ("rtmdet" if backbone == "cspnext_tiny" else "retina")
    scale = ["backbone.layer_scale=0.3"] if "convnext" in backbone else []
    drop = ["backbone.drop_path=0.1"] if backbone != "cspnext_tiny" else []
    made = small_network(backbone, 3, *drop, *scale, channels=32, family=family).eval()
    for norm in made.modules():
        if isinstance(norm, nn.BatchNorm2d):  # as if it had been trained
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.weight, 1.0, 0.1)
            nn.init.normal_(norm.bias, std=0.1)
    for block in made.modules():
        if isinstance(block, Block) and block.grn is not None:
            nn.init.normal_(block.grn.gamma)
    return made


def test_equal_outputs(model: Network) -> None:
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(2, 3, 96, 160)
    expected = model(batch)
    made = for_inference(model)
    with torch.inference_mode():
        found = made(batch)
    for levels in zip(found, expected, strict=True):
        for one, other in zip(*levels, strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # the original stays as it was
    assert any(isinstance(module, WinogradConv) for module in made.modules())
    if any(hasattr(module, "fold_norms") for module in model.modules()):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())


@pytest.mark.parametrize("scale", [0.3, None])
@pytest.mark.parametrize("hidden", [1, 100, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folded_block_is_the_block(scale: float | None, hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of any size and as a whole; the block stays as it was, and its copy does not remember the scale."""
    monkeypatch.setattr(fast, "_HIDDEN_AT_ONCE", hidden)
    block = Block(8, 1, scale, 0.0).to(dtype)
    if block.gamma is not None:
        nn.init.uniform_(block.gamma)
    x = torch.randn(2, 8, 5, 7).to(dtype, memory_format=torch.channels_last)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    with torch.no_grad():
        expected = block(x)
        for _ in range(2):
            torch.testing.assert_close(FoldedBlock(block)(x), expected, **tolerance)
            torch.testing.assert_close(FoldedBlock(block)(x.contiguous()), expected, **tolerance)
        assert torch.equal(block(x), expected)
    torch.testing.assert_close(FoldedBlock(block)(x), expected, **tolerance)


def modules(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


def test_the_reference_reaches_the_network(model: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the network that detects is the one that was trained; one made before computes its wide layers as a whole."""
    before, batch = for_inference(model, winograd=False), torch.randn(1, 3, 64, 96)
    monkeypatch.setattr(FoldedBlock, "_mlp_in_parts", None)
    monkeypatch.setattr(ops, "winograd_convolution", None)
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    plain = for_inference(model)
    assert modules(plain) == modules(model)
    with torch.inference_mode():
        for levels in zip(plain(batch), model(batch), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(*levels, strict=True))
        torch.testing.assert_close(before(batch)[0][0], model(batch)[0][0], rtol=1e-4, atol=1e-4)


def test_a_detector_under_the_reference(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load_detector(tiny_weights, "cpu")
    monkeypatch.setenv("ROTANEXT_OPS", "reference")
    assert modules(detector.network) == modules(detector.model)
    monkeypatch.delenv("ROTANEXT_OPS")
    assert modules(load_detector(tiny_weights, "cpu").network) != modules(detector.model)


class Weighing(nn.Conv2d):
    """A convolution that changes its weights on the way, as some of timm's do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class Anything(nn.Module):
    """A network of an unknown family, whose two towers share a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(32, 1, 0.5, 0.1), Block(32, 2, None, 0.1))
        self.own, self.shared = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.towers = nn.ModuleList([nn.ModuleList([self.shared]), nn.ModuleList([self.shared])])
        self.others = nn.ModuleList(
            [
                Weighing(32, 32, 3, padding=1),
                nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
                nn.Conv2d(32, 32, 3, padding=1, groups=2),
                nn.Conv2d(32, 31, 3, padding=1),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.own(self.blocks(x))
        for (conv,) in self.towers:  # type: ignore[misc]
            y = conv(y)
        for other in self.others:
            y = other(y)
        return y


def test_any_network_is_rearranged() -> None:
    network = Anything().eval()
    made = for_inference(network)
    assert [type(block) for block in made.blocks] == [FoldedBlock, Block]
    assert isinstance(made.own, WinogradConv)
    assert isinstance(made.shared, WinogradConv)
    assert all(made.shared is tower[0] for tower in made.towers)
    assert "WinogradConv" not in modules(made.others)
    x = torch.randn(2, 32, 12, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(made(x), network(x), rtol=1e-3, atol=1e-4)
    assert "WinogradConv" not in modules(for_inference(network, "bf16")) | modules(for_inference(network, winograd=False))
    with pytest.raises(KeyError):
        for_inference(network, "int3")


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
