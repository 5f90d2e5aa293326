"""A backend as a table: steps of aten overloads, rows of steps, and the config that turns roles into specs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from quantizer_sdk.errors import InvalidSpecError, RuleError
from quantizer_sdk.granularity import Granularity
from quantizer_sdk.observers.module import ObserverFactory
from quantizer_sdk.observers.placeholder import PlaceholderObserver
from quantizer_sdk.spec import (
    PER_CHANNEL_SCHEMES,
    DerivedQuantizationSpec,
    EdgeOrNode,
    QuantizationSpec,
    QuantizationSpecBase,
    RoundedQuantizationSpec,
)

if TYPE_CHECKING:
    from quantizer_sdk.match import Match

__all__ = [
    "ACT",
    "BIAS",
    "WEIGHT",
    "Check",
    "Operand",
    "ProductBiasSpec",
    "QuantizationConfig",
    "Role",
    "Row",
    "Step",
    "ops",
]

_PER_TENSOR = {
    torch.per_channel_symmetric: torch.per_tensor_symmetric,
    torch.per_channel_affine: torch.per_tensor_affine,
}


class Role(Enum):
    """What a tensor is to an op; a config has a spec for each."""

    ACT = "input_activation"
    OUT = "output_activation"
    WEIGHT = "weight"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class ProductBiasSpec(QuantizationSpecBase):
    """In a config's `bias`: the bias of each match gets the product of its activation's and weight's scale.

    Attributes:
        dtype: The integer type of the kernel's accumulator.
        keep_float: Whether the converted model stores it as a float tensor of rounded values, for kernels that quantize
            it themselves; else it is an integer tensor with a dequantize op.
    """

    dtype: torch.dtype = torch.int32
    keep_float: bool = False

    def derive(
        self, activation: EdgeOrNode, weight: EdgeOrNode, weight_spec: QuantizationSpecBase
    ) -> DerivedQuantizationSpec:
        """Return the spec for the bias of a match with these points."""
        per_channel = isinstance(weight_spec, QuantizationSpec) and weight_spec.qscheme in PER_CHANNEL_SCHEMES
        kind = RoundedQuantizationSpec if self.keep_float else DerivedQuantizationSpec
        return kind(
            derived_from=(activation, weight),
            derive_qparams_fn=product_of_scales,
            dtype=self.dtype,
            qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
            ch_axis=0 if per_channel else None,
        )


def product_of_scales(observers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the product of the observers' scales, float32, with zero points of 0.

    Raises:
        InvalidSpecError: Two of them have different numbers of scales, both more than one.
    """
    scale = torch.ones(1)
    for observer in observers:
        own = observer.calculate_qparams()[0].detach().to(torch.float32)
        if 1 not in (scale.numel(), own.numel()) and scale.shape != own.shape:
            message = (
                f"a bias derived from tensors with {scale.numel()} and with {own.numel()} scales; at most one of them "
                "may have several, or both the same channels"
            )
            raise InvalidSpecError(message)
        scale = scale * own
    return scale, torch.zeros_like(scale, dtype=torch.int32)


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """The spec of each role; None leaves tensors of that role float. Fields and order are those of PT2E.

    Attributes:
        input_activation: Spec of activations that an op reads.
        output_activation: Spec of its result.
        weight: Spec of its weight, a constant.
        bias: Spec of its bias, a constant; see `ProductBiasSpec`.
        is_qat: Whether the specs make fake quantizers for training.
    """

    input_activation: QuantizationSpecBase | None
    output_activation: QuantizationSpecBase | None
    weight: QuantizationSpecBase | None
    bias: QuantizationSpecBase | None = None
    is_qat: bool = False

    def spec_of(self, role: Role) -> QuantizationSpecBase | None:
        """Return the spec of a role."""
        spec: QuantizationSpecBase | None = getattr(self, role.value)
        return spec


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor operand of a step: its role, and how the op departs from the config's spec of that role.

    Attributes:
        role: Which spec of the config it takes.
        ch_axis: The axis of its channels, in place of that in a per-channel spec.
        force_per_tensor: Whether the kernel takes one scale only; a per-channel spec turns into its per-tensor form.
        run_time_granularity: How many elements share a scale where the spec is dynamic and does not say it itself;
            None where the op has no kernel for it.
        other_run_time_granularities: What a dynamic spec may say instead.
        quantized: Whether the config's spec applies at all; False where the kernel takes or gives a float tensor.
    """

    role: Role
    ch_axis: int | None = None
    force_per_tensor: bool = False
    run_time_granularity: Granularity | None = None
    other_run_time_granularities: tuple[Granularity, ...] = ()
    quantized: bool = True

    def on_axis(self, ch_axis: int) -> Operand:
        """Return this operand with its channels on another axis."""
        return dataclasses.replace(self, ch_axis=ch_axis)

    def per_tensor(self) -> Operand:
        """Return this operand with one scale for the whole tensor."""
        return dataclasses.replace(self, force_per_tensor=True)

    def at_run_time(self, granularity: Granularity, *others: Granularity) -> Operand:
        """Return this operand with scales of this granularity where each run computes them from its own data.

        Args:
            granularity: What a spec gets that does not say it itself.
            *others: What a spec may say instead.
        """
        return dataclasses.replace(self, run_time_granularity=granularity, other_run_time_granularities=others)

    def as_float(self) -> Operand:
        """Return this operand left float, whatever the config says."""
        return dataclasses.replace(self, quantized=False)

    def spec(self, config: QuantizationConfig) -> QuantizationSpecBase | None:
        """Return the spec that a config gives this operand."""
        spec = config.spec_of(self.role) if self.quantized else None
        if isinstance(spec, QuantizationSpec) and spec.is_dynamic and self.run_time_granularity is not None:
            return _shared_by(spec, self.run_time_granularity)
        if not isinstance(spec, QuantizationSpec) or spec.qscheme not in PER_CHANNEL_SCHEMES:
            return spec
        if self.force_per_tensor:
            return dataclasses.replace(
                spec, qscheme=_PER_TENSOR[spec.qscheme], ch_axis=None, observer_or_fake_quant_ctr=None
            )
        return spec if self.ch_axis is None else dataclasses.replace(spec, ch_axis=self.ch_axis)


def _shared_by(spec: QuantizationSpec, granularity: Granularity) -> QuantizationSpec:
    """Return a spec whose observer is told a granularity, if its user has not told it one."""
    constructor = spec.observer_or_fake_quant_ctr
    if constructor is None:
        constructor = PlaceholderObserver
    if isinstance(constructor, ObserverFactory) and "granularity" in constructor.arguments:
        return spec
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=constructor.with_args(granularity=granularity))


ACT = Operand(Role.ACT)
WEIGHT = Operand(Role.WEIGHT)
BIAS = Operand(Role.BIAS)

Check: TypeAlias = "Callable[[Match], str | None]"
"""Returns None, or a reason against a match that its user can act on, such as "groups=4, the NPU supports 1"."""


def ops(*overloads: torch._ops.OpOverload) -> frozenset[torch._ops.OpOverload]:
    """Return a set of aten overloads.

    Raises:
        RuleError: One is no overload but a packet of several, such as `aten.conv2d` for `aten.conv2d.default`.
    """
    for overload in overloads:
        if not isinstance(overload, torch._ops.OpOverload):
            message = f"{overload} is no op overload; name one, such as torch.ops.aten.conv2d.default"
            raise RuleError(message)
    return frozenset(overloads)


@dataclass(frozen=True, slots=True)
class Step:
    """One op of a pattern.

    Attributes:
        targets: The overloads that it may be.
        operands: The role of each tensor argument, in schema order; a list argument has one for all its elements. The
            argument that the previous step feeds needs none, but keeps its place.
    """

    targets: frozenset[torch._ops.OpOverload]
    operands: tuple[Operand, ...] = (ACT,)


@dataclass(frozen=True, slots=True)
class Row:
    """One pattern that the backend computes with one integer kernel.

    Attributes:
        name: Names the row in reports, docs and test ids.
        steps: A chain of ops, each the only user of the one before.
        share: Whether the op only moves codes: all operands and the result have the same qparams. Such an op is
            claimed where it touches a quantized one; alone among float ops there is nothing to move.
        checks: Each may refuse a match with a reason.
        output: The role that gives the result's spec.
        remark: What users should know of every match, for reports.
    """

    name: str
    steps: tuple[Step, ...]
    share: bool = False
    checks: tuple[Check, ...] = field(default=(), compare=False)
    output: Operand = Operand(Role.OUT)
    remark: str | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            message = f"row {self.name!r} has no steps"
            raise RuleError(message)
        if self.share and len(self.steps) > 1:
            message = f"row {self.name!r} shares qparams over {len(self.steps)} steps; give each op a row of its own"
            raise RuleError(message)
