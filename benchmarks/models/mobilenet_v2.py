"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381), at width 1."""

from __future__ import annotations

import torch
from torch import nn

from models.entry import Entry
from models.seeded import images, seeded

__all__ = ["ENTRIES"]

# Table 2: expansion, channels, repeats, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the shortcut joins the thin ends."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [] if expansion == 1 else [*_conv(inputs, inner, 1), nn.ReLU6()]
        self.layers = nn.Sequential(
            *expand, *_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6(), *_conv(inner, outputs, 1)
        )
        self.shortcut = stride == 1 and inputs == outputs
        self.layers[-1].gain = 0.5 if self.shortcut else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """An image classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        blocks, width = [], 32
        for expansion, channels, repeats, stride in _STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(width, channels, expansion, stride if index == 0 else 1))
                width = channels
        self.stem = nn.Sequential(*_conv(3, 32, 3, 2), nn.ReLU6())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_conv(width, 1280, 1), nn.ReLU6())
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, classes]."""
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(x.mean([2, 3]))


ENTRIES = (
    Entry(
        name="mobilenet_v2",
        build=lambda size: seeded(MobileNetV2(), images(size, 4)),
        examples=images,
        size=224,
        small=64,
    ),
)
