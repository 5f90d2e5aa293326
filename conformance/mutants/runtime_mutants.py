"""Wrong runtimes: programs that fail, lie about what runs, or give something else than their kernels computed."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from quantizer_sdk import Backend, Runner
from quantizer_sdk.backend import Delegation, Executable, Kernel, Variant
from quantizer_sdk.conformance.bench import graph_codes, tapped_quantizes
from quantizer_sdk.conformance.mutants.emulated import Compute, EmulatedProgram, emulated_lower
from quantizer_sdk.conformance.mutants.healthy import healthy, profile_of, runner_with
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.conformance.mutants.wrong_kernels import cut_multiplier, saturating_pairs
from quantizer_sdk.errors import LoweringError

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


class _FailsAtLoad(EmulatedProgram):
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise LoweringError("the runtime refuses the program: no kernel for a node")


class _FailsAtFirstRun(EmulatedProgram):
    def run(self, *_inputs: Tensor) -> tuple[Tensor, ...]:
        raise LoweringError("the runtime failed at the first inference: code 32")


class _Crashes(EmulatedProgram):
    def run(self, *_inputs: Tensor) -> tuple[Tensor, ...]:
        raise IndexError("list index out of range")


class _Hangs(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        time.sleep(3600)
        return super().run(*inputs)


class _Dies(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().run(*inputs)


class _ReturnsFloat(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.float() for tensor in super().run(*inputs))


class _ReturnsConstant(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(tensor) for tensor in super().run(*inputs))


class _DropsOutputs(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return super().run(*inputs)[:-1]


class _Stale(EmulatedProgram):
    """Copies inputs of a shape that it has seen nowhere."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.__dict__.setdefault("first", super().run(*inputs))
        return found


class _OverwritesInputs(EmulatedProgram):
    """Computes in the memory of its first input."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = super().run(*inputs)
        inputs[0].copy_(outputs[0].flatten()[0])
        return outputs


class _ReadsAsContiguous(EmulatedProgram):
    """Reads memory in the order of NCHW, whatever the strides."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return super().run(*(_misread(tensor) for tensor in inputs))


def _misread(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4 or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1).contiguous().reshape(tensor.shape)


class _KeepsExampleBatch(EmulatedProgram):
    """Computes as many elements of a batch as the first run had, and repeats the last of them."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        size = self.__dict__.setdefault("size", inputs[0].shape[0])
        outputs = super().run(*inputs)
        return tuple(_repeated(tensor, size) for tensor in outputs)


def _repeated(tensor: Tensor, size: int) -> Tensor:
    result = tensor.clone()
    result[size:] = result[size - 1 : size]
    return result


class _Leaks(EmulatedProgram):
    """Begins each run with what the last one left in its accumulators."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        runs = self.__dict__["runs"] = self.__dict__.get("runs", 0) + 1
        return tuple(tensor.clamp(max=100) + runs % 5 for tensor in super().run(*inputs))


class _Flickers(EmulatedProgram):
    """Has a race between threads, which spoils a code in 500."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        generator = self.__dict__.setdefault("generator", torch.Generator().manual_seed(1))
        outputs = super().run(*inputs)
        for tensor in outputs:
            tensor[torch.rand(tensor.shape, generator=generator) < 0.002] ^= 1
        return outputs


class _FloatInDisguise(EmulatedProgram):
    """Computes the q/dq graph in float32, and reports integer kernels."""

    def codes(self, inputs: Sequence[Tensor]) -> list[tuple[Any, Tensor]]:
        found = graph_codes(self.model, inputs)
        return [(node, found[node.name]) for node in tapped_quantizes(self.model)]


class _ReportsFloat(EmulatedProgram):
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(
            dataclasses.replace(kernel, inputs=("FP32",), outputs=("FP32",), integer=False)
            for kernel in super().kernels()
        )


class _ReportsConversions(EmulatedProgram):
    def kernels(self) -> tuple[Kernel, ...]:
        there = Kernel(name="Convert", inputs=("QINT8",), outputs=("FP32",), integer=False, conversion=True)
        back = Kernel(name="Convert", inputs=("FP32",), outputs=("QINT8",), integer=False, conversion=True)
        return (there, back, *super().kernels())


class _ReportsNothing(EmulatedProgram):
    def kernels(self) -> tuple[Kernel, ...]:
        return ()


class _LeavesOps(EmulatedProgram):
    def delegation(self) -> Delegation:
        return Delegation(subgraphs=2, delegated=1, non_delegated=("aten.add.Tensor",))


class _WrapsInfinity(EmulatedProgram):
    """Converts floats to codes without saturating."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        finite = (
            torch.where(tensor.isinf(), 0.0, tensor) if tensor.is_floating_point() else tensor for tensor in inputs
        )
        return super().run(*finite)


