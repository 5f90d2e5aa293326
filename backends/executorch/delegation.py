"""What of a lowered program a delegate took, and the operators that it left to the portable runtime."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backend import Delegation, source_line
from quantizer_sdk.backends.executorch.importing import importing

__all__ = ["delegation_of"]


def delegation_of(graph_module: GraphModule) -> Delegation:
    """Count what was delegated. Operators only: neither the delegate's own calls nor the unpacking of their results.

    Args:
        graph_module: Of the edge program, after partitioning and before `to_executorch`.
    """
    with importing():
        from executorch.exir.lowered_backend_module import LoweredBackendModule

    lowered = [module for module in graph_module.modules() if isinstance(module, LoweredBackendModule)]
    delegated = sum(len(_operators(module.original_module.graph_module)) for module in lowered)
    left = _operators(graph_module)
    return Delegation(
        subgraphs=len(lowered),
        delegated=delegated,
        non_delegated=tuple(getattr(node.target, "__name__", str(node.target)) for node in left),
        sources=tuple(source_line(node) for node in left),
    )


def _operators(graph_module: GraphModule) -> list[Node]:
    """Return the calls of operators ("aten.erf.default") in order, those in branches of control flow last."""
    passed_over = (operator.getitem, torch.ops.higher_order.executorch_call_delegate)
    graphs = [module.graph for module in graph_module.modules() if isinstance(module, GraphModule)]
    calls = [node for graph in graphs for node in graph.nodes if node.op == "call_function"]
    return [node for node in calls if node.target not in passed_over]
