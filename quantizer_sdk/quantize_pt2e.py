"""The engine: prepare and convert. Each function reads as a list of passes over a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.collection import without_collection
from quantizer_sdk.control_flow import graphs_of, inner_graphs
from quantizer_sdk.errors import InvalidAnnotationError, NothingAnnotatedError
from quantizer_sdk.fake_quantize import FakeQuantize, FakeQuantizeBase
from quantizer_sdk.fake_quantize.create import create_fake_quantize
from quantizer_sdk.model_copy import compile_when_called, copy_for_training, copy_model
from quantizer_sdk.observers.create import create_observer, is_observer
from quantizer_sdk.observers.module import QParamsModule
from quantizer_sdk.passes.compose_ops import compose_norms, compose_ops
from quantizer_sdk.passes.fold_batch_norm import fold_batch_norm
from quantizer_sdk.passes.fold_quantized_constants import drop_unused_constants, fold_quantized_constants
from quantizer_sdk.passes.hide_dropout import hide_dropout, show_dropout
from quantizer_sdk.passes.inline_regions import inline_regions
from quantizer_sdk.passes.insert_observers import insert_observers
from quantizer_sdk.passes.move_constants import lift_constants, sink_constants
from quantizer_sdk.passes.observers_to_qdq import observers_to_qdq
from quantizer_sdk.passes.reference_representation import reference_representation
from quantizer_sdk.passes.remove_guards import put_guards, remove_guards, take_guards
from quantizer_sdk.passes.remove_identities import remove_identities
from quantizer_sdk.passes.run_control_flow import run_by_ops, run_plainly
from quantizer_sdk.passes.train_batch_norm import count_batches, hide_batch_norm, settle_batch_norm, show_batch_norm
from quantizer_sdk.passes.training_mode import follow_mode, settle_mode
from quantizer_sdk.plan import Plan, build_plan
from quantizer_sdk.provenance import describe_point, listed, location_of, shape_of
from quantizer_sdk.quantizer import Quantizer, QuantizerLike, as_quantizer, name_of
from quantizer_sdk.report import (
    IGNORE,
    Coverage,
    as_coverage,
    check_coverage,
    explain,
    freeze_report,
    take_report_along,
)
from quantizer_sdk.spec import DerivedQuantizationSpec, EdgeOrNode, QuantizationSpecBase
from quantizer_sdk.verify import Stage, require_exported, require_prepared, verify

__all__ = ["annotate", "convert_pt2e", "prepare_pt2e", "prepare_qat_pt2e", "tidy"]

_GUARDS_KEY = "quantizer_sdk_guards"
_USERS_FRAME = 4  # above _insert, prepare_pt2e, and what holds garbage collection off around it

_Create = Callable[[QuantizationSpecBase, str, Sequence[nn.Module], Sequence[int] | None], nn.Module]


def annotate(model: GraphModule, quantizer: QuantizerLike) -> GraphModule:
    """Return a copy of an exported model, tidied, with the quantizer's annotations on it; see `prepare_pt2e`."""
    own = as_quantizer(quantizer)
    return _annotate(tidy(model, _compose_for(own)), own, copy_model)


def _compose_for(quantizer: Quantizer) -> Callable[[GraphModule], None]:
    """Return the pass that composes as much as a quantizer wants to be composed."""
    return compose_norms if quantizer.takes_core_aten else compose_ops


def tidy(model: GraphModule, compose: Callable[[GraphModule], None] = compose_ops) -> GraphModule:
    """Return a copy of an exported model with batch norms folded and without what does nothing in inference.

    Args:
        model: The model.
        compose: The pass that writes what `run_decompositions` left as the ops of torch.export.
    """
    result = copy_model(require_exported(model))
    inline_regions(result)
    sink_constants(result)
    for _path, graph in graphs_of(result):
        compose(graph)
        remove_identities(graph)
        fold_batch_norm(graph)
    return result


