"""ONNX Runtime's `quantize_static` as a quantizer: what it quantizes of a file, annotated on our graph.

It takes files, so the float model is exported, quantized on random numbers, and read back: which tensors it quantized,
and which of them with the qparams of another. Ranges are those of its default, min-max.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule, Node

from peers.peer import Peer
from quantizer_sdk import (
    Backend,
    LoweringError,
    ProductBiasSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
    find_backend,
)
from quantizer_sdk.backend import copy_without_guards
from quantizer_sdk.backends.onnxruntime.export import to_onnx
from quantizer_sdk.backends.onnxruntime.exported import export_graph
from quantizer_sdk.observers import MinMaxObserver, PerChannelMinMaxObserver

__all__ = ["PEER", "QUANTIZE_STATIC"]

_PART = find_backend("x86").part_of("u8.pc@onnxruntime")
_ACTIVATION = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)
_WEIGHT = QuantizationSpec(torch.int8, MinMaxObserver, -127, 127, torch.per_tensor_symmetric)
_CHANNELS = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0)


class _QuantizeStatic(Quantizer):
    """Annotates what `quantize_static(QUInt8, QInt8)` quantizes."""

    def __init__(self, *, per_channel: bool) -> None:
        self._per_channel = per_channel

    def annotate(self, model: GraphModule) -> GraphModule:
        """Quantize a file of the model, and annotate what was quantized there."""
        inputs = [_like(node) for node in model.graph.find_nodes(op="placeholder", sort=True)]
        try:
            names = _names(model, inputs)
            quantized = _quantized(to_onnx(model, inputs), inputs, per_channel=self._per_channel)
        except LoweringError:
            return model
        scales = {
            node.input[0].removesuffix("_QuantizeLinear_Input"): node.input[1]
            for node in quantized.graph.node
            if node.op_type == "QuantizeLinear"
        }
        constants = dict(_constants(quantized))
        for node in model.graph.nodes:
            if node.op == "call_function":
                self._annotate(node, names, scales, constants)
        return model

    def _annotate(
        self,
        node: Node,
        names: dict[Node, str],
        scales: dict[str, str],
        constants: dict[str, QuantizationSpec | None],
    ) -> None:
        specs: dict[Node, Any] = {}
        biases = []
        for operand in node.all_input_nodes:
            name = names.get(operand, f"p_{str(operand.target).replace('.', '_')}")
            if operand.op == "get_attr" and name in constants:
                specs[operand] = constants[name]
                biases += [operand] if constants[name] is None else []
            elif operand.op != "get_attr" and name in scales:
                specs[operand] = _ACTIVATION
        weights = [operand for operand in specs if operand.op == "get_attr" and operand not in biases]
        activations = [operand for operand in specs if operand.op != "get_attr"]
        for bias in biases:
            if not weights or not activations:
                del specs[bias]  # of a product that stays float
                continue
            points = (activations[0], node), (weights[0], node)
            specs[bias] = ProductBiasSpec().derive(*points, specs[weights[0]])
        result: Any = None
        if names.get(node) in scales:
            shared = [operand for operand in activations if scales[names[operand]] == scales[names[node]]]
            result = SharedQuantizationSpec((shared[0], node)) if shared else _ACTIVATION
        if specs or result is not None:
            node.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=specs, output_qspec=result, _annotated=True
            )

    def validate(self, model: GraphModule) -> None:
        """Find nothing: it has no validation."""


def _names(model: GraphModule, inputs: Sequence[torch.Tensor]) -> dict[Node, str]:
    """Return what the exporter, which exports a graph anew, calls each of its inputs and calls."""
    anew = export_graph(copy_without_guards(model), inputs, None)
    mine = [node for node in model.graph.nodes if node.op == "call_function"]
    theirs = [node for node in anew.graph.nodes if node.op == "call_function"]
    placeholders = model.graph.find_nodes(op="placeholder", sort=True)
    if len(mine) != len(theirs) or len(placeholders) != len(anew.inputs):
        raise LoweringError(f"exported anew, {len(mine)} calls are {len(theirs)}")
    pairs = [*zip(mine, theirs, strict=True), *zip(placeholders, anew.inputs, strict=True)]
    return {node: other.name for node, other in pairs}


def _constants(model: Any) -> Iterator[tuple[str, QuantizationSpec | None]]:
    """Yield the spec of each constant that is dequantized, by its name; None for a bias."""
    from onnx import TensorProto

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        codes = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is None:
            continue
        name = codes.name.removesuffix("_quantized")
        if codes.data_type == TensorProto.INT32:
            yield name, None
        elif not stored[node.input[1]].dims:
            yield name, _WEIGHT
        else:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            yield name, replace(_CHANNELS, ch_axis=axis % len(codes.dims))


def _like(node: Node) -> torch.Tensor:
    """Return random numbers of a placeholder's shape, with 3 for what is open; all functions are defined there."""
    value = node.meta["val"]
    return 0.1 + 0.8 * torch.rand([size if isinstance(size, int) else 3 for size in value.shape])


def _quantized(model: bytes, inputs: Sequence[torch.Tensor], *, per_channel: bool) -> Any:
    """Return the file that ONNX Runtime makes of another."""
    import onnx
    from onnxruntime import quantization as peer

    names = [entry.name for entry in onnx.ModelProto.FromString(model).graph.input]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        logging.disable(logging.WARNING)  # it advises on its own preprocessing each time
        peer.quantize_static(
            str(source),
            str(target),
            _Once({name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}),
            quant_format=peer.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=peer.QuantType.QUInt8,
            weight_type=peer.QuantType.QInt8,
        )
        logging.disable(logging.NOTSET)
        return onnx.load(str(target))


class _Once:
    """Feeds one batch of calibration data."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._batches = iter([batch])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None."""
        return next(self._batches, None)


_per_channel = functools.partial(_QuantizeStatic, per_channel=True)
PEER = Backend(
    name="onnxruntime-quantize-static",
    quantizer=_per_channel,
    runner=_PART.runner,
    profile=_PART.profile,
    configurations={"u8.pc": _per_channel, "u8.pt": functools.partial(_QuantizeStatic, per_channel=False)},
)

QUANTIZE_STATIC = Peer(
    backend=PEER,
    where="peers.quantize_static:PEER",
    page="peers-quantize-static",
    title="ONNX Runtime's quantize_static, judged",
    introduction=(
        "What ONNX Runtime's own `quantize_static` (QDQ, QUInt8 activations, QInt8 weights) quantizes of a file,",
        "annotated on our graph and run through our exporter: so what differs from our verdict is what it quantizes,",
        "and which qparams it shares. Its concatenations have a kernel for several qparams; C3 knows of none.",
    ),
    packages=("torch", "onnxruntime"),
)
