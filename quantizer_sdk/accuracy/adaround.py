"""Round weights so that layers' results stay close, instead of each to its nearest code.

AdaRound (Nagel et al. 2020, arXiv:2004.10568), layer by layer: each is fitted to what the float model has behind its
activation, with operands as the quantized model has them behind layers that are rounded already. Choices that do not
help on rows that they were not made with are dropped.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.accuracy.abreast import AbreastRun
from quantizer_sdk.accuracy.channel_weights import groups_of
from quantizer_sdk.accuracy.layer_samples import SAMPLED, activation_behind, operands_at, places, results_at
from quantizer_sdk.accuracy.quantized_layers import give_constant, names_of, rounded_layers
from quantizer_sdk.accuracy.rounding import Reconstruction, chosen_codes
from quantizer_sdk.accuracy.weight_grid import WeightGrid, grid_of_weight, keeps_scale
from quantizer_sdk.batches import Progress, positional_inputs
from quantizer_sdk.calibration import calibrate
from quantizer_sdk.constants import Constants
from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.passes.observer_qparams import granularity_of_observer
from quantizer_sdk.quantize_pt2e import convert_pt2e, prepare_pt2e, tidy
from quantizer_sdk.quantizer import QuantizerLike

__all__ = ["NotRoundedWarning", "adaround"]

_HELD_OUT = 4  # one row of so many is not learned from


class NotRoundedWarning(UserWarning):
    """A quantized layer's weight is rounded to nearest, as without `adaround`."""


def adaround(
    model: GraphModule,
    quantizer: QuantizerLike,
    batches: Iterable[Any],
    *,
    iterations: int = 100,
    samples: int = 1024,
    seed: int = 0,
    progress: Progress | None = None,
) -> GraphModule:
    """Return a float model whose weights lie on the codes that suit the layers' results best.

    `prepare_pt2e` and `convert_pt2e` with the same quantizer then choose exactly these codes: the largest weight of
    each scale stays as it is, and so the scale. Use it before `bias_correction`, behind all other tools. One pass over
    the graph, all batches abreast: memory is that of the activations that are alive at one place, for all batches,
    twice.

    Args:
        model: An exported float model for inference. It is left as it is.
        quantizer: What the model will be quantized with.
        batches: Inputs as `calibrate` takes them; they are held in memory. Some dozens of samples do.
        iterations: Steps of optimization for each layer.
        samples: Places of each layer's result that are looked at, in all batches together; a quarter of them only
            judges.
        seed: Of the places and their order; the same seed gives the same codes.
        progress: Wraps the layers to show progress, such as `tqdm.tqdm`.

    Returns:
        The model with batch norms folded and rounded weights.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        InvalidSpecError: `iterations` or `samples` is below 1.
        QuantizerError: `prepare_pt2e` or `convert_pt2e` refuses the model or the quantizer.

    Warns:
        NotRoundedWarning: A quantized layer has another form than in the given model; or its weight a zero point, or an
            observer that would choose another scale for what is rounded already, such as one that cuts ranges.
    """
    if iterations < 1 or samples < 1:
        message = f"iterations={iterations}, samples={samples}; both must be at least 1"
        raise InvalidSpecError(message)
    batches = list(batches)
    result = tidy(model)
    prepared = prepare_pt2e(result, quantizer)
    observers = _observers_of_weights(prepared)  # before calibration: they have seen nothing yet
    calibrate(prepared, batches)
    quantized = convert_pt2e(prepared)
    layers, others = rounded_layers(result, quantized)
    constants, floats = Constants(quantized), Constants(result)
    grids: dict[Node, WeightGrid] = {}
    for node, layer in layers.items():
        grid = _grid(constants, node, floats.read(argument(layer, "weight")).detach(), observers.get(node.name))
        if grid is None:
            others.append(node)
        else:
            grids[node] = grid
    inputs = [positional_inputs(result, batch, index) for index, batch in enumerate(batches)]
    fitting = _Fitting(result, floats, quantized, layers, grids, _Settings(iterations, samples, seed))
    with torch.no_grad():
        rounded = fitting.run(inputs, progress)
    others += _write(floats, layers, rounded, observers)
    if others:
        message = (
            f"the weights of {len(others)} quantized layers are rounded to nearest: the given model has them in "
            "another form, they are transposed, have a zero point, or an observer that would choose another scale for "
            f"what is rounded already. {names_of(others)}"
        )
        warnings.warn(message, NotRoundedWarning, stacklevel=2)
    result.graph.lint()
    result.recompile()
    return result


@dataclass(frozen=True, slots=True)
class _Settings:
    iterations: int
    samples: int
    seed: int


def _observers_of_weights(prepared: GraphModule) -> dict[str, nn.Module]:
    """Return fresh copies of the observers of layers' weights, by the layers' names."""
    modules = dict(prepared.named_modules())
    found = {}
    for node in prepared.graph.nodes:
        weight = argument(node, "weight") if node.target in SAMPLED else None
        if isinstance(weight, Node) and is_observer_call(weight, modules):
            found[node.name] = copy.deepcopy(modules[str(weight.target)])
    return found


def _grid(constants: Constants, node: Node, weight: torch.Tensor, observer: nn.Module | None) -> WeightGrid | None:
    """Return the codes for a layer's weight; None where it is not known as a product, or they are of another kind."""
    if observer is None or node.target not in SAMPLED:
        return None
    return grid_of_weight(constants, argument(node, "weight"), weight, granularity_of_observer(observer))


