"""What a scenario's checks look at: the graph at each stage, its exact codes, and the program on the real kernels.

Everything is made when it is first asked for, and once.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk import Backend, Explanation, Quantizer, calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backend import Executable
from quantizer_sdk.conformance.kernels import Kernels, code_range_of, is_quantize
from quantizer_sdk.conformance.oracle import OracleResult, run_oracle
from quantizer_sdk.conformance.program import ProgramModule
from quantizer_sdk.conformance.regimes import activation_data, codes_for, impose, magnitude_of
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.errors import GraphError

__all__ = ["Bench", "Run", "export", "quantize"]

_ELEMENTS = {"many": 20_000}
_FEW = 2000
_MOST_RUNS = {"many": 100}
_MOST = 12
_COPIES = frozenset({torch.ops.aten.clone.default, torch.ops.aten.contiguous.default})


def export(module: torch.nn.Module, inputs: Sequence[Tensor], **options: Any) -> GraphModule:
    """Return the module of the exported program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module.eval(), tuple(inputs), **options).module()


def quantize(model: GraphModule, quantizer: Quantizer, batches: Sequence[Sequence[Tensor]], data: str) -> GraphModule:
    """Prepare, calibrate, impose a kind of qparams, and convert."""
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, [tuple(batch) for batch in batches])
    impose(prepared, data)
    return convert_pt2e(prepared)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One set of integer inputs.

    Attributes:
        codes: The codes of each input.
        graph: By quantize node, the codes that the eager float32 graph gives.
    """

    codes: tuple[Tensor, ...]
    graph: dict[str, Tensor]


class Bench:
    """A scenario on a backend.

    Args:
        scenario: What to quantize, and on what data.
        backend: Quantizes and runs.
        seed: Of parameters, data and codes.
    """

    def __init__(self, scenario: Scenario, backend: Backend, seed: int) -> None:
        self.scenario = scenario
        self.backend = backend
        self.seed = seed

    @functools.cached_property
    def module(self) -> ProgramModule:
        """The float module."""
        return self.scenario.program.module(self.seed, magnitude_of(self.scenario.data))

    @functools.cached_property
    def batches(self) -> list[tuple[Tensor, ...]]:
        """Two batches of calibration data; the first is the example."""
        program, data = self.scenario.program, self.scenario.data
        return [
            tuple(
                self._laid_out(activation_data(shape, place, data, 10 * self.seed + batch, batch))
                for place, shape in enumerate(program.inputs)
            )
            for batch in range(2)
        ]

    def _laid_out(self, tensor: Tensor) -> Tensor:
        channels_last = self.scenario.channels_last and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor

    @functools.cached_property
    def exported(self) -> GraphModule:
        """The exported float model."""
        return export(self.module, self.batches[0])

    def quantizer(self) -> Quantizer:
        """Return a fresh quantizer of the scenario's scheme."""
        return self.backend.schemes()[self.scenario.scheme]()

    @functools.cached_property
    def explanation(self) -> Explanation:
        """What the quantizer says of each op."""
        return explain(self.exported, self.quantizer())

    @functools.cached_property
    def converted(self) -> GraphModule:
        """The q/dq graph."""
        return quantize(self.exported, self.quantizer(), self.batches, self.scenario.data)

    @functools.cached_property
    def kernels(self) -> Kernels:
        """The converted graph as a list of kernels."""
        return Kernels.of(self.converted)

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Integer inputs, enough for some thousand output codes, with what the eager graph makes of them."""
        program = self.scenario.program
        if self.scenario.exhaustive:
            return (self.run_on(self._every_code()),)
        size = sum(torch.Size(shape).numel() for shape in (program.shapes()[-1],))
        data = self.scenario.data
        wanted = -(-_ELEMENTS.get(data, _FEW) // max(1, size))
        count = min(_MOST_RUNS.get(data, _MOST), max(2, wanted))
        return tuple(self.run_on(self._codes(seed)) for seed in range(count))

    def run_on(self, codes: Sequence[Tensor]) -> Run:
        """Run the eager graph on integer inputs."""
        return Run(codes=tuple(codes), graph=graph_codes(self.converted, codes))

    def _codes(self, seed: int) -> tuple[Tensor, ...]:
        shapes = self.scenario.program.inputs
        quantizes = self.input_quantizes
        return tuple(
            self._laid_out(codes_for(node, shape, place, self.scenario.data, 10 * self.seed + seed))
            for place, (node, shape) in enumerate(zip(quantizes, shapes, strict=True))
        )

    def _every_code(self) -> tuple[Tensor, ...]:
        codes = []
        for node, shape in zip(self.input_quantizes, self.scenario.program.inputs, strict=True):
            low, high, dtype = code_range_of(node)
            count = torch.Size(shape).numel()
            codes.append(torch.linspace(low, high, count).round().to(dtype).reshape(shape))
        return tuple(codes)

    @functools.cached_property
    def input_quantizes(self) -> tuple[Node, ...]:
        """The quantize node of each input.

        Raises:
            GraphError: An input is read by something else than one static per-tensor quantize.
        """
        return input_quantizes(self.converted)

    def oracle(self, run: Run, codes: dict[str, Tensor] | None = None) -> OracleResult:
        """Return the exact codes, each op on the codes given for those before it."""
        return run_oracle(self.converted, run.codes, self.backend.profile, codes)

    @functools.cached_property
    def tapped(self) -> GraphModule:
        """The q/dq graph with every quantized value among its outputs, so that each kernel's codes are seen."""
        return tap(self.converted)

    @functools.cached_property
    def executable(self) -> Executable:
        """The tapped graph, lowered to take and return raw integers."""
        return self.backend.lower(self.tapped, list(self.batches[0]), integer_io=True)

    @functools.cached_property
    def kernel_codes(self) -> tuple[dict[str, Tensor], ...]:
        """For each run, the codes that the real kernels give at each quantize.

        Raises:
            LoweringError: The program cannot be lowered, loaded or run.
            GraphError: It returns something else than the codes.
        """
        return tuple(self.run_kernels(self.executable, run.codes) for run in self.runs)

    def run_kernels(self, executable: Executable, codes: Sequence[Tensor]) -> dict[str, Tensor]:
        """Run a lowering of `tapped`, on copies: what it does to its inputs is D1's matter."""
        return self.named(executable.run(*[tensor.clone() for tensor in codes]))

    def named(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name the outputs of a lowering of `tapped` by their quantizes."""
        return named_codes(self.converted, outputs)


def input_quantizes(model: GraphModule) -> tuple[Node, ...]:
    """Return the quantize node of each input of a converted graph.

    Raises:
        GraphError: An input is read by something else than static per-tensor quantizes that are all alike.
    """
    found = []
    for node in model.graph.find_nodes(op="placeholder", sort=True):
        users = [user for user in node.users if "sym_size" not in str(user.target)]
        if not users or not all(is_quantize(user) and user.args[1:] == users[0].args[1:] for user in users):
            what = ", ".join(str(user.target) for user in users) or "nothing"
            raise GraphError(f"input {node.name} feeds {what}; expected one static quantize, or several alike")
        found.append(users[0])
    return tuple(found)


def computed_quantizes(model: GraphModule) -> tuple[Node, ...]:
    """Return the quantize nodes of computed values, in graph order."""
    return tuple(
        node
        for node in model.graph.nodes
        if is_quantize(node) and isinstance(node.args[0], Node) and node.args[0].op != "placeholder"
    )


def tapped_quantizes(model: GraphModule) -> tuple[Node, ...]:
    """Return the quantizes whose codes a program can give: all but those that an identity hands on under another name.

    A runtime drops the identity, and no program gives one tensor twice.
    """
    return tuple(node for node in computed_quantizes(model) if copy_of(node) is None)


def copy_of(quantize_node: Node) -> Node | None:
    """Return the quantize behind an op that copies this one's value, if that is all that reads it."""
    readers = [user for dequantize in quantize_node.users for user in dequantize.users]
    if len(readers) != 1 or readers[0].target not in _COPIES:
        return None
    return next((user for user in readers[0].users if is_quantize(user)), None)


def tap(model: GraphModule) -> GraphModule:
    """Return a graph that returns the dequantized value of every computed quantize, in graph order; tensors shared."""
    graph = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    graph.graph_copy(model.graph, copies)
    copied = GraphModule(model, graph)
    outputs = []
    for quantize_node in tapped_quantizes(model):
        dequantize = next((copies[user] for user in quantize_node.users), None)
        if dequantize is None:
            raise GraphError(f"{quantize_node.name} is read by nothing; expected a dequantize")
        outputs.append(dequantize)
    graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    copied.recompile()
    return copied


def named_codes(model: GraphModule, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name the outputs of a program lowered from `tap(model)` by the quantizes that they are codes of.

    Raises:
        GraphError: They are too many or too few, or no integers.
    """
    nodes = tapped_quantizes(model)
    if len(outputs) != len(nodes):
        names = ", ".join(node.name for node in nodes)
        raise GraphError(f"the program returns {len(outputs)} tensors; expected {len(nodes)}: {names}")
    for node, output in zip(nodes, outputs, strict=True):
        if output.is_floating_point():
            raise GraphError(f"the program returns {output.dtype} for {node.name}; its codes stay hidden")
    found = {node.name: output for node, output in zip(nodes, outputs, strict=True)}
    for node in reversed(computed_quantizes(model)):
        copied = copy_of(node)
        if copied is not None:
            found[node.name] = found[copied.name]
    return found


class _Keeping(Interpreter):
    """Runs a graph and keeps what its quantizes of computed values give."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model)
        self.wanted = set(computed_quantizes(model))
        self.codes: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.codes[n.name] = result
        return result


def graph_codes(model: GraphModule, codes: Sequence[Tensor]) -> dict[str, Tensor]:
    """Run a q/dq graph in float32 on integer inputs; return the codes at each computed quantize by node name."""
    pairs = zip(input_quantizes(model), codes, strict=True)
    keeping = _Keeping(model)
    with torch.no_grad():
        keeping.run(*[dequantized(node, tensor) for node, tensor in pairs])
    return keeping.codes


def dequantized(quantize_node: Node, codes: Tensor) -> Tensor:
    """Return the float input that a quantize node turns into these codes."""
    operands: tuple[Any, ...] = quantize_node.args[1:]
    real: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default(codes, *operands)
    return real


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a model's result."""
    yield from value if isinstance(value, (tuple, list)) else (value,)
