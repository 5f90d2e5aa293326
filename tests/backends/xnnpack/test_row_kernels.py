"""Every row of the table on XNNPACK's real kernel: raw integers against the oracle, and proof of integer nodes."""

import math

import pytest
import torch
from xnnpack_rows import CASES, AddMM, Apply

from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import BACKEND, get_symmetric_quantization_config
from quantizer_sdk.backends.xnnpack.table import ROWS
from quantizer_sdk.conformance import KernelProbe, random_codes, tie_fraction
from quantizer_sdk.observers import MinMaxObserver

MEETS_TIES = {
    ("conv", "3x3"),
    ("conv", "depthwise-per_tensor"),
    ("conv_relu6", "3x3"),
    ("pad_conv", "even"),
    ("conv_transpose", "3x3"),
    ("linear", "2d"),
    ("addmm", "2d"),
    ("add", "same"),
    ("sub", "same"),
    ("mul", "same"),
    ("mean", "4x4"),
    ("global_avg_pool", "4x4"),
}


def dyadic(prepared, uniform):
    """Move every observed range to a power-of-two scale, so that results often fall exactly between two codes.

    Ranges still hold what they held; `uniform` gives all activations the same qparams.
    """
    observers = [module for module in prepared.children() if isinstance(module, MinMaxObserver)]
    activations = [observer for observer in observers if observer.qscheme is torch.per_tensor_affine]
    zero_points = {o: -128 if not uniform and float(o.min_val) >= 0 else 5 for o in activations}
    powers = {o: power_covering(float(o.min_val), float(o.max_val), zero_points[o]) for o in activations}
    for observer in observers:
        if observer in powers:
            power = max(powers.values()) if uniform else powers[observer]
            low, high = (power * (end - zero_points[observer]) for end in (observer.quant_min, observer.quant_max))
            observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)
        else:
            scale, _ = observer.calculate_qparams()
            largest = 2.0 ** torch.ceil(torch.log2(scale)) * (observer.quant_max - observer.quant_min) / 2
            largest = largest.reshape(observer.max_val.shape)
            observer.min_val, observer.max_val = -largest, largest


def power_covering(low, high, zero_point):
    """Return the smallest power of two that, as a scale with this zero point, has codes for low and high."""
    below = -low / (zero_point + 128) if low < 0 else 0.0
    return 2.0 ** math.ceil(math.log2(max(below, high / (127 - zero_point), 2.0**-20)))


def prepared_case(case, export):
    module = case.make()
    inputs = [torch.randn(shape) * 2 * 0.25**place for place, shape in enumerate(case.shapes)]
    config = get_symmetric_quantization_config(is_per_channel=case.per_channel, activation_observer=MinMaxObserver)
    prepared = prepare_pt2e(export(module, *inputs), BACKEND.quantizer(config=config))
    calibrate(prepared, [tuple(inputs)])
    return prepared


@pytest.mark.parametrize(
    ("case", "ties"),
    [
        pytest.param(case, ties, id=f"{case.row}-{case.id}-{'ties' if ties else 'generic'}")
        for case in CASES
        for ties in ((False,) if case.chained else (False, True))
    ],
)
def test_kernel_integers(case, ties, export):
    prepared = prepared_case(case, export)
    if ties or case.exact:
        dyadic(prepared, uniform=case.exact)
    converted = convert_pt2e(prepared)
    claimed = [op for op in explain(converted).ops if op.row == case.row]
    assert claimed, explain(converted)
    probe = KernelProbe(converted, BACKEND, case.shapes)
    ties_met = 0.0
    for seed in range(64 if ties else 4):
        check = probe.check([random_codes(shape, 10 * seed + i) for i, shape in enumerate(case.shapes)])
        assert check.conforms, str(check)
        assert check.float_kernels == (), str(check)
        assert case.kernel in {kernel.name for kernel in check.kernels}, str(check)
        if case.exact:
            assert all(output.kernel.mismatches == output.graph.mismatches == 0 for output in check.outputs), str(check)
        ties_met += sum(tie_fraction(site.requantized) for site in check.oracle.outputs)
    if ties and (case.row, case.id) in MEETS_TIES:
        assert ties_met > 0, "the case was to hit exact ties"


def test_addmm_then_relu_keeps_its_own_clamp(export):
    # Fused into one row the program fails to load, so the two ops are two kernels with a code between them.
    module = AddMM(9, 7)
    x = torch.randn(4, 9)
    prepared = prepare_pt2e(export(Apply(lambda m, y: torch.relu(m.layer(y)), layer=module), x), BACKEND.quantizer())
    calibrate(prepared, [x])
    check = KernelProbe(convert_pt2e(prepared), BACKEND, [(4, 9)]).check([random_codes((4, 9), 0)])
    assert [kernel.name for kernel in check.kernels] == ["FullyConnected", "Clamp"]
    assert check.float_kernels == ()
    assert check.outputs[0].max_lsb <= 1


def test_a_channel_without_weights_does_not_overflow_its_bias(export):
    # Batch norm with a gamma of nearly 0 leaves a channel that is its bias: over the product of the scales, int32
    # could not hold it.
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    with torch.no_grad():
        module[1].weight[2] = 1e-9
        module[1].bias[2] = 5.0
    x = torch.randn(1, 3, 8, 8)
    prepared = prepare_pt2e(export(module, x), BACKEND.quantizer())
    calibrate(prepared, [x])
    check = KernelProbe(convert_pt2e(prepared), BACKEND, [x.shape]).check([random_codes(x.shape, 0)])
    assert check.conforms, str(check)


def test_every_row_has_a_case():
    rows = {row.name for row in ROWS}
    without_integer_kernel = {row.name for row in ROWS if row.remark}
    assert {case.row for case in CASES} == rows - without_integer_kernel
