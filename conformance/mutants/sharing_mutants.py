"""Wrong quantizers that share qparams where they may not, or do not where they must."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import Backend, QuantizationSpec, SharedQuantizationSpec
from quantizer_sdk.conformance.mutants.altered import altered, annotated
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.mutant import Mutant
from quantizer_sdk.observers import MinMaxObserver

__all__ = ["SHARING_MUTANTS"]

aten = torch.ops.aten

ADD = "aten.add/s8.pc/generic/4d"
MUL = "aten.mul/s8.pc/generic/4d"


def _own() -> QuantizationSpec:
    return QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric)


def _unshared(*targets: torch._ops.OpOverload) -> Callable[[], Backend]:
    """Make a backend in which the results of some ops choose their own qparams."""

    def annotate(model: GraphModule) -> None:
        for node, annotation in annotated(model):
            if node.target in targets:
                annotation.output_qspec = _own()

    return lambda: altered(healthy(), annotate=annotate)


def _own_operands(model: GraphModule) -> None:
    """Let each operand of a concatenation keep its own qparams."""
    for node, annotation in annotated(model):
        if node.target is aten.cat.default:
            for producer in annotation.input_qspec_map:
                annotation.input_qspec_map[producer] = SharedQuantizationSpec(producer)
            annotation.output_qspec = _own()


def _requantized(model: GraphModule) -> None:
    """Let each op quantize its operands anew, whatever qparams they came with."""
    for _node, annotation in annotated(model):
        annotation.allow_implicit_sharing = False
        for producer, spec in annotation.input_qspec_map.items():
            if producer.op == "call_function" and spec is not None:
                annotation.input_qspec_map[producer] = _own()


def _over_shared(*targets: torch._ops.OpOverload) -> Callable[[], Backend]:
    """Make a backend in which some ops' operands and results all have the first operand's qparams."""

    def annotate(model: GraphModule) -> None:
        for node, annotation in annotated(model):
            if node.target not in targets:
                continue
            first, *others = node.all_input_nodes
            shared = SharedQuantizationSpec((first, node))
            annotation.input_qspec_map.update(dict.fromkeys(others, shared))
            annotation.output_qspec = shared

    return lambda: altered(healthy(), annotate=annotate)


def _all_alike(model: GraphModule) -> None:
    """Let all activations of the model have one scale."""
    points = [(producer, node) for node, annotation in annotated(model) for producer in annotation.input_qspec_map]
    first = next((producer, node) for producer, node in points if producer.op == "placeholder")
    shared = SharedQuantizationSpec(first)
    for node, annotation in annotated(model):
        for producer in annotation.input_qspec_map:
            if producer.op != "get_attr" and (producer, node) != first:
                annotation.input_qspec_map[producer] = shared
        if annotation.output_qspec is not None:
            annotation.output_qspec = shared


def _second_call_as_the_first(model: GraphModule) -> None:
    """Give a layer that is called again the qparams of its first call."""
    first: dict[object, Node] = {}
    for node, annotation in annotated(model):
        weights = [producer for producer in node.all_input_nodes if producer.op == "get_attr"]
        earlier = first.setdefault(weights[0].target, node) if weights else node
        if earlier is not node:
            annotation.input_qspec_map[node.all_input_nodes[0]] = SharedQuantizationSpec(
                (earlier.all_input_nodes[0], earlier)
            )
            annotation.output_qspec = SharedQuantizationSpec(earlier)


def _mutant(name: str, harm: str, make: Callable[[], Backend], *cases: str, killers: str = "C3") -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=(killers,), cases=cases)


_MOVED = "The kernel copies codes, so that the result has another scale than its codes were made with."

SHARING_MUTANTS = (
    _mutant("unshared_cat", _MOVED, _unshared(aten.cat.default), "aten.cat/s8.pc/generic/two"),
    _mutant(
        "unshared_cat_operands",
        "Codes of different scales stand side by side in one tensor.",
        lambda: altered(healthy(), annotate=_own_operands),
        "aten.cat/s8.pc/generic/two",
    ),
    _mutant("unshared_concat_alias", _MOVED, _unshared(aten.concatenate.default), "aten.concatenate/s8.pc/generic/two"),
    _mutant("unshared_max_pool", _MOVED, _unshared(aten.max_pool2d.default), "aten.max_pool2d/s8.pc/generic/p2x2"),
    _mutant("unshared_slice", _MOVED, _unshared(aten.slice.Tensor), "aten.slice/s8.pc/generic/front"),
    _mutant("unshared_view", _MOVED, _unshared(aten.view.default), "aten.view/s8.pc/generic/flat"),
    _mutant("unshared_permute", _MOVED, _unshared(aten.permute.default), "aten.permute/s8.pc/generic/nhwc"),
    _mutant("unshared_pad", _MOVED, _unshared(aten.pad.default), "aten.pad/s8.pc/generic/even"),
    _mutant(
        "requantized_between_ops",
        "Every edge costs a kernel and a rounding of its own.",
        lambda: altered(healthy(), annotate=_requantized),
        "aten.add_/s8.pc/generic/4d",
    ),
    _mutant(
        "over_shared_residual",
        "The small branch of a residual has the large one's scale, and with it few codes.",
        _over_shared(aten.add.Tensor),
        ADD,
        killers="R2",
    ),
    _mutant(
        "over_shared_product",
        "A product has the scale of its first factor, though it may be far larger or smaller.",
        _over_shared(aten.mul.Tensor),
        MUL,
        killers="R2",
    ),
    _mutant(
        "second_call_as_the_first",
        "A shared layer's second call saturates, or wastes its codes, on ranges that are not its own.",
        lambda: altered(healthy(), annotate=_second_call_as_the_first),
        "aten.conv2d/s8.pc/called_twice/3x3",
        killers="E2",
    ),
    _mutant(
        "one_scale_for_the_model",
        "All tensors have the largest one's scale.",
        lambda: altered(healthy(), annotate=_all_alike),
        "aten.conv2d/s8.pc/unequal/3x3",
        ADD,
        killers="R2",
    ),
)
