"""The three runtimes of x86: nothing of the suite falls short. `quantizer-sdk conform x86` runs the rest.

Kernels on ties, on the largest accumulators with and without VNNI, on channels of unequal magnitude, with qparams of
each row's own, and with the optimizer off.
"""

import pytest
from healthy import assert_nothing_falls_short

EXTREMES = ("zp_odd", "ends", "unequal")


def test_onnx_runtimes_kernels_and_reference():
    patterns = [f"L[234].*/u8.pc@onnxruntime/{data}/*" for data in EXTREMES]
    report = assert_nothing_falls_short("x86", "L4", *patterns, at_least=300)
    assert {outcome.id[:5] for outcome in report.outcomes} >= {"L3.K1", "L3.K3", "L3.K4", "L3.K6", "L4.D3"}


def test_onednns_kernels_and_reference():
    patterns = [f"L[34].*/u8.pc@onednn/{data}/*" for data in EXTREMES]
    report = assert_nothing_falls_short("x86", "L4", *patterns, "L[34].*/d8.pc@onednn/*", at_least=300)
    assert {outcome.id[:5] for outcome in report.outcomes} >= {"L3.K1", "L3.K3", "L3.K4", "L3.K6", "L4.D2"}


def test_inductors_kernels():
    # Each program is compiled for seconds: ties of three ops, and saturation of one.
    patterns = [f"L3.K[13]/aten.{op}/u8.pc@inductor/zp_odd/*" for op in ("conv2d", "linear", "add")]
    patterns += ["L3.K4/aten.linear+aten.relu/u8.pc@inductor/ends/2d", "L4.D[123]/*/u8.pc@inductor/generic/2d"]
    report = assert_nothing_falls_short("x86", "L4", *patterns, at_least=8)
    assert {outcome.id[:5] for outcome in report.outcomes} >= {"L3.K1", "L3.K3", "L3.K4", "L4.D2", "L4.D3"}


@pytest.mark.parametrize("part", ["onednn", "onnxruntime"])
def test_contract(part):
    assert_nothing_falls_short("x86", "L0", f"L0.C[1234]/*u8.pc@{part}/generic/*", at_least=150)
