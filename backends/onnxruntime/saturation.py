"""Whether this CPU's kernels saturate when they multiply uint8 by int8: found out by doing it."""

from __future__ import annotations

import functools

import numpy as np
import torch

from quantizer_sdk.backends.onnxruntime.onnx_graph import OnnxGraph, importing
from quantizer_sdk.backends.onnxruntime.session import SessionSettings, open_session

__all__ = ["sums_saturate"]

_LENGTH = 64


@functools.cache
def sums_saturate() -> bool:
    """Multiply the largest codes, and see whether the sum is short.

    Without VNNI, x86 adds two products in 16 bits: 2·255·127 does not fit.

    Raises:
        MissingDependencyError: onnxruntime or onnx_ir is not installed.
    """
    with importing():
        import onnxruntime  # noqa: F401  asked for here, so that its absence is told as such
    graph = OnnxGraph()
    row = graph.input("row", torch.zeros(1, _LENGTH, dtype=torch.uint8))
    column = graph.constant("column", torch.full((_LENGTH, 1), 127, dtype=torch.int8))
    total = graph.call("total", "MatMulInteger", row, column)
    model = graph.to_bytes([(total, torch.zeros(1, 1, dtype=torch.int32))])
    session = open_session(model, SessionSettings(exact_sums=False))
    (result,) = session.run(None, {"row": np.full((1, _LENGTH), 255, np.uint8)})
    return int(result[0, 0]) != _LENGTH * 255 * 127
