"""ConvNeXt-T (Liu et al. 2022, https://arxiv.org/abs/2201.03545)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry
from models.seeded import images, seeded

__all__ = ["ENTRIES"]

_DEPTHS, _WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] to the same shape."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7 x 7, then a perceptron at each pixel, scaled and added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        # The paper starts training from 1e-6; trained scales are of this order.
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] to the same shape."""
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """An image classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, _WIDTHS[0], 4, 4), ChannelNorm(_WIDTHS[0])]
        for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
            if stage:
                layers += [ChannelNorm(_WIDTHS[stage - 1]), nn.Conv2d(_WIDTHS[stage - 1], width, 2, 2)]
            layers += [Block(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(_WIDTHS[-1], eps=1e-6)
        self.classifier = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, classes]."""
        return self.classifier(self.norm(self.layers(x).mean([-2, -1])))


ENTRIES = (
    Entry(
        name="convnext_tiny",
        build=lambda _: seeded(ConvNeXt()),
        examples=images,
        size=224,
        small=64,
    ),
)
