"""The form of a converted model that takes and returns raw integers instead of floats.

The suite looks at one kernel's own arithmetic this way; an application saves the conversions at the model's boundary.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.errors import LoweringError

__all__ = ["Boundary", "BoundaryQParams", "boundary_of", "copy_without_guards", "strip_boundary"]

_GUARDS = "_guards_fn"


class BoundaryQParams(NamedTuple):
    """What a code at a program's boundary stands for: (code - zero_point) * scale.

    A real number x has the code round(x / scale) + zero_point, clamped to the range of `dtype`.
    """

    scale: float
    zero_point: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Boundary:
    """What a program takes and gives, in the order of its inputs and outputs.

    Attributes:
        inputs: The qparams of each input that is a tensor of codes; None for one that is float.
        outputs: The same of its outputs.
    """

    inputs: tuple[BoundaryQParams | None, ...] = ()
    outputs: tuple[BoundaryQParams | None, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether any tensor is one of codes."""
        return any(qparams is not None for qparams in (*self.inputs, *self.outputs))

    def as_float(self) -> Boundary:
        """Return the boundary of the same model where all of it stays float."""
        return Boundary((None,) * len(self.inputs), (None,) * len(self.outputs))


def boundary_of(model: GraphModule) -> Boundary:
    """Return the qparams of the inputs and outputs that `strip_boundary` makes tensors of codes."""
    placeholders = model.graph.find_nodes(op="placeholder")
    (output,) = model.graph.find_nodes(op="output")
    results = output.args[0] if isinstance(output.args[0], (tuple, list)) else output.args
    return Boundary(
        tuple(_qparams(next(iter(node.users))) if _takes_codes(node) else None for node in placeholders),
        tuple(_qparams(node) if _gives_codes(node) else None for node in results),
    )


def _qparams(node: Node) -> BoundaryQParams:
    _, scale, zero_point, _, _, dtype = node.args
    return BoundaryQParams(scale, zero_point, dtype)  # type: ignore[arg-type]  # numbers, as the op's schema has it


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
        if not _takes_codes(placeholder):
            continue
        quantizes = list(placeholder.users)
        _, *qparams = quantizes[0].args
        examples[index] = torch.ops.quantized_decomposed.quantize_per_tensor.default(examples[index], *qparams)
        placeholder.meta = {**placeholder.meta, "val": quantizes[0].meta.get("val")}
        for node in quantizes:
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
    (output,) = graph.find_nodes(op="output")
    dequantizes = [node for node in output.all_input_nodes if _gives_codes(node)]
    for node in dequantizes:
        output.replace_input_with(node, node.all_input_nodes[0])
    graph.eliminate_dead_code()
    clone.recompile()
    return clone, tuple(examples)


def _takes_codes(placeholder: Node) -> bool:
    """Whether the users of a placeholder, at least one, all quantize it in the same way."""
    static = all(_is_static(node, "quantize_per_tensor") for node in placeholder.users)
    return static and len({node.args for node in placeholder.users}) == 1


def _gives_codes(result: object) -> bool:
    """Whether an output of a graph is a static per-tensor dequantize."""
    return isinstance(result, Node) and _is_static(result, "dequantize_per_tensor")


def _is_static(node: Node, operator: str) -> bool:
    """Whether a node is the overload of this operator that has its scale and zero point written in."""
    # The private module is what registers these operators; torch offers no public one.
    import torch.ao.quantization.fx._decomposed

    overload = getattr(torch.ops.quantized_decomposed, operator).default
    return node.op == "call_function" and node.target is overload
