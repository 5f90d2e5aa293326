"""Every row of the table on ONNX Runtime's real kernel: raw integers against the oracle, and proof of integer nodes."""

import pytest
import torch
from onnxruntime_rows import CASES

from quantizer_sdk import UnsupportedError, calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.onnxruntime import BACKEND, get_uint8_quantization_config
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.backends.onnxruntime.table import ROWS
from quantizer_sdk.conformance import judge, run_oracle
from quantizer_sdk.observers import MinMaxObserver

pytest.importorskip("onnxruntime")

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default


def random_codes(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if codes.numel() > 3:
        codes.view(-1)[:3] = torch.tensor([0, 255, 128], dtype=torch.uint8)
    return codes


def convert(case, export):
    inputs = [torch.randn(shape) * 2 * 0.25**place for place, shape in enumerate(case.shapes)]
    module = case.make()
    config = get_uint8_quantization_config(is_per_channel=case.per_channel, activation_observer=MinMaxObserver)
    prepared = prepare_pt2e(export(module, *inputs), BACKEND.quantizer(config=config))
    calibrate(prepared, [tuple(inputs)])
    return module, convert_pt2e(prepared)


def in_float64(module, model, codes):
    """Return what a module of one input gives for codes, in steps of the output's scale, and the codes of that."""
    first, *_, last = [node for node in model.graph.nodes if node.target is QUANTIZE]
    real = (codes.double() - first.args[2]) * first.args[1]
    r = module(real) / last.args[1]
    return r, (r.round() + last.args[2]).clamp(0, 255).to(torch.uint8)


def assert_right_but_for_near_ties(actual, r, expected):
    differ = actual != expected
    assert not (differ & ((r - r.floor() - 0.5).abs() > 1e-4)).any()
    assert int((actual.int() - expected.int()).abs().max()) <= 1
    assert len(actual.unique()) > 3


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.row}-{case.id}") for case in CASES])
def test_row_runs_on_its_integer_kernel_with_the_right_codes(case, export):
    module, model = convert(case, export)
    assert case.row in {op.row for op in explain(model).ops}, explain(model)
    program = BACKEND.lower(model, [torch.zeros(shape) for shape in case.shapes], integer_io=True)
    names = [kernel.name.removeprefix("Nhwc") for kernel in program.kernels()]
    assert case.kernel in names, names
    assert all(kernel.integer for kernel in program.kernels()), program.kernels()
    assert program.delegation().non_delegated == ()
    for seed in range(4):
        codes = [random_codes(shape, 10 * seed + place) for place, shape in enumerate(case.shapes)]
        (actual,) = program.run(*codes)
        assert actual.dtype == torch.uint8
        try:
            (site,) = run_oracle(model, codes, PROFILE).outputs
        except UnsupportedError:
            assert_right_but_for_near_ties(actual, *in_float64(module, model, *codes))
            continue
        verdict = judge(actual, site.requantized, 0.0 if case.exact else site.kernel_delta)
        assert verdict.conforms, str(verdict)
        assert not verdict.constant, str(verdict)


def test_every_row_has_a_case():
    assert {case.row for case in CASES} == {row.name for row in ROWS}
