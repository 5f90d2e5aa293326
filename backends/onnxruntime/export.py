"""From an exported or converted module to the bytes of an ONNX model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.onnxruntime.biases import round_biases
from quantizer_sdk.backends.onnxruntime.call import Call
from quantizer_sdk.backends.onnxruntime.exported import export_graph
from quantizer_sdk.backends.onnxruntime.forms import clamp_codes, drop_axes_of_codes, flatten_codes
from quantizer_sdk.backends.onnxruntime.onnx_graph import OnnxGraph
from quantizer_sdk.backends.onnxruntime.translations import TRANSLATIONS
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["export_onnx"]


def export_onnx(model: GraphModule, example_inputs: Sequence[torch.Tensor], dynamic_shapes: Any = None) -> bytes:
    """Translate a module to an ONNX model whose inputs and outputs are the module's, in order.

    Args:
        model: A module of an exported program without input guards.
        example_inputs: One tensor an input.
        dynamic_shapes: As `torch.export.export` takes it; a dynamic size becomes a named dimension.

    Raises:
        LoweringError: An op has no translation, or a bias no int32 form; names the node.
        MissingDependencyError: onnx_ir is not installed.
    """
    exported = export_graph(model, example_inputs, dynamic_shapes)
    clamp_codes(exported.graph)
    drop_axes_of_codes(exported.graph)
    flatten_codes(exported.graph)
    round_biases(exported)
    exported.graph.eliminate_dead_code()
    graph = OnnxGraph()
    values: dict[Node, ir.Value] = {node: graph.input(node.name, _tensor_of(node)) for node in exported.inputs}
    for node in exported.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
            values[node] = _translated(graph, node, values, exported.constants)
    for result in exported.outputs:
        if result not in values:
            message = f"the model returns {result}; expected tensors that are computed from its inputs"
            raise LoweringError(message)
    return graph.to_bytes([(values[node], _tensor_of(node)) for node in exported.outputs])


def _translated(
    graph: OnnxGraph, node: Node, values: dict[Node, ir.Value], constants: dict[Node, torch.Tensor]
) -> ir.Value:
    """Translate one call, or the choice of a result of the call before."""
    if node.target is operator.getitem:
        source, index = node.args
        if index != 0 or not isinstance(source, Node):
            raise LoweringError(f"{node.name}: result {index} of {source} has no translation to ONNX, only the first")
        return values[source]
    translate = TRANSLATIONS.get(node.target)
    if translate is None:
        raise LoweringError(f"{node.name} ({node.target}) has no translation to ONNX in this backend")
    return translate(Call(graph, node, values, constants))


def _tensor_of(node: Node) -> torch.Tensor:
    """Return the fake tensor of a node.

    Raises:
        LoweringError: It is no tensor, but a number that the model takes or returns.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise LoweringError(f"{node.name} is {value!r}; an ONNX model takes and returns tensors")
    return value
