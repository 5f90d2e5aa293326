"""What slides windows over an image: convolutions and pools, as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantizer_sdk.backends.onnxruntime.operands import (
    Activation,
    Weight,
    activation_of,
    bias_of,
    gives_codes,
    weight_of,
)
from quantizer_sdk.backends.onnxruntime.qdq_nodes import DEQUANTIZE

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["adaptive_average", "adaptive_max", "conv", "conv_transpose", "convolution", "pool"]


_MIDDLE = 128


def conv(call: Call) -> ir.Value:
    """Conv, with padding in numbers; ConvInteger of codes whose result is float, where the kernel is the faster."""
    kernel = _sizes(call.example(call.args["weight"]).shape[2:])
    rank = len(kernel)
    dilations = call.integers("dilation", rank)
    if isinstance(call.args["padding"], str):
        reach = [d * (k - 1) if call.args["padding"] == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
        pads = [total // 2 for total in reach] + [total - total // 2 for total in reach]
    else:
        pads = call.integers("padding", rank) * 2
    attributes = {
        "kernel_shape": kernel,
        "strides": call.integers("stride", rank),
        "pads": pads,
        "dilations": dilations,
        "group": call.args["groups"],
    }
    batched = call.example(call.args["input"]).dim() == rank + 2
    if batched and rank <= 2 and call.args["groups"] == 1:
        product = _integer_conv(call, attributes)
        if product is not None:
            return product
    x = _batched(call, call.args["input"], rank + 2)
    result = call.emit("Conv", x, call.value(call.args["weight"]), call.optional("bias"), **attributes)
    return result if batched else _unbatched(call, result)


def _integer_conv(call: Call, attributes: dict[str, Any]) -> ir.Value | None:
    """ConvInteger, then the scales and the bias in float; None where the result is quantized, or an operand is float.

    The weights are turned to uint8: the kernel for int8 has no vector instructions.
    """
    x = call.args["input"]
    weight = weight_of(call, call.args["weight"], 0)
    if weight is None or weight.zero_point is not None or weight.codes.dtype is not torch.int8:
        return None
    if x.target is DEQUANTIZE and gives_codes(call.node):
        return None
    activation = activation_of(call, x)
    if activation is None or activation.per_token:
        return None
    product, wanted = _by_parts(call, activation, weight, attributes), call.example().dtype
    return product if wanted is torch.float32 else call.cast(product, wanted)


def _by_parts(call: Call, x: Activation, weight: Weight, attributes: dict[str, Any]) -> ir.Value:
    """Multiply and add in parts; a signal is an image of one row, for which the kernel is the faster."""
    unsigned = (weight.codes.to(torch.int16) + _MIDDLE).to(torch.uint8)
    codes = x.codes
    signal = unsigned.dim() == 3
    row = call.int64("row", [2]) if signal else None
    if signal:
        unsigned, codes = unsigned.unsqueeze(2), call.emit("Unsqueeze", codes, row)
        pads = attributes["pads"]
        spread = {name: [1, *attributes[name]] for name in ("kernel_shape", "strides", "dilations")}
        attributes = {**attributes, **spread, "pads": [0, pads[0], 0, pads[1]]}
    middle = call.constant("weight_zero_point", torch.tensor(_MIDDLE, dtype=torch.uint8))
    sums = call.emit("ConvInteger", codes, call.constant("weight", unsigned), x.zero_point, middle, **attributes)
    if signal:
        sums = call.emit("Squeeze", sums, row)
    beside = [-1] + [1] * (weight.codes.dim() - 2)
    column = weight.scale.reshape(beside) if weight.scale.dim() else weight.scale
    scale = call.emit("Mul", x.scale, call.constant("weight_scale", column))
    product = call.emit("Mul", call.emit("Cast", sums, to=int(call.graph.dtype(torch.float32))), scale)
    bias = bias_of(call, call.args["bias"])
    if bias is None:
        return product
    return call.emit("Add", product, call.emit("Reshape", bias, call.int64("column", beside)))


def conv_transpose(call: Call) -> ir.Value:
    """ConvTranspose."""
    kernel = _sizes(call.example(call.args["weight"]).shape[2:])
    rank = len(kernel)
    result = call.emit(
        "ConvTranspose",
        *(_batched(call, call.args["input"], rank + 2), call.value(call.args["weight"]), call.optional("bias")),
        kernel_shape=kernel,
        strides=call.integers("stride", rank),
        pads=call.integers("padding", rank) * 2,
        output_padding=call.integers("output_padding", rank),
        dilations=call.integers("dilation", rank),
        group=call.args["groups"],
    )
    return result if call.example(call.args["input"]).dim() == rank + 2 else _unbatched(call, result)


def convolution(call: Call) -> ir.Value:
    """The op that both become where an exported program was decomposed."""
    return conv_transpose(call) if call.args["transposed"] else conv(call)


def pool(call: Call, operator: str, rank: int) -> ir.Value | tuple[ir.Value, ...]:
    """MaxPool or AveragePool over windows."""
    kernel = call.integers("kernel_size", rank)
    strides = call.integers("stride", rank) or kernel
    padding = call.integers("padding", rank)
    averages = "count_include_pad" in call.args
    x = _batched(call, call.args["self"], rank + 2)
    result = call.emit(
        operator,
        x,
        kernel_shape=kernel,
        strides=strides,
        pads=padding * 2,
        dilations=None if averages else call.integers("dilation", rank),
        ceil_mode=int(call.args["ceil_mode"]) or None,
        count_include_pad=int(call.args["count_include_pad"]) if averages else None,
    )
    divisor = call.args.get("divisor_override")
    if divisor is not None:
        if any(padding) or call.args["ceil_mode"]:
            raise call.refuse(f"divisor_override={divisor} with padding; expected neither padding nor ceil_mode")
        count = 1
        for size in kernel:
            count *= size
        result = call.emit("Mul", result, call.value(count / divisor))
    return result if call.example(call.args["self"]).dim() == rank + 2 else _unbatched(call, result)


def adaptive_average(call: Call, rank: int) -> ir.Value:
    """GlobalAveragePool for one element an image; else AveragePool, or a matrix of weights an axis where it must be."""
    asked = call.integers("output_size", rank)
    shape = call.example(call.args["self"]).shape
    if len(shape) == rank + 2 and set(asked) == {1}:
        return call.emit("GlobalAveragePool", call.value(call.args["self"]))
    sizes = _fixed(call, shape[len(shape) - rank :])
    if all(size % part == 0 for size, part in zip(sizes, asked, strict=True)):
        return _evenly(call, "AveragePool", sizes, asked)
    x, places = call.value(call.args["self"]), len(shape)
    for axis, (size, part) in enumerate(zip(sizes, asked, strict=True), places - rank):
        order = list(range(places))
        order[axis], order[-1] = order[-1], order[axis]
        turned = call.emit("Transpose", x, perm=order)
        x = call.emit("MatMul", turned, call.constant("means", _means(size, part)))
        x = call.emit("Transpose", x, perm=order)
    return x


def adaptive_max(call: Call, rank: int) -> tuple[ir.Value, ...]:
    """MaxPool, where the sizes divide each other; the places of the maxima are not given."""
    asked = call.integers("output_size", rank)
    shape = call.example(call.args["self"]).shape
    sizes = _fixed(call, shape[len(shape) - rank :])
    if any(size % part for size, part in zip(sizes, asked, strict=True)):
        raise call.refuse(f"output_size={asked} of an image of {sizes}; expected sizes that divide it")
    return (_evenly(call, "MaxPool", sizes, asked),)


def _evenly(call: Call, operator: str, sizes: list[int], asked: list[int]) -> ir.Value:
    windows = [size // part for size, part in zip(sizes, asked, strict=True)]
    x = _batched(call, call.args["self"], len(sizes) + 2)
    result = call.emit(operator, x, kernel_shape=windows, strides=windows)
    return result if call.example(call.args["self"]).dim() == len(sizes) + 2 else _unbatched(call, result)


def _means(size: int, parts: int) -> torch.Tensor:
    """Return the weights with which each input goes into each output, whose windows may overlap."""
    weights = torch.zeros(size, parts)
    for part in range(parts):
        start, end = part * size // parts, -(-(part + 1) * size // parts)
        weights[start:end, part] = 1 / (end - start)
    return weights


def _fixed(call: Call, sizes: Any) -> list[int]:
    found = list(sizes)
    if not all(isinstance(size, int) for size in found):
        raise call.refuse(f"an image of dynamic size {tuple(found)}; expected fixed sizes")
    return found


def _sizes(shape: Any) -> list[int]:
    return [int(size) for size in shape]


def _batched(call: Call, node: Any, rank: int) -> ir.Value:
    """Return an image with a batch axis, which ONNX asks for."""
    x, found = call.value(node), call.example(node).dim()
    if found == rank:
        return x
    if found != rank - 1:
        raise call.refuse(f"an operand of rank {found}; expected {rank}")
    return call.emit("Unsqueeze", x, call.int64("batch", [0]))


def _unbatched(call: Call, value: ir.Value) -> ir.Value:
    return call.emit("Squeeze", value, call.int64("batch", [0]))
