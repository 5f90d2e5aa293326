"""Dissolve regions that only switch gradients on or off, or only group ops: matchers see through them.

Requires an exported or a converted graph. Ensures: no call of such a region is left. What computes the same values with
and without gradients needs no boundary in a model that is not trained.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.control_flow import graphs_of, run_with_grad

__all__ = ["inline_regions"]

# By name in torch.ops.higher_order: the positions of the graph and of its first operand.
_REGIONS = {"wrap_with_set_grad_enabled": (1, 2), "invoke_subgraph": (0, 2)}


def inline_regions(model: GraphModule) -> None:
    """Inline all regions of a graph, those within regions and those in branches of control flow too."""
    changed = True
    while changed:  # a region may hold another: as many rounds as they are deep
        changed = False
        for _path, graph in list(graphs_of(model)):
            for node in list(graph.graph.nodes):
                position = _position(node)
                if position is not None:
                    _inline(graph, node, *position)
                    changed = True
    for _path, graph in graphs_of(model):
        _drop_unused(graph)


def _position(node: Node) -> tuple[int, int] | None:
    if node.op != "call_function":
        return None
    if node.target is run_with_grad:
        return _REGIONS["wrap_with_set_grad_enabled"]
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return None
    return _REGIONS.get(node.target.__name__)


def _inline(model: GraphModule, call: Node, graph_at: int, operands_at: int) -> None:
    attribute = call.args[graph_at]
    assert isinstance(attribute, Node)
    inner = model.get_submodule(str(attribute.target))
    assert isinstance(inner, GraphModule)
    copies: dict[Node, Any] = {}
    operands = iter(call.args[operands_at:])
    with model.graph.inserting_before(call):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(operands)
            elif node.op == "output":
                results = map_arg(node.args[0], copies.__getitem__)
            else:
                copies[node] = model.graph.node_copy(node, copies.__getitem__)
                if node.op in {"get_attr", "call_module"}:  # its name starts at the inner module
                    copies[node].target = f"{attribute.target}.{node.target}"
    _replace_results(model, call, results)
    model.graph.erase_node(call)
    if not attribute.users:
        model.graph.erase_node(attribute)


def _replace_results(model: GraphModule, call: Node, results: Any) -> None:
    """Let the readers of a region's results read those of the copied nodes; each takes the tuple apart by getitem."""
    if isinstance(results, Node):
        call.replace_all_uses_with(results)
        return
    for user in list(call.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])
        model.graph.erase_node(user)


def _drop_unused(model: GraphModule) -> None:
    """Remove the graphs of regions that nothing runs any more; what they hold for others stays, in plain modules."""
    used = {str(node.target) for node in model.graph.nodes if node.op in {"get_attr", "call_module"}}
    holders = {target.partition(".")[0] for target in used} - used
    for name, child in list(model.named_children()):
        if not isinstance(child, GraphModule) or name in used:
            continue
        delattr(model, name)
        if name in holders:
            holder = nn.Module()
            holder._modules.update(child._modules)
            model.add_module(name, holder)
