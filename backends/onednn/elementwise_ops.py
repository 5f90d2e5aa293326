"""Ops of sums and products of two tensors of uint8 codes.

torch's quantized kernels round the last elements of a tensor, those that fill no vector, otherwise than all others:
those add the zero point before rounding. Here every element is one of a whole vector, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backends.onednn.codes import as_codes, as_quantized, is_dense
from quantizer_sdk.backends.onednn.library import call, define, entry

__all__ = ["ADD", "MUL", "add", "bound_add", "bound_mul", "mul"]

_Binary = Callable[[Tensor, Tensor, float, int], Tensor]

_VECTORS = 128  # two of the longest vectors, which is what a step of torch's loop takes
_SHAPES = 16  # for which a constant operand is kept
_SERIAL = 255 * _VECTORS  # torch parts no tensor that is smaller than 32768 among threads


def _bound(plain: _Binary, rectified: _Binary) -> Callable[..., Callable[[Tensor, Tensor], Tensor]]:
    def bound(
        x_scale: float,
        x_zero_point: int,
        y_scale: float,
        y_zero_point: int,
        out_scale: float,
        out_zero_point: int,
        relu: bool,
        constant: Tensor | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        operation = rectified if relu else plain
        known: dict[tuple[Any, ...], Tensor] = {}

        def part(a: Tensor, b: Tensor) -> Tensor:
            one, other = as_quantized(a, x_scale, x_zero_point), as_quantized(b, y_scale, y_zero_point)
            return as_codes(operation(one, other, out_scale, out_zero_point))

        def beside(x: Tensor) -> Tensor | None:
            """Return the constant as operand of tensors like x, if that gives a result in one part."""
            if not _is_one_part(x) or not x.is_contiguous():
                return None
            shape = x.shape
            found = known.get(shape)
            if found is None:
                assert constant is not None
                if torch.broadcast_shapes(shape, constant.shape) != shape:  # type: ignore[no-untyped-call]
                    return None
                if len(known) >= _SHAPES:
                    known.clear()
                found = known[shape] = as_quantized(constant.expand(shape).contiguous(), y_scale, y_zero_point)
            return found

        def compute(x: Tensor, y: Tensor) -> Tensor:
            if y is constant:
                other = beside(x)
                if other is not None:
                    return as_codes(operation(as_quantized(x, x_scale, x_zero_point), other, out_scale, out_zero_point))
            x, y = _aligned(x, y)
            if _is_one_part(x):
                return part(x, y)
            count = x.numel()
            a, b = (_flat(tensor, -count % _VECTORS) for tensor in (x, y))
            parts = [part(c, d) for c, d in zip(torch.split(a, _SERIAL), torch.split(b, _SERIAL), strict=True)]
            return torch.cat(parts)[:count].as_strided(x.shape, x.stride())

        return compute

    return bound


def _kernel(bound: Callable[..., Callable[[Tensor, Tensor], Tensor]]) -> Callable[..., Tensor]:
    def compute(x: Tensor, x_scale: float, x_zero_point: int, y: Tensor, *rest: Any) -> Tensor:
        return bound(x_scale, x_zero_point, *rest)(x, y)

    return compute


def _is_one_part(x: Tensor) -> bool:
    count = x.numel()
    return count % _VECTORS == 0 and (count <= _SERIAL or torch.get_num_threads() == 1)


def _aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the operands in one shape and in one dense order of elements: that of the first."""
    if x.shape != y.shape:
        x, y = (tensor.contiguous() for tensor in torch.ops.aten.broadcast_tensors([x, y]))
    x = x if is_dense(x) else x.clone()
    return x, y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


def _flat(tensor: Tensor, more: int) -> Tensor:
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return torch.nn.functional.pad(flat, (0, more)) if more else flat


def _fake(x: Tensor, _xs: float, _xz: int, y: Tensor, *_rest: object) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(x) if shape == x.shape == y.shape else torch.empty(shape, dtype=x.dtype, device=x.device)


def _define(name: str, kernel: Callable[..., Tensor]) -> torch._ops.OpOverload:
    operands = "Tensor x, float x_scale, int x_zero_point, Tensor y, float y_scale, int y_zero_point"
    return define(f"{name}({operands}, float out_scale, int out_zero_point, bool relu) -> Tensor", kernel, _fake)


_OPS = torch.ops.quantized
bound_add = _bound(entry(_OPS.add.default), entry(_OPS.add_relu.default))
"""Returns ADD as a function of codes `x` and `y`; given `constant`, it keeps what it makes of that as `y`."""
bound_mul = _bound(entry(_OPS.mul.default), entry(_OPS.mul_relu.default))
"""As `bound_add`, of MUL."""
_add, _mul = _kernel(bound_add), _kernel(bound_mul)
ADD = _define("add", _add)
"""round((fma(x, sx, -(sx·zx)) + fma(y, sy, -(sy·zy))) · (1 / s)) + z of uint8 codes, in float32, broadcast."""
MUL = _define("mul", _mul)
"""round(f((x - zx)·(y - zy)) · ((sx·sy)·(1 / s))) + z of uint8 codes, in float32, broadcast."""


def add(*operands: Any) -> Tensor:
    """Call ADD with all its operands, by position."""
    return call(add, ADD, _add, operands)


def mul(*operands: Any) -> Tensor:
    """Call MUL with all its operands, by position."""
    return call(mul, MUL, _mul, operands)
