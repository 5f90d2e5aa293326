"""ONNX Runtime's quantize_static leaves these float, although it quantizes their like. Exit status 1: it does.

A mean by ReduceMean, where it quantizes GlobalAveragePool; an average pool that reads the model's input, where it
quantizes one behind another quantized op. Needs onnx and onnxruntime alone.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static


class Once(CalibrationDataReader):
    """One batch."""

    def __init__(self, batch: np.ndarray) -> None:
        self._batches = iter([{"x": batch}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return it, and then None."""
        return next(self._batches, None)


def quantizes(operator: str, *constants: Any, **attributes: Any) -> int:
    """Count the quantizes around one operator."""
    names = [tensor.name for tensor in constants]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph([node], "model", ends[:1], ends[1:], list(constants))
    with tempfile.TemporaryDirectory() as folder:
        source, target = str(Path(folder, "float.onnx")), str(Path(folder, "int8.onnx"))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
        batch = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(source, target, Once(batch), **kinds)
        return sum(node.op_type == "QuantizeLinear" for node in onnx.load(target).graph.node)


found = {
    "GlobalAveragePool": quantizes("GlobalAveragePool"),
    "ReduceMean": quantizes("ReduceMean", numpy_helper.from_array(np.asarray([2, 3]), "axes"), keepdims=0),
    "AveragePool": quantizes("AveragePool", kernel_shape=[2, 2]),
}
print("quantizes:", ", ".join(f"{operator} {count}" for operator, count in found.items()))
sys.exit(found["GlobalAveragePool"] > 0 and found["ReduceMean"] == 0 and found["AveragePool"] == 0)
