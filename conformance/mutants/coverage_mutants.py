"""Wrong quantizers that leave out what they claim, or find it in some exports only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import Backend, QuantizationSpec
from quantizer_sdk.conformance.mutants.altered import KEY, altered, annotated, edges, replace_specs
from quantizer_sdk.conformance.mutants.healthy import healthy, healthy_relu_at_end
from quantizer_sdk.conformance.mutants.mutant import Mutant

__all__ = ["COVERAGE_MUTANTS"]

aten = torch.ops.aten

CONV = "aten.conv2d/s8.pc/generic/3x3"
CONV_RELU = "aten.conv2d+aten.relu/s8.pc/generic/3x3"
CONV_PLAIN = "aten.conv2d/s8.pc/generic/dilated_nobias"
LINEAR = "aten.linear/s8.pc/generic/2d"
LINEAR_PLAIN = "aten.linear/s8.pc/generic/nobias"
ADD = "aten.add/s8.pc/generic/4d"
CAT = "aten.cat/s8.pc/generic/two"


def _forgetting(which: Callable[[Node], bool]) -> Callable[[], Backend]:
    """Make a backend that does not annotate the ops for which `which` holds."""

    def annotate(model: GraphModule) -> None:
        for node, _annotation in list(annotated(model)):
            if which(node):
                del node.meta[KEY]

    return lambda: altered(healthy(), annotate=annotate)


def _without_edges(which: Callable[[Node, Node], bool]) -> Callable[[], Backend]:
    """Make a backend that leaves the edges float for which `which` holds of producer and consumer."""

    def annotate(model: GraphModule) -> None:
        for producer, node, annotation in edges(model):
            if which(producer, node):
                del annotation.input_qspec_map[producer]

    return lambda: altered(healthy(), annotate=annotate)


def _every_second(model: GraphModule) -> None:
    for node, _annotation in list(annotated(model))[1::2]:
        del node.meta[KEY]


def _no_outputs(model: GraphModule) -> None:
    for _node, annotation in annotated(model):
        annotation.output_qspec = None


def _dynamic(model: GraphModule) -> None:
    def change(spec: object, constant: bool) -> object:
        if constant or not isinstance(spec, QuantizationSpec):
            return spec
        return dataclasses.replace(spec, is_dynamic=True, observer_or_fake_quant_ctr=None)

    replace_specs(model, change)  # type: ignore[arg-type]
    for node, annotation in annotated(model):
        annotation.output_qspec = None
        for producer in node.all_input_nodes[2:]:
            annotation.input_qspec_map.pop(producer, None)


def _half(model: GraphModule) -> None:
    replace_specs(model, lambda _spec, constant: None if constant else QuantizationSpec(torch.float16))


def _before_relu(model: GraphModule) -> None:
    """Put the spec of a fused result on the op before the relu, and leave the relu float."""
    for node, annotation in list(annotated(model)):
        if node.target is aten.relu.default and node.all_input_nodes[0].target is aten.conv2d.default:
            node.all_input_nodes[0].meta[KEY].output_qspec = annotation.output_qspec
            del node.meta[KEY]


def _torn(model: GraphModule) -> None:
    """Quantize between a convolution and the relu that is said to be fused into it."""
    for node, annotation in annotated(model):
        if node.target is aten.relu.default and node.all_input_nodes[0].target is aten.conv2d.default:
            node.all_input_nodes[0].meta[KEY].output_qspec = annotation.output_qspec


def _fused_whoever_reads(model: GraphModule) -> None:
    """Fuse a relu into the op before it, whoever else reads that op's result."""
    for node, annotation in annotated(model):
        before = node.all_input_nodes[0]
        if node.target is aten.relu.default and KEY in before.meta:
            before.meta[KEY].output_qspec = None
            annotation.input_qspec_map.pop(before, None)


def _fused_pair(model: GraphModule) -> None:
    """Leave out the quantize between any two ops."""
    for node, annotation in annotated(model):
        for producer in node.all_input_nodes:
            if KEY in producer.meta:
                producer.meta[KEY].output_qspec = None
                annotation.input_qspec_map.pop(producer, None)


def _symmetric_relu(model: GraphModule) -> None:
    def change(spec: object, constant: bool) -> object:
        fits = isinstance(spec, QuantizationSpec) and not constant
        return dataclasses.replace(spec, qscheme=torch.per_tensor_symmetric) if fits else spec  # type: ignore[type-var]

    replace_specs(model, change)  # type: ignore[arg-type]


def _depth(node: Node) -> int:
    """Return how many modules deep an op was called."""
    return len(node.meta.get("nn_module_stack", {}))


def _reads_seen_parameter(node: Node) -> bool:
    """Whether an earlier op reads one of this op's parameters."""
    parameters = [producer for producer in node.all_input_nodes if producer.op == "get_attr"]
    earlier = [other for other in node.graph.nodes if other < node and other.op == "call_function"]
    targets = {producer.target for other in earlier for producer in other.all_input_nodes if producer.op == "get_attr"}
    return any(parameter.target in targets for parameter in parameters)


def _is_dynamic(node: Node) -> bool:
    return any(not isinstance(size, int) for size in node.meta["val"].shape)


def _rank(node: Node) -> int:
    return int(node.meta["val"].dim())


