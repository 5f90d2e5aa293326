"""From an exported module to a program for ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import copy_without_guards, strip_boundary
from quantizer_sdk.backends.onnxruntime.export import export_onnx
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing
from quantizer_sdk.backends.onnxruntime.runtime import ORTProgram
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate
from quantizer_sdk.backends.onnxruntime.session import SessionSettings
from quantizer_sdk.errors import LoweringError, QuantizerError

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
    buffer = to_onnx(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io)
    settings = SessionSettings() if settings is None else settings
    if settings.exact_sums is None:
        settings = dataclasses.replace(settings, exact_sums=sums_saturate())
    return ORTProgram(buffer, settings)


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


def to_onnx(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
) -> bytes:
    """Return the ONNX model of an exported module; arguments and errors as for `lower`."""
    with importing():
        import onnx  # noqa: F401  asked for here, so that their absence is told before the work begins
        import onnxruntime  # noqa: F401

    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    with _reporting():
        if integer_io:
            clone, inputs = strip_boundary(model, inputs)
        else:
            clone = copy_without_guards(model)
        return export_onnx(clone, inputs, dynamic_shapes)


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """Turn whatever torch.export raises inside the block into a LoweringError."""
    try:
        yield
    except QuantizerError:
        raise
    except Exception as e:
        reason = textwrap.shorten(str(e), 400, placeholder=" ...") or "no message"
        raise LoweringError(f"cannot lower the model: exporting it failed with {type(e).__name__}: {reason}") from e
