"""Exact rewrites of a converted graph into the forms that ONNX Runtime turns into integer kernels.

Each moves what stands between a computation and its quantize behind the quantize, where it works on codes.
Requires a functional graph with shapes. Ensures that the graph gives the same codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from quantizer_sdk.backends.onnxruntime.exported import arguments

__all__ = ["clamp_codes", "drop_axes_of_codes", "flatten_codes", "pad_codes", "quantize_early", "reshape_target"]

aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_PADS = (aten.pad.default, aten.constant_pad_nd.default)
_BOUNDED: dict[Any, tuple[int, int | None]] = {aten.relu.default: (0, None), aten.relu6.default: (0, 6)}
_BOUND_NAMES: dict[Any, tuple[str, str]] = {
    aten.hardtanh.default: ("min_val", "max_val"),
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default), ("min", "max")),
}


_MOVES: frozenset[Any] = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.unflatten.int),
        *(aten.permute.default, aten.transpose.int, aten.t.default, aten.contiguous.default, aten.clone.default),
        *(aten.max_pool1d.default, aten.max_pool2d.default, aten.slice.Tensor, aten.select.int, aten.expand.default),
    }
)
"""What gives the same codes in whatever order with a quantize."""


def quantize_early(graph: Graph) -> None:
    """Quantize before what only moves elements, or takes the largest: the kernel in front of that then gives codes."""
    for last in graph.find_nodes(op="call_function", target=_QUANTIZE):
        quantize, move = last, last.args[0]
        while move.target in _MOVES and len(move.users) == 1:
            operand = move.args[0]
            if operand.op != "call_function" or operand.target is _DEQUANTIZE:
                break
            with graph.inserting_before(move):
                early = graph.call_function(_QUANTIZE, (operand, *quantize.args[1:]))
            early.meta = {**operand.meta, "val": operand.meta["val"].to(quantize.meta["val"].dtype)}
            move.replace_input_with(operand, early)
            move.meta["val"] = quantize.meta["val"]
            quantize.replace_all_uses_with(move)
            graph.erase_node(quantize)
            quantize, move = early, operand


def clamp_codes(graph: Graph) -> None:
    """Clamp the codes instead of the value: rounding is monotone, so that both give the same.

    The range of the quantize then ends at the codes of the clamp's bounds. A clamp between a dequantize and a quantize
    of other qparams stays, for nothing computes between the two that a kernel could be made of.
    """
    for quantize in graph.find_nodes(op="call_function", target=_QUANTIZE):
        clamp = quantize.args[0]
        while (clamp.target in _BOUNDED or clamp.target in _BOUND_NAMES) and len(clamp.users) == 1:
            operand = clamp.args[0]
            if operand.op == "placeholder" or (operand.target is _DEQUANTIZE and not _same_codes(operand, quantize)):
                break
            quantize.args = (operand, *_narrowed(quantize, clamp))
            graph.erase_node(clamp)
            clamp = operand


def pad_codes(graph: Graph) -> None:
    """Pad codes with their zero point instead of numbers with 0."""
    for quantize in graph.find_nodes(op="call_function", target=_QUANTIZE):
        pad = quantize.args[0]
        if pad.target not in _PADS or len(pad.users) != 1:
            continue
        named, dequantize = arguments(pad), pad.args[0]
        with_zeros = named.get("mode", "constant") == "constant" and named["value"] in (None, 0)
        if not with_zeros or dequantize.target is not _DEQUANTIZE or dequantize.args[1:6] != quantize.args[1:6]:
            continue
        with graph.inserting_before(pad):
            zero_point = quantize.args[2]
            codes = graph.call_function(aten.constant_pad_nd.default, (dequantize.args[0], named["pad"], zero_point))
        codes.meta = {**pad.meta, "val": quantize.meta["val"]}
        quantize.replace_all_uses_with(codes)
        graph.erase_node(quantize)
        graph.erase_node(pad)


def _same_codes(dequantize: Node, quantize: Node) -> bool:
    """Whether a quantize gives the codes that were dequantized, within its range."""
    (_, *given), (_, *taken) = dequantize.args, quantize.args
    return given[:2] == taken[:2] and given[4] is taken[4]


def _narrowed(quantize: Node, clamp: Node) -> tuple[Any, ...]:
    """Return the qparams of a quantize with its range ending at the codes of a clamp's bounds."""
    scale, zero_point, low, high, dtype = quantize.args[1:]
    named = arguments(clamp)
    bounds = _BOUNDED.get(clamp.target) or [named.get(name) for name in _BOUND_NAMES[clamp.target]]
    ends = [
        end if bound is None else int(_QUANTIZE(torch.tensor(float(bound)), scale, zero_point, low, high, dtype))
        for bound, end in zip(bounds, (low, high), strict=True)
    ]
    return (scale, zero_point, *ends, dtype)


