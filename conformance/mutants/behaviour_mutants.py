"""Wrong quantizers that depend on what they should not, or change what is not theirs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import Backend, QuantizationSpec
from quantizer_sdk.conformance.mutants.altered import KEY, Altered, altered, annotated
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.mutant import Mutant

__all__ = ["BEHAVIOUR_MUTANTS"]

aten = torch.ops.aten

CONV = "aten.conv2d/s8.pc/generic/3x3"
LINEAR = "aten.linear/s8.pc/generic/2d"
RELU = "aten.relu/s8.pc/generic/4d"
CLAMP = "aten.clamp/s8.pc/generic/4d"


def _narrow(node: Node) -> None:
    """Take a bit from an op's result."""
    annotation = node.meta[KEY]
    if isinstance(annotation.output_qspec, QuantizationSpec):
        annotation.output_qspec = dataclasses.replace(annotation.output_qspec, quant_min=-64, quant_max=63)


def _counting_calls() -> Backend:
    """Every second call of `annotate` in this process takes a bit from all results."""
    calls: Iterator[int] = itertools.count()

    def annotate(model: GraphModule) -> None:
        if next(calls) % 2:
            for node, _annotation in annotated(model):
                _narrow(node)

    return altered(healthy(), annotate=annotate)


def _by_name(model: GraphModule) -> None:
    """Take a bit from the results of ops that are not named after their overload."""
    for node, _annotation in annotated(model):
        if node.name.split("_")[0] not in str(node.target):
            _narrow(node)


def _by_place(model: GraphModule) -> None:
    """Take a bit from the results of ops that stand behind another op's constants."""
    order = [node.op for node in model.graph.nodes if node.op in {"placeholder", "get_attr", "call_function"}]
    sunk = "get_attr" in order and order.index("get_attr") > order.index("placeholder") + 1
    for node, _annotation in annotated(model):
        before = node.prev
        if sunk or before.op == "get_attr":
            _narrow(node)


class _Remembering(Altered):
    """A quantizer that keeps the names of ops it has seen, and takes a bit from the results of those it meets again."""

    def annotate(self, model: GraphModule) -> GraphModule:
        result = super().annotate(model)
        seen: set[str] = self.__dict__.setdefault("seen", set())
        for node, _annotation in annotated(result):
            if node.name in seen:
                _narrow(node)
            seen.add(node.name)
        return result


def _remembering() -> Backend:
    backend = healthy()
    configurations = {name: _remember(make) for name, make in backend.schemes().items()}
    return dataclasses.replace(backend, quantizer=next(iter(configurations.values())), configurations=configurations)


def _remember(make: Callable[[], object]) -> Callable[[], Altered]:
    return lambda: _Remembering(make())  # type: ignore[arg-type]


def _piling_up(model: GraphModule) -> None:
    """Take codes from results at each call."""
    for _node, annotation in annotated(model):
        spec = annotation.output_qspec
        if isinstance(spec, QuantizationSpec) and spec.quant_max is not None and spec.quant_max > 100:
            annotation.output_qspec = dataclasses.replace(spec, quant_max=spec.quant_max - 1)


def _scale_weights(model: GraphModule) -> None:
    """Bring weights to a size that quantizes well, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def _annotate_all(model: GraphModule) -> None:
    """Give the result of every op a spec, claimed or not."""
    annotations = [annotation for _node, annotation in annotated(model)]
    if not annotations:
        return
    for node in model.graph.find_nodes(op="call_function", target=aten.sinh.default):
        spec = QuantizationSpec(torch.int8, None, -128, 127, torch.per_tensor_affine)
        node.meta[KEY] = type(annotations[0])(input_qspec_map={}, output_qspec=spec, _annotated=True)


def _drop_unknown(model: GraphModule) -> None:
    """Leave out ops that no kernel computes."""
    for node in model.graph.find_nodes(op="call_function", target=aten.sinh.default):
        node.replace_all_uses_with(node.all_input_nodes[0])
        model.graph.erase_node(node)


def _clamp_as_relu6(model: GraphModule) -> None:
    """Write any clamp as the one that has a kernel."""
    for node in model.graph.find_nodes(op="call_function", target=aten.clamp.default):
        node.target = aten.hardtanh.default
        node.args = (node.args[0], 0.0, 6.0)


def _drop_relu(model: GraphModule) -> None:
    """Leave a relu to the range's lower end, which the range does not know."""
    for node in model.graph.find_nodes(op="call_function", target=aten.relu.default):
        if node.all_input_nodes[0].op == "call_function":
            node.replace_all_uses_with(node.all_input_nodes[0])
            model.graph.erase_node(node)


def _swap_batch(model: GraphModule) -> None:
    """Lay the batch out in another order and forget to restore it."""
    for node in model.graph.find_nodes(op="call_function", target=aten.linear.default):
        source = node.args[0]
        with model.graph.inserting_before(node):
            head = model.graph.call_function(aten.slice.Tensor, (source, 0, 0, 1))
            tail = model.graph.call_function(aten.slice.Tensor, (source, 0, 1, 2**63 - 1))
            swapped = model.graph.call_function(aten.cat.default, ([tail, head], 0))
        value = source.meta["val"]
        for made, meta in ((head, value[:1]), (tail, value[1:]), (swapped, value)):
            made.meta.update(source.meta, val=meta)
        node.replace_input_with(source, swapped)


def _mutant(name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases)


BEHAVIOUR_MUTANTS = (
    _mutant("counts_calls", "The same model quantized twice gives two models.", _counting_calls, "E1", CONV),
    _mutant(
        "matches_names",
        "Ops with names of the user's are quantized otherwise.",
        lambda: altered(healthy(), annotate=_by_name),
        "E1",
        RELU,
    ),
    _mutant(
        "depends_on_order",
        "The same model with its constants in another place is quantized otherwise.",
        lambda: altered(healthy(), annotate=_by_place),
        "E1",
        LINEAR,
    ),
    _mutant(
        "remembers_models",
        "A quantizer used for a second model quantizes it worse.",
        _remembering,
        "E1",
        CONV,
    ),
    _mutant(
        "not_idempotent",
        "Annotating what is annotated, as composing quantizers does, changes it.",
        lambda: altered(healthy(), annotate=_piling_up),
        "E1",
        CONV,
    ),
    _mutant(
        "scales_the_users_weights",
        "The float model that the user goes on with computes something else.",
        lambda: altered(healthy(), rewrite=_scale_weights),
        "E4",
        CONV,
    ),
    _mutant(
        "annotates_foreign_ops",
        "An op that no kernel computes gets a quantize behind it, and with it a loss for nothing.",
        lambda: altered(healthy(), annotate=_annotate_all),
        "E4",
        CONV,
    ),
    _mutant(
        "drops_unknown_ops",
        "Ops that no kernel computes are missing from the model.",
        lambda: altered(healthy(), rewrite=_drop_unknown),
        "E4",
        CONV,
    ),
    _mutant(
        "any_clamp_is_relu6",
        "Numbers are cut at other bounds than the model says.",
        lambda: altered(healthy(), rewrite=_clamp_as_relu6),
        "R2",
        CLAMP,
    ),
    _mutant(
        "relu_left_to_the_range",
        "Negative numbers come through, since the range was learned without the relu.",
        lambda: altered(healthy(), rewrite=_drop_relu),
        "R2",
        "aten.conv2d+aten.relu/s8.pc/generic/3x3",
    ),
    _mutant(
        "batch_out_of_order",
        "Each element of a batch gets another one's result.",
        lambda: altered(healthy(), rewrite=_swap_batch),
        "R2 R6",
        LINEAR,
    ),
)
