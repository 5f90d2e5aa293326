"""Put an observer at every point of a plan.

Requires an exported graph and the plan made of its annotations. Ensures: points of one group call the same module;
a consumer reads its producer through the observer of their edge; the annotations, now spent, are gone.
"""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.observers.derived import is_derived
from quantizer_sdk.spec import ANNOTATION_KEY, EdgeOrNode

__all__ = ["OBSERVER_PREFIX", "insert_observers"]

OBSERVER_PREFIX = "activation_post_process_"


def insert_observers(model: GraphModule, observer_of: dict[EdgeOrNode, nn.Module]) -> None:
    """Insert `observer_of[point]` at each point, in the order of the plan."""
    names = _name_modules(model, observer_of)
    nodes = list(model.graph.nodes)
    last_placeholder = next((node for node in reversed(nodes) if node.op == "placeholder"), None)
    for node in nodes:
        users = [user for user in node.users if user.op != "call_module"]  # export's guards see the raw inputs
        anchor = last_placeholder if node.op == "placeholder" else node
        assert anchor is not None
        source, own = node, observer_of.get(node)
        if own is not None:
            source = anchor = _observe(model, anchor, node, names[own])
            for user in users:
                user.replace_input_with(node, source)
        made: dict[nn.Module, Node] = {} if own is None else {own: source}
        for user in users:
            observer = observer_of.get((node, user))
            if observer is None:
                continue
            if is_derived(observer):  # runs after its sources have, which may stand anywhere before this user
                with model.graph.inserting_before(user):
                    user.replace_input_with(source, _call(model, source, names[observer]))
                continue
            if observer not in made:
                made[observer] = anchor = _observe(model, anchor, source, names[observer])
            user.replace_input_with(source, made[observer])
    for node in nodes:
        node.meta.pop(ANNOTATION_KEY, None)


def _observe(model: GraphModule, anchor: Node, tensor: Node, name: str) -> Node:
    with model.graph.inserting_after(anchor):
        return _call(model, tensor, name)


def _call(model: GraphModule, tensor: Node, name: str) -> Node:
    call = model.graph.call_module(name, (tensor,))
    if "val" in tensor.meta:
        call.meta["val"] = tensor.meta["val"]
    return call


def _name_modules(model: GraphModule, observer_of: dict[EdgeOrNode, nn.Module]) -> dict[nn.Module, str]:
    """Register every observer once, numbered in the order of the plan."""
    names: dict[nn.Module, str] = {}
    for observer in observer_of.values():
        if observer not in names:
            names[observer] = f"{OBSERVER_PREFIX}{len(names)}"
            model.add_module(names[observer], observer)
    return names
