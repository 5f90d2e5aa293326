"""What tuning tried, what it came to, and the best of it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule

from quantizer_sdk.accuracy.recipe import Recipe
from quantizer_sdk.quantizer import QuantizerLike

__all__ = ["Trial", "TuneResult"]

_COLUMNS = ("tools", "held out", "calibration", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One combination of tools.

    Attributes:
        recipe: The tools.
        score: By the metric on batches that were held out, higher is better; None where there was no result.
        calibration_score: The same on the batches that the tools and observers learned from.
        seconds: That it took; what it shares with earlier trials was made by those.
        reason: Why there is no result, or what the tools had to say.
    """

    recipe: Recipe
    score: float | None
    calibration_score: float | None
    seconds: float
    reason: str | None = None

    @property
    def name(self) -> str:
        """The tools in words."""
        return str(self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it; scores without bound are None."""
        return {
            "name": self.name,
            "tools": dataclasses.asdict(self.recipe),
            "score": _finite(self.score),
            "calibration_score": _finite(self.calibration_score),
            "seconds": round(self.seconds, 3),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """All trials in their order, and the best one's model.

    Attributes:
        trials: The first is the quantizer as it is.
        best: The one with the highest score; the first where none is better.
        model: The float model that the best trial's tools made: `prepare_pt2e` takes it with `quantizer`.
        quantizer: The quantizer that suits it.
        converted: `model` prepared, calibrated and converted.
        metric: What scores are, in words.
        calibration: How many batches the trials learned from, and
        held_out: by how many others they were judged; 0 where there were too few to spare any.
        refit: Whether `model` was made of all batches anew, after the trials.
        refit_score: The score of `converted` on all batches, which it was made of, and
        refit_default_score: that of the quantizer as it is, calibrated with all of them.
        seconds: That all took.
    """

    trials: tuple[Trial, ...]
    best: Trial
    model: GraphModule
    quantizer: QuantizerLike
    converted: GraphModule
    metric: str
    calibration: int
    held_out: int
    refit: bool
    refit_score: float | None
    refit_default_score: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON knows them; the models are left out."""
        return {
            "metric": self.metric,
            "calibration": self.calibration,
            "held_out": self.held_out,
            "best": self.trials.index(self.best),
            "refit": self.refit,
            "refit_score": _finite(self.refit_score),
            "refit_default_score": _finite(self.refit_default_score),
            "seconds": round(self.seconds, 3),
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def to_json(self) -> str:
        """Return the figures as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_cells(trial, trial is self.best) for trial in self.trials)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in parts
            ).rstrip()
            for parts in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
        ]
        reasons = ["", *(trial.reason or "" for trial in self.trials)]
        lines = [f"{line}  {reason}".rstrip() for line, reason in zip(lines, reasons, strict=True)]
        judged = f"{self.held_out} held out" if self.held_out else "the same ones"
        lines.append(f"{self.metric}; {self.calibration} batches to learn from, judged on {judged}")
        if self.refit:
            scores = f"{_number(self.refit_score)}, as it is {_number(self.refit_default_score)}"
            lines.append(f"best, made anew of all batches: {scores} on them")
        return "\n".join(lines)


def _cells(trial: Trial, best: bool) -> tuple[str, ...]:
    mark = "> " if best else "  "
    return (
        mark + trial.name,
        _number(trial.score),
        _number(trial.calibration_score),
        f"{trial.seconds:.1f}",
    )


def _number(score: float | None) -> str:
    if score is None:
        return "-"
    return f"{score:.4f}" if abs(score) < 2 else f"{score:.2f}"


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
