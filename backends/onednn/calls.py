"""The functions that lowered graphs call, by the ops that a saved program names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch._ops import OpOverload
from torch.fx import GraphModule

from quantizer_sdk.backends.onednn.conv_op import CONV, conv
from quantizer_sdk.backends.onednn.conversion_ops import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    LOOK_UP,
    QUANTIZE,
    dequantize,
    dequantize_channels,
    look_up,
    quantize,
)
from quantizer_sdk.backends.onednn.elementwise_ops import ADD, MUL, add, mul
from quantizer_sdk.backends.onednn.linear_op import LINEAR, linear
from quantizer_sdk.backends.onednn.run_time_ops import (
    LINEAR_AT_RUN_TIME,
    QUANTIZE_AT_RUN_TIME,
    linear_at_run_time,
    quantize_at_run_time,
)
from quantizer_sdk.backends.onednn.window_ops import MAX_POOL, MEAN, max_pool, mean

__all__ = ["FUNCTIONS", "call_functions"]

FUNCTIONS: Mapping[OpOverload, Callable[..., Any]] = {
    CONV: conv,
    LINEAR: linear,
    ADD: add,
    MUL: mul,
    MAX_POOL: max_pool,
    MEAN: mean,
    LOOK_UP: look_up,
    QUANTIZE: quantize,
    DEQUANTIZE: dequantize,
    DEQUANTIZE_CHANNELS: dequantize_channels,
    QUANTIZE_AT_RUN_TIME: quantize_at_run_time,
    LINEAR_AT_RUN_TIME: linear_at_run_time,
}


def call_functions(model: GraphModule) -> None:
    """Let a graph that calls the ops call the functions, which are faster."""
    for node in model.graph.nodes:
        if node.op == "call_function" and node.target in FUNCTIONS and not node.kwargs:
            node.target = FUNCTIONS[node.target]
    model.recompile()
