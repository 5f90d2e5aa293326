"""torch's own transformer encoder, 3 layers of width 512 (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

import torch
from torch import nn

from models.entry import Entry, Inputs
from models.seeded import seeded

__all__ = ["ENTRIES"]

_WIDTH, _HEADS, _LAYERS = 512, 8, 3


class Encoder(nn.Module):
    """Layers of attention and perceptrons with a classifier behind them."""

    def __init__(self, classes: int = 64) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, activation="relu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.classifier = nn.Linear(_WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, tokens, 512] to [N, tokens, classes]."""
        return self.classifier(self.layers(x))


def _build(_: int) -> nn.Module:
    torch.manual_seed(0)
    return seeded(Encoder())


def _examples(tokens: int, count: int) -> list[Inputs]:
    return [
        (torch.randn(1, tokens, _WIDTH, generator=torch.Generator().manual_seed(1000 + index)),)
        for index in range(count)
    ]


ENTRIES = (Entry(name="transformer", build=_build, examples=_examples, size=128, small=16),)
