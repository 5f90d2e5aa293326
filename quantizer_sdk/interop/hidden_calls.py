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


_KEY = "quantizer_sdk_hidden_calls"


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A hidden call: all that its node was made of."""

    target: Any
    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: dict[str, Any]


class HiddenCalls:
    """The calls that are hidden in a graph, each noted on the node that it read first.

    Args:
        model: The graph; they are hidden at once.
    """

    def __init__(self, model: GraphModule) -> None:
        self._model = model
        for node in list(model.graph.nodes):
            if node.target in DROPOUTS and node.args[0].op == "call_function" and len(node.args[0].users) == 1:
                self._hide(node)
        for node in list(model.graph.nodes):
            if node.target is _BATCH_NORM and why_never_folded(node) is None:
                self._hide(node)
        self.layers = {
            node for node in model.graph.nodes if any(call.target is _BATCH_NORM for call in node.meta.get(_KEY, ()))
        }

    def _hide(self, node: Node) -> None:
        operand = node.args[0]
        assert isinstance(operand, Node)
        call = _Call(node.target, node.args[1:], dict(node.kwargs), dict(node.meta))
        operand.meta[_KEY] = (*operand.meta.get(_KEY, ()), call)
        node.replace_all_uses_with(operand)
        self._model.graph.erase_node(node)

    def show(self) -> dict[Node, tuple[Node, ...]]:
        """Put every call back.

        A rewrite copies what an op knew to all that it writes for it: a note counts at the last node that has it.

        Returns:
            For each node that a call follows: that call and those behind it, which were hidden with it.
        """
        shown: list[Node] = []
        for norms in (True, False):  # dropouts that stand behind norms are noted on these
            seen: set[_Call] = set()
            for node in reversed(list(self._model.graph.nodes)):
                for call in reversed(node.meta.get(_KEY, ())):
                    if (call.target is _BATCH_NORM) is norms and call not in seen:
                        seen.add(call)
                        shown.append(self._show(node, call))
        for node in self._model.graph.nodes:
            node.meta.pop(_KEY, None)
        behind = set(shown)
        firsts = {node.all_input_nodes[0] for node in shown} - behind
        return {first: tuple(_chain(first, behind)) for first in firsts}

    def _show(self, operand: Node, call: _Call) -> Node:
        readers = list(operand.users)
        with self._model.graph.inserting_after(operand):
            node = self._model.graph.call_function(call.target, (operand, *call.rest), call.kwargs)
        node.meta.update(call.meta)
        for reader in readers:
            reader.replace_input_with(operand, node)
        return node


def _chain(node: Node, shown: set[Node]) -> Iterator[Node]:
    """Yield the calls put back behind a node; each is the one reader of the one before."""
    while len(node.users) == 1 and (reader := next(iter(node.users))) in shown:
        yield reader
        node = reader
