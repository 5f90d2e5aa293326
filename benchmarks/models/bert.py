"""A BERT encoder (Devlin et al. 2018, https://arxiv.org/abs/1810.04805) of 4 layers and width 256."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry, Scheme
from models.seeded import seeded, tokens

__all__ = ["ENTRIES"]

_VOCABULARY, _WIDTH, _HEADS, _LAYERS, _LONGEST = 2000, 256, 4, 4, 128


class Layer(nn.Module):
    """Attention and a perceptron, each added to its input and then normed."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.mix = nn.Linear(_WIDTH, _WIDTH)
        self.expand, self.project = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.attended, self.normed = nn.LayerNorm(_WIDTH, eps=1e-12), nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, tokens, width] to the same shape."""
        batch, length, width = x.shape
        shape = (batch, length, _HEADS, width // _HEADS)
        query, key, value = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(width // _HEADS)
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2).reshape(batch, length, width)
        x = self.attended(x + self.mix(mixed))
        return self.normed(x + self.project(functional.gelu(self.expand(x))))


class Bert(nn.Module):
    """A classifier of texts."""

    def __init__(self, classes: int = 16) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(_VOCABULARY, _WIDTH), nn.Embedding(_LONGEST, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        self.layers = nn.Sequential(*(Layer() for _ in range(_LAYERS)))
        self.pooler, self.classifier = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map token ids [N, tokens] to logits [N, classes]."""
        where = torch.arange(ids.shape[1])
        x = self.layers(self.norm(self.words(ids) + self.positions(where)))
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


ENTRIES = (
    Entry(
        name="bert",
        build=lambda _: seeded(Bert()),
        examples=lambda size, count: tokens(size, _VOCABULARY, count),
        size=64,
        small=16,
        schemes=((nn.Linear, Scheme.DYNAMIC),),
    ),
)
