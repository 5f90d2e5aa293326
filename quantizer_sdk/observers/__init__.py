"""Observers: modules that watch a tensor during calibration and choose its quantization parameters."""

from quantizer_sdk.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerRow, PerTensor, PerToken
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.fixed import FixedQParamsObserver
from quantizer_sdk.observers.histogram import HistogramObserver
from quantizer_sdk.observers.min_max import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from quantizer_sdk.observers.module import ObserverFactory
from quantizer_sdk.observers.placeholder import PlaceholderObserver

__all__ = [
    "FixedQParamsObserver",
    "Granularity",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "ObserverBase",
    "ObserverFactory",
    "PerAxis",
    "PerBlock",
    "PerChannelMinMaxObserver",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PerToken",
    "PlaceholderObserver",
]
