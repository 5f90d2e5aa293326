"""From a converted graph to one of integer ops that runs at once, without a compiler."""

from __future__ import annotations

from collections.abc import Sequence

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

__all__ = ["lower_graph"]


def lower_graph(
    model: GraphModule, example_inputs: Sequence[torch.Tensor] = (), *, integer_io: bool = False
) -> GraphModule:
    """Return a copy of a converted model in which what is quantized runs on integers.

    Args:
        model: A module of an exported program, converted to `quantized_decomposed` ops; left as it is.
        example_inputs: One tensor an input; only `integer_io` asks for them.
        integer_io: Whether inputs and outputs are the raw integers: see `strip_boundary`.
    """
    clone = strip_boundary(model, example_inputs)[0] if integer_io else copy_without_guards(model)
    editor = Editor(clone)
    arrange(editor)
    fuse_gemms(editor)
    fuse_sums_and_products(editor)
    fuse_means(editor)
    fuse_functions(editor)
    convert_the_rest(editor)
    editor.finish()
    return clone
