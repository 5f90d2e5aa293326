"""What one case came to: its id, its status, and the numbers behind it."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from quantizer_sdk.errors import InvalidSpecError

__all__ = ["CHECKS", "Outcome", "Status", "case_check", "case_level", "paragraph_of"]

CHECKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "C1": ("L0", "a claimed op is quantized: its activations come from dequantize and its result goes to quantize"),
        "C2": ("L0", "dtype, range, axis and scheme are legal for the backend"),
        "C3": ("L0", "points that share have the same qparams"),
        "C4": ("L0", "what is fused may be fused: one user inside a pattern, the zero point at quant_min for a relu"),
        "C5": ("L0", "a malformed annotation is refused by a named error that names the node and what is accepted"),
        "E1": ("L1", "annotating is deterministic, idempotent, and independent of the order and the names of nodes"),
        "E2": ("L1", "other ways of exporting the same model give the same quantized model"),
        "E3": ("L1", "the quantized model survives save, load and deepcopy"),
        "E4": ("L1", "nothing is touched outside of what was claimed, and the user's model not at all"),
        "R1": ("L2", "the q/dq graph gives the exact codes, but for ties closer than its own arithmetic can tell"),
        "R2": ("L2", "the signal-to-noise ratio is at most 3 dB below that of a plain min-max quantizer"),
        "R3": ("L2", "quantizing a dequantized result changes nothing"),
        "R4": ("L2", "scaling all inputs and the bias by a power of two leaves the integers as they are"),
        "R5": ("L2", "permuting channels permutes the result"),
        "R6": ("L2", "a batch gives what its halves give"),
        "R7": ("L2", "zero becomes the zero point"),
        "K1": ("L3", "the kernel gives every bit that the profile predicts"),
        "K2": (
            "L3",
            "on random codes the kernel leaves the exact codes only next to ties, and no more often than that",
        ),
        "K3": ("L3", "on constructed ties the kernel rounds as the profile says"),
        "K4": ("L3", "no accumulator saturates on any instruction set"),
        "K5": ("L3", "unusual shapes, strides and memory formats"),
        "K6": ("L3", "the granularity is the declared one: rows and channels of unequal magnitude"),
        "K7": ("L3", "extreme scale ratios, end codes, infinities and NaN"),
        "D1": ("L4", "the model lowers, loads and runs"),
        "D2": ("L4", "only integer kernels run between the model's quantizes and dequantizes"),
        "D3": ("L4", "the runtime's optimizer changes no integer"),
        "D4": ("L4", "latency; reported only"),
        "M1": ("L5", "real models: noise of kernels, signal-to-noise ratio, agreement of classes"),
    }
)
"""Each check's level and what it states; docs/conformance/ holds the whole of it."""

_ID = re.compile(r"(L[0-5])\.([CERKDM][0-9])(/[A-Za-z0-9_.,:=@+-]+)+")


class Status(enum.Enum):
    """How a case ended."""

    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    WAIVED = "WAIVED"
    UNSUPPORTED = "UNSUPPORTED"
    UNKNOWN = "UNKNOWN"
    MISTRUSTED = "MISTRUSTED"
    ERROR = "ERROR"

    @property
    def falls_short(self) -> bool:
        """Whether a level with such a case is not reached."""
        return self in {Status.FAIL, Status.UNKNOWN, Status.MISTRUSTED, Status.ERROR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one case.

    Attributes:
        id: Stable and never reused: level.check/subject/scheme/data/shape, such as
            "L3.K3/aten.add.Tensor/s8.pt/dyadic.zp_odd/4d".
        status: How it ended.
        message: What was found, where, and what would be accepted; empty for a bare PASS.
        signature: What kind of shortfall it is, without figures that vary: waivers compare it.
        numbers: The figures behind the status, as JSON knows them; no times.
        seconds: How long it took; no part of equality.
    """

    id: str
    status: Status
    message: str = ""
    signature: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        match = _ID.fullmatch(self.id)
        if match is None or match[2] not in CHECKS or CHECKS[match[2]][0] != match[1]:
            message = f"case id {self.id!r}; expected LEVEL.CHECK/subject/..., such as L3.K3/aten.add.Tensor/s8.pt/4d"
            raise InvalidSpecError(message)
        if self.status.falls_short and not self.message:
            message = f"case {self.id} is {self.status.value} without a message; say what was found"
            raise InvalidSpecError(message)


def case_check(id_: str) -> str:
    """Return the check of a case: "K3" for "L3.K3/aten.add/..."."""
    return id_.split("/", 1)[0].split(".")[1]


def case_level(id_: str) -> str:
    """Return the level of a case: "L3" for "L3.K3/aten.add/..."."""
    return id_.split(".", 1)[0]


def paragraph_of(check: str) -> str:
    """Return where the specification has a check: "docs/conformance/checks.md#k3" for "K3"."""
    return f"docs/conformance/checks.md#{check.lower()}"
