"""A small Vision Transformer (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry, Scheme
from models.seeded import images, seeded

__all__ = ["ENTRIES"]

_PATCH, _WIDTH, _HEADS, _DEPTH = 16, 192, 3, 6


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.queries_keys_values, self.mix = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.expand, self.project = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, tokens, width] to the same shape."""
        batch, length, width = x.shape
        parts = self.queries_keys_values(self.before(x)).reshape(batch, length, 3, _HEADS, width // _HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.project(functional.gelu(self.expand(self.between(x))))


class VisionTransformer(nn.Module):
    """An image classifier."""

    def __init__(self, size: int, classes: int = 1000) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        length = (size // _PATCH) ** 2 + 1
        self.patches = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH)
        self.summary = nn.Parameter(torch.randn(1, 1, _WIDTH, generator=generator))
        self.positions = nn.Parameter(0.5 * torch.randn(1, length, _WIDTH, generator=generator))
        self.blocks = nn.Sequential(*(Block() for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.classifier = nn.Linear(_WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [N, 3, size, size] to logits [N, classes]."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.summary.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.classifier(self.norm(self.blocks(x))[:, 0])


ENTRIES = (
    Entry(
        name="vit_small",
        build=lambda size: seeded(VisionTransformer(size)),
        examples=images,
        size=224,
        small=64,
        schemes=((None, Scheme.STATIC), (nn.Linear, Scheme.DYNAMIC)),
    ),
    Entry(
        name="vit_small_static",
        build=lambda size: seeded(VisionTransformer(size)),
        examples=images,
        size=224,
        small=64,
    ),
)
