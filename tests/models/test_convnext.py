"""ConvNeXt against the authors' logits, timm's modules and its own promises."""

import copy
import json

import pytest
import timm
import torch
from torch import nn

import formula
from places import GOLDEN
from rotanext.checkpoints.layouts import map_keys
from rotanext.models.convnext import VARIANTS, Block, ConvNeXt, LayerNorm, drop_path


def randomise(model: torch.nn.Module) -> None:
    """Give layer scale and GRN values that show: they start near zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name or "grn" in name or name.endswith("bias"):
                parameter.normal_(0.0, 0.5)


def test_official_logits() -> None:
    golden = json.loads((GOLDEN / "official_convnext_tiny.json").read_text())
    weights = formula.state_dict(golden["shapes"], golden["salt"])
    model = ConvNeXt("convnext_tiny", num_classes=1000).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    image = torch.from_numpy(formula.image(golden["image_seed"], golden["size"], golden["size"]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((image / 255 - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = model.classify(x)[0]
    assert logits[: len(golden["logits"])].tolist() == pytest.approx(golden["logits"], abs=1e-4)
    assert int(logits.argmax()) == golden["argmax"]
    assert float(logits.std()) == pytest.approx(golden["std"], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("convnext_fuzz", "convnext_zepto")])  # which timm lacks
def test_parameter_count_is_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = ConvNeXt(name, num_classes=1000), timm.create_model(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    # and tensor for tensor, through the key map
    mapped = map_keys("timm convnext", theirs.state_dict())
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in ours.state_dict().items()}


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_tiny", "convnextv2_atto"])
def test_forward_is_timms(name: str) -> None:
    theirs = timm.create_model(name).eval()
    randomise(theirs)
    mapped = map_keys("timm convnext", theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    classifier = ConvNeXt(name, num_classes=1000).eval()
    classifier.load_state_dict(mapped)
    with torch.no_grad():
        expected, stages = theirs(x), theirs.forward_intermediates(x, intermediates_only=True)
        torch.testing.assert_close(classifier.classify(x), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
        for ours, reference in zip(classifier.features(x), stages, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3 * float(reference.std()))


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_maps_and_gradients(name: str) -> None:
    model = ConvNeXt(name, layer_scale=1.0)
    randomise(model)
    maps = model(torch.randn(2, 3, 64, 96))
    assert [m.shape for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(model.channels, model.strides, strict=True)]
    sum(m.square().sum() for m in maps).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_output_norms_normalise() -> None:
    maps = ConvNeXt("convnext_atto")(torch.randn(1, 3, 64, 64))
    for m in maps:
        assert m.detach().mean(1).abs().max() < 1e-4
        assert m.detach().var(1, unbiased=False).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_stays_channels_last(name: str, layout: torch.memory_format) -> None:
    """After the stem no block pays for a change of layout, whatever comes in."""
    model = ConvNeXt(name).eval().to(memory_format=torch.channels_last)
    seen = []
    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64).to(memory_format=layout))
    assert len(seen) == sum(VARIANTS[name].depths)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for pair in seen for t in pair)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    plain = ConvNeXt(name, drop_path=0.3, layer_scale=1.0)
    randomise(plain)
    saving = ConvNeXt(name, drop_path=0.3, layer_scale=1.0, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, saving):
        torch.manual_seed(3)  # the same samples are dropped
        maps = model.train()(x)
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_drop_path_rises_linearly_and_keeps_the_mean() -> None:
    model = ConvNeXt("convnext_tiny", drop_path=0.34)
    rates = [m.drop_rate for m in model.modules() if isinstance(m, Block)]
    assert rates == pytest.approx([0.02 * i for i in range(18)])
    dropped = drop_path(torch.ones(20000, 2, 1, 1), 0.25)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert (dropped[:, 0] == dropped[:, 1]).all()  # whole samples
    x = torch.randn(1, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(x), model(x), strict=True))


@pytest.mark.parametrize(("name", "layer_scale", "expected"), [
    ("convnext_atto", 1e-6, 1e-6),
    ("convnext_atto", 1.0, 1.0),
    ("convnext_atto", None, None),
    ("convnextv2_atto", 1.0, None),  # V2 has no layer scale
])  # fmt: skip
def test_layer_scale(name: str, layer_scale: float | None, expected: float | None) -> None:
    block = ConvNeXt(name, layer_scale=layer_scale).stages[0][0]
    assert (None if block.gamma is None else block.gamma[0].item()) == pytest.approx(expected)


def test_exports() -> None:
    model = ConvNeXt("convnextv2_atto").eval()
    x = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        for a, b in zip(exported(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_norm_stays_in_the_low_precision(low: torch.dtype) -> None:
    norm = LayerNorm(24)
    nn.init.normal_(norm.weight)
    x = torch.randn(5, 24)
    with torch.autocast("cpu", low):
        found = norm(x)
    assert found.dtype == low
    torch.testing.assert_close(found.float(), norm(x), rtol=0.02, atol=0.02)


def test_the_blocks_gradients_in_bf16_are_those_of_float32() -> None:
    block = Block(16, 1, 1.0, 0.0)
    plain = copy.deepcopy(block)
    x = torch.randn(2, 16, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.float().square().sum().backward()
    plain(x).square().sum().backward()
    for (name, one), other in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert one.grad.dtype == torch.float32
        assert nn.functional.cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0) > 0.999, name


def test_norm_on_tensors_without_contents() -> None:
    """Devices that know no autocast, such as meta, take the plain way."""
    assert LayerNorm(24).to("meta")(torch.empty(5, 24, device="meta")).shape == (5, 24)
