"""What a backend offers the SDK's tools, and how it is found: entry points in the group `quantizer_sdk.backends`."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from quantizer_sdk.captured_stderr import captured_stderr
from quantizer_sdk.errors import BackendError
from quantizer_sdk.exported_file import ARCHIVE, load_exported
from quantizer_sdk.file_format import FileFormat, FileReport, Save
from quantizer_sdk.integer_io import Boundary, BoundaryQParams, boundary_of, copy_without_guards, strip_boundary
from quantizer_sdk.passes.batched_products import batch_products
from quantizer_sdk.passes.clamp_forms import arrange_clamps
from quantizer_sdk.passes.float_products import detach_run_time_weights, write_out_addmm
from quantizer_sdk.passes.own_weights import give_each_call_its_weight
from quantizer_sdk.passes.quantize_padding import quantize_padding
from quantizer_sdk.passes.selects_as_slices import selects_as_slices
from quantizer_sdk.passes.spelled_out_arguments import spell_out_arguments
from quantizer_sdk.profile import Profile
from quantizer_sdk.provenance import module_path, source_line
from quantizer_sdk.quiet_logs import quiet_logs
from quantizer_sdk.requantization import RatioLimit, excessive_requantization, requantizing_clamps
from quantizer_sdk.serving_process import ServingProcess

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from quantizer_sdk.quantizer import Quantizer

__all__ = [
    "ENTRY_POINT_GROUP",
    "Backend",
    "Boundary",
    "BoundaryQParams",
    "Delegation",
    "Executable",
    "FileFormat",
    "FileReport",
    "Kernel",
    "Lower",
    "RatioLimit",
    "Runner",
    "Save",
    "ServingProcess",
    "Variant",
    "arrange_clamps",
    "backend_names",
    "batch_products",
    "boundary_of",
    "captured_stderr",
    "copy_without_guards",
    "detach_run_time_weights",
    "excessive_requantization",
    "find_backend",
    "give_each_call_its_weight",
    "inspect_file",
    "module_path",
    "quantize_padding",
    "quiet_logs",
    "requantizing_clamps",
    "selects_as_slices",
    "source_line",
    "spell_out_arguments",
    "strip_boundary",
    "write_out_addmm",
]

ENTRY_POINT_GROUP = "quantizer_sdk.backends"
_INTEGER = re.compile(r"(q[a-z]?)?u?int[0-9]")
"""What runtimes call integer types: uint8 and int8, and with qparams beside it qint8, or qdint8 for those of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One node that the runtime executes, as read back from the lowered program, not from the graph that went in.

    Attributes:
        name: The runtime's own name of the node, such as "Conv2d".
        inputs: The runtime's names of the operands' data types, constants included.
        outputs: The same for the results.
        integer: Whether the node computes on integers: every operand and result but a float bias is an integer tensor.
        conversion: Whether the node only converts between float and integer (quantize, dequantize).
        moves: Whether the node only puts elements elsewhere, as where a layout changes, whatever their type.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: bool
    conversion: bool
    moves: bool = False

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies integers but gives floats, as a gemm does that applies the scales itself."""
        if self.integer or self.conversion or self.moves or len(self.inputs) < 2:
            return False
        return all(_INTEGER.match(kind.lower()) for kind in self.inputs[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """How much of a program the backend took.

    Attributes:
        subgraphs: Number of delegated subgraphs.
        delegated: Number of graph nodes inside them.
        non_delegated: Names of the operators left outside, one for each node, in graph order.
        sources: The user's line of each of these, "file:line: code", "" where it is not known; empty where the backend
            knows of none.
    """

    subgraphs: int
    delegated: int
    non_delegated: tuple[str, ...]
    sources: tuple[str, ...] = ()


@runtime_checkable
class Executable(Protocol):
    """A lowered program that runs on the backend's real kernels and can name them."""

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program and return its outputs."""
        ...

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the nodes that the runtime executes, in order."""
        ...

    def delegation(self) -> Delegation:
        """Return what the backend took and what it left to the portable runtime."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the program to a file."""
        ...

    @property
    def size(self) -> int:
        """The program's size in bytes."""
        ...


