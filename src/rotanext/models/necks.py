"""Feature pyramid: five maps of equal width from the backbone's last three (Lin et al., arXiv:1612.03144; P6, P7 of RetinaNet)."""

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Maps at strides 8 to 128 from backbone maps at strides 8, 16 and 32.

    The two coarsest come from stride-2 convolutions, the first on the backbone's last map, the second on the first's output.
    """

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(c, channels, 3, stride=2, padding=1) for c in (in_channels[-1], channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """`[B, C_i, H / s, W / s]` at strides 8, 16, 32 to five maps `[B, channels, H / s, W / s]` at strides 8 to 128."""
        merged = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        pyramid = [output(m) for output, m in zip(self.output, merged, strict=True)]
        pyramid.append(self.extra[0](maps[-1]))
        pyramid.append(self.extra[1](pyramid[-1]))
        return pyramid
