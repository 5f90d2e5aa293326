"""A call put before the op that it stands for, or for a part of it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from quantizer_sdk.provenance import ORIGIN_KEY, origin_of, value_of

__all__ = ["call_before"]


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
