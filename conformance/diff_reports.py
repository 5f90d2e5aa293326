"""What changed between two reports, regressions first."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.report import Report

__all__ = ["Change", "Difference", "Kind", "diff_reports"]

_MOST = 50
"""So many changes of one kind are written out in text; JSON holds all."""

_LONGEST = 200


class Kind(enum.Enum):
    """What became of a case; the order is the one in which they are told."""

    REGRESSED = "regressed"
    GONE = "gone"
    MENDED = "mended"
    CHANGED = "changed"
    NEW = "new"
    FIGURES = "other figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one case.

    Attributes:
        id: The case.
        kind: REGRESSED if it fell from PASS, falls short only now, or is new and falls short; MENDED the other way;
            CHANGED for any other change of status or signature; FIGURES where only its numbers differ.
        before: Its status in the first report; None if it is new.
        after: Its status in the second report; None if it is gone.
        message: What the second report says of it, or the first, if it is gone.
        figures: By key of the numbers that differ, the value before and after; None where the key is missing.
    """

    id: str
    kind: Kind
    before: Status | None
    after: Status | None
    message: str
    figures: Mapping[str, tuple[Any, Any]] = field(hash=False)

    def __str__(self) -> str:
        states = " → ".join(state.value if state else "none" for state in (self.before, self.after))
        lines = [f"{self.id}: {states}" if self.before is not self.after else f"{self.id}: {states.split()[0]}"]
        lines += [_shortened(line) for line in self.message.splitlines()] if self.kind is not Kind.FIGURES else []
        lines += [f"{key}: {_shortened(_text(a))} → {_shortened(_text(b))}" for key, (a, b) in self.figures.items()]
        return "\n    ".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second report against the first.

    Attributes:
        context: By name of what else differs (verdict, seed, environment.cpu, ...) its text before and after; None
            where one of the reports lacks it.
        changes: Changed cases, in the order of `Kind`, then of ids.
        unchanged: Number of cases that are the same in both.
        narrowed: Whether the second report was made for another selection, so that gone cases mean nothing.
    """

    context: Mapping[str, tuple[str | None, str | None]] = field(hash=False)
    changes: tuple[Change, ...]
    unchanged: int
    narrowed: bool

    def of(self, kind: Kind) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind is kind)

    @property
    def worse(self) -> bool:
        """Whether a case regressed, or is gone though the selection is the same."""
        return bool(self.of(Kind.REGRESSED)) or (bool(self.of(Kind.GONE)) and not self.narrowed)

    def to_text(self) -> str:
        """Return it for a terminal, at most 50 cases a kind."""
        lines = [f"{name}: {_or_none(a)} → {_or_none(b)}" for name, (a, b) in self.context.items()]
        for kind in Kind:
            changes = self.of(kind)
            lines += ["", f"{kind.value} ({len(changes)})"] if changes else []
            lines += [f"  {change}" for change in changes[:_MOST]]
            lines += [f"  and {len(changes) - _MOST} more"] if len(changes) > _MOST else []
        return "\n".join([*lines, "", self._summary]).lstrip("\n") + "\n"

    def to_markdown(self) -> str:
        """Return it for a pull request, at most 50 cases a kind."""
        lines = [f"**{self._summary}**", ""]
        if self.context:
            lines += ["| | before | after |", "|---|---|---|"]
            lines += [
                f"| {name} | {_cell(_or_none(a))} | {_cell(_or_none(b))} |" for name, (a, b) in self.context.items()
            ]
            lines += [""]
        for kind in Kind:
            changes = self.of(kind)
            if changes:
                lines += [f"### {kind.value.capitalize()} ({len(changes)})", "", "```text"]
                lines += [str(change).replace("```", "'''") for change in changes[:_MOST]]
                lines += ["```", *([f"and {len(changes) - _MOST} more"] if len(changes) > _MOST else []), ""]
        return "\n".join(lines).rstrip("\n") + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it, all cases included."""
        return {
            "worse": self.worse,
            "narrowed": self.narrowed,
            "unchanged": self.unchanged,
            "context": {name: list(pair) for name, pair in self.context.items()},
            "changes": [
                {
                    "id": change.id,
                    "kind": change.kind.value,
                    "before": change.before.value if change.before else None,
                    "after": change.after.value if change.after else None,
                    "message": change.message,
                    "figures": {key: list(pair) for key, pair in change.figures.items()},
                }
                for change in self.changes
            ],
        }

    @property
    def _summary(self) -> str:
        counts = [f"{len(self.of(kind))} {kind.value}" for kind in Kind if self.of(kind)]
        return ", ".join([*counts, f"{self.unchanged} unchanged"])


def diff_reports(before: Report, after: Report) -> Difference:
    """Compare two reports case by case; times do not count."""
    first = {outcome.id: outcome for outcome in before.outcomes}
    second = {outcome.id: outcome for outcome in after.outcomes}
    ids = sorted(first.keys() | second.keys())
    changes = [change for id_ in ids if (change := _change(id_, first.get(id_), second.get(id_))) is not None]
    order = list(Kind)
    return Difference(
        context=_context(before, after),
        changes=tuple(sorted(changes, key=lambda change: order.index(change.kind))),
        unchanged=len(ids) - len(changes),
        narrowed=dict(before.selection) != dict(after.selection),
    )


def _change(id_: str, before: Outcome | None, after: Outcome | None) -> Change | None:
    """Return what became of a case, or None if nothing did."""
    old, new = (dict(outcome.numbers) if outcome else {} for outcome in (before, after))
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)) if before and after else []
    kind = _kind(before, after)
    if kind is None and not keys:
        return None
    latest = after or before
    assert latest is not None, "the ids are those of the two reports"
    return Change(
        id=id_,
        kind=kind or Kind.FIGURES,
        before=before.status if before else None,
        after=after.status if after else None,
        message=latest.message,
        figures={key: (old.get(key), new.get(key)) for key in keys},
    )


def _kind(before: Outcome | None, after: Outcome | None) -> Kind | None:
    """Return the kind of a change in status or signature, or None if there is none."""
    if after is None:
        return Kind.GONE
    if before is None:
        return Kind.REGRESSED if after.status.falls_short else Kind.NEW
    if before.status is after.status:
        return None if before.signature == after.signature else Kind.CHANGED
    fell, rose = (_rank(x.status) < _rank(y.status) for x, y in ((after, before), (before, after)))
    return Kind.REGRESSED if fell else Kind.MENDED if rose else Kind.CHANGED


def _rank(status: Status) -> int:
    """Return 0 for what falls short, 2 for PASS, 1 for what is between."""
    return 0 if status.falls_short else 1 + (status is Status.PASS)


def _context(before: Report, after: Report) -> dict[str, tuple[str | None, str | None]]:
    first, second = _facts(before), _facts(after)
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def _facts(report: Report) -> dict[str, str]:
    """Return what a report says beside its cases, as texts."""
    facts = {
        "verdict": report.verdict,
        "passed": "yes" if report.passed else "no",
        "suite": report.suite,
        "backend": report.backend,
        "runner": report.runner or "none",
        "profile": report.profile or "none",
        "seed": str(report.seed),
        "complete": "yes" if report.complete else "no",
        "flaws": "; ".join(report.flaws) or "none",
    }
    facts |= {f"selection.{key}": value for key, value in sorted(report.selection.items())}
    return facts | {f"environment.{key}": value for key, value in sorted(report.environment.items())}


def _text(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def _or_none(text: str | None) -> str:
    return "none" if text is None else text


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
