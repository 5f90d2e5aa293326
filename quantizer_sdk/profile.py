"""What a backend says of its kernels' arithmetic and of what they accept: the suite holds it to every bit of that."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from quantizer_sdk.errors import InvalidSpecError

__all__ = [
    "Arithmetic",
    "BiasForm",
    "DynamicArithmetic",
    "Family",
    "Multiplier",
    "Profile",
    "Rounding",
    "RunTimeScale",
    "ScaleOrder",
    "TableFunction",
    "ZeroPointOrder",
]


class Family(enum.Enum):
    """What kind of integer kernel computes a value from quantized operands.

    MEAN is the mean over whole axes, POOL that of windows. DOT_ADD is a gemm's result plus another tensor, DOT_TABLE an
    elementwise function of it. CONSTANT and MIXED are what no single kernel computes: parameters, and several ops
    between two quantizes.
    """

    CONSTANT = "constant"
    MOVE = "move"
    CLAMP = "clamp"
    DOT = "dot"
    DOT_ADD = "dot_add"
    DOT_TABLE = "dot_table"
    ADD = "add"
    MUL = "mul"
    SQUARE = "square"
    MEAN = "mean"
    POOL = "pool"
    TABLE = "table"
    MIXED = "mixed"


class Rounding(enum.Enum):
    """Where a value halfway between two codes goes."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"
    HALF_AWAY = "half_away"
    TRUNCATE = "truncate"


class Multiplier(enum.Enum):
    """How a kernel turns its accumulator into steps of the output's scale.

    FLOAT32 multiplies float32(accumulator) with one float32 number; FIXED_POINT multiplies each operand by an integer
    of 21 bits, the larger of two normalised, and shifts the sum; FUSED evaluates rint(fma(a, A, fma(b, B, C))) in
    float32 with C = z - fma(za, A, zb·B), or for a product rint(fma((a - za)·(b - zb), A, z)); FOLDED is the same with
    each product and sum rounded for itself; DIVIDED computes with the dequantized operands in float32 and divides by
    the output's scale, RECIPROCAL multiplies by the float32 reciprocal of that scale. A gemm that is RECIPROCAL
    dequantizes its accumulator by the activation's scale, then by the weight's, and adds its float bias. PREMULTIPLIED
    is that of torch's own quantized kernels: a sum dequantizes its operands by fma(q, s, -(s·z)) and multiplies by the
    reciprocal, a product multiplies float32((qa - za)·(qb - zb)) by (sa·sb)·(1/s).
    """

    FLOAT32 = "float32"
    FIXED_POINT = "fixed_point"
    FUSED = "fused"
    FOLDED = "folded"
    DIVIDED = "divided"
    RECIPROCAL = "reciprocal"
    PREMULTIPLIED = "premultiplied"


class ZeroPointOrder(enum.Enum):
    """Whether the output's zero point is added after rounding or before it: ties then follow its parity."""

    AFTER = "after_rounding"
    BEFORE = "before_rounding"


class BiasForm(enum.Enum):
    """What a kernel adds: integers in steps of sx·sw, or float32 numbers."""

    INT32 = "int32"
    FLOAT32 = "float32"


class RunTimeScale(enum.Enum):
    """How a kernel makes a scale of the range of its operand, in float32, with n steps between the end codes.

    INVERSE divides once, inverse = n / (max - min), and the scale is 1 / inverse; DIRECT makes the scale
    (max - min) / n first, and inverse = 1 / scale.
    """

    INVERSE = "inverse"
    DIRECT = "direct"


class ScaleOrder(enum.Enum):
    """In which order a kernel turns its accumulator into a float32 number.

    FUSED is fma(acc·sx, sw, bias), the activation's scale first; COMBINED is acc·(sx·sw) + bias, rounded each time, and
    SEPARATE is (acc·sx)·sw + bias, likewise.
    """

    FUSED = "fused"
    COMBINED = "combined"
    SEPARATE = "separate"


