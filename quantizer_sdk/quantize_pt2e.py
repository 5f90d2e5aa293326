"""The engine: prepare, calibrate, convert. Each function reads as a list of passes over a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.collection import without_collection
from quantizer_sdk.errors import CalibrationError, InvalidAnnotationError, NothingAnnotatedError
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.observers.create import create_observer
from quantizer_sdk.passes.fold_batch_norm import fold_batch_norm
from quantizer_sdk.passes.fold_quantized_constants import fold_quantized_constants
from quantizer_sdk.passes.insert_observers import insert_observers
from quantizer_sdk.passes.observers_to_qdq import observers_to_qdq
from quantizer_sdk.passes.remove_guards import remove_guards
from quantizer_sdk.passes.remove_identities import remove_identities
from quantizer_sdk.plan import Plan, build_plan
from quantizer_sdk.provenance import describe_point
from quantizer_sdk.quantizer import Quantizer
from quantizer_sdk.report import explain, freeze_report
from quantizer_sdk.spec import DerivedQuantizationSpec, EdgeOrNode
from quantizer_sdk.verify import Stage, require_exported, require_prepared, verify

__all__ = ["annotate", "calibrate", "convert_pt2e", "prepare_pt2e"]


def annotate(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Return a copy of an exported model, tidied, with the quantizer's annotations on it; see `prepare_pt2e`."""
    result = copy_model(require_exported(model))
    remove_identities(result)
    fold_batch_norm(result)
    result = quantizer.transform_for_annotation(result)
    annotated = quantizer.annotate(result)
    result = result if annotated is None else annotated
    quantizer.validate(result)
    return result


@without_collection()
def prepare_pt2e(model: GraphModule, quantizer: Quantizer) -> GraphModule:
    """Insert observers where the quantizer wants them, for post-training quantization.

    Args:
        model: `torch.export.export(model.eval(), ...).module()`. It is left as it was; the result shares its weights.
        quantizer: Says what is quantized, and how.

    Returns:
        A module with the same inputs and outputs that observes its tensors when run; give it calibration data, then
        call `convert_pt2e`.

    Raises:
        NotExportedError: The model is no module of an exported program.
        AlreadyPreparedError: It holds observers.
        AlreadyConvertedError: It is quantized.
        NothingAnnotatedError: The quantizer claimed nothing; says why, op by op.
        InvalidAnnotationError: An annotation does not fit the graph.
        SharingError: Shared specs lead nowhere, or conflict.
        InvalidSpecError: An observer refuses the fields of its spec.
    """
    result = annotate(model, quantizer)
    plan = build_plan(result)
    if not plan.groups:
        raise NothingAnnotatedError(_nothing_annotated(result, quantizer))
    observers = _create_observers(plan)
    observer_of = {point: observers[index] for point, index in plan.group_of.items()}
    quantizer.prepare_obs_or_fq_callback(result, observer_of)
    _check_callback(plan, observer_of, quantizer)
    freeze_report(result)
    insert_observers(result, observer_of)
    result.recompile()
    verify(result, Stage.PREPARED, after="insert_observers")
    return result


def _create_observers(plan: Plan) -> list[nn.Module]:
    observers: list[nn.Module] = []
    for group in plan.groups:
        sources: list[nn.Module] = []
        if isinstance(group.spec, DerivedQuantizationSpec):
            sources = [observers[plan.group_of[source]] for source in group.spec.derived_from]
        observers.append(create_observer(group.spec, _location(group.points), sources))
    return observers


def _location(points: tuple[EdgeOrNode, ...]) -> str:
    """Name where an observer sits: its first points, and the module and line of the first."""
    from quantizer_sdk.provenance import describe

    first = points[0]
    producer = first[0] if isinstance(first, tuple) else first
    names = ", ".join(describe_point(point) for point in points[:3])
    more = f" and {len(points) - 3} more" if len(points) > 3 else ""
    return f"[{names}{more}], which watches {describe(producer)}"


def _check_callback(plan: Plan, observer_of: dict[EdgeOrNode, nn.Module], quantizer: Quantizer) -> None:
    unknown = [point for point in observer_of if point not in plan.group_of]
    if unknown:
        names = ", ".join(describe_point(point) for point in unknown)
        message = (
            f"{type(quantizer).__name__}.prepare_obs_or_fq_callback added observers for points without an "
            f"annotation: {names}; annotate them"
        )
        raise InvalidAnnotationError(message)


def _nothing_annotated(model: GraphModule, quantizer: Quantizer) -> str:
    explanation = explain(model)
    reasons = "; ".join(f"{op.node}: {op.reason}" for op in explanation.ops[:10])
    more = f"; and {len(explanation.ops) - 10} more" if len(explanation.ops) > 10 else ""
    return (
        f"{type(quantizer).__name__} annotated none of the model's {len(explanation.ops)} ops, so nothing would be "
        f"quantized. {reasons}{more}"
    )


def calibrate(
    prepared: GraphModule,
    batches: Iterable[Any],
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> int:
    """Run a prepared model over calibration data.

    Args:
        prepared: The result of `prepare_pt2e`; its observers change, nothing else does.
        batches: One element a run: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        progress: Wraps the batches to show progress, such as `tqdm.tqdm`.

    Returns:
        The number of batches.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        NonFiniteError: NaN or infinity reached an observer; names the layer.
        NotPreparedError: The model holds no observers.
    """
    require_prepared(prepared)
    count = 0
    with torch.no_grad():
        for batch in batches if progress is None else progress(batches):
            if isinstance(batch, torch.Tensor):
                prepared(batch)
            elif isinstance(batch, (tuple, list)):
                prepared(*batch)
            elif isinstance(batch, dict):
                prepared(**batch)
            else:
                message = (
                    f"calibration batch {count} is a {type(batch).__name__}; accepted are a tensor, a tuple of "
                    "positional inputs, or a dict of keyword inputs"
                )
                raise CalibrationError(message)
            count += 1
    if count == 0:
        message = "the calibration data holds no batch at all; give at least one (has an iterator been used up before?)"
        raise CalibrationError(message)
    return count


@without_collection()
def convert_pt2e(model: GraphModule) -> GraphModule:
    """Turn a calibrated model into a quantized one, with q/dq ops and integer weights.

    Args:
        model: The calibrated result of `prepare_pt2e`. It is left as it was.

    Returns:
        A module with the same inputs and outputs whose quantized weights are integer buffers; their float originals
        are gone from its state dict.

    Raises:
        NotPreparedError: The model holds no observers.
        AlreadyConvertedError: It is quantized.
        UncalibratedError: Observers have seen no data; names each.
        NonFiniteError: An observer yields a scale that is no positive number.
    """
    result = copy_model(require_prepared(model))
    remove_guards(result)
    observers_to_qdq(result)
    fold_quantized_constants(result)
    result.recompile()
    verify(result, Stage.CONVERTED, after="fold_quantized_constants")
    return result
