"""Products that a compiler would lower wrongly, in forms that it lowers rightly.

Ensures: no product has a weight that is dequantized from what a run computes, and no addmm has factors. Exact but for
the roundings of the factors' own multiplications.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.qdq import is_dequantize

__all__ = ["detach_run_time_weights", "write_out_addmm"]

_ATEN = torch.ops.aten
_WEIGHTS = {
    _ATEN.mm.default: "mat2",
    _ATEN.matmul.default: "other",
    _ATEN.addmm.default: "mat2",
    **dict.fromkeys(
        (
            _ATEN.linear.default,
            _ATEN.conv1d.default,
            _ATEN.conv1d.padding,
            _ATEN.conv2d.default,
            _ATEN.conv2d.padding,
            _ATEN.conv_transpose1d.default,
            _ATEN.conv_transpose2d.input,
        ),
        "weight",
    ),
}


def detach_run_time_weights(model: GraphModule) -> None:
    """Multiply by 1 what is dequantized from codes that a run computes, before it is the weight of a product.

    ExecuTorch's partitioner takes such a product for a quantized layer until it looks for the weight's codes; it then
    leaves it to the portable runtime, but its other operand has lost its dequantize: the result is garbage.
    """
    for product in list(model.graph.nodes):
        weight = argument(product, _WEIGHTS[product.target]) if product.target in _WEIGHTS else None
        if not isinstance(weight, Node) or not is_dequantize(weight) or weight.all_input_nodes[0].op == "get_attr":
            continue
        with model.graph.inserting_before(product):
            detached = model.graph.call_function(_ATEN.mul.Scalar, (weight, 1.0))
        detached.meta.update(weight.meta)
        product.replace_input_with(weight, detached)
    model.recompile()


def write_out_addmm(model: GraphModule) -> None:
    """Write beta·c + alpha·(a @ b) as it reads, where a factor is not 1: ExecuTorch's partitioner drops them."""
    for node in model.graph.find_nodes(op="call_function", target=_ATEN.addmm.default):
        factors = {name: argument(node, name) for name in ("beta", "alpha")}
        if all(factor == 1 for factor in factors.values()):
            continue
        with model.graph.inserting_before(node):
            added: Any = argument(node, "self")
            product: Any = model.graph.call_function(_ATEN.mm.default, (argument(node, "mat1"), argument(node, "mat2")))
            if factors["alpha"] != 1:
                product = model.graph.call_function(_ATEN.mul.Scalar, (product, factors["alpha"]))
            if factors["beta"] != 1:
                added = model.graph.call_function(_ATEN.mul.Scalar, (added, factors["beta"]))
            total = model.graph.call_function(_ATEN.add.Tensor, (product, added))
        total.meta.update(node.meta)
        node.replace_all_uses_with(total)
        model.graph.erase_node(node)
    model.recompile()
