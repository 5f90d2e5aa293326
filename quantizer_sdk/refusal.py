"""Why an op is left float, as words that also say what kind of reason it is and what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ADVICE",
    "CHECK",
    "CONSTANT",
    "CONTROL_FLOW",
    "DTYPE",
    "EXCLUDED",
    "FILTERED",
    "FLOAT_NEIGHBOURS",
    "MULTI_USER",
    "NOT_ANNOTATED",
    "NOT_FOLDED",
    "NO_ROW",
    "UNCOVERED",
    "UNPREPARED",
    "Refusal",
    "as_refusal",
]

NO_ROW = "no_row"
CHECK = "check"
EXCLUDED = "excluded"
FILTERED = "filtered"
UNCOVERED = "uncovered"
MULTI_USER = "multi_user"
DTYPE = "dtype"
CONSTANT = "constant"
FLOAT_NEIGHBOURS = "float_neighbours"
NOT_FOLDED = "not_folded"
NOT_ANNOTATED = "not_annotated"
CONTROL_FLOW = "control_flow"
UNPREPARED = "unprepared"

ADVICE: dict[str, str] = {
    NO_ROW: "add a row for this op to the quantizer's table, or write the model with an op that has one",
    CHECK: "change the op so that the check lets it pass, or give it a config that the kernel takes, by a rule",
    EXCLUDED: "remove that rule, or give it a config in the place of None",
    FILTERED: "let the filter function return True for this op",
    UNCOVERED: "set_global(config), or a rule for its module or op",
    MULTI_USER: "let the other readers take the result that is behind it, or compute it once for each reader",
    DTYPE: "export in float32: only float tensors are quantized",
    CONSTANT: "nothing needs to: it is computed before run time",
    FLOAT_NEIGHBOURS: "quantize the op that feeds it or one that reads it",
    NOT_FOLDED: "write the batch norm directly behind a convolution or linear layer with constant weights",
    NOT_ANNOTATED: "the quantizer decides: configure it to cover this op, or add the op to what it annotates",
    CONTROL_FLOW: "write it with torch.cond, while_loop, map or scan, which the engine enters",
    UNPREPARED: "explain(model, quantizer) says what a quantizer would make of it",
}
"""What would change each kind of reason, where it does not say so itself."""


class Refusal(str):
    """A reason against quantizing an op; a check may return one in the place of plain words.

    Args:
        words: The reason.
        advice: What would change it; None takes that of the cause in `ADVICE`.
        cause: The kind of reason, a key of `ADVICE`.
    """

    __slots__ = ("advice", "cause")

    advice: str
    cause: str

    def __new__(cls, words: str, *, advice: str | None = None, cause: str = CHECK) -> Self:
        """Make one; a str is whole before `__init__`."""
        self = super().__new__(cls, words)
        self.advice = ADVICE[cause] if advice is None else advice
        self.cause = cause
        return self

    def behind(self, words: str) -> Refusal:
        """Return the same reason with words before it."""
        return Refusal(words + self, advice=self.advice, cause=self.cause)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self), self.advice, self.cause)


def _again(words: str, advice: str, cause: str) -> Refusal:
    return Refusal(words, advice=advice, cause=cause)


def as_refusal(reason: str, cause: str = CHECK) -> Refusal:
    """Return a reason as it is, and plain words as one of this kind."""
    return reason if isinstance(reason, Refusal) else Refusal(reason, cause=cause)