class _RefusesNaN(EmulatedProgram):
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if any(bool(tensor.isnan().any()) for tensor in inputs):
            raise LoweringError("the runtime failed: invalid argument")
        return super().run(*inputs)


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
    _mutant("fails_at_load", "The program cannot be loaded.", _program(_FailsAtLoad), "D1", CONV),
    _mutant(
        "fails_at_first_run",
        "The program loads, and fails at the first inference.",
        _program(_FailsAtFirstRun),
        "D1",
        CONV,
    ),
    _mutant("raises_anything", "The program fails with an error of no kind.", _program(_Crashes), "D1", CONV),
    _mutant("hangs", "The first inference never ends.", _program(_Hangs), "D1", RELU, alone=True),
    _mutant("segfaults", "The first inference takes the whole process down.", _program(_Dies), "D1", RELU, alone=True),
    _mutant("returns_float", "Codes come back as floats.", _program(_ReturnsFloat), "D1", CONV),
    _mutant(
        "returns_constant",
        "All results are code 0, whatever the input.",
        _program(_ReturnsConstant),
        "K1 K2",
        CONV,
        ADD,
    ),
    _mutant(
        "drops_outputs", "The last output is missing.", _program(_DropsOutputs), "D1", "aten.cat/s8.pc/generic/two"
    ),
    _mutant(
        "returns_the_first_result_for_ever",
        "All images have the first one's class.",
        _program(_Stale),
        "K1 K2",
        CONV,
        ADD,
    ),
    _mutant(
        "overwrites_its_input", "The caller's input is gone after a run.", _program(_OverwritesInputs), "D1", CONV, ADD
    ),
    _mutant(
        "reads_channels_last_as_contiguous",
        "Images that lie channels last in memory are read as noise.",
        _program(_ReadsAsContiguous),
        "K1 K5",
        "aten.conv2d/s8.pc/generic/3x3.channels_last",
    ),
    _mutant(
        "keeps_the_first_batch_size",
        "Elements beyond the first batch's size get another one's result.",
        _program(_KeepsExampleBatch),
        "K5",
        "aten.conv2d/s8.pc/dynamic_batch/3x3",
        "aten.linear/s8.pc/dynamic_batch/2d",
    ),
    _mutant(
        "flickers", "One code in five hundred is wrong, each time another one.", _program(_Flickers), "K1 K2", CONV
    ),
    _mutant(
        "leaks_between_runs",
        "The same image gives another result each time.",
        _program(_Leaks),
        "K1 D1",
        CONV,
    ),
    _mutant(
        "float_in_disguise",
        "What is reported as an integer kernel computes in float, at the speed of float.",
        _program(_FloatInDisguise),
        "K1",
        "aten.add/s8.pc/zp_odd/4d",
        "aten.mean.dim/s8.pc/zp_odd/m7x7",
    ),
    _mutant("float_island", "An op inside the model computes in float.", _program(_ReportsFloat), "D2", CONV),
    _mutant(
        "conversions_inside",
        "Codes are dequantized and quantized again on the way.",
        _program(_ReportsConversions),
        "D2",
        CONV,
    ),
    _mutant("names_no_kernel", "Nobody knows what ran.", _program(_ReportsNothing), "D2", CONV),
    _mutant("left_to_the_portable_runtime", "An op runs a hundred times slower.", _program(_LeavesOps), "D2", ADD),
    _mutant(
        "infinity_wraps",
        "One overflow before the model becomes an ordinary number inside it.",
        _program(_WrapsInfinity),
        "K7",
        "aten.relu/s8.pc/nonfinite/4d",
        "aten.conv2d/s8.pc/nonfinite/3x3",
    ),
    _mutant(
        "refuses_nan", "One NaN takes the service down.", _program(_RefusesNaN), "K7", "aten.relu/s8.pc/nonfinite/4d"
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
