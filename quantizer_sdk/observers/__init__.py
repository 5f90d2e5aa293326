"""Observers: modules that watch a tensor during calibration and choose its quantization parameters."""

from quantizer_sdk.observers.base import ObserverBase, ObserverFactory
from quantizer_sdk.observers.fixed import FixedQParamsObserver
from quantizer_sdk.observers.histogram import HistogramObserver
from quantizer_sdk.observers.min_max import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)

__all__ = [
    "FixedQParamsObserver",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "ObserverBase",
    "ObserverFactory",
    "PerChannelMinMaxObserver",
]
