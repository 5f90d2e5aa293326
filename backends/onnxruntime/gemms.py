"""Products by a matrix, in the form that ONNX Runtime computes on integers for each kind of operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantizer_sdk.backends.onnxruntime.onnx_graph import CONTRIB
from quantizer_sdk.backends.onnxruntime.operands import (
    Activation,
    Weight,
    activation_of,
    bias_of,
    gives_codes,
    weight_of,
)
from quantizer_sdk.backends.onnxruntime.packed_weights import packed_product
from quantizer_sdk.backends.onnxruntime.qdq_nodes import DEQUANTIZE

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["addmm", "linear", "matmul"]

qd = torch.ops.quantized_decomposed
_GROUPS = qd.dequantize_per_channel_group.default


def linear(call: Call) -> ir.Value:
    """Integers where both operands are; else Gemm of a matrix, MatMul and Add for other ranks."""
    x, weight, bias = call.args["input"], call.args["weight"], call.args["bias"]
    product = _integer_product(call, x, weight, bias, axis=0)
    if product is None and x.target is not DEQUANTIZE:
        product = packed_product(call, x, weight, bias)
    if product is not None:
        return product
    operands = (call.value(x), call.value(weight), call.optional("bias"))
    if call.example(x).dim() == 2 and weight.target is not _GROUPS:
        return call.emit("Gemm", *operands, transB=1)
    product = call.emit("MatMul", operands[0], call.emit("Transpose", operands[1], perm=[1, 0]))
    return product if bias is None else call.emit("Add", product, operands[2])


def addmm(call: Call) -> ir.Value:
    """The same by a matrix that is not transposed."""
    matrices, bias = (call.args["mat1"], call.args["mat2"]), call.args["self"]
    alpha, beta = float(call.args["alpha"]), float(call.args["beta"])
    if alpha == beta == 1 and call.example(bias).dim() == 1:
        product = _integer_product(call, *matrices, bias, axis=1)
        if product is not None:
            return product
    return call.emit("Gemm", *map(call.value, (*matrices, bias)), alpha=alpha, beta=beta)


def matmul(call: Call) -> ir.Value:
    """The same without a bias; two activations are left to the runtime, which makes an integer kernel of MatMul."""
    other = call.args["mat2"] if "mat2" in call.args else call.args["other"]
    x = call.args["self"]
    if call.example(x).dim() >= 2 and call.example(other).dim() == 2:
        product = _integer_product(call, x, other, None, axis=1)
        if product is not None:
            return product
    return call.emit("MatMul", call.value(x), call.value(other))


def _integer_product(call: Call, x: Any, matrix: Any, bias: Any, *, axis: int) -> ir.Value | None:
    """Multiply integers where the result is float; None where an operand is none of integers.

    Where the result is quantized, quantize-dequantize nodes say more: the kernel gives codes.
    """
    weight = weight_of(call, matrix, axis)
    if weight is None or (x.target is DEQUANTIZE and gives_codes(call.node)):
        return None
    activation = activation_of(call, x)
    if activation is None:
        return None
    columns = weight.codes.t() if axis == 0 else weight.codes
    multiply = _to_float if activation.static and call.graph.contrib else _by_parts
    product, wanted = multiply(call, activation, weight, columns, bias), call.example().dtype
    return product if wanted is torch.float32 else call.cast(product, wanted)


def _to_float(call: Call, x: Activation, weight: Weight, columns: torch.Tensor, bias: Any) -> ir.Value:
    """MatMulIntegerToFloat: f32(sum) * f32(sx * sw) + bias."""
    zero = None if weight.zero_point is None else call.constant("weight_zero_point", weight.zero_point)
    operands = (x.codes, call.constant("weight", columns), x.scale, call.constant("weight_scale", weight.scale))
    return call.emit(f"{CONTRIB}::MatMulIntegerToFloat", *operands, x.zero_point, zero, bias_of(call, bias))


def _by_parts(call: Call, x: Activation, weight: Weight, columns: torch.Tensor, bias: Any) -> ir.Value:
    """The same of standard operators, which ONNX Runtime makes DynamicQuantizeMatMul of where it can."""
    zero = None if weight.zero_point is None else call.constant("weight_zero_point", weight.zero_point)
    sums = call.emit("MatMulInteger", x.codes, call.constant("weight", columns), x.zero_point, zero)
    if x.offset is not None:
        codes = columns.to(torch.int32) - (0 if weight.zero_point is None else weight.zero_point.to(torch.int32))
        column_sums = call.constant("column_sums", codes.sum(0, dtype=torch.int32))
        sums = call.emit("Sub", sums, call.emit("Mul", x.offset, column_sums))
    real, scale = call.emit("Cast", sums, to=int(call.graph.dtype(torch.float32))), call.constant("scale", weight.scale)
    if x.per_token:  # ORT 1.32 takes a product of both scales for the scale of one tensor, and computes with the first
        product = call.emit("Mul", call.emit("Mul", real, x.scale), scale)
    else:
        product = call.emit("Mul", real, call.emit("Mul", x.scale, scale))
    return product if bias is None else call.emit("Add", product, bias_of(call, bias))
