"""The layers whose weights a quantizer rounds, in the float model and in what the engine makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE, output_scale_shape
from quantizer_sdk.provenance import describe, listed, value_of
from quantizer_sdk.qdq import is_dequantize

__all__ = [
    "give_constant",
    "has_stored_codes",
    "matching_layers",
    "names_of",
    "reads_constants",
    "rounded_layers",
    "shape_of_channels",
]


def rounded_layers(model: GraphModule, quantized: GraphModule) -> tuple[dict[Node, Node], list[Node]]:
    """Return the layers of a float model by those of the converted one that round their weights.

    Returns:
        Them, and the quantized layers that the float model has in another form.
    """
    rounding = (node for node in quantized.graph.nodes if node.target in FOLDABLE)
    return matching_layers(model, [node for node in rounding if has_stored_codes(argument(node, "weight"))])


def matching_layers(model: GraphModule, layers: list[Node]) -> tuple[dict[Node, Node], list[Node]]:
    """Return the layers of a float model by those of another graph made of it, and those that it has not.

    A layer counts if it has the same name and op in both, and reads a constant weight and a constant bias or none.
    """
    floats = {node.name: node for node in model.graph.nodes if node.target in FOLDABLE}
    found, others = {}, []
    for node in layers:
        layer = floats.get(node.name)
        if layer is None or layer.target is not node.target or not reads_constants(layer):
            others.append(node)
        else:
            found[node] = layer
    return found, others


def has_stored_codes(weight: Any) -> bool:
    """Whether a weight is made of codes that are stored."""
    return isinstance(weight, Node) and is_dequantize(weight) and weight.all_input_nodes[0].op == "get_attr"


def reads_constants(layer: Node) -> bool:
    """Whether a layer's weight is a constant, and its bias, if there is one."""
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    return (
        isinstance(weight, Node)
        and weight.op == "get_attr"
        and (bias is None or (isinstance(bias, Node) and bias.op == "get_attr"))
    )


def names_of(nodes: list[Node]) -> str:
    """Return where the first ten of some nodes are, in words."""
    return listed([describe(node) for node in nodes], 10)


def shape_of_channels(layer: Node) -> list[int]:
    """Return the shape in which one number a channel stands beside a layer's result."""
    return output_scale_shape(layer, value_of(argument(layer, "weight")).dim())


def give_constant(constants: Constants, layer: Node, name: str, value: torch.Tensor, target: str) -> None:
    """Give a layer a constant of its own for an argument, for other calls may read the same.

    Args:
        constants: Those of the model.
        layer: The call.
        name: The argument, "weight" or "bias".
        value: The constant; it gets the float type of the layer's weight.
        target: Its path in the model.
    """
    old, weight = argument(layer, name), argument(layer, "weight")
    typed = nn.Parameter(value.to(constants.read(weight).dtype), requires_grad=False)
    replace_argument(layer, name, None)
    constants.release(old)
    with layer.graph.inserting_before(layer):
        new = constants.add(target, typed, like=weight if old is None else old)
    replace_argument(layer, name, new)
