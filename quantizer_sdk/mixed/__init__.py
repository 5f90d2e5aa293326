"""Which layers cost accuracy, and rules for them that meet a budget."""

from quantizer_sdk.mixed.budget import Budget, Figures
from quantizer_sdk.mixed.proposal import mixed_precision
from quantizer_sdk.mixed.ranking import LayerSensitivity, Sensitivity, sensitivity
from quantizer_sdk.mixed.result import MixedPrecision, MixedRule

__all__ = [
    "Budget",
    "Figures",
    "LayerSensitivity",
    "MixedPrecision",
    "MixedRule",
    "Sensitivity",
    "mixed_precision",
    "sensitivity",
]
