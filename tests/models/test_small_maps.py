"""Gradients in bfloat16 and float16 on the CPU are float32's, on small maps of every size, whatever memory held.

torch leaves parts of some gradients unwritten (`models/small_maps.py`). So memory is filled before: glibc can do that with what is
allocated and what is freed.
"""

import ctypes
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from networks import FAMILIES, small_network
from rotanext.models.convnext import GlobalResponseNorm
from rotanext.models.small_maps import Conv2d

CPUINFO = Path("/proc/cpuinfo")
FLAGS = set(CPUINFO.read_text().split()) if CPUINFO.exists() else set()
NATIVE = pytest.mark.skipif(
    not FLAGS & {"avx512_bf16", "amx_bf16"},
    reason="this processor has no bfloat16 instructions (avx512_bf16, amx_bf16)",
)
PRECISIONS = [pytest.param(torch.bfloat16, marks=NATIVE, id="bf16"), pytest.param(torch.float16, id="fp16")]
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.0025}  # of the norm; numbers are rounded to 1/512 and 1/4096 of themselves
PERTURB, MMAP_THRESHOLD = -6, -3  # mallopt's names for them
FREED = 0x41  # bytes: 12.1 in all three types; what is allocated gets the complement, -0.37
MOST_WEIGHTS = 150_000  # of a layer; wider ones take the same kernels, in more blocks
BACKBONES = ["convnext_atto", "convnextv2_pico", "cspnext_tiny", "timm:resnet18", "timm:resnet50"]


@pytest.fixture(autouse=True)
def _filled_memory() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("memory can be filled with glibc only")
    assert libc.mallopt(MMAP_THRESHOLD, (32 << 20) - 1) == 1  # large tensors, too, come from memory that was used before
    assert libc.mallopt(PERTURB, FREED) == 1
    yield
    libc.mallopt(PERTURB, 0)
    libc.mallopt(MMAP_THRESHOLD, 128 << 10)


def scale_of(backbone: str) -> list[str]:
    """A layer scale that leaves something of the branches."""
    return ["backbone.layer_scale=1.0"] if backbone.startswith("convnext") else []


def outcome(layer: nn.Module, x: Tensor, direction: Tensor | None, precision: torch.dtype | None) -> dict[str, Tensor]:
    """Output of a layer and the gradients of input and parameters, along `direction` (by default anywhere)."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        y = layer(x)
    direction = torch.ones_like(y) if direction is None else direction.to(y.dtype)
    names = ["input", *(name for name, _ in layer.named_parameters())]
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], direction)
    return {"output": y.detach()} | dict(zip(names, gradients, strict=True))


def worst(layer: nn.Module, x: Tensor, precision: torch.dtype) -> tuple[float, str]:
    """The largest difference between low precision and float32, as a share of the norm, and where."""
    x = x.to(precision).float()
    with torch.no_grad():
        direction = torch.randn_like(layer(x)).to(precision).float()
    exact, found = outcome(layer, x, direction, None), outcome(layer, x, direction, precision)
    assert [value.shape for value in found.values()] == [value.shape for value in exact.values()]
    errors = []
    for name, wanted in exact.items():
        share = float((found[name].double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-3))
        errors.append((share if share == share else float("inf"), name))
    return max(errors)


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """One layer of each kind and shape, by its description."""
    kinds = (nn.Conv2d, nn.Linear, nn.LayerNorm, GlobalResponseNorm)
    found = [m for m in network.modules() if isinstance(m, kinds)]
    return {f"{m!r} {[list(p.shape) for p in m.parameters()]}": m for m in found}


def sized(layer: nn.Module) -> Callable[[int, int, int], Tensor]:
    """How to make an input of a batch and a map's height and width; layers without padding need whole steps of their stride."""
    if isinstance(layer, nn.Conv2d):
        step = layer.kernel_size[0] if layer.padding == (0, 0) else 1
        return lambda b, h, w: torch.randn(b, layer.in_channels, h * step, w * step)
    channels = layer.in_features if isinstance(layer, nn.Linear) else len(next(layer.parameters()))
    return lambda b, h, w: torch.randn(b, h, w, channels)


