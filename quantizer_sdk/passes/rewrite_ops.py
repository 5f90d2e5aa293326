"""Rewrite ops that a backend has no integer kernel for as others that it has, if these will be quantized.

Requires a graph with the example values of torch.export. Ensures: an op is replaced only if every op that computes in
its place is accepted; otherwise the graph is as it was.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, erase_unused
from quantizer_sdk.decision import absorb
from quantizer_sdk.match import is_constant
from quantizer_sdk.passes.call_before import call_before
from quantizer_sdk.provenance import value_of

__all__ = ["Replacement", "Rewrite", "rewrite_ops"]


class Replacement:
    """What is to take the place of one op: nodes before it, each with the op's provenance and its own example value.

    Args:
        model: The graph.
        constants: Its tensors.
        node: The op.
    """

    def __init__(self, model: GraphModule, constants: Constants, node: Node) -> None:
        self._model = model
        self._constants = constants
        self._node = node
        self.made: list[Node] = []

    def call(self, target: torch._ops.OpOverload, *args: Any) -> Node:
        """Append a call of an overload."""
        made = call_before(self._node, target, *args)
        self.made.append(made)
        return made

    def constant(self, value: torch.Tensor, like: Node) -> Node:
        """Append a tensor, of the dtype and on the device of `like`'s."""
        example = value_of(like)
        with self._model.graph.inserting_before(self._node):
            made = self._constants.add(f"{self._node.name}_constant", value.to(example), like=like)
        self.made.append(made)
        return made

    def tensor(self, node: Node | None) -> torch.Tensor | None:
        """Return the tensor that a node reads; None if it is none of the model's own."""
        return self._constants.read(node).detach() if node is not None and node.op == "get_attr" else None

    def close(self) -> None:
        """Erase the op, and the constants and sizes that only it read."""
        operands = self._node.all_input_nodes
        self._node.graph.erase_node(self._node)
        for operand in operands:
            if is_constant(operand) or operand.target is torch.ops.aten.sym_size.int:
                for constant in erase_unused(operand):
                    self._constants.release(constant)

    def withdraw(self) -> None:
        """Erase what was appended."""
        for made in reversed(self.made):
            if made.op == "get_attr":
                self._constants.release(made)
            else:
                self._model.graph.erase_node(made)


Build: TypeAlias = "Callable[[Replacement, Node], Node | Sequence[Node] | None]"
"""Appends what an op is rewritten as and returns the result, one for each of several; None where it does not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One way to write ops otherwise.

    Attributes:
        name: Names it in docs and test ids.
        targets: The overloads that it rewrites.
        build: Makes the form that takes the op's place.
        moves: Whether it adds nothing but moves of elements, so that it costs nothing among float ops either.
        gemm: Whether its result is a layer by constant weights, which is worth its conversions among float ops too.
        inference_only: Whether it takes what training changes for constants.
    """

    name: str
    targets: frozenset[torch._ops.OpOverload]
    build: Build
    moves: bool = False
    gemm: bool = False
    inference_only: bool = False


def rewrite_ops(
    model: GraphModule,
    rewrites: Iterable[Rewrite],
    accepts: Callable[[Node], bool],
    applies: Callable[[Rewrite, Node], bool] = lambda _rewrite, _node: True,
) -> None:
    """Apply rewrites to all ops of a graph, in graph order.

    Args:
        model: The graph.
        rewrites: The first that applies is taken.
        accepts: Whether a node is an op that will be quantized.
        applies: Whether a rewrite may be tried on a node.
    """
    constants = Constants(model)
    by_target: dict[torch._ops.OpOverload, list[Rewrite]] = {}
    for rewrite in rewrites:
        for target in rewrite.targets:
            by_target.setdefault(target, []).append(rewrite)
    for node in list(model.graph.nodes):
        for rewrite in by_target.get(node.target, ()):
            fits = _has_float_result(node) and not _written_elsewhere(node) and applies(rewrite, node)
            if fits and _replaced(Replacement(model, constants, node), rewrite, node, accepts):
                break


def _replaced(replacement: Replacement, rewrite: Rewrite, node: Node, accepts: Callable[[Node], bool]) -> bool:
    result = rewrite.build(replacement, node)
    computing = [made for made in replacement.made if made.op == "call_function" and not is_constant(made)]
    if result is None or not computing or not all(accepts(made) for made in computing):
        replacement.withdraw()
        return False
    absorb(computing[0], node, "written as")
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])  # type: ignore[index]
            node.graph.erase_node(user)
    replacement.close()
    return True


def _has_float_result(node: Node) -> bool:
    """Whether an op gives float tensors that are read as such: getitem alone reads several."""
    value = value_of(node)
    if isinstance(value, (list, tuple)):
        unpacked = all(user.target is operator.getitem for user in node.users)
        return unpacked and all(isinstance(part, torch.Tensor) and part.is_floating_point() for part in value)
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _written_elsewhere(node: Node) -> bool:
    """Whether an op writes into a tensor that others read too, who would miss the write."""
    assert isinstance(node.target, torch._ops.OpOverload)
    if not node.target._schema.is_mutable:
        return False
    (operand, *_) = node.all_input_nodes
    return len(operand.users) > 1 or operand.op != "call_function"
