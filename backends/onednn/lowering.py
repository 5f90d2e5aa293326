"""From a converted graph to one of integer ops that runs at once, without a compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import copy_without_guards, strip_boundary
from quantizer_sdk.backends.onednn.editing import Editor
from quantizer_sdk.backends.onednn.forms import arrange
from quantizer_sdk.backends.onednn.gemms import fuse_gemms
from quantizer_sdk.backends.onednn.pointwise import (
    convert_the_rest,
    fuse_functions,
    fuse_means,
    fuse_sums_and_products,
)
from quantizer_sdk.backends.onednn.program import OneDNNProgram
from quantizer_sdk.backends.onednn.run_time_gemms import fuse_run_time_gemms
from quantizer_sdk.backends.onednn.saturation import sums_saturate
from quantizer_sdk.errors import NotExportedError

__all__ = ["lower_eager"]


def lower_eager(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor] = (),
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    saturating: bool | None = None,
) -> OneDNNProgram:
    """Lower a float or a converted model to a graph of oneDNN's integer kernels, which runs at once in eager torch.

    Nothing is compiled or traced. The kernels take uint8 codes and int8 weights with a scale for each output; int8
    codes and per-tensor scales become these, exactly. What has no kernel that is right stays float between conversions,
    and `OneDNNProgram.kernels` says so.

    Args:
        model: A module of an exported program, float or converted to `quantized_decomposed` ops. It is left as it is;
            tensors that stay as they are, are shared with it.
        example_inputs: CPU tensors in the model's own shapes and dtypes. Lowering needs them for `integer_io` only,
            the program for `kernels`, `delegation` and `save`.
        dynamic_shapes: As `torch.export.export` takes it, for `save`; the program itself takes whatever sizes the
            graph allows.
        integer_io: Whether inputs and outputs are the raw integers: see `strip_boundary`.
        saturating: Whether the program is for a CPU whose kernels add products of 8-bit weights with loss: there, gemms
            whose weights need the eighth bit stay float. None asks this CPU.

    Raises:
        NotExportedError: The model is no graph module.
        LoweringError: `integer_io` without one example for each input.
    """
    if not isinstance(model, GraphModule):
        found = type(model).__name__
        raise NotExportedError(f"got a {found}; expected the module of an exported program, as convert_pt2e returns it")
    inputs = tuple(example_inputs)
    if integer_io:
        clone, inputs = strip_boundary(model, inputs)
    else:
        clone = copy_without_guards(model)
    editor = Editor(clone)
    arrange(editor)
    saturating = sums_saturate() if saturating is None else saturating
    fuse_gemms(editor, saturating=saturating)
    fuse_run_time_gemms(editor, saturating=saturating)
    fuse_sums_and_products(editor)
    fuse_means(editor)
    fuse_functions(editor)
    convert_the_rest(editor)
    editor.finish()
    return OneDNNProgram(clone, inputs, dynamic_shapes)
