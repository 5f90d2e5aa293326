"""Programs under valgrind, whose CPU has no VNNI: where saturation shows, and what cures it."""

import pytest
import torch
from torch import nn

from quantizer_sdk import LoweringError, MissingDependencyError, find_backend
from quantizer_sdk.backends.onnxruntime import SessionSettings, lower, lower_without_vnni
from quantizer_sdk.backends.onnxruntime.emulated_process import EMULATED
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate

OPS = torch.ops.quantized_decomposed


class Extremes(nn.Module):
    """A linear whose codes are all next to 255 and to the end of the weights' range."""

    def __init__(self, weight_end):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(weight_end - 3, weight_end + 1, (8, 64), generator=generator, dtype=torch.int8)
        signs = torch.where(torch.arange(64) % 3 == 0, -1, 1).to(torch.int8)
        self.register_buffer("codes", codes * signs)
        self.register_buffer("scale", torch.full((8,), 0.01))
        self.register_buffer("zero_point", torch.zeros(8, dtype=torch.int64))

    def forward(self, x):
        codes = (0.02, 0, 0, 255, torch.uint8)
        x = OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *codes), *codes)
        weight = OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        codes = (1.0, 100, 0, 255, torch.uint8)
        return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(nn.functional.linear(x, weight), *codes), *codes)


@pytest.fixture
def codes():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(200, 256, (4, 64), generator=generator, dtype=torch.uint8) for _ in range(3)]


@pytest.fixture
def extremes(export):
    return lambda weight_end: export(Extremes(weight_end), torch.zeros(4, 64))


@pytest.mark.parametrize(
    ("weight_end", "exact_sums", "saturates"),
    [
        pytest.param(127, False, True, id="8 bits"),
        pytest.param(63, False, False, id="7 bits"),
        pytest.param(127, None, False, id="8 bits, exact sums"),
    ],
)
def test_without_vnni_sums_saturate_unless_weights_are_small_or_unsigned(
    extremes, codes, weight_end, exact_sums, saturates
):
    model, inputs = extremes(weight_end), [torch.zeros(4, 64)]
    settings = SessionSettings(exact_sums=exact_sums)
    emulated = lower_without_vnni(model, inputs, integer_io=True, settings=settings)
    exact = lower(model, inputs, integer_io=True, settings=SessionSettings(exact_sums=True))
    outputs = emulated.run_many([(one,) for one in codes])
    assert len(outputs) == len(codes)
    for one, (actual,) in zip(codes, outputs, strict=True):
        (expected,) = exact.run(one)
        apart = (actual.int() - expected.int()).abs()
        assert int(apart.max()) > 20 if saturates else int(apart.max()) == 0
        assert len(expected.unique()) > 3
    assert [kernel.name for kernel in emulated.kernels()] == ["QGemm"]
    assert emulated.kernels()[0].inputs == ("uint8", "uint8" if exact_sums is None else "int8")
    assert emulated.delegation().non_delegated == ()


class FloatResult(Extremes):
    """The same with a float result, by static codes or by codes of each run's range."""

    def __init__(self, form):
        super().__init__(127)
        self.form = form

    def forward(self, x):
        ends = (0, 255, torch.uint8)
        if self.form == "static":
            codes = (0.02, 0, *ends)
            x = OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *codes), *codes)
        else:
            scale, zero_point = OPS.choose_qparams.tensor(x, 0, 255, 1e-7, torch.uint8)
            codes = (scale, zero_point, *ends)
            x = OPS.dequantize_per_tensor.tensor(OPS.quantize_per_tensor.tensor(x, *codes), *codes)
        weight = OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        return nn.functional.linear(x, weight)


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_products_with_float_results_are_exact_without_vnni_by_exact_sums(form, export):
    x = torch.linspace(4.0, 5.1, 4 * 64).reshape(4, 64)
    model = export(FloatResult(form), x)
    (expected,) = lower(model, (x,), settings=SessionSettings(exact_sums=True)).run(x)
    (actual,) = lower_without_vnni(model, (x,)).run(x)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    (saturated,) = lower_without_vnni(model, (x,), settings=SessionSettings(exact_sums=False)).run(x)
    assert float((saturated - expected).abs().max()) > 1.0


def test_what_fails_under_the_emulator_is_told(extremes):
    emulated = lower_without_vnni(extremes(63), [torch.zeros(4, 64)], integer_io=True)
    with pytest.raises(LoweringError, match=r"under valgrind cannot run the program.*invalid dimensions"):
        emulated.run(torch.zeros(3, 64, dtype=torch.uint8))


def test_the_number_of_inputs_is_checked(extremes):
    emulated = lower_without_vnni(extremes(63), [torch.zeros(4, 64)], integer_io=True)
    with pytest.raises(LoweringError, match="takes 1 inputs; got 0"):
        emulated.run()


def test_a_process_that_dies_is_told_and_followed_by_another(extremes, codes):
    emulated = lower_without_vnni(extremes(63), [torch.zeros(4, 64)], integer_io=True)
    (before,) = emulated.run(codes[0])
    _owner, process = EMULATED._running
    process.kill()
    process.wait()
    with pytest.raises(LoweringError, match="under valgrind ended with exit code -9"):
        emulated.run(codes[0])
    assert torch.equal(emulated.run(codes[0])[0], before)


def test_missing_valgrind_says_how_to_get_it(extremes, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="apt-get install valgrind"):
        lower_without_vnni(extremes(63), [torch.zeros(4, 64)])


def test_the_variant_of_the_backend_is_batched():
    part = find_backend("x86").part_of("u8.pc@onnxruntime")
    (variant,) = [variant for variant in part.runner.variants if variant.axis == "isa"]
    assert variant.batched
    assert variant.lower is lower_without_vnni


def test_exact_sums_are_asked_for_where_the_cpu_saturates(extremes):
    program = lower(extremes(127), [torch.zeros(4, 64)])
    assert program.settings.exact_sums is sums_saturate()
