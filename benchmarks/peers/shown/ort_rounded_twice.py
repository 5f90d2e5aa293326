"""ONNX Runtime's quantize_static rounds a linear on three axes twice when an activation follows.

Its own preparation makes Reshape, Gemm, Reshape of it. The Gemm's result is quantized over its own range; the clip
behind the Reshape is dropped, and its range quantizes the same numbers anew. Exit status 1: so it is.
Needs onnx and onnxruntime alone.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Once(CalibrationDataReader):
    """One batch."""

    def __init__(self, batch: np.ndarray) -> None:
        self._batches = iter([{"x": batch}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return it, and then None."""
        return next(self._batches, None)


numbers = np.random.default_rng(0)
values = {"w": numbers.normal(size=(8, 6)), "b": numbers.normal(size=6), "zero": 0.0, "six": 6.0}
constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()]
nodes = [
    helper.make_node("MatMul", ["x", "w"], ["product"]),
    helper.make_node("Add", ["product", "b"], ["linear"]),
    helper.make_node("Clip", ["linear", "zero", "six"], ["y"]),
]
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5, size]) for name, size in (("x", 8), ("y", 6))]
model = helper.make_model(
    helper.make_graph(nodes, "model", ends[:1], ends[1:], constants),
    opset_imports=[helper.make_opsetid("", 20)],
    ir_version=10,
)
with tempfile.TemporaryDirectory() as folder:
    source, prepared, target = (str(Path(folder, name)) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
    onnx.save(model, source)
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    batch = numbers.normal(size=(2, 5, 8)).astype(np.float32)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, target, Once(batch), per_channel=True, **kinds)
    graph = onnx.load(target).graph
order = [node.op_type for node in graph.node if node.op_type != "DequantizeLinear"]
scales = {
    tensor.name: float(numpy_helper.to_array(tensor))
    for tensor in graph.initializer
    if tensor.dims == [] and tensor.data_type == TensorProto.FLOAT
}
behind = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"][-2:]
print("in the file, without dequantizes:", ", ".join(order))
print("scales of the last two quantizes:", ", ".join(f"{scales[name]:.5f}" for name in behind))
sys.exit(
    "Clip" not in order
    and order[-4:] == ["Gemm", "QuantizeLinear", "Reshape", "QuantizeLinear"]
    and scales[behind[0]] != scales[behind[1]]
)
