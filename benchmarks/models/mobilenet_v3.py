"""MobileNetV3-Large (Howard et al. 2019, https://arxiv.org/abs/1905.02244), and the same blocks with SiLU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry
from models.seeded import images, seeded

__all__ = ["ENTRIES"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """A row of the paper's table: kernel, inner channels, channels, squeeze-and-excite, activation, stride."""

    kernel: int
    inner: int
    outputs: int
    squeeze: bool
    activation: Callable[[], nn.Module]
    stride: int = 1


def _row(
    kernel: int, inner: int, outputs: int, squeeze: bool, activation: Callable[[], nn.Module], stride: int = 1
) -> Bottleneck:
    return Bottleneck(
        kernel=kernel, inner=inner, outputs=outputs, squeeze=squeeze, activation=activation, stride=stride
    )


# Table 1.
_LARGE = (
    _row(3, 16, 16, False, nn.ReLU),
    _row(3, 64, 24, False, nn.ReLU, 2),
    _row(3, 72, 24, False, nn.ReLU),
    _row(5, 72, 40, True, nn.ReLU, 2),
    _row(5, 120, 40, True, nn.ReLU),
    _row(5, 120, 40, True, nn.ReLU),
    _row(3, 240, 80, False, nn.Hardswish, 2),
    _row(3, 200, 80, False, nn.Hardswish),
    _row(3, 184, 80, False, nn.Hardswish),
    _row(3, 184, 80, False, nn.Hardswish),
    _row(3, 480, 112, True, nn.Hardswish),
    _row(3, 672, 112, True, nn.Hardswish),
    _row(5, 672, 160, True, nn.Hardswish, 2),
    _row(5, 960, 160, True, nn.Hardswish),
    _row(5, 960, 160, True, nn.Hardswish),
)
_SILU = (
    _row(3, 64, 24, True, nn.SiLU, 2),
    _row(3, 96, 24, True, nn.SiLU),
    _row(5, 96, 40, True, nn.Hardswish, 2),
    _row(5, 240, 40, True, nn.Hardswish),
    _row(5, 240, 80, True, nn.SiLU, 2),
    _row(5, 480, 80, True, nn.SiLU),
)


class SqueezeExcite(nn.Module):
    """Weights each channel by what the means of all channels say (https://arxiv.org/abs/1709.01507)."""

    def __init__(self, channels: int, gate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        inner = max(8, channels // 4)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.expand.gain = 0.2  # near its middle, as trained gates are: a gate that shuts cuts the network in two
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] to the same shape."""
        means = functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(functional.relu(self.reduce(means))))


class Block(nn.Module):
    """An inverted residual with squeeze-and-excite."""

    def __init__(self, inputs: int, row: Bottleneck, gate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.inner != inputs:
            layers += [
                nn.Conv2d(inputs, row.inner, 1, bias=False),
                nn.BatchNorm2d(row.inner, eps=1e-3),
                row.activation(),
            ]
        layers += [
            nn.Conv2d(row.inner, row.inner, row.kernel, row.stride, row.kernel // 2, groups=row.inner, bias=False),
            nn.BatchNorm2d(row.inner, eps=1e-3),
            row.activation(),
        ]
        if row.squeeze:
            layers.append(SqueezeExcite(row.inner, gate))
        layers += [nn.Conv2d(row.inner, row.outputs, 1, bias=False), nn.BatchNorm2d(row.outputs, eps=1e-3)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = row.stride == 1 and inputs == row.outputs
        self.layers[-1].gain = 0.5 if self.shortcut else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.shortcut else y


class MobileNetV3(nn.Module):
    """An image classifier."""

    def __init__(
        self,
        rows: tuple[Bottleneck, ...],
        activation: Callable[[], nn.Module],
        gate: Callable[[torch.Tensor], torch.Tensor],
        widths: tuple[int, int],
        classes: int,
    ) -> None:
        super().__init__()
        blocks, width = [], 16
        for row in rows:
            blocks.append(Block(width, row, gate))
            width = row.outputs
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16, eps=1e-3), activation())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Conv2d(width, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0], eps=1e-3), activation()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(widths[0], widths[1]), activation(), nn.Linear(widths[1], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, H, W] to logits [N, classes]."""
        x = self.pool(self.head(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(x, 1))


def _large(size: int) -> nn.Module:
    model = MobileNetV3(_LARGE, nn.Hardswish, functional.hardsigmoid, (960, 1280), 1000)
    return seeded(model, images(size, 4))


def _with_silu(size: int) -> nn.Module:
    return seeded(MobileNetV3(_SILU, nn.SiLU, torch.sigmoid, (480, 256), 100), images(size, 4))


ENTRIES = (
    Entry(name="mobilenet_v3_large", build=_large, examples=images, size=224, small=96),
    Entry(name="mobilenet_v3_silu", build=_with_silu, examples=images, size=96, small=64),
)
