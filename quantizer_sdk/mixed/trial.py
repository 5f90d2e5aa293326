"""The real thing: a model is prepared, calibrated, converted and measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.calibration import calibrate
from quantizer_sdk.mixed.budget import Figures
from quantizer_sdk.mixed.layers import Layers, prepare_watched
from quantizer_sdk.mixed.noise import Source, sweep
from quantizer_sdk.mixed.outputs import Reference
from quantizer_sdk.quantize_pt2e import convert_pt2e
from quantizer_sdk.table_quantizer import TableQuantizer, UnusedRuleWarning

__all__ = ["Workbench"]


@dataclass(frozen=True, slots=True)
class Workbench:
    """A float model with the data that quantized forms of it are made with and measured on.

    Attributes:
        model: The float model.
        batches: What calibrates.
        evaluation: What figures are measured on.
        reference: The float model's outputs for `evaluation`.
        metric: Gives accuracy; None for none.
    """

    model: GraphModule
    batches: Sequence[Any]
    evaluation: Sequence[Any]
    reference: Reference
    metric: Callable[[GraphModule], float] | None = None

    @classmethod
    def of(
        cls,
        model: GraphModule,
        data: Any,
        evaluation: Any = None,
        metric: Callable[[GraphModule], float] | None = None,
    ) -> Workbench:
        """Take the data in, and run the float model.

        Raises:
            CalibrationError: There is no data, or no float output.
        """
        batches = list(data)
        measured = batches if evaluation is None else list(evaluation)
        return cls(model, batches, measured, Reference.of(model, measured), metric)

    def prepared(self, quantizer: TableQuantizer) -> tuple[GraphModule, Layers]:
        """Return a calibrated model and its layers."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedRuleWarning)  # of the user's own rules, told when the user prepares
            prepared, layers = prepare_watched(self.model, quantizer)
        calibrate(prepared, self.batches)
        return prepared, layers

    def sources(
        self, prepared: GraphModule, layers: Layers, errors: Sequence[Sequence[torch.Tensor]], probes: int
    ) -> tuple[Source, ...]:
        """Return the noise of each point of a calibrated model, and its part in these errors of outputs."""
        return sweep(prepared, layers, self.evaluation, self.reference, errors, probes=probes)

    def measured(self, prepared: GraphModule) -> tuple[Figures, list[list[torch.Tensor]]]:
        """Convert a calibrated model and measure it; return the errors of its outputs as well."""
        converted = convert_pt2e(prepared)
        errors = self.reference.errors(converted, self.evaluation)
        accuracy = None if self.metric is None else float(self.metric(converted))
        return Figures(self.reference.sqnr(errors), accuracy), errors

    def trial(self, quantizer: TableQuantizer) -> Figures:
        """Make a quantized model from the start and measure it."""
        return self.measured(self.prepared(quantizer)[0])[0]
