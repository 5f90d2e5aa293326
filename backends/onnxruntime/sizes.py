"""Sizes that are known at run time only, as scalars of int64: Python's operators on them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["SIZE_OPERATORS", "size", "size_operator"]

SIZE_OPERATORS: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.floordiv: "Div",
    operator.mod: "Mod",
    operator.truediv: "Div",
    torch.sym_max: "Max",
    torch.sym_min: "Min",
}
"""ONNX's operator for each of Python's; sizes are not negative, so that all divisions round the same way."""


def size(call: Call) -> ir.Value:
    """One size of a tensor."""
    axis = call.args["dim"] % call.example(call.args["self"]).dim()
    shape = call.emit("Shape", call.value(call.args["self"]), start=axis, end=axis + 1)
    return call.emit("Reshape", shape, call.int64("scalar", []))


def size_operator(call: Call) -> ir.Value:
    """An operator of sizes and numbers."""
    target: Callable[..., Any] = call.node.target  # type: ignore[assignment]
    dtype = torch.float32 if target is operator.truediv else torch.int64
    return call.emit(SIZE_OPERATORS[target], *(call.value(item, dtype) for item in call.node.args))
