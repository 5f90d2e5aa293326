"""The tensors that a graph reads with get_attr, and what it computes of them alone: read, added, and removed."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.operands import is_written
from quantizer_sdk.provenance import value_of

__all__ = ["Constants", "constant_nodes", "dependencies_of", "erase_unused", "sibling"]


def constant_nodes(graph: Graph) -> set[Node]:
    """Return the nodes of one value in all runs: tensors that are never written into, and pure calls on them alone."""
    constant: set[Node] = set()
    for node in graph.nodes:
        if (node.op == "get_attr" and not is_written(node)) or _is_pure(node, constant):
            constant.add(node)
    return constant


def _is_pure(node: Node, constant: set[Node]) -> bool:
    """Whether a call computes the same value each time: no side effect, no random numbers, constants only."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    operands = node.all_input_nodes
    return bool(operands) and all(operand in constant for operand in operands)


def dependencies_of(node: Node) -> list[Node]:
    """Return the node and all that it depends on, users before producers, so that they can be erased in this order."""
    seen: set[Node] = set()
    stack, found = [node], []
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            found.append(current)
            stack.extend(current.all_input_nodes)
    return sorted(found, reverse=True)


def erase_unused(node: Node) -> list[Node]:
    """Erase a call that has no users left and, with it, all calls that only it needed.

    Returns:
        The get_attr nodes that nothing reads any more; they and their tensors stay.
    """
    waiting, constants = [node], []
    while waiting:
        unused = waiting.pop()
        if unused.users:
            continue
        if unused.op == "get_attr":
            constants.append(unused)
        elif unused.op == "call_function":
            operands = unused.all_input_nodes
            unused.graph.erase_node(unused)
            waiting.extend(operand for operand in operands if not operand.users)
    return constants


def sibling(target: str, name: str) -> str:
    """Return the path of another attribute of the module that holds `target`: "conv.bias" beside "conv.weight"."""
    path = target.rpartition(".")[0]
    return f"{path}.{name}" if path else name


@functools.lru_cache(maxsize=1024)
def _example(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor without data that tells shape and dtype, where there is no example of export's to be like."""
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


class Constants:
    """Keeps the module tree of one model in step with the get_attr nodes of its graph while a pass changes both.

    A tensor goes from the tree, and so from the state dict, with the last node that reads it: nothing float is
    left behind where only its quantized form is used.
    """

    def __init__(self, model: GraphModule) -> None:
        self._model = model
        self._readers = Counter(str(node.target) for node in model.graph.nodes if node.op == "get_attr")
        self._examples: dict[Any, torch.Tensor] = {}

    def read(self, node: Node) -> torch.Tensor:
        """Return the tensor that a get_attr node reads."""
        return self.tensor(str(node.target))

    def tensor(self, target: str) -> torch.Tensor:
        """Return the tensor of this name."""
        owner, name = self._owner(target)
        value = getattr(owner, name)
        assert isinstance(value, torch.Tensor), f"{target} is a {type(value).__name__}"
        return value

    def again(self, target: str, like: Node | None = None) -> Node:
        """Read a tensor that is there by a node of its own, at the graph's insertion point."""
        node = self._model.graph.create_node("get_attr", target)
        self._readers[target] += 1
        value = self.tensor(target)
        node.meta.update({} if like is None else like.meta)
        if "val" not in node.meta:
            node.meta["val"] = self._example_of(value, like)
        return node

    def is_tensor(self, node: Node) -> bool:
        """Whether a get_attr node reads a tensor, and not the graph of a branch or a loop."""
        owner, name = self._owner(str(node.target))
        return isinstance(getattr(owner, name), torch.Tensor)

    def compute(self, node: Node, values: dict[Node, Any]) -> torch.Tensor:
        """Return the value of one of `constant_nodes`.

        Args:
            node: The node.
            values: Takes the values of what it depends on, and spares computing those that it holds.
        """
        for current in reversed(dependencies_of(node)):
            if current in values:
                continue
            if current.op == "get_attr":
                values[current] = self.read(current).detach()
            else:
                args, kwargs = map_arg((current.args, dict(current.kwargs)), values.__getitem__)
                assert callable(current.target)
                with torch.no_grad():
                    values[current] = current.target(*args, **kwargs)
        value = values.pop(node)
        assert isinstance(value, torch.Tensor)
        return value

    def add(self, target: str, value: torch.Tensor, like: Node | None = None) -> Node:
        """Store a tensor under `target`, or that name with a number where it is taken, and read it.

        The new node comes at the graph's insertion point, with the provenance of `like`.
        """
        path, _, name = target.rpartition(".")
        owner = self._make_submodule(path)
        names = itertools.chain([name], (f"{name}_{index}" for index in itertools.count(1)))
        free = next(candidate for candidate in names if not _is_taken(owner, candidate))
        if isinstance(value, nn.Parameter):
            owner.register_parameter(free, value)
        else:
            owner._buffers[free] = value  # as register_buffer does, less its checks, which take longer than all else
        target = f"{path}.{free}" if path else free
        node = self._model.graph.create_node("get_attr", target)  # Graph.get_attr would look for it from the root again
        self._readers[target] += 1
        if like is not None:
            node.meta.update({key: item for key, item in like.meta.items() if key != "val"})
        node.meta["val"] = self._example_of(value, like)
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

    def _example_of(self, value: torch.Tensor, like: Node | None) -> torch.Tensor:
        """Return an example value as export would have left it: other libraries' quantizers ask whether it is fake.

        Equal ones are one object, for making one takes longer than making its node.
        """
        mode = None if like is None else getattr(value_of(like), "fake_mode", None)
        if mode is None:
            return _example(value.shape, value.stride(), value.dtype)
        key = (mode, value.shape, value.stride(), value.dtype, value.device)
        if key not in self._examples:
            with mode:
                self._examples[key] = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device=value.device
                )
        return self._examples[key]

    def _owner(self, target: str) -> tuple[nn.Module, str]:
        path, _, name = target.rpartition(".")
        return self._model.get_submodule(path), name

    def _make_submodule(self, path: str) -> nn.Module:
        owner: nn.Module = self._model
        for part in path.split(".") if path else ():
            child = owner._modules.get(part)
            if child is None:
                child = nn.Module()
                owner.add_module(part, child)
            owner = child
        return owner


def _is_taken(owner: nn.Module, name: str) -> bool:
    """Whether a module has an attribute; asking nn.Module itself for one that it lacks costs an exception."""
    held = (owner._buffers, owner._parameters, owner._modules, owner.__dict__)
    return any(name in names for names in held) or hasattr(type(owner), name)
