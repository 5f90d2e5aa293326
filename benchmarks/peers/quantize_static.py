"""ONNX Runtime's `quantize_static` as a quantizer: what it quantizes of a file, annotated on our graph.

It takes files, so the float model is exported, quantized on random numbers, and read back: which tensors it quantized,
and which of them with the qparams of another. Ranges are those of its default, min-max.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from peers.peer import Peer
from peers.quantized_file import QuantizedFile, Region, Stored
from quantizer_sdk import (
    Backend,
    FixedQParamsQuantizationSpec,
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
from quantizer_sdk.conformance.corpus import MOVES
from quantizer_sdk.conformance.kernels import attribute
from quantizer_sdk.decision import Decision, record
from quantizer_sdk.observers import MinMaxObserver, PerChannelMinMaxObserver

__all__ = ["PEER", "QUANTIZE_STATIC"]

_PART = find_backend("x86").part_of("u8.pc@onnxruntime")
_ACTIVATION = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)
_WEIGHT = QuantizationSpec(torch.int8, MinMaxObserver, -127, 127, torch.per_tensor_symmetric)
_CHANNELS = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0)
_PROBABILITIES = FixedQParamsQuantizationSpec(torch.uint8, 1 / 255, 0, 0, 255, torch.per_tensor_affine)
"""What it takes for a softmax, whatever the data."""

_BIAS = object()
"""Stands for the spec of a bias until its kernel's activation and weight are known."""


class QuantizeStatic(Quantizer):
    """Annotates what `quantize_static(QUInt8, QInt8)` quantizes.

    Args:
        per_channel: Whether weights get a scale for each output channel.
    """

    def __init__(self, *, per_channel: bool) -> None:
        self._per_channel = per_channel

    def annotate(self, model: GraphModule) -> GraphModule:
        """Quantize a file of the model, and annotate what was quantized there."""
        inputs = [_like(node) for node in model.graph.find_nodes(op="placeholder", sort=True)]
        try:
            source, values = _exported(model, inputs)
        except LoweringError:
            return model
        file = _quantized(source, inputs, per_channel=self._per_channel)
        _Annotator(model, file, values).annotate()
        return model

    def validate(self, model: GraphModule) -> None:
        """Find nothing: it has no validation."""


