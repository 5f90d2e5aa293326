"""L4.D2/aten.squeeze.dim/s8.pc/generic/middle

The check: only integer kernels run between the model's quantizes and dequantizes.
Found: float kernels Convert(qint8), Convert(fp32); left to the portable runtime: aten.squeeze_copy.dims

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
        d0 = quantized_decomposed.dequantize_per_tensor.default(x1, 0.007076554466038942, -20, -128, 127, torch.int8)
        d1 = quantized_decomposed.dequantize_per_tensor.default(x0, 0.03269840031862259, 33, -128, 127, torch.int8)
        v0 = aten.add.Tensor(d1, d0)
        q0 = quantized_decomposed.quantize_per_tensor.default(v0, 0.034529346972703934, 28, -128, 127, torch.int8)
        d2 = quantized_decomposed.dequantize_per_tensor.default(q0, 0.034529346972703934, 28, -128, 127, torch.int8)
        v1 = aten.squeeze.dim(d2, 1)
        q1 = quantized_decomposed.quantize_per_tensor.default(v1, 0.034529346972703934, 28, -128, 127, torch.int8)
        return (q0, q1,)


INPUTS = (
    torch.tensor([127, 15, -100, 68, -33, -53, 58, 84], dtype=torch.int8).reshape(2, 1, 4),
    torch.tensor([27, -1, -16, 24, -52, -32, -128, 7], dtype=torch.int8).reshape(2, 1, 4),
)


def main():
    """Run; return whether the defect is there."""
    model = Model().eval()
    found = floats(model, INPUTS)
    print("in float: " + (", ".join(found) or "nothing"))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
