"""A run of a graph in which somebody looks at values as they are made."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk.batches import positional_inputs, says_what_misfits

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

    @torch.no_grad()
    def run_batches(self, batches: Iterable[Any]) -> None:
        """Run data through the graph, without gradients.

        Raises:
            CalibrationError: A batch is of another kind, or not what the model was exported for; names its index.
        """
        assert isinstance(self.module, GraphModule)
        for index, batch in enumerate(batches):
            with says_what_misfits(self.module, batch, index):
                self.run(*positional_inputs(self.module, batch, index))
