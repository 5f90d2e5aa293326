"""What a demo run found out: plain figures, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Column", "Coverage", "DemoResult", "FloatOp", "Layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatOp:
    """An op that stayed float.

    Attributes:
        node: The node's name.
        op: The overload, such as "aten.dropout.default".
        module: Path of the module it came from; "" for the model itself.
        source: The user's line.
        reason: Why it stayed float.
    """

    node: str
    op: str
    module: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What became of the model's ops.

    Attributes:
        quantized: Ops that compute with qparams of their own.
        shared: Ops that only move codes, with the qparams of their operand.
        folded: Ops that were folded into others, such as batch norms.
        left_float: The rest, each with its reason.
    """

    quantized: int
    shared: int
    folded: int
    left_float: tuple[FloatOp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """How well one quantized activation matches the float model's.

    Attributes:
        node: Name of the op that the layer is named after, as `compare` has it.
        op: Its overload.
        module: Path of the module it came from.
        sqnr: In dB, with all noise built up since the input.
    """

    node: str
    op: str
    module: str
    sqnr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One program's figures. For the float program, "graph" is the exported model itself.

    Attributes:
        name: Column heading.
        top1_graph: Right answers of the graph in eager PyTorch.
        top1_kernel: Right answers of the program on the runtime.
        agreement_graph: Images on which the graph answers as the float model does.
        agreement_kernel: The same for the program.
        sqnr_graph: dB of the logits, float model → q/dq graph; None for the float program.
        sqnr_kernel: dB of the logits, graph → program.
        noise: Noise graph → program as a percentage of the noise float → graph; None for the float program.
        noise_floor: The same for the graph against itself on PyTorch's other float kernels, or None: how far two right
            evaluations of one q/dq graph lie apart, since a sum rounded otherwise flips a code here and there.
        coverage: What `explain` says of the graph; None for the float program.
        subgraphs: Delegated subgraphs.
        delegated: Nodes inside them.
        non_delegated: Operators left outside.
        integer_kernels: The runtime's nodes that compute on integers.
        float_kernels: The runtime's nodes that compute on floats.
        conversions: The runtime's nodes that convert between the two.
        size: Bytes of the program.
        latency: Median in milliseconds at batch 1.
        layers: Per-layer figures; empty for the float program.
    """

    name: str
    top1_graph: int
    top1_kernel: int
    agreement_graph: int
    agreement_kernel: int
    sqnr_graph: float | None
    sqnr_kernel: float
    noise: float | None
    noise_floor: float | None
    coverage: Coverage | None
    subgraphs: int
    delegated: int
    non_delegated: tuple[str, ...]
    integer_kernels: int
    float_kernels: int
    conversions: int
    size: int
    latency: float
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """A whole run.

    Attributes:
        model: What was quantized.
        backend: Name of the backend.
        images: Number of images that all figures but latency are over.
        calibration_images: How many of them, from the first on, calibrated the model.
        repeats: Timed rounds of the latency measurement.
        columns: The float program first.
        seconds: How long each stage took.
    """

    model: str
    backend: str
    images: int
    calibration_images: int
    repeats: int
    columns: tuple[Column, ...]
    seconds: tuple[tuple[str, float], ...]
