"""Why a node of an optimized graph computes in float: what stands around it says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Reasons"]

_DEQUANTIZE, _QUANTIZE = "DequantizeLinear", "QuantizeLinear"
_PRODUCTS = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_HAVE_KERNELS = _PRODUCTS | {
    *("Add", "Mul", "Concat", "Where", "Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"),
    *("MaxPool", "ReduceMax", "ReduceMin", "Resize", "DepthToSpace", "ArgMax"),
}
"""Operators of which the runtime makes integer kernels on x86 where all around them is quantized."""

_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Flatten", "Slice", "Squeeze", "Unsqueeze", "Gather", "Concat", "Split", "Expand"),
        *("Tile", "Pad", "Shape", "Size", "Identity", "Cast", "Range", "ReorderInput", "ReorderOutput", "Constant"),
        *("ConstantOfShape", "DepthToSpace", "SpaceToDepth", "Dropout", "MemcpyToHost", "MemcpyFromHost"),
    }
)
_SIXTEEN = frozenset({"int16", "uint16"})


class Reasons:
    """Looks at the surroundings of nodes.

    Args:
        graph: As the runtime wrote it after its optimizations.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._quantized = any(node.op_type in {_QUANTIZE, _DEQUANTIZE} or "Integer" in node.op_type for node in graph)
        self._constants = set(graph.initializers.values())

    def computes(self, node: ir.Node) -> bool:
        """Whether a node does more than put elements elsewhere."""
        return node.op_type not in _MOVES

    def why(self, node: ir.Node) -> str:
        """Return why a node computes in float, and what would change that."""
        if not self._quantized and not self._is_quantized_form(node):
            return "nothing in the model is quantized"
        kind = node.op_type
        if kind in _ACTIVATIONS:
            return self._activation(node)
        if kind not in _HAVE_KERNELS:
            return f"ONNX Runtime has no integer kernel for {kind}"
        return (
            (self._weight(node) if kind in _PRODUCTS else "")
            or self._operands(node)
            or self._results(node)
            or self._bias(node)
            or "quantized on all sides, and yet the runtime found no integer kernel for these types and attributes"
        )

    def _is_quantized_form(self, node: ir.Node) -> bool:
        return node.op_type.startswith(("QLinear", "QGemm", "QAttention"))

    def _weight(self, node: ir.Node) -> str:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if weight is not None and self._is_constant(weight):
            return "its weight is float: store it as int8, one scale for each output channel, behind a DequantizeLinear"
        return ""

    def _operands(self, node: ir.Node) -> str:
        """Look at what it reads."""
        last = 2 if node.op_type in _PRODUCTS else len(node.inputs)
        for place, value in enumerate(node.inputs[:last]):
            if value is None or (place and self._is_parameter(node)):
                continue
            producer = value.producer()
            if producer is None:
                if self._is_constant(value):
                    return f"its operand {value.name} is a float constant: quantize it too"
                return (
                    f"its input {value.name} is a float input of the model: put QuantizeLinear, DequantizeLinear behind"
                )
            if producer.op_type == "Cast" and (summed := _integer_product(producer)):
                return f"it scales the sums of {summed.op_type} {summed.name}, whose result is float: quantize that"
            if producer.op_type != _DEQUANTIZE:
                return f"its input comes from {producer.op_type} {producer.name} in float: quantize that result"
            codes = self._codes(producer)
            stored = producer.inputs[0] is not None and self._is_constant(producer.inputs[0])
            if codes in _SIXTEEN:
                return f"its input has {codes} codes, for which x86 has no integer kernels: take uint8"
            if codes == "int8" and not stored:
                return "its input has int8 codes, which x86 takes in few places: take uint8, zero points 128 higher"
        return ""

    def _bias(self, node: ir.Node) -> str:
        bias = node.inputs[2] if len(node.inputs) > 2 and node.op_type in _PRODUCTS else None
        if bias is None:
            return ""
        producer = bias.producer()
        if producer is None or producer.op_type != _DEQUANTIZE:
            return "its bias is float: store it as int32, in steps of the product of the scales of input and weight"
        return ""

    def _results(self, node: ir.Node) -> str:
        """Look at where its result goes."""
        result = node.outputs[0]
        if result.is_graph_output():
            return "its float result is an output of the model: put QuantizeLinear, DequantizeLinear behind it"
        users = [use.node for use in result.uses()]
        quantizes = [user for user in users if user.op_type == _QUANTIZE]
        if len(quantizes) > 1:
            return f"its result is quantized {len(quantizes)} times, with different qparams: share one QuantizeLinear"
        others = [user for user in users if user.op_type != _QUANTIZE]
        if (
            others
            and others[0].op_type in _ACTIVATIONS
            and any(use.node.op_type == _QUANTIZE for use in others[0].outputs[0].uses())
        ):
            between = f"{others[0].op_type} {others[0].name}"
            return f"{between} stands between it and its QuantizeLinear, whose range does not imply it"
        if others:
            return f"its result goes to {others[0].op_type} {others[0].name} in float: quantize it"
        activation = node.attributes.get("activation")
        if activation is not None and activation.as_string() in _ACTIVATIONS:
            return (
                f"{activation.as_string()} is computed with it in float, for the range of the QuantizeLinear behind "
                "does not imply it: put the smallest code at its lower bound, or clip codes"
            )
        if activation is not None and activation.as_string():
            return f"{activation.as_string()} is computed with it in float, and has no integer kernel here"
        return ""

    def _activation(self, node: ir.Node) -> str:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None and producer.op_type in _PRODUCTS:
            return f"it follows {producer.op_type} {producer.name}, which runs in float"
        return (
            f"ONNX Runtime has no integer kernel for {node.op_type} alone: clip codes behind the QuantizeLinear instead"
        )

    def _codes(self, dequantize: ir.Node) -> str:
        for value in (dequantize.inputs[0], dequantize.inputs[2] if len(dequantize.inputs) > 2 else None):
            if value is not None and value.dtype is not None:
                return value.dtype.name.lower()
        return ""

    def _is_parameter(self, node: ir.Node) -> bool:
        return node.op_type in {"MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "ReduceMax", "ReduceMin"}

    def _is_constant(self, value: ir.Value) -> bool:
        return value in self._constants or value.const_value is not None


def _integer_product(cast: ir.Node) -> ir.Node | None:
    """Return the product of integers whose sums are turned to float."""
    value = cast.inputs[0]
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type in {"MatMulInteger", "ConvInteger"} else None
