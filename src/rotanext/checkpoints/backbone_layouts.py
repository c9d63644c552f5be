"""Backbones alone, classifiers included: mmpretrain, the ConvNeXt authors, timm, torchvision, and CSPNeXt on ImageNet."""

from rotanext.checkpoints.layout import Checkpoint, Layout, Rules, Translated
from rotanext.checkpoints.mmrotate import in_rgb

MM_CONVNEXT: Rules = ((r"\.depthwise_conv\.", ".dwconv."), (r"\.pointwise_conv([12])\.", r".pwconv\1."))
TIMM_CONVNEXT: Rules = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)


def in_rgb_of_a_classifier(checkpoint: Checkpoint) -> Translated:
    """For images in RGB, which the MM toolboxes' classifiers are trained on unless their configuration says otherwise."""
    return in_rgb(checkpoint, "RGB")


LAYOUTS = (
    Layout(
        "mmpretrain", "backbone",
        (("backbone.stages.0.0.depthwise_conv.weight",), ("stages.0.0.depthwise_conv.weight",)),
        ((r"^backbone\.", ""), *MM_CONVNEXT, (r"^norm3\.", "norm."), (r"^head\.fc\.", "head.")), in_rgb_of_a_classifier,
    ),
    Layout("convnext", "backbone", (("stages.0.0.dwconv.weight",),)),
    Layout("timm convnext", "backbone", (("stages.0.blocks.0.conv_dw.weight",),), TIMM_CONVNEXT),
    Layout(
        "resnet", "backbone", (("layer1.0.conv1.weight",), ("body.layer1.0.conv1.weight",)),
        ((r"^(conv1|bn1|layer\d)\.", r"body.\1."),),
    ),
    Layout(
        "cspnext", "backbone",
        (("backbone.stage1.1.main_conv.conv.weight",), ("stage1.1.main_conv.conv.weight",)),
        ((r"^backbone\.", ""),), in_rgb_of_a_classifier,
    ),
)  # fmt: skip
