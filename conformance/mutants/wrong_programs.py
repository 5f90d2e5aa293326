"""Wrong programs: they fail, lie about what runs, or return something else than their kernels computed."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.backend import Delegation, Kernel
from quantizer_sdk.conformance.bench import graph_codes, tapped_quantizes
from quantizer_sdk.conformance.mutants.emulated import EmulatedProgram
from quantizer_sdk.errors import LoweringError

__all__ = [
    "Crashes",
    "Dies",
    "DropsOutputs",
    "FailsAtFirstRun",
    "FailsAtLoad",
    "Flickers",
    "FloatInDisguise",
    "Hangs",
    "KeepsExampleBatch",
    "Leaks",
    "LeavesOps",
    "OverwritesInputs",
    "ReadsAsContiguous",
    "RefusesNaN",
    "ReportsConversions",
    "ReportsFloat",
    "ReportsNothing",
    "ReturnsConstant",
    "ReturnsFloat",
    "Stale",
    "WrapsInfinity",
]


class FailsAtLoad(EmulatedProgram):
    """Is refused when it is made."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise LoweringError("the runtime refuses the program: no kernel for a node")


class FailsAtFirstRun(EmulatedProgram):
    """Loads, and fails when it is run."""

    def run(self, *_inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        raise LoweringError("the runtime failed at the first inference: code 32")


class Crashes(EmulatedProgram):
    """Fails with an error that no runtime should raise."""

    def run(self, *_inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        raise IndexError("list index out of range")


class Hangs(EmulatedProgram):
    """Never ends."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        time.sleep(3600)
        return super().run(*inputs)


class Dies(EmulatedProgram):
    """Takes the process with it."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().run(*inputs)


class ReturnsFloat(EmulatedProgram):
    """Returns codes as floats."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        return tuple(tensor.float() for tensor in super().run(*inputs))


class ReturnsConstant(EmulatedProgram):
    """Returns code 0."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        return tuple(torch.zeros_like(tensor) for tensor in super().run(*inputs))


class DropsOutputs(EmulatedProgram):
    """Leaves the last output out."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        return super().run(*inputs)[:-1]


class Stale(EmulatedProgram):
    """Copies inputs of a shape that it has seen nowhere."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        found: tuple[Tensor, ...] = self.__dict__.setdefault("first", super().run(*inputs))
        return found


class OverwritesInputs(EmulatedProgram):
    """Computes in the memory of its first input."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        outputs = super().run(*inputs)
        inputs[0].copy_(outputs[0].flatten()[0])
        return outputs


class ReadsAsContiguous(EmulatedProgram):
    """Reads memory in the order of NCHW, whatever the strides."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        return super().run(*(_misread(tensor) for tensor in inputs))


def _misread(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4 or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1).contiguous().reshape(tensor.shape)


class KeepsExampleBatch(EmulatedProgram):
    """Computes as many elements of a batch as the first run had, and repeats the last of them."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        size = self.__dict__.setdefault("size", inputs[0].shape[0])
        outputs = super().run(*inputs)
        return tuple(_repeated(tensor, size) for tensor in outputs)


def _repeated(tensor: Tensor, size: int) -> Tensor:
    result = tensor.clone()
    result[size:] = result[size - 1 : size]
    return result


class Leaks(EmulatedProgram):
    """Begins each run with what the last one left in its accumulators."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        runs = self.__dict__["runs"] = self.__dict__.get("runs", 0) + 1
        return tuple(tensor.clamp(max=100) + runs % 5 for tensor in super().run(*inputs))


class Flickers(EmulatedProgram):
    """Has a race between threads, which spoils a code in 500."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        generator = self.__dict__.setdefault("generator", torch.Generator().manual_seed(1))
        outputs = super().run(*inputs)
        for tensor in outputs:
            tensor[torch.rand(tensor.shape, generator=generator) < 0.002] ^= 1
        return outputs


class FloatInDisguise(EmulatedProgram):
    """Computes the q/dq graph in float32, and reports integer kernels."""

    def codes(self, inputs: Sequence[Tensor]) -> list[tuple[Any, Tensor]]:
        """Return the codes of the float graph."""
        found = graph_codes(self.model, inputs)
        return [(node, found[node.name]) for node in tapped_quantizes(self.model)]


class ReportsFloat(EmulatedProgram):
    """Says that its kernels compute in float."""

    def kernels(self) -> tuple[Kernel, ...]:
        """Return what it says."""
        return tuple(
            dataclasses.replace(kernel, inputs=("FP32",), outputs=("FP32",), integer=False)
            for kernel in super().kernels()
        )


class ReportsConversions(EmulatedProgram):
    """Says that it converts to float and back."""

    def kernels(self) -> tuple[Kernel, ...]:
        """Return what it says."""
        there = Kernel(name="Convert", inputs=("QINT8",), outputs=("FP32",), integer=False, conversion=True)
        back = Kernel(name="Convert", inputs=("FP32",), outputs=("QINT8",), integer=False, conversion=True)
        return (there, back, *super().kernels())


class ReportsNothing(EmulatedProgram):
    """Says nothing of its kernels."""

    def kernels(self) -> tuple[Kernel, ...]:
        """Return what it says."""
        return ()


class LeavesOps(EmulatedProgram):
    """Says that it left an op to another runtime."""

    def delegation(self) -> Delegation:
        """Return what it says."""
        return Delegation(subgraphs=2, delegated=1, non_delegated=("aten.add.Tensor",))


class WrapsInfinity(EmulatedProgram):
    """Converts floats to codes without saturating."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        finite = (
            torch.where(tensor.isinf(), 0.0, tensor) if tensor.is_floating_point() else tensor for tensor in inputs
        )
        return super().run(*finite)


class RefusesNaN(EmulatedProgram):
    """Fails where an input holds a NaN."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it."""
        if any(bool(tensor.isnan().any()) for tensor in inputs):
            raise LoweringError("the runtime failed: invalid argument")
        return super().run(*inputs)
