"""What wrong gemms of run-time qparams are made of: changes of their operands, and programs that err or lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk.backend import Kernel
from quantizer_sdk.conformance.dynamic_emulator import Operands, RowQParams, choose, operands_of, scaled, steps_of
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, rows_of
from quantizer_sdk.conformance.mutants.emulated_dynamic import DynamicProgram, with_operands
from quantizer_sdk.errors import LoweringError
from quantizer_sdk.profile import DynamicArithmetic

__all__ = [
    "FailsAtFirstRun",
    "FloatInDisguise",
    "InFloat",
    "KeepsBatch",
    "Leaks",
    "RefusesNaN",
    "bias_dropped",
    "groups_rolled",
    "last_value_left",
    "neighbours_scale",
    "nibbles_swapped",
    "one_scale",
    "spoiled_by_any",
    "symmetric",
    "unclamped",
    "unsigned_nibbles",
    "zero_point_dropped",
]


def _requantized(
    operands: Operands, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic, qparams: RowQParams
) -> Operands:
    steps = steps_of(rows_of(x, operands.own), qparams, gemm.code_range, arithmetic).reshape(x.shape)
    return dataclasses.replace(operands, qparams=qparams, steps=steps)


def one_scale(operands: Operands, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Operands:
    """Choose one scale and zero point for all rows."""
    whole = choose(x.reshape(1, -1), gemm.code_range, arithmetic)
    count = operands.qparams.scale.shape
    every = RowQParams(**{f.name: getattr(whole, f.name).expand(count) for f in dataclasses.fields(whole)})
    return _requantized(operands, gemm, x, arithmetic, every)


def symmetric(operands: Operands, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Operands:
    """Choose zero point 0 and a scale for the larger end."""
    largest = rows_of(x, operands.own).abs().amax(1, keepdim=True)
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / 127)
    qparams = RowQParams(scale=scale, inverse=1 / scale, zero_point=torch.zeros_like(scale))
    return _requantized(operands, gemm, x, arithmetic, qparams)


def neighbours_scale(operands: Operands, *_: Any) -> Operands:
    """Scale each row's results by the scale of the row before it."""
    qparams = dataclasses.replace(operands.qparams, scale=operands.qparams.scale.roll(1, 0))
    return dataclasses.replace(operands, qparams=qparams)


def zero_point_dropped(operands: Operands, *_: Any) -> Operands:
    """Multiply codes, zero points and all."""
    zeros = operands.qparams.zero_point.double().reshape(*operands.steps.shape[: operands.own], 1)
    return dataclasses.replace(operands, steps=operands.steps + zeros)


def bias_dropped(operands: Operands, *_: Any) -> Operands:
    """Add nothing."""
    return dataclasses.replace(operands, bias=None)


def nibbles_swapped(operands: Operands, *_: Any) -> Operands:
    """Take the two codes of each byte for each other."""
    codes = operands.weight.codes
    swapped = codes.reshape(*codes.shape[:-1], -1, 2).flip(-1).reshape(codes.shape)
    return dataclasses.replace(operands, weight=dataclasses.replace(operands.weight, codes=swapped))


def unsigned_nibbles(operands: Operands, *_: Any) -> Operands:
    """Read codes without their sign."""
    weight = operands.weight
    return dataclasses.replace(operands, weight=dataclasses.replace(weight, codes=weight.codes % 16))


def groups_rolled(operands: Operands, *_: Any) -> Operands:
    """Scale each group by its neighbour's scale."""
    weight = operands.weight
    return dataclasses.replace(operands, weight=dataclasses.replace(weight, scales=weight.scales.roll(1, -1)))


def last_value_left(operands: Operands, *_: Any) -> Operands:
    """Leave out the last value of each row, as a loop over pairs does."""
    steps = operands.steps.clone()
    steps[..., -1] = 0
    return dataclasses.replace(operands, steps=steps)


def unclamped(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Tensor:
    """Leave out the activation that is fused."""
    return scaled(dataclasses.replace(gemm, clamps=()), operands_of(model, gemm, x, arithmetic), arithmetic).value


def spoiled_by_any(model: GraphModule, gemm: DynamicGemm, x: Tensor, arithmetic: DynamicArithmetic) -> Tensor:
    """Let a NaN or an infinity anywhere spoil every row."""
    found = with_operands()(model, gemm, x, arithmetic)
    return found if bool(torch.isfinite(x).all()) else torch.full_like(found, torch.nan)


class InFloat(DynamicProgram):
    """Computes the q/dq graph in float32, and says so."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        with torch.no_grad():
            found = self.model(*inputs)
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def kernels(self) -> tuple[Kernel, ...]:
        """Return what runs."""
        return (Kernel(name="gemm", inputs=("FP32", "FP32"), outputs=("FP32",), integer=False, conversion=False),)


class FloatInDisguise(InFloat):
    """Computes the q/dq graph in float32, and reports gemms that quantize at run time."""

    def kernels(self) -> tuple[Kernel, ...]:
        """Return what it says."""
        return DynamicProgram.kernels(self)


class RefusesNaN(DynamicProgram):
    """Fails where an input holds a NaN."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        if any(bool(tensor.isnan().any()) for tensor in inputs):
            raise LoweringError("the runtime failed: invalid argument")
        return super().run(*inputs)


class FailsAtFirstRun(DynamicProgram):
    """Loads, and fails when it is run."""

    def run(self, *_inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        raise LoweringError("the runtime failed at the first inference: code 32")


class Leaks(DynamicProgram):
    """Adds what the last run left in its accumulators."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        left = self.__dict__.get("left", 0.0)
        self.__dict__["left"] = 1.0
        return tuple(tensor + left for tensor in super().run(*inputs))


class KeepsBatch(DynamicProgram):
    """Computes as many rows as the first run had, and repeats the last of them."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        size = self.__dict__.setdefault("size", inputs[0].shape[0])
        (found,) = super().run(*inputs)
        found[size:] = found[size - 1 : size]
        return (found,)
