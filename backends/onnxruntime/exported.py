"""The graph that is translated: an exported program without in-place ops, its constants at hand."""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed, which has no public home
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node

from quantizer_sdk.errors import LoweringError

__all__ = ["ExportedGraph", "arguments", "export_graph", "fold_constants"]

_QUANTIZES = frozenset(
    getattr(torch.ops.quantized_decomposed, f"quantize_per_{kind}").default
    for kind in ("tensor", "channel", "channel_group")
)
_ROUNDS = 5
"""How often what a decomposition leaves is decomposed further."""

_CONSTANTS = frozenset({InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """A graph of functional aten and `quantized_decomposed` ops, which passes change in place.

    Attributes:
        graph: Its placeholders are `constants` and `inputs`; each node has its value's shape and dtype in its meta.
        constants: The value of each placeholder that stands for a tensor of the model.
        inputs: The placeholders that the user feeds, in order.
    """

    graph: Graph
    constants: dict[Node, torch.Tensor]
    inputs: tuple[Node, ...]

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the graph returns, flat and in order: nodes, or the Python values that the model returns."""
        (output,) = self.graph.find_nodes(op="output")
        return tuple(output.args[0])

    def add_constant(self, name: str, value: torch.Tensor) -> Node:
        """Add a placeholder for a tensor, in front of all else."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(name)
        node.meta["val"] = value
        self.constants[node] = value
        return node


def export_graph(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    dynamic_shapes: Any,
    translated: Container[Any] | None = None,
) -> ExportedGraph:
    """Export a module once more, which notes the shape of every value, and make it functional where it is not.

    Args:
        model: A module of an exported program without input guards.
        example_inputs: One tensor an input.
        dynamic_shapes: As `torch.export.export` takes it.
        translated: The ops that have a translation; others are decomposed as torch does it, until all that are left
            have one or have no decomposition. None decomposes nothing.

    Raises:
        LoweringError: The model changes its buffers or inputs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, over how it copies the graph's calling convention
        program = torch.export.export(model, tuple(example_inputs), dynamic_shapes=dynamic_shapes, strict=False)
        if any(_writes(node) for node in program.graph.nodes):
            program = program.run_decompositions({})  # no decompositions: this makes in-place ops functional
        if translated is not None:
            program = _decomposed_program(program, translated)
    for output in program.graph_signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            message = f"the model changes {output.target or output.arg} as it runs; an ONNX graph keeps no state"
            raise LoweringError(message)
    values = {}
    for item in program.graph_signature.input_specs:
        if item.kind in _CONSTANTS:
            source = program.constants if item.target in program.constants else program.state_dict
            values[item.arg.name] = source[str(item.target)].detach()
    placeholders = program.graph.find_nodes(op="placeholder")
    return ExportedGraph(
        graph=program.graph,
        constants={node: values[node.name] for node in placeholders if node.name in values},
        inputs=tuple(node for node in placeholders if node.name not in values),
    )


def _decomposed_program(program: ExportedProgram, translated: Container[Any]) -> ExportedProgram:
    """Decompose the ops without a translation, and the ops that these become."""
    table = default_decompositions()
    for _ in range(_ROUNDS):
        foreign = [target for target in _targets(program) if target not in translated]
        chosen = {
            target: table[target] if target in table else target.decompose  # noqa: SIM401  its get() sees nothing
            for target in foreign
            if _decomposes(target, table)
        }
        if not chosen:
            break
        program = program.run_decompositions(chosen)
    return program


def _decomposes(target: torch._ops.OpOverload, table: Container[Any]) -> bool:
    """Whether torch can express an op by others: in its table, or as all backends compute it."""
    if target.namespace not in {"aten", "prims"}:
        return False
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return target in table or target.has_kernel_for_dispatch_key(implicit)


def _targets(program: ExportedProgram) -> set[Any]:
    return {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


def fold_constants(exported: ExportedGraph) -> None:
    """Compute what is made of the model's tensors alone, where that takes no more room; dequantizes stay.

    Weights that a model keeps as floats and quantizes are stored as integers then.
    """
    for node in exported.graph.nodes:
        value, sources = node.meta.get("val"), node.all_input_nodes
        foldable = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
        if not (foldable or node.target in _QUANTIZES) or not sources or not isinstance(value, torch.Tensor):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags or any(
            item not in exported.constants for item in sources
        ):
            continue
        if value.numel() > sum(exported.constants[item].numel() for item in sources):
            continue
        operands, keywords = torch.fx.map_arg((node.args, node.kwargs), exported.constants.__getitem__)
        result = node.target(*operands, **keywords)
        folded = exported.add_constant(f"{node.name}_folded", result)
        node.replace_all_uses_with(folded)


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def arguments(node: Node) -> dict[str, Any]:
    """Return a call's arguments by the names in its op's schema, defaults included; Python's operators have none."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    schema = node.target._schema.arguments  # fx offers no public way to an operator's argument names
    found = {item.name: item.default_value for item in schema if item.has_default_value()}
    return {**found, **dict(zip((item.name for item in schema), node.args, strict=False)), **node.kwargs}
