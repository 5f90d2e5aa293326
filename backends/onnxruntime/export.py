"""The public exporter: a model as an ONNX file that ONNX Runtime computes on integers."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from quantizer_sdk.backend import copy_without_guards, strip_boundary
from quantizer_sdk.backends.onnxruntime.inspection import Inspection, inspect_onnx
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing
from quantizer_sdk.backends.onnxruntime.translate import translate
from quantizer_sdk.errors import LoweringError, QuantizerError

__all__ = ["Mode", "export_onnx", "save_onnx", "to_onnx"]

Mode = Literal["ort", "portable"]
"""Whether ONNX Runtime's own operators may be used, or ONNX's alone."""


def export_onnx(
    model: nn.Module | ExportedProgram,
    args: Sequence[torch.Tensor],
    path: str | Path,
    *,
    mode: Mode = "ort",
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    output_names: Sequence[str] = (),
) -> None:
    """Write a float or a quantized model as an ONNX file, in the form that ONNX Runtime computes on integers on x86.

    int8 activations become uint8, exactly. A file that ONNX's checker refuses is not written. Inputs are named as the
    arguments of the model's `forward`, dynamic sizes as their `torch.export.Dim`; each node's metadata names the user's
    module and line.

    Args:
        model: What `convert_pt2e` returns, a module of an exported program, the program, or a float `nn.Module`, which
            is exported first. It is left as it is.
        args: CPU tensors, one an input, in the model's own shapes and dtypes.
        path: Of the file, by custom named *.onnx.
        mode: "ort" takes ONNX Runtime's own operators where these are faster; "portable" takes those of ONNX alone,
            opset 20, or 21 where codes of 4 or 16 bits need it.
        dynamic_shapes: As `torch.export.export` takes it; None keeps all shapes as they are.
        integer_io: Whether inputs and outputs are the raw integers where the model quantizes them: see
            `quantizer_sdk.backend.strip_boundary`.
        output_names: Names for the outputs, in order; empty for those that `torch.export` gives them.

    Raises:
        LoweringError: An op has no translation, or torch.export or ONNX's checker refuses the model.
        MissingDependencyError: onnx or onnx_ir is not installed.
    """
    buffer = to_onnx(
        model, args, mode=mode, dynamic_shapes=dynamic_shapes, integer_io=integer_io, output_names=output_names
    )
    with importing():
        import onnx
    try:
        onnx.checker.check_model(buffer, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise LoweringError(f"ONNX's checker refuses the model: {e}") from e
    Path(path).write_bytes(buffer)


def save_onnx(
    model: GraphModule, example_inputs: Sequence[torch.Tensor], path: Path, *, dynamic_shapes: Any = None
) -> Inspection:
    """Write a converted model as an ONNX file for ONNX Runtime; see `quantizer_sdk.backend.Save`."""
    try:
        export_onnx(model, example_inputs, path, dynamic_shapes=dynamic_shapes)
    except OSError as e:
        raise LoweringError(f"cannot write {path}: {e.strerror}") from e
    return inspect_onnx(path)


def to_onnx(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[torch.Tensor],
    *,
    mode: Mode = "ort",
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    output_names: Sequence[str] = (),
) -> bytes:
    """Return the ONNX model of a module; arguments and errors as for `export_onnx`."""
    if mode not in get_args(Mode):
        raise LoweringError(f"mode={mode!r}; expected one of {', '.join(get_args(Mode))}")
    with importing():
        import onnx  # noqa: F401  asked for here, so that its absence is told before the work begins

    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    with _reporting():
        module = _exported_module(model, inputs, dynamic_shapes)
        if integer_io:
            clone, inputs = strip_boundary(module, inputs)
        else:
            clone = copy_without_guards(module)
        return translate(clone, inputs, dynamic_shapes, contrib=mode == "ort", output_names=output_names)


def _exported_module(
    model: nn.Module | ExportedProgram, inputs: tuple[torch.Tensor, ...], dynamic_shapes: Any
) -> GraphModule:
    if isinstance(model, ExportedProgram):
        return model.module()
    if isinstance(model, GraphModule):
        return model
    if model.training:
        raise LoweringError("the model is in training mode; call model.eval() first")
    return torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes).module()


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
