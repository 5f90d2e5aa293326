"""Which accuracy tools are used together, and what they make of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.fx import GraphModule

from quantizer_sdk.accuracy.adaround import adaround
from quantizer_sdk.accuracy.bias_correction import bias_correction
from quantizer_sdk.accuracy.equalization import cross_layer_equalization
from quantizer_sdk.accuracy.observer_choice import with_observer
from quantizer_sdk.accuracy.smoothing import smooth_quant
from quantizer_sdk.batches import Progress
from quantizer_sdk.calibration import calibrate
from quantizer_sdk.quantize_pt2e import convert_pt2e, prepare_pt2e, tidy
from quantizer_sdk.quantizer import QuantizerLike

__all__ = ["Kitchen", "Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Tools to use together.

    Attributes:
        observer: What chooses the ranges of activations, one of `OBSERVERS`; None leaves it to the quantizer.
        equalization: `cross_layer_equalization` by weights alone, or by the ranges of activations.
        smoothing: The alpha of `smooth_quant`.
        adaround: Whether weights are rounded by `adaround`.
        bias: `bias_correction` by batch norm's statistics, or by data.
    """

    observer: str | None = None
    equalization: Literal["weights", "activations"] | None = None
    smoothing: float | None = None
    adaround: bool = False
    bias: Literal["analytic", "empirical"] | None = None

    def __str__(self) -> str:
        parts = [
            self.observer and f"{self.observer} ranges",
            self.equalization and f"equalized by {self.equalization}",
            None if self.smoothing is None else f"smooth_quant {self.smoothing:g}",
            "adaround" if self.adaround else None,
            self.bias and f"{self.bias} bias correction",
        ]
        return " + ".join(part for part in parts if part) or "as it is"


class Kitchen:
    """Uses recipes on one model; what several begin with is made once.

    Args:
        model: The exported float model.
        make_quantizer: Returns a fresh quantizer.
        batches: What tools and observers learn from.
        iterations: Those of `adaround`.
        watch: Wraps whatever is iterated over; it may raise to end a recipe.
    """

    def __init__(
        self,
        model: GraphModule,
        make_quantizer: Callable[[], QuantizerLike],
        batches: list[Any],
        iterations: int = 100,
        watch: Progress = lambda items: items,
    ) -> None:
        self._make_quantizer = make_quantizer
        self._batches = batches
        self._iterations = iterations
        self._watch = watch
        self._made: dict[Recipe, GraphModule] = {Recipe(): tidy(model)}

    def quantizer(self, recipe: Recipe) -> QuantizerLike:
        """Return a fresh quantizer as a recipe wants it.

        Raises:
            RuleError: It cannot have the recipe's observer.
        """
        quantizer = self._make_quantizer()
        return quantizer if recipe.observer is None else with_observer(quantizer, recipe.observer)

    def model(self, recipe: Recipe) -> GraphModule:
        """Return the float model that a recipe makes; the quantizer's part is not in it."""
        equalized = Recipe(equalization=recipe.equalization)
        smoothed = Recipe(equalization=recipe.equalization, smoothing=recipe.smoothing)
        rounded = dataclasses.replace(recipe, bias=None) if recipe.adaround else smoothed
        batches, watch = self._batches, self._watch
        model = self._once(
            equalized,
            self._made[Recipe()],
            lambda it: cross_layer_equalization(
                it, batches if recipe.equalization == "activations" else None, progress=watch
            ),
        )
        model = self._once(smoothed, model, lambda it: smooth_quant(it, watch(batches), alpha=recipe.smoothing or 0.0))
        model = self._once(
            rounded,
            model,
            lambda it: adaround(it, self.quantizer(recipe), batches, iterations=self._iterations, progress=watch),
        )
        if recipe.bias is None:
            return model
        data = batches if recipe.bias == "empirical" else None
        return bias_correction(model, self.quantizer(recipe), data, progress=watch)

    def converted(self, recipe: Recipe, model: GraphModule) -> GraphModule:
        """Return a recipe's model quantized."""
        prepared = prepare_pt2e(model, self.quantizer(recipe))
        calibrate(prepared, self._batches, progress=self._watch)
        return convert_pt2e(prepared)

    def _once(self, recipe: Recipe, model: GraphModule, make: Callable[[GraphModule], GraphModule]) -> GraphModule:
        """Return what is made of a model, if a part of a recipe is more than the part before it, or was made before."""
        if recipe not in self._made:
            self._made[recipe] = make(model)
        return self._made[recipe]
