"""Move the constants that graphs of control flow are given as operands into these graphs, and back.

`sink_constants` requires an exported graph. It ensures that a tensor which is one for all runs is read by a get_attr
node in the very graph that uses it, so that every pass treats a weight in a branch as it treats any other.
`lift_constants` requires a graph of any stage. It ensures what torch.export requires: inner graphs hold no tensors.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.control_flow import ControlFlow, form_of, inner_graphs
from quantizer_sdk.operands import is_written

__all__ = ["lift_constants", "sink_constants"]


def sink_constants(model: GraphModule) -> None:
    """Sink all constants as far as they go. A graph run by several calls keeps its operands."""
    calls = [(node, form) for node in model.graph.nodes if (form := form_of(node)) is not None]
    constants = Constants(model)
    for call, form in calls:
        if all(len(attribute.users) == 1 for attribute in form.graph_nodes(call)):
            _sink(model, constants, call, form)
    for _name, graph in inner_graphs(model):
        sink_constants(graph)


def _sink(model: GraphModule, constants: Constants, call: Node, form: ControlFlow) -> None:
    graphs = [(graph, Constants(graph), _placeholders(graph)) for graph in _graphs(model, call, form)]
    operands = form.closure_of(call)
    kept, sunk = [], set()
    for index, operand in enumerate(operands, start=-len(operands)):  # the last placeholders take the closure
        places = [placeholders[index] for _graph, _inside, placeholders in graphs]
        if not _is_constant(operand) or any(is_written(place) for place in places):
            kept.append(operand)
            continue
        for graph, inside, placeholders in graphs:
            place = placeholders[index]
            sunk.add(place)
            if place.users:
                with graph.graph.inserting_after(placeholders[-1]):  # where placeholders may follow when it is lifted
                    node = inside.add(str(operand.target), constants.read(operand), like=operand)
                node.meta["val"] = place.meta.get("val", node.meta["val"])
                place.replace_all_uses_with(node)
    for graph, _inside, placeholders in graphs:
        for place in placeholders:
            if place in sunk:
                graph.graph.erase_node(place)
    form.set_closure(call, kept)
    for operand in operands:
        constants.release(operand if isinstance(operand, Node) else None)


def _is_constant(operand: object) -> bool:
    return isinstance(operand, Node) and operand.op == "get_attr" and not is_written(operand)


def lift_constants(model: GraphModule) -> None:
    """Lift all constants to the outermost graph."""
    for _name, graph in inner_graphs(model):
        lift_constants(graph)
    calls = [(node, form) for node in model.graph.nodes if (form := form_of(node)) is not None]
    constants = Constants(model) if calls else None
    for call, form in calls:
        assert constants is not None
        _lift(model, constants, call, form)


def _lift(model: GraphModule, constants: Constants, call: Node, form: ControlFlow) -> None:
    graphs, closure = _graphs(model, call, form), form.closure_of(call)
    lifted: dict[torch.Tensor, list[Node]] = {}  # its placeholder in each graph; torch.export takes no operand twice
    for position, graph in enumerate(graphs):
        inside = Constants(graph)
        for node in list(graph.graph.nodes):
            if node.op != "get_attr" or not inside.is_tensor(node):
                continue
            tensor, target = inside.read(node), str(node.target)
            if tensor not in lifted:
                with model.graph.inserting_before(call):
                    closure.append(constants.add(target, tensor, like=node))
                lifted[tensor] = [_add_placeholder(other, target, node) for other in graphs]
            node.replace_all_uses_with(lifted[tensor][position])
            inside.release(node)
    form.set_closure(call, closure)


def _add_placeholder(graph: GraphModule, target: str, like: Node) -> Node:
    last = _placeholders(graph)[-1:]
    first = next(iter(graph.graph.nodes))
    with graph.graph.inserting_after(last[0]) if last else graph.graph.inserting_before(first):
        place = graph.graph.placeholder("p_" + target.replace(".", "_"))
    place.target = place.name  # a name used up already got a number, which the argument needs too
    place.meta.update({key: value for key, value in like.meta.items() if key == "val"})
    return place


def _graphs(model: GraphModule, call: Node, form: ControlFlow) -> list[GraphModule]:
    graphs = [model.get_submodule(str(attribute.target)) for attribute in form.graph_nodes(call)]
    assert all(isinstance(graph, GraphModule) for graph in graphs)
    return graphs  # type: ignore[return-value]


def _placeholders(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]
