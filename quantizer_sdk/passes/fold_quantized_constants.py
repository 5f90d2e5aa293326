"""Compute the codes of quantized constants now, so that no float weight is left in the model.

Requires a graph with q/dq. Ensures: no quantize op depends on constants alone; a float weight that nothing else reads
is gone from the state dict.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, constant_nodes, dependencies_of
from quantizer_sdk.qdq import is_narrowing_cast, is_quantize

__all__ = ["drop_unused_constants", "fold_quantized_constants"]


def fold_quantized_constants(model: GraphModule) -> None:
    """Replace each quantize op that depends on constants alone by a stored tensor of its codes.

    Pure ops between the weight and its quantize op, such as a transpose, are computed as well.
    """
    constants = Constants(model)
    constant = constant_nodes(model.graph)
    folded = [node for node in model.graph.nodes if node in constant and (is_quantize(node) or is_narrowing_cast(node))]
    values: dict[Node, Any] = {}
    for node in folded:
        target = str(_origin(node).target)
        codes = constants.compute(node, values).contiguous()
        dependencies = dependencies_of(node)
        node.args = ()
        for dependency in dependencies[1:]:
            if dependency.users:
                continue
            values.pop(dependency, None)
            if dependency.op == "get_attr":
                constants.release(dependency)
            else:
                model.graph.erase_node(dependency)
        with model.graph.inserting_before(node):
            new = constants.add(target, codes, like=node)
        node.replace_all_uses_with(new)
        model.graph.erase_node(node)


def drop_unused_constants(model: GraphModule) -> None:
    """Remove tensors that nothing reads any more, such as the counter of a folded batch norm."""
    constants = Constants(model)
    for node in list(model.graph.nodes):
        constants.release(node)


def _origin(node: Node) -> Node:
    """Return the get_attr node of the float tensor whose codes a quantize op yields."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node
