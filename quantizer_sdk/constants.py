"""The tensors that a graph reads with get_attr: added, and removed with their last reader."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.provenance import describe

__all__ = ["Constants"]


class Constants:
    """Keeps the module tree of one model in step with the get_attr nodes of its graph while a pass changes both.

    A tensor goes from the tree, and so from the state dict, with the last node that reads it: nothing float is
    left behind where only its quantized form is used.
    """

    def __init__(self, model: GraphModule) -> None:
        self._model = model
        self._readers = Counter(str(node.target) for node in model.graph.nodes if node.op == "get_attr")

    def read(self, node: Node) -> torch.Tensor:
        """Return the tensor that a get_attr node reads."""
        owner, name = self._owner(str(node.target))
        value = getattr(owner, name)
        assert isinstance(value, torch.Tensor), f"{describe(node)} reads a {type(value).__name__}"
        return value

    def add(self, target: str, value: torch.Tensor, like: Node | None = None) -> Node:
        """Store a tensor under `target`, or that name with a number where it is taken, and read it.

        The new node comes at the graph's insertion point, with the provenance of `like` and an example value in the
        same fake mode as that of `like`.
        """
        path, _, name = target.rpartition(".")
        owner = self._make_submodule(path)
        names = itertools.chain([name], (f"{name}_{index}" for index in itertools.count(1)))
        free = next(candidate for candidate in names if not hasattr(owner, candidate))
        if isinstance(value, nn.Parameter):
            owner.register_parameter(free, value)
        else:
            owner.register_buffer(free, value)
        target = f"{path}.{free}" if path else free
        node = self._model.graph.get_attr(target)
        self._readers[target] += 1
        example: Any = None
        if like is not None:
            node.meta.update({key: item for key, item in like.meta.items() if key != "val"})
            example = like.meta.get("val")
        node.meta["val"] = (
            example.new_empty(value.shape, dtype=value.dtype) if isinstance(example, torch.Tensor) else value.detach()
        )
        return node

    def release(self, node: Node | None) -> None:
        """Erase a get_attr node that has no users left, and its tensor with the last such node."""
        if node is None or node.op != "get_attr" or node.users:
            return
        target = str(node.target)
        node.graph.erase_node(node)
        self._readers[target] -= 1
        if self._readers[target] == 0:
            owner, name = self._owner(target)
            delattr(owner, name)

    def _owner(self, target: str) -> tuple[nn.Module, str]:
        path, _, name = target.rpartition(".")
        return self._model.get_submodule(path), name

    def _make_submodule(self, path: str) -> nn.Module:
        owner: nn.Module = self._model
        for part in path.split(".") if path else ():
            child = getattr(owner, part, None)
            if child is None:
                child = nn.Module()
                owner.add_module(part, child)
            owner = child
        return owner
