"""L4.D2/aten.max_pool2d/s8.pc/generic/skips

The check: only integer kernels run between the model's quantizes and dequantizes.
Found: float kernels Convert(qint8), Convert(fp32); left to the portable runtime: aten.max_pool2d_with_indices.default

Written by `quantizer-sdk conform`; nothing of it is needed here. Made with torch 2.13.0+cpu, executorch 1.5.1.
Exit status 1: the defect is there. 0: it is not.
"""

import sys
from fractions import Fraction

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed

aten, quantized_decomposed = torch.ops.aten, torch.ops.quantized_decomposed

# ExecuTorch XNNPACK:
"""How a model runs on XNNPACK by the names of public packages alone: scripts that reproduce a defect hold this text."""

import importlib.resources
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

_FUSED = {f"XNN{name}" for name in ("Convert", "Abs", "Ceiling", "Clamp", "Cos", "ELU", "Exp", "Floor", "Gelu", "Log")}
_FUSED |= {f"XNN{name}" for name in ("Hardswish", "LeakyReLU", "Negate", "Sigmoid", "Sin", "Square", "SquareRoot")}
_FUSED |= {"XNNTanh", "XNNReciprocalSquareRoot"}

__all__ = ["floats", "run"]


def run(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Compile a model with all that XNNPACK takes delegated to it, and run it once on ExecuTorch's runtime."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(bytes(_compiled(model, inputs).to_executorch().buffer))
    return tuple(program.load_method("forward").execute(list(inputs)))


def floats(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[str]:
    """Name what computes in float: ops that XNNPACK did not take, and XNNPACK nodes with a float operand or result."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    graph_module = _compiled(model, inputs).exported_program().graph_module
    calls = (node.target for node in graph_module.graph.nodes if node.op == "call_function")
    found = [str(target) for target in calls if "delegate" not in str(target) and "getitem" not in str(target)]
    for module in graph_module.modules():
        if isinstance(module, LoweredBackendModule):
            found += _float_nodes(_decoded(bytes(module.processed_bytes)))
    return found


def _compiled(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import EluConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    partitioner = XnnpackPartitioner(configs=[*ALL_PARTITIONER_CONFIGS, EluConfig])
    exported = torch.export.export(model, tuple(inputs), strict=False)
    return to_edge_transform_and_lower(exported, partitioner=[partitioner])


def _decoded(payload: bytes) -> Any:
    """Decode the delegate's graph with the schema and the flatc that ExecuTorch brings along."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    schema = importlib.resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
    flatc = importlib.resources.files("executorch.data.bin").joinpath("flatc")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "schema.fbs").write_bytes(schema.read_bytes())
        Path(folder, "graph.bin").write_bytes(payload[header.flatbuffer_offset :][: header.flatbuffer_size])
        options = ("--json", "--strict-json", "--defaults-json", "schema.fbs", "--", "graph.bin")
        subprocess.run([str(flatc), *options], cwd=folder, check=True)  # noqa: S603  # our own files
        text = Path(folder, "graph.json").read_bytes()
    return json.loads(re.sub(rb"(?<=[\s:\[,])-?(?:inf|nan)(?=[\s,\]}])", b"null", text))


def _float_nodes(graph: Any) -> Iterator[str]:
    """Yield the nodes that have a float tensor, biases apart."""
    tensors = [entry["xvalue_union"] for entry in graph["xvalues"]]
    kinds = {tensor["id_out"]: tensor["datatype"] for tensor in (value.get("tensor_value", value) for value in tensors)}
    nodes = [
        (
            entry["xnode_union_type"],
            [(key, id_) for key, id_ in entry["xnode_union"].items() if key.endswith("_id") and "bias" not in key],
        )
        for entry in graph["xnodes"]
    ]
    readers = [id_ for _name, used in nodes for key, id_ in used if not key.startswith("output")]
    alone = {id_ for id_ in kinds if readers.count(id_) == 1 and id_ not in graph["input_ids"] + graph["output_ids"]}
    for name, used in nodes:
        found = [kinds.get(id_, "") for _key, id_ in used]
        floats = {id_ for _key, id_ in used if kinds.get(id_, "").endswith(("_fp32", "_fp16", "_invalid"))}
        if floats and not (name in _FUSED and floats <= alone):  # the runtime makes a table of a chain of such nodes
            yield f"{name}({', '.join(found)})"


class Model(torch.nn.Module):
    """The quantized graph, from the codes of its inputs to codes."""

    def __init__(self):
        super().__init__()

    def forward(self, x0, x1):
        d0 = quantized_decomposed.dequantize_per_tensor.default(x1, 0.011542105115950108, 16, -128, 127, torch.int8)
        d1 = quantized_decomposed.dequantize_per_tensor.default(x0, 0.05002448707818985, -9, -128, 127, torch.int8)
        v0 = aten.add.Tensor(d1, d0)
        q0 = quantized_decomposed.quantize_per_tensor.default(v0, 0.05054108053445816, -1, -128, 127, torch.int8)
        d2 = quantized_decomposed.dequantize_per_tensor.default(q0, 0.05054108053445816, -1, -128, 127, torch.int8)
        v1 = aten.max_pool2d.default(d2, [2, 2], [3, 3])
        q1 = quantized_decomposed.quantize_per_tensor.default(v1, 0.05054108053445816, -1, -128, 127, torch.int8)
        return (q0, q1,)


INPUTS = (
    torch.tensor(
      [
        -54, -55, -19, -26, 25, 19, -22, -94, 4, -60, 5, 3, -4, 40, 36, -19, -63, -77, 14, 23, 15, -71, -23,
        65, 21, -32, -16, -2, 47, 54, 29, -43, -34, -8, -29, 1, 9, -5, 17, 9, -13, 23, -21, -7, 12, 83, -68,
        -72, -36, 26, 33, -2, -18, -25, 13, -25, -27, 21, 52, 127, -70, -58, 64, -31, -32, 28, 35, 43, -68,
        94, -28, 4, -74, -31, -28, -29, -52, 36, -15, 23, -13, 18, -43, -9, 25, -25, 33, 5, -19, 83, -84, -11,
        -51, -47, -8, 19, 57, -63, 5, 12, -113, -77, -18, 2, 1, -6, 5, 9, 9, -44, 22, -46, -18, -106, -12,
        -10, 29, 5, -46, -11, -34, -28, 68, -25, -4, 38, 28, 46, -44, -26, -41, 14, 15, 10, 69, -52, -12, -4,
        -33, -59, -13, -50, -21, 1, -19, -4, 1, 38, 3, 6, -17, -14, -1, -40, -85, -4, -37, 4, -3, 6, 30, -49,
        3, -13, 31, -29, 21, 16, 4, 0, -14, 5, -22, -52, 1, -65, -12, -23, -71, -23, 34, -4, 54, 22, -52, -38,
        50, 2, 18, -49, -57, -57, -31, 12, 7, 7, -2, 26, -20, 32, -12, -53, 7, 15, 17, -57, 15, -31, 38, -5,
        30, 25, -59, 30, -29, -60, 29, 42, -36, 14, 3, -10, -51, -14, -23, 54, -1, -52, 49, -13, 14, -16, 39,
        -15, -11, -28, -44, -3, 67, 7, -8, -50, 20
      ],
      dtype=torch.int8,
    ).reshape(1, 3, 9, 9),
    torch.tensor(
      [
        -50, -16, -12, -54, 12, -10, -26, -54, -15, 29, -18, 5, 6, 89, 26, 36, -14, -34, 46, 25, 54, 27, -13,
        51, 64, 8, -81, -47, 19, -11, -19, 10, 97, 13, 23, -18, 25, 18, 23, -5, 11, 29, 9, 15, 118, -29, 84,
        -11, -24, 40, 19, -3, 49, 35, 66, 103, 22, 57, 8, -12, 83, -22, -128, -16, 15, -28, -10, -28, 7, 16,
        88, 16, -14, 8, -27, -20, -4, -8, 33, -27, -6, 20, -12, 48, -46, -6, 23, 9, 27, -6, -29, 48, -29, -4,
        29, 102, 45, 68, 51, -24, 76, -19, -24, 64, 74, 42, 12, 9, -75, -11, -48, -33, 54, -8, 72, 51, 25, 29,
        39, -3, 127, 6, 15, 97, -70, 94, 20, 31, 47, -61, 31, 68, 3, -60, 44, -19, -54, -65, 40, 45, 115, 45,
        90, -62, -43, -27, 81, 44, 36, -3, 40, -51, 38, 21, 28, 73, 92, 96, -15, 127, 34, 7, -20, -2, -11,
        -26, 54, 59, 29, 82, 68, -63, -1, -26, 16, 13, 53, 66, 39, 86, -26, 22, 9, 0, 91, 3, 26, 74, 20, 64,
        1, 57, -9, 52, 93, 8, 38, -64, -110, -9, -7, 55, -22, 39, -51, 8, 48, 18, 55, 61, -7, 75, 26, 99, 96,
        73, -26, 70, 68, -7, 25, -9, 79, 93, 87, -3, 4, -8, -16, 7, 6, 16, 22, 50, -85, 60, 11, -35, 12, 40,
        -9, -73, 35
      ],
      dtype=torch.int8,
    ).reshape(1, 3, 9, 9),
)


def main():
    """Run; return whether the defect is there."""
    model = Model().eval()
    found = floats(model, INPUTS)
    print("in float: " + (", ".join(found) or "nothing"))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
