"""A weight for each call, for compilers that rewrite the weight of an op in place and so fail at its second call.

Requires a copy of the user's model, whose tensors may be shared with it; these stay as they are. Ensures: no two of the
given calls read the same constant as their weight.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants

__all__ = ["give_each_call_its_weight"]


def give_each_call_its_weight(model: GraphModule, targets: frozenset[torch._ops.OpOverload]) -> None:
    """Copy the weights that several calls share, so that each has one of its own.

    Args:
        model: The graph to change.
        targets: The ops to look at; their weight is their second operand, there as it is or through a dequantize.
    """
    constants, seen = Constants(model), set[str]()
    for call in list(model.graph.nodes):
        if call.target not in targets:
            continue
        weight = call.args[1]
        constant = weight if weight.op == "get_attr" else weight.args[0]
        if not isinstance(constant, Node) or constant.op != "get_attr":
            continue
        name = str(constant.target)
        if name in seen:
            _replace(constants, call, weight, constant)
        seen.add(name)
    model.graph.eliminate_dead_code()
    model.recompile()


def _replace(constants: Constants, call: Node, weight: Node, constant: Node) -> None:
    """Let a call read a copy of its weight, through a copy of the dequantize that is between, if there is one."""
    graph = call.graph
    with graph.inserting_before(call):
        copied = constants.add("own_weight", constants.read(constant).detach().clone(), like=constant)
        if weight is not constant:
            operands = (copied, *weight.args[1:])
            dequantized = graph.call_function(weight.target, operands, dict(weight.kwargs))  # type: ignore[arg-type]
            dequantized.meta.update(weight.meta)
            copied = dequantized
    call.replace_input_with(weight, copied)
