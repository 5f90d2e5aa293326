"""ONNX Runtime's quantizer, engine, reference and real kernels: nothing of the suite falls short.

Kernels on ties, on the largest accumulators with and without VNNI, on channels of unequal magnitude, and with the
optimizer off. `quantizer-sdk conform x86` runs the rest.
"""

from healthy import assert_nothing_falls_short


def test_kernels_and_reference():
    patterns = [f"L[234].*@onnxruntime/{data}/*" for data in ("zp_odd", "ends", "unequal", "residual")]
    report = assert_nothing_falls_short("x86", "L4", *patterns, at_least=300)
    assert {outcome.id[:5] for outcome in report.outcomes} >= {"L3.K1", "L3.K3", "L3.K4", "L3.K6", "L4.D3"}


def test_contract():
    assert_nothing_falls_short("x86", "L0", "L0.C[1234]/*@onnxruntime/generic/*", at_least=300)
