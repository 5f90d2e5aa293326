"""U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), a quarter as wide, padded, with batch norm."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from models.entry import Entry
from models.seeded import images, seeded

__all__ = ["ENTRIES"]

_WIDTHS = (16, 32, 64, 128)


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Says of each pixel which class it is of."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _double(inputs, outputs) for inputs, outputs in zip((3, *_WIDTHS), _WIDTHS, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        widths = _WIDTHS[::-1]
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(inputs, outputs, 2, 2) for inputs, outputs in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(_double(2 * outputs, outputs) for outputs in widths[1:])
        self.head = nn.Conv2d(_WIDTHS[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, classes, H, W], H and W multiples of 8."""
        skipped = []
        for index, layer in enumerate(self.down):
            x = layer(self.pool(x) if index else x)
            skipped.append(x)
        for grow, layer, skip in zip(self.grow, self.up, reversed(skipped[:-1]), strict=True):
            x = layer(torch.cat([skip, grow(x)], dim=1))
        return self.head(x)


ENTRIES = (
    Entry(
        name="unet",
        build=lambda size: seeded(UNet(), images(size, 4)),
        examples=images,
        size=128,
        small=32,
    ),
)
