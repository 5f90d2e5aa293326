"""One model on two engines, and what tells the results apart."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchao.quantization.pt2e as torchao
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import quantize_pt2e as their_engine

import quantizer_sdk as q
from quantizer_sdk.constants import dependencies_of
from quantizer_sdk.interop.torchao import as_torchao
from quantizer_sdk.qdq import is_quantize
from vendors.models import built
from vendors.quantizers import Vendor

__all__ = ["Converted", "Difference", "compared", "exported", "expressions", "on_ours", "on_torchao"]


@dataclass(frozen=True, slots=True)
class Converted:
    """What an engine made of a model: the converted graph, or the error."""

    model: GraphModule | None
    error: str | None = None

    @property
    def quantizes(self) -> int:
        """How many quantize ops it has."""
        return 0 if self.model is None else sum(is_quantize(node) for node in self.model.graph.nodes)


def exported(name: str, vendor: Vendor, *, training: bool) -> tuple[GraphModule, list[torch.Tensor]]:
    """Return a model's graph and its batches; exported for training or for inference."""
    module, batches = built(name, channels_last=vendor.channels_last)
    module.train(training)
    program = torch.export.export(module, (batches[0],), strict=vendor.decomposes)
    if vendor.decomposes:
        table = torch.export.default_decompositions()
        for op in _quantizer(vendor, training=training).get_ops_to_preserve_from_decomposition():
            table.pop(op, None)
        program = program.run_decompositions(table)
    return program.module(), batches


def on_ours(
    model: GraphModule,
    vendor: Vendor,
    batches: Sequence[torch.Tensor],
    *,
    training: bool,
    adjust: Callable[[GraphModule], None] | None = None,
) -> Converted:
    """Quantize a model on this library's engine; `adjust` may change the prepared model."""
    prepare = q.prepare_qat_pt2e if training else q.prepare_pt2e

    def run() -> GraphModule:
        prepared = prepare(model, _quantizer(vendor, training=training))
        if adjust is not None:
            adjust(prepared)
        _feed(prepared, batches, training=training)
        return q.convert_pt2e(prepared.eval() if training else prepared)

    return _tried(run)


def on_torchao(model: GraphModule, vendor: Vendor, batches: Sequence[torch.Tensor], *, training: bool) -> Converted:
    """Quantize a model on torchao's engine."""
    prepare = their_engine.prepare_qat_pt2e if training else their_engine.prepare_pt2e

    def run() -> GraphModule:
        quantizer = _quantizer(vendor, training=training)
        prepared = prepare(copy.deepcopy(model), as_torchao(quantizer) if vendor.ours else quantizer)
        _feed(prepared, batches, training=training)
        if training:
            torchao.move_exported_model_to_eval(prepared)
        return their_engine.convert_pt2e(prepared)

    return _tried(run)


def _quantizer(vendor: Vendor, *, training: bool) -> Any:
    return vendor.make(importlib.import_module(vendor.module), training)


def _tried(run: Callable[[], GraphModule]) -> Converted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Converted(run())
        except Exception as e:  # noqa: BLE001  # of a vendor's code or of an engine: the table says which
            return Converted(None, f"{type(e).__name__}: {e}")


def _feed(prepared: GraphModule, batches: Sequence[torch.Tensor], *, training: bool) -> None:
    """Calibrate; or train for a step a batch, from the same random numbers on each engine."""
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01) if training else None
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        result = prepared(batch)
        if optimizer is not None:
            optimizer.zero_grad()
            result.square().mean().backward()
            optimizer.step()


@dataclass(frozen=True, slots=True)
class Difference:
    """How two converted graphs differ.

    Attributes:
        expressions: Whether what they compute differs somewhere, in ops or in constants.
        ops: Which ops one has more often than the other: how often more here than on torchao's engine.
        outputs: Whether results on random inputs differ in any bit.
        constants: Whether they agree once quantized constants are computed on both sides.
    """

    expressions: bool
    ops: tuple[tuple[str, int], ...]
    outputs: bool
    constants: bool = False

    @property
    def none(self) -> bool:
        """Whether there is no difference."""
        return not (self.expressions or self.ops or self.outputs)


def compared(ours: Converted, theirs: Converted, batches: Sequence[torch.Tensor]) -> Difference:
    """Compare the graphs node by node up to names, and their results to the bit."""
    models = [ours.model, theirs.model]
    assert all(model is not None for model in models)
    numbers = expressions(models)
    outputs = [next(reversed(model.graph.nodes)) for model in models]
    here, there = (
        Counter(str(node.target) for node in dependencies_of(output) if node.op == "call_function")
        for output in outputs
    )
    more = {name: here[name] - there[name] for name in sorted({*here, *there}) if here[name] != there[name]}
    with torch.no_grad():
        equal = all(torch.equal(models[0](batch), models[1](batch)) for batch in batches)
    return Difference(len({numbers[output] for output in outputs}) > 1, tuple(more.items()), not equal)


def expressions(models: Sequence[GraphModule]) -> dict[Node, int]:
    """Return a number for each node, the same for nodes that compute the same of the same inputs and constants."""
    known: dict[Any, int] = {}
    numbers: dict[Node, int] = {}

    def of(value: Any) -> Any:
        if isinstance(value, Node):
            return "node", numbers[value]
        return tuple(map(of, value)) if isinstance(value, (list, tuple)) else (type(value), value)

    for model in models:
        for node in model.graph.nodes:
            if node.op == "get_attr":
                path, _, name = node.target.rpartition(".")
                tensor = getattr(model.get_submodule(path), name)
                key = ("constant", tensor.is_floating_point(), tuple(tensor.shape), tuple(tensor.flatten().tolist()))
            else:
                key = (node.op, str(node.target), of(node.args), of(tuple(sorted(node.kwargs.items()))))
            numbers[node] = known.setdefault(key, len(known))
    return numbers
