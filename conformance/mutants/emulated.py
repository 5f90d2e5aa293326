"""A runtime in software: it computes every kernel as a profile says, or as a mutant gets it wrong.

It needs no runtime to be installed, so that wrong kernels can be tried in a moment; that the real kernels are what
their profile says is what K1 shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk import Profile
from quantizer_sdk.backend import Executable, Kernel, Lower
from quantizer_sdk.conformance.bench import input_quantizes
from quantizer_sdk.conformance.dynamic_gemms import dynamic_gemms
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.conformance.kernels import Kernels
from quantizer_sdk.conformance.mutants.emulated_dynamic import DynamicProgram, with_operands
from quantizer_sdk.conformance.mutants.software_program import SoftwareProgram
from quantizer_sdk.conformance.oracle import Site, run_oracle
from quantizer_sdk.errors import LoweringError

__all__ = ["Compute", "EmulatedProgram", "emulated_lower", "predicted"]

Compute = Callable[[Site, Profile, Node], Tensor]
"""What one kernel does: (its quantize as the oracle sees it, the profile, the quantize node) -> int64 codes."""


def predicted(site: Site, profile: Profile, _node: Node) -> Tensor:
    """Compute as the profile says.

    Raises:
        LoweringError: It says nothing of such a kernel.
    """
    codes = emulate(site, profile)
    if codes is None:
        message = f"profile {profile.name!r} has no kernel for {site.node} ({site.value.family.value})"
        raise LoweringError(message)
    return codes


class EmulatedProgram(SoftwareProgram):
    """A converted graph, interpreted kernel by kernel.

    Args:
        model: The graph, of `quantized_decomposed` operators.
        profile: The kernels' arithmetic.
        compute: What a kernel does.
        integer_io: Whether inputs and outputs are codes.
    """

    def __init__(self, model: GraphModule, profile: Profile, compute: Compute, *, integer_io: bool) -> None:
        super().__init__(model)
        self.profile = profile
        self.compute = compute
        self.integer_io = integer_io
        self._nodes = {node.name: node for node in model.graph.nodes}

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program and return its outputs."""
        quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
        dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        if self.integer_io:
            return tuple(codes for _node, codes in self.codes(inputs))
        pairs = zip(input_quantizes(self.model), inputs, strict=True)
        found = self.codes([quantize(tensor, *node.args[1:]) for node, tensor in pairs])
        return tuple(dequantize(codes, *node.args[1:]) for node, codes in found)

    def codes(self, inputs: Sequence[Tensor]) -> list[tuple[Node, Tensor]]:
        """Return the quantize behind each output with its codes, each kernel run on the codes of those before it."""
        known: dict[str, Tensor] = {}
        while True:
            result = run_oracle(self.model, inputs, self.profile, known)
            site = next((site for site in result.sites if site.node not in known), None)
            if site is None:
                break
            known[site.node] = self.compute(site, self.profile, self._nodes[site.node])
        nodes = [self._nodes[site.node] for site in result.outputs]
        return [(node, known[node.name].to(_dtype(node))) for node in nodes]

    def kernels(self) -> tuple[Kernel, ...]:
        """Return one integer kernel for each quantize of a computed value."""
        return tuple(
            Kernel(
                name="+".join(str(target) for target in kernel.targets) or "copy",
                inputs=("QINT8",) * len(kernel.sources),
                outputs=("QINT8",),
                integer=True,
                conversion=False,
            )
            for kernel in Kernels.of(self.model).found
        )


def emulated_lower(
    profile: Profile,
    compute: Compute = predicted,
    program: Callable[..., Executable] = EmulatedProgram,
    dynamic: Callable[[GraphModule, Profile], Executable] | None = None,
) -> Lower:
    """Return what makes emulated programs.

    Args:
        profile: The kernels' arithmetic.
        compute: What a kernel does.
        program: The class of the programs, called as `EmulatedProgram` is.
        dynamic: Makes those of graphs with gemms of run-time qparams; None makes right ones.
    """

    def lower(
        model: GraphModule,
        example_inputs: Sequence[Tensor],  # noqa: ARG001  # as `Lower` has it
        *,
        dynamic_shapes: Any = None,  # noqa: ARG001  # any size runs
        integer_io: bool = False,
    ) -> Executable:
        if dynamic_gemms(model):
            return dynamic(model, profile) if dynamic else DynamicProgram(model, profile, with_operands())
        return program(model, profile, compute, integer_io=integer_io)

    return lower


def _dtype(quantize: Node) -> torch.dtype:
    dtype = quantize.args[5]
    assert isinstance(dtype, torch.dtype)
    return dtype
