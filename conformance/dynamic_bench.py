"""What the checks of a dynamic scenario look at: float inputs, the graph run on them, the kernels' float results."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk import Backend
from quantizer_sdk.backend import Executable
from quantizer_sdk.conformance.bench import Bench, leaves
from quantizer_sdk.conformance.dynamic_bounds import Bounded, kernel_bound, own_axes
from quantizer_sdk.conformance.dynamic_emulator import Predicted, predict
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, dynamic_gemms, observed
from quantizer_sdk.conformance.dynamic_inputs import float_inputs
from quantizer_sdk.conformance.families import EXPORTS
from quantizer_sdk.conformance.regimes import magnitude_of
from quantizer_sdk.errors import GraphError

__all__ = ["DynamicBench", "FloatRun"]

_RUNS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatRun:
    """One float input.

    Attributes:
        x: The input, which the gemm quantizes.
        graph: What each node of the q/dq graph gives on it.
    """

    x: Tensor
    graph: dict[Node, Any]


@dataclass(slots=True, kw_only=True, eq=False)
class _Made:
    """What is made of a scenario's graph.

    Attributes:
        backend: Whose quantizer and runtime made it; held, so that no other takes its place in memory.
        converted: The q/dq graph.
        program: Its lowering, once there was need of it.
    """

    backend: Backend
    converted: GraphModule
    program: Executable | None = None


_MADE: dict[tuple[Any, ...], _Made] = {}
_MOST_MADE = 2


class DynamicBench(Bench):
    """A scenario whose one gemm quantizes the model's input at run time and gives the model's float result."""

    @functools.cached_property
    def _made(self) -> _Made:
        """The converted graph and its program, which other kinds of data share: qparams come with each run's data."""
        scenario, seed = self.scenario, self.seed
        key = (id(self.backend), scenario.scheme, scenario.program, scenario.channels_last, seed)
        magnitude = magnitude_of(scenario.data)
        if magnitude is not None or scenario.data in EXPORTS:
            return _Made(backend=self.backend, converted=super().converted)
        if key not in _MADE:
            while len(_MADE) >= _MOST_MADE:
                _MADE.pop(next(iter(_MADE)))
            _MADE[key] = _Made(backend=self.backend, converted=super().converted)
        return _MADE[key]

    @property
    def converted(self) -> GraphModule:
        """The q/dq graph."""
        return self._made.converted

    @functools.cached_property
    def gemm(self) -> DynamicGemm:
        """The gemm.

        Raises:
            GraphError: There is not exactly one, or it reads or gives something else.
        """
        found = dynamic_gemms(self.converted)
        if len(found) != 1:
            raise GraphError(f"{len(found)} gemms quantize their activation at run time; expected one")
        source, users = found[0].quantize.args[0], list(found[0].output.users)
        if not isinstance(source, Node) or source.op != "placeholder" or any(user.op != "output" for user in users):
            raise GraphError(f"{found[0].node.name} lies between other ops; expected the model's input and output")
        return found[0]

    @functools.cached_property
    def own(self) -> int:
        """How many of the input's first axes have qparams for each index."""
        return own_axes(self.gemm, self.batches[0][0])

    def floats(self, seed: int, data: str | None = None) -> Tensor:
        """Return a float input of the scenario's kind of data, or of another."""
        (shape,) = self.scenario.program.inputs
        rows = len(shape) - 1 if self.gemm.is_linear else 1
        return self._laid_out(float_inputs(shape, rows, data or self.scenario.data, 10 * self.seed + seed))

    @functools.cached_property
    def float_runs(self) -> tuple[FloatRun, ...]:
        """Float inputs, with what the eager graph makes of them."""
        return tuple(self.float_run(self.floats(seed)) for seed in range(_RUNS))

    def float_run(self, x: Tensor) -> FloatRun:
        """Run the eager graph."""
        return FloatRun(x=x, graph=observed(self.converted, (x,)))

    @property
    def program(self) -> Executable:
        """The q/dq graph, lowered to take and return float tensors."""
        if self._made.program is None:
            self._made.program = self.backend.lower(self.converted, list(self.batches[0]))
        return self._made.program

    @functools.cached_property
    def results(self) -> tuple[Tensor, ...]:
        """For each run, what the real kernels give.

        Raises:
            LoweringError: The program cannot be lowered, loaded or run.
            GraphError: It returns something else than one float32 tensor.
        """
        return tuple(self.run_program(self.program, run.x) for run in self.float_runs)

    def run_program(self, program: Executable, x: Tensor) -> Tensor:
        """Run a lowering of the graph on a copy of an input."""
        found = list(leaves(program.run(x.clone())))
        if len(found) != 1 or found[0].dtype is not torch.float32:
            words = ", ".join(str(tensor.dtype) for tensor in found) or "nothing"
            raise GraphError(f"the program returns {words}; expected one float32 tensor")
        return found[0]

    @property
    def floor(self) -> float:
        """The smallest scale that kernels choose: the profile's, or where it says nothing, the graph's."""
        profile = self.backend.profile
        known = profile is not None and profile.dynamic is not None
        return profile.dynamic.smallest_scale if known else self.gemm.smallest_scale  # type: ignore[union-attr]

    def bounded(self, x: Tensor) -> Bounded:
        """Return the exact result for a finite input, and how far a kernel's may be from it."""
        return kernel_bound(self.converted, self.gemm, x, self.floor)

    def predicted(self, x: Tensor) -> Predicted | None:
        """Return what the profile predicts; None where it says nothing of such gemms."""
        profile = self.backend.profile
        if profile is None or profile.dynamic is None:
            return None
        return predict(self.converted, self.gemm, x, profile.dynamic)
