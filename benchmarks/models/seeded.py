"""Weights and inputs out of seeds, such that signals keep their size from layer to layer as in a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from models.entry import Inputs

__all__ = ["images", "seeded", "spectra", "tokens", "vectors", "waves"]

_BATCH_NORM_INPUTS = 4


def seeded(model: nn.Module, inputs: list[Inputs] | None = None, *, seed: int = 0) -> nn.Module:
    """Give a model random weights of He's variance, and batch norms the statistics of what really reaches them.

    Channels get unequal scales, for that is what makes per-channel quantization matter. A module's attribute `gain`, if
    it has one, scales its weights. Parameters that are neither a `weight` nor a `bias` are left to the model.

    Args:
        model: Changed in place.
        inputs: What batch norms are run on in training mode; needed only where there are some.
        seed: Decides the weights.

    Returns:
        The model, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    with torch.no_grad():
        for module in model.modules():
            _initialise(module, generator)
        for norm in norms:
            norm.momentum = None  # a plain average over the runs below
        for example in (inputs or [])[:_BATCH_NORM_INPUTS] if norms else []:
            model.train()(*example)
    return model.eval()


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, torch.Tensor):
        return
    gain: float = getattr(module, "gain", 1.0)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
        weight.uniform_(0.5 * gain, 1.5 * gain, generator=generator)
    elif isinstance(module, nn.Embedding):
        weight.normal_(0, gain, generator=generator)
    else:
        transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
        fan_in = weight[0].numel()
        if transposed:  # [in, out, ...]; with a stride, few taps meet at one output
            fan_in = weight[:, 0].numel() // math.prod(module.stride)
        before_relu = weight.dim() > 2
        weight.normal_(0, gain * math.sqrt((2 if before_relu else 1) / fan_in), generator=generator)
        axis = 1 if transposed else 0
        spread = torch.empty(weight.shape[axis]).uniform_(0.5, 1.5, generator=generator)
        weight.mul_(spread.view([-1 if index == axis else 1 for index in range(weight.dim())]))
    if isinstance(bias, torch.Tensor):
        bias.normal_(0, 0.1, generator=generator)


def _series(make: Callable[[torch.Generator], torch.Tensor], count: int) -> list[Inputs]:
    return [(make(torch.Generator().manual_seed(1000 + index)),) for index in range(count)]


def images(size: int, count: int) -> list[Inputs]:
    """Return images [1, 3, size, size] with structure at all scales, as photos have, of mean 0 and deviation 1.

    White noise would not do: a network that averages over space gives nearly the same result for any of it.
    """

    def make(generator: torch.Generator) -> torch.Tensor:
        total = 0.1 * torch.randn(1, 3, size, size, generator=generator)
        for cells in (1, 2, 4, 8, 16):
            noise = torch.randn(1, 3, cells, cells, generator=generator)
            smooth = functional.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)
            total += smooth / math.sqrt(cells)
        return (total - total.mean()) / total.std()

    return _series(make, count)


def spectra(bands: int, frames: int, count: int) -> list[Inputs]:
    """Return spectrograms [1, bands, frames] that change slowly with time."""

    def make(generator: torch.Generator) -> torch.Tensor:
        knots = torch.randn(1, bands, max(2, frames // 8), generator=generator)
        smooth = functional.interpolate(knots, size=frames, mode="linear", align_corners=True)
        return smooth + 0.2 * torch.randn(1, bands, frames, generator=generator)

    return _series(make, count)


def waves(samples: int, count: int) -> list[Inputs]:
    """Return windows [1, samples] of tones at 16 kHz with harmonics and noise, of mean 0 and deviation 1."""

    def make(generator: torch.Generator) -> torch.Tensor:
        pitch = 60 * 2 ** (4 * torch.rand(1, generator=generator))
        phase = 2 * math.pi * pitch * torch.arange(samples) / 16000
        partials = torch.randn(6, generator=generator) / torch.arange(1, 7)
        tone = sum(part * torch.sin((index + 1) * phase) for index, part in enumerate(partials))
        window = tone + 0.05 * torch.randn(samples, generator=generator)
        return ((window - window.mean()) / window.std())[None]

    return _series(make, count)


def tokens(length: int, vocabulary: int, count: int) -> list[Inputs]:
    """Return token ids [1, length], int64."""
    return _series(lambda generator: torch.randint(vocabulary, (1, length), generator=generator), count)


def vectors(widths: tuple[int, ...], rows: int, count: int) -> list[Inputs]:
    """Return tuples of normal matrices [rows, width]."""
    return [
        tuple(torch.randn(rows, width, generator=generator) for width in widths)
        for generator in (torch.Generator().manual_seed(1000 + index) for index in range(count))
    ]
