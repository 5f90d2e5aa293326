"""From a spec to its observer: the one place that calls constructors, ours and those of other libraries."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from quantizer_sdk.dtypes import CODE_RANGES, code_range, is_cast
from quantizer_sdk.errors import InvalidSpecError, UnsupportedError
from quantizer_sdk.granularity import PerRow, PerTensor, PerToken
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.derived import DerivedObserver
from quantizer_sdk.observers.fixed import FixedQParamsObserver
from quantizer_sdk.observers.min_max import MinMaxObserver, PerChannelMinMaxObserver
from quantizer_sdk.observers.module import ObserverFactory, QParamsModule
from quantizer_sdk.observers.placeholder import PlaceholderObserver
from quantizer_sdk.spec import (
    PER_CHANNEL_SCHEMES,
    SYMMETRIC_SCHEMES,
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationSpec,
    QuantizationSpecBase,
    RoundedQuantizationSpec,
    granularity_of,
)

__all__ = ["create_observer", "is_calibrated", "is_observer", "is_observer_call"]

_OPTIONAL_FIELDS = ("ch_axis", "is_dynamic")


def is_observer(module: object) -> bool:
    """Whether a module is an observer or fake quantizer, of this library or another: it can calculate qparams."""
    return isinstance(module, nn.Module) and callable(getattr(module, "calculate_qparams", None))


def is_calibrated(observer: nn.Module) -> bool:
    """Whether an observer has seen data.

    Those of other libraries keep it in `min_val`, empty or +infinity till then; their fake quantizers hold an observer.
    """
    known = getattr(observer, "calibrated", None)
    if known is not None:
        return bool(known)
    observer = getattr(observer, "activation_post_process", observer)
    low = getattr(observer, "min_val", None)
    return low is None or (low.numel() > 0 and bool((low != math.inf).all()))  # NaN is data, though no good


def is_observer_call(node: Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node calls an observer or fake quantizer, by the modules of its graph."""
    return node.op == "call_module" and is_observer(modules.get(str(node.target)))


def create_observer(spec: QuantizationSpecBase, location: str, sources: Sequence[nn.Module] = ()) -> nn.Module:
    """Make the observer that a spec asks for.

    Args:
        spec: Any spec but a shared one.
        location: Where it will sit, for its errors.
        sources: For a derived spec, the observers it derives from.

    Raises:
        InvalidSpecError: The constructor refuses the spec's fields, or makes no observer.
        UnsupportedError: The spec is of a kind that the engine does not know, or asks for dynamic quantization in a
            form that no op computes; or another library's observer has not what conversion asks of it.
    """
    if getattr(spec, "is_dynamic", False):
        _check_dynamic(spec, location)
    observer: nn.Module
    if isinstance(spec, DerivedQuantizationSpec):
        _check_sources(sources, location)
        keep_float = isinstance(spec, RoundedQuantizationSpec)
        observer = DerivedObserver(sources, **_fields(spec, "derived_from"), keep_float=keep_float)
    elif isinstance(spec, FixedQParamsQuantizationSpec):
        observer = FixedQParamsObserver(**_fields(spec))
    elif isinstance(spec, QuantizationSpec):
        observer = _call_constructor(spec, location)
    else:
        message = f"{location}: {type(spec).__name__} is no spec that the engine knows"
        raise UnsupportedError(message)
    for watcher in (observer, observer._modules.get("activation_post_process")):
        if isinstance(watcher, ObserverBase):
            watcher.location = location
    return observer


def _check_dynamic(spec: QuantizationSpecBase, location: str) -> None:
    """Refuse what the ops that choose qparams at run time cannot do."""
    if not isinstance(spec, QuantizationSpec):
        message = f"{location}: a {type(spec).__name__} cannot be dynamic; only a QuantizationSpec can"
        raise UnsupportedError(message)
    granularity = granularity_of(spec)
    low, high = code_range(spec.dtype, spec.quant_min, spec.quant_max)
    if isinstance(granularity, (PerToken, PerRow)) and granularity in (PerToken(), PerRow(-1)):
        full = {(-128, 127)} | ({(-127, 127)} if spec.qscheme in SYMMETRIC_SCHEMES else set())
        if spec.dtype is not torch.int8 or (low, high) not in full:
            message = (
                f"{location}: dynamic per token in {spec.dtype} {low}..{high}; the op that chooses such qparams knows "
                "torch.int8 with all its codes"
            )
            raise UnsupportedError(message)
    elif not isinstance(granularity, PerTensor) and spec.qscheme in SYMMETRIC_SCHEMES:
        message = (
            f"{location}: dynamic and symmetric with {granularity}; symmetric run-time qparams are per tensor or per "
            "token, affine ones of any granularity"
        )
        raise UnsupportedError(message)
    elif spec.dtype not in (torch.int8, torch.uint8):
        message = f"{location}: dynamic in {spec.dtype}; the op that chooses qparams knows torch.int8 and torch.uint8"
        raise UnsupportedError(message)


