"""A graph run op by op on several inputs at once, so that what comes later can depend on what all of them give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.fx import GraphModule, Interpreter, Node

__all__ = ["AbreastRun"]


class AbreastRun:
    """One run of a graph on all inputs abreast; iterating yields each node with its value for each input.

    Whoever iterates may put other values into the list: those are what later nodes read. What no later node reads is
    freed.

    Args:
        model: The graph.
        inputs: Positional inputs, as `positional_inputs` returns them.
    """

    def __init__(self, model: GraphModule, inputs: Sequence[tuple[Any, ...]]) -> None:
        self._graph = model.graph
        self._runs = [Interpreter(model) for _ in inputs]
        for run, given in zip(self._runs, inputs, strict=True):
            run.args_iter = iter(model.graph.process_inputs(*given))

    def __len__(self) -> int:
        return len(self._graph.nodes)

    def __iter__(self) -> Iterator[tuple[Node, list[Any]]]:
        for node in self._graph.nodes:
            values = [run.run_node(node) for run in self._runs]
            yield node, values
            for run, value in zip(self._runs, values, strict=True):
                run.env[node] = value
                for unread in run.user_to_last_uses.get(node, ()):
                    del run.env[unread]

    def operands(self, node: Node) -> list[Any]:
        """Return the values of a node that the current one reads."""
        return [run.env[node] for run in self._runs]

    def again(self, node: Node, operand: Node, value: Any) -> list[Any]:
        """Return what the current node gives with another value of one operand."""
        for run in self._runs:
            run.env[operand] = value
        return [run.run_node(node) for run in self._runs]