class Lower(Protocol):
    """Turns a float or a converted model into a program; what it cannot take is a LoweringError."""

    def __call__(
        self,
        model: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        *,
        dynamic_shapes: Any = None,
        integer_io: bool = False,
    ) -> Executable:
        """Lower a model.

        Args:
            model: A module of an exported program, float or converted to `quantized_decomposed` operators.
            example_inputs: Tensors in the model's own shapes and dtypes.
            dynamic_shapes: As `torch.export.export` takes it.
            integer_io: Whether inputs and outputs are the raw integers: a placeholder that only feeds one static
                quantize takes its codes, an output that is a dequantize gives the codes before it.

        Raises:
            LoweringError: The runtime or its compiler refuses the model.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Another way of running the same programs, which must give the same integers.

    Attributes:
        name: Such as "optimizations off".
        axis: What it varies: the runtime's graph optimizer, or the instruction set that its kernels use.
        lower: As that of the runner.
        batched: Whether its programs are so slow to start that one run takes many inputs, as under an emulator.
    """

    name: str
    axis: Literal["optimizer", "isa"]
    lower: Lower
    batched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A runtime: it turns a graph into a program that runs on real kernels and names them.

    Attributes:
        name: The runtime's name in reports.
        lower: Turns a model into a program.
        variants: Other ways of running it.
        environment: Tells what a report should know of this machine's runtime: versions, instruction sets.
        script: Python source of a function `run(model, inputs)` that runs a `torch.nn.Module` of `quantized_decomposed`
            operators on integer tensors and returns a tuple, by public packages alone; scripts that reproduce a defect
            hold it. It may define `floats(model, inputs)` too, which names what computes in float. Where the runtime
            takes models of its own kind, what returns such source for a graph and example inputs, as `Lower` takes them
            with `integer_io`: that source holds the runtime's own model, and leaves `model` aside.
        compiles: Whether lowering compiles code, at about a second a program: the suite then looks at fewer programs,
            but at each kind of data on each row of the table.
    """

    name: str
    lower: Lower
    variants: tuple[Variant, ...] = ()
    environment: Callable[[], Mapping[str, str]] | None = None
    script: str | Callable[[GraphModule, Sequence[torch.Tensor]], str] | None = None
    compiles: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One target, as data: what its entry point in the group `quantizer_sdk.backends` names.

    Attributes:
        name: The name of its entry point.
        quantizer: Returns a fresh quantizer; called without arguments it has the backend's default configuration.
        configurations: Its other ways to quantize, by the names that case ids give them, such as "s8.pt": each returns
            a fresh quantizer. The first is looked at most closely; empty, the default configuration is the only one.
        runner: Runs models on the backend's kernels; None where there is only a quantizer.
        profile: What the kernels accept and how they round; None where nobody wrote it down.
        peer_quantize: Quantizes an exported model with another quantizer for the same runtime, to compare with.
        parts: Where one quantizer serves several runtimes, a backend for each: with its quantizer, runner, profile and
            configurations, whose names no other part has. The suite judges each part's cases by that part.
        inspectors: What says of a lowered program's file, by the suffix of its name such as ".onnx", which of its ops
            the runtime computes on integers and why not the others; `quantizer-sdk inspect` calls it.
        formats: The kinds of file that its runtimes load, by suffix such as ".onnx"; `quantizer-sdk quantize` writes
            them.
    """

    name: str
    quantizer: Callable[..., Quantizer]
    runner: Runner | None = None
    profile: Profile | None = None
    peer_quantize: Callable[[GraphModule, Iterable[torch.Tensor]], GraphModule] | None = None
    configurations: Mapping[str, Callable[[], Quantizer]] = field(default_factory=dict, hash=False)
    parts: tuple[Backend, ...] = ()
    inspectors: Mapping[str, Callable[[Path], FileReport]] = field(default_factory=dict, hash=False)
    formats: Mapping[str, FileFormat] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = [scheme for part in self.parts for scheme in part.schemes()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"backend {self.name!r} has parts with configurations of one name: {', '.join(twice)}"
            raise BackendError(message)

    def runtimes(self) -> tuple[Backend, ...]:
        """Return the parts, or the backend itself where it has none."""
        return self.parts or (self,)

    def schemes(self) -> Mapping[str, Callable[[], Quantizer]]:
        """Return the configurations, those of all parts, or the default one under the name "default"."""
        if self.parts:
            return {name: make for part in self.parts for name, make in part.schemes().items()}
        return self.configurations or {"default": self.quantizer}

    def part_of(self, scheme: str) -> Backend:
        """Return the part with this configuration, or the backend itself where it has no parts.

        Raises:
            BackendError: No part has it.
        """
        for part in self.parts:
            if scheme in part.schemes():
                return part
        if self.parts:
            message = (
                f"no part of backend {self.name!r} has a configuration {scheme!r}; there are {list(self.schemes())}"
            )
            raise BackendError(message)
        return self

    def lower(
        self,
        model: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        *,
        dynamic_shapes: Any = None,
        integer_io: bool = False,
    ) -> Executable:
        """Lower with the backend's runner; see `Lower`.

        Raises:
            BackendError: The backend has no runner.
            LoweringError: The runtime refuses the model.
        """
        if self.runner is None:
            message = f"backend {self.name!r} has no runner, so nothing can be lowered to it; give it Backend.runner"
            raise BackendError(message)
        return self.runner.lower(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io)


def backend_names() -> tuple[str, ...]:
    """Return the names of the installed backends, sorted."""
    return tuple(sorted(point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)))


def find_backend(name: str) -> Backend:
    """Load the backend with this entry-point name.

    Raises:
        BackendError: No backend has this name, or what its entry point names is no backend.
        MissingDependencyError: The backend's runtime is not installed.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            backend = point.load()
            if not isinstance(backend, Backend):
                message = f"entry point {name!r} ({point.value}) is a {type(backend).__name__}; expected a Backend"
                raise BackendError(message)
            return backend
    message = f"no backend {name!r}; installed: {', '.join(backend_names()) or 'none'}"
    raise BackendError(message)


def inspect_file(path: Path) -> FileReport:
    """Say what a runtime makes of a lowered program's file: by the installed backend that knows files of its suffix.

    Of a .pt2 file, which torch.export.save writes, it is what `explain` says of the model in it.

    Raises:
        BackendError: No installed backend does.
        NotExportedError: A .pt2 file is no exported program.
        LoweringError: The runtime cannot load the file.
        MissingDependencyError: The backend's runtime is not installed.
    """
    if path.suffix == ARCHIVE:
        from quantizer_sdk.report import explain  # which imports all of the engine

        return explain(load_exported(path).module())
    known = {ARCHIVE}
    for name in backend_names():
        backend = find_backend(name)
        for part in (backend, *backend.parts):
            if path.suffix in part.inspectors:
                return part.inspectors[path.suffix](path)
            known.update(part.inspectors)
    message = f"no installed backend inspects {path.name}; files of these kinds: {', '.join(sorted(known)) or 'none'}"
    raise BackendError(message)
