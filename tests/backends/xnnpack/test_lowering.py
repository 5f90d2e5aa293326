"""Lowering to XNNPACK and running there, on models whose q/dq nodes are written by hand."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import nn

from quantizer_sdk.backend import Executable, strip_boundary
from quantizer_sdk.backends.executorch.program import _call_runtime
from quantizer_sdk.backends.xnnpack.lowering import lower
from quantizer_sdk.backends.xnnpack.payload import _kernels, decode_kernels
from quantizer_sdk.errors import LoweringError, MissingDependencyError

pytest.importorskip("executorch")

OPS = torch.ops.quantized_decomposed
IN = (0.03, 3, -128, 127, torch.int8)
OUT = (0.02, -100, -128, 127, torch.int8)
BATCH = torch.export.Dim("batch", min=1, max=6)


def quantize(x, qparams):
    return OPS.quantize_per_tensor.default(x, *qparams)


def dequantize(x, qparams):
    return OPS.dequantize_per_tensor.default(x, *qparams)


def round_trip(x, qparams):
    return dequantize(quantize(x, qparams), qparams)


def lsb(actual, expected, qparams=OUT):
    """The largest distance in steps of the integer grid."""
    return round(float((actual - expected).abs().max()) / qparams[0])


class Weight(nn.Module):
    """A per-channel int8 weight behind its dequantize node, and a float bias."""

    def __init__(self, *shape):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(*shape, generator=generator) * 0.2
        scale = weight.abs().flatten(1).amax(1) / 127
        column = scale.reshape(-1, *[1] * (len(shape) - 1))
        self.register_buffer("integers", (weight / column).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(shape[0], dtype=torch.int64))
        self.register_buffer("bias", torch.randn(shape[0], generator=generator) * 0.1)

    def forward(self):
        return OPS.dequantize_per_channel(self.integers, self.scale, self.zero_point, 0, -127, 127, torch.int8)


class ConvReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = Weight(8, 3, 3, 3)

    def forward(self, x):
        y = torch.conv2d(round_trip(x, IN), self.weight(), self.weight.bias, padding=1)
        return round_trip(torch.relu(y), OUT)


class Linear(nn.Module):
    def __init__(self, qparams_in=IN, qparams_out=OUT):
        super().__init__()
        self.weight = Weight(8, 16)
        self.qparams = (qparams_in, qparams_out)

    def forward(self, x):
        y = nn.functional.linear(round_trip(x, self.qparams[0]), self.weight(), self.weight.bias)
        return round_trip(y, self.qparams[1])


class DynamicLinear(Linear):
    def forward(self, x):
        limits = (-128, 127, torch.int8)
        qparams = OPS.choose_qparams.tensor(x, -128, 127, torch.finfo(torch.float32).eps, torch.int8)
        integers = OPS.quantize_per_tensor.tensor(x, *qparams, *limits)
        x = OPS.dequantize_per_tensor.tensor(integers, *qparams, *limits)
        return nn.functional.linear(x, self.weight(), self.weight.bias)


class FloatNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        y = self.linear(x)
        return torch.erf(y), torch.round(y), torch.erf(x)


class Branches(nn.Module):
    """The quantize node of `x` has two users with a dequantize each, `y` is quantized twice alike, `z` stays float."""

    def forward(self, x, y, z):
        integers = quantize(x, IN)
        a = round_trip(dequantize(integers, IN) + round_trip(y, IN), OUT)
        b = round_trip(dequantize(integers, IN) * round_trip(y, IN), OUT)
        return a, z + z, b


class GemmOfUnsupported(nn.Module):
    """A matmul by an int8 weight that XNNPACK cannot take, since an erf stands between."""

    def __init__(self):
        super().__init__()
        self.weight = Weight(8, 16)

    def forward(self, x):
        return x @ torch.erf(self.weight()).t()


def export(model, *inputs, dynamic_shapes=None):
    return torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic_shapes, strict=False).module()


def inputs_like(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets(model):
    return [str(node.target) for node in model.graph.nodes]


CASES = {
    "conv_relu": (ConvReLU, (2, 3, 9, 7), "Conv2d"),
    "linear": (Linear, (4, 16), "FullyConnected"),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """A converted model, its lowered program, its input, and the name of the one kernel that computes."""
    build, shape, kernel = CASES[request.param]
    x = inputs_like(*shape)
    model = export(build(), x)
    return model, lower(model, (x,)), x, kernel


@pytest.fixture(scope="module")
def float_case():
    x = inputs_like(4, 16)
    model = export(FloatNet(), x)
    return model, lower(model, (x,)), x


def test_converted_model_runs_within_one_lsb_of_eager(case):
    model, program, x, _ = case
    assert isinstance(program, Executable)
    (actual,) = program.run(x)
    assert actual.dtype == torch.float32
    assert lsb(actual, model(x)) <= 1


def test_converted_model_computes_on_integers(case):
    _, program, _, name = case
    kernels = program.kernels()
    assert [kernel.name for kernel in kernels if not kernel.conversion and kernel.name != "StaticTranspose"] == [name]
    assert all(kernel.integer != kernel.conversion for kernel in kernels)
    (computing,) = (kernel for kernel in kernels if kernel.name == name)
    assert computing.inputs == ("qint8", "qcint8", "qcint32")  # the float bias is serialized as integers
    assert computing.outputs == ("qint8",)
    first, last = kernels[0], kernels[-1]
    assert (first.inputs, first.outputs, last.inputs, last.outputs) == (("fp32",), ("qint8",), ("qint8",), ("fp32",))


def test_converted_model_is_delegated_whole(case):
    _, program, _, _ = case
    delegation = program.delegation()
    assert delegation.subgraphs == 1
    assert delegation.delegated >= 6
    assert delegation.non_delegated == ()


def test_integer_io_shows_the_integers_of_the_float_form(case):
    model, program, x, name = case
    integer = lower(model, (x,), integer_io=True)
    (actual,) = integer.run(quantize(x, IN))
    assert actual.dtype == torch.int8
    assert torch.equal(dequantize(actual, OUT), program.run(x)[0])
    assert name in {kernel.name for kernel in integer.kernels()}
    assert all(kernel.integer for kernel in integer.kernels())


def test_lowering_leaves_the_model_as_it_is():
    x = inputs_like(4, 16)
    model = export(Linear(), x)
    graph, expected = str(model.graph), model(x)
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    lower(model, (x,), integer_io=True).run(quantize(x, IN))
    assert str(model.graph) == graph
    assert torch.equal(model(x), expected)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor and torch.equal(tensor, copy) for name, (tensor, copy) in tensors.items())


@pytest.mark.parametrize("integer_io", [False, True])
def test_dynamic_batch_runs_below_and_up_to_the_bound(integer_io):
    shapes = ({0: BATCH},)
    example = inputs_like(3, 3, 8, 8)
    model = export(ConvReLU(), example, dynamic_shapes=shapes)
    program = lower(model, (example,), dynamic_shapes=shapes, integer_io=integer_io)
    for batch in (6, 1, 3, 2):
        x = inputs_like(batch, 3, 8, 8, seed=batch)
        (actual,) = program.run(quantize(x, IN) if integer_io else x)
        assert lsb(dequantize(actual, OUT) if integer_io else actual, model(x)) <= 1
    with pytest.raises(LoweringError, match="maximum capacity"):
        program.run(quantize(inputs_like(7, 3, 8, 8), IN) if integer_io else inputs_like(7, 3, 8, 8))


def test_second_export_keeps_no_guards_of_the_first():
    model = export(Linear(), inputs_like(4, 16))
    x = inputs_like(5, 16)
    assert lsb(lower(model, (x,)).run(x)[0], Linear()(x)) <= 1


def test_float_model_has_no_integer_kernels(float_case):
    model, program, x = float_case
    assert [kernel.name for kernel in program.kernels()] == ["FullyConnected"]
    assert not any(kernel.integer or kernel.conversion for kernel in program.kernels())
    torch.testing.assert_close(program.run(x), model(x))


def test_operators_outside_the_delegate_are_named(float_case):
    _, program, _ = float_case
    delegation = program.delegation()
    assert (delegation.subgraphs, delegation.delegated) == (1, 1)
    assert sorted(delegation.non_delegated) == ["aten.erf.default", "aten.erf.default", "aten.round.default"]


def test_dynamically_quantized_linear_is_no_integer_kernel_but_shows_its_dtypes():
    x = inputs_like(4, 16)
    convert, linear = lower(export(DynamicLinear(), x), (x,)).kernels()
    assert convert.conversion
    assert convert.outputs == ("qdint8",)
    assert (linear.inputs, linear.outputs) == (("qdint8", "qcint8", "fp32"), ("fp32",))
    assert not linear.integer


def test_only_the_bias_of_an_integer_kernel_may_be_float():
    dtypes = ("qint8", "qcint8", "fp32", "qint8")
    values = [{"xvalue_union": {"datatype": f"xnn_datatype_{dtype}", "id_out": i}} for i, dtype in enumerate(dtypes)]
    operands = {"input1_id": 0, "filter_id": 1, "output_id": 3, "flags": 0}
    unions = (operands | {"bias_id": 2}, operands | {"bias_id": 2**32 - 1}, operands | {"filter_id": 2, "bias_id": 2})
    nodes = [{"xnode_union_type": "XNNFullyConnected", "xnode_union": union} for union in unions]
    kernels = list(_kernels({"xvalues": values, "xnodes": nodes, "output_ids": [3]}))
    assert [kernel.integer for kernel in kernels] == [True, True, False]
    assert [len(kernel.inputs) for kernel in kernels] == [3, 2, 3]


def test_channels_last_input_is_read_in_the_order_of_its_dimensions():
    x = inputs_like(2, 3, 9, 7)
    channels_last = x.to(memory_format=torch.channels_last)
    program = lower(export(ConvReLU(), channels_last), (channels_last,))
    (expected,) = program.run(x)
    assert lsb(expected, ConvReLU()(x)) <= 1
    for same in (channels_last, x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(program.run(same)[0], expected)


def test_outputs_outlive_the_next_run(case):
    _, program, x, _ = case
    (first,) = program.run(x)
    copy = first.clone()
    (second,) = program.run(x * 0.5)
    assert not torch.equal(second, copy)
    assert torch.equal(first, copy)


def test_saved_program_is_loaded_by_the_runtime(case, tmp_path):
    from executorch.runtime import Runtime

    _, program, x, _ = case
    path = tmp_path / "model.pte"
    program.save(path)
    assert path.stat().st_size == program.size == len(program.buffer)
    outputs = Runtime.get().load_program(path).load_method("forward").execute([x])
    assert torch.equal(outputs[0], program.run(x)[0])


def test_what_xnnpack_refuses_at_load_names_the_node():
    def fail():
        os.write(2, b"[XNNCompiler.cpp:1262] Failed to create StaticConstantPad node 7 with code: xnn_status_invalid\n")
        raise RuntimeError("Failed to load method forward, error: 0x:1")

    with pytest.raises(LoweringError, match=r"load it: its delegate refuses the node StaticConstantPad with xnn_stat"):
        _call_runtime("load it", fail)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((), "Expected 1, but got 0"),
        ((torch.zeros(4, 16, dtype=torch.float64),), "expected Float but was Double"),
        ((torch.zeros(5, 16),), "resize a static tensor"),
    ],
    ids=["count", "dtype", "shape"],
)
def test_wrong_inputs_are_refused_with_the_runtimes_reason(float_case, capfd, inputs, reason):
    _, program, x = float_case
    with pytest.raises(LoweringError, match=reason):
        program.run(*inputs)
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"
    program.run(x)


def test_what_a_succeeding_call_prints_reaches_stderr_but_for_the_cpu_detection(capsys):
    def call():
        os.write(2, b"[cpuinfo_utils.cpp:71] Reading file\nfrom C\n")
        sys.stderr.write("from the bindings\n")
        return 3

    assert _call_runtime("be tested", call) == 3
    assert capsys.readouterr().err == "from the bindings\nfrom C\n"


def test_what_the_compiler_refuses_names_the_stage_and_the_cause():
    x = inputs_like(4, 16)
    with pytest.raises(LoweringError, match=r"compiling it .* Missing out variants.*dequantize_per_channel") as caught:
        lower(export(GemmOfUnsupported(), x), (x,))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_bytes_that_are_no_program_cannot_be_decoded(case):
    _, program, _, _ = case
    for damaged in (b"", b"no program at all", program.buffer[: program.size // 2]):
        with pytest.raises(LoweringError, match="cannot decode"):
            decode_kernels(damaged)


def test_strip_boundary_takes_every_kind_of_user():
    x, y, z = (inputs_like(2, 5, seed=seed) for seed in range(3))
    model = export(Branches(), x, y, z)
    before = targets(model)
    stripped, examples = strip_boundary(model, (x, y, z))
    assert targets(model) == before
    assert [example.dtype for example in examples] == [torch.int8, torch.int8, torch.float32]
    assert torch.equal(examples[0], quantize(x, IN))
    placeholders = stripped.graph.find_nodes(op="placeholder")
    assert [node.meta["val"].dtype for node in placeholders] == [example.dtype for example in examples]
    a, twice, b = stripped(*examples)
    assert torch.equal(dequantize(a, OUT), model(x, y, z)[0])
    assert torch.equal(twice, z + z)
    assert torch.equal(dequantize(b, OUT), model(x, y, z)[2])
    quantizes = [name for name in targets(stripped) if name.startswith("quantized_decomposed.quantize")]
    assert len(quantizes) == 2  # of the results


def test_strip_boundary_keeps_what_is_used_as_float_too():
    class Residual(nn.Module):
        def forward(self, x, y):
            return x + round_trip(x, IN), round_trip(y, IN) + round_trip(y, OUT)

    x, y = inputs_like(2, 5), inputs_like(2, 5)
    model = export(Residual(), x, y)
    stripped, examples = strip_boundary(model, (x, y))
    assert [example.dtype for example in examples] == [torch.float32, torch.float32]
    assert all(torch.equal(s, m) for s, m in zip(stripped(x, y), model(x, y), strict=True))


def test_integer_io_runs_with_several_inputs_and_outputs():
    x, y, z = (inputs_like(2, 5, seed=seed) for seed in range(3))
    model = export(Branches(), x, y, z)
    a, twice, b = lower(model, (x, y, z), integer_io=True).run(quantize(x, IN), quantize(y, IN), z)
    expected = model(x, y, z)
    assert (a.dtype, twice.dtype, b.dtype) == (torch.int8, torch.float32, torch.int8)
    assert lsb(dequantize(a, OUT), expected[0]) <= 1
    assert lsb(dequantize(b, OUT), expected[2]) <= 1
    assert torch.equal(twice, expected[1])


def test_strip_boundary_counts_the_examples():
    with pytest.raises(LoweringError, match="takes 1 inputs; 2 examples"):
        strip_boundary(export(Linear(), inputs_like(4, 16)), (torch.zeros(4, 16), torch.zeros(4, 16)))


def test_missing_executorch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[xnnpack\]"'):
        lower(export(Linear(), inputs_like(4, 16)), (inputs_like(4, 16),))


def test_first_use_is_quiet_leaves_logging_alone_and_imports_executorch_only_then():
    script = """
        import logging, sys, warnings
        import torch
        from quantizer_sdk.backends.xnnpack import lowering, payload
        assert not any(name.split(".")[0] in ("executorch", "torchao") for name in sys.modules)
        x = torch.zeros(1, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.export.export(torch.nn.Linear(4, 4), (x,)).module()
        program = lowering.lower(model, (x,))
        program.run(x)
        program.kernels()
        root = logging.getLogger()
        assert (root.handlers, root.filters, root.level) == ([], [], logging.WARNING)
        assert all(logging.getLogger(name).level == logging.NOTSET for name in ("executorch", "torchao"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