def _check_sources(sources: Sequence[nn.Module], location: str) -> None:
    """Refuse to derive qparams from such as are there only at run time."""
    for source in sources:
        if getattr(source, "is_dynamic", False):
            message = (
                f"{location}: its qparams derive from those of a dynamic tensor, which are not known before run time; "
                "leave a bias beside dynamic activations float"
            )
            raise UnsupportedError(message)


def _fields(spec: Any, *dropped: str) -> dict[str, Any]:
    names: tuple[str, ...] = _field_names(type(spec))  # type: ignore[arg-type]  # mypy does not see that classes hash
    return {name: getattr(spec, name) for name in names if name not in dropped}


@functools.cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _call_constructor(spec: QuantizationSpec, location: str) -> nn.Module:
    constructor = spec.observer_or_fake_quant_ctr
    if constructor is None:
        if spec.is_dynamic or is_cast(spec.dtype):
            constructor = PlaceholderObserver
        else:
            constructor = PerChannelMinMaxObserver if spec.qscheme in PER_CHANNEL_SCHEMES else MinMaxObserver
    fields = _fields(spec, "observer_or_fake_quant_ctr")
    target = _class_of(constructor)
    if not (isinstance(target, type) and issubclass(target, ObserverBase)):
        fields = _accepted_by(target, fields)
    try:
        observer: nn.Module = constructor.with_args(**fields)()
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        name = getattr(target, "__name__", repr(target))
        message = f"{location}: {name} does not take the fields of its spec, {fields}: {error}"
        raise InvalidSpecError(message) from error
    if not is_observer(observer):
        message = f"{location}: {constructor!r} made a {type(observer).__name__}, which has no calculate_qparams()"
        raise InvalidSpecError(message)
    if not isinstance(observer, QParamsModule):
        _check_foreign(observer, location)
    return observer


def _check_foreign(observer: Any, location: str) -> None:
    """Refuse an observer of another library that conversion could not turn into q/dq ops."""
    name = f"{type(observer).__module__}.{type(observer).__name__}"
    if callable(getattr(observer, "convert", None)):
        message = f"{location}: {name} writes ops of its own, by convert(); the engine writes q/dq ops from qparams"
        raise UnsupportedError(message)
    dtype = getattr(observer, "dtype", None)
    needed = ["dtype"]
    if dtype in CODE_RANGES:
        needed += ["quant_min", "quant_max"]
        needed += ["ch_axis"] if getattr(observer, "qscheme", None) in PER_CHANNEL_SCHEMES else []
    if missing := [attribute for attribute in needed if not hasattr(observer, attribute)]:
        message = (
            f"{location}: {name} has no {' and no '.join(missing)}; conversion reads an observer's dtype, quant_min, "
            "quant_max, qscheme and, per channel, ch_axis"
        )
        raise UnsupportedError(message)
    if not isinstance(dtype, torch.dtype) or not (dtype in CODE_RANGES or dtype is torch.float32 or is_cast(dtype)):
        accepted = ", ".join(str(known) for known in CODE_RANGES)
        message = f"{location}: {name} has dtype {dtype}; types of codes are {accepted}"
        raise UnsupportedError(message)


def _class_of(constructor: Any) -> Any:
    """Look through `with_args`, ours and that of torch.ao and torchao (which keep a functools.partial in `p`)."""
    while True:
        if isinstance(constructor, ObserverFactory):
            constructor = constructor.constructor
        elif isinstance(partial := getattr(constructor, "p", None), functools.partial):
            constructor = partial.func
        else:
            return constructor


def _accepted_by(target: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out the optional fields that another library's observer has no parameter for, if they say nothing.

    Those observers pass unknown keywords on to base classes that refuse them. A field that would change the result
    is kept, so that the constructor's refusal reaches the user rather than the field being dropped in silence.
    """
    try:
        known = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return fields
    silent = {"ch_axis": fields["qscheme"] not in PER_CHANNEL_SCHEMES, "is_dynamic": not fields["is_dynamic"]}
    return {
        name: value
        for name, value in fields.items()
        if (name in known or name not in _OPTIONAL_FIELDS or not silent[name])
        and not (name == "ch_axis" and value is None)  # theirs have a default for it, and do not take None
    }
