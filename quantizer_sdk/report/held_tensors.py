"""The constant tensors that the nodes of a model hold, through the operands of control flow too."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import form_of, graphs_of

__all__ = ["HeldTensors"]


class HeldTensors:
    """Tensors by the nodes that stand for them, in a model and in all graphs inside it.

    Args:
        model: A graph of any stage.
    """

    def __init__(self, model: GraphModule) -> None:
        self._tensors: dict[Node, torch.Tensor] = {}
        given: dict[int, list[torch.Tensor | None]] = {}
        for _path, graph in graphs_of(model):  # outer graphs before inner ones
            self._collect(graph, given.get(id(graph), []))
            for call in graph.graph.nodes:
                form = form_of(call)
                if form is None:
                    continue
                closure = [self.of(node) if isinstance(node, Node) else None for node in form.closure_of(call)]
                for attribute in form.graph_nodes(call):
                    given[id(graph.get_submodule(str(attribute.target)))] = closure

    def of(self, node: object) -> torch.Tensor | None:
        """Return the tensor that a node stands for, where it is one for all runs."""
        return self._tensors.get(node) if isinstance(node, Node) else None

    def _collect(self, graph: GraphModule, closure: list[torch.Tensor | None]) -> None:
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        if closure:
            pairs = zip(places[-len(closure) :], closure, strict=False)  # the last placeholders take the closure
            self._tensors.update({place: tensor for place, tensor in pairs if tensor is not None})
        owners: dict[str, object] = {}
        for node in graph.graph.nodes:
            if node.op != "get_attr":
                continue
            path, _, name = str(node.target).rpartition(".")
            if path not in owners:
                owners[path] = graph.get_submodule(path)
            value = getattr(owners[path], name)
            if isinstance(value, torch.Tensor):
                self._tensors[node] = value
