"""Qparams of each run's own data: the codes are the graph's, and rows give every bit that the profile predicts."""

import pytest
import torch
from quantized_models import GEMMS, OPS, names, quantized
from random_codes import rand
from torch import nn

from quantizer_sdk.backends.onednn import PROFILE, lower_eager
from quantizer_sdk.conformance.dynamic_emulator import predict
from quantizer_sdk.conformance.dynamic_gemms import dynamic_gemms
from quantizer_sdk.conformance.dynamic_inputs import float_inputs

KERNELS = torch.ops.quantizer_sdk_x86


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("ends", [(0, 255), (0, 127)])
@pytest.mark.parametrize("shift", [-9.0, -1.0, 0.0, 0.5, 9.0])
def test_one_set_for_a_tensor_has_the_graphs_bits(shift, ends, eps):
    for seed, scale in enumerate((1e-6, 0.01, 1.0, 300.0)):
        x = (rand(40, 120, seed=seed) + shift) * scale
        codes, found_scale, found_zero_point = KERNELS.quantize_at_run_time(x, False, *ends, eps)
        wanted_scale, wanted_zero_point = OPS.choose_qparams.tensor(x, *ends, eps, torch.uint8)
        assert float(found_scale) == float(wanted_scale)
        assert int(found_zero_point) == int(wanted_zero_point)
        expected = OPS.quantize_per_tensor.tensor(x, wanted_scale, wanted_zero_point, *ends, torch.uint8)
        assert torch.equal(codes, expected)


@pytest.mark.parametrize("kind", ["generic", "rows_unequal", "rows_flat", "rows_ties"])
@pytest.mark.parametrize(
    ("shape", "outputs", "bias"),
    [((7, 67), 13, True), ((2, 3, 24), 5, False), ((600, 64), 48, True), ((4, 1), 9, True)],
)
def test_every_bit_of_rows_is_predicted(export, shape, outputs, bias, kind):
    module = nn.Linear(shape[-1], outputs, bias=bias)
    model = quantized(export, module, rand(*shape), is_dynamic=True, is_per_token=True)
    (gemm,) = dynamic_gemms(model)
    program = lower_eager(model, (rand(*shape),))
    x = float_inputs(shape, tuple(range(len(shape) - 1)), kind, 1)
    (found,) = program.run(x)
    predicted = predict(model, gemm, x, PROFILE.dynamic)
    assert predicted.known.all()
    assert torch.equal(found.view(torch.int32), predicted.value.view(torch.int32))
    assert shape[-1] == 1 or set(names(program)) & GEMMS


def test_wide_sums_of_many_rows_are_exact():
    """float32 does not hold all sums of this weight: they are taken as integers."""
    x = torch.full((600, 4096), 255, dtype=torch.uint8)
    weight = torch.full((32, 4096), 127, dtype=torch.int8)
    weight[:, 0] = 126
    zero_points = torch.arange(600, dtype=torch.int32).reshape(-1, 1) % 256
    rows = (x, torch.ones(600, 1), zero_points, weight, torch.ones(32), None, "none", [], "", None)
    expected = ((x.double() - zero_points) @ weight.double().t()).float()
    assert torch.equal(KERNELS.linear_at_run_time(*rows), expected)
