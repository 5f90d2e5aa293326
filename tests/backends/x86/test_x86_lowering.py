"""One `lower` for the three routes: the models that peers crash on or leave float run on integer kernels."""

import pytest
import torch
from test_x86_quantizer import GEMMS, MODELS, gemms, quantized
from torch import nn

from quantizer_sdk import RuleError, explain, lowering_report
from quantizer_sdk.backend import Executable
from quantizer_sdk.backends.x86 import X86Quantizer, lower

COMPILED = ("reused relu", "encoder layer")


def products(program):
    """The kernels that multiply integers."""
    names = ("qconv", "qlinear", "_int_mm", "QLinearConv", "QGemm", "MatMulInteger", "ConvInteger")
    return [kernel for kernel in program.kernels() if any(name in kernel.name for name in names)]


@pytest.mark.parametrize(
    ("name", "route"),
    [
        *[(name, route) for name in MODELS for route in ("onednn", "onnxruntime")],
        *[(name, "inductor") for name in COMPILED],
    ],
)
def test_every_gemm_is_an_integer_kernel(name, route):
    build, shape, count = MODELS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = quantized(build(), x, quantizer=X86Quantizer(route, quantize_results=name == "conv3d"))
    program = lower(model, (x,), route=route)
    assert isinstance(program, Executable)
    assert len(products(program)) == count
    (found,), expected = program.run(x), model(x).detach()
    noise = (found - expected).abs().max() / expected.abs().max()
    assert noise < 0.02  # a code here and there


def test_eager_needs_no_example_and_takes_any_batch():
    model = quantized(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.randn(3, 8), quantizer=X86Quantizer())
    program = lower(model)
    (found,) = program.run(torch.randn(3, 8))
    assert found.shape == (3, 4)


def test_unknown_routes_are_refused():
    model = quantized(nn.Linear(8, 4), torch.randn(3, 8), quantizer=X86Quantizer())
    with pytest.raises(RuleError, match="expected one of onednn, inductor, onnxruntime"):
        lower(model, (torch.randn(3, 8),), route="cuda")


def test_a_report_says_of_each_kernel_what_it_computes_on():
    x = torch.randn(2, 3, 8, 8)
    model = quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ELU()), x, quantizer=X86Quantizer())
    report = lowering_report(lower(model, (x,)))
    assert {kernel["name"] for kernel in report.to_dict()["kernels"]} >= {"onednn.qconv_pointwise", "aten.elu"}
    assert [op.name for op in report.portable] == ["aten.elu"]
    assert gemms(model) == ["quantized"]
    assert [op.reason for op in explain(model).ops if op.op.split(".")[1] not in (*GEMMS, "relu")] == [
        "no row for aten.elu.default"
    ]
