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
from quantizer_sdk.observers.mse import MSEObserver
from quantizer_sdk.observers.percentile import PercentileObserver
from quantizer_sdk.observers.placeholder import PlaceholderObserver
from quantizer_sdk.observers.recording import RecordingObserver

__all__ = [
    "FixedQParamsObserver",
    "Granularity",
    "HistogramObserver",
    "MSEObserver",
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
    "PercentileObserver",
    "PlaceholderObserver",
    "RecordingObserver",
]