def annotate_for_training(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Return a copy with weights of its own, annotated as for inference: what trains only is hidden meanwhile."""
    compose = _compose_for(quantizer)
    result = copy_for_training(require_exported(model))
    sink_constants(result)
    for _path, graph in graphs_of(result):
        compose(graph)
        hide_dropout(graph)
        remove_identities(graph, dropouts=False)
        hide_batch_norm(graph)
        count_batches(graph)
    return _annotate(result, quantizer, copy_for_training)


def _annotate(model: GraphModule, quantizer: Quantizer, copy: Callable[[GraphModule], GraphModule]) -> GraphModule:
    guards = take_guards(model)
    result = _on_every_graph(model, quantizer.transform_for_annotation)
    if result is not model:
        result = copy(result)  # which makes it a module of the kind that `model` is
    if quantizer.enters_control_flow:
        result = quantizer.annotate(result) or result
    else:
        result = _on_every_graph(result, quantizer.annotate)
    for _path, graph in graphs_of(result):
        quantizer.validate(graph)
    result.meta[_GUARDS_KEY] = guards  # until observers are in
    return result


def _on_every_graph(model: GraphModule, function: Callable[[GraphModule], GraphModule | None]) -> GraphModule:
    """Call a function on a model and on each graph inside it; what it returns takes the place of what it was given."""
    result = function(model) or model
    for name, graph in list(inner_graphs(result)):
        path, _, attribute = name.rpartition(".")
        setattr(result.get_submodule(path), attribute, _on_every_graph(graph, function))
    return result


@without_collection()
def prepare_pt2e(model: GraphModule, quantizer: QuantizerLike, *, coverage: Coverage | str = IGNORE) -> GraphModule:
    """Insert observers where the quantizer wants them, for post-training quantization.

    Args:
        model: `torch.export.export(model.eval(), ...).module()`. It is left as it was; the result shares its weights.
        quantizer: Says what is quantized, and how. One written against torchao is taken as it is.
        coverage: "warn", "error" or "ignore" where a convolution or product of matrices is left float, other than by a
            rule of the user's; or a `Coverage` with thresholds.

    Returns:
        A module with the same inputs and outputs that observes its tensors when run; give it calibration data, then
        call `convert_pt2e`.

    Raises:
        NotAQuantizerError: The quantizer cannot annotate.
        NotExportedError: The model is no module of an exported program.
        AlreadyPreparedError: It holds observers.
        AlreadyConvertedError: It is quantized.
        NothingAnnotatedError: The quantizer claimed nothing; says why, op by op.
        CoverageError: It claimed less than `coverage` asks for; says of each op why.
        RuleError: `coverage` is none.
        InvalidAnnotationError: An annotation does not fit the graph.
        SharingError: Shared specs lead nowhere, or conflict.
        InvalidSpecError: An observer refuses the fields of its spec.
        UnsupportedError: A spec or an observer of another library asks for what the engine does not know.
    """
    wanted, quantizer = as_coverage(coverage), as_quantizer(quantizer)
    result = annotate(model, quantizer)
    _insert(result, quantizer, lambda spec, location, sources, _shape: create_observer(spec, location, sources), wanted)
    run_plainly(result)
    verify(result, Stage.PREPARED, after="insert_observers")
    return result


@without_collection()
def prepare_qat_pt2e(model: GraphModule, quantizer: QuantizerLike, *, coverage: Coverage | str = IGNORE) -> GraphModule:
    """Insert fake quantizers where the quantizer wants them, for training with quantization.

    Args:
        model: `torch.export.export(model, ...).module()`, exported in either mode. It is left as it was: the result has
            weights of its own, which training changes.
        quantizer: Says what is quantized, and how. Specs that name an observer get a fake quantizer around it.
        coverage: As in `prepare_pt2e`.

    Returns:
        A module with the same inputs and outputs, in training mode, that rounds its tensors as inference will.
        `train()` and `eval()` switch dropout, batch norm, and whether ranges are learned. A layer and the batch norm
        behind it round the weight that they will have when folded. Train it, then call `convert_pt2e`.

    Raises:
        NotAQuantizerError: The quantizer cannot annotate.
        NotExportedError: The model is no module of an exported program.
        AlreadyPreparedError: It holds observers.
        AlreadyConvertedError: It is quantized.
        NothingAnnotatedError: The quantizer claimed nothing; says why, op by op.
        CoverageError: It claimed less than `coverage` asks for; says of each op why.
        RuleError: `coverage` is none.
        InvalidAnnotationError: An annotation does not fit the graph.
        SharingError: Shared specs lead nowhere.
        InvalidSpecError: A fake quantizer refuses the fields of its spec.
        UnsupportedError: A spec or an observer of another library asks for what the engine does not know.
    """
    wanted, quantizer = as_coverage(coverage), as_quantizer(quantizer)
    result = annotate_for_training(model, quantizer)
    _insert(result, quantizer, create_fake_quantize, wanted)
    for path, graph in graphs_of(result):
        show_batch_norm(graph)
        show_dropout(graph)
        follow_mode(graph)
        graph.apply(_learn_in_training_alone)
        if path:
            graph.apply(_learn_from_one_rank)
    run_plainly(result)
    verify(result, Stage.PREPARED, after="follow_mode")
    return result


def _learn_in_training_alone(module: nn.Module) -> None:
    if isinstance(module, FakeQuantizeBase):
        module.learns_in_eval = False


def _learn_from_one_rank(module: nn.Module) -> None:
    """Keep a fake quantizer from waiting for other ranks, which may run another branch."""
    if isinstance(module, FakeQuantize):
        module.synchronize = False


def _insert(result: GraphModule, quantizer: Quantizer, create: _Create, coverage: Coverage) -> None:
    """Plan what the annotations ask for, and put observers or fake quantizers into every graph."""
    graphs = list(graphs_of(result))
    plans = [build_plan(graph) for _path, graph in graphs]
    if not any(plan.groups for plan in plans):
        raise NothingAnnotatedError(_nothing_annotated(result, quantizer))
    check_coverage(freeze_report(result), coverage, stacklevel=_USERS_FRAME)
    device = _device(result)
    for (_path, graph), plan in zip(graphs, plans, strict=True):
        observers: list[nn.Module] = []
        for group in plan.groups:
            sources: list[nn.Module] = []
            if isinstance(group.spec, DerivedQuantizationSpec):
                sources = [observers[plan.group_of[source]] for source in group.spec.derived_from]
            observer = create(group.spec, location_of(group.points), sources, shape_of(group.root))
            if not isinstance(observer, QParamsModule):  # another library's, whose buffers are there from the start
                observer.to(device)
            observers.append(observer)
        observer_of = {point: observers[index] for point, index in plan.group_of.items()}
        quantizer.prepare_obs_or_fq_callback(graph, observer_of)
        _check_callback(plan, observer_of, quantizer)
        insert_observers(graph, observer_of)
        compile_when_called(graph)  # a quantizer may have compiled it to run it
    guards = result.meta.pop(_GUARDS_KEY)
    if guards is not None:
        put_guards(result, guards)


def _device(model: GraphModule) -> torch.device | None:
    """Return the one device of a model's tensors; None where there is none, or more."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return devices.pop() if len(devices) == 1 else None


def _check_callback(plan: Plan, observer_of: dict[EdgeOrNode, nn.Module], quantizer: Quantizer) -> None:
    unknown = [point for point in observer_of if point not in plan.group_of]
    if unknown:
        names = ", ".join(describe_point(point) for point in unknown)
        message = (
            f"{name_of(quantizer)}.prepare_obs_or_fq_callback added observers for points without an "
            f"annotation: {names}; annotate them"
        )
        raise InvalidAnnotationError(message)


def _nothing_annotated(model: GraphModule, quantizer: Quantizer) -> str:
    explanation = explain(model)
    reasons = listed([f"{op.node}: {op.reason}" for op in explanation.ops], 10)
    return (
        f"{name_of(quantizer)} annotated none of the model's {len(explanation.ops)} ops, so nothing would be "
        f"quantized. {reasons}"
    )


@without_collection()
def convert_pt2e(
    model: GraphModule,
    use_reference_representation: bool = False,
    fold_quantize: bool = True,
    *,
    tensor_qparams: bool = False,
) -> GraphModule:
    """Turn a calibrated model into a quantized one, with q/dq ops and integer weights.

    Args:
        model: The calibrated result of `prepare_pt2e`, or the trained one of `prepare_qat_pt2e`. It is left as it was.
        use_reference_representation: Whether linear, conv2d, add, mul and max_pool2d are written out in exact integer
            arithmetic, as a specification for kernels, and q/dq in plain arithmetic.
        fold_quantize: Whether weights are stored as integers; else they stay float, and are quantized in each run.
        tensor_qparams: Whether static per-tensor qparams are buffers that can be changed, instead of numbers.

    Returns:
        A module with the same inputs and outputs. With `fold_quantize` its quantized weights are integer buffers, and
        their float originals are gone from its state dict.

    Raises:
        NotPreparedError: The model holds no observers.
        AlreadyConvertedError: It is quantized.
        UncalibratedError: Observers have seen no data; names each.
        NonFiniteError: An observer yields a scale that is no positive number.
    """
    result = copy_model(require_prepared(model), shared=is_observer)
    remove_guards(result)
    for _path, graph in graphs_of(result):
        settle_batch_norm(graph)
        settle_mode(graph)
        remove_identities(graph)
        observers_to_qdq(graph, fold_quantize=fold_quantize, tensor_qparams=tensor_qparams)
        if fold_quantize:
            fold_quantized_constants(graph)
        drop_unused_constants(graph)
        if use_reference_representation:
            reference_representation(graph)
    run_by_ops(result)
    inline_regions(result)
    lift_constants(result)
    stage = Stage.CONVERTED if fold_quantize else Stage.UNFOLDED
    verify(result, Stage.REFERENCE if use_reference_representation else stage, after="lift_constants")
    take_report_along(result)
    return result
