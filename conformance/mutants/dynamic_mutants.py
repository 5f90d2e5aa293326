"""Wrong kernels of gemms that quantize their activation at run time, and of weights of few bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch.fx import GraphModule

from quantizer_sdk import Backend, Profile
from quantizer_sdk.backend import Executable
from quantizer_sdk.conformance.mutants import wrong_dynamic_kernels as wrong
from quantizer_sdk.conformance.mutants.emulated import emulated_lower
from quantizer_sdk.conformance.mutants.emulated_dynamic import (
    DynamicCompute,
    DynamicProgram,
    OperandChange,
    with_arithmetic,
    with_operands,
)
from quantizer_sdk.conformance.mutants.healthy import healthy, profile_of, runner_with
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.profile import Rounding, RunTimeScale, ScaleOrder, ZeroPointOrder

__all__ = ["DYNAMIC_MUTANTS"]

LINEAR = "aten.linear/d8.pc/generic/2d"
RELU = "aten.linear+aten.relu/d8.pc/generic/2d"
UNEQUAL = "aten.linear/d8.pc/rows_unequal/2d"
TIES = "aten.linear/d8.pc/rows_ties/2d"
FLAT = "aten.linear/d8.pc/rows_flat/2d"
EXTREME = "aten.linear/d8.pc/rows_extreme/2d"
NONFINITE = "aten.linear/d8.pc/nonfinite/2d"
BATCH = "aten.linear/d8.pc/dynamic_batch/2d"
FOUR_BITS = "aten.linear/d8.w4.pc/generic/k64"
GROUPS = "aten.linear/d8.w4.g32/generic/k64"


def _programs(make: Callable[[GraphModule, Profile], Executable]) -> Callable[[], Backend]:
    """Return what makes a backend with a right quantizer and such programs."""

    def backend() -> Backend:
        found = healthy()
        runner = dataclasses.replace(
            runner_with(profile_of(found)), lower=emulated_lower(profile_of(found), dynamic=make)
        )
        return dataclasses.replace(found, runner=runner)

    return backend


def _kernels(compute: DynamicCompute) -> Callable[[], Backend]:
    return _programs(lambda model, profile: DynamicProgram(model, profile, compute))


def _operands(change: OperandChange) -> Callable[[], Backend]:
    return _kernels(with_operands(change))


def _programs_of(program: type[DynamicProgram]) -> Callable[[], Backend]:
    return _programs(lambda model, profile: program(model, profile, with_operands()))


def _mutant(name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases, kind=Kind.KERNEL)


DYNAMIC_MUTANTS = (
    _mutant(
        "dynamic_one_scale_for_all_rows",
        "A row of small numbers comes out as zeros where the batch has a row of large ones.",
        _operands(wrong.one_scale),
        "K1 K2 K6",
        LINEAR,
        UNEQUAL,
    ),
    _mutant(
        "dynamic_scale_of_the_row_before",
        "Each row's results are on the scale of the row before it.",
        _operands(wrong.neighbours_scale),
        "K1 K2 K6",
        LINEAR,
        UNEQUAL,
    ),
    _mutant(
        "dynamic_zero_point_dropped",
        "A row that is not centred around 0 is off by its zero point times the sum of the weights.",
        _operands(wrong.zero_point_dropped),
        "K1 K2 K7",
        LINEAR,
        FLAT,
    ),
    _mutant(
        "dynamic_symmetric_for_affine",
        "A row of one sign has half of its codes for numbers that it does not hold.",
        _operands(wrong.symmetric),
        "K1 K2 K7",
        LINEAR,
        FLAT,
    ),
    _mutant(
        "dynamic_bias_dropped",
        "The layer's bias is missing.",
        _operands(wrong.bias_dropped),
        "K1 K2 K7",
        LINEAR,
        FLAT,
    ),
    _mutant(
        "dynamic_relu_dropped",
        "Negative results stay.",
        _kernels(wrong.unclamped),
        "K1 K2",
        RELU,
    ),
    _mutant(
        "dynamic_last_value_left",
        "The last feature of every row is ignored.",
        _operands(wrong.last_value_left),
        "K1 K2 K5",
        LINEAR,
        "aten.linear/d8.pc/generic/n1",
    ),
    _mutant(
        "dynamic_rounds_half_up",
        "Activations halfway between two codes go the other way, where a golden file from the profile says otherwise.",
        _kernels(with_arithmetic(rounding=Rounding.HALF_UP)),
        "K1 K3",
        TIES,
    ),
    _mutant(
        "dynamic_truncates",
        "Activations are half a code too small in magnitude on average.",
        _kernels(with_arithmetic(rounding=Rounding.TRUNCATE)),
        "K1 K2",
        LINEAR,
    ),
    _mutant(
        "dynamic_zero_point_before_rounding",
        "Where a row's zero point is odd, activations halfway between two codes go the other way.",
        _kernels(with_arithmetic(zero_point=ZeroPointOrder.BEFORE)),
        "K1 K3",
        TIES,
    ),
    _mutant(
        "dynamic_divides_into_the_scale",
        "Scales differ in their last bit, and with them results, from device to device.",
        _kernels(with_arithmetic(scale=RunTimeScale.DIRECT)),
        "K1",
        LINEAR,
        UNEQUAL,
    ),
    _mutant(
        "dynamic_bias_apart",
        "Results differ in their last bit from device to device.",
        _kernels(with_arithmetic(order=ScaleOrder.COMBINED)),
        "K1",
        LINEAR,
    ),
    _mutant(
        "dynamic_floor_under_scales",
        "Rows of very small numbers come out as zeros.",
        _kernels(with_arithmetic(smallest_scale=2.0**-23)),
        "K1 K7",
        EXTREME,
    ),
    _mutant(
        "dynamic_nan_spoils_all_rows",
        "One bad element of a batch takes all others with it.",
        _kernels(wrong.spoiled_by_any),
        "K7",
        NONFINITE,
    ),
    _mutant(
        "dynamic_refuses_nan",
        "A NaN stops the program.",
        _programs_of(wrong.RefusesNaN),
        "K7",
        NONFINITE,
    ),
    _mutant(
        "dynamic_in_float",
        "The gemm computes in float, and the layer is slower than before.",
        _programs_of(wrong.InFloat),
        "D2",
        LINEAR,
    ),
    _mutant(
        "dynamic_float_in_disguise",
        "The gemm computes in float and says that it does not.",
        _programs_of(wrong.FloatInDisguise),
        "K1 K3",
        LINEAR,
        TIES,
    ),
    _mutant(
        "dynamic_fails_at_first_run",
        "The program loads, and fails at the first inference.",
        _programs_of(wrong.FailsAtFirstRun),
        "D1",
        LINEAR,
    ),
    _mutant(
        "dynamic_leaks",
        "The same input gives something else when it comes again.",
        _programs_of(wrong.Leaks),
        "D1 K2",
        LINEAR,
    ),
    _mutant(
        "dynamic_keeps_its_batch",
        "Batches larger than the first have wrong results at their end.",
        _programs_of(wrong.KeepsBatch),
        "K5",
        BATCH,
    ),
    _mutant(
        "nibbles_swapped",
        "Every second weight stands in the place of its neighbour.",
        _operands(wrong.nibbles_swapped),
        "K1 K2",
        FOUR_BITS,
    ),
    _mutant(
        "nibbles_unsigned",
        "Negative weights are large positive ones.",
        _operands(wrong.unsigned_nibbles),
        "K1 K2",
        FOUR_BITS,
    ),
    _mutant(
        "group_scales_of_the_neighbour",
        "Each group of weights is on its neighbour's scale.",
        _operands(wrong.groups_rolled),
        "K1 K2",
        GROUPS,
    ),
)
"""Each wrong in one thing."""
