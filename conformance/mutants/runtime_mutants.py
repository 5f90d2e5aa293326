"""Wrong runtimes: programs that fail, lie about what runs, or give something else than their kernels computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from quantizer_sdk import Backend, Runner
from quantizer_sdk.backend import Executable, Variant
from quantizer_sdk.conformance.mutants import wrong_programs as programs
from quantizer_sdk.conformance.mutants.emulated import Compute, emulated_lower
from quantizer_sdk.conformance.mutants.healthy import healthy, profile_of, runner_with
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.conformance.mutants.wrong_kernels import cut_multiplier, saturating_pairs

__all__ = ["RUNTIME_MUTANTS"]

CONV = "aten.conv2d/s8.pc/generic/3x3"
LINEAR = "aten.linear/s8.pc/generic/2d"
ADD = "aten.add/s8.pc/generic/4d"
RELU = "aten.relu/s8.pc/generic/4d"


def _program(program: Callable[..., Executable]) -> Callable[[], Backend]:
    """Make a backend with right kernels in a wrong kind of program."""

    def make() -> Backend:
        backend = healthy()
        runner = runner_with(profile_of(backend))
        return _with_runner(
            backend, dataclasses.replace(runner, lower=emulated_lower(profile_of(backend), program=program))
        )

    return make


def _variant(axis: Literal["optimizer", "isa"], compute: Compute) -> Callable[[], Backend]:
    """Make a backend that is right but for a variant of its runtime."""

    def make() -> Backend:
        backend = healthy()
        wrong = Variant(name="wrong", axis=axis, lower=emulated_lower(profile_of(backend), compute))
        return _with_runner(backend, dataclasses.replace(runner_with(profile_of(backend)), variants=(wrong,)))

    return make


def _with_runner(backend: Backend, runner: Runner) -> Backend:
    return dataclasses.replace(backend, runner=runner)


def _mutant(
    name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str, alone: bool = False
) -> Mutant:
    return Mutant(
        name=name,
        harm=harm,
        make=make,
        killers=tuple(killers.split()),
        cases=cases,
        kind=Kind.KERNEL,
        alone=alone,
    )


RUNTIME_MUTANTS = (
    _mutant("fails_at_load", "The program cannot be loaded.", _program(programs.FailsAtLoad), "D1", CONV),
    _mutant(
        "fails_at_first_run",
        "The program loads, and fails at the first inference.",
        _program(programs.FailsAtFirstRun),
        "D1",
        CONV,
    ),
    _mutant("raises_anything", "The program fails with an error of no kind.", _program(programs.Crashes), "D1", CONV),
    _mutant("hangs", "The first inference never ends.", _program(programs.Hangs), "D1", RELU, alone=True),
    _mutant(
        "segfaults",
        "The first inference takes the whole process down.",
        _program(programs.Dies),
        "D1",
        RELU,
        alone=True,
    ),
    _mutant("returns_float", "Codes come back as floats.", _program(programs.ReturnsFloat), "D1", CONV),
    _mutant(
        "returns_constant",
        "All results are code 0, whatever the input.",
        _program(programs.ReturnsConstant),
        "K1 K2",
        CONV,
        ADD,
    ),
    _mutant(
        "drops_outputs",
        "The last output is missing.",
        _program(programs.DropsOutputs),
        "D1",
        "aten.cat/s8.pc/generic/two",
    ),
    _mutant(
        "returns_the_first_result_for_ever",
        "All images have the first one's class.",
        _program(programs.Stale),
        "K1 K2",
        CONV,
        ADD,
    ),
    _mutant(
        "overwrites_its_input",
        "The caller's input is gone after a run.",
        _program(programs.OverwritesInputs),
        "D1",
        CONV,
        ADD,
    ),
    _mutant(
        "reads_channels_last_as_contiguous",
        "Images that lie channels last in memory are read as noise.",
        _program(programs.ReadsAsContiguous),
        "K1 K5",
        "aten.conv2d/s8.pc/generic/3x3.channels_last",
    ),
    _mutant(
        "keeps_the_first_batch_size",
        "Elements beyond the first batch's size get another one's result.",
        _program(programs.KeepsExampleBatch),
        "K5",
        "aten.conv2d/s8.pc/dynamic_batch/3x3",
        "aten.linear/s8.pc/dynamic_batch/2d",
    ),
    _mutant(
        "flickers",
        "One code in five hundred is wrong, each time another one.",
        _program(programs.Flickers),
        "K1 K2",
        CONV,
    ),
    _mutant(
        "leaks_between_runs",
        "The same image gives another result each time.",
        _program(programs.Leaks),
        "K1 D1",
        CONV,
    ),
    _mutant(
        "float_in_disguise",
        "What is reported as an integer kernel computes in float, at the speed of float.",
        _program(programs.FloatInDisguise),
        "K1",
        "aten.add/s8.pc/zp_odd/4d",
        "aten.mean.dim/s8.pc/zp_odd/m7x7",
    ),
    _mutant("float_island", "An op inside the model computes in float.", _program(programs.ReportsFloat), "D2", CONV),
    _mutant(
        "conversions_inside",
        "Codes are dequantized and quantized again on the way.",
        _program(programs.ReportsConversions),
        "D2",
        CONV,
    ),
    _mutant("names_no_kernel", "Nobody knows what ran.", _program(programs.ReportsNothing), "D2", CONV),
    _mutant(
        "left_to_the_portable_runtime", "An op runs a hundred times slower.", _program(programs.LeavesOps), "D2", ADD
    ),
    _mutant(
        "infinity_wraps",
        "One overflow before the model becomes an ordinary number inside it.",
        _program(programs.WrapsInfinity),
        "K7",
        "aten.relu/s8.pc/nonfinite/4d",
        "aten.conv2d/s8.pc/nonfinite/3x3",
    ),
    _mutant(
        "refuses_nan",
        "One NaN takes the service down.",
        _program(programs.RefusesNaN),
        "K7",
        "aten.relu/s8.pc/nonfinite/4d",
    ),
    _mutant(
        "optimizer_cuts_multipliers",
        "The optimized program gives other results than the one that was tested.",
        _variant("optimizer", cut_multiplier(8)),
        "D3",
        CONV,
    ),
    _mutant(
        "pairs_saturate_without_vnni",
        "On older processors results are off by tens of codes.",
        _variant("isa", saturating_pairs),
        "K4",
        "aten.linear/s8.pc/ends/2d",
    ),
)
