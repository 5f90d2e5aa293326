"""A call in the place of the op that it stands for, or of a part of it: before it, or under its own name."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from quantizer_sdk.provenance import ORIGIN_KEY, origin_of, value_of

__all__ = ["call_before", "retarget"]


def call_before(origin: Node, target: torch._ops.OpOverload, *args: Any) -> Node:
    """Insert a call before a node, with that node's provenance and an example value of its own.

    Args:
        origin: The node.
        target: The overload to call.
        *args: Its arguments; nodes among them have example values.
    """
    with origin.graph.inserting_before(origin):
        made = origin.graph.call_function(target, args)
    made.meta.update(origin.meta)
    made.meta[ORIGIN_KEY] = origin_of(origin)
    made.meta["val"] = target(*map_arg(args, value_of))
    return made


def retarget(node: Node, target: torch._ops.OpOverload, args: tuple[Any, ...]) -> None:
    """Let a node call another overload, under its name and with its provenance; its example value stays.

    Args:
        node: The node.
        target: The overload to call.
        args: Its arguments.
    """
    node.meta[ORIGIN_KEY] = origin_of(node)
    node.meta.pop("tensor_meta", None)
    node.target, node.args, node.kwargs = target, args, {}
