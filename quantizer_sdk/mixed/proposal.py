"""Rules that meet a budget: which layers to leave float, and which to give another config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.errors import BudgetError, NothingAnnotatedError
from quantizer_sdk.mixed.budget import Budget, Figures
from quantizer_sdk.mixed.layers import Layers
from quantizer_sdk.mixed.noise import Source
from quantizer_sdk.mixed.result import MixedPrecision, MixedRule
from quantizer_sdk.mixed.rule_list import with_rules
from quantizer_sdk.mixed.search import FLOAT, Estimate, Move
from quantizer_sdk.mixed.trial import Workbench
from quantizer_sdk.plan import same_qparams
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["mixed_precision"]

_LEAST_GAIN = 0.02  # dB that a rule must be worth, estimated and measured
_SEEN_GAIN = 0.25  # dB: less is chance on few samples, so that changes which promise less are tried together
_DOUBT = 0.02  # of the noise: estimates are believed in until so much was promised and not kept

_Tell = Callable[[str], None]


def mixed_precision(
    model: GraphModule,
    quantizer: TableQuantizer,
    data: Iterable[Any],
    budget: Budget,
    *,
    evaluation: Iterable[Any] | None = None,
    max_trials: int = 64,
    probes: int = 32,
    progress: _Tell | None = None,
) -> MixedPrecision:
    """Propose rules that meet a budget: layers to leave float, to widen, or to give another config.

    What a layer may get is asked of the quantizer: its `alternatives`, as far as its rows claim the layer with them.
    One sweep for each of these configs estimates the noise of all layers at once (see `sensitivity`). Changes are then
    made one by one, the best for its cost first; several at once where each promises too little to be told from chance.
    Each is measured on a model that is really prepared, calibrated and converted; what gains less than 0.02 dB is
    dropped. The figures of the proposal are those of its own model.

    The cost: for each config a calibration and `probes` backward passes, then at most `max_trials` times a calibration,
    a conversion and a run over the evaluation data.

    Args:
        model: An exported float model for inference. It is left as it is.
        quantizer: What it is quantized with; it is left as it is.
        data: Inputs as `calibrate` takes them; they are held in memory.
        budget: What to reach.
        evaluation: Inputs to measure on; None takes `data`.
        max_trials: How many changes are measured at most.
        probes: At least how many random vectors each estimate asks, over all batches.
        progress: Is told in words what is done.

    Raises:
        BudgetError: No rules that were tried reach the budget; its `closest` holds the best of them.
        RuleError: The quantizer is not made by a table.
        CalibrationError: There is no data, or no float output to compare.
        UnsupportedError: An op of the model has no derivative.
        QuantizerError: `prepare_pt2e` or `convert_pt2e` refuses the model or the quantizer.
    """
    tell = progress or (lambda _words: None)
    tell("running the float model")
    bench = Workbench.of(model, data, evaluation, budget.metric)
    tell("calibrating and measuring the quantized model")
    prepared, layers = bench.prepared(quantizer)
    before, errors = bench.measured(prepared)
    if budget.has_target and budget.reached(before):
        return MixedPrecision(
            quantizer=quantizer.copy(), rules=(), before=before, after=before, budget=budget, trials=1
        )
    tell("estimating what each layer costs")
    sweeps: dict[str, tuple[Source, ...]] = {"": bench.sources(prepared, layers, errors, probes)}
    available: dict[str, frozenset[int]] = {}
    configs = _configs(quantizer, layers)
    for name, chosen in configs.items():
        tell(f"estimating with {name}")
        found = _sweep(bench, with_rules(quantizer, layers, chosen), layers, chosen, errors, probes)
        if found is not None:
            sweeps[name], available[name] = found
    search = _Search(
        bench,
        quantizer,
        layers,
        configs,
        Estimate(sweeps, layers, available, _separate(layers, configs)),
        before,
        budget,
        tell,
    )
    search.run(max_trials)
    result = search.result()
    if not result.met:
        float_ = "" if budget.max_float_layers is None else f" with at most {budget.max_float_layers} float layers"
        raise BudgetError(
            f"no rules were found that reach {budget}: {before} without rules, {result.after} with "
            f"{len(result.rules)} rules{float_} after {result.trials} measured models; the exception's `closest` holds "
            "these. Calibrate with more data, allow more float layers or trials, or ask for less",
            result,
        )
    return result


def _share(sqnr: float) -> float:
    """Return noise as a share of the signal."""
    return float(10 ** (-sqnr / 10))


def _configs(quantizer: TableQuantizer, layers: Layers) -> dict[str, dict[int, QuantizationConfig]]:
    """Return the configs that layers may get instead of their own: by name, and by layer."""
    known: dict[QuantizationConfig, dict[str, QuantizationConfig]] = {}
    found: dict[str, dict[int, QuantizationConfig]] = {}
    for index, layer in enumerate(layers.layers):
        if layer.config is None or not layer.modules:
            continue
        if layer.config not in known:
            known[layer.config] = quantizer.alternatives(layer.config)
        for name, config in known[layer.config].items():
            found.setdefault(name, {})[index] = config
    return found


def _sweep(
    bench: Workbench,
    quantizer: TableQuantizer,
    layers: Layers,
    chosen: Mapping[int, QuantizationConfig],
    errors: Sequence[Sequence[torch.Tensor]],
    probes: int,
) -> tuple[tuple[Source, ...], frozenset[int]] | None:
    """Return the noise with a config for all layers, and which of them rows claim with it; None where none is."""
    try:
        prepared, found = bench.prepared(quantizer)
    except NothingAnnotatedError:
        return None
    at = {op: index for index, layer in enumerate(found.layers) for op in layer.ops}
    same = {at[layer.ops[0]]: index for index, layer in enumerate(layers.layers) if layer.ops[0] in at}
    available = frozenset(index for index in same.values() if index in chosen)
    if not available:
        return None
    sources = (
        dataclasses.replace(source, owners=tuple(same[owner] for owner in source.owners if owner in same))
        for source in bench.sources(prepared, found, errors, probes)
    )
    return tuple(sources), available


def _separate(layers: Layers, configs: Mapping[str, Mapping[int, QuantizationConfig]]) -> frozenset[str]:
    """Return the names of configs whose activations have other qparams than the layers' own, whatever the observer."""
    found = set()
    for name, chosen in configs.items():
        for index, config in chosen.items():
            own = layers.layers[index].config
            one, other = config.input_activation, None if own is None else own.input_activation
            if one is None or other is None or not same_qparams(one, other):
                found.add(name)
    return frozenset(found)