class _Annotator:
    """Annotates a graph after a file that was made of it.

    Args:
        model: The graph's.
        file: What became of its ops.
        values: What the float file calls the result of each input and op.
    """

    def __init__(self, model: GraphModule, file: QuantizedFile, values: dict[Node, str]) -> None:
        self._model, self._file = model, file
        self._values = {node: value for node, value in values.items() if file.has(value)}
        self._known = frozenset(self._values.values())

    def annotate(self) -> None:
        """Annotate every op whose result is in the file."""
        seen: set[str] = set()
        for node in self._model.graph.nodes:
            value = self._values.get(node)
            if value is not None and node.op == "call_function" and value not in seen:
                self._annotate(node, value)
            seen.update(() if value is None else (value,))

    def _annotate(self, node: Node, value: str) -> None:
        """Annotate an op, and those before it that are in its kernel."""
        region, ops = self._file.region(value, self._known), self._fused(node)
        if not region.whole or (region.twice and len(ops) != 2):
            return  # rounded more than once within an op of ours: no annotation says that
        edges = {op: self._edges(op, region, ops) for op in ops}
        read = [(operand, op) for op in ops for operand in edges[op]]
        weights = [
            (operand, op) for operand, op in read if operand.op == "get_attr" and edges[op][operand] is not _BIAS
        ]
        activations = [(operand, op) for operand, op in read if operand.op != "get_attr" and operand not in ops]
        for operand, op in [point for point in read if edges[point[1]][point[0]] is _BIAS]:
            if weights and activations:
                (weight, reader), activation = weights[0], activations[0]
                edges[op][operand] = ProductBiasSpec().derive(activation, weights[0], edges[reader][weight])
            else:
                del edges[op][operand]  # of a product that stays float
        shared = [edge for edge in activations if region.scales[self._values[edge[0]]] == region.scale]
        own = _PROBABILITIES if node.target is torch.ops.aten.softmax.int else _ACTIVATION
        result = None if region.scale is None else SharedQuantizationSpec(shared[0]) if shared else own
        if result is None and not weights:
            return  # it computes in float on what others have quantized
        outputs: dict[Node, Any] = {}
        last = node
        for operand, reader in [] if result is None else _cuts(node, ops, twice=region.twice):
            edges[reader][operand] = _ACTIVATION
            outputs[reader] = _ACTIVATION if region.twice else SharedQuantizationSpec((operand, reader))
            last = operand
        outputs[last] = _ACTIVATION if region.twice else result
        for op in ops:
            op.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=edges[op], output_qspec=outputs.get(op), _annotated=True
            )
            if op not in outputs:
                record(op, Decision(fused_into=last.name))

    def _fused(self, node: Node) -> list[Node]:
        """Return an op and those before it whose results are gone from the file: they are computed together."""
        found, waiting = [node], [node]
        while waiting:
            for operand in waiting.pop().all_input_nodes:
                if operand.op == "call_function" and operand not in self._values and operand not in found:
                    found.append(operand)
                    waiting.append(operand)
        return found

    def _edges(self, op: Node, region: Region, ops: Sequence[Node]) -> dict[Node, Any]:
        """Return the spec of each operand that an op reads as codes."""
        edges: dict[Node, Any] = {}
        for operand in op.all_input_nodes:
            if operand.op == "get_attr":
                spec = _constant_spec(attribute(self._model, operand), region.stored)
            else:
                quantized = region.scales.get(self._values.get(operand, "")) is not None
                spec = _ACTIVATION if quantized and operand not in ops else None
            if spec is not None:
                edges[operand] = spec
        return edges


def _cuts(node: Node, ops: Sequence[Node], *, twice: bool) -> Iterator[tuple[Node, Node]]:
    """Yield which ops of a kernel read codes of another of its ops, from its result backwards.

    Those that only move codes do, and the one behind what is rounded twice.
    """
    if twice:
        yield ops[1], node
    while not twice and node.target in MOVES and len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in ops:
        (operand,) = node.all_input_nodes
        yield operand, node
        node = operand


def _constant_spec(tensor: torch.Tensor, stored: Sequence[Stored]) -> Any:
    """Return the spec of a constant of ours, which the file may hold transposed; None if it does not hold its codes."""
    for constant in stored:
        swapped = tensor.dim() == 2 and constant.value.shape == tensor.t().shape and constant.value.equal(tensor.t())
        if not swapped and not (constant.value.shape == tensor.shape and constant.value.equal(tensor)):
            continue
        if constant.dtype is torch.int32:
            return _BIAS
        if constant.dtype is torch.uint8:
            return _ACTIVATION
        axis = constant.axis if tensor.numel() > 1 else None
        return _WEIGHT if axis is None else replace(_CHANNELS, ch_axis=1 - axis if swapped else axis)
    return None


def _exported(model: GraphModule, inputs: Sequence[torch.Tensor]) -> tuple[bytes, dict[Node, str]]:
    """Return the model's file, and what it calls each input and each op's result.

    The exporter names the results that are returned, so all are; then those that the model itself does not return are
    no outputs any more.

    Raises:
        LoweringError: It has no file.
    """
    import onnx

    clone = copy_without_guards(model)
    tensors = [n for n in clone.graph.nodes if n.op == "call_function" and isinstance(n.meta.get("val"), torch.Tensor)]
    (output,) = clone.graph.find_nodes(op="output")
    returned = {node.name for node in output.all_input_nodes}
    output.args = (tuple(tensors),)
    clone.graph.set_codegen(CodeGen())
    clone.recompile()
    proto = onnx.ModelProto.FromString(to_onnx(clone, inputs))
    graph = proto.graph
    copies = {node.output[0]: node for node in graph.node if node.op_type == "Identity"}
    named = dict(zip(model.graph.find_nodes(op="placeholder"), (entry.name for entry in graph.input), strict=True))
    calls = {node.name: node for node in model.graph.nodes if node.op == "call_function"}
    for tensor, entry in zip(tensors, list(graph.output), strict=True):
        copy = copies.get(entry.name)
        named[calls[tensor.name]] = entry.name if copy is None else copy.input[0]
        if tensor.name not in returned:
            graph.output.remove(entry)
            if copy is not None:
                graph.node.remove(copy)
    return proto.SerializeToString(), named


