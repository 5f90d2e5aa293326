"""ONNX Runtime's quantize_static of transposed convolutions: one that it can quantize has no integer kernel.

It writes q/dq around it all the same, and the session computes it in float between them: slower, and less exact. One
with groups and a bias raises ValueError, for scales are counted by the weight's axis 1. Exit status 1: so it is.
Needs onnx and onnxruntime alone.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static


class Once(CalibrationDataReader):
    """One batch."""

    def __init__(self, batch: np.ndarray) -> None:
        self._batches = iter([{"x": batch}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return it, and then None."""
        return next(self._batches, None)


@contextlib.contextmanager
def quantized(groups: int) -> Iterator[str]:
    """Quantize a transposed convolution; yield the path of its file."""
    numbers = np.random.default_rng(0)
    weight = numbers.normal(size=(4, 6 // groups, 3, 3)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(6, np.float32), "b")]
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "model", ends[:1], ends[1:], constants)
    with tempfile.TemporaryDirectory() as folder:
        source, target = str(Path(folder, "float.onnx")), str(Path(folder, "int8.onnx"))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
        batch = numbers.normal(size=(1, 4, 5, 5)).astype(np.float32)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(source, target, Once(batch), per_channel=True, **kinds)
        yield target


with quantized(1) as path:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{path}.optimized"
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kernels = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
print("one group runs as", ", ".join(kernels))
raised = ""
try:
    with quantized(2):
        pass
except ValueError as e:
    raised = str(e)
print("two groups:", f"ValueError: {raised}" if raised else "no error")
sys.exit("ConvTranspose" in kernels and bool(raised))
