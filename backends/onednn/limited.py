"""Programs as on a CPU without VNNI: oneDNN is told to use AVX2, or AVX512, and nothing later."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation, Kernel
from quantizer_sdk.backends.onednn.limited_process import limited_process
from quantizer_sdk.backends.onednn.lowering import lower_eager
from quantizer_sdk.backends.onednn.program import OneDNNProgram
from quantizer_sdk.backends.onednn.serving import ANSWERS, INPUTS, MODULE

__all__ = ["Isa", "LimitedProgram", "lower_without_vnni"]

Isa = Literal["AVX2", "AVX512_CORE"]


class LimitedProgram:
    """A program that runs in a process of limited instructions, which takes seconds to start and then serves all.

    Attributes:
        program: The program, as it runs in this process.
        isa: The instructions.
    """

    def __init__(self, program: OneDNNProgram, isa: Isa) -> None:
        self.program = program
        self.isa = isa

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program once.

        Raises:
            LoweringError: The kernels refuse these inputs, or the process fails.
        """
        return self.run_many([inputs])[0]

    def run_many(self, batches: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
        """Run the program on each of these tuples of inputs.

        Raises:
            LoweringError: As `run`.
        """
        outputs: list[tuple[Tensor, ...]] = self._ask(batches)["outputs"]
        return outputs

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that run there, on the example inputs.

        Raises:
            LoweringError: As `run`.
        """
        kernels: tuple[Kernel, ...] = self._ask([self.program.example_inputs])["kernels"]
        return kernels

    def delegation(self) -> Delegation:
        """Return what runs there on integers, and the names of what runs in float.

        Raises:
            LoweringError: As `run`.
        """
        delegation: Delegation = self._ask([self.program.example_inputs])["delegation"]
        return delegation

    def save(self, path: str | Path) -> None:
        """Write the program to a file, as `OneDNNProgram.save` does: how it runs is none of the file's."""
        self.program.save(path)

    @property
    def size(self) -> int:
        """The bytes of the module's tensors."""
        return self.program.size

    def saturates(self) -> bool:
        """Return what `sums_saturate` says there.

        Raises:
            LoweringError: The process fails.
        """
        return bool(self._ask([])["saturates"])

    def _ask(self, batches: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torch.save(self.program.module, folder / MODULE)
            torch.save([tuple(tensor.detach() for tensor in inputs) for inputs in batches], folder / INPUTS)
            limited_process(self.isa).ask(folder)
            answers: dict[str, Any] = torch.load(folder / ANSWERS, weights_only=False)
            return answers


def lower_without_vnni(
    model: GraphModule,
    example_inputs: Sequence[Tensor] = (),
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    isa: Isa = "AVX2",
    saturating: bool = True,
) -> LimitedProgram:
    """Lower as on a CPU without VNNI, to a program that runs as there; arguments and errors as for `lower_eager`.

    Args:
        model: As for `lower_eager`.
        example_inputs: As for `lower_eager`.
        dynamic_shapes: As for `lower_eager`.
        integer_io: As for `lower_eager`.
        isa: The instructions that oneDNN may use. With AVX2 it multiplies the two scales of a gemm first, so that one
            result in a million is rounded otherwise.
        saturating: As for `lower_eager`; False shows what becomes of sums that nobody minds.
    """
    options = {"dynamic_shapes": dynamic_shapes, "integer_io": integer_io, "saturating": saturating}
    program = lower_eager(model, example_inputs, **options)
    return LimitedProgram(program, isa)
