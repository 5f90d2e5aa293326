"""Models of a function, quantized, lowered and run on random codes."""

import torch
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backend import strip_boundary
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


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(export, module, *inputs, quantizer=None):
    prepared = prepare_pt2e(export(module, *inputs), quantizer or XNNPACKQuantizer())
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


def run_on_codes(model, *inputs, step=1):
    """Run a converted model on random codes where it takes codes, and hold it to the graph; return the program.

    Codes are `step` apart at most, and in no more than one of a hundred places; floats equal to a few roundoffs.
    """
    program = lower(model, inputs, integer_io=True)
    stripped, examples = strip_boundary(model, inputs)
    generator = torch.Generator().manual_seed(7)
    codes = [
        torch.randint(-128, 128, example.shape, dtype=torch.int8, generator=generator)
        if example.dtype is torch.int8
        else example
        for example in examples
    ]
    found, expected = program.run(*codes), stripped(*codes)
    expected = (expected,) if isinstance(expected, torch.Tensor) else tuple(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert len(other.unique()) > 1  # results that are all the same prove nothing
        if one.dtype is torch.int8:
            apart = (one.int() - other.int()).abs()
            assert apart.max() <= step
            assert (apart > 0).sum() <= max(1, apart.numel() // 100)
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return program
