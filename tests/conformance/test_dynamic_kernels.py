"""XNNPACK's gemms of run-time qparams give every bit that its profile predicts, on graphs written by hand."""

import pytest
import torch
from dynamic_graphs import DynamicLinear, exported

from quantizer_sdk import find_backend
from quantizer_sdk.conformance.dynamic_bounds import kernel_bound
from quantizer_sdk.conformance.dynamic_emulator import predict
from quantizer_sdk.conformance.dynamic_gemms import dynamic_gemms
from quantizer_sdk.conformance.dynamic_inputs import float_inputs

pytest.importorskip("executorch")
KINDS = ("generic", "rows_unequal", "rows_flat", "rows_ties")


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (DynamicLinear(67, 13), (7, 67)),
        (DynamicLinear(24, 5, bias=False, relu=True), (2, 3, 24)),
        (DynamicLinear(512, 8, bits=4), (5, 512)),
        (DynamicLinear(64, 11, bits=4, group=32), (5, 64)),
        (DynamicLinear(128, 3, bits=4, group=64, bias=False), (4, 128)),
    ],
)
def test_every_bit_is_predicted(module, shape):
    backend = find_backend("xnnpack")
    model = exported(module, torch.randn(shape))
    (gemm,) = dynamic_gemms(model)
    program = backend.lower(model, [torch.randn(shape)])
    for kind in KINDS:
        x = float_inputs(shape, len(shape) - 1, kind, 1)
        (found,) = program.run(x)
        predicted = predict(model, gemm, x, backend.profile.dynamic)
        assert predicted.known.float().mean() > 0.5
        known = predicted.known
        assert torch.equal(found[known].view(torch.int32), predicted.value[known].view(torch.int32)), kind
        bounded = kernel_bound(model, gemm, x, 0.0)
        assert bool(((found.double() - bounded.exact).abs() <= bounded.bound).all()), kind


def test_what_the_graph_writes_as_one_scale_the_kernel_gives_one_a_row():
    """The reason for K6: such a graph promises other numbers than come out."""
    backend = find_backend("xnnpack")
    shape = (4, 64)
    model = exported(DynamicLinear(64, 9, per_tensor=True), torch.randn(shape))
    (gemm,) = dynamic_gemms(model)
    x = float_inputs(shape, 1, "rows_unequal", 0)
    (found,) = backend.lower(model, [torch.randn(shape)]).run(x)
    bounded = kernel_bound(model, gemm, x, 0.0)
    assert float(((found.double() - bounded.exact).abs() / bounded.bound).max()) > 100
