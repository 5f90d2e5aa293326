"""Keyword spotting by depthwise-separable convolutions over time (after Zhang et al. 2017, arXiv:1711.07128)."""

from __future__ import annotations

import torch
from torch import nn

from models.entry import Entry, Inputs
from models.seeded import seeded, spectra

__all__ = ["ENTRIES"]

_BANDS, _WIDTH, _BLOCKS = 40, 96, 4


def _block(stride: int) -> list[nn.Module]:
    return [
        nn.Conv1d(_WIDTH, _WIDTH, 9, stride, 4, groups=_WIDTH, bias=False),
        nn.BatchNorm1d(_WIDTH),
        nn.ReLU(),
        nn.Conv1d(_WIDTH, _WIDTH, 1, bias=False),
        nn.BatchNorm1d(_WIDTH),
        nn.ReLU(),
    ]


class KeywordSpotter(nn.Module):
    """Says which word is spoken in a second of sound."""

    def __init__(self, words: int = 12) -> None:
        super().__init__()
        first = [nn.Conv1d(_BANDS, _WIDTH, 5, 1, 2, bias=False), nn.BatchNorm1d(_WIDTH), nn.ReLU()]
        blocks = [layer for index in range(_BLOCKS) for layer in _block(2 if index % 2 else 1)]
        self.layers = nn.Sequential(*first, *blocks)
        self.classifier = nn.Linear(_WIDTH, words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map spectrograms [N, bands, frames] to logits [N, words]."""
        return self.classifier(self.layers(x).mean(dim=2))


def _examples(frames: int, count: int) -> list[Inputs]:
    return spectra(_BANDS, frames, count)


ENTRIES = (
    Entry(
        name="keyword_spotting",
        build=lambda size: seeded(KeywordSpotter(), _examples(size, 4)),
        examples=_examples,
        size=98,
        small=32,
    ),
)
