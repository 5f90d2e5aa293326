"""One converted graph on a backend's real kernel: its raw integers against the exact oracle and the q/dq graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk import Backend
from quantizer_sdk.backend import Kernel
from quantizer_sdk.conformance.oracle import OracleResult, Site, run_oracle
from quantizer_sdk.conformance.verdict import Verdict, judge
from quantizer_sdk.errors import GraphError

__all__ = ["KernelCheck", "KernelProbe", "OutputCheck", "check_kernel", "random_codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One model output, three ways.

    Attributes:
        graph: The eager q/dq graph's codes against the oracle, within the bound on float32 arithmetic.
        kernel: The kernel's codes against the oracle, within the bound on the kernel's arithmetic.
        differing: How many codes differ between kernel and q/dq graph.
        max_lsb: By how much at most.
        near_tie: How many codes lie so near a tie that the two may differ.
    """

    graph: Verdict
    kernel: Verdict
    differing: int
    max_lsb: int
    near_tie: int

    @property
    def conforms(self) -> bool:
        """Whether both are right, differ by 1 at most, and nowhere but near ties; a constant output proves nothing."""
        close = self.max_lsb <= 1 and self.differing <= self.near_tie
        return self.graph.conforms and self.kernel.conforms and close and not self.kernel.constant

    def __str__(self) -> str:
        return (
            f"graph {self.graph}\nkernel {self.kernel}\nkernel and graph differ in {self.differing} codes by at most "
            f"{self.max_lsb} LSB, where {self.near_tie} lie near a tie"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCheck:
    """What a kernel did with one case.

    Attributes:
        outputs: One check a model output.
        kernels: The nodes that ran, as the lowered program names them.
        oracle: The exact codes, for further questions such as how many ties there were.
    """

    outputs: tuple[OutputCheck, ...]
    kernels: tuple[Kernel, ...]
    oracle: OracleResult

    @property
    def conforms(self) -> bool:
        """Whether every output conforms."""
        return all(output.conforms for output in self.outputs)

    @property
    def float_kernels(self) -> tuple[str, ...]:
        """Names of the nodes that computed in float, conversions included: with integer input and output, a flaw."""
        return tuple(kernel.name for kernel in self.kernels if not kernel.integer)

    def __str__(self) -> str:
        names = ", ".join(f"{kernel.name}({' '.join(kernel.inputs)})" for kernel in self.kernels)
        return "\n".join([*map(str, self.outputs), f"kernels: {names}"])


class KernelProbe:
    """A converted graph, lowered once to take and return integers, and judged on any number of inputs.

    Args:
        model: A converted graph in which every input feeds a per-tensor quantize and every output is a dequantize.
        backend: Lowers and runs.
        shapes: The shape of every input.

    Raises:
        LoweringError: The backend refuses the graph.
    """

    def __init__(self, model: GraphModule, backend: Backend, shapes: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._quantizes = _input_quantizes(model)
        examples = [torch.zeros(tuple(shape)) for shape in shapes]
        self._executable = backend.lower(model, examples, integer_io=True)

    def check(self, integer_inputs: Sequence[Tensor]) -> KernelCheck:
        """Run kernel, q/dq graph and oracle on the same codes.

        Args:
            integer_inputs: int8 codes for each input, in order.

        Raises:
            GraphError: The program returns something else than integers.
            LoweringError: It fails to load or run.
            UnsupportedError: The oracle has no exact form of an op.
        """
        pairs = zip(self._quantizes, integer_inputs, strict=True)
        eager = _quantized_outputs(self._model, [_dequantized(node, codes) for node, codes in pairs])
        oracle = run_oracle(self._model, integer_inputs)
        actual = self._executable.run(*integer_inputs)
        outputs = tuple(_compare(*three) for three in zip(oracle.outputs, actual, eager, strict=True))
        return KernelCheck(outputs=outputs, kernels=self._executable.kernels(), oracle=oracle)


def check_kernel(model: GraphModule, backend: Backend, integer_inputs: Sequence[Tensor]) -> KernelCheck:
    """Judge one converted graph on one input; see `KernelProbe`."""
    return KernelProbe(model, backend, [codes.shape for codes in integer_inputs]).check(integer_inputs)


def _compare(site: Site, kernel_codes: Tensor, graph_codes: Tensor) -> OutputCheck:
    if kernel_codes.is_floating_point():
        message = f"the program returns {kernel_codes.dtype} for {site.node}; its codes stay hidden"
        raise GraphError(message)
    difference = (kernel_codes.to(torch.int64) - graph_codes.to(torch.int64)).abs()
    graph = judge(graph_codes, site.requantized, site.graph_delta)
    kernel = judge(kernel_codes, site.requantized, site.kernel_delta)
    return OutputCheck(
        graph=graph,
        kernel=kernel,
        differing=int((difference > 0).sum()),
        max_lsb=int(difference.max()) if difference.numel() else 0,
        near_tie=max(graph.near_tie, kernel.near_tie),
    )


def random_codes(shape: Sequence[int], seed: int) -> Tensor:
    """Return int8 codes over the full range; where there are more than three, both ends and 0 are among them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, tuple(shape), generator=generator, dtype=torch.int8)
    ends = torch.tensor([-128, 127, 0], dtype=torch.int8)
    if codes.numel() > len(ends):
        codes.view(-1)[: len(ends)] = ends
    return codes


def _input_quantizes(model: GraphModule) -> list[Node]:
    """Return the quantize node of every placeholder."""
    return [next(iter(node.users)) for node in model.graph.nodes if node.op == "placeholder"]


def _dequantized(quantize: Node, codes: Tensor) -> Tensor:
    """Return the float input that this quantize node turns into these codes."""
    operands: tuple[Any, ...] = quantize.args[1:]
    real: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default(codes, *operands)
    back = torch.ops.quantized_decomposed.quantize_per_tensor.default(real, *operands)
    assert torch.equal(back, codes), "quantizing a dequantized code gave another one"
    return real


class _KeepCodes(Interpreter):
    """Runs a graph and keeps what its quantize nodes before the outputs give."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model)
        (output,) = [node for node in model.graph.nodes if node.op == "output"]
        self.wanted = [node.all_input_nodes[0] for node in _flat(output.args[0])]
        self.codes: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.codes[n] = result
        return result


def _flat(outputs: Any) -> list[Node]:
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _quantized_outputs(model: GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run the q/dq graph in float32 and return the codes before each output."""
    keeper = _KeepCodes(model)
    keeper.run(*inputs)
    return [keeper.codes[node] for node in keeper.wanted]
