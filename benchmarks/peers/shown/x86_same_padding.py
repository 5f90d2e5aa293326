"""torchao's X86InductorQuantizer raises at a convolution with padding="same". Exit status 1: it does.

Needs torch and torchao alone.
"""

import sys

import torch
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

inputs = (torch.rand(1, 3, 8, 8),)
model = torch.nn.Conv2d(3, 4, 3, padding="same").eval()
quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
try:
    prepare_pt2e(torch.export.export(model, inputs).module(), quantizer)
except ValueError as e:
    print(f"ValueError: {e}")
    sys.exit(1)
