"""The form of a converted model that takes and returns raw integers, so that one kernel's own arithmetic is seen."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import chain

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.errors import LoweringError

__all__ = ["copy_without_guards", "strip_boundary"]

_GUARDS = "_guards_fn"


def copy_without_guards(model: GraphModule) -> GraphModule:
    """Copy an exported module for another export: new graph, same tensors, no input guards and no dead code.

    `ExportedProgram.module()` leaves a call that checks the inputs against the first export's shapes, which a second
    export with other shapes or dtypes must not keep. Parameters, buffers and constants are shared, not copied.
    """
    attributes = chain.from_iterable(vars(module).values() for module in model.modules())
    constants = (value for value in attributes if isinstance(value, torch.Tensor))
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers(), constants)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, over how it copies the graph's calling convention
        clone = copy.deepcopy(model, shared)
    for node in clone.graph.find_nodes(op="call_module", target=_GUARDS):
        clone.graph.erase_node(node)
    if hasattr(clone, _GUARDS):
        delattr(clone, _GUARDS)
    clone.graph.eliminate_dead_code()
    clone.recompile()
    return clone


def strip_boundary(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
) -> tuple[GraphModule, tuple[torch.Tensor, ...]]:
    """Take the quantize nodes off a converted model's inputs and the dequantize nodes off its outputs.

    A placeholder becomes the integer tensor if every use of it is the same static per-tensor quantize. An output
    becomes the integer tensor if it is a static per-tensor dequantize. All others stay float.

    Args:
        model: A converted module with `quantized_decomposed` operators; left as it is.
        example_inputs: One tensor for each placeholder, in order, as the model takes them.

    Returns:
        A copy of the model without those nodes, sharing its parameters and buffers, and the example inputs for it:
        codes where the placeholder takes them, made by the node that was taken off, same shapes.

    Raises:
        LoweringError: The number of example inputs is not the number of placeholders.
    """
    clone = copy_without_guards(model)
    graph = clone.graph
    placeholders = graph.find_nodes(op="placeholder")
    if len(placeholders) != len(example_inputs):
        raise LoweringError(f"the model takes {len(placeholders)} inputs; {len(example_inputs)} examples were given")
    examples = list(example_inputs)
    for index, placeholder in enumerate(placeholders):
        quantizes = list(placeholder.users)
        if not _are_one_quantize(quantizes):
            continue
        _, *qparams = quantizes[0].args
        examples[index] = torch.ops.quantized_decomposed.quantize_per_tensor.default(examples[index], *qparams)
        placeholder.meta = {**placeholder.meta, "val": quantizes[0].meta.get("val")}
        for node in quantizes:
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
    (output,) = graph.find_nodes(op="output")
    dequantizes = [node for node in output.all_input_nodes if _is_static(node, "dequantize_per_tensor")]
    for node in dequantizes:
        output.replace_input_with(node, node.all_input_nodes[0])
    graph.eliminate_dead_code()
    clone.recompile()
    return clone, tuple(examples)


def _are_one_quantize(nodes: Sequence[Node]) -> bool:
    """Whether these users of a placeholder all quantize it in the same way."""
    static = all(_is_static(node, "quantize_per_tensor") for node in nodes)
    return static and len({node.args for node in nodes}) == 1


def _is_static(node: Node, operator: str) -> bool:
    """Whether a node is the overload of this operator that has its scale and zero point written in."""
    # The private module is what registers these operators; torch offers no public one.
    import torch.ao.quantization.fx._decomposed

    overload = getattr(torch.ops.quantized_decomposed, operator).default
    return node.op == "call_function" and node.target is overload
