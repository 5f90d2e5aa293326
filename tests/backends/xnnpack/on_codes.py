"""Models of a function, quantized, lowered and run on random codes."""

import torch
from random_codes import run_on_random_codes
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower

CONFIG = get_symmetric_quantization_config(is_per_channel=True)
ACT, WEIGHT = CONFIG.input_activation, CONFIG.weight
IMAGE = (2, 4, 8, 8)


class Run(nn.Module):
    """A function of itself and its inputs, with tensors and modules by name."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, torch.randn(part, generator=torch.Generator().manual_seed(len(name))))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def quantized(export, module, *inputs, quantizer=None):
    prepared = prepare_pt2e(export(module, *inputs), quantizer or XNNPACKQuantizer())
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


def run_on_codes(model, *inputs, step=1):
    return run_on_random_codes(lower, model, *inputs, step=step)
