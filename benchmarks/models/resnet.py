"""ResNet-18 and ResNet-50 (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

import torch
from torch import nn

from models.entry import Entry
from models.seeded import images, seeded

__all__ = ["ENTRIES"]


class Basic(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    widening = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.layers[-1].gain = 0.5
        self.shortcut = _projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inputs, H, W] to [N, width, H / stride, W / stride]."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class Deep(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut."""

    widening = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.widening
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.layers[-1].gain = 0.5
        self.shortcut = _projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inputs, H, W] to [N, 4 * width, H / stride, W / stride]."""
        return torch.relu(self.layers(x) + self.shortcut(x))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """An image classifier."""

    def __init__(self, block: type[Basic | Deep], repeats: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = 64
        for stage, count in enumerate(repeats):
            for index in range(count):
                blocks.append(block(inputs, 64 * 2**stage, 2 if stage and not index else 1))
                inputs = 64 * 2**stage * block.widening
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, classes]."""
        x = self.pool(self.blocks(self.stem(x)))
        return self.classifier(torch.flatten(x, 1))


def _resnet18(size: int, seed: int = 0) -> nn.Module:
    return seeded(ResNet(Basic, (2, 2, 2, 2)), images(size, 4), seed=seed)


ENTRIES = (
    Entry(
        name="resnet18",
        build=_resnet18,
        examples=images,
        size=224,
        small=64,
        drawn=_resnet18,
    ),
    Entry(
        name="resnet50",
        build=lambda size: seeded(ResNet(Deep, (3, 4, 6, 3)), images(size, 4)),
        examples=images,
        size=224,
        small=64,
    ),
)
