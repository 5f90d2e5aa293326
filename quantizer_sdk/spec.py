"""How a tensor is to be quantized: the PT2E family of specs, and the annotation that puts them on a node."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.fx import Node

from quantizer_sdk.dtypes import CAST_DTYPES, CODE_RANGES, code_range
from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.granularity import Granularity, PerAxis, PerTensor

__all__ = [
    "AFFINE_SCHEMES",
    "ANNOTATION_KEY",
    "PER_CHANNEL_SCHEMES",
    "SYMMETRIC_SCHEMES",
    "DerivedQuantizationSpec",
    "EdgeOrNode",
    "FixedQParamsQuantizationSpec",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "RoundedQuantizationSpec",
    "SharedQuantizationSpec",
    "granularity_of",
]

ANNOTATION_KEY = "quantization_annotation"
"""The key of `node.meta` under which quantizers of the PT2E ecosystem leave their annotation."""

EdgeOrNode: TypeAlias = tuple[Node, Node] | Node
"""A point of quantization: the edge (producer, consumer), or the output of a node."""

PER_CHANNEL_SCHEMES = frozenset({torch.per_channel_affine, torch.per_channel_symmetric})
AFFINE_SCHEMES = frozenset({torch.per_tensor_affine, torch.per_channel_affine})
SYMMETRIC_SCHEMES = frozenset({torch.per_tensor_symmetric, torch.per_channel_symmetric})
_SCHEMES = PER_CHANNEL_SCHEMES | {torch.per_tensor_affine, torch.per_tensor_symmetric}


def _check_range(spec: Any, casts: tuple[torch.dtype, ...] = ()) -> None:
    name = type(spec).__name__
    if spec.dtype in casts:
        if spec.quant_min is not None or spec.quant_max is not None:
            message = f"{name}: a cast to {spec.dtype} has no codes, so it takes neither quant_min nor quant_max"
            raise InvalidSpecError(message)
        return
    if spec.dtype not in CODE_RANGES:
        accepted = ", ".join(str(dtype) for dtype in (*CODE_RANGES, *casts))
        message = f"{name}: dtype is {spec.dtype!r}; accepted are {accepted}"
        raise InvalidSpecError(message)
    if (spec.quant_min is None) != (spec.quant_max is None):
        message = (
            f"{name}: quant_min is {spec.quant_min} and quant_max is {spec.quant_max}; give both, or neither "
            f"for all codes of {spec.dtype}"
        )
        raise InvalidSpecError(message)
    low, high = CODE_RANGES[spec.dtype]
    quant_min, quant_max = code_range(spec.dtype, spec.quant_min, spec.quant_max)
    if not (low <= quant_min < quant_max <= high):
        message = (
            f"{name}: the range {quant_min}..{quant_max} does not fit {spec.dtype}, whose codes are {low}..{high}; "
            "quant_min must be below quant_max and both among these codes"
        )
        raise InvalidSpecError(message)


def _check_scheme(spec: Any) -> None:
    name = type(spec).__name__
    if spec.qscheme is not None and spec.qscheme not in _SCHEMES:
        accepted = ", ".join(sorted(str(scheme) for scheme in _SCHEMES))
        message = f"{name}: qscheme is {spec.qscheme!r}; accepted are {accepted}"
        raise InvalidSpecError(message)
    ch_axis = getattr(spec, "ch_axis", None)
    if ch_axis is not None and ch_axis < 0:
        message = f"{name}: ch_axis is {ch_axis}; count axes from the front, starting at 0"
        raise InvalidSpecError(message)


class QuantizationSpecBase(ABC):  # noqa: B024  # a family's name, as in PT2E: nothing to implement
    """Base of the specs that say how one tensor is quantized."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class QuantizationSpec(QuantizationSpecBase):
    """Quantize with qparams that an observer chooses from the data it sees.

    The fields and their order are those of PT2E.

    Attributes:
        dtype: The type of the codes: an integer type, also of less than a byte (stored in int8 or uint8), or a float8
            type. float16 and bfloat16 have no codes: the tensor is cast there and back.
        observer_or_fake_quant_ctr: Makes the observer when called as `ctr.with_args(**fields)()`; None takes
            the default that follows from the rest: min-max, per channel where `qscheme` is per channel.
        quant_min: The smallest code, inclusive; None takes the dtype's own.
        quant_max: The largest code, inclusive; None takes the dtype's own.
        qscheme: Per tensor or per channel, symmetric or affine; None leaves it to the observer's default.
        ch_axis: The axis with a scale for each index, from the front; per-channel schemes take axis 0 where it is None.
        is_dynamic: Whether qparams are computed from each run's data instead of from calibration.

    Raises:
        InvalidSpecError: The range does not fit the dtype, only one end of it is given, or the scheme or axis
            is none that exists.
    """

    dtype: torch.dtype
    observer_or_fake_quant_ctr: Any = None
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: torch.qscheme | None = None
    ch_axis: int | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        _check_range(self, CAST_DTYPES)
        _check_scheme(self)
        constructor = self.observer_or_fake_quant_ctr
        if constructor is not None and not hasattr(constructor, "with_args"):
            message = (
                f"QuantizationSpec: observer_or_fake_quant_ctr is {constructor!r}, which has no with_args(); give an "
                "observer class, such as MinMaxObserver, or MinMaxObserver.with_args(eps=...)"
            )
            raise InvalidSpecError(message)


