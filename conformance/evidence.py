"""What shows a numeric defect: one quantize of a graph, integer inputs, the codes found there, and the right ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk import Backend
from quantizer_sdk.backend import Executable
from quantizer_sdk.conformance.bench import graph_codes, named_codes, tap
from quantizer_sdk.conformance.bounds import Traced
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.conformance.oracle import Site, run_oracle

__all__ = ["Evidence", "Probe"]

_BY_PROFILE = frozenset({"K1", "K3"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Codes at one quantize, and those that are right.

    Attributes:
        model: The converted graph.
        inputs: The codes of each of its inputs.
        node: The name of the quantize.
        codes: By name, the codes found at every quantize, those of the inputs among them.
        expected: int64 codes that are right.
        low: The smallest that is right too, elementwise: next to a tie there may be two.
        high: The largest.
        r: The exact value / scale of the worst element.
        place: Where that element stands.
    """

    model: GraphModule
    inputs: tuple[Tensor, ...]
    node: str
    codes: Mapping[str, Tensor]
    expected: Tensor
    low: Tensor
    high: Tensor
    r: Fraction
    place: tuple[int, ...]

    @property
    def actual(self) -> Tensor:
        """The int64 codes found."""
        return self.codes[self.node].to(torch.int64)

    @property
    def wrong(self) -> int:
        """How many codes are not right."""
        return int(((self.actual < self.low) | (self.actual > self.high)).sum())


class Probe:
    """A converted graph on which one check's codes are looked at, for any integer inputs.

    Args:
        model: The graph.
        backend: Whose kernels or graphs are looked at.
        check: The check: those of level L3 look at kernels, all others at the eager graph.
        examples: Float inputs to lower the graph with.
        strict: Whether only the exact code is right, even next to a tie.
    """

    def __init__(
        self, model: GraphModule, backend: Backend, check: str, examples: Sequence[Tensor], *, strict: bool = False
    ) -> None:
        self.model = model
        self._backend = backend
        self._check = check
        self._examples = list(examples)
        self._strict = strict

    @functools.cached_property
    def _executable(self) -> Executable:
        return self._backend.lower(tap(self.model), self._examples, integer_io=True)

    def look(self, inputs: Sequence[Tensor]) -> tuple[Evidence, ...]:
        """Return what is found at each quantize, in graph order: every op is judged on the codes before it.

        Raises:
            LoweringError: The graph cannot be lowered, loaded or run.
            UnsupportedError: An op has no exact form.
        """
        kernels = self._check.startswith("K") and self._backend.runner is not None
        codes = named_codes(self.model, self._executable.run(*inputs)) if kernels else graph_codes(self.model, inputs)
        known = dict(codes)
        for node, given in zip(self.model.graph.find_nodes(op="placeholder"), inputs, strict=True):
            known |= {user.name: given for user in node.users}
        sites = run_oracle(self.model, inputs, self._backend.profile, codes).sites
        seen = (site for site in sites if site.requantized.expected.numel())
        return tuple(self._evidence(site, tuple(inputs), known, kernels) for site in seen)

    def _evidence(self, site: Site, inputs: tuple[Tensor, ...], codes: dict[str, Tensor], kernels: bool) -> Evidence:
        expected, low, high = self._right(site, kernels)
        actual = codes[site.node].to(torch.int64)
        worst = (low - actual).clamp(min=0) + (actual - high).clamp(min=0)
        flat = int(worst.argmax()) if worst.any() else int(site.requantized.half_distance.argmin())
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), expected.shape))
        return Evidence(
            model=self.model,
            inputs=inputs,
            node=site.node,
            codes=codes,
            expected=expected,
            low=low,
            high=high,
            r=_exactly(site, place),
            place=place,
        )

    def _right(self, site: Site, kernels: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the right codes, the least and the largest that are right too."""
        target, profile = site.requantized, self._backend.profile
        predicted = None
        if kernels and self._check in _BY_PROFILE and profile is not None:
            predicted = emulate(site, profile)
        if self._check == "K1" and predicted is not None:
            return (predicted,) * 3
        delta = site.kernel_delta if kernels else site.graph_delta
        near = (target.half_distance <= delta) & (delta > 0) & (not self._strict)
        ends = target.quant_min - target.zero_point, target.quant_max - target.zero_point
        below = torch.ceil(target.r - delta - 0.5).clamp(*ends).to(torch.int64) + target.zero_point
        above = torch.floor(target.r + delta + 0.5).clamp(*ends).to(torch.int64) + target.zero_point
        low = torch.where(near, torch.minimum(below, target.expected), target.expected)
        high = torch.where(near, torch.maximum(above, target.expected), target.expected)
        if predicted is None:
            return target.expected, low, high
        tie = target.half_distance == 0
        return tuple(torch.where(tie, predicted, codes) for codes in (target.expected, low, high))  # type: ignore[return-value]


def _exactly(site: Site, place: tuple[int, ...]) -> Fraction:
    """Return an element's exact value over the scale."""
    value: Traced = site.value
    total = sum(
        (int(term.values[place]) * term.scales[int(term.which[place])] for term in value.exact.terms), Fraction(0)
    )
    for low, high in value.exact.clamps:
        total = total if low is None else max(total, low)
        total = total if high is None else min(total, high)
    return total / site.requantized.scale
