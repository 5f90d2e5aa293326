"""The programs that are compared on x86, each made of one float model: ours on three routes, and those beside them."""

from __future__ import annotations

import functools
import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from models.entry import Inputs
from quantizer_sdk import bias_correction, calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends import onnxruntime as ort
from quantizer_sdk.backends.inductor import lower_inductor
from quantizer_sdk.backends.onednn import lower_eager
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

__all__ = ["PROGRAMS", "Subject", "X86Program"]

Run = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model to make programs of.

    Attributes:
        model: In eval mode.
        exported: The same, exported.
        batches: What quantizers calibrate with.
        transformer: Whether linear layers are all that is to be quantized at run time.
        smoothed: The exported model with `smooth_quant` where its activations have outliers, for our quantizers.
        corrected: Whether they use `bias_correction` where they are static.
    """

    model: nn.Module
    exported: GraphModule
    batches: list[Inputs]
    transformer: bool
    smoothed: GraphModule
    corrected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class X86Program:
    """What is timed and judged.

    Attributes:
        run: Runs it on the model's inputs.
        size: In bytes, as it is shipped; None where it is no file.
        integer: How many of its kernels compute on integers, products with float results among them, and
        floats: in float; None where nobody counts.
        left_float: How many convolutions and linears the quantizer left float, and
        layers: how many there are.
        graph: The q/dq graph that it is made of.
        file: The ONNX file that it is.
    """

    run: Run
    size: int | None = None
    integer: int | None = None
    floats: int | None = None
    left_float: int | None = None
    layers: int | None = None
    graph: GraphModule | None = None
    file: bytes | None = None


_GEMMS = ("conv1d", "conv2d", "conv3d", "linear", "addmm", "mm")


def _quantized(subject: Subject, target: str, **config: bool) -> GraphModule:
    settings = get_default_x86_quantization_config(**config)
    model, quantizer = subject.smoothed, X86Quantizer(target).set_global(settings)
    if subject.corrected and not config:
        model = bias_correction(model, quantizer, subject.batches)
    prepared = prepare_pt2e(model, quantizer)
    if not config:
        calibrate(prepared, subject.batches)
    return convert_pt2e(prepared)


def _of(program: Any, graph: GraphModule | None = None) -> X86Program:
    """Read what a program says of itself."""
    kernels = program.kernels()
    layers = [] if graph is None else [op for op in explain(graph).ops if op.op.split(".")[1] in _GEMMS]
    return X86Program(
        run=program.run,
        size=program.size,
        integer=sum(kernel.integer or kernel.multiplies for kernel in kernels),
        floats=sum(not (k.integer or k.multiplies or k.conversion or k.moves) for k in kernels),
        left_float=None if graph is None else sum(op.state == "float" for op in layers),
        layers=None if graph is None else sum(op.state != "folded" for op in layers),
        graph=graph,
        file=getattr(program, "buffer", None),
    )


def _state_size(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def _tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _eager_float(subject: Subject) -> X86Program:
    return X86Program(run=lambda *inputs: _tuple(subject.model(*inputs)), size=_state_size(subject.model))


def _eager_ours(subject: Subject, **config: bool) -> X86Program:
    graph = _quantized(subject, "onednn", **config)
    return _of(lower_eager(graph, subject.batches[0]), graph)


def _inductor_float(subject: Subject) -> X86Program:
    return _of(lower_inductor(subject.exported, subject.batches[0]))


def _inductor_ours(subject: Subject, **config: bool) -> X86Program:
    graph = _quantized(subject, "inductor", **config)
    return _of(lower_inductor(graph, subject.batches[0]), graph)


def _ort_float(subject: Subject) -> X86Program:
    return _of(ort.lower(subject.exported, subject.batches[0]))


def _ort_ours(subject: Subject, **config: bool) -> X86Program:
    graph = _quantized(subject, "onnxruntime", **config)
    return _of(ort.lower(graph, subject.batches[0]), graph)


def _ort_stock(subject: Subject) -> X86Program:
    """ONNX Runtime's own `quantize_static` in its recommended form for x86: QUInt8, weights QInt8 per channel."""
    from onnxruntime import quantization as peer

    floats = ort.lower(subject.exported, subject.batches[0])
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder, name)) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        floats.save(source)
        peer.shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        peer.quantize_static(
            prepared,
            target,
            _Reader(prepared, subject.batches),
            quant_format=peer.QuantFormat.QDQ,
            per_channel=True,
            activation_type=peer.QuantType.QUInt8,
            weight_type=peer.QuantType.QInt8,
        )
        content = Path(target).read_bytes()
    return _of(ort.ORTProgram(content, ort.SessionSettings(exact_sums=False)))


class _Reader:
    """Feeds the calibration of ONNX Runtime."""

    def __init__(self, path: str, batches: list[Inputs]) -> None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [entry.name for entry in session.get_inputs()]
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by input names, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {n: t.numpy() for n, t in zip(self._names, batch, strict=True)}


def _ort_stock_dynamic(subject: Subject) -> X86Program:
    """ONNX Runtime's own `quantize_dynamic`."""
    from onnxruntime import quantization as peer

    floats = ort.lower(subject.exported, subject.batches[0])
    with tempfile.TemporaryDirectory() as folder:
        source, target = str(Path(folder, "float.onnx")), str(Path(folder, "int8.onnx"))
        floats.save(source)
        peer.quantize_dynamic(source, target, per_channel=True, weight_type=peer.QuantType.QInt8)
        content = Path(target).read_bytes()
    return _of(ort.ORTProgram(content, ort.SessionSettings(exact_sums=False)))


def _inductor_peer(subject: Subject) -> X86Program:
    """The quantizer and engine of torchao, compiled by inductor with freezing as its documentation says."""
    import copy

    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e as convert
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e as prepare
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as peer

    quantizer = peer.X86InductorQuantizer().set_global(peer.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        prepared = prepare(copy.deepcopy(subject.exported), quantizer)
        for batch in subject.batches:
            prepared(*batch)
        graph = convert(prepared)
    return _of(lower_inductor(graph, subject.batches[0], min_fused=0))


PROGRAMS: dict[str, Callable[[Subject], X86Program]] = {
    "eager fp32": _eager_float,
    "eager ours": _eager_ours,
    "eager ours dynamic": functools.partial(_eager_ours, is_dynamic=True),
    "eager ours dynamic per token": functools.partial(_eager_ours, is_dynamic=True, is_per_token=True),
    "inductor fp32": _inductor_float,
    "inductor ours": _inductor_ours,
    "inductor ours dynamic": functools.partial(_inductor_ours, is_dynamic=True),
    "inductor torchao": _inductor_peer,
    "onnx fp32": _ort_float,
    "onnx ours": _ort_ours,
    "onnx ours dynamic": functools.partial(_ort_ours, is_dynamic=True),
    "onnx ours dynamic per token": functools.partial(_ort_ours, is_dynamic=True, is_per_token=True),
    "onnx quantize_static": _ort_stock,
    "onnx quantize_dynamic": _ort_stock_dynamic,
}
"""In the order in which they are shown; those with "dynamic" in their name are for transformers only."""

warnings.filterwarnings("ignore", category=UserWarning, module="torch")