def granularity_of(spec: QuantizationSpecBase) -> Granularity:
    """Return how many elements share a scale: what the spec's observer is told, else what its qscheme says."""
    constructor = getattr(spec, "observer_or_fake_quant_ctr", None)
    told = getattr(constructor, "arguments", {}).get("granularity")
    if isinstance(told, Granularity):
        return told
    if getattr(spec, "qscheme", None) in PER_CHANNEL_SCHEMES:
        return PerAxis(getattr(spec, "ch_axis", None) or 0)
    return PerTensor()


@dataclass(frozen=True, slots=True)
class FixedQParamsQuantizationSpec(QuantizationSpecBase):
    """Quantize with qparams known beforehand, such as 1/256 and -128 for the output of a sigmoid.

    Raises:
        InvalidSpecError: The range does not fit the dtype, the zero point is outside it, the scale is not a finite
            number above 0, or the scheme is none that exists, or per channel, where one scale is too few.
    """

    dtype: torch.dtype
    scale: float
    zero_point: int
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: torch.qscheme | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        _check_range(self)
        _check_scheme(self)
        if self.qscheme in PER_CHANNEL_SCHEMES:
            message = (
                f"FixedQParamsQuantizationSpec: qscheme is {self.qscheme}, but there is one scale; "
                "give a per-tensor scheme"
            )
            raise InvalidSpecError(message)
        low, high = code_range(self.dtype, self.quant_min, self.quant_max)
        if not low <= self.zero_point <= high:
            message = (
                f"FixedQParamsQuantizationSpec: zero_point is {self.zero_point}; it must be a code, here {low}..{high}"
            )
            raise InvalidSpecError(message)
        if not 0 < self.scale < float("inf"):
            message = f"FixedQParamsQuantizationSpec: scale is {self.scale}; it must be finite and above 0"
            raise InvalidSpecError(message)


@dataclass(frozen=True, slots=True)
class SharedQuantizationSpec(QuantizationSpecBase):
    """Quantize with the very qparams of another point.

    Points that share form a set: neither the order nor the direction of the references matters. At least one
    member must hold a spec that is not shared.
    """

    edge_or_node: EdgeOrNode


@dataclass(frozen=True, slots=True)
class DerivedQuantizationSpec(QuantizationSpecBase):
    """Quantize with qparams computed from those of other points, such as a bias with the product of two scales.

    Attributes:
        derived_from: The points whose observers `derive_qparams_fn` is given, in this order.
        derive_qparams_fn: Takes the observers, returns (scale, zero_point) as tensors.
        dtype: As in `QuantizationSpec`, and so are the fields after it.
    """

    derived_from: Sequence[EdgeOrNode]
    derive_qparams_fn: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor]]
    dtype: torch.dtype
    quant_min: int | None = None
    quant_max: int | None = None
    qscheme: torch.qscheme | None = None
    ch_axis: int | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived_from", tuple(self.derived_from))
        _check_range(self)
        _check_scheme(self)
        if not self.derived_from:
            message = "DerivedQuantizationSpec: derived_from is empty; name at least one edge or node"
            raise InvalidSpecError(message)


@dataclass(frozen=True, slots=True)
class RoundedQuantizationSpec(DerivedQuantizationSpec):
    """Round a constant to the codes of derived qparams, but store it float.

    For kernels that take a float bias and quantize it themselves: the rounding shows in the converted model already,
    so that it computes what the kernel computes, and the kernel's own rounding finds nothing left to do.
    """


@dataclass(slots=True)
class QuantizationAnnotation:
    """What a quantizer asks of one node: a spec for each operand and one for the result.

    Attributes:
        input_qspec_map: From producer node to its spec on the edge to this node; None leaves the edge as it is.
        output_qspec: The spec of this node's result; None leaves it as it is.
        allow_implicit_sharing: Whether an operand may use the observer that its producer, or another of the
            producer's annotated users, has under an equal spec.
    """

    input_qspec_map: dict[Node, QuantizationSpecBase | None] = field(default_factory=dict)
    output_qspec: QuantizationSpecBase | None = None
    allow_implicit_sharing: bool = True
    _annotated: bool = False
