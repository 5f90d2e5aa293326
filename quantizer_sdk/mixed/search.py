"""The order in which changes to layers are tried: by the estimated noise that they take away, over what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantizer_sdk.mixed.layers import Layers
from quantizer_sdk.mixed.noise import Source

__all__ = ["FLOAT", "Estimate", "Move"]

FLOAT = "float"
_OWN = ""
_FLOAT_COST, _OTHER_COST = 1.0, 0.25  # another range or width keeps a layer on integer kernels
_TOGETHER = 4  # layers at most that are left float at once, for the tensors that all of them want rounded


@dataclass(frozen=True, slots=True)
class Move:
    """A change: layers, by index, and what they get, FLOAT or the name of a config."""

    layers: tuple[int, ...]
    choice: str


class Estimate:
    """What the noise in the outputs comes to for any choice for each layer, of first order.

    Args:
        sweeps: The noise of all points, by the name of the config that all layers had; "" for their own.
        layers: The layers; those that no module name tells are never changed.
        available: For each name the layers that rows still claim with that config.
        separate: The names of configs whose activations share no qparams with those of a layer's own config.
    """

    def __init__(
        self,
        sweeps: Mapping[str, Sequence[Source]],
        layers: Layers,
        available: Mapping[str, frozenset[int]],
        separate: frozenset[str] = frozenset(),
    ) -> None:
        self._touching: dict[int, list[tuple[str, Source]]] = defaultdict(list)
        for name, sources in sweeps.items():
            for source in sources:
                for owner in source.owners:
                    self._touching[owner].append((name, source))
        self._changeable = frozenset(index for index, layer in enumerate(layers.layers) if layer.modules)
        self._available = available
        self._separate = separate
        clusters = {cluster for cluster in layers.clusters if 1 < len(cluster) <= _TOGETHER}
        self._joint = clusters | {
            frozenset(source.owners) for source in sweeps[_OWN] if 1 < len(source.owners) <= _TOGETHER
        }
        self._never_alone = frozenset(layer for cluster in clusters for layer in cluster)

    def gain(self, choice: Mapping[int, str], move: Move) -> float:
        """Return the noise that a change takes away, as a share of the signal.

        The outputs' error d becomes d - D, D being the effects that went less those that came: |d - D|² - |d|² is
        |D|² - 2·d·D.
        """
        _aligned, effect = self._gone({}, choice, choice)
        more, further = self._gone(choice, {**choice, **dict.fromkeys(move.layers, move.choice)}, move.layers)
        return 2 * more - float(np.square(effect + further).sum() - np.square(effect).sum())

    def _gone(
        self, before: Mapping[int, str], after: Mapping[int, str], layers: Iterable[int]
    ) -> tuple[float, np.ndarray]:
        """Return d·D and the effects D of what goes less what comes where these layers change."""
        touched = {id(source): (name, source) for layer in layers for name, source in self._touching[layer]}
        aligned, effect = 0.0, np.zeros(1)
        for name, source in touched.values():
            sign = self._is_there(name, source, before) - self._is_there(name, source, after)
            if sign:
                aligned, effect = aligned + sign * source.aligned, effect + sign * source.effect
        return aligned, effect

    def moves(
        self, choice: Mapping[int, str], *, float_left: int | None, least: float, trust: Callable[[str], float]
    ) -> list[tuple[Move, float]]:
        """Return changes that take noise away, with how much, the best for its cost first.

        Args:
            choice: What layers have that were changed already.
            float_left: How many more layers may be left float; None for any number.
            least: How much they must take away, as a share of the signal.
            trust: Returns how much of an estimate for such a choice to believe.
        """
        rated = []
        for move in self._possible(choice):
            new = [layer for layer in move.layers if choice.get(layer) != move.choice]
            if move.choice == FLOAT and float_left is not None and len(new) > float_left:
                continue
            gain = self.gain(choice, move)
            if gain >= least:
                cost = (_FLOAT_COST if move.choice == FLOAT else _OTHER_COST) * len(new)
                rated.append((gain / cost * trust(move.choice), move, gain))
        rated.sort(key=lambda item: -item[0])
        return [(move, gain) for _rate, move, gain in rated]

    def _possible(self, choice: Mapping[int, str]) -> Iterator[Move]:
        for index in sorted(self._changeable):
            if choice.get(index, _OWN) == FLOAT:
                continue
            if index not in self._never_alone:
                yield Move((index,), FLOAT)
            for name, where in self._available.items():
                if index in where and choice.get(index) != name:
                    yield Move((index,), name)
        for layers in self._joint:
            left = sorted(layer for layer in layers if choice.get(layer) != FLOAT)
            if len(left) > 1 and layers <= self._changeable:
                yield Move(tuple(left), FLOAT)
                for name, where in self._available.items():
                    if name in self._separate and where.issuperset(left):
                        yield Move(tuple(left), name)

    def _is_there(self, name: str, source: Source, choice: Mapping[int, str]) -> bool:
        """Whether a point is rounded as in the sweep of this name.

        Layers whose configs share qparams round it once, as the first of them wants that is not float; others for
        themselves.
        """
        chosen = [own for owner in source.owners if (own := choice.get(owner, _OWN)) != FLOAT]
        if name in self._separate:
            return name in chosen
        sharing = [own for own in chosen if own not in self._separate]
        return bool(sharing) and sharing[0] == name
