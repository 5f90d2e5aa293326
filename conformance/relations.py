"""Which metamorphic relations a program has: whether it grows with its inputs, permutes with its channels, splits."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizer_sdk.conformance.corpus import MOVES
from quantizer_sdk.conformance.program import Program, Ref

__all__ = ["batch_size", "close", "grows_with_inputs", "output_channels", "parameter_power"]

aten = torch.ops.aten

_RELUS = frozenset({aten.relu.default, aten.relu_.default})
_ADDITIVE = ("add.", "add_", "sub.", "sub_")
_LINEAR = ("conv", "linear", "addmm", "mm", "matmul", "bmm", "mul", "mean", "adaptive_avg_pool", "avg_pool2d")
_CHANNELLED = ("conv", "linear", "addmm")


def _name(target: torch._ops.OpOverload) -> str:
    return str(target).removeprefix("aten.")


def grows_with_inputs(program: Program) -> bool:
    """Whether all results grow by a power of the factor by which inputs and what is added to them grow."""
    return all(
        call.target in MOVES or call.target in _RELUS or _name(call.target).startswith((*_LINEAR, *_ADDITIVE))
        for call in program.calls
    )


def parameter_power(program: Program, place: int) -> int:
    """Return 1 if a parameter must grow with the inputs, since it is added to what grows, and 0 if it multiplies."""
    for call in program.calls:
        if Ref("p", place) in call.refs():
            name = _name(call.target)
            names = [argument.name for argument in call.target._schema.arguments]
            position = next(i for i, value in enumerate(call.args) if value == Ref("p", place))
            bias = names[position] == "bias" or (name.startswith("addmm") and names[position] == "self")
            return int(bias or name.startswith(_ADDITIVE))
    return 0


def output_channels(program: Program, length: int) -> tuple[dict[int, int], int, int] | None:
    """Return where a program's output channels are, if permuting them permutes its result.

    Returns:
        The axis of output channels of each parameter, their number, and the result's axis.
    """
    call = program.calls[-length]
    name = _name(call.target)
    if len(program.calls) != length or not program.parameters or not name.startswith(_CHANNELLED):
        return None
    if any(len(list(call.refs())) > 1 for call in program.calls[1:]):
        return None
    if name.startswith("conv") and call.args[-2 if "transpose" in name else -1] != 1:
        return None
    transposed = "transpose" in name or name.startswith("addmm")
    weight = max(range(len(program.parameters)), key=lambda place: len(program.parameters[place]))
    axes = dict.fromkeys(range(len(program.parameters)), 0) | {weight: int(transposed)}
    return axes, program.parameters[weight][axes[weight]], 1 if name.startswith("conv") else -1


def batch_size(program: Program) -> int | None:
    """Return the size of the first axis that all inputs have in common, if it is 2 or more."""
    sizes = {shape[0] if shape else 1 for shape in program.inputs}
    size = min(sizes)
    return size if len(sizes) == 1 and size > 1 else None


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by no more than the order of summation may change, seen from the largest of them."""
    return torch.allclose(a, b, rtol=0.0, atol=1e-5 * float(b.abs().max())) if b.numel() else True
