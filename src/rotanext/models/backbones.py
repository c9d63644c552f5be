"""Backbones: our ConvNeXt and CSPNeXt, or any of timm's feature extractors.

Each has `channels`, those of its four maps at strides 4, 8, 16 and 32, and `leave_out(n)`, which stops the training of what only
serves its n finest maps.
"""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from rotanext.errors import UserError, first_line
from rotanext.models import convnext, cspnext
from rotanext.models.convnext import ConvNeXt
from rotanext.models.cspnext import CSPNeXt, Style
from rotanext.section import Fraction, NotNegative, Section, Switch

OUTPUT_STRIDES = (4, 8, 16, 32)


def _check_name(family: str, name: str, variants: Iterable[str]) -> None:
    """UserError unless a family of ours has a variant of that name."""
    if name not in (known := list(variants)):
        near = difflib.get_close_matches(name, known, 1, 0)
        raise UserError(
            f"no {family} '{name}'; nearest: '{near[0]}'; all: {', '.join(known)}. "
            "Backbones of timm are chosen with backbone.kind=timm"
        )


class ConvNeXtConfig(Section):
    """Our ConvNeXt, V1 or V2."""

    kind: Literal["convnext"]  # ours
    name: str  # a variant of models/convnext.py
    weights: str  # "" for none, a local file of any known layout, or a name on the Hugging Face hub
    drop_path: Fraction  # chance that a block is left out, rising linearly to this
    layer_scale: NotNegative  # first value of the blocks' gains (V1)
    gradient_checkpointing: Switch  # less memory, a third more work

    def build(self) -> ConvNeXt:
        """The backbone, with random weights; UserError for an unknown name."""
        _check_name("ConvNeXt", self.name, convnext.VARIANTS)
        return ConvNeXt(
            self.name,
            drop_path=self.drop_path,
            layer_scale=self.layer_scale,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class CSPNeXtConfig(Section):
    """CSPNeXt, the backbone of RTMDet."""

    kind: Literal["cspnext"]  # that of RTMDet
    name: str  # a variant of models/cspnext.py
    weights: str  # "" for none, or a local file of any known layout
    style: Style  # mmdetection: as published; oriented-det: as its checkpoints need it
    gradient_checkpointing: Switch  # less memory, a third more work

    def build(self) -> CSPNeXt:
        """The backbone, with random weights; UserError for an unknown name."""
        _check_name("CSPNeXt", self.name, cspnext.VARIANTS)
        return CSPNeXt(self.name, style=self.style, gradient_checkpointing=self.gradient_checkpointing)


class TimmConfig(Section):
    """Any of timm's feature extractors that has maps at strides 4, 8, 16 and 32."""

    kind: Literal["timm"]  # any of timm's that gives such maps
    name: str  # as timm lists it, such as resnet50
    weights: str  # "" for none, a local file of any known layout, or a name on the Hugging Face hub
    drop_path: Fraction  # chance that a block is left out; 0 for families without it
    frozen_stages: Annotated[int, Field(ge=0, le=4, strict=True)]  # 0 none; k: the stem and the first k stages
    frozen_norm: Switch  # BatchNorm keeps its stored statistics
    gradient_checkpointing: Switch  # less memory, a third more work

    def build(self) -> "TimmBackbone":
        """The backbone, with random weights; UserError for an unknown name or one without such maps."""
        return TimmBackbone(self)


BackboneConfig = Annotated[ConvNeXtConfig | CSPNeXtConfig | TimmConfig, Field(discriminator="kind")]


class TimmBackbone(nn.Module):
    """A timm feature extractor with four maps at strides 4 to 32, frozen stages and frozen BatchNorm statistics."""

    def __init__(self, config: TimmConfig) -> None:
        import timm  # seconds, and 200 MB of torch's compiler, that our own backbones do without

        super().__init__()
        name = config.name
        if not timm.is_model(name):
            near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 3)
            raise UserError(f"timm has no model '{name}'; nearest: {', '.join(near) or 'none'}")
        arguments: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
        try:
            body: Any = timm.create_model(name, features_only=True, pretrained=False, **arguments)
        except Exception as error:  # each family of timm's refuses options, or maps, in its own way
            reason = first_line(error)
            with_options = f" with {arguments}" if arguments else ""
            raise UserError(f"timm's {name} gives no maps of features{with_options}: {reason}. Choose another backbone.") from None
        self.body = body
        strides = body.feature_info.reduction()
        chosen = [i for i, stride in enumerate(strides) if stride in OUTPUT_STRIDES]
        if tuple(strides[i] for i in chosen) != OUTPUT_STRIDES:
            raise UserError(f"timm's {name} has maps at strides {strides}; needed are {list(OUTPUT_STRIDES)}")
        self._chosen = chosen
        self.channels = [body.feature_info.channels()[i] for i in chosen]
        self.frozen_norm = config.frozen_norm
        if config.gradient_checkpointing:
            body.set_grad_checkpointing(True)
        self._freeze(config.frozen_stages)

    def _freeze(self, stages: int) -> None:
        """Stop the training of the stem and the first `stages` stages."""
        if not stages:
            return
        last = self.body.feature_info.module_name()[self._chosen[stages - 1]].split(".")[0]
        for name, child in self.body.named_children():
            child.requires_grad_(False)
            if name == last:
                return
        raise UserError(f"stages of {type(self.body).__name__} cannot be told apart; set backbone.frozen_stages = 0")

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        if mode and self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def leave_out(self, maps: int) -> None:
        """Nothing here belongs to one map alone."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `[B, C_i, H / s, W / s]` at strides 4, 8, 16, 32 of `x [B, 3, H, W]`."""
        maps = self.body(x)
        return [maps[i] for i in self._chosen]
