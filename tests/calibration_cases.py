"""What calibration is tested with, in one process and on several ranks: a prepared model, and batches."""

import torch
from torch import nn

from quantizer_sdk import QuantizationSpec, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MSEObserver,
    PercentileObserver,
    RecordingObserver,
)

__all__ = ["OBSERVERS", "batches_of", "prepared_with"]

OBSERVERS = {
    "min-max": MinMaxObserver,
    "moving average": MovingAverageMinMaxObserver,
    "histogram": HistogramObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
    "recording": RecordingObserver,
}


def batches_of(count):
    """Return batches whose ranges differ widely; float32 [4, 8] each."""
    torch.manual_seed(1)
    return [torch.randn(4, 8) * 4.0 ** (index % 5 - 2) + index / 3 for index in range(count)]


def prepared_with(kind):
    """Return a prepared network whose activations are watched by observers of a kind."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    activation = QuantizationSpec(torch.uint8, kind, 0, 255, torch.per_tensor_affine)
    config = get_default_x86_quantization_config()
    config = type(config)(activation, activation, config.weight, config.bias)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(net.eval(), (batches_of(1)[0],), dynamic_shapes=({0: rows},)).module()
    return prepare_pt2e(exported, X86Quantizer("onednn").set_global(config))
