"""Lowering to ONNX Runtime and running there, on models whose q/dq nodes are written by hand."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import (
    LoweringError,
    MissingDependencyError,
    calibrate,
    convert_pt2e,
    explain,
    find_backend,
    prepare_pt2e,
)
from quantizer_sdk.backend import Executable
from quantizer_sdk.backends.onnxruntime import SessionSettings, lower
from quantizer_sdk.backends.onnxruntime.lowering import lower_unoptimized, to_onnx
from quantizer_sdk.backends.x86 import X86Quantizer

OPS = torch.ops.quantized_decomposed
IN = (0.03, 131, 0, 255, torch.uint8)
OUT = (0.02, 28, 0, 255, torch.uint8)


def quantize(x, qparams):
    return OPS.quantize_per_tensor.default(x, *qparams)


def dequantize(x, qparams):
    return OPS.dequantize_per_tensor.default(x, *qparams)


def round_trip(x, qparams):
    return dequantize(quantize(x, qparams), qparams)


class Weight(nn.Module):
    """A per-channel int8 weight behind its dequantize node, and a float bias."""

    def __init__(self, *shape):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(*shape, generator=generator) * 0.2
        scale = weight.abs().flatten(1).amax(1) / 127
        self.register_buffer("codes", (weight / scale.reshape(-1, *[1] * (len(shape) - 1))).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(shape[0], dtype=torch.int64))
        self.register_buffer("bias", torch.randn(shape[0], generator=generator) * 0.1)

    def forward(self):
        return OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, 0, -127, 127, torch.int8)


class Conv(nn.Module):
    """A convolution with an activation between it and its quantize."""

    def __init__(self, activation=torch.relu, out=OUT):
        super().__init__()
        self.weight = Weight(8, 3, 3, 3)
        self.activation, self.out = activation, out

    def forward(self, x):
        y = F.conv2d(round_trip(x, IN), self.weight(), self.weight.bias, padding=1)
        return round_trip(self.activation(y), self.out)


class Linear(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = Weight(8, 16)
        self.weight.bias *= scale

    def forward(self, x):
        return round_trip(F.linear(round_trip(x, IN), self.weight(), self.weight.bias), OUT)


class Apply(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *inputs):
        return self.run(*inputs)


def export(model, *inputs, dynamic_shapes=None):
    return torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic_shapes, strict=False).module()


def inputs_like(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def names(program):
    return [kernel.name for kernel in program.kernels()]


def computing(program):
    """The kernels but for what changes the layout of images."""
    return [name for name in names(program) if name != "Transpose"]


def codes_apart(actual, expected, qparams=OUT):
    return round(float((actual - expected).abs().max()) / qparams[0])


def test_the_backend_has_a_part_for_the_runtime():
    runner = find_backend("x86").part_of("u8.pc@onnxruntime").runner
    assert [variant.axis for variant in runner.variants] == ["optimizer", "isa"]
    assert runner.environment()["ONNX Runtime, uint8 times int8"] in {"exact", "saturates"}


@pytest.mark.parametrize(
    ("build", "shape", "kernel", "after"),
    [(Conv, (2, 3, 9, 7), "QLinearConv", ["Clip"]), (Linear, (4, 16), "QGemm", [])],
    ids=["conv", "linear"],
)
def test_converted_model_runs_on_integers_within_one_code_of_eager(build, shape, kernel, after):
    x = inputs_like(*shape)
    model = export(build(), x)
    program = lower(model, (x,))
    assert isinstance(program, Executable)
    assert computing(program) == ["QuantizeLinear", kernel, *after, "DequantizeLinear"]
    (computed,) = (entry for entry in program.kernels() if entry.name == kernel)
    assert computed.integer
    assert (computed.inputs[0], computed.inputs[2], computed.outputs) == ("uint8", "int32", ("uint8",))
    assert program.delegation().non_delegated == ()
    assert program.delegation().subgraphs == 1
    (actual,) = program.run(x)
    assert actual.dtype == torch.float32
    assert codes_apart(actual, model(x)) <= 1
    integer = lower(model, (x,), integer_io=True)
    assert all(entry.integer for entry in integer.kernels())
    (codes,) = integer.run(quantize(x, IN))
    assert codes.dtype == torch.uint8
    assert torch.equal(dequantize(codes, OUT), actual)


def test_lowering_leaves_the_model_as_it_is():
    x = inputs_like(4, 16)
    model = export(Linear(), x)
    graph, expected = str(model.graph), model(x)
    lower(model, (x,), integer_io=True).run(quantize(x, IN))
    assert str(model.graph) == graph
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("activation", "out", "clips"),
    [
        pytest.param(torch.relu, (0.02, 0, 0, 255, torch.uint8), False, id="relu-at-qmin"),
        pytest.param(torch.relu, OUT, True, id="relu-above-qmin"),
        pytest.param(F.relu6, (6 / 255, 0, 0, 255, torch.uint8), False, id="relu6-fills-the-range"),
        pytest.param(lambda y: F.hardtanh(y, -0.1, 0.3), OUT, True, id="hardtanh"),
        pytest.param(lambda y: y.clamp(max=0.25), OUT, True, id="clamp-max"),
        pytest.param(lambda y: F.relu(y).clamp(max=0.25), OUT, True, id="two-clamps"),
        pytest.param(lambda y: y, (0.02, 28, 5, 60, torch.uint8), True, id="narrow-range"),
    ],
)
def test_activations_clamp_codes_behind_one_integer_kernel(activation, out, clips):
    x = inputs_like(2, 3, 9, 7)
    model = export(Conv(activation, out), x)
    program = lower(model, (x,))
    assert computing(program) == ["QuantizeLinear", "QLinearConv", *["Clip"][:clips], "DequantizeLinear"]
    (actual,) = program.run(x)
    assert codes_apart(actual, model(x), out) <= 1
    assert float((actual != model(x)).double().mean()) < 0.01
    assert len(actual.unique()) > 5
    assert torch.equal(lower_unoptimized(model, (x,)).run(x)[0].unique(), actual.unique())


def test_a_clamp_between_two_quantizes_stays_a_float_kernel_and_is_named():
    x = inputs_like(4, 16)
    model = export(Apply(lambda x: round_trip(torch.relu(round_trip(x, IN)), OUT)), x)
    program = lower(model, (x,))
    assert program.delegation().non_delegated in {("Relu",), ("Clip",)}
    assert torch.equal(program.run(x)[0], model(x))


def test_a_dequantize_before_a_quantize_keeps_both_roundings():
    # ONNX Runtime would give the pair one set of qparams.
    coarse, fine = (0.5, 128, 0, 255, torch.uint8), (0.01, 128, 0, 255, torch.uint8)
    x = inputs_like(64)
    model = export(Apply(lambda x: round_trip(round_trip(x, coarse), fine)), x)
    assert torch.equal(lower(model, (x,)).run(x)[0], model(x))


def test_float_weights_between_quantizes_stay_float():
    # ONNX Runtime would quantize them, per tensor.
    layer = nn.Conv2d(3, 4, 3)
    x = inputs_like(1, 3, 6, 6)
    model = export(Apply(lambda x: round_trip(layer(round_trip(x, IN)), OUT)), x)
    program = lower(model, (x,))
    assert "Conv" in program.delegation().non_delegated
    assert codes_apart(program.run(x)[0], model(x)) <= 1


@pytest.mark.parametrize("shape", [(16,), (2, 3, 16), (2, 3, 4, 16)], ids=str)
def test_linears_of_any_rank_are_one_gemm_of_codes(shape):
    x = inputs_like(*shape)
    model = export(Linear(), x)
    program = lower(model, (x,))
    assert names(program) == ["QuantizeLinear", "Reshape", "QGemm", "Reshape", "DequantizeLinear"]
    assert codes_apart(program.run(x)[0], model(x)) <= 1


@pytest.mark.parametrize("integer_io", [False, True])
def test_dynamic_batch_runs_at_any_size(integer_io):
    shapes = ({0: torch.export.Dim("batch", max=6)},)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = Conv(), Weight(4, 8)

        def forward(self, x):
            y = round_trip(self.conv(x).mean((2, 3)), OUT)
            y = round_trip(y.unsqueeze(1), OUT)
            return round_trip(F.linear(y, self.head(), self.head.bias), OUT)

    x = inputs_like(3, 3, 8, 8)
    model = export(Network(), x, dynamic_shapes=shapes)
    program = lower(model, (x,), dynamic_shapes=shapes, integer_io=integer_io)
    assert program.delegation().non_delegated == ()
    for batch in (6, 1, 2):
        x = inputs_like(batch, 3, 8, 8, seed=batch)
        (actual,) = program.run(quantize(x, IN) if integer_io else x)
        assert actual.shape == (batch, 1, 4)
        assert codes_apart(dequantize(actual, OUT) if integer_io else actual, model(x)) <= 1


def test_a_linear_with_a_float_result_multiplies_integers_all_the_same():
    class FloatResult(Linear):
        def forward(self, x):
            return F.linear(round_trip(x, IN), self.weight())

    x = inputs_like(4, 16)
    model = export(FloatResult(), x)
    program = lower(model, (x,))
    quantize_kernel, gemm = program.kernels()
    assert quantize_kernel.conversion
    assert (gemm.inputs, gemm.outputs, gemm.integer) == (("uint8", "int8"), ("float",), False)
    assert program.delegation().non_delegated == ()
    torch.testing.assert_close(program.run(x)[0], model(x))


def test_a_bias_for_each_row_stays_float():
    class RowBias(Linear):
        def forward(self, x):
            bias = self.weight.bias[:4, None] + self.weight.bias
            return round_trip(torch.addmm(bias, round_trip(x, IN), self.weight().t()), OUT)

    x = inputs_like(4, 16)
    model = export(RowBias(), x)
    program = lower(model, (x,))
    assert "Gemm" in program.delegation().non_delegated
    assert codes_apart(program.run(x)[0], model(x)) <= 1


def test_a_float_bias_becomes_the_steps_that_the_kernel_adds():
    x = inputs_like(4, 16)
    model = Linear()
    exact = model.weight.bias / (IN[0] * model.weight.scale)
    program = lower(export(model, x), (x,))
    import onnx

    stored = {tensor.name: tensor for tensor in onnx.ModelProto.FromString(program.buffer).graph.initializer}
    (bias,) = (onnx.numpy_helper.to_array(tensor) for name, tensor in stored.items() if name.endswith("bias_int32"))
    assert bias.dtype == "int32"
    assert torch.equal(torch.from_numpy(bias.copy()), exact.round().to(torch.int32))


def test_a_bias_beyond_int32_is_refused_by_name():
    x = inputs_like(4, 16)
    with pytest.raises(LoweringError, match=r"linear.*bias of channel \d+ is .* int32.*ProductBiasSpec"):
        lower(export(Linear(1e8), x), (x,))


def test_a_bias_beyond_int32_fits_with_the_backends_quantizer(quantize):
    module = nn.Linear(16, 4)
    with torch.no_grad():
        module.weight[1] *= 1e-9
        module.bias[1] = 5.0
    x = inputs_like(8, 16)
    model = quantize(export(module, x), X86Quantizer("onnxruntime", quantize_results=True), x)
    (actual,) = lower(model, (x,)).run(x)
    step = next(node.args[1] for node in reversed(model.graph.nodes) if "dequantize" in str(node.target))
    assert ((actual[:, 1] - 5.0).abs() <= step).all()


def test_operators_without_a_translation_are_named():
    x = inputs_like(4, 16)
    with pytest.raises(LoweringError, match=r"\(aten\._fft_r2c\.default\) has no translation.*; from .*return"):
        lower(export(Apply(lambda x: torch.fft.rfft(x).abs()), x), (x,))


@pytest.mark.parametrize(
    ("run", "shape", "reason"),
    [
        (lambda x: F.adaptive_max_pool2d(x, 3), (1, 2, 8, 8), r"output_size=\[3, 3\] of an image of \[8, 8\]"),
        (
            lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
            (1, 2, 6, 6),
            "max_pool2d_with_indices .*has no translation",
        ),
        (lambda x: x[x[:, 0] > 0], (4, 3), "nonzero|index by truth values|data-dependent|Unbacked|unbacked"),
        (lambda x: torch.linalg.vector_norm(x, 3), (3, 4), "a norm of order 3; expected 1 or 2"),
        (lambda x: (x, 3), (3, 4), "returns 3; expected tensors"),
    ],
    ids=["adaptive", "second_result", "truth_values", "norm", "number"],
)
def test_uses_without_a_translation_say_what_is_expected(run, shape, reason):
    x = inputs_like(*shape)
    with pytest.raises(LoweringError, match=reason):
        lower(export(Apply(run), x), (x,))


def test_control_flow_is_refused_by_name():
    inputs = (torch.tensor(True), inputs_like(4))
    model = export(Apply(lambda p, x: torch.cond(p, lambda y: y + 1, lambda y: y - 1, (x,))), *inputs)
    with pytest.raises(LoweringError, match=r"cond.* has no translation to ONNX"):
        lower(model, inputs)


def test_a_model_with_state_is_refused():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x + self.count

    x = inputs_like(4)
    with pytest.raises(LoweringError, match="changes count as it runs"):
        lower(export(Counter(), x), (x,))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((), "takes 1 inputs; got 0"),
        ((torch.zeros(4, 16, dtype=torch.float64),), "cannot run: .*Unexpected input data type"),
        ((torch.zeros(5, 16),), "cannot run: .*invalid dimensions"),
    ],
    ids=["count", "dtype", "shape"],
)
def test_wrong_inputs_are_refused(inputs, reason):
    x = inputs_like(4, 16)
    with pytest.raises(LoweringError, match=reason):
        lower(export(Linear(), x), (x,)).run(*inputs)


def test_the_number_of_example_inputs_is_checked():
    with pytest.raises(LoweringError, match="takes 1 inputs; 2 examples"):
        lower(export(Linear(), inputs_like(4, 16)), (torch.zeros(4, 16),) * 2, integer_io=True)


def test_what_torch_export_refuses_says_so():
    x = inputs_like(4, 16)
    with pytest.raises(LoweringError, match="exporting it failed with"):
        lower(export(Linear(), x), (torch.zeros(4, 5),))


def test_saved_file_is_a_valid_onnx_model_that_anyone_can_run(tmp_path):
    import onnx
    import onnxruntime

    x = inputs_like(2, 3, 9, 7)
    program = lower(export(Conv(), x), (x,))
    path = tmp_path / "model.onnx"
    program.save(path)
    assert path.stat().st_size == program.size
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.equal(torch.from_numpy(actual), program.run(x)[0])


def test_weights_are_stored_once_and_as_int8():
    import onnx

    x = inputs_like(4, 16)
    model = onnx.ModelProto.FromString(to_onnx(export(Linear(), x), (x,)))
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert [tensor.data_type for tensor in large] == [onnx.TensorProto.INT8]


def test_outputs_outlive_the_next_run():
    x = inputs_like(4, 16)
    program = lower(export(Linear(), x), (x,))
    (first,) = program.run(x)
    copy = first.clone()
    assert not torch.equal(program.run(x * 0.5)[0], copy)
    assert torch.equal(first, copy)


def test_channels_last_input_is_read_in_the_order_of_its_dimensions():
    x = inputs_like(2, 3, 9, 7)
    program = lower(export(Conv(), x), (x.to(memory_format=torch.channels_last),))
    assert torch.equal(program.run(x.to(memory_format=torch.channels_last))[0], program.run(x)[0])


def test_inputs_and_outputs_may_be_one_tensor_twice_or_an_input():
    x = inputs_like(2, 3)
    program = lower(export(Apply(lambda x: (x + x, x)), x), (x,))
    assert [torch.equal(a, b) for a, b in zip(program.run(x), (x + x, x), strict=True)] == [True, True]


def test_without_optimizations_the_same_integers_come_from_float_kernels():
    x = inputs_like(2, 3, 9, 7)
    model = export(Conv(), x)
    program = lower_unoptimized(model, (x,), integer_io=True)
    assert "Conv" in program.delegation().non_delegated
    codes = quantize(x, IN)
    difference = program.run(codes)[0].int() - lower(model, (x,), integer_io=True).run(codes)[0].int()
    assert difference.abs().max() <= 1
    assert float((difference != 0).double().mean()) < 0.01


def test_threads_change_no_number():
    x = inputs_like(2, 3, 9, 7)
    model = export(Conv(), x)
    assert torch.equal(lower(model, (x,), settings=SessionSettings(threads=2)).run(x)[0], lower(model, (x,)).run(x)[0])


def test_refusals_name_the_reason():
    class Mixed(nn.Module):
        def forward(self, x):
            return torch.relu(x), x - 2 * x.mean(1, keepdim=True), F.max_pool2d(x, 2, ceil_mode=True)

    x = inputs_like(1, 3, 5, 5)
    prepared = prepare_pt2e(
        export(nn.Sequential(nn.Conv2d(3, 3, 1), Mixed()), x), X86Quantizer("onnxruntime", quantize_results=True)
    )
    calibrate(prepared, [x])
    reasons = {op.op.split(".")[1]: op.reason for op in explain(convert_pt2e(prepared)).ops if op.state == "float"}
    assert reasons["relu"].startswith(
        "no row for aten.relu.default alone: row 'conv_relu' takes it behind conv2d where"
    )
    assert reasons["sub"] == "no row for aten.sub.Tensor"
    assert "dim=[1]" in reasons["mean"]
    assert reasons["max_pool2d"] == "max_pool: ceil_mode=True; the integer kernel takes ceil_mode=False"


def test_codes_of_another_dtype_are_refused(quantize):
    from quantizers import CONFIG

    x = inputs_like(4, 16)
    with pytest.raises(
        Exception, match=r"input_activation is torch.int8; this backend's kernels take torch.uint8|claimed"
    ):
        quantize(export(nn.Linear(16, 4), x), X86Quantizer("onnxruntime").set_global(CONFIG), x)


def test_missing_runtime_names_the_extra(monkeypatch):
    x = inputs_like(4, 16)
    model = export(Linear(), x)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[onnx\]"'):
        lower(model, (x,))


def test_importing_the_backend_imports_no_runtime():
    script = """
        import sys
        from quantizer_sdk.backends.x86 import BACKEND
        imported = {name.split(".")[0] for name in sys.modules}
        assert not imported & {"onnxruntime", "onnx", "onnx_ir", "torchao", "executorch"}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
