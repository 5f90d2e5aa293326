"""Every row of the table on XNNPACK's real kernel: raw integers against the exact oracle, and proof of integer nodes."""

import pytest
import torch
from xnnpack_rows import CASES

from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import BACKEND, get_symmetric_quantization_config
from quantizer_sdk.backends.xnnpack.table import ROWS
from quantizer_sdk.conformance import check_kernel, random_codes, tie_fraction
from quantizer_sdk.observers import MinMaxObserver

IDS = [f"{case.row}-{case.id}" for case in CASES]


def dyadic(prepared, zero_point):
    """Move every observed range to a power-of-two scale, so that results often fall exactly between two codes.

    An activation keeps roughly its range, with the given zero point; a weight becomes a multiple of its scale.
    """
    for module in prepared.children():
        if not isinstance(module, MinMaxObserver):
            continue
        scale, _ = module.calculate_qparams()
        if module.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric):
            power = 2.0 ** torch.ceil(torch.log2(scale))
            largest = power * (module.quant_max - module.quant_min) / 2
            module.min_val, module.max_val = (
                -largest.reshape(module.max_val.shape),
                largest.reshape(module.max_val.shape),
            )
        else:
            power = 2.0 ** torch.round(torch.log2(scale[0]))
            module.min_val = power * (module.quant_min - zero_point)
            module.max_val = power * (module.quant_max - zero_point)


def prepared_case(case, export):
    module = case.make()
    inputs = [torch.randn(shape) * 2 for shape in case.shapes]
    config = get_symmetric_quantization_config(is_per_channel=case.per_channel, activation_observer=MinMaxObserver)
    prepared = prepare_pt2e(export(module, *inputs), BACKEND.quantizer(config=config))
    calibrate(prepared, [tuple(inputs)])
    return prepared


@pytest.mark.parametrize("ties", [False, True], ids=["generic", "ties"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_kernel_integers(case, ties, export):
    prepared = prepared_case(case, export)
    if ties or case.exact:
        dyadic(prepared, zero_point=-128 if "relu" in case.row else 5)
    converted = convert_pt2e(prepared)
    claimed = [op for op in explain(converted).ops if op.row == case.row]
    assert claimed, explain(converted)
    for seed in range(2):
        check = check_kernel(
            converted, BACKEND, [random_codes(shape, 10 * seed + i) for i, shape in enumerate(case.shapes)]
        )
        assert check.conforms, str(check)
        assert check.float_kernels == (), str(check)
        assert case.kernel in {kernel.name for kernel in check.kernels}, str(check)
        if case.exact:
            assert all(output.kernel.mismatches == output.graph.mismatches == 0 for output in check.outputs), check


def test_every_row_has_a_case():
    rows = {row.name for row in ROWS}
    without_integer_kernel = {row.name for row in ROWS if row.remark}
    assert {case.row for case in CASES} == rows - without_integer_kernel
