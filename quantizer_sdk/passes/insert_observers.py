"""Put an observer at every point of a plan.

Requires an exported graph and the plan made of its annotations. Ensures: points of one group call the same module;
a consumer reads its producer through the observer of their edge; what is written in place stays the tensor itself
for whoever writes; the annotations, now spent, are gone.
"""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.derived import is_derived
from quantizer_sdk.operands import argument, overwriting_users
from quantizer_sdk.spec import ANNOTATION_KEY, EdgeOrNode

__all__ = ["OBSERVER_PREFIX", "insert_observers", "moves"]

OBSERVER_PREFIX = "activation_post_process_"

_ATEN = torch.ops.aten

# Ops whose results hold values of their operands alone, or zeros, which are in every range.
_MOVES = frozenset(
    (
        *(_ATEN.view, _ATEN.reshape, _ATEN._unsafe_view, _ATEN.flatten, _ATEN.unflatten, _ATEN.squeeze),
        *(_ATEN.unsqueeze, _ATEN.permute, _ATEN.transpose, _ATEN.t, _ATEN.numpy_T, _ATEN.flip, _ATEN.expand),
        *(_ATEN.expand_as, _ATEN.repeat, _ATEN.slice, _ATEN.select, _ATEN.narrow, _ATEN.split, _ATEN.split_with_sizes),
        *(_ATEN.chunk, _ATEN.unbind, _ATEN.cat, _ATEN.concat, _ATEN.stack, _ATEN.contiguous, _ATEN.clone),
        *(_ATEN.alias, _ATEN.detach, _ATEN.max_pool1d, _ATEN.max_pool2d, _ATEN.max_pool3d),
        *(_ATEN.pad, _ATEN.constant_pad_nd),
    )
)


def insert_observers(model: GraphModule, observer_of: dict[EdgeOrNode, nn.Module]) -> None:
    """Insert `observer_of[point]` at each point, in the order of the plan."""
    names = _name_modules(model, observer_of)
    nodes, overwriting = list(model.graph.nodes), overwriting_users(model.graph)
    last_placeholder = next((node for node in reversed(nodes) if node.op == "placeholder"), None)
    for node in nodes:
        users = [user for user in node.users if user.op != "call_module"]  # export's guards see the raw inputs
        anchor = last_placeholder if node.op == "placeholder" else node
        assert anchor is not None
        source, own = node, observer_of.get(node)
        if writing := overwriting.get(node):
            for user in users:
                if user not in writing:
                    _observe_late(model, node, user, (own, observer_of.get((node, user))), names)
            continue
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


def _observe_late(
    model: GraphModule,
    tensor: Node,
    user: Node,
    observers: tuple[nn.Module | None, nn.Module | None],
    names: dict[nn.Module, str],
) -> None:
    """Put observers right before the op that reads a tensor, for it is written into meanwhile."""
    source = tensor
    with model.graph.inserting_before(user):
        for observer in dict.fromkeys(observers):
            if observer is not None:
                source = _call(model, source, names[observer])
    user.replace_input_with(tensor, source)


def _observe(model: GraphModule, anchor: Node, tensor: Node, name: str) -> Node:
    with model.graph.inserting_after(anchor):
        return _call(model, tensor, name)


def _call(model: GraphModule, tensor: Node, name: str) -> Node:
    observer = model.get_submodule(name)
    seen = isinstance(observer, ObserverBase) and _is_seen(tensor, name)
    call = model.graph.call_module(name, (tensor,), {"seen": True} if seen else {})
    if "val" in tensor.meta:
        call.meta["val"] = tensor.meta["val"]
    return call


def _is_seen(tensor: Node, name: str) -> bool:
    """Whether all values of a tensor go by this observer before: those that this op moves about."""
    if tensor.target is operator.getitem:
        return _is_seen(tensor.all_input_nodes[0], name)
    return moves(tensor) and all(
        operand.op == "call_module" and operand.target == name for operand in tensor.all_input_nodes
    )


def moves(node: Node) -> bool:
    """Whether an op's results hold values of its operands alone, or zeros."""
    if node.target is operator.getitem:
        return True
    return getattr(node.target, "overloadpacket", None) in _MOVES and (_value_padded(node) or 0) == 0


def _value_padded(tensor: Node) -> float | None:
    """Return the number that an op pads with; None where it is 0 or there is none."""
    return argument(tensor, "value") if tensor.target in {_ATEN.pad.default, _ATEN.constant_pad_nd.default} else None


def _name_modules(model: GraphModule, observer_of: dict[EdgeOrNode, nn.Module]) -> dict[nn.Module, str]:
    """Register every observer once, numbered in the order of the plan."""
    names: dict[nn.Module, str] = {}
    for observer in observer_of.values():
        if observer not in names:
            names[observer] = f"{OBSERVER_PREFIX}{len(names)}"
            model.add_module(names[observer], observer)
    return names
