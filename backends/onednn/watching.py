"""What really runs: a program run once while every op that reaches torch's kernels is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode  # torch offers no public module
from torch.utils._pytree import tree_leaves  # as above

from quantizer_sdk.backend import Delegation, Kernel, source_line
from quantizer_sdk.backends.onednn.conv_op import CONV
from quantizer_sdk.backends.onednn.conversion_ops import DEQUANTIZE, DEQUANTIZE_CHANNELS, LOOK_UP, QUANTIZE
from quantizer_sdk.backends.onednn.elementwise_ops import ADD, MUL
from quantizer_sdk.backends.onednn.linear_op import LINEAR
from quantizer_sdk.backends.onednn.run_time_ops import LINEAR_AT_RUN_TIME, QUANTIZE_AT_RUN_TIME
from quantizer_sdk.backends.onednn.straight import StraightForm
from quantizer_sdk.backends.onednn.window_ops import MAX_POOL, MEAN

__all__ = ["Watched", "delegation_of", "watch"]

_ATEN = torch.ops.aten
# The operands of each op that are tensors of the model: others are scales, biases, tables.
_DATA: dict[Any, tuple[int, ...]] = {
    CONV: (0, 3, 15),
    LINEAR: (0, 3, 12),
    ADD: (0, 3),
    MUL: (0, 3),
    MAX_POOL: (0,),
    MEAN: (0,),
    LOOK_UP: (0,),
    QUANTIZE: (0,),
    DEQUANTIZE: (0,),
    DEQUANTIZE_CHANNELS: (0,),
    QUANTIZE_AT_RUN_TIME: (0,),
    LINEAR_AT_RUN_TIME: (0, 3, 9),
}
_CONVERSIONS = frozenset({QUANTIZE, DEQUANTIZE, DEQUANTIZE_CHANNELS, QUANTIZE_AT_RUN_TIME})
_GEMMS = frozenset({CONV, LINEAR, LINEAR_AT_RUN_TIME})
# What computes inside of an op, if anything has a name of its own.
_COMPUTING = ("onednn::", "quantized::", "aten::_int_mm")
_PREPARING = ("onednn::qconv_prepack", "onednn::qlinear_prepack")
_MOVES = frozenset(
    {
        *(_ATEN.cat.default, _ATEN.stack.default, _ATEN.clone.default, _ATEN.copy_.default, _ATEN._to_copy.default),
        *(_ATEN.constant_pad_nd.default, _ATEN.index_select.default, _ATEN.index.Tensor, _ATEN.embedding.default),
        *(_ATEN.roll.default, _ATEN.flip.default, _ATEN.repeat.default, _ATEN.gather.default),
    }
)
# These reach no kernel that computes.
_ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh", "aten::_unsafe_view")


@dataclass(frozen=True, slots=True)
class Watched:
    """One kernel that ran.

    Attributes:
        kernel: What ran.
        gemm: Whether it multiplied integers, even where its result is float.
        source: The user's line, "" where it is not known.
    """

    kernel: Kernel
    gemm: bool
    source: str


def watch(form: StraightForm, inputs: Sequence[Tensor]) -> tuple[Watched, ...]:
    """Run a program and return the kernels that ran, in order. Views are none."""
    found: list[Watched] = []
    values: dict[Node, Any] = dict(zip(form.inputs, inputs, strict=True))

    def valued(operands: Any) -> Any:
        return map_arg(operands, values.__getitem__)

    with torch.no_grad():
        for step in form.steps:
            call, source = step.binding, source_line(step.node) or ""
            operands, keywords = valued(call.operands), valued(dict(call.keywords))
            if call.op is None:
                with _Watch(found, source):
                    values[step.node] = call.function(*operands, **keywords)
                continue
            with _Names() as names:
                result = values[step.node] = call.function(*operands, **keywords)
            data = [valued(call.arguments[place]) for place in _DATA.get(call.op, range(len(call.arguments)))]
            found.append(_watched(call.op, names.chosen() or _name(call.op), data, result, source))
    return tuple(found)


def delegation_of(watched: Sequence[Watched]) -> Delegation:
    """Count what ran on integers or converts; the rest is what was left to float."""
    floats = [it for it in watched if not (it.gemm or it.kernel.integer or it.kernel.conversion)]
    return Delegation(
        subgraphs=1,
        delegated=len(watched) - len(floats),
        non_delegated=tuple(it.kernel.name for it in floats),
        sources=tuple(it.source for it in floats),
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: list[Watched], source: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found, self._source = found, source

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not func._schema.name.startswith(_ALLOCATIONS):
            operands = tree_leaves((args, kwargs or {}))
            self._found.append(_watched(func, _name(func), operands, result, self._source))
        return result


def _watched(func: Any, name: str, operands: Sequence[Any], result: Any, source: str) -> Watched:
    # Codes come with scales and zero points, which are no data.
    results = result[:1] if func is QUANTIZE_AT_RUN_TIME else tree_leaves(result)
    inputs, outputs = _types(operands), _types(results)
    conversion = func in _CONVERSIONS
    whole = not any(kind.startswith(("float", "bfloat", "complex")) for kind in (*inputs, *outputs))
    kernel = Kernel(
        name=name,
        inputs=inputs,
        outputs=outputs,
        integer=whole and not conversion,
        conversion=conversion,
        moves=func in _MOVES,
    )
    return Watched(kernel, func in _GEMMS, source)


class _Names(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of the ops that run inside of an op."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._names.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    def chosen(self) -> str | None:
        """Return the name of the kernel that did the work; None where that has none of its own."""
        working = [name for name in self._names if name.startswith(_COMPUTING) and name not in _PREPARING]
        return working[0].replace("::", ".") if working else None


def _name(func: Any) -> str:
    return str(func._schema.name).replace("::", ".")


def _types(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(value.dtype).removeprefix("torch.") for value in values if isinstance(value, Tensor))
