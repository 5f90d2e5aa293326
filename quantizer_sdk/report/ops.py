"""Which nodes of a graph are ops to account for."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.control_flow import form_of
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import CAST_OP, CHOOSE_QPARAMS_OPS, is_dequantize, is_quantize

__all__ = ["is_op"]


def is_op(node: Node) -> bool:
    """Whether a node is an op to account for: a call that computes a tensor.

    Control flow is where the engine does not enter it; else the ops inside are.
    """
    if node.op != "call_function" or is_quantize(node) or is_dequantize(node) or form_of(node) is not None:
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target is CAST_OP or node.target in CHOOSE_QPARAMS_OPS:
        return False
    value = value_of(node)
    return value is None or _holds_tensor(value)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)
