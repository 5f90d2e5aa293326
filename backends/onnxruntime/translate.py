"""From an exported or converted module to the bytes of an ONNX model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backend import module_path, source_line
from quantizer_sdk.backends.onnxruntime.biases import round_biases
from quantizer_sdk.backends.onnxruntime.call import Call, Results
from quantizer_sdk.backends.onnxruntime.dimensions import dimension_names
from quantizer_sdk.backends.onnxruntime.exported import export_graph, fold_constants
from quantizer_sdk.backends.onnxruntime.forms import (
    clamp_codes,
    drop_axes_of_codes,
    flatten_codes,
    pad_codes,
    quantize_early,
)
from quantizer_sdk.backends.onnxruntime.onnx_graph import OnnxGraph
from quantizer_sdk.backends.onnxruntime.translations import TRANSLATIONS, translation_of
from quantizer_sdk.backends.onnxruntime.unsigned import use_unsigned_activations
from quantizer_sdk.errors import LoweringError

__all__ = ["MODULE_KEY", "SOURCE_KEY", "translate"]

MODULE_KEY, SOURCE_KEY = "quantizer_sdk.module", "quantizer_sdk.source"
"""Under these keys a node's metadata has the path of the user's module and the user's line."""

_SIZES = (torch.SymInt, torch.SymFloat)


def translate(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    dynamic_shapes: Any = None,
    *,
    contrib: bool = True,
    output_names: Sequence[str] = (),
) -> bytes:
    """Translate a module to an ONNX model whose inputs and outputs are the module's, in order.

    Args:
        model: A module of an exported program without input guards.
        example_inputs: One tensor an input.
        dynamic_shapes: As `torch.export.export` takes it; a dynamic size becomes a named dimension.
        contrib: Whether operators of ONNX Runtime's own domain may be used.
        output_names: Of the outputs; empty for those that torch.export gives them.

    Raises:
        LoweringError: An op has no translation, or a bias no int32 form; names the node.
        MissingDependencyError: onnx_ir is not installed.
    """
    exported = export_graph(model, example_inputs, dynamic_shapes, TRANSLATIONS)
    fold_constants(exported)
    use_unsigned_activations(exported)
    quantize_early(exported.graph)
    clamp_codes(exported.graph)
    pad_codes(exported.graph)
    drop_axes_of_codes(exported.graph)
    flatten_codes(exported.graph)
    round_biases(exported)
    exported.graph.eliminate_dead_code()
    names = dimension_names(exported.inputs, dynamic_shapes)
    graph = OnnxGraph(contrib=contrib)
    values: dict[Node, Results] = {node: graph.input(node.name, _tensor_of(node), names) for node in exported.inputs}
    for node in exported.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), (torch.Tensor, tuple, list, *_SIZES)):
            graph.origin = _origin(node)
            values[node] = _translated(graph, node, values, exported.constants)
    outputs = []
    graph.origin = {}
    for result in exported.outputs:
        value = values.get(result) if isinstance(result, Node) else None
        if result in exported.constants:
            value = graph.constant(result.name, exported.constants[result])
        if value is None or isinstance(value, tuple):
            message = f"the model returns {result}; expected tensors that are computed from its inputs"
            raise LoweringError(message)
        outputs.append((value, _tensor_of(result)))
    if output_names and len(output_names) != len(outputs):
        raise LoweringError(f"{len(output_names)} names were given for {len(outputs)} outputs")
    return graph.to_bytes(outputs, names, output_names)


def _translated(
    graph: OnnxGraph, node: Node, values: dict[Node, Results], constants: dict[Node, torch.Tensor]
) -> Results:
    """Translate one call, or the choice of a result of the call before."""
    if node.target is operator.getitem:
        source, index = node.args
        found = values.get(source) if isinstance(source, Node) else None
        if isinstance(found, tuple) and isinstance(index, int) and index < len(found):
            return found[index]
        if found is None or isinstance(found, tuple) or index != 0:
            raise LoweringError(f"{node.name}: result {index} of {source} has no translation to ONNX")
        return found
    translation = translation_of(node.target)
    if translation is None:
        raise LoweringError(f"{node.name} ({node.target}) has no translation to ONNX in this backend{_where(node)}")
    return translation(Call(graph, node, values, constants))


def _where(node: Node) -> str:
    line = source_line(node)
    return f"; from {line}" if line else ""


def _origin(node: Node) -> dict[str, str]:
    """Return what a node's metadata says of the user's model."""
    found = {MODULE_KEY: module_path(node), SOURCE_KEY: source_line(node)}
    return {key: text for key, text in found.items() if text}


def _tensor_of(node: Node) -> torch.Tensor:
    """Return the fake tensor of a node.

    Raises:
        LoweringError: It is no tensor, but a number that the model takes or returns.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise LoweringError(f"{node.name} is {value!r}; an ONNX model takes and returns tensors")
    return value
