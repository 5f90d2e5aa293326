"""A run of a graph in which somebody looks at values as they are made."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from torch.fx import GraphModule, Interpreter, Node

__all__ = ["WatchedRun"]


class WatchedRun(Interpreter):
    """Runs a graph and hands out the values of some nodes, each right after it is made.

    Args:
        model: The graph.
        wanted: The nodes.
        look: Takes a node and its value.
    """

    def __init__(self, model: GraphModule, wanted: Container[Node], look: Callable[[Node, Any], None]) -> None:
        super().__init__(model)
        self._wanted = wanted
        self._look = look

    def run_node(self, n: Node) -> Any:
        """Run one node, and hand out its value if it is wanted."""
        value = super().run_node(n)
        if n in self._wanted:
            self._look(n, value)
        return value
