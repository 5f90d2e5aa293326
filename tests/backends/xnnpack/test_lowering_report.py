"""What a lowered program says of itself, and programs that take and give int8 tensors."""

import json

import pytest
import torch
from torch import nn

from quantizer_sdk import LoweringError, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backend import boundary_of
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower


class Net(nn.Module):
    """Two inputs of which the second is read as float too; three outputs, of which the first is read inside as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x, y):
        hidden = self.first(x)
        return hidden, torch.erf(y), self.second(hidden + y)


def quantized(export, module, *inputs, quantizer=None):
    prepared = prepare_pt2e(export(module, *inputs), quantizer or XNNPACKQuantizer())
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


@pytest.fixture(scope="module")
def net(export):
    torch.manual_seed(0)
    inputs = (torch.randn(3, 6), torch.randn(3, 5))
    return quantized(export, Net(), *inputs), inputs


def codes(tensor, qparams):
    limits = torch.iinfo(qparams.dtype)
    rounded = torch.round(tensor / qparams.scale) + qparams.zero_point
    return rounded.clamp(limits.min, limits.max).to(qparams.dtype)


def values(tensor, qparams):
    return (tensor.to(torch.float32) - qparams.zero_point) * qparams.scale


def test_the_report_counts_nodes_and_names_what_is_left_with_the_users_line(net):
    model, inputs = net
    program = lower(model, inputs)
    report = program.report()
    kernels = program.kernels()
    assert report.kernels == kernels
    assert report.integer == sum(kernel.integer for kernel in kernels) >= 3
    assert report.integer + report.conversions + report.float == len(kernels)
    (op,) = report.portable
    assert op.name == "aten.erf.default"
    assert "torch.erf(y)" in op.source
    printed = str(report)
    assert f"{program.size:,} bytes" in printed
    assert "FullyConnected" in printed
    assert "qint8, qcint8, qcint32 -> qint8" in printed
    assert "portable: aten.erf.default at " in printed


def test_the_report_is_plain_data(net):
    model, inputs = net
    program = lower(model, inputs, quantize_io=True)
    found = json.loads(program.report().to_json())
    assert found == program.report().to_dict()
    assert found["size"] == program.size
    assert found["totals"]["portable"] == len(found["portable"]) == 1
    assert [entry is None for entry in found["inputs"]] == [False, True]
    assert found["inputs"][0]["dtype"] == "torch.int8"


def test_quantized_inputs_and_outputs_are_codes_and_all_others_stay_float(net):
    model, inputs = net
    reference = lower(model, inputs)
    program = lower(model, inputs, quantize_io=True)
    (first, second), (hidden, erf, last) = program.input_qparams, program.output_qparams
    assert second is None  # erf reads it as float
    assert erf is None
    results = program.run(codes(inputs[0], first), inputs[1])
    assert [result.dtype for result in results] == [torch.int8, torch.float32, torch.int8]
    expected = reference.run(*inputs)
    assert torch.equal(values(results[0], hidden), expected[0])
    assert torch.equal(results[1], expected[1])
    assert torch.equal(values(results[2], last), expected[2])
    assert len(program.report().kernels) < len(reference.report().kernels)
    assert reference.input_qparams == (None, None)
    assert reference.output_qparams == (None, None, None)
    assert reference.report().to_dict()["outputs"] == [None, None, None]


def test_quantize_io_and_integer_io_are_one(net):
    model, inputs = net
    one, other = lower(model, inputs, quantize_io=True), lower(model, inputs, integer_io=True)
    assert one.boundary == other.boundary == boundary_of(model)
    assert one.kernels() == other.kernels()


def test_quantize_io_takes_a_dynamic_batch(export):
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    x = torch.randn(4, 6)
    prepared = prepare_pt2e(export(nn.Linear(6, 3), x, dynamic_shapes=shapes), XNNPACKQuantizer())
    calibrate(prepared, [x])
    model = convert_pt2e(prepared)
    program = lower(model, (x,), dynamic_shapes=shapes, quantize_io=True)
    (entry,), (result,) = program.input_qparams, program.output_qparams
    for batch in (1, 8, 5):
        x = torch.randn(batch, 6)
        (found,) = program.run(codes(x, entry))
        assert ((values(found, result) - model(x)).abs() / result.scale).max().round() <= 1


def test_quantize_io_without_anything_quantized_at_the_border_is_refused(export):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return torch.erf(self.inner(torch.erf(x)))

    x = torch.randn(2, 4)
    model = quantized(export, Inside(), x)
    with pytest.raises(LoweringError, match="quantize_io=True, but the model quantizes none of its inputs and outputs"):
        lower(model, (x,), quantize_io=True)
    lower(model, (x,), integer_io=True).run(x)


def test_restricted_codes_at_the_border_are_those_of_the_config(export):
    config = get_symmetric_quantization_config(act_qmin=-127)
    x = torch.randn(2, 6)
    model = quantized(export, nn.Linear(6, 3), x, quantizer=XNNPACKQuantizer().set_global(config))
    program = lower(model, (x,), quantize_io=True)
    (found,) = program.run(codes(x, program.input_qparams[0]))
    assert ((values(found, program.output_qparams[0]) - model(x)).abs() / program.output_qparams[0].scale).max() <= 1.01
