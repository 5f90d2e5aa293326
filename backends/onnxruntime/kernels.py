"""What ONNX Runtime executes, read back from the graph that it writes after its optimizations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from quantizer_sdk.backend import Delegation, Kernel
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["decode_graph", "decode_kernels", "delegation_of", "multiplies_integers"]

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# The operands of integer kernels that are tensors of the model: all others are scales and zero points.
_DATA = {
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "QLinearSigmoid": (0,),
    "QLinearLeakyRelu": (0,),
    "QLinearSoftmax": (0,),
    "QLinearAveragePool": (0,),
    "QLinearGlobalAveragePool": (0,),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "ConvInteger": (0, 1),
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
}
# The operand whose type is that of the result, a zero point; without it the result is float.
_RESULT = {
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QGemm": 8,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QLinearSigmoid": 4,
    "QLinearLeakyRelu": 4,
    "QLinearSoftmax": 4,
    "QLinearAveragePool": 4,
    "QLinearGlobalAveragePool": 4,
    "QLinearConcat": 1,
    "QuantizeLinear": 2,
}
# These multiply integers even where their result is float.
_GEMMS = frozenset({"QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "ConvInteger"})
_FLOAT_RESULTS = frozenset({"DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_INT32_RESULTS = frozenset({"MatMulInteger", "ConvInteger"})
_EIGHT_BITS = frozenset({"int8", "uint8"})
_TRUTH_RESULTS = frozenset({"And", "Or", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN"})
# Operands after the first that say how to move data, such as a shape.
_ONLY_MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "ReorderInput", "ReorderOutput"})
_MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Slice", "Squeeze", "Unsqueeze", "Gather"})


def decode_kernels(optimized: bytes) -> tuple[Kernel, ...]:
    """Decode the nodes of an optimized graph, in order of execution.

    A node's name is its operator ("QLinearConv", "QGemm", "Conv", ...). The data types are ONNX's in lower case
    ("uint8", "int8", "int32", "float"), of operands that hold data: scales, zero points, shapes and axes are left out.

    Args:
        optimized: The bytes of the ONNX file that the runtime wrote.

    Raises:
        MissingDependencyError: onnx or onnx_ir is not installed.
    """
    with importing():
        import onnx
        import onnx_ir

    graph = onnx_ir.from_proto(onnx.ModelProto.FromString(optimized)).graph
    return tuple(kernel for _, kernel in decode_graph(graph))


def delegation_of(kernels: Sequence[Kernel]) -> Delegation:
    """Count what runs on integers or converts: in one graph, of which the float kernels are what was not taken."""
    taken = [kernel.integer or kernel.conversion or kernel.name in _GEMMS for kernel in kernels]
    floats = tuple(kernel.name for kernel, is_taken in zip(kernels, taken, strict=True) if not is_taken)
    return Delegation(subgraphs=1, delegated=sum(taken), non_delegated=floats)


def multiplies_integers(kernel: Kernel) -> bool:
    """Whether a kernel multiplies integers, even where its result is float."""
    return kernel.name in _GEMMS and any(kind in _EIGHT_BITS for kind in kernel.inputs)


def decode_graph(graph: ir.Graph) -> Iterator[tuple[ir.Node, Kernel]]:
    """Yield the nodes of an optimized graph, each with what it computes on.

    The runtime's file has types for inputs, constants and outputs only, so the rest is derived.
    """
    types: dict[ir.Value, str] = {}
    for node in graph:
        inputs = tuple(_type(types, value) for value in _operands(node))
        outputs = tuple(_result_type(types, node) for _ in node.outputs)
        if node.op_type == "DynamicQuantizeLinear":
            outputs = ("uint8", "float", "uint8")
        types.update(zip(node.outputs, outputs, strict=True))
        conversion = node.op_type in _CONVERSIONS
        kernel = Kernel(
            name=node.op_type,
            inputs=inputs,
            outputs=outputs,
            integer=not conversion and all(kind.startswith(("int", "uint")) for kind in (*inputs, *outputs)),
            conversion=conversion,
            moves=node.op_type in _ONLY_MOVES,
        )
        yield node, kernel


def _operands(node: ir.Node) -> list[ir.Value]:
    """Return the operands that hold data."""
    places = range(len(node.inputs))
    if node.op_type == "QLinearConcat":
        places = range(2, len(node.inputs), 3)
    elif node.op_type in _MOVES:
        places = range(1)
    chosen = _DATA.get(node.op_type, places)
    values = [node.inputs[place] for place in chosen if place < len(node.inputs)]
    return [value for value in values if value is not None]


def _result_type(types: dict[ir.Value, str], node: ir.Node) -> str:
    """Return the type of a node's result: that of its zero point, or what the operator fixes, or its operand's."""
    from onnx_ir import DataType

    if node.op_type in _FLOAT_RESULTS:
        return "float"
    if node.op_type in _INT32_RESULTS:
        return "int32"
    if node.op_type == "Cast":
        return DataType(node.attributes["to"].as_int()).name.lower()
    if node.op_type in _TRUTH_RESULTS:
        return "bool"
    if node.op_type == "Shape":
        return "int64"
    place = _RESULT.get(node.op_type, 1 if node.op_type == "Where" else 0)
    value = node.inputs[place] if place < len(node.inputs) else None
    return "float" if value is None else _type(types, value)


def _type(types: dict[ir.Value, str], value: ir.Value) -> str:
    known = types.get(value)
    if known is not None:
        return known
    return "unknown" if value.dtype is None else value.dtype.name.lower()
