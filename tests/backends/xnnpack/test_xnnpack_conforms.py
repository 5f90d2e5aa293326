"""XNNPACK's quantizer, engine, reference and real kernels: nothing of the suite falls short.

All of L0 to L2; of the kernels every family on ties, on the largest accumulators and on channels of unequal magnitude.
`quantizer-sdk conform xnnpack` runs the rest.
"""

import torch
from healthy import assert_nothing_falls_short
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import BACKEND
from quantizer_sdk.conformance import judge, run_oracle

# Each row in every form of export, and the reference on the plainest data: seven of eight cases of these levels.
CONTRACT = (
    *("L0.*", "L1.E[134]/*", "L2.R[2-9]*", "L2.R1/*/s8.pc/generic/*", "L2.R1/*/zp_odd/4d"),
    *(f"L1.E2/*/{form}" for form in ("strict/4d", "dynamic/*", "called_twice/*", "no_grad/*")),
)
KERNELS = ("L[34].*/zp_odd/*", "L[34].*/ends/*", "L[34].*/unequal/*", "L[34].*/residual/*")


def test_contract_engine_and_reference():
    report = assert_nothing_falls_short("xnnpack", "L2", *CONTRACT, at_least=4500)
    assert report.level == "L2"


def test_kernels():
    assert_nothing_falls_short("xnnpack", "L4", *KERNELS, at_least=400)


class AddMM(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(9, 7)), nn.Parameter(torch.randn(7))

    def forward(self, x):
        return torch.relu(torch.addmm(self.b, x, self.w))


def converted(export, module, x):
    prepared = prepare_pt2e(export(module, x), BACKEND.quantizer())
    calibrate(prepared, [x])
    return convert_pt2e(prepared)


def test_addmm_then_relu_is_one_linear_layer(export):
    # As addmm with relu fused the program fails to load; as two kernels the runtime fuses them over the code between.
    x = torch.randn(4, 9)
    program = BACKEND.lower(converted(export, AddMM(), x), [x], integer_io=True)
    program.run(torch.zeros(4, 9, dtype=torch.int8))
    (kernel,) = program.kernels()
    assert (kernel.name, kernel.integer) == ("FullyConnected", True)


def test_a_channel_without_weights_does_not_overflow_its_bias(export):
    # Batch norm with a gamma of nearly 0 leaves a channel that is its bias: over the product of the scales, int32
    # could not hold it.
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        module[1].weight[2] = 1e-9
        module[1].bias[2] = 5.0
    x = torch.randn(1, 3, 8, 8)
    model = converted(export, module, x)
    codes = torch.randint(-128, 128, x.shape, dtype=torch.int8)
    (site,) = run_oracle(model, [codes], BACKEND.profile).outputs
    (kernel,) = BACKEND.lower(model, [x], integer_io=True).run(codes)
    verdict = judge(kernel, site.requantized, site.kernel_delta)
    assert verdict.conforms, str(verdict)
    assert not verdict.constant
