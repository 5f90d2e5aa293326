"""Programs on instruction sets without VNNI, which this machine's oneDNN is held to in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.onednn import lower_eager, lower_without_vnni, sums_saturate

OPS = torch.ops.quantized_decomposed


class Gemm(nn.Module):
    """A gemm whose sums are as large as codes allow."""

    def __init__(self, largest, rank):
        super().__init__()
        shape = (64, 64) if rank == 2 else (64, 64, 1, 1)
        self.register_buffer("weight", torch.full(shape, largest, dtype=torch.int8))
        self.register_buffer("scale", torch.full((64,), 0.01))
        self.register_buffer("zero_point", torch.zeros(64, dtype=torch.int64))

    def forward(self, x):
        weight = OPS.dequantize_per_channel(self.weight, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        x = OPS.dequantize_per_tensor(
            OPS.quantize_per_tensor(x, 1.0, 0, 0, 255, torch.uint8), 1.0, 0, 0, 255, torch.uint8
        )
        return F.linear(x, weight) if weight.dim() == 2 else F.conv2d(x, weight)


def lowered(largest, rank, isa, **options):
    x = torch.full((300, 64) if rank == 2 else (2, 64, 8, 8), 255.0)
    model = torch.export.export(Gemm(largest, rank), (x,)).module()
    return lower_without_vnni(model, (x,), isa=isa, **options), x, model(x)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_sums_saturate_with_8_bit_weights_and_not_with_7_bit_ones(isa, rank):
    program, x, expected = lowered(127, rank, isa, saturating=False)
    assert program.saturates()
    assert program.run(x)[0].max() < 0.6 * expected.max()
    program, x, expected = lowered(127, rank, isa)
    torch.testing.assert_close(program.run(x)[0], expected)
    assert program.delegation().non_delegated != ()
    program, x, expected = lowered(63, rank, isa)
    torch.testing.assert_close(program.run(x)[0], expected)
    assert {kernel.name for kernel in program.kernels()} & {"onednn.qlinear_pointwise", "onednn.qconv_pointwise"}
    assert program.delegation().non_delegated == ()


def test_a_refused_input_is_told_and_the_next_one_runs():
    program, x, expected = lowered(63, 2, "AVX2")
    with pytest.raises(LoweringError, match="oneDNN with AVX2 cannot run"):
        program.run(x[:, :3])
    torch.testing.assert_close(program.run(x)[0], expected)
    assert program.size == lower_eager(program.program.module).size


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
import test_onednn_without_vnni as here
from quantizer_sdk.backends.onednn import lower_eager, sums_saturate
assert sums_saturate()
for largest, taken in ((127, 0), (63, 1)):
    x = torch.full((300, 64), 255.0)
    model = torch.export.export(here.Gemm(largest, 2), (x,)).module()
    program = lower_eager(model, (x,))
    torch.testing.assert_close(program.run(x)[0], model(x))
    assert sum(kernel.name == "onednn.qlinear_pointwise" for kernel in program.kernels()) == taken
"""


def test_where_sums_saturate_wide_weights_are_left_to_float():
    here = os.path.dirname(__file__)  # noqa: PTH120  for a script
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SCRIPT.format(tests=here)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_this_process_is_probed_as_it_is():
    assert sums_saturate() in {True, False}
