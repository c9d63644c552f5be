"""Backbones by name: our ConvNeXt, or any of timm's feature extractors as `timm:NAME`."""

import difflib
from typing import Any, NamedTuple

from torch import Tensor, nn

from rotanext.errors import UserError, first_line
from rotanext.models.convnext import VARIANTS, ConvNeXt

OUTPUT_STRIDES = (4, 8, 16, 32)


class BackboneOptions(NamedTuple):
    """How a backbone is built and trained."""

    drop_path: float = 0.0
    layer_scale: float = 1e-6
    frozen_stages: int = 0  # 0: none; k: the stem and the first k stages
    frozen_norm: bool = False  # BatchNorm keeps its stored statistics throughout training
    gradient_checkpointing: bool = False


class TimmBackbone(nn.Module):
    """A timm feature extractor with four maps at strides 4 to 32, frozen stages and frozen BatchNorm statistics."""

    def __init__(self, name: str, options: BackboneOptions) -> None:
        import timm  # seconds, and 200 MB of torch's compiler, that our own backbones do without

        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 3)
            raise UserError(f"timm has no model '{name}'; nearest: {', '.join(near) or 'none'}")
        arguments: dict[str, Any] = {"drop_path_rate": options.drop_path} if options.drop_path else {}
        try:
            body: Any = timm.create_model(name, features_only=True, pretrained=False, **arguments)
        except Exception as error:  # each family of timm's refuses options, or maps, in its own way
            reason = first_line(error)
            with_options = f" with {arguments}" if arguments else ""
            raise UserError(f"timm:{name} gives no maps of features{with_options}: {reason}. Choose another backbone.") from None
        self.body = body
        strides = body.feature_info.reduction()
        chosen = [i for i, stride in enumerate(strides) if stride in OUTPUT_STRIDES]
        if tuple(strides[i] for i in chosen) != OUTPUT_STRIDES:
            raise UserError(f"timm:{name} has maps at strides {strides}; needed are {list(OUTPUT_STRIDES)}")
        self._chosen = chosen
        self.channels = [body.feature_info.channels()[i] for i in chosen]
        self.frozen_norm = options.frozen_norm
        if options.gradient_checkpointing:
            body.set_grad_checkpointing(True)
        self._freeze(options.frozen_stages)

    def _freeze(self, stages: int) -> None:
        """Stop the training of the stem and the first `stages` stages."""
        if not stages:
            return
        last = self.body.feature_info.module_name()[self._chosen[stages - 1]].split(".")[0]
        for name, child in self.body.named_children():
            child.requires_grad_(False)
            if name == last:
                return
        raise UserError(f"stages of {type(self.body).__name__} cannot be told apart; set frozen_stages = 0")

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        if mode and self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s, W / s]` at strides 4, 8, 16, 32 of `x [B, 3, H, W]`."""
        maps = self.body(x)
        return [maps[i] for i in self._chosen]


def build_backbone(name: str, options: BackboneOptions) -> nn.Module:
    """The backbone called `name`, with random weights; it has `channels`, four counts. Raises UserError for an unknown name."""
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"), options)
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, 1, 0)
        raise UserError(f"no backbone '{name}'; nearest: '{near[0]}'; all: {', '.join(VARIANTS)}, or timm:NAME")
    if options.frozen_stages or options.frozen_norm:
        raise UserError(f"frozen_stages and frozen_norm belong to timm backbones; {name} has neither")
    return ConvNeXt(
        name,
        drop_path=options.drop_path,
        layer_scale=options.layer_scale,
        gradient_checkpointing=options.gradient_checkpointing,
    )
