"""The plain quantizer to be no worse than: min-max, 8 bits, one scale a tensor, on everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.conformance.program import ProgramModule, Ref

__all__ = ["DEFICIT_DB", "Closeness", "baseline_codes", "plain_dynamic"]

DEFICIT_DB = 3.0
"""By how much a quantizer may be noisier than the plain one."""


@dataclass(slots=True)
class Closeness:
    """Sums of squares of a float model's results and of the errors of two quantized ones.

    Attributes:
        signal: Of the results.
        noise: Of the errors of the quantizer in question.
        plain: Of those of the plain quantizer.
        elements: How many results there were.
    """

    signal: float = 0.0
    noise: float = 0.0
    plain: float = 0.0
    elements: int = 0

    def add(self, wanted: Tensor, found: Tensor, simple: Tensor) -> None:
        """Take a result of the float model, of the quantizer and of the plain one."""
        reference = wanted.double()
        self.signal += float(reference.square().sum())
        self.noise += float((found.double() - reference).square().sum())
        self.plain += float((simple.double() - reference).square().sum())
        self.elements += reference.numel()

    @property
    def sqnr_db(self) -> float:
        """The quantizer's signal-to-noise ratio."""
        return self._decibels(self.noise)

    @property
    def baseline_db(self) -> float:
        """That of the plain one."""
        return self._decibels(self.plain)

    @property
    def allowed_db(self) -> float:
        """By how much the former may be below the latter: `DEFICIT_DB`, and what chance does to so few elements.

        The standard deviation of their noise is about sqrt(2/n) of it, on either side.
        """
        return DEFICIT_DB + 10 * math.log10(1 + 4 * math.sqrt(2 / max(1, self.elements)))

    @property
    def falls_short(self) -> bool:
        """Whether it is below by more."""
        return self.sqnr_db < self.baseline_db - self.allowed_db

    def numbers(self) -> dict[str, Any]:
        """Return the figures by the names that reports know."""
        return {
            "sqnr_db": round(self.sqnr_db, 2),
            "baseline_db": round(self.baseline_db, 2),
            "values": self.elements,
            "allowed_db": round(self.allowed_db, 2),
        }

    def _decibels(self, noise: float) -> float:
        if noise == 0.0:
            return 200.0
        return 10 * math.log10(self.signal / noise) if self.signal else -200.0


def baseline_codes(
    module: ProgramModule, batches: Sequence[Sequence[Tensor]], batch: Sequence[Tensor], weight_bits: int = 8
) -> list[Tensor]:
    """Return the module's results on a batch with inputs, weights and last results rounded to 8 bits.

    Args:
        module: The float module.
        batches: What ranges are taken of.
        batch: What to run on.
        weight_bits: To how many bits weights are rounded instead.
    """
    with torch.no_grad():
        ranges = [_joined([one[place] for one in batches]) for place in range(len(batch))]
        rounded = [_rounded(tensor, *ends) for tensor, ends in zip(batch, ranges, strict=True)]
        plain = module.program
        parameters = [getattr(module, f"p{place}") for place in range(len(plain.parameters))]
        results = plain._run([tensor.clone() for tensor in rounded], _plain_weights(module, weight_bits), {})
        wanted = [plain._run([tensor.clone() for tensor in one], parameters, {}) for one in batches]
        outputs = []
        for place, result in enumerate(results):
            outputs.append(_rounded(result, *_joined([one[place] for one in wanted])))
    return outputs


def plain_dynamic(module: ProgramModule, x: Tensor, own: tuple[int, ...], weight_bits: int) -> Tensor:
    """Return the module's result on an input of which each row is rounded to 8 bits over its own range.

    Args:
        module: The float module, of one input.
        x: The input.
        own: Its axes that have a range for each index.
        weight_bits: To how many bits weights are rounded, min-max, one scale a tensor.
    """
    others = [axis for axis in range(x.dim()) if axis not in own]
    rounded = _rounded(x, x.amin(others, keepdim=True), x.amax(others, keepdim=True))
    with torch.no_grad():
        return module.program._run([rounded], _plain_weights(module, weight_bits), {})[0]


def _plain_weights(module: ProgramModule, bits: int) -> list[Tensor]:
    """Return a module's parameters, all but biases rounded."""
    program = module.program
    parameters = [getattr(module, f"p{place}").detach() for place in range(len(program.parameters))]
    biases = {ref.index for call in program.calls for ref in _biases(call.target, call.args)}
    steps = 2**bits - 1
    return [p if place in biases else _rounded(p, p.min(), p.max(), steps) for place, p in enumerate(parameters)]


def _biases(target: torch._ops.OpOverload, args: Sequence[object]) -> list[Ref]:
    names = [argument.name for argument in target._schema.arguments]
    addmm = "addmm" in str(target)
    return [
        value
        for name, value in zip(names, args, strict=False)
        if isinstance(value, Ref) and value.kind == "p" and (name == "bias" or (addmm and name == "self"))
    ]


def _joined(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack([t.min() for t in tensors]).min(), torch.stack([t.max() for t in tensors]).max()


def _rounded(tensor: Tensor, low: Tensor, high: Tensor, steps: int = 255) -> Tensor:
    """Round to the ends of so many steps over [low, high] and 0."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / steps).clamp(min=1e-12)
    zero = torch.round(-low / scale)
    return (torch.clamp(torch.round(tensor / scale) + zero, 0, steps) - zero) * scale
