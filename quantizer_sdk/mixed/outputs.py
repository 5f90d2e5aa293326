"""What a model's float outputs are, and how far another model's are from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from quantizer_sdk.batches import run_batch
from quantizer_sdk.decibels import to_db
from quantizer_sdk.errors import CalibrationError

__all__ = ["Reference", "float_outputs"]


def float_outputs(outputs: Any) -> list[torch.Tensor]:
    """Return the float tensors among a model's outputs, in order."""
    return [value for value in tree_leaves(outputs) if isinstance(value, torch.Tensor) and value.is_floating_point()]


@dataclass(frozen=True, slots=True)
class Reference:
    """The outputs of the float model for some batches.

    Attributes:
        outputs: For each batch its float outputs.
        weights: For each output the number to multiply its errors with, so that their squares add up to noise over
            signal, averaged over the outputs.
    """

    outputs: tuple[tuple[torch.Tensor, ...], ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, model: GraphModule, batches: Sequence[Any]) -> Reference:
        """Run the float model.

        Raises:
            CalibrationError: There are no batches, or no float outputs to compare.
        """
        with torch.no_grad():
            outputs = tuple(tuple(float_outputs(run_batch(model, batch, index))) for index, batch in enumerate(batches))
        if not outputs or not outputs[0]:
            what = "there are no batches" if not outputs else "the model has no float output"
            raise CalibrationError(f"{what}, so that there is nothing to compare the quantized model with")
        signals = [sum(float(value.double().square().sum()) for value in found) for found in zip(*outputs, strict=True)]
        count = len(signals)
        return cls(outputs, tuple((1 / signal / count) ** 0.5 if signal > 0 else 0.0 for signal in signals))

    def errors(self, model: GraphModule, batches: Sequence[Any]) -> list[list[torch.Tensor]]:
        """Return how far another model's outputs are from these, for each batch."""
        with torch.no_grad():
            return [
                [
                    other - one
                    for one, other in zip(expected, float_outputs(run_batch(model, batch, index)), strict=True)
                ]
                for index, (batch, expected) in enumerate(zip(batches, self.outputs, strict=True))
            ]

    def noise(self, errors: Sequence[Sequence[torch.Tensor]]) -> float:
        """Return the noise in such errors over the signal, averaged over the outputs."""
        return sum(
            float(error.double().square().sum()) * weight * weight
            for found in errors
            for error, weight in zip(found, self.weights, strict=True)
        )

    def sqnr(self, errors: Sequence[Sequence[torch.Tensor]]) -> float:
        """Return the same in dB."""
        return to_db(1.0, self.noise(errors))
