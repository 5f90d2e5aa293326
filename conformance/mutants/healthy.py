"""What mutants are made from: a right table quantizer on right kernels, which the suite must find nothing against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

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

__all__ = [
    "Donor",
    "donor",
    "healthy",
    "healthy_integer_bias",
    "healthy_relu_at_end",
    "made_of",
    "profile_of",
    "runner_with",
]


_STAND_INS = {
    "aten.relu": (("aten.conv2d+aten.relu", "3x3"), ("aten.conv2d", "3x3"), ("aten.add", "4d")),
    "aten.clamp": (("aten.conv2d+aten.clamp", "3x3"),),
    "aten.conv2d+aten.hardtanh": (("aten.conv2d+aten.clamp", "3x3"),),
    "aten.conv_transpose2d.input": (("aten.conv2d", "3x3"),),
}


@dataclass(frozen=True, slots=True)
class Donor:
    """Whose table and profile mutants are made of; its runtime need not be installed.

    Attributes:
        backend: The name of a backend.
        part: The name of one of its parts; "" for a backend without.
    """

    backend: str = "xnnpack"
    part: str = ""

    def find(self) -> Backend:
        """Return the backend, or the part.

        Raises:
            BackendError: There is none.
        """
        whole = find_backend(self.backend)
        return next((part for part in whole.parts if part.name == self.part), whole)

    def cases(self, name: str) -> tuple[str, ...]:
        """Return what this donor's suite may call a case of the mutants, which are named as XNNPACK's, the best first.

        Where it has no row for an op alone, the op behind a convolution or an op beside it stands in.
        """
        if not self.part:
            return (name,)
        subject, scheme, data, shape = name.split("/")
        own = scheme.replace("s8.", "u8.", 1) if scheme.startswith("s8.") else scheme
        others = _STAND_INS.get(subject, ()) if shape != "1d" else (("aten.linear", "2d"),)
        places = ((subject, shape), *others)
        return tuple(f"{other}/{own}@{self.part}/{data}/{form}" for other, form in places)


_donor: ContextVar[Donor | None] = ContextVar("donor", default=None)


def donor() -> Donor:
    """Return whose table and profile mutants are made of now."""
    chosen = _donor.get()
    return Donor() if chosen is None else chosen


@contextlib.contextmanager
def made_of(other: Donor) -> Iterator[None]:
    """Make mutants of another donor's table and profile inside the block."""
    token = _donor.set(other)
    try:
        yield
    finally:
        _donor.reset(token)


def healthy() -> Backend:
    """Return the donor's quantizer and profile on emulated kernels."""
    found = donor().find()
    return replace(found, name="emulated", runner=runner_with(profile_of(found)), peer_quantize=None)


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
