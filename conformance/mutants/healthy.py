"""What mutants are made from: a right table quantizer on right kernels, which the suite must find nothing against."""

from __future__ import annotations

from dataclasses import fields, replace

from quantizer_sdk import (
    Backend,
    DerivedQuantizationSpec,
    Profile,
    QuantizationSpecBase,
    RoundedQuantizationSpec,
    find_backend,
)
from quantizer_sdk.backend import Runner, Variant
from quantizer_sdk.conformance.mutants.altered import altered, replace_specs
from quantizer_sdk.conformance.mutants.emulated import Compute, emulated_lower, predicted

__all__ = ["healthy", "healthy_integer_bias", "healthy_relu_at_end", "profile_of", "runner_with"]

_DONOR = "xnnpack"
"""Whose table and profile are used; its runtime need not be installed."""


def healthy() -> Backend:
    """Return the donor's quantizer and profile on emulated kernels."""
    donor = find_backend(_DONOR)
    return replace(donor, name="emulated", runner=runner_with(profile_of(donor)), peer_quantize=None)


def healthy_integer_bias() -> Backend:
    """Return the same with biases stored as int32 in steps of sx·sw, in the place of rounded float ones."""
    return altered(healthy(), annotate=lambda model: replace_specs(model, _stored))


def _stored(spec: QuantizationSpecBase, _constant: bool) -> QuantizationSpecBase:
    if not isinstance(spec, RoundedQuantizationSpec):
        return spec
    return DerivedQuantizationSpec(**{field.name: getattr(spec, field.name) for field in fields(spec)})


def healthy_relu_at_end() -> Backend:
    """Return the same for kernels whose fused relu is nothing but the lower end of the range."""
    backend = healthy()
    return replace(backend, profile=replace(profile_of(backend), relu_at_quant_min=True))


def runner_with(profile: Profile, compute: Compute = predicted) -> Runner:
    """Return an emulated runtime, with an optimizer that changes nothing and a second instruction set that is right."""
    right = emulated_lower(profile)
    return Runner(
        name="emulator",
        lower=emulated_lower(profile, compute),
        variants=(
            Variant(name="optimizations off", axis="optimizer", lower=right),
            Variant(name="narrow", axis="isa", lower=right),
        ),
    )


def profile_of(backend: Backend) -> Profile:
    """Return a backend's profile, which it has."""
    assert backend.profile is not None
    return backend.profile
