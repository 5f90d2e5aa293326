"""Take the calls that only training has out of a graph, and put them back as they were: batch norms and dropouts.

Requires an exported graph. Ensures: while they are hidden the graph looks as it will in inference; then it is the
original graph again, changed only by what was done to it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.passes.fold_batch_norm import why_never_folded
from quantizer_sdk.passes.training_mode import DROPOUTS

__all__ = ["HiddenCalls"]

_BATCH_NORM = torch.ops.aten.batch_norm.default


@dataclass(frozen=True, slots=True)
class _Call:
    """A hidden call: all that its node was made of, and the node that it read first."""

    operand: Node
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: dict[str, Any]
    node: Node

    @property
    def is_norm(self) -> bool:
        """Whether it is a batch norm."""
        return self.target is _BATCH_NORM


class HiddenCalls:
    """The calls that are hidden in a graph.

    Args:
        model: The graph; they are hidden at once.
    """

    def __init__(self, model: GraphModule) -> None:
        self._model = model
        self._hidden: list[_Call] = []
        for node in list(model.graph.nodes):
            if node.target in DROPOUTS and node.args[0].op == "call_function" and len(node.args[0].users) == 1:
                self._hide(node)
        for node in list(model.graph.nodes):
            if node.target is _BATCH_NORM and why_never_folded(node) is None:
                self._hide(node)

    def _hide(self, node: Node) -> None:
        operand = node.args[0]
        assert isinstance(operand, Node)
        self._hidden.append(_Call(operand, node.target, node.args, dict(node.kwargs), dict(node.meta), node))
        node.replace_all_uses_with(operand)
        self._model.graph.erase_node(node)

    @property
    def layers(self) -> set[Node]:
        """The layers whose batch norm is hidden."""
        return {call.operand for call in self._hidden if call.is_norm}

    def show(self) -> dict[Node, tuple[Node, ...]]:
        """Put every call back.

        Returns:
            For each node that a call follows: that call and those behind it, which were hidden with it.
        """
        again: dict[Node, Node] = {}
        for call in reversed(self._hidden):  # norms stand before dropouts
            operand = again.get(call.operand, call.operand)
            readers = list(operand.users)
            with self._model.graph.inserting_after(operand):
                node = self._model.graph.call_function(call.target, (operand, *call.args[1:]), call.kwargs)
            node.meta.update(call.meta)
            for reader in readers:
                reader.replace_input_with(operand, node)
            again[call.node] = node
        shown = set(again.values())
        return {call.operand: tuple(_chain(call.operand, shown)) for call in self._hidden if call.operand not in again}


def _chain(node: Node, shown: set[Node]) -> Iterator[Node]:
    """Yield the calls put back behind a node; each is the one reader of the one before."""
    while len(node.users) == 1 and (reader := next(iter(node.users))) in shown:
        yield reader
        node = reader