class _Fitting:
    """The pass over both graphs.

    Args:
        model: The float model.
        constants: Its constants.
        quantized: The converted one.
        layers: Layers of the float model by those of the converted one.
        grids: The codes for the weights of those to round.
        settings: How.
    """

    def __init__(
        self,
        model: GraphModule,
        constants: Constants,
        quantized: GraphModule,
        layers: Mapping[Node, Node],
        grids: Mapping[Node, WeightGrid],
        settings: _Settings,
    ) -> None:
        self._model = model
        self._constants = constants
        self._quantized = quantized
        self._layers = layers
        self._grids = grids
        self._settings = settings

    def run(self, inputs: Sequence[tuple[Any, ...]], progress: Progress | None) -> dict[Node, torch.Tensor]:
        """Return the rounded weights of the converted model's layers; calls that share one get one."""
        floats = _Watched(AbreastRun(self._model, inputs), {self._layers[node] for node in self._grids})
        run = AbreastRun(self._quantized, inputs)
        stream = iter(run)
        by_target: dict[str, torch.Tensor] = {}
        found: dict[Node, torch.Tensor] = {}
        ordered = [node for node in self._quantized.graph.nodes if node in self._grids]
        for index, node in enumerate(ordered if progress is None else progress(ordered)):
            values = next(values for current, values in stream if current is node)
            layer, grid = self._layers[node], self._grids[node]
            target = str(argument(layer, "weight").target)
            wanted = floats.values(layer)
            if target not in by_target:
                generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + index)
                problem, owners = self._problem(node, run.operands(argument(node, "input")), wanted, generator)
                by_target[target] = grid.weight_of(_fit(problem, owners, grid, self._settings.iterations, generator))
            found[node] = by_target[target]
            weight: Node = argument(node, "weight")
            like = run.operands(weight)[0]
            values[:] = run.again(node, weight, found[node].to(like))
        return found

    def _problem(
        self, node: Node, operands: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], generator: torch.Generator
    ) -> tuple[Reconstruction, torch.Tensor]:
        """Return a layer's problem at a sample of places, and which batch each of them is of."""
        layer, grid = self._layers[node], self._grids[node]
        each = max(1, -(-self._settings.samples // len(operands)))
        where = [places(layer, value, each, generator) for value in wanted]
        rows = [operands_at(layer, value, grid.weight, at) for value, at in zip(operands, where, strict=True)]
        activation, bias = activation_behind(layer), argument(layer, "bias")
        targets = [results_at(layer, value, at) for value, at in zip(wanted, where, strict=True)]
        matrices = grid.by_groups(groups_of(layer))
        problem = Reconstruction(
            operand=torch.cat(rows, 1).float(),
            target=activation(torch.cat(targets).float()),
            weight=matrices.weight / matrices.scale,
            scale=matrices.scale,
            nearest=matrices.nearest,
            low=matrices.low,
            high=matrices.high,
            bias=0.0 if bias is None else self._constants.read(bias).detach().float(),
            activation=activation,
        )
        owners = torch.cat([torch.full((len(at),), index) for index, at in enumerate(where)])
        return problem, owners


class _Watched:
    """Values of some nodes of a run, which goes on as far as they are asked for."""

    def __init__(self, run: AbreastRun, wanted: set[Node]) -> None:
        self._stream = iter(run)
        self._wanted = wanted
        self._seen: dict[Node, list[Any]] = {}

    def values(self, node: Node) -> list[Any]:
        """Return a node's value for each input, once."""
        while node not in self._seen:
            current, values = next(self._stream)
            if current in self._wanted:
                self._seen[current] = list(values)
        return self._seen.pop(node)


def _fit(
    problem: Reconstruction, owners: torch.Tensor, grid: WeightGrid, iterations: int, generator: torch.Generator
) -> torch.Tensor:
    """Return a weight's codes: for each output channel those chosen, if they help on rows that did not choose."""
    count = len(owners)
    batches = int(owners.max()) + 1
    order = owners if batches >= _HELD_OUT else torch.randperm(count, generator=generator)
    judging = order % _HELD_OUT == _HELD_OUT - 1
    learning, judged = (
        torch.nonzero(it)[:, 0] if bool(it.any()) else torch.arange(count) for it in (~judging, judging)
    )
    codes = chosen_codes(problem, learning, iterations, generator)
    groups, _inputs, outputs = codes.shape
    better = problem.error(codes, judged) < problem.error(problem.nearest, judged)
    kept = torch.where(better.reshape(groups, 1, outputs), codes, problem.nearest)
    return kept.mT.reshape(grid.weight.shape)


def _write(
    constants: Constants,
    layers: Mapping[Node, Node],
    rounded: Mapping[Node, torch.Tensor],
    observers: Mapping[str, nn.Module],
) -> list[Node]:
    """Give layers their rounded weights; return those whose observer would choose another scale for them."""
    refused = []
    written: dict[str, str] = {}
    for node, weight in rounded.items():
        layer = layers[node]
        old: Node = argument(layer, "weight")
        target = str(old.target)
        typed = weight.to(constants.read(old).dtype)
        if not keeps_scale(observers[node.name], constants.read(old).detach(), typed):
            refused.append(node)
        elif target in written:
            replace_argument(layer, "weight", None)
            constants.release(old)
            with layer.graph.inserting_before(layer):
                replace_argument(layer, "weight", constants.again(written[target], like=old))
        else:
            give_constant(constants, layer, "weight", typed, f"{target}_rounded")
            written[target] = str(argument(layer, "weight").target)
    return refused