class _Search:
    """Makes changes one by one, and keeps those that measured figures justify."""

    def __init__(
        self,
        bench: Workbench,
        quantizer: TableQuantizer,
        layers: Layers,
        configs: Mapping[str, Mapping[int, QuantizationConfig]],
        estimate: Estimate,
        before: Figures,
        budget: Budget,
        tell: _Tell,
    ) -> None:
        self._bench, self._quantizer, self._layers, self._configs = bench, quantizer, layers, configs
        self._estimate, self._budget, self._tell = estimate, budget, tell
        self._before = self._after = before
        self._choice: dict[int, str] = {}
        self._best: TableQuantizer = quantizer.copy()
        self._rules: list[MixedRule] = []
        self._trials = 1
        self._together: dict[str, int] = {}  # how many layers may get a choice at once, where more were refused
        self._record: dict[str, tuple[float, float]] = {}

    def run(self, max_trials: int) -> None:
        """Go on until the budget's figures are reached, nothing is left to try, or trials are used up."""
        refused: set[Move] = set()
        kept_since = False
        for _ in range(max_trials):
            if self._budget.has_target and self._budget.reached(self._after):
                return
            most = self._budget.max_float_layers
            left = None if most is None else most - sum(choice == FLOAT for choice in self._choice.values())
            move, gain = self._next(left, refused)
            if move is None and kept_since and refused:
                refused, kept_since = set(), False  # beside what was kept meanwhile they may gain
                move, gain = self._next(left, refused)
            if move is None:
                return
            before = self._after
            if self._try(move):
                kept_since = True
            else:
                self._together[move.choice] = max(len(move.layers) // 2, 1)
                refused.add(move)
            promised, held = self._record.get(move.choice, (0.0, 0.0))
            self._record[move.choice] = (promised + gain, held + _share(before.sqnr) - _share(self._after.sqnr))

    def _next(self, float_left: int | None, refused: set[Move]) -> tuple[Move | None, float]:
        """Return the best change, and what it promises: one, or several of a kind where each is too little to see."""
        noise = _share(self._after.sqnr)
        least, seen = (noise * (1 - 10 ** (-gain / 10)) for gain in (_LEAST_GAIN, _SEEN_GAIN))
        rated = self._estimate.moves(self._choice, float_left=float_left, least=least, trust=self._trust)
        rated = [(move, gain) for move, gain in rated if move not in refused]
        if not rated:
            return None, 0.0
        (first, total), *rest = rated
        layers = first.layers
        for move, gain in rest:
            joined = (*layers, *move.layers)
            most = self._together.get(first.choice, len(joined))
            if first.choice == FLOAT and float_left is not None:
                most = min(most, float_left)
            if total >= seen or len(joined) > most:
                break
            if move.choice == first.choice and not set(move.layers) & set(layers):
                layers, total = joined, total + gain
        group = Move(tuple(sorted(layers)), first.choice)
        return (first, rated[0][1]) if group in refused else (group, total)

    def _trust(self, choice: str) -> float:
        """Return how much of what estimates promised for such a choice was kept so far."""
        promised, held = self._record.get(choice, (0.0, 0.0))
        start = _DOUBT * _share(self._before.sqnr)
        return (start + max(held, 0.0)) / (start + promised)

    def _try(self, move: Move) -> bool:
        choice = {**self._choice, **dict.fromkeys(move.layers, move.choice)}
        quantizer = with_rules(
            self._quantizer, self._layers, {index: self._config(index, name) for index, name in choice.items()}
        )
        modules = tuple(module for index in move.layers for module in self._layers.layers[index].modules)
        try:
            figures = self._bench.trial(quantizer)
        except NothingAnnotatedError:  # all of it would be float
            return False
        self._trials += 1
        gain = figures.sqnr - self._after.sqnr
        one, other = figures.accuracy, self._after.accuracy
        kept = gain >= _LEAST_GAIN or (one is not None and other is not None and one > other)
        words = f"{', '.join(modules)}: {move.choice}: {figures} ({gain:+.2f} dB){'' if kept else ', dropped'}"
        self._tell(words)
        if not kept:
            return False
        self._choice, self._best, self._after = choice, quantizer, figures
        self._rules.append(
            MixedRule(
                layers=tuple(self._layers.layers[index].name for index in move.layers),
                modules=modules,
                choice=move.choice,
                configs=tuple(self._config(index, move.choice) for index in move.layers),
                figures=figures,
                gain=gain,
            )
        )
        return True

    def _config(self, index: int, choice: str) -> QuantizationConfig | None:
        return None if choice == FLOAT else self._configs[choice][index]

    def result(self) -> MixedPrecision:
        return MixedPrecision(
            quantizer=self._best,
            rules=tuple(self._rules),
            before=self._before,
            after=self._after,
            budget=self._budget,
            trials=self._trials,
        )
