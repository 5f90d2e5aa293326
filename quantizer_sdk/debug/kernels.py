"""A quantized model on its runtime's kernels, which gives its rounded values as outputs too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from quantizer_sdk.backend import Executable, Runner
from quantizer_sdk.debug.lockstep import Lockstep
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.move_constants import lift_constants
from quantizer_sdk.provenance import listed, name_in
from quantizer_sdk.qdq import is_dequantize

__all__ = ["Kernels"]


class Kernels:
    """The program.

    Args:
        runner: The runtime.
        converted: The model.
        pair: It, beside its reference.
        inputs: Example inputs.

    Attributes:
        notes: What cannot be watched, and whether watching changes what the runtime fuses.

    Raises:
        LoweringError: The runtime refuses the model.
    """

    def __init__(self, runner: Runner, converted: GraphModule, pair: Lockstep, inputs: Sequence[Any]) -> None:
        self.notes: list[str] = []
        plain = copy_model(converted)
        lift_constants(plain)
        watched = copy_model(plain)
        by_name = {node.name: node for node in watched.graph.nodes}
        self._carriers = [point.carrier for point in pair.found.points if point.rounding is not None]
        (output,) = watched.graph.find_nodes(op="output")
        returned = tree_leaves(output.args[0])
        self._count = len(returned)
        extra = [_read_again(by_name[carrier.name], output) for carrier in self._carriers]
        output.args = ((*returned, *extra),)
        _flatten_outputs(watched, output)
        watched.graph.lint()
        watched.recompile()
        names = [node.name if isinstance(node, Node) else None for node in returned]
        self._returned = {  # what stays float, but is returned anyway
            point.carrier: names.index(point.value.name)
            for point in pair.found.points
            if point.rounding is None and point.value.name in names
        }
        self._program = runner.lower(watched, tuple(inputs))
        self._note_fusion(runner.lower(plain, tuple(inputs)), runner.name)
        unwatched = [
            name_in(it.path, point.layer.name)
            for it in pair.all_pairs()
            for point in it.found.points
            if it.path or (point.rounding is None and point.carrier not in self._returned)
        ]
        if unwatched:
            self.notes.append(
                f"{len(unwatched)} layers inside control flow or with float results are not watched, as outputs there "
                f"would change the kernels: {listed(unwatched, 10)}"
            )

    def _note_fusion(self, plain: Executable, name: str) -> None:
        before, after = (_integer_kernels(it) for it in (plain, self._program))
        changed = [
            f"{kind}: {before[kind]} became {after[kind]}"
            for kind in sorted(before | after)
            if before[kind] != after[kind]
        ]
        if changed:
            self.notes.append(f"the watched program has other integer kernels on {name}: {listed(changed, 10)}")

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], dict[Node, torch.Tensor]]:
        """Return the model's outputs, and by carriers what can be watched."""
        results = self._program.run(*inputs)
        given = dict(zip(self._carriers, results[self._count :], strict=True))
        given.update({carrier: results[index] for carrier, index in self._returned.items()})
        return tuple(results[: self._count]), given


def _read_again(quantize: Node, output: Node) -> Node:
    """Return a dequantize of its own of some codes."""
    first = next(user for user in quantize.users if is_dequantize(user))
    with output.graph.inserting_before(output):
        made = output.graph.call_function(first.target, first.args, dict(first.kwargs))  # type: ignore[arg-type]
    made.meta.update(first.meta)
    return made


def _flatten_outputs(model: GraphModule, output: Node) -> None:
    """Let a model return a flat tuple, whatever it returned before."""
    info = getattr(model.graph._codegen, "pytree_info", None)
    if info is not None:
        flat = torch.utils._pytree.tree_structure(tuple(output.args[0]))  # type: ignore[arg-type]
        model.graph._codegen.pytree_info = info._replace(out_spec=flat)  # type: ignore[attr-defined]


def _integer_kernels(program: Executable) -> Counter[str]:
    return Counter(kernel.name for kernel in program.kernels() if kernel.integer and not kernel.moves)