def _bake_batch(model: GraphModule) -> None:
    """Write flattening as a reshape to the example's batch size."""
    for node in model.graph.find_nodes(op="call_function", target=aten.flatten.using_ints):
        size = node.meta["val"].shape[0]
        batch = size if isinstance(size, int) else size.node.hint
        node.target = aten.reshape.default
        node.args = (node.args[0], [batch, -1])


def _mutant(
    name: str,
    harm: str,
    make: Callable[[], Backend],
    *cases: str,
    killers: str = "C1",
    sound: Callable[[], Backend] = healthy,
) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases, sound=sound)


COVERAGE_MUTANTS = (
    _mutant("nothing_annotated", "The model stays float.", _forgetting(lambda _node: True), CONV, ADD),
    _mutant("every_second_op", "Half the model stays float.", lambda: altered(healthy(), annotate=_every_second), CAT),
    _mutant(
        "first_operand_alone",
        "An addition reads its second operand as float, and so runs in float.",
        _without_edges(lambda producer, node: producer is not node.all_input_nodes[0] and producer.op != "get_attr"),
        ADD,
    ),
    _mutant(
        "results_not_annotated",
        "Every result leaves its kernel as float.",
        lambda: altered(healthy(), annotate=_no_outputs),
        CONV,
        ADD,
    ),
    _mutant(
        "weights_not_annotated",
        "Weights stay float and four times as large; no integer kernel takes them.",
        _without_edges(lambda producer, _node: producer.op == "get_attr" and len(producer.meta["val"].shape) > 1),
        CONV_PLAIN,
        LINEAR_PLAIN,
    ),
    _mutant(
        "inputs_not_annotated",
        "Ops read the model's inputs as float.",
        _without_edges(lambda producer, _node: producer.op == "placeholder"),
        CONV_PLAIN,
        ADD,
    ),
    _mutant(
        "dynamic_in_place_of_static",
        "Ranges are computed anew in each run, and results leave the kernels as float.",
        lambda: altered(healthy(), annotate=_dynamic),
        LINEAR,
    ),
    _mutant(
        "half_precision",
        "Ops compute in float16 where int8 was claimed.",
        lambda: altered(healthy(), annotate=_half),
        ADD,
    ),
    _mutant(
        "alias_forgotten",
        "Models that say torch.concat in the place of torch.cat run partly in float.",
        _forgetting(lambda node: node.target is aten.concat.default),
        "aten.concat/s8.pc/generic/two",
        "aten.concatenate/s8.pc/alias/two",
        killers="C1 E2",
    ),
    _mutant(
        "in_place_forgotten",
        "Models that add in place run in float.",
        _forgetting(lambda node: node.target is aten.add_.Tensor),
        "aten.add_/s8.pc/generic/4d",
    ),
    _mutant(
        "rank_4_alone",
        "Ops on sequences and vectors run in float.",
        _forgetting(lambda node: _rank(node) != 4),
        "aten.relu/s8.pc/generic/1d",
    ),
    _mutant(
        "pad_forgotten",
        "Padding between integer kernels runs in float.",
        _forgetting(lambda node: node.target is aten.pad.default),
        "aten.pad/s8.pc/generic/even",
    ),
    _mutant(
        "quantized_before_relu",
        "The relu runs in float, and half the codes stand for numbers that it cuts.",
        lambda: altered(healthy(), annotate=_before_relu),
        CONV_RELU,
    ),
    _mutant(
        "fused_ops_torn",
        "What is said to be one kernel are two, with a rounding between them.",
        lambda: altered(healthy(), annotate=_torn),
        CONV_RELU,
    ),
    _mutant(
        "fused_across_two_users",
        "The result that the other user reads is never quantized.",
        lambda: altered(healthy(), annotate=_fused_whoever_reads),
        "aten.conv2d/s8.pc/two_users/3x3",
        "aten.add/s8.pc/two_users/4d",
        killers="C4",
    ),
    _mutant(
        "nothing_between_ops",
        "No kernel computes two such ops at once, so that both run in float.",
        lambda: altered(healthy(), annotate=_fused_pair),
        "aten.add_/s8.pc/generic/4d",
    ),
    _mutant(
        "relu_without_its_end",
        "Kernels that clamp nothing but the range let negative numbers through a fused relu.",
        lambda: altered(healthy_relu_at_end(), annotate=_symmetric_relu),
        CONV_RELU,
        killers="C4",
        sound=healthy_relu_at_end,
    ),
    _mutant(
        "outermost_module_alone",
        "A model inside another module, or under torch.no_grad, stays float in part.",
        _forgetting(lambda node: _depth(node) > 1),
        "aten.conv2d/s8.pc/no_grad/3x3",
        "aten.add/s8.pc/called_twice/4d",
        killers="E2",
    ),
    _mutant(
        "second_call_forgotten",
        "The second call of a shared layer runs in float.",
        _forgetting(_reads_seen_parameter),
        "aten.linear/s8.pc/called_twice/2d",
        "aten.conv2d/s8.pc/called_twice/3x3",
        killers="E2",
    ),
    _mutant(
        "static_shapes_alone",
        "A model exported with an open batch size stays float.",
        _forgetting(_is_dynamic),
        "aten.linear/s8.pc/dynamic/2d",
        "aten.relu/s8.pc/dynamic/4d",
        killers="E2",
    ),
    _mutant(
        "batch_size_baked_in",
        "A model exported with an open batch size runs on the example's size alone.",
        lambda: altered(healthy(), rewrite=_bake_batch),
        "aten.flatten.using_ints/s8.pc/dynamic/head",
        killers="E2",
    ),
)
