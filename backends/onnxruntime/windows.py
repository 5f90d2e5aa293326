"""What slides windows over an image: convolutions and pools, as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["conv", "conv_transpose", "global_pool", "pool"]


def conv(call: Call) -> ir.Value:
    """Conv, with padding in numbers."""
    weight = call.example(call.args["weight"])
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    _require_rank(call, "input", rank + 2)
    dilations = call.integers("dilation", rank)
    if isinstance(call.args["padding"], str):
        reach = [d * (k - 1) if call.args["padding"] == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
        pads = [total // 2 for total in reach] + [total - total // 2 for total in reach]
    else:
        pads = call.integers("padding", rank) * 2
    return call.emit(
        "Conv",
        *(call.value(call.args["input"]), call.value(call.args["weight"]), call.optional("bias")),
        kernel_shape=kernel,
        strides=call.integers("stride", rank),
        pads=pads,
        dilations=dilations,
        group=call.args["groups"],
    )


def conv_transpose(call: Call) -> ir.Value:
    """ConvTranspose."""
    kernel = list(call.example(call.args["weight"]).shape[2:])
    rank = len(kernel)
    _require_rank(call, "input", rank + 2)
    return call.emit(
        "ConvTranspose",
        *(call.value(call.args["input"]), call.value(call.args["weight"]), call.optional("bias")),
        kernel_shape=kernel,
        strides=call.integers("stride", rank),
        pads=call.integers("padding", rank) * 2,
        output_padding=call.integers("output_padding", rank),
        dilations=call.integers("dilation", rank),
        group=call.args["groups"],
    )


def pool(call: Call, operator: str, rank: int) -> ir.Value:
    """MaxPool or AveragePool over windows."""
    _require_rank(call, "self", rank + 2)
    call.require(ceil_mode=False, divisor_override=None)
    kernel = call.integers("kernel_size", rank)
    averages = "count_include_pad" in call.args
    return call.emit(
        operator,
        call.value(call.args["self"]),
        kernel_shape=kernel,
        strides=call.integers("stride", rank) or kernel,
        pads=call.integers("padding", rank) * 2,
        dilations=None if averages else call.integers("dilation", rank),
        count_include_pad=int(call.args["count_include_pad"]) if averages else None,
    )


def global_pool(call: Call) -> ir.Value:
    """GlobalAveragePool, for an output of one element an image."""
    _require_rank(call, "self", 2 + len(call.args["output_size"]))
    if set(call.integers("output_size")) != {1}:
        raise call.refuse(f"output_size={call.args['output_size']}; expected one element")
    return call.emit("GlobalAveragePool", call.value(call.args["self"]))


def _require_rank(call: Call, name: str, rank: int) -> None:
    """Refuse operands without a batch axis, which aten takes and ONNX does not."""
    found = call.example(call.args[name]).dim()
    if found != rank:
        raise call.refuse(f"an operand of rank {found}; expected {rank}")
