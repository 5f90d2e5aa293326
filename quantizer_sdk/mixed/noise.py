"""How much noise each point of rounding adds to a model's outputs, for all points in one sweep.

A small error e at one point changes the outputs by J·e, where J is their derivative there. With the outputs' own error
d the product d·J·e says how much of d this point makes, together with all others; for vectors v of random signs the
mean of (v·J·e)² is |J·e|² (Hutchinson 1990), what it makes alone. One backward pass gives v·J for all points of the
model. So a sweep costs one forward and some backward passes of the rounded model, whatever the number of layers; what
it says is of first order: right where noise is small, and a good order to try things in where it is not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.batches import run_batch
from quantizer_sdk.constants import constant_nodes
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.dtypes import is_cast
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.fake_quantize.function import fake_quantize
from quantizer_sdk.mixed.layers import Layers
from quantizer_sdk.mixed.outputs import Reference, float_outputs
from quantizer_sdk.model_copy import compile_when_called, copy_model
from quantizer_sdk.observers.create import is_observer, is_observer_call
from quantizer_sdk.passes.observer_qparams import granularity_of_observer

__all__ = ["Source", "sweep"]

_Key = tuple[tuple[int, ...], bool]
"""The layers that want a point, and whether it is a constant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One or several points at which the same layers round.

    Attributes:
        owners: Indexes of the layers that want it, the one whose spec rules first: it is gone when none of them does.
        constant: Whether they are constants, such as weights.
        aligned: d·J·e: its part of the noise in the outputs, as a share of the signal; negative where its error makes
            up for that of others.
        effect: v·J·e of each random vector, float64 [vectors], so scaled that the sum of its squares is the noise that
            it makes alone. The vectors are the same in all sweeps over the same batches, so that those of several
            sources add up.
    """

    owners: tuple[int, ...]
    constant: bool
    aligned: float
    effect: np.ndarray


class _Tap(nn.Module):
    """Stands where an observer watches: rounds as it wants, with a gradient as if it did not, and keeps the error.

    What rounding does to a value depends on the errors that are in it already: so all points round.
    """

    def __init__(self, observer: Any) -> None:
        super().__init__()
        self.__dict__["observer"] = observer  # outside of the module tree, where it stays what it is
        self.errors: list[torch.Tensor] = []
        self.leaves: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, *, seen: bool = False) -> torch.Tensor:
        if seen:  # the error came with the values
            return x
        error = _error(self.__dict__["observer"], x.detach())
        leaf = torch.zeros_like(x, requires_grad=True)
        self.errors.append(error)
        self.leaves.append(leaf)
        return x + error + leaf

    def take(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = list(zip(self.errors, self.leaves, strict=True))
        self.errors, self.leaves = [], []
        return found


@torch.no_grad()
def _error(observer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what rounding as an observer wants it adds to a tensor."""
    if observer.dtype in (torch.float32, x.dtype):
        return torch.zeros_like(x)
    if is_cast(observer.dtype):
        return x.to(observer.dtype).to(x.dtype) - x
    scale, zero_point = (
        observer.qparams_of(x) if getattr(observer, "is_dynamic", False) else observer.calculate_qparams()
    )
    rounded = fake_quantize(
        x,
        scale.to(torch.float32),
        zero_point.to(torch.int32),
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
        granularity=granularity_of_observer(observer),
        dtype=observer.dtype,
    )
    return rounded - x


def sweep(
    prepared: GraphModule,
    layers: Layers,
    batches: Sequence[Any],
    reference: Reference,
    errors: Sequence[Sequence[torch.Tensor]],
    *,
    probes: int = 32,
) -> tuple[Source, ...]:
    """Return the noise of all points, by the layers that want them.

    Args:
        prepared: A calibrated model; it stays as it is.
        layers: Its layers.
        batches: The samples.
        reference: The float model's outputs for them.
        errors: How far a quantized model's outputs are from these, for each batch.
        probes: At least how many random vectors to ask, over all batches; each costs one backward pass.

    Raises:
        UnsupportedError: An op of the model has no derivative.
    """
    model = copy_model(prepared, shared=is_observer)
    taps: dict[_Tap, _Key] = {}
    for _path, graph in graphs_of(model):
        taps.update(_tap(graph, layers))
    each = max(1, math.ceil(probes / max(1, len(batches))))
    generator = torch.Generator().manual_seed(0)
    aligned: dict[_Key, float] = defaultdict(float)
    effects: dict[_Key, np.ndarray] = defaultdict(lambda: np.zeros(each * len(batches)))
    for index, (batch, error) in enumerate(zip(batches, errors, strict=True)):
        with torch.enable_grad():
            every = float_outputs(run_batch(model, batch, index))
        found = [(key, error, leaf) for tap, key in taps.items() for error, leaf in tap.take()]
        known = [it for it in zip(every, reference.weights, error, strict=True) if it[0].requires_grad]
        if not known:
            raise UnsupportedError("the noise of layers is found by derivatives, but no float output has one by any")
        outputs = [value for value, _weight, _error in known]
        for key, value in _products(outputs, [own * weight**2 for _value, weight, own in known], found).items():
            aligned[key] += value
        for probe in range(each):
            vectors = [_signs(value, generator) * weight for value, weight, _error in known]
            for key, value in _products(outputs, vectors, found).items():
                effects[key][index * each + probe] += value / each**0.5
    return tuple(
        Source(owners=key[0], constant=key[1], aligned=aligned[key], effect=effect) for key, effect in effects.items()
    )


def _tap(graph: GraphModule, layers: Layers) -> dict[_Tap, _Key]:
    """Put taps in the place of a graph's observers; return whose they are and whether they watch constants."""
    taps = {}
    modules = dict(graph.named_modules())
    constants = constant_nodes(graph.graph)
    calls = [node for node in graph.graph.nodes if is_observer_call(node, modules)]
    for number, call in enumerate(calls):
        tensor, observer = call.all_input_nodes[0], modules[str(call.target)]
        while is_observer_call(tensor, modules) or tensor.op == "call_module":
            tensor = tensor.all_input_nodes[0]
        tap = _Tap(observer)
        name = f"quantizer_sdk_tap_{number}"
        graph.add_module(name, tap)
        owners = layers.owners(observer, tensor.name, [user.name for user in call.users])
        taps[tap] = (owners, tensor in constants)
        call.target = name
    compile_when_called(graph)
    return taps


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return signs.to(like)


def _products(
    outputs: Sequence[torch.Tensor],
    vectors: Sequence[torch.Tensor],
    found: Sequence[tuple[_Key, torch.Tensor, torch.Tensor]],
) -> dict[_Key, float]:
    """Return v·J·e, added up over the points of the same layers."""
    leaves = [leaf for _key, _error, leaf in found]
    try:
        gradients = torch.autograd.grad(outputs, leaves, vectors, retain_graph=True, allow_unused=True)
    except (RuntimeError, NotImplementedError) as e:
        reason = str(e).split("\n")[0]
        raise UnsupportedError(
            f"the noise of the layers is found by derivatives, but an op of the model has none: {reason}"
        ) from e
    products: dict[_Key, float] = {}
    for (key, error, _leaf), gradient in zip(found, gradients, strict=True):
        if gradient is not None:
            products[key] = products.get(key, 0.0) + float((gradient * error).sum(dtype=torch.float64))
    return products