def check(layers: dict[str, nn.Module], precision: torch.dtype) -> None:
    bad = []
    for description, meta in layers.items():
        if sum(p.numel() for p in meta.parameters()) > MOST_WEIGHTS:
            continue
        layer = meta.to_empty(device="cpu").requires_grad_()
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.1)
        for h, w in itertools.product(range(1, 6), repeat=2):
            layout = (torch.contiguous_format, torch.channels_last)[h % 2]
            x = sized(layer)(1 + w % 2, h, w).contiguous(memory_format=layout)
            share, name = worst(layer, x, precision)
            if share > TOLERANCE[precision]:
                bad.append(f"{description} {h} x {w} {layout} {name}: {share:.3g}")
    assert not bad, f"{len(bad)}:\n" + "\n".join(bad[:20])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_layer_of_a_backbone(backbone: str, precision: torch.dtype) -> None:
    with torch.device("meta"):
        network = small_network(backbone, 2, *scale_of(backbone))
    check(layers_of(network.backbone), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("channels", "classes"), [(8, 2), (64, 15)])
def test_every_layer_of_neck_and_head(channels: int, classes: int, family: str, precision: torch.dtype) -> None:
    with torch.device("meta"):
        network = small_network("convnext_atto", classes, channels=channels, family=family)
    layers = layers_of(network.neck) | layers_of(network.head)
    assert any(isinstance(layer, Conv2d) and layer.stride == (2, 2) for layer in layers.values())
    check(layers, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [(32, 32), (64, 160), (128, 32)], ids=str)
def test_a_whole_network(size: tuple[int, int], precision: torch.dtype) -> None:
    """Every parameter's gradient is near float32's: one ReLU that rounding turns is a quarter of some norms."""
    network = small_network("convnext_atto", 2, "backbone.layer_scale=1.0", channels=16).train()
    batch, directions, found = torch.randn(2, 3, *size), None, []
    for enabled in (False, True):
        with torch.autocast("cpu", precision, enabled=enabled):
            outputs = [x.float() for maps in network(batch) for x in maps]
        directions = directions or [torch.randn_like(x) for x in outputs]
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        loss = torch.stack([(x * d).sum() for x, d in zip(outputs, directions, strict=True)]).sum()
        found.append(dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)))
    exact, low = found
    shares = {name: float((low[name] - wanted).norm() / wanted.norm().clamp_min(1e-6)) for name, wanted in exact.items()}
    assert max(shares.values()) < 0.5, sorted(shares.items(), key=lambda item: -item[1])[:5]


def test_the_guard_computes_what_torch_does_and_keeps_out_of_the_way() -> None:
    """Small maps in float32 and of its autocast's type; larger ones, other types, detection and exports by torch's own path."""
    conv, x = Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(1, 4, 1, 2)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    plain.load_state_dict(conv.state_dict())
    assert torch.equal(conv(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv._is_exposed(x)
        assert not conv._is_exposed(torch.randn(1, 4, 3, 3))
        assert not conv._is_exposed(x.double())
        assert conv(x).dtype == torch.bfloat16
        torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=2e-2)
        compiled = torch.compile(conv, fullgraph=True, backend="aot_eager", dynamic=True)
        for size in ((1, 1), (2, 5), (8, 9)):
            maps = torch.randn(1, 4, *size)
            torch.testing.assert_close(compiled(maps), conv(maps), rtol=0, atol=2e-2)
        with torch.no_grad():
            assert not conv._is_exposed(x)
        wide = Conv2d(4, 6, 5, padding=2)  # torch itself takes a side of 1 for another program
        dims = {2: torch.export.Dim("h", min=2, max=99), 3: torch.export.Dim("w", min=2, max=99)}
        program = torch.export.export(wide, (torch.randn(1, 4, 8, 8),), dynamic_shapes=[dims]).module()
        assert program(torch.randn(1, 4, 3, 2)).shape == (1, 6, 3, 2)
    assert not conv._is_exposed(x)
    conv.requires_grad_(False)
    assert not conv._is_exposed(x.bfloat16())


def test_the_guard_covers_timms_layers_and_keeps_the_names() -> None:
    with torch.device("meta"):
        network = small_network("timm:resnet50", 2)
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert isinstance(convolutions["backbone.body.layer4.0.conv2"], Conv2d)
    assert "backbone.body.layer4.0.conv2.weight" in network.state_dict()
    assert all(isinstance(m, Conv2d) == (m.padding != (0, 0)) for m in convolutions.values())
