"""What a lowered program makes XNNPACK execute, decoded from the bytes that ship."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantizer_sdk.backend import Kernel
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.errors import LoweringError, QuantizerError

__all__ = ["decode_kernels"]

_BACKEND_ID = "XnnpackBackend"
_ABSENT = 2**32 - 1  # XNN_INVALID_VALUE_ID: an operand that the node does without, such as a bias
_FLOATS = frozenset({"fp32", "fp16", "bf16", "pfp32", "invalid"})
_BIAS = "bias_id"
# flatc prints non-finite floats bare, which JSON does not have: the fused activation's limits are such.
_NON_FINITE = re.compile(rb"(?<=[\s:\[,])-?(?:inf|nan)(?=[\s,\]}])")


def decode_kernels(program: bytes) -> tuple[Kernel, ...]:
    """Decode the XNNPACK nodes of a program.

    A node's name is the name of its kind in ExecuTorch's schema without the prefix ("Conv2d", "FullyConnected",
    "Add", "StaticTranspose", ...), and a data type is XNNPACK's without its prefix: "qint8" (one scale), "qcint8" (a
    scale per channel), "qdint8" (dynamically quantized), "qcint4", "qbint4", "qint32", "qcint32", "fp32", ....

    `Kernel.integer` is false for a dynamically quantized gemm, whose result is float although it multiplies integers:
    there `Kernel.inputs` begins with "qdint8".

    Args:
        program: The bytes of a .pte file.

    Returns:
        The nodes of all subgraphs, in the order in which the program calls them.

    Raises:
        LoweringError: The bytes are no program, or its payload does not fit the installed ExecuTorch's schema.
        MissingDependencyError: ExecuTorch is not installed.
    """
    try:
        graphs = _decompile(_flatbuffers(program))
        return tuple(kernel for graph in graphs for kernel in _kernels(graph))
    except QuantizerError:
        raise
    except Exception as e:  # damaged bytes surface as any error at all
        raise LoweringError(
            f"cannot decode the program's {len(program)} bytes with the installed ExecuTorch's schemas: {e}",
        ) from e


def _flatbuffers(program: bytes) -> list[bytes]:
    """Return the graph description of each call to the delegate, in order."""
    with importing():
        # Private, for ExecuTorch offers no public reader of .pte files and none of XNNPACK's payload.
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall

    found = []
    content = deserialize_pte_binary(program).program
    for plan in content.execution_plan:
        instructions = (instruction.instr_args for chain in plan.chains for instruction in chain.instructions)
        calls = (arguments for arguments in instructions if isinstance(arguments, DelegateCall))
        for delegate in (plan.delegates[call.delegate_index] for call in calls):
            if delegate.id != _BACKEND_ID:
                continue
            payload = bytes(content.backend_delegate_data[delegate.processed.index].data)
            header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
            found.append(payload[header.flatbuffer_offset :][: header.flatbuffer_size])
    return found


def _decompile(flatbuffers: Sequence[bytes]) -> list[dict[str, Any]]:
    """Turn graph descriptions into JSON objects, all in one call of flatc."""
    if not flatbuffers:
        return []
    with importing():
        import importlib.resources

        # Private: the only way to the flatc that ExecuTorch brings along.
        from executorch.exir._serialize._flatbuffer import _run_flatc

        schema = importlib.resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
    with tempfile.TemporaryDirectory() as folder:
        schema_file = Path(folder, "schema.fbs")
        schema_file.write_bytes(schema.read_bytes())
        files = [Path(folder, f"graph{index}.bin") for index in range(len(flatbuffers))]
        for file, flatbuffer in zip(files, flatbuffers, strict=True):
            file.write_bytes(flatbuffer)
        options = ("--json", "--strict-json", "--defaults-json", "-o", folder)
        _run_flatc([*options, str(schema_file), "--", *map(str, files)])
        texts = [file.with_suffix(".json").read_bytes() for file in files]
    return [json.loads(_NON_FINITE.sub(b"null", text)) for text in texts]


def _kernels(graph: dict[str, Any]) -> Iterator[Kernel]:
    """Yield the nodes of one decoded graph."""
    dtypes: dict[int, str] = {}
    for value in (entry["xvalue_union"] for entry in graph["xvalues"]):
        tensor = value.get("tensor_value", value)
        dtypes[tensor["id_out"]] = tensor["datatype"].removeprefix("xnn_datatype_")
    for entry in graph["xnodes"]:
        name = entry["xnode_union_type"].removeprefix("XNN")
        used = {key: id_ for key, id_ in entry["xnode_union"].items() if key.endswith("_id") and id_ != _ABSENT}
        results = {key for key in used if key.startswith("output")}
        deciding = {dtypes[id_] for key, id_ in used.items() if key != _BIAS}
        conversion = name == "Convert"
        yield Kernel(
            name=name,
            inputs=tuple(dtypes[id_] for key, id_ in used.items() if key not in results),
            outputs=tuple(dtypes[id_] for key, id_ in used.items() if key in results),
            integer=not conversion and deciding.isdisjoint(_FLOATS),
            conversion=conversion,
        )
