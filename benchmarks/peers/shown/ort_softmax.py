"""ONNX Runtime's quantize_static gives a softmax the scale 1/255, where its kernel is one code off.

The kernel takes how many codes make 1 as an integer: of float32's 1/255 that is 254. At 1/256 it is exact.
Exit status 1: so it is. Needs onnx and onnxruntime alone.
"""

import sys
import tempfile
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


def results(file: onnx.ModelProto, batch: np.ndarray, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    """Run a file at a level of optimization."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": batch})[0]


batch = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 10]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "model", ends[:1], ends[1:])
with tempfile.TemporaryDirectory() as folder:
    source, target = str(Path(folder, "float.onnx")), str(Path(folder, "int8.onnx"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), source)
    quantize_static(source, target, Once(batch), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    file = onnx.load(target)
(place,) = [place for place, tensor in enumerate(file.graph.initializer) if tensor.name == "y_scale"]
levels = onnxruntime.GraphOptimizationLevel
off = {}
for denominator in (1 / float(numpy_helper.to_array(file.graph.initializer[place])), 256.0):
    step = np.float32(1 / denominator)
    file.graph.initializer[place].CopyFrom(numpy_helper.from_array(np.asarray(step), "y_scale"))
    plain, kernel = (results(file, batch, level) for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL))
    off[round(denominator)] = int((np.rint(plain / step) != np.rint(kernel / step)).sum())
print(f"of {batch.size} codes the kernel changes, by the scale's denominator: {off}")
sys.exit(off.get(255, 0) > 0 and off[256] == 0)