def _like(node: Node) -> torch.Tensor:
    """Return random numbers of a placeholder's shape, with 3 for what is open; all functions are defined there."""
    value = node.meta["val"]
    return 0.1 + 0.8 * torch.rand([size if isinstance(size, int) else 3 for size in value.shape])


def _quantized(model: bytes, inputs: Sequence[torch.Tensor], *, per_channel: bool) -> QuantizedFile:
    """Return the file that ONNX Runtime makes of another, with the preparation that it advises."""
    import onnx
    from onnxruntime import quantization as peer

    names = [entry.name for entry in onnx.ModelProto.FromString(model).graph.input]
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder, name)) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        Path(source).write_bytes(model)
        peer.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        peer.quantize_static(
            prepared,
            target,
            _Once({name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}),
            quant_format=peer.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=peer.QuantType.QUInt8,
            weight_type=peer.QuantType.QInt8,
        )
        return QuantizedFile(onnx.load(prepared), onnx.load(target))


class _Once:
    """Feeds one batch of calibration data."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._batches = iter([batch])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None."""
        return next(self._batches, None)


_per_channel = functools.partial(QuantizeStatic, per_channel=True)
_PROFILE = (
    None
    if _PART.profile is None
    else replace(
        _PART.profile,
        unsupported={
            **_PART.profile.unsupported,
            **{
                f"L4.D2/aten.{name}*/*/number": "the file's number is no tensor of our graph" for name in ("add", "mul")
            },
            "L3.K1/aten.leaky_relu+*": "the profile knows no leaky relu that a clamp follows in one kernel",
            **{f"L0.C3/aten.{name}*/*": "QLinearConcat takes qparams for each operand" for name in ("cat", "concat")},
        },
    )
)
PEER = Backend(
    name="onnxruntime-quantize-static",
    quantizer=_per_channel,
    runner=_PART.runner,
    profile=_PROFILE,
    configurations={"u8.pc": _per_channel, "u8.pt": functools.partial(QuantizeStatic, per_channel=False)},
)

QUANTIZE_STATIC = Peer(
    backend=PEER,
    where="peers.quantize_static:PEER",
    page="peers-quantize-static",
    title="ONNX Runtime's quantize_static, judged",
    introduction=(
        "What ONNX Runtime's own `quantize_static` (QDQ, QUInt8 activations, QInt8 weights) quantizes of a file,",
        "annotated on our graph and run through our exporter: so what differs from our verdict is what it quantizes,",
        "and which qparams it shares. The model is prepared first, as it advises. Its concatenations are read by a",
        "kernel that takes qparams for each operand, so C3 is not asked of them.",
    ),
    packages=("torch", "onnxruntime"),
    shown=MappingProxyType(
        {
            "c1-conv_transpose*": "ort_transposed_convolution.py",
            "d2-conv_transpose*": "ort_transposed_convolution.py",
            "c1-mean*": "ort_left_float.py",
            "c1-adaptive_avg_pool2d*": "ort_left_float.py",
            "d2-linear*": "ort_rounded_twice.py",
            "d2-adaptive*": "ort_rounded_twice.py",
            "d2-random-graphs*": "ort_rounded_twice.py",
            "[dk]?-softmax*": "ort_softmax.py",
            "[dk]?-random-graphs*": "ort_softmax.py",
        }
    ),
)
