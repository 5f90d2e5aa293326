"""Small models that between them hold what vendors' quantizers look for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere

__all__ = ["MODELS", "Model", "built", "dyadic", "exact_norm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model.

    Attributes:
        make: Makes it; seeded, so that it is the same each time.
        shape: Of its input.
        note: What it is there for.
        integers: Whether its input is indices below 16 instead of numbers.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    note: str
    integers: bool = False


class _Apply(nn.Module):
    """Calls a function of its own modules and its input."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            self.add_module(name, member)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


class _Attention(nn.Module):
    """One head, written out: four linear layers, two products, a softmax and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        weights = torch.softmax(torch.matmul(self.q(y), self.k(y).transpose(1, 2)) * 0.25, -1)
        return x + self.out(torch.matmul(weights, self.v(y)))


def exact_norm(channels: int, eps: float = 2.0**-40) -> nn.BatchNorm2d:
    """Return a norm whose folding is exact in float32: every factor is a power of two, every shift has few bits."""
    norm = nn.BatchNorm2d(channels, eps=eps)
    with torch.no_grad():
        norm.running_var.copy_(4.0 ** torch.randint(-1, 2, (channels,)))
        norm.running_mean.copy_(torch.randint(-8, 8, (channels,)) / 8)
        norm.weight.copy_(2.0 ** torch.randint(-1, 2, (channels,)))
        norm.bias.copy_(torch.randint(-8, 8, (channels,)) / 8)
    return norm


def dyadic(layer: nn.Module) -> nn.Module:
    """Round parameters to few bits, so that folding a norm into them is exact."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.round(parameter * 64) / 64)
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.running_var, 0.25, 4)
    return norm


def _conv_net(norm: Callable[[int], nn.Module], layer: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(
        layer(nn.Conv2d(3, 8, 3, padding=1)),
        norm(8),
        nn.ReLU(),
        layer(nn.Conv2d(8, 8, 3, stride=2, bias=False)),
        norm(8),
        nn.ReLU(),
    )


_IMAGE, _ROWS = (2, 3, 12, 12), (4, 8)

MODELS: dict[str, Model] = {
    "conv_bn_relu": Model(
        make=lambda: _conv_net(exact_norm, dyadic), shape=_IMAGE, note="norms that fold exactly in float32 too"
    ),
    "residual": Model(
        make=lambda: _Apply(
            lambda s, x: F.relu(s.b(F.relu(s.a(x))) + x), a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 3, 1)
        ),
        shape=_IMAGE,
        note="two convolutions beside a connection",
    ),
    "depthwise": Model(
        make=lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU6(), nn.Conv2d(6, 4, 1), nn.Hardswish()),
        shape=_IMAGE,
        note="depthwise and pointwise convolutions, hardswish",
    ),
    "pools": Model(
        make=lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        shape=_IMAGE,
        note="a classifier's tail",
    ),
    "branches": Model(
        make=lambda: _Apply(
            lambda s, x: s.c(torch.cat([s.a(x), s.b(x), x], 1)),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 4, 3, padding=1),
            c=nn.Conv2d(11, 2, 1),
        ),
        shape=_IMAGE,
        note="cat of three, of which one is the input",
    ),
    "transposed": Model(
        make=lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        shape=_IMAGE,
        note="a transposed convolution",
    ),
    "signal": Model(
        make=lambda: nn.Sequential(nn.Conv1d(3, 8, 5), nn.ReLU(), nn.Conv1d(8, 4, 3)),
        shape=(2, 3, 24),
        note="convolutions of signals",
    ),
    "mlp": Model(
        make=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8, bias=False), nn.Linear(8, 4)),
        shape=_ROWS,
        note="linear layers, with and without bias",
    ),
    "elementwise": Model(
        make=lambda: _Apply(
            lambda s, x: torch.tanh(s.a(x) * torch.sigmoid(s.b(x)) - x) + 0.5, a=nn.Linear(8, 8), b=nn.Linear(8, 8)
        ),
        shape=_ROWS,
        note="a gate: mul, sub, sigmoid, tanh, and a number added",
    ),
    "reused": Model(
        make=lambda: _Apply(lambda s, x: s.a(F.relu(s.a(x))) + s.b(x), a=nn.Linear(8, 8), b=nn.Linear(8, 8)),
        shape=_ROWS,
        note="a layer called twice, a tensor read twice",
    ),
    "attention": Model(make=_Attention, shape=(2, 5, 8), note="attention and a layer norm"),
    "embedding": Model(
        make=lambda: nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 4)),
        shape=(2, 5),
        note="a table of vectors",
        integers=True,
    ),
    "norms": Model(make=lambda: _conv_net(_norm, lambda layer: layer), shape=_IMAGE, note="batch norms as trained"),
    "dropout": Model(
        make=lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4)),
        shape=_ROWS,
        note="a dropout between a layer and its activation",
    ),
}


def built(name: str, *, channels_last: bool = False) -> tuple[nn.Module, list[torch.Tensor]]:
    """Return a model and three batches for it, the same each time."""
    model = MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    module = model.make()
    if model.integers:
        return module, [torch.randint(0, 16, model.shape) for _ in range(3)]
    batches = [torch.randn(model.shape) for _ in range(3)]
    if channels_last and len(model.shape) == 4:
        return module.to(memory_format=torch.channels_last), [
            batch.to(memory_format=torch.channels_last) for batch in batches
        ]
    return module, batches
