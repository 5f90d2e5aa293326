"""What was decided about a node and why: written by passes and table quantizers, read by `explain`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch.fx import Node

from quantizer_sdk.provenance import module_path, op_name, source_line

__all__ = ["DECISION_KEY", "RECORD_KEY", "Absorbed", "Decision", "absorb", "decision_of", "record"]

DECISION_KEY = "quantizer_sdk_decision"
RECORD_KEY = "quantizer_sdk_record"
"""Where the metadata of an op has the name by which the report that was frozen when it was prepared knows it."""

_FOLDED = "folded into the constants of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed:
    """An op that is gone: its name, overload, user's line and module path, and what it is to the op that is there."""

    node: str
    op: str
    source: str
    module: str
    how: str = _FOLDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of one op.

    Attributes:
        row: Name of the table row that claimed it; None where none did.
        rule: The words for the rule that gave it its config; None where no row claimed it.
        reason: Why it was left float, or what a user should know about how it is quantized.
        cause: The kind of that reason, a key of `refusal.ADVICE`; None where a row claimed it.
        advice: What would change it.
        absorbed: Ops that were folded into this one.
        fused_into: Name of the op at whose output the kernel that computes this one requantizes; None if its own.
        shares: Whether it only moves codes, with the qparams of its operand.
    """

    row: str | None = None
    rule: str | None = None
    reason: str | None = None
    cause: str | None = None
    advice: str | None = None
    absorbed: tuple[Absorbed, ...] = ()
    fused_into: str | None = None
    shares: bool = False


def absorb(node: Node, folded: Node, how: str = _FOLDED) -> None:
    """Note that a node now computes what `folded`, about to be erased, computed.

    Args:
        node: The node that is there.
        folded: The one that goes.
        how: What it is to the other, in words that go before the other's name.
    """
    absorbed = Absorbed(
        node=folded.name, op=op_name(folded), source=source_line(folded), module=module_path(folded), how=how
    )
    record(node, dataclasses.replace(decision_of(node), absorbed=(absorbed,)))


def decision_of(node: Node) -> Decision:
    """Return what was decided about a node so far."""
    decision = node.meta.get(DECISION_KEY)
    return decision if isinstance(decision, Decision) else Decision()


def record(node: Node, decision: Decision) -> None:
    """Add to what was decided about a node; what was absorbed before stays."""
    absorbed = decision_of(node).absorbed + decision.absorbed
    node.meta[DECISION_KEY] = dataclasses.replace(decision, absorbed=absorbed)
