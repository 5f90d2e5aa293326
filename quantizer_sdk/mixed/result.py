"""What mixed precision proposes: rules with their measured effects, on an ordinary quantizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantizer_sdk.configuration.file import save_config
from quantizer_sdk.mixed.budget import Budget, Figures
from quantizer_sdk.mixed.search import FLOAT
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["MixedPrecision", "MixedRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRule:
    """One proposed change, with its measured effect.

    Attributes:
        layers: The names of the layers that it changes; several where only all of them together gain.
        modules: The paths of the modules that it is set for.
        choice: What they get: "float", or the name of a config among the quantizer's `alternatives`.
        configs: What is set for them, one a layer; None for float.
        figures: What was measured of the model with this rule and those before it.
        gain: What it adds to the signal to noise over those before it, measured, dB.
    """

    layers: tuple[str, ...]
    modules: tuple[str, ...]
    choice: str
    configs: tuple[QuantizationConfig | None, ...]
    figures: Figures
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """A proposal, measured.

    Attributes:
        quantizer: The user's quantizer with the rules set: give it to `prepare_pt2e`.
        rules: The rules in the order in which they were added.
        before: What was measured without them.
        after: What was measured with all of them.
        budget: What was asked for.
        trials: How many quantized models were made and measured.
    """

    quantizer: TableQuantizer
    rules: tuple[MixedRule, ...]
    before: Figures
    after: Figures
    budget: Budget
    trials: int

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.budget.reached(self.after)

    @property
    def float_layers(self) -> int:
        """The number of layers that are left float."""
        return len({layer for rule in self.rules if rule.choice == FLOAT for layer in rule.layers})

    def save(self, path: str | Path) -> None:
        """Write the quantizer's rules to a .toml or .json file; see `save_config`."""
        save_config(self.quantizer, path)

    def to_dict(self) -> dict[str, Any]:
        """Return figures and rules as plain data."""
        return {
            "budget": str(self.budget),
            "met": self.met,
            "before": _plain(self.before),
            "after": _plain(self.after),
            "float_layers": self.float_layers,
            "trials": self.trials,
            "rules": [
                {"modules": list(rule.modules), "choice": rule.choice, "gain": rule.gain, **_plain(rule.figures)}
                for rule in self.rules
            ],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        met = "met" if self.met else "not met"
        lines = [f"budget: {self.budget}: {met}; {self.float_layers} float layers, {self.trials} models measured"]
        lines.append(f"  {'as it is':<24} {self.before}")
        lines += [
            f"  {rule.choice:<24} {rule.figures} ({rule.gain:+.2f} dB)  {', '.join(rule.modules)}"
            for rule in self.rules
        ]
        return "\n".join(lines)


def _plain(figures: Figures) -> dict[str, float | None]:
    return {"sqnr": figures.sqnr, "accuracy": figures.accuracy}
