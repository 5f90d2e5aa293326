"""Which ops were quantized in the graph and then not taken by the delegate: the costliest way to fail."""

from __future__ import annotations

import collections

from quantizer_sdk.backend import Delegation
from quantizer_sdk.report import Explanation

__all__ = ["outside_although_quantized"]

# Operators as ExecuTorch's compiler names them, by those of the user's graph that become them.
_COMPILED = {
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv_transpose1d": "convolution",
    "conv_transpose2d": "convolution",
    "adaptive_avg_pool2d": "mean",
    "max_pool2d": "max_pool2d_with_indices",
    "relu6": "hardtanh",
    "silu": "mul",
}
# These cost nothing wherever they run, and the compiler makes more of them out of other ops.
_VIEWS = frozenset(
    {
        "view",
        "reshape",
        "unsafe_view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "clone",
    }
)


def outside_although_quantized(explanation: Explanation, delegation: Delegation) -> dict[str, int]:
    """Count them by operator.

    The compiler keeps no link from its operators to the user's, so they are counted by kind: as many operators of a
    kind as lie outside the delegate beyond the float ops of that kind must be quantized ones. A quantize or dequantize
    outside always belongs to one.
    """
    may_be_outside: collections.Counter[str] = collections.Counter()
    quantized: collections.Counter[str] = collections.Counter()
    for op in explanation.ops:
        kind = _kind(op.op)
        counter = may_be_outside if op.state == "float" else quantized
        if op.state != "folded" and kind not in _VIEWS:
            counter[_COMPILED.get(kind, kind)] += 1
    outside = collections.Counter(map(_kind, delegation.non_delegated))
    found = {
        kind: min(count - may_be_outside[kind], quantized[kind])
        for kind, count in outside.items()
        if count > may_be_outside[kind] and quantized[kind]
    }
    converts = sum(name.startswith("quantized_decomposed") for name in delegation.non_delegated)
    return {**found, "quantize or dequantize": converts} if converts else found


def _kind(name: str) -> str:
    """Return the middle of "aten.view_copy.default" without what sets a copying or an in-place form apart."""
    middle = name.split(".")[1] if "." in name else name
    return middle.removesuffix("_copy").strip("_")
