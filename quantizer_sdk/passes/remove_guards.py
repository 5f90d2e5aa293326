"""Remove the call of export's input guards, which no backend can lower, for good or until it is put back.

Requires any graph. Ensures: no node reads `_guards_fn`; exporting the model again makes new guards.
`put_guards` ensures that they check the inputs themselves again, whatever became of the graph meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule

__all__ = ["GUARDS", "Guards", "put_guards", "remove_guards", "take_guards"]

GUARDS = "_guards_fn"


def remove_guards(model: GraphModule) -> None:
    """Erase the guards' call and module; export's pre-hook then checks a part of the same."""
    for node in list(model.graph.nodes):
        if node.op == "call_module" and node.target == GUARDS:
            model.graph.erase_node(node)
    if hasattr(model, GUARDS):
        delattr(model, GUARDS)


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards of a model that are hidden: their module, and the inputs that it checks, by position."""

    module: nn.Module
    inputs: tuple[int, ...]


def take_guards(model: GraphModule) -> Guards | None:
    """Hide the guards of a model; return None where there are none that check inputs alone.

    Quantizers of other libraries run passes on the graph that know no call of a module.
    """
    calls = [node for node in model.graph.nodes if node.op == "call_module" and node.target == GUARDS]
    positions = {node: index for index, node in enumerate(model.graph.find_nodes(op="placeholder"))}
    if len(calls) != 1 or not all(operand in positions for operand in calls[0].args):
        return None
    guards = Guards(model.get_submodule(GUARDS), tuple(positions[operand] for operand in calls[0].args))
    remove_guards(model)
    return guards


def put_guards(model: GraphModule, guards: Guards) -> None:
    """Put hidden guards back, unless the model has fewer inputs now."""
    inputs = list(model.graph.find_nodes(op="placeholder"))
    if max(guards.inputs, default=0) >= len(inputs):
        return
    model.add_module(GUARDS, guards.module)
    with model.graph.inserting_after(inputs[-1]):
        model.graph.call_module(GUARDS, tuple(inputs[index] for index in guards.inputs))
