"""What a user wants of a mixed-precision model: signal to noise, accuracy, or few float layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import GraphModule

from quantizer_sdk.errors import BudgetError

__all__ = ["Budget", "Figures"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one quantized model.

    Attributes:
        sqnr: Signal to noise of its outputs, dB: noise over signal averaged over the float outputs.
        accuracy: What the budget's metric says of it; None without one.
    """

    sqnr: float
    accuracy: float | None = None

    def __str__(self) -> str:
        return f"{self.sqnr:.2f} dB" + ("" if self.accuracy is None else f", accuracy {self.accuracy:.4g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the quantized model must reach, and how many layers may be float for it.

    Attributes:
        sqnr: Least signal to noise of the outputs, dB.
        accuracy: Least value of `metric`.
        metric: Returns a number of a converted model that is the higher the better, such as its share of right answers.
        max_float_layers: How many layers may be left float at most; alone, the best is found that so many allow.

    Raises:
        BudgetError: Nothing is asked for, or `metric` and `accuracy` stand alone.
    """

    sqnr: float | None = None
    accuracy: float | None = None
    metric: Callable[[GraphModule], float] | None = None
    max_float_layers: int | None = None

    def __post_init__(self) -> None:
        if self.sqnr is None and self.accuracy is None and self.max_float_layers is None:
            raise BudgetError(
                "the budget asks for nothing; give it sqnr=, accuracy= with metric=, or max_float_layers="
            )
        if (self.accuracy is None) != (self.metric is None):
            given, missing = ("accuracy", "metric") if self.metric is None else ("metric", "accuracy")
            raise BudgetError(f"the budget has {given} and no {missing}; give both")
        if self.max_float_layers is not None and self.max_float_layers < 0:
            raise BudgetError(f"max_float_layers={self.max_float_layers}; expected 0 or more")

    @property
    def has_target(self) -> bool:
        """Whether there is a figure to reach."""
        return self.sqnr is not None or self.accuracy is not None

    def reached(self, figures: Figures) -> bool:
        """Whether figures are as good as asked for."""
        if self.sqnr is not None and figures.sqnr < self.sqnr:
            return False
        return self.accuracy is None or (figures.accuracy is not None and figures.accuracy >= self.accuracy)

    def __str__(self) -> str:
        words = []
        if self.sqnr is not None:
            words.append(f"{self.sqnr:g} dB")
        if self.accuracy is not None:
            words.append(f"accuracy {self.accuracy:g}")
        if self.max_float_layers is not None:
            words.append(f"at most {self.max_float_layers} float layers")
        return ", ".join(words)
