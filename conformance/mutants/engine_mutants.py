"""Wrong engines: what no quantizer could get wrong, since the engine sees to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk import QuantizationSpec, QuantizationSpecBase, Quantizer, convert_pt2e, prepare_pt2e
from quantizer_sdk.conformance import bench, malformed
from quantizer_sdk.conformance.kernels import attribute, is_dequantize, is_quantize
from quantizer_sdk.conformance.mutants.altered import KEY, annotated
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.errors import InvalidAnnotationError, QuantizerError

__all__ = ["ENGINE_MUTANTS"]

CONV = "aten.conv2d/s8.pc/generic/3x3"
ADD = "aten.add/s8.pc/generic/4d"
CONV_TIES = "aten.conv2d/s8.pc/zp_odd/3x3"
EDGE_MISSING = "aten.conv2d/s8.pc/edge_missing/3x3"
NOT_A_SPEC = "aten.conv2d/s8.pc/not_a_spec/3x3"


@contextlib.contextmanager
def _replaced(module: Any, name: str, stand_in: object) -> Iterator[None]:
    """Put something else in the place of a module's function."""
    original = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, original)


def _converting(change: Callable[[GraphModule], None]) -> Callable[[], AbstractContextManager[None]]:
    """Break the conversion: what it returns is changed."""

    def convert(model: GraphModule) -> GraphModule:
        converted = convert_pt2e(model)
        change(converted)
        converted.recompile()
        return converted

    return lambda: _replaced(bench, "convert_pt2e", convert)


def _preparing(
    prepare: Callable[[GraphModule, Quantizer], GraphModule], module: Any = malformed
) -> Callable[[], AbstractContextManager[None]]:
    return lambda: _replaced(module, "prepare_pt2e", prepare)


def _read_otherwise(change: Callable[[float, int], tuple[float, int]]) -> Callable[[GraphModule], None]:
    """Let each dequantize of a quantize have other qparams than this."""

    def changed(model: GraphModule) -> None:
        for node in model.graph.nodes:
            if is_dequantize(node) and is_quantize(node.args[0]):
                scale, zero_point = change(*node.args[1:3])
                node.args = (node.args[0], scale, min(127, max(-128, zero_point)), *node.args[3:])

    return changed


def _store_outside(model: GraphModule) -> None:
    """Write a narrower range than that of the codes that are stored."""
    for node in model.graph.nodes:
        if str(node.target).endswith("dequantize_per_channel.default"):
            node.args = (*node.args[:4], -64, 63, *node.args[6:])


def _forget_scales(model: GraphModule) -> None:
    """Keep the scales of channels out of the state dict."""
    for node in model.graph.nodes:
        if str(node.target).endswith("dequantize_per_channel.default"):
            scales: Node = node.args[1]
            value = attribute(model, scales)
            path, _, name = str(scales.target).rpartition(".")
            owner = model.get_submodule(path)
            delattr(owner, name)
            owner.register_buffer(name, value, persistent=False)


def _annotating_in_place(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Leave the annotations on the user's model."""
    prepared = prepare_pt2e(model, quantizer)
    for node in model.graph.nodes:
        if node.op == "call_function":
            node.meta[KEY] = "quantized"
    return prepared


class _Forgiving(Quantizer):
    """Drops what is malformed from the annotations of another quantizer."""

    def __init__(self, inner: Quantizer) -> None:
        self.inner = inner

    def annotate(self, model: GraphModule) -> GraphModule:
        result = self.inner.annotate(model)
        for node, annotation in annotated(result):
            for producer, spec in list(annotation.input_qspec_map.items()):
                if producer not in node.all_input_nodes or not isinstance(spec, QuantizationSpecBase):
                    del annotation.input_qspec_map[producer]
            if not isinstance(annotation.output_qspec, QuantizationSpecBase):
                annotation.output_qspec = QuantizationSpec(torch.int8)
        return result


def _forgiving(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    return prepare_pt2e(model, _Forgiving(quantizer))


def _crashing(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    try:
        return prepare_pt2e(model, quantizer)
    except QuantizerError as e:
        raise KeyError("conv2d") from e


def _mumbling(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    try:
        return prepare_pt2e(model, quantizer)
    except QuantizerError as e:
        raise InvalidAnnotationError("an annotation is invalid") from e


@contextlib.contextmanager
def _truncating_quantize() -> Iterator[None]:
    """Register a CPU kernel of quantize that truncates, as a runtime's import may register its own."""
    library = torch.library.Library("quantized_decomposed", "IMPL")  # type: ignore[no-untyped-call]

    def quantize(
        x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
    ) -> Tensor:
        return (torch.trunc(x / scale) + zero_point).clamp(quant_min, quant_max).to(dtype)

    try:
        library.impl("quantize_per_tensor", quantize, "CPU")  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _mutant(
    name: str,
    harm: str,
    breaking: Callable[[], AbstractContextManager[None]],
    killers: str,
    *cases: str,
) -> Mutant:
    return Mutant(
        name=name,
        harm=harm,
        make=healthy,
        killers=tuple(killers.split()),
        cases=cases,
        kind=Kind.ENGINE,
        breaking=breaking,
    )


ENGINE_MUTANTS = (
    _mutant(
        "reads_scales_a_percent_off",
        "Each op reads numbers 1 % larger than were written.",
        _converting(_read_otherwise(lambda scale, zero: (scale * 1.01, zero))),
        "C2",
        CONV,
        ADD,
    ),
    _mutant(
        "reads_scales_doubled",
        "Each op reads numbers twice as large as were written.",
        _converting(_read_otherwise(lambda scale, zero: (scale * 2.0, zero))),
        "C2 R2",
        CONV,
        ADD,
    ),
    _mutant(
        "reads_zero_points_one_off",
        "Each op reads numbers one step too small.",
        _converting(_read_otherwise(lambda scale, zero: (scale, zero + 1))),
        "C2",
        CONV,
        ADD,
    ),
    _mutant(
        "stores_codes_out_of_range",
        "A kernel that trusts the range of 7 bits overflows.",
        _converting(_store_outside),
        "C2",
        CONV,
    ),
    _mutant(
        "scales_not_in_the_state_dict",
        "A checkpoint of the quantized model lacks the scales of its weights.",
        _converting(_forget_scales),
        "E3",
        CONV,
    ),
    _mutant(
        "annotates_the_users_model",
        "The float model carries annotations, which its next export or quantizer trips over.",
        _preparing(_annotating_in_place, bench),
        "E4",
        CONV,
    ),
    _mutant(
        "quantize_truncates",
        "Another library's import changes how the q/dq graph rounds.",
        _truncating_quantize,
        "R1",
        CONV,
        CONV_TIES,
    ),
    _mutant(
        "malformed_accepted",
        "A typo in an annotation leaves an op float without a word.",
        _preparing(_forgiving),
        "C5",
        EDGE_MISSING,
        NOT_A_SPEC,
    ),
    _mutant(
        "malformed_crashes",
        "A typo in an annotation ends in a KeyError from deep inside.",
        _preparing(_crashing),
        "C5",
        EDGE_MISSING,
        NOT_A_SPEC,
    ),
    _mutant(
        "malformed_unnamed",
        "The error does not say which of a thousand ops is annotated wrongly.",
        _preparing(_mumbling),
        "C5",
        EDGE_MISSING,
        NOT_A_SPEC,
    ),
)
