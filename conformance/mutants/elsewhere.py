"""Mutants made of another backend's table and profile, and which of them are no mistakes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quantizer_sdk.conformance.mutants.healthy import Donor, made_of
from quantizer_sdk.conformance.mutants.judge import Judgement, case_of, judge_mutant
from quantizer_sdk.conformance.mutants.mutant import Mutant
from quantizer_sdk.errors import InvalidSpecError

__all__ = ["NO_MISTAKE", "Elsewhere", "judge_elsewhere"]

_RELU = "relu alone has no row there, so that the op behind two readers is refused by name"
_UNSIGNED = "activations are uint8 there"
_NEVER_NEGATIVE = "codes are never negative there"
_GROUPED = "stands for transposed convolutions, which have no row there"
_FLOAT_BIAS = "biases are float there"
_ANY_RATIO = "every ratio is taken there"
_BEFORE = "the zero point is added before rounding there"
_HALF_EVEN = "additions round half to even there"
_AS_GRAPH = "kernels compute as the q/dq graph does there, and small sums of products are exact in float32"
_FOLLOWED = "behind a gemm with qparams of each run, relu is an op of its own there"
_THEIRS = "that is how run-time qparams are made there"
_BIASES = (
    *("bias_scale_doubled", "bias_scale_a_percent_off", "bias_scale_from_output", "bias_scale_of_one_channel"),
    *("bias_scale_stale", "bias_in_8_bits", "bias_rounded_coarsely"),
)
_EVERYWHERE = {
    "fused_across_two_users": _RELU,
    "unsigned_activations": _UNSIGNED,
    "transposed_axis_0": _GROUPED,
    "max_pool_from_code_0": _NEVER_NEGATIVE,
    "addition_rounds_half_even": _HALF_EVEN,
}
_TORCH = {
    **_EVERYWHERE,
    **dict.fromkeys(_BIASES, _FLOAT_BIAS),
    "ratio_out_of_range": _ANY_RATIO,
    "zero_point_before_rounding": _BEFORE,
}
NO_MISTAKE: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "onednn": {
            **_TORCH,
            "float_in_disguise": _AS_GRAPH,
            "dynamic_relu_dropped": _FOLLOWED,
            "dynamic_zero_point_before_rounding": _THEIRS,
            "dynamic_divides_into_the_scale": _THEIRS,
            "dynamic_floor_under_scales": _THEIRS,
        },
        "inductor": _TORCH,
        "onnxruntime": _EVERYWHERE,
    }
)
"""By part of the x86 backend, the mutants that change nothing there, or nothing that is wrong, each with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What became of a mutant on another backend.

    Attributes:
        mutant: The mutant.
        judgement: What the suite found; None where it has no such case.
        no_mistake: Why it is no mistake there; None where it is.
    """

    mutant: Mutant
    judgement: Judgement | None
    no_mistake: str | None

    @property
    def fate(self) -> str:
        """Return "killed", "survives", "no mistake" or "no case"."""
        if self.judgement is None:
            return "no case"
        if not self.judgement.survived:
            return "killed"
        return "survives" if self.no_mistake is None else "no mistake"


def judge_elsewhere(mutants: Iterable[Mutant], donor: Donor) -> Iterator[Elsewhere]:
    """Yield what the suite finds of each mutant that is made of this donor's table and profile.

    Those that end a process are left out: what they end is the same everywhere.
    """
    reasons = NO_MISTAKE.get(donor.part, {})
    for mutant in mutants:
        if mutant.alone:
            continue
        with made_of(donor):
            judgement = judge_mutant(mutant, mutant.killers) if _has_cases(mutant) else None
        yield Elsewhere(mutant=mutant, judgement=judgement, no_mistake=reasons.get(mutant.name))


def _has_cases(mutant: Mutant) -> bool:
    try:
        return all(case_of(name) is not None for name in mutant.cases)
    except InvalidSpecError:
        return False
