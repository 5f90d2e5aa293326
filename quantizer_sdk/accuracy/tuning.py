"""Find out which accuracy tools help a model, within a time, on data that they have not seen."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.accuracy.empirical_shifts import relative_noise
from quantizer_sdk.accuracy.recipe import Kitchen, Recipe
from quantizer_sdk.accuracy.trial import Trial, TuneResult
from quantizer_sdk.backend import Backend
from quantizer_sdk.batches import Progress, run_batch
from quantizer_sdk.decibels import to_db
from quantizer_sdk.errors import CalibrationError, InvalidSpecError, QuantizerError
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.quantizer import QuantizerLike
from quantizer_sdk.range_choice import OBSERVERS
from quantizer_sdk.verify import require_exported

__all__ = ["TOOLS", "sqnr", "tune"]

TOOLS = ("observers", "equalization", "smooth_quant", "bias_correction", "adaround")
"""What `tune` tries, in this order; each on top of the best so far."""

Metric = Callable[[list[Any], list[Any]], float]

_HELD_OUT = 3  # one batch of so many judges
_ALPHAS = (0.5, 0.75)
_REARRANGING = frozenset({"equalization", "smooth_quant"})  # which compute the same, if they find anything to change
_OWN = "quantizer_sdk."  # modules whose warnings are what a tool says
_WORDS = 200  # of what a tool says, letters


def sqnr(expected: list[Any], found: list[Any]) -> float:
    """Return the signal-to-quantization-noise ratio of all float outputs in dB, their noises added up.

    Args:
        expected: What the float model returns, batch by batch.
        found: What the quantized one does.
    """
    return to_db(1.0, relative_noise(expected, found))


def tune(
    model: GraphModule,
    make_quantizer: Callable[[], QuantizerLike] | Backend,
    batches: Iterable[Any],
    *,
    budget_s: float = 300.0,
    metric: Metric | None = None,
    tools: Collection[str] = TOOLS,
    iterations: int = 100,
    refit: bool = True,
    progress: Progress | None = None,
) -> TuneResult:
    """Try accuracy tools one after the other, each on top of the best so far, and return the best of all.

    Every third batch is held out: trials are judged by those, and learn from the others. With fewer than three batches
    the same ones do both. The quantizer as it is is always the first trial, and the best one unless another has a
    higher score, so the result is never worse than that on the data that judges.

    Args:
        model: An exported float model for inference. It is left as it is.
        make_quantizer: Returns a fresh quantizer, configured as the model is to be quantized; or a backend, whose
            default configuration is taken.
        batches: Inputs as `calibrate` takes them; they are held in memory.
        budget_s: Seconds that the trials may take; none begins or goes on behind them, save for the first.
        metric: Takes what the float model and what the quantized one return, each a list with one item a batch, and
            returns a number, the higher the better. None takes `sqnr`.
        tools: Which of `TOOLS` to try.
        iterations: Those of `adaround`.
        refit: Whether the best combination is made anew of all batches in the end, if it is not worse than the
            quantizer as it is on them.
        progress: Wraps the trials to show progress, such as `tqdm.tqdm`.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        InvalidSpecError: There is no such tool, or the budget is no positive number.
        QuantizerError: The quantizer as it is cannot quantize the model.
    """
    if unknown := sorted(set(tools) - set(TOOLS)):
        raise InvalidSpecError(f"no tool {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    if not budget_s > 0:
        raise InvalidSpecError(f"budget_s={budget_s}; expected seconds above 0")
    require_exported(model)
    batches = list(batches)
    if not batches:
        raise CalibrationError("there is no batch to calibrate and judge with; give at least one, better dozens")
    make = make_quantizer.quantizer if isinstance(make_quantizer, Backend) else make_quantizer
    score = sqnr if metric is None else metric
    tuning = _Tuning(model, make, batches, score, budget_s, iterations)
    steps = list(_steps(tools))
    for step in steps if progress is None else progress(steps):
        tuning.take(step)
    return tuning.result("SQNR in dB" if metric is None else getattr(metric, "__name__", "metric"), refit=refit)


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to try.

    Attributes:
        tool: The tool; its steps all build on the best of what was before the first of them.
        change: Makes the recipe of the best one.
    """

    tool: str
    change: Callable[[Recipe], Recipe]


def _steps(tools: Collection[str]) -> Iterator[_Step]:
    """Yield what is tried, the plain quantizer first."""

    def with_(**fields: Any) -> Callable[[Recipe], Recipe]:
        return lambda recipe: dataclasses.replace(recipe, **fields)

    yield _Step("as it is", with_())
    if "observers" in tools:
        for name in OBSERVERS:
            yield _Step("observers", with_(observer=name))
    if "equalization" in tools:
        yield _Step("equalization", with_(equalization="weights"))
        yield _Step("equalization", with_(equalization="activations"))
    if "smooth_quant" in tools:
        for alpha in _ALPHAS:
            yield _Step("smooth_quant", with_(smoothing=alpha))
    if "bias_correction" in tools:
        yield _Step("bias_correction", with_(bias="analytic"))
        yield _Step("bias_correction", with_(bias="empirical"))
    if "adaround" in tools:
        yield _Step("adaround", with_(adaround=True))
        if "bias_correction" in tools:
            yield _Step("adaround", _other_bias)


def _other_bias(recipe: Recipe) -> Recipe:
    """Return a recipe with rounded weights, and without bias correction if it has one, else with it."""
    return dataclasses.replace(recipe, adaround=True, bias=None if recipe.bias else "empirical")


