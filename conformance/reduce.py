"""The smallest evidence of a numeric defect: the kernel by itself, on inputs and weights that are mostly zeros."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.bench import Bench, input_quantizes
from quantizer_sdk.conformance.evidence import Evidence, Probe
from quantizer_sdk.conformance.isolate import kernel_alone
from quantizer_sdk.conformance.kernels import attribute, code_range_of, is_dequantize
from quantizer_sdk.conformance.minimize import minimize, nearer
from quantizer_sdk.errors import QuantizerError

__all__ = ["evidence_of", "examples_of"]

_MOST_LOWERINGS = 24  # on a runtime; an eager graph is no more than rebuilt
_MOST_GRAPHS = 400


def evidence_of(bench: Bench, check: str, *, strict: bool = False) -> Evidence:
    """Return the smallest evidence of what a check found on a scenario.

    Where no code is wrong, that is what was seen at the last quantize.

    Args:
        bench: The scenario.
        check: A check that compares codes: those of levels L2 and L3.
        strict: Whether only the exact code is right, even next to a tie.

    Raises:
        QuantizerError: There are no codes to look at: the graph cannot be quantized, lowered or run.
    """
    probe = Probe(bench.converted, bench.backend, check, bench.batches[0], strict=strict)
    for run in bench.runs:
        found = _first(probe, run.codes)
        if found is not None:
            return _Reduction(bench, check, strict, found).run(probe)
    return probe.look(bench.runs[0].codes)[-1]


def examples_of(model: GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the float inputs of a converted graph that these codes stand for."""
    return [
        torch.ops.quantized_decomposed.dequantize_per_tensor.default(codes, *node.args[1:])
        for node, codes in zip(input_quantizes(model), inputs, strict=True)
    ]


def _first(probe: Probe, inputs: Sequence[Tensor], node: str | None = None) -> Evidence | None:
    """Return the first evidence, or that at one quantize."""
    found = (evidence for evidence in probe.look(inputs) if node in {None, evidence.node})
    return next((evidence for evidence in found if evidence.wrong), None)


@dataclass(slots=True)
class _Reduction:
    """Makes evidence smaller, as long as there is some at the same quantize."""

    bench: Bench
    check: str
    strict: bool
    best: Evidence
    lowerings: int = 0

    def run(self, probe: Probe) -> Evidence:
        probe = self._isolated(probe)
        self._reduce_inputs(probe)
        whole = self.best.model
        self._reduce_constants()
        if self.best.model is not whole:
            self._reduce_inputs(self._probe(self.best.model, self.best.inputs))
        return self.best

    def _probe(self, model: GraphModule, inputs: Sequence[Tensor]) -> Probe:
        self.lowerings += 1
        examples = examples_of(model, inputs)
        return Probe(model, self.bench.backend, self.check, examples, strict=self.strict)

    def _look(self, probe: Probe, inputs: Sequence[Tensor]) -> bool:
        """Take what is found as the best if it is evidence; what cannot be run is none."""
        try:
            found = _first(probe, inputs, self.best.node)
        except QuantizerError:
            return False
        if found is not None:
            self.best = found
        return found is not None

    def _isolated(self, probe: Probe) -> Probe:
        """Cut the kernel out of its graph; return the probe of what is left."""
        try:
            model, inputs = kernel_alone(self.best.model, self.best.node, self.best.codes)
        except QuantizerError:
            return probe
        alone = self._probe(model, inputs)
        return alone if self._look(alone, inputs) else probe

    def _reduce_inputs(self, probe: Probe) -> None:
        """Let as many codes as possible stand for 0.0, and the others lie close to that."""
        zeros = [_zero(node) for node in input_quantizes(self.best.model)]
        for place, zero in enumerate(zeros):
            self._reduce_tensor(probe, place, zero)

    def _reduce_tensor(self, probe: Probe, place: int, zero: int) -> None:
        def holds(kept: Sequence[int]) -> bool:
            changed = torch.full_like(original, zero)
            changed.view(-1)[list(kept)] = original.view(-1)[list(kept)]
            return self._look(probe, _with(self.best.inputs, place, changed))

        original = self.best.inputs[place].contiguous()
        away = (original.view(-1) != zero).nonzero().flatten().tolist()
        kept = minimize(away, holds) if away else []
        for element in kept:
            for code in nearer(int(original.view(-1)[element]), zero):
                changed = self.best.inputs[place].clone()
                changed.view(-1)[element] = code
                if self._look(probe, _with(self.best.inputs, place, changed)):
                    break

    def _reduce_constants(self) -> None:
        """Set weights and biases to zero as far as there are lowerings left."""
        for name, original in _constants(self.best.model):

            def holds(kept: Sequence[int], name: str = name, original: Tensor = original) -> bool:
                if self.lowerings >= (_MOST_LOWERINGS if self.check.startswith("K") else _MOST_GRAPHS):
                    return False
                changed = torch.zeros_like(original)
                changed.view(-1)[list(kept)] = original.reshape(-1)[list(kept)]
                model = _with_constant(self.best.model, name, changed)
                return self._look(self._probe(model, self.best.inputs), self.best.inputs)

            minimize(original.reshape(-1).nonzero().flatten().tolist(), holds)


def _zero(quantize: Node) -> int:
    low, high, _ = code_range_of(quantize)
    zero = quantize.args[2]
    assert isinstance(zero, int)
    return min(max(zero, low), high)


def _with(tensors: tuple[Tensor, ...], place: int, tensor: Tensor) -> tuple[Tensor, ...]:
    return (*tensors[:place], tensor, *tensors[place + 1 :])


def _constants(model: GraphModule) -> list[tuple[str, Tensor]]:
    """Return weights and biases with their names: constants that are quantized, or that an op reads as they are."""
    found = []
    for node in model.graph.find_nodes(op="get_attr"):
        value = attribute(model, node)
        qparams = all(is_dequantize(user) and user.args[0] is not node for user in node.users)
        if isinstance(value, Tensor) and not qparams:
            found.append((str(node.target), value.detach()))
    return found


def _with_constant(model: GraphModule, name: str, value: Tensor) -> GraphModule:
    """Return a copy with another tensor in the place of a constant."""
    changed = copy.deepcopy(model)
    path, _, last = name.rpartition(".")
    owner: nn.Module = changed.get_submodule(path)
    delattr(owner, last)
    owner.register_buffer(last, value)
    return changed
