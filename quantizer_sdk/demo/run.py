"""The demo's flow: export, quantize, calibrate, lower, run on the kernels, and measure."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from quantizer_sdk import calibrate, compare, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backend import Backend, Executable
from quantizer_sdk.demo.data import IMAGE_SIZE, LabelledImages, load_images, load_lite0
from quantizer_sdk.demo.metrics import agreement, interleaved_medians, noise_percent, sqnr_db, top1
from quantizer_sdk.demo.result import Column, Coverage, DemoResult, FloatOp, Layer
from quantizer_sdk.errors import BackendError, CalibrationError, UnsupportedError

__all__ = ["FLOAT", "OURS", "PEER", "Stage", "run_demo"]

FLOAT, OURS, PEER = "fp32", "int8", "int8 peer"
"""The columns' names."""

Stage = Callable[[str], AbstractContextManager[Any]]
"""Told the name of a stage, returns what to run it in: where a caller shows progress."""

_BATCH = 4
_MAX_BATCH = 32
_LAYER_IMAGES = 4


def run_demo(
    backend: Backend,
    *,
    compare: bool = False,
    calibration_images: int = 8,
    repeats: int = 100,
    program: ExportedProgram | None = None,
    name: str = "EfficientNet-Lite0",
    out: Path | None = None,
    stage: Stage = contextlib.nullcontext,
) -> DemoResult:
    """Quantize an ImageNet classifier, run it on the backend's kernels and measure what that costs and gains.

    Args:
        backend: Quantizes and runs the model.
        compare: Whether the backend's peer is measured too, on the same images and in turn with the others.
        calibration_images: How many of the images, from the first on, calibrate.
        repeats: Timed rounds of the latency measurement.
        program: The classifier: one float input [batch, 3, 224, 224], preprocessed as for EfficientNet-Lite0, with a
            dynamic batch. By default EfficientNet-Lite0 itself, exported here.
        name: What to call the model.
        out: Folder to save the programs in.
        stage: Called around every stage with its name.

    Returns:
        The figures.

    Raises:
        BackendError: `compare`, but the backend knows no peer.
        CalibrationError: `calibration_images` is not between 1 and the number of images.
        MissingDependencyError: The model's or the images' packages are not installed.
        UnsupportedError: `program` takes something else.
    """
    if compare and backend.peer_quantize is None:
        raise BackendError(f"backend {backend.name!r} names no peer to compare with (its peer_quantize is None)")
    if program is not None:
        _batch_range(program)
    clock = _Clock(stage)
    with clock("load the model and the images"):
        data = load_images()
        model = load_lite0() if program is None else None
    count = len(data.images)
    if not 1 <= calibration_images <= count:
        raise CalibrationError(f"cannot calibrate on {calibration_images} images; expected 1 to {count}")
    if program is None:
        assert model is not None
        with clock("export with a dynamic batch"):
            shapes = ({0: Dim("batch", min=1, max=_MAX_BATCH)},)
            program = torch.export.export(model, (data.images,), dynamic_shapes=shapes)
    bench = _Bench(backend, data, program, clock)

    calibration = _split(data.images[:calibration_images], 1)
    columns = [bench.float_draft()]
    with clock("quantize and calibrate"):
        prepared = prepare_pt2e(bench.float_module(), backend.quantizer())
        calibrate(prepared, calibration)
        converted = convert_pt2e(prepared)
    columns.append(bench.quantized_draft(OURS, converted))
    if backend.peer_quantize is not None and compare:
        with clock("quantize and calibrate the peer"):
            peer = backend.peer_quantize(bench.float_module(), calibration)
        columns.append(bench.quantized_draft(PEER, peer))

    with clock("time the programs in turn"):
        latency = interleaved_medians(bench.calls(), repeats=repeats)
    if out is not None:
        bench.save(out)
    return DemoResult(
        model=name,
        backend=backend.name,
        images=count,
        calibration_images=calibration_images,
        repeats=repeats,
        columns=tuple(Column(**draft, latency=latency[draft["name"]]) for draft in columns),
        seconds=tuple(clock.seconds),
    )


class _Clock:
    """Runs stages, and keeps how long each took."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.seconds: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block under this name."""
        start = time.perf_counter()
        with self._stage(name):
            yield
        self.seconds.append((name, time.perf_counter() - start))