def drop_axes_of_codes(graph: Graph) -> None:
    """Let a mean keep its axes, as the pooling kernel does, and take them off the codes."""
    for mean in graph.find_nodes(op="call_function", target=aten.mean.dim):
        quantize, shape = _only_quantize(mean), reshape_target(mean)
        named = arguments(mean)
        if quantize is None or shape is None or named["keepdim"] or not named["dim"] or named["dtype"] is not None:
            continue
        operand, result = named["self"], quantize.meta["val"]
        with graph.inserting_before(mean):
            kept = graph.call_function(aten.mean.dim, (operand, named["dim"], True))
        kept.meta["val"] = operand.meta["val"].mean(named["dim"], keepdim=True)
        quantize.replace_input_with(mean, kept)
        graph.erase_node(mean)
        quantize.meta["val"] = kept.meta["val"].to(result.dtype)
        _reshape_after(graph, quantize, shape, result)


def flatten_codes(graph: Graph) -> None:
    """Let a linear compute on a matrix, as the kernel does: reshape the codes before and after it."""
    for linear in graph.find_nodes(op="call_function", target=aten.linear.default):
        dequantize, quantize = linear.args[0], _only_quantize(linear)
        if quantize is None or dequantize.target is not _DEQUANTIZE or linear.meta["val"].dim() == 2:
            continue
        codes, value, result = dequantize.args[0], dequantize.meta["val"], quantize.meta["val"]
        shape: list[Any] = reshape_target(linear) or _sizes_of(graph, codes, linear)
        with graph.inserting_before(linear):
            rows = graph.call_function(aten.reshape.default, (codes, [-1, value.shape[-1]]))
            matrix = graph.call_function(_DEQUANTIZE, (rows, *dequantize.args[1:]), dict(dequantize.kwargs))
        matrix.meta["val"] = value.reshape(-1, value.shape[-1])
        rows.meta["val"] = codes.meta["val"].reshape(-1, value.shape[-1])
        linear.replace_input_with(dequantize, matrix)
        linear.meta["val"] = linear.meta["val"].reshape(-1, result.shape[-1])
        quantize.meta["val"] = result.reshape(-1, result.shape[-1])
        _reshape_after(graph, quantize, shape, result)


def reshape_target(node: Node) -> list[int] | None:
    """Return the shape of a node's value with -1 for its dynamic size; None where it has several."""
    shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    return shape if shape.count(-1) <= 1 else None


def _sizes_of(graph: Graph, codes: Node, linear: Node) -> list[Any]:
    """Return the sizes of a linear's result: those of its operand, but for the last."""
    sizes: list[Any] = []
    with graph.inserting_before(linear):
        for axis, size in enumerate(codes.meta["val"].shape[:-1]):
            if isinstance(size, int):
                sizes.append(size)
                continue
            node = graph.call_function(aten.sym_size.int, (codes, axis))
            node.meta["val"] = size
            sizes.append(node)
    return [*sizes, linear.meta["val"].shape[-1]]


def _only_quantize(node: Node) -> Node | None:
    """Return the quantize that is a node's only user, if it is."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is _QUANTIZE else None


def _reshape_after(graph: Graph, quantize: Node, shape: list[Any], value: Any) -> None:
    """Reshape the codes that a quantize gives; `value` is what they were for its users."""
    with graph.inserting_after(quantize):
        reshape = graph.call_function(aten.reshape.default, (quantize, shape))
    reshape.meta["val"] = value
    quantize.replace_all_uses_with(reshape, delete_user_cb=lambda user: user is not reshape)
