"""What is known of each op of a model, of each tensor that it reads or makes, and what a user should look at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STATES", "Finding", "OpRecord", "TensorRecord"]

STATES = ("quantized", "shared", "passthrough", "folded", "float")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One quantized tensor of an op. Pairs are (smallest, largest) over all its scales.

    Attributes:
        role: The name of the op's argument, such as "input" or "weight"; "output" for its result.
        node: Name of the node that makes the tensor.
        dtype: Type of the codes, such as "int8"; a float type where the tensor is only cast.
        quant_min: Smallest code; None for a cast.
        quant_max: Largest code.
        granularity: Which values share a scale: "per tensor", "per channel 0", "per group of 32", ...
        scales: How many scales there are; 0 where each run computes them, or no data came by yet.
        scale: In units of the tensor; None where there are none yet.
        zero_point: The codes of 0.0.
        range: The real values of the smallest and the largest code.
        calibrated: The values seen; averages of them, where the observer averages. None where nobody looked, or what
            the observer knew is lost.
        clipped: Share of the values seen that lie beyond the outermost codes by more than half a step, 0..1: counted by
            observers that count, 0 by those that take in all they see. None where nobody knows.
        observer: Class that chose the scales; None where that is not known.
        dynamic: Whether each run computes the scales from its own data.
    """

    role: str
    node: str
    dtype: str
    quant_min: int | None = None
    quant_max: int | None = None
    granularity: str = "per tensor"
    scales: int = 0
    scale: tuple[float, float] | None = None
    zero_point: tuple[int, int] | None = None
    range: tuple[float, float] | None = None
    calibrated: tuple[float, float] | None = None
    clipped: float | None = None
    observer: str | None = None
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRecord:
    """What became of one op of the user's model.

    Attributes:
        node: Its name in the graph; inside control flow after the graph's path, "true_graph_0/linear".
        op: Its overload, such as "aten.conv2d.default".
        state: "quantized" (with qparams of its own), "shared" (moves codes under its operand's qparams), "passthrough"
            (only moves values, between quantized points, and nobody claimed it: it runs in float and loses nothing),
            "folded" (into the constants of another op), or "float".
        row: The table row, or "annotation" for a quantizer without a table; None for a float op.
        rule: The words for the user's rule, or the default, that gave it its config; None where that is not known.
        fused_into: The op at whose output the kernel that computes this one requantizes; None if its own.
        reason: Why it is float, or a remark.
        cause: The kind of that reason, a key of `refusal.ADVICE`; None for an op that is not float.
        advice: What would change it; for other ops, what a rule that was perhaps meant for it should say.
        source: The user's line, "file:line: code"; "" if unknown.
        module: Path of the module it came from.
        parameters: Elements of the constants that it reads, each counted with the first op that reads it.
        macs: Multiplications with an addition in one run, of convolutions and products of matrices; None for other
            ops, and where shapes are not known. Open sizes count as in the example that the model was exported with.
        open_sizes: Whether `macs` rests on such a size.
        tensors: Its quantized tensors, operands first.
    """

    node: str
    op: str
    state: str
    row: str | None = None
    rule: str | None = None
    fused_into: str | None = None
    reason: str | None = None
    cause: str | None = None
    advice: str | None = None
    source: str = ""
    module: str = ""
    parameters: int = 0
    macs: int | None = None
    open_sizes: bool = False
    tensors: tuple[TensorRecord, ...] = ()

    @property
    def claimed(self) -> bool:
        """Whether a row or an annotation claimed it, or it is gone into one that is there."""
        return self.state in {"quantized", "shared", "folded"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a user should look at.

    Attributes:
        kind: "outliers", "channel_outliers", "dead_channels", "zero_range", "saturating", "swamped", "requantized",
            "uncalibrated", "unused_rule" or "no_record".
        node: The op; "" for the whole model.
        message: What was found, in words.
        advice: What to do about it.
        module: Path of the op's module.
        source: The user's line.
    """

    kind: str
    node: str
    message: str
    advice: str = ""
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.message}{'; ' if self.advice else ''}{self.advice}"