@dataclass
class _Bench:
    """What every column is measured with: the same images, the same float reference.

    Attributes:
        backend: Lowers.
        data: The images and their labels.
        program: The float model.
        clock: Times the stages.
        executables: The lowered programs so far, by column.
    """

    backend: Backend
    data: LabelledImages
    program: ExportedProgram
    clock: _Clock
    executables: dict[str, Executable] = field(default_factory=dict)
    _reference: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        lower, upper = _batch_range(self.program)
        self._shapes = ({0: Dim("batch", min=lower, max=min(upper, _MAX_BATCH))},)
        self._batches = _split(self.data.images, max(lower, min(upper, _BATCH)))
        # An example of 16 or more: with a smaller one, decomposing a convolution guards on "batch < 16" and the
        # program's memory is planned for 15 (torch 2.13, `torch._subclasses.fake_impls.conv`).
        self._example = self.data.images[: min(upper, len(self.data.images))]

    def float_module(self) -> GraphModule:
        """Return a fresh module of the float program."""
        return self.program.module()

    def float_draft(self) -> dict[str, Any]:
        """Lower and measure the float model: every figure of its column but latency."""
        module = self.float_module()
        with self.clock("run the float model"):
            self._reference = self._eager(module)
        draft = self._draft(FLOAT, module, self._reference)
        return {**draft, "sqnr_graph": None, "noise": None, "noise_floor": None, "coverage": None, "layers": ()}

    def quantized_draft(self, name: str, converted: GraphModule) -> dict[str, Any]:
        """Lower and measure a converted model: every figure of its column but latency."""
        with self.clock(f"run the q/dq graph of {name}"):
            logits = self._eager(converted)
        floor = None
        if name == OURS:  # a peer's graph is not ours to question, and may take minutes this way
            with self.clock(f"run the q/dq graph of {name} on other float kernels"):
                floor = noise_percent(self._reference, logits, self._eager_without_onednn(converted))
        with self.clock(f"compare the layers of {name}"):
            layers = _layers(self.float_module(), converted, _split(self.data.images[:_LAYER_IMAGES], 1))
        draft = self._draft(name, converted, logits)
        return {
            **draft,
            "sqnr_graph": sqnr_db(self._reference, logits),
            "noise_floor": floor,
            "coverage": _coverage(converted),
            "layers": layers,
        }

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return for each program a call at batch 1."""
        image = self.data.images[:1].contiguous()
        return {name: functools.partial(executable.run, image) for name, executable in self.executables.items()}

    def save(self, folder: Path) -> None:
        """Write every program to a file named after its column."""
        for name, executable in self.executables.items():
            executable.save(folder / f"{name.replace(' ', '_')}.pte")

    def _draft(self, name: str, module: GraphModule, graph: torch.Tensor) -> dict[str, Any]:
        """Lower a module and measure its program against the graph's logits."""
        with self.clock(f"lower {name}"):
            executable = self.backend.lower(module, (self._example,), dynamic_shapes=self._shapes)
        with self.clock(f"run {name} on the kernels"):
            kernel = torch.cat([executable.run(batch)[0] for batch in self._batches])
            nodes = [node for node in executable.kernels() if not node.conversion]
            conversions = len(executable.kernels()) - len(nodes)
        self.executables[name] = executable
        delegation = executable.delegation()
        return {
            "name": name,
            "top1_graph": top1(graph, self.data.labels),
            "top1_kernel": top1(kernel, self.data.labels),
            "agreement_graph": agreement(graph, self._reference),
            "agreement_kernel": agreement(kernel, self._reference),
            "sqnr_kernel": sqnr_db(graph, kernel),
            "noise": noise_percent(self._reference, graph, kernel),
            "subgraphs": delegation.subgraphs,
            "delegated": delegation.delegated,
            "non_delegated": delegation.non_delegated,
            "integer_kernels": sum(node.integer for node in nodes),
            "float_kernels": sum(not node.integer for node in nodes),
            "conversions": conversions,
            "size": executable.size,
        }

    @torch.no_grad()
    def _eager(self, module: GraphModule) -> torch.Tensor:
        """Run a graph on all images in PyTorch."""
        return torch.cat([module(batch) for batch in self._batches])

    def _eager_without_onednn(self, module: GraphModule) -> torch.Tensor:
        """Run a graph on PyTorch's own float kernels, which sum in another order than oneDNN's."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)
            with torch.backends.mkldnn.flags(enabled=False):
                return self._eager(module)


def _batch_range(program: ExportedProgram) -> tuple[int, int]:
    """Return the smallest and the largest batch that a classifier takes.

    Raises:
        UnsupportedError: It takes something else than one float [batch, 3, 224, 224] with a dynamic batch.
    """
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) == 1 and isinstance(values[0], torch.Tensor) and values[0].dtype == torch.float32:
        batch: Any
        batch, *image = values[0].shape
        if image == [3, IMAGE_SIZE, IMAGE_SIZE] and isinstance(batch, torch.SymInt):
            sizes = program.range_constraints[batch.node.expr]
            return max(1, int(sizes.lower)), int(min(sizes.upper, _MAX_BATCH))
    found = ", ".join(
        f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        for value in values
    )
    raise UnsupportedError(
        f"the program takes ({found}); the demo needs a classifier of one float32 [batch, 3, {IMAGE_SIZE}, "
        f"{IMAGE_SIZE}] with a dynamic batch: export it with "
        f"dynamic_shapes=({{0: torch.export.Dim('batch', min=1, max={_MAX_BATCH})}},)"
    )


def _split(images: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Cut images into batches; the last may be smaller."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _layers(reference: GraphModule, converted: GraphModule, batches: list[torch.Tensor]) -> tuple[Layer, ...]:
    """Compare every quantized activation with the float model's own value there."""
    found = compare(reference, converted, batches, blame=False).layers
    return tuple(
        Layer(node=layer.node, op=layer.op, module=layer.module, sqnr=layer.sqnr) for layer in found if layer.rounded
    )


def _coverage(converted: GraphModule) -> Coverage:
    """Sum up what `explain` says of a converted model."""
    explanation = explain(converted)
    left = (
        FloatOp(node=op.node, op=op.op, module=op.module, source=op.source, reason=op.reason or "no reason recorded")
        for op in explanation.ops
        if op.state == "float"
    )
    return Coverage(
        quantized=explanation.count("quantized"),
        shared=explanation.count("shared"),
        folded=explanation.count("folded"),
        left_float=tuple(left),
    )
