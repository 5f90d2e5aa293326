"""What of a lowered program a delegate took, and the operators that it left to the portable runtime."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation
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
    return Delegation(subgraphs=len(lowered), delegated=delegated, non_delegated=_operators(graph_module))


def _operators(graph_module: GraphModule) -> tuple[str, ...]:
    """Name the operators that a graph calls, in order ("aten.erf.default"), those in branches of control flow last."""
    passed_over = (operator.getitem, torch.ops.higher_order.executorch_call_delegate)
    graphs = [module.graph for module in graph_module.modules() if isinstance(module, GraphModule)]
    targets = [node.target for graph in graphs for node in graph.nodes if node.op == "call_function"]
    return tuple(getattr(target, "__name__", str(target)) for target in targets if target not in passed_over)
