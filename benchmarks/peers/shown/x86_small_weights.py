"""torchao's X86InductorQuantizer gives no weight channel a scale below 2^-12: small ones lose most of their bits.

Exit status 1: so it is. Needs torch and torchao alone.
"""

import sys

import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

model = torch.nn.Linear(16, 2).eval()
with torch.no_grad():
    model.weight[1] *= 1e-3  # as folding a batch norm often leaves a channel
inputs = (torch.rand(4, 16),)
quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(torch.export.export(model, inputs).module(), quantizer)
prepared(*inputs)
converted = convert_pt2e(prepared)
(codes,) = [value for value in converted.state_dict().values() if value.dtype is torch.int8]
largest = codes.abs().amax(dim=1)
print(f"largest code of each channel, of 127: {largest.tolist()}")
sys.exit(bool(largest[0] >= 127) and bool(largest[1] < 64))
