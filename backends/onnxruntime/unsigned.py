"""Make activations of int8 codes uint8, exactly: 128 more on codes, ends and zero points.

ONNX Runtime's kernels on x86 multiply uint8 by int8; int8 activations fuse in some places only, and some sessions with
them do not load. Requires a functional graph with shapes. Ensures that every quantize that is computed at run time, per
tensor, gives uint8, and that the model takes and returns what it did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from quantizer_sdk.backends.onnxruntime.exported import ExportedGraph, arguments

__all__ = ["use_unsigned_activations"]

aten = torch.ops.aten
qd = torch.ops.quantized_decomposed

_SHIFT = 128
_STATIC = (qd.quantize_per_tensor.default, qd.dequantize_per_tensor.default)
_RUN_TIME = (qd.quantize_per_tensor.tensor, qd.dequantize_per_tensor.tensor)
_CHOOSE = (qd.choose_qparams.tensor, qd.choose_qparams_symmetric.tensor)


def use_unsigned_activations(exported: ExportedGraph) -> None:
    """Rewrite the graph in place."""
    graph = exported.graph
    for target in _CHOOSE:
        for choose in graph.find_nodes(op="call_function", target=target):
            x, low, high, eps, dtype = choose.args
            if dtype is torch.int8 and _all_static_uses(choose):
                choose.args = (x, low + _SHIFT, high + _SHIFT, eps, torch.uint8)
    unsigned: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.target in {_STATIC[0], _RUN_TIME[0]} and arguments(node)["dtype"] is torch.int8:
            _shift(exported, node)
            node.meta["val"] = node.meta["val"].to(torch.uint8)
            _give_others_signed(graph, node)
    for node in list(graph.nodes):
        if node.target in {_STATIC[1], _RUN_TIME[1]} and arguments(node)["dtype"] is torch.int8:
            codes = node.args[0]
            if codes in exported.constants:
                continue
            if codes.meta["val"].dtype is torch.int8:
                if codes not in unsigned:
                    unsigned[codes] = _moved(graph, codes, codes, _SHIFT, torch.uint8)
                node.replace_input_with(codes, unsigned[codes])
            _shift(exported, node)


def _all_static_uses(choose: Node) -> bool:
    """Whether the results of a choice go to quantizes and dequantizes of one tensor only."""
    return all(use.target in _RUN_TIME for result in choose.users for use in result.users)


def _shift(exported: ExportedGraph, node: Node) -> None:
    """Make a quantize or dequantize that of uint8 codes."""
    codes, scale, zero_point, low, high, _ = node.args
    if isinstance(zero_point, Node):
        chosen = zero_point.args[0] if zero_point.args else None
        is_moved = isinstance(chosen, Node) and chosen.target in _CHOOSE and chosen.args[4] is torch.uint8
        if not is_moved:
            zero_point = _shifted_zero_point(exported, node, zero_point)
    else:
        zero_point += _SHIFT  # type: ignore[operator]  # a number, as the op's schema has it
    node.args = (codes, scale, zero_point, low + _SHIFT, high + _SHIFT, torch.uint8)  # type: ignore[operator]


def _shifted_zero_point(exported: ExportedGraph, node: Node, zero_point: Node) -> Node:
    stored = exported.constants.get(zero_point)
    if stored is not None:
        return exported.add_constant(f"{zero_point.name}_unsigned", stored.to(torch.int32) + _SHIFT)
    return _moved(exported.graph, node.prev, zero_point, _SHIFT, torch.int64)


def _give_others_signed(graph: Graph, quantize: Node) -> None:
    """Let what is no dequantize of the codes, such as the model's output, have them as they were."""
    others = [user for user in quantize.users if user.target not in {_STATIC[1], _RUN_TIME[1]}]
    if others:
        signed = _moved(graph, quantize, quantize, -_SHIFT, torch.int8)
        for user in others:
            user.replace_input_with(quantize, signed)


def _moved(graph: Graph, after: Node, codes: Node, shift: int, dtype: torch.dtype) -> Node:
    """Add a number to codes, in int32, which has room for it."""
    steps: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (aten.to.dtype, (torch.int32,)),
        (aten.add.Tensor, (shift,)),
        (aten.to.dtype, (dtype,)),
    )
    value = codes
    for target, rest in steps:
        with graph.inserting_after(after):
            after = graph.call_function(target, (value, *rest))
        after.meta["val"] = target(value.meta["val"], *rest)
        value = after
    return value
