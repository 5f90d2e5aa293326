"""Calls and constants that a normal form adds to a graph, with the example values that export would have left."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

__all__ = ["add_call", "add_constant", "constant_of"]


def add_call(target: torch._ops.OpOverload, *arguments: Any, like: Node, **keywords: Any) -> Node:
    """Add a call at the graph's insertion point.

    Args:
        target: What it calls.
        *arguments: Its positional arguments.
        like: The node whose provenance it takes.
        **keywords: Its keyword arguments, such as the type of what a dequantize gives.
    """
    node = like.graph.call_function(target, arguments, keywords)
    node.meta.update({key: item for key, item in like.meta.items() if key not in {"val", "tensor_meta"}})
    operands = node.all_input_nodes
    if all(isinstance(operand.meta.get("val"), torch.Tensor) for operand in operands):
        node.meta["val"] = target(*map_arg(arguments, lambda operand: operand.meta["val"]), **keywords)
    return node


def constant_of(model: GraphModule, node: Any) -> torch.Tensor | None:
    """Return the tensor that a get_attr node reads; None for anything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    value = getattr(model.get_submodule(path), name)
    return value.detach() if isinstance(value, torch.Tensor) else None


def add_constant(model: GraphModule, like: Node, value: torch.Tensor, suffix: str) -> Node:
    """Store a tensor as a buffer beside that of the get_attr node `like`, and read it before the first use of that.

    Its name is that of the other with a suffix, and a number where that is taken.
    """
    path, _, name = str(like.target).rpartition(".")
    owner: nn.Module = model.get_submodule(path)
    stem = f"{name}_{suffix}"
    names = itertools.chain([stem], (f"{stem}_{index}" for index in itertools.count(1)))
    free = next(candidate for candidate in names if not hasattr(owner, candidate))
    owner.register_buffer(free, value)
    with model.graph.inserting_after(like):
        node = model.graph.create_node("get_attr", f"{path}.{free}" if path else free)
    node.meta.update({key: item for key, item in like.meta.items() if key not in {"val", "tensor_meta"}})
    mode = getattr(like.meta.get("val"), "fake_mode", None)
    if mode is not None:
        with mode:
            node.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return node
