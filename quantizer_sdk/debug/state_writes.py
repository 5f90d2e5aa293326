"""Which ops write into what outlives a run."""

from __future__ import annotations

import torch
from torch.fx import Node

from quantizer_sdk.operands import argument

__all__ = ["writes_state"]


def writes_state(node: Node) -> bool:
    """Whether an op writes in place into what outlives a run: a buffer, or an input."""
    if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
        return False
    while (viewed := _viewed(node)) is not None:
        node = viewed
    return node.op in {"get_attr", "placeholder"}


def _viewed(node: Node) -> Node | None:
    """Return the operand whose memory an op's result is; None where it has its own."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    names = [item.name for item in node.target._schema.arguments if item.alias_info is not None]
    values = [argument(node, name) for name in names]
    return next((it for it in values if isinstance(it, Node)), None)
