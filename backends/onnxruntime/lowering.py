"""From an exported module to a program for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backends.onnxruntime.export import to_onnx
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing
from quantizer_sdk.backends.onnxruntime.runtime import ORTProgram, recommended
from quantizer_sdk.backends.onnxruntime.session import SessionSettings

__all__ = ["lower", "lower_unoptimized", "to_onnx"]


def lower(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    settings: SessionSettings | None = None,
) -> ORTProgram:
    """Lower a float or a converted model to a program that runs on ONNX Runtime's CPU kernels.

    Args:
        model: A module of an exported program, float or converted to `quantized_decomposed` operators. It is left as
            it is.
        example_inputs: CPU tensors in the model's own shapes and dtypes, one an input.
        dynamic_shapes: As `torch.export.export` takes it, such as `({0: Dim("batch", max=8)},)`; the example's size in
            such a dimension must be 2 or more. None keeps all shapes as they are.
        integer_io: Whether inputs and outputs are the raw integers: see `strip_boundary`.
        settings: How the runtime is set up; None takes the recommended `SessionSettings()`.

    Returns:
        The program, not yet loaded: what only the runtime refuses, its first `run` reports.

    Raises:
        LoweringError: torch.export refuses the model, or an op has no translation to ONNX.
        MissingDependencyError: onnxruntime, onnx or onnx_ir is not installed.
    """
    with importing():
        import onnxruntime  # noqa: F401  asked for here, so that its absence is told before the work begins

    buffer = to_onnx(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io)
    return ORTProgram(buffer, recommended(settings))


def lower_unoptimized(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
) -> ORTProgram:
    """Lower for sessions that run the graph as it is, in float between quantize and dequantize; see `lower`."""
    settings = SessionSettings(optimize=False)
    return lower(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io, settings=settings)