class _OutOfTimeError(Exception):
    """The budget is spent; ends a trial, and never reaches the user."""


class _Tuning:
    """The state of one tuning; its arguments are those of `tune`."""

    def __init__(
        self,
        model: GraphModule,
        make_quantizer: Callable[[], QuantizerLike],
        batches: list[Any],
        metric: Metric,
        budget: float,
        iterations: int,
    ) -> None:
        self._start, self._budget = time.monotonic(), budget
        self._model, self._make, self._metric, self._iterations = model, make_quantizer, metric, iterations
        self._trials: list[Trial] = []
        self._batches = batches
        spare = len(batches) >= _HELD_OUT
        self._held_out = batches[_HELD_OUT - 1 :: _HELD_OUT] if spare else []
        self._learning = [it for index, it in enumerate(batches) if not spare or index % _HELD_OUT != _HELD_OUT - 1]
        self._kitchen = Kitchen(model, make_quantizer, self._learning, iterations, self._watched)
        floats = copy_model(model)  # which may write into buffers
        self._expected = [_outputs_of(floats, data) for data in (self._learning, self._held_out)]
        self._kept: tuple[GraphModule, GraphModule] | None = None  # of the best trial: its model, and that converted
        self._tool, self._base = "", Recipe()

    def take(self, step: _Step) -> None:
        """Try one step."""
        if step.tool != self._tool:
            self._tool, self._base = step.tool, self._best().recipe if self._trials else Recipe()
        recipe = step.change(self._base)
        if any(trial.recipe == recipe for trial in self._trials):
            return
        start = time.monotonic()
        try:
            self._try(recipe, start)
        except (QuantizerError, _OutOfTimeError) as error:
            if not self._trials:  # then there is nothing to fall back to
                raise
            self._note(recipe, start, None, None, str(error) or "no time left")

    def _try(self, recipe: Recipe, start: float) -> None:
        list(self._watched([None]))  # is there any time left?
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = self._kitchen.model(recipe)
            said = "; ".join(str(it.message) for it in caught if it.category.__module__.startswith(_OWN))
            if self._tool in _REARRANGING and str(model.graph) == str(self._kitchen.model(self._base).graph):
                self._note(recipe, start, None, None, said or "it changes nothing")
                return
        converted = self._kitchen.converted(recipe, model)
        learned, judged = (
            self._metric(expected, _outputs_of(converted, self._watched(data))) if data else None
            for expected, data in zip(self._expected, (self._learning, self._held_out), strict=True)
        )
        before = self._best() if self._trials else None
        self._note(recipe, start, judged if self._held_out else learned, learned, said)
        if self._best() is not before:
            self._kept = (model, converted)

    def _note(
        self, recipe: Recipe, start: float, score: float | None, calibration_score: float | None, reason: str
    ) -> None:
        trial = Trial(
            recipe=recipe,
            score=None if score is None or math.isnan(score) else score,
            calibration_score=calibration_score,
            seconds=time.monotonic() - start,
            reason=None if not reason else reason if len(reason) <= _WORDS else f"{reason[: _WORDS - 3]}...",
        )
        self._trials.append(trial)

    def _best(self) -> Trial:
        """Return the trial with the highest score, the earlier of equals."""
        return max(self._trials, key=lambda trial: -math.inf if trial.score is None else trial.score)

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield items as long as there is time, or no trial yet to fall back to."""
        for item in items:
            if self._trials and self._left() < 0:
                raise _OutOfTimeError
            yield item

    def _left(self) -> float:
        return self._budget - (time.monotonic() - self._start)

    def result(self, metric: str, *, refit: bool) -> TuneResult:
        """Return the best of all, made of all batches where that is wanted, there is time, and it is not worse."""
        best = self._best()
        assert self._kept is not None
        model, converted = self._kept
        score = default_score = None
        kitchen = Kitchen(self._model, self._make, self._batches, self._iterations)
        alike = [trial.seconds for trial in self._trials if trial.recipe.adaround == best.recipe.adaround]
        if refit and self._held_out and max(alike) * len(self._batches) / len(self._learning) < self._left():
            score, default_score, fitted = self._fitted(kitchen, best.recipe)
            refit = score >= default_score
            model, converted = fitted if refit else self._kept
        else:
            refit = False
        return TuneResult(
            trials=tuple(self._trials),
            best=best,
            model=model,
            quantizer=kitchen.quantizer(best.recipe),
            converted=converted,
            metric=metric,
            calibration=len(self._learning),
            held_out=len(self._held_out),
            refit=refit,
            refit_score=score,
            refit_default_score=default_score,
            seconds=time.monotonic() - self._start,
        )

    def _fitted(self, kitchen: Kitchen, recipe: Recipe) -> tuple[float, float, tuple[GraphModule, GraphModule]]:
        """Return the scores of a recipe and of none, made of all batches and on them, and the recipe's models."""
        expected = _outputs_of(copy_model(self._model), self._batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the trial has said it already
            model = kitchen.model(recipe)
        converted = kitchen.converted(recipe, model)
        plain = kitchen.converted(Recipe(), kitchen.model(Recipe()))
        scores = [self._metric(expected, _outputs_of(it, self._batches)) for it in (converted, plain)]
        return scores[0], scores[1], (model, converted)


def _outputs_of(model: GraphModule, batches: Iterable[Any]) -> list[Any]:
    """Return what a model returns, batch by batch."""
    with torch.no_grad():
        return [run_batch(model, batch, index) for index, batch in enumerate(batches)]