TableFunction: TypeAlias = Callable[..., torch.Tensor]
"""(int64 codes, input scale and zero point, output scale and zero point) -> codes before clamping to the range.

It takes the op's other arguments by their names in the schema, such as `negative_slope`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How one family of kernels rounds, in terms exact enough to predict every bit.

    Attributes:
        multiplier: How the accumulator is scaled.
        rounding: Where ties go.
        zero_point: When the output's zero point is added.
    """

    multiplier: Multiplier = Multiplier.FLOAT32
    rounding: Rounding = Rounding.HALF_EVEN
    zero_point: ZeroPointOrder = ZeroPointOrder.AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicArithmetic:
    """How gemms compute that quantize their activation at run time and give float32, exact enough for every bit.

    Each row of a matrix product and each sample of a convolution has qparams of its own.

    Attributes:
        scale: How the scale is made of the range, which always holds 0; that of no width has scale 1.
        order: How scales and bias are applied.
        rounding: Where an activation halfway between two codes goes.
        zero_point: Whether the zero point is added to an activation's code after rounding or before it.
        smallest_scale: The smallest scale that is chosen; 0.0 for none.
        group_scales: The type that the scales of a weight's groups are stored in: those that it does not hold are
            rounded, and a quantizer must not choose any.
        pointwise_rows: Whether a 1 x 1 convolution of stride 1, without groups and padding, is a matrix product of its
            pixels, so that each of these has qparams of its own.
    """

    scale: RunTimeScale = RunTimeScale.INVERSE
    order: ScaleOrder = ScaleOrder.FUSED
    rounding: Rounding = Rounding.HALF_EVEN
    zero_point: ZeroPointOrder = ZeroPointOrder.AFTER
    smallest_scale: float = 0.0
    group_scales: torch.dtype = torch.float32
    pointwise_rows: bool = False


_INT8 = frozenset({torch.int8})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a backend's kernels accept and how they round.

    Attributes:
        name: Names it in reports.
        activation_dtypes: Integer types that activations may have.
        weight_dtypes: Integer types that weights may have.
        per_channel: Whether weights may have a scale for each output channel.
        affine_weights: Whether a weight's zero point may be other than 0.
        bias: What the kernels add.
        arithmetic: How each family rounds; a family that is missing is not predicted bit for bit.
        dynamic: How gemms of run-time qparams compute; None where there are none.
        tables: The function of each op that runs as a table of 256 codes.
        approximations: For ops that a kernel evaluates by an approximation of its own, by how many float32 roundoffs
            it may miss the function: where that decides a tie, both codes are right.
        requantization: The open interval in which the ratio sx·sw/sy, or sx/sy, must lie.
        relu_at_quant_min: Whether a fused relu is only the lower end of the output's range, so that its zero point must
            be quant_min.
        unsupported: Patterns of case ids, as `fnmatch` reads them, that the backend declares it cannot do, with the
            reason. A case that passes all the same is reported as such.
    """

    name: str
    activation_dtypes: frozenset[torch.dtype] = _INT8
    weight_dtypes: frozenset[torch.dtype] = _INT8
    per_channel: bool = True
    affine_weights: bool = False
    bias: BiasForm = BiasForm.INT32
    arithmetic: Mapping[Family, Arithmetic] = field(default_factory=dict, hash=False)
    dynamic: DynamicArithmetic | None = None
    tables: Mapping[torch._ops.OpOverload, TableFunction] = field(default_factory=dict, hash=False)
    approximations: Mapping[torch._ops.OpOverload, int] = field(default_factory=dict, hash=False)
    requantization: tuple[float, float] = (0.0, 256.0)
    relu_at_quant_min: bool = False
    unsupported: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        low, high = self.requantization
        if not 0 <= low < high:
            message = f"profile {self.name!r}: requantization={self.requantization}; expected 0 <= low < high"
            raise InvalidSpecError(message)
        for dtypes in (self.activation_dtypes, self.weight_dtypes):
            wrong = [str(dtype) for dtype in dtypes if dtype.is_floating_point]
            if wrong or not dtypes:
                message = f"profile {self.name!r} lists {', '.join(wrong) or 'no dtypes'}; expected integer dtypes"
                raise InvalidSpecError(message)
