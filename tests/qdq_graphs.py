"""Small converted graphs, written by hand: the module's code is what export gives back."""

from collections.abc import Callable

import torch
from torch import nn
from torch.fx import GraphModule

Q = torch.ops.quantized_decomposed


class Program(nn.Module):
    """A function of tensors and of named constants."""

    def __init__(self, run: Callable[..., object], **constants: torch.Tensor) -> None:
        super().__init__()
        self._run = run
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, *tensors):
        return self._run(self, *tensors)


def exported(run: Callable[..., object], inputs: tuple[torch.Tensor, ...], **constants: torch.Tensor) -> GraphModule:
    return torch.export.export(Program(run, **constants).eval(), inputs, strict=False).module(check_guards=False)


def codes(*shape: int, low: int = 0, high: int = 256, dtype: torch.dtype = torch.uint8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int64).to(dtype)


def s8_weight(*shape: int, seed: int = 1) -> torch.Tensor:
    return codes(*shape, low=-127, high=128, dtype=torch.int8, seed=seed)


def q(x: torch.Tensor, scale: float, zero_point: int, low: int = 0, high: int = 255, dtype=torch.uint8) -> torch.Tensor:
    return Q.quantize_per_tensor.default(x, scale, zero_point, low, high, dtype)


def dq(x: torch.Tensor, scale: float, zero_point: int, low: int = 0, high: int = 255, dtype=torch.uint8):
    return Q.dequantize_per_tensor.default(x, scale, zero_point, low, high, dtype)


def dq_channels(w: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, axis: int = 0, dtype=torch.int8):
    ends = torch.iinfo(dtype)
    return Q.dequantize_per_channel.default(w, scales, zero_points, axis, ends.min, ends.max, dtype)
