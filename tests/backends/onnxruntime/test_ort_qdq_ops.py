"""Every op of torch's `quantized_decomposed` and of our own, in every overload: ONNX Runtime gives eager's numbers.

Scales are powers of two, so that PT2E's product by the reciprocal and ONNX's division are the same number.
"""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.onnxruntime import export_onnx, load_onnx
from quantizer_sdk.backends.onnxruntime.translations import TRANSLATIONS

OPS, OWN = torch.ops.quantized_decomposed, torch.ops.quantizer_sdk
TINY = 1.1920929e-07


class Apply(nn.Module):
    """Runs a function with buffers."""

    def __init__(self, run, **buffers):
        super().__init__()
        self.run = run
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def program_of(module, inputs, export, folder, mode="portable", dynamic_shapes=None):
    path = folder / "model.onnx"
    export_onnx(export(module, *inputs, dynamic_shapes=dynamic_shapes), inputs, path, mode=mode)
    return load_onnx(path)


def per_tensor(dtype, low, high, zero_point=0):
    def run(self, x):
        qparams = (0.125, zero_point, low, high, dtype)
        codes = OPS.quantize_per_tensor.default(x, *qparams)
        return codes.int(), OPS.dequantize_per_tensor.default(codes, *qparams)

    return Apply(run)


def per_tensor_nodes(dtype, low, high, ends=False):
    def run(self, x):
        limits = (self.low, self.high) if ends else (low, high)
        operator = "tensor2" if ends else "tensor"
        qparams = (self.scale, self.zero_point, *limits, dtype)
        codes = getattr(OPS.quantize_per_tensor, operator)(x, *qparams)
        return codes.int(), getattr(OPS.dequantize_per_tensor, operator)(codes, *qparams)

    numbers = {"scale": torch.tensor([0.125]), "zero_point": torch.tensor([3], dtype=torch.int64)}
    return Apply(run, **numbers, low=torch.tensor(low), high=torch.tensor(high))


def per_channel(zeros=True):
    def run(self, x):
        qparams = (self.scale, self.zero_point, 1, -100, 120, torch.int8)
        codes = OPS.quantize_per_channel(x, *qparams)
        return codes.int(), OPS.dequantize_per_channel(
            codes, self.scale, self.zero_point if zeros else None, *qparams[2:]
        )

    return Apply(run, scale=2.0 ** torch.arange(-6, 2), zero_point=torch.arange(8) - 4)


def per_group(size=4, run_time=False):
    def run(self, x):
        scale = self.scale + (0 * x.sum() if run_time else 0)
        qparams = (scale, self.zero_point, -8, 7, torch.int8, size)
        codes = OPS.quantize_per_channel_group(x, *qparams)
        return codes.int(), OPS.dequantize_per_channel_group(codes, *qparams, torch.float32)

    zero_point = torch.tensor([[0, 1], [2, 0], [-3, 0]], dtype=torch.int32)
    return Apply(run, scale=2.0 ** torch.arange(-5, 1).reshape(3, 2), zero_point=zero_point)


def per_token(symmetric):
    def run(self, x):
        choose = OPS.choose_qparams_per_token if symmetric else OPS.choose_qparams_per_token_asymmetric
        scale, zero_point = choose(x, torch.int8)
        qparams = (scale, zero_point, -127 if symmetric else -128, 127, torch.int8)
        codes = OPS.quantize_per_token(x, *qparams)
        return codes.int(), OPS.dequantize_per_token(codes, *qparams, torch.float32), scale, zero_point

    return Apply(run)


def per_block(block):
    def run(self, x):
        scale, zero_point = OWN.choose_qparams_per_block(x, block, -128, 127, TINY, torch.int8)
        qparams = (block, scale, zero_point, -128, 127, torch.int8)
        codes = OWN.quantize_per_block(x, *qparams)
        return codes.int(), OWN.dequantize_per_block(codes, *qparams), scale, zero_point

    return Apply(run)


def chosen(choose, low, high, dtype, eps=TINY):
    def run(self, x):
        scale, zero_point = choose(x, low, high, eps, dtype)
        codes = OPS.quantize_per_tensor.tensor(x, scale, zero_point, low, high, dtype)
        return (
            codes.int(),
            OPS.dequantize_per_tensor.tensor(codes, scale, zero_point, low, high, dtype),
            scale,
            zero_point,
        )

    return Apply(run)


def fake_quantized():
    run = lambda self, x: OPS.fake_quant_per_channel(x, self.scale, self.zero_point, 1, -100, 100)  # noqa: E731
    return Apply(run, scale=2.0 ** torch.arange(-6, 2), zero_point=torch.arange(8, dtype=torch.int32))


def cast():
    return Apply(
        lambda self, x: OPS.convert_element_type.no_fuse(
            OPS.convert_element_type.no_fuse(x, torch.float16), torch.float32
        )
    )


AFFINE, SYMMETRIC = OPS.choose_qparams.tensor, OPS.choose_qparams_symmetric.tensor
CASES = {
    "per_tensor-uint8": lambda: per_tensor(torch.uint8, 0, 255, 131),
    "per_tensor-int8": lambda: per_tensor(torch.int8, -128, 127, -3),
    "per_tensor-uint8-7-bits": lambda: per_tensor(torch.uint8, 0, 127, 60),
    "per_tensor-int8-narrow": lambda: per_tensor(torch.int8, -8, 7, 1),
    "per_tensor-int16": lambda: per_tensor(torch.int16, -32768, 32767, 5),
    "per_tensor-uint16": lambda: per_tensor(torch.uint16, 0, 65535, 40000),
    "per_tensor.tensor-uint8": lambda: per_tensor_nodes(torch.uint8, 0, 255),
    "per_tensor.tensor-int8": lambda: per_tensor_nodes(torch.int8, -128, 127),
    "per_tensor.tensor2": lambda: per_tensor_nodes(torch.int8, -100, 90, ends=True),
    "per_channel": per_channel,
    "per_channel-no-zero-points": lambda: per_channel(zeros=False),
    "per_channel_group": per_group,
    "per_channel_group-run-time": lambda: per_group(run_time=True),
    "per_token": lambda: per_token(symmetric=False),
    "per_token-symmetric": lambda: per_token(symmetric=True),
    "per_block-rows": lambda: per_block([1, -1]),
    "per_block-tiles": lambda: per_block([3, 4]),
    "choose-uint8": lambda: chosen(AFFINE, 0, 255, torch.uint8),
    "choose-int8": lambda: chosen(AFFINE, -128, 127, torch.int8),
    "choose-7-bits": lambda: chosen(AFFINE, 0, 127, torch.uint8),
    "choose-coarse": lambda: chosen(AFFINE, 0, 255, torch.uint8, 0.25),
    "choose_symmetric-int8": lambda: chosen(SYMMETRIC, -127, 127, torch.int8),
    "choose_symmetric-uint8": lambda: chosen(SYMMETRIC, 0, 255, torch.uint8),
    "fake_quant_per_channel": fake_quantized,
    "convert_element_type": cast,
}


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reals_are_eagers(name, export, tmp_path):
    module, x = CASES[name](), torch.randn(3, 8) * 4
    program = program_of(module, (x,), export, tmp_path)
    expected = module(x)
    for actual, wanted in zip(program.run(x), expected if isinstance(expected, tuple) else (expected,), strict=True):
        # A scale that is computed from the data is any number: a tie may fall apart, on what is computed from it.
        torch.testing.assert_close(actual.double(), wanted.double().reshape(actual.shape), rtol=1e-6, atol=1e-6)


def test_every_op_of_the_library_has_a_translation():
    names = torch._C._dispatch_get_all_op_names()
    ops = [name for name in names if name.startswith(("quantized_decomposed::", "quantizer_sdk::"))]
    # ExecuTorch, where it is imported, adds ops of its own to the same namespace.
    torchs = [name for name in ops if not any(part in name for part in ("embedding", "::add", "mixed", "deviation"))]
    translated = {op.name() for op in TRANSLATIONS if hasattr(op, "name")}
    assert [name for name in torchs if name not in translated and name.split(".")[0] not in translated] == []
    assert len(torchs) >= 20


def test_codes_of_16_bits_ask_for_opset_21(export, tmp_path):
    x = torch.randn(3, 8)
    for dtype, ends, opset in ((torch.int16, (-32768, 32767), 21), (torch.uint8, (0, 255), 20)):
        program = program_of(per_tensor(dtype, *ends, 5), (x,), export, tmp_path)
        (version,) = [entry.version for entry in onnx.ModelProto.FromString(program.buffer).opset_import]
        assert version == opset


def weight_only(four, size, groups=True, zero=False):
    """A linear by a weight of few bits, and float activations."""
    low, high = (-8, 7) if four else (-127, 127)

    def run(self, x):
        if groups:
            qparams = (self.scale, self.zero_point, low, high, torch.int8, size)
            return F.linear(x, OPS.dequantize_per_channel_group(self.codes, *qparams, torch.float32), self.bias)
        weight = OPS.dequantize_per_channel(
            self.codes, self.scale[:, 0], self.zero_point[:, 0], 0, low, high, torch.int8
        )
        return F.linear(x, weight, self.bias)

    codes = torch.randint(low, high + 1, (6, 64), dtype=torch.int8)
    zero_point = torch.randint(-3, 4, (6, 64 // size), dtype=torch.int32) * zero
    return Apply(run, codes=codes, scale=torch.rand(6, 64 // size) + 0.1, zero_point=zero_point, bias=torch.randn(6))


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64)], ids=str)
@pytest.mark.parametrize("zero", [False, True], ids=["symmetric", "affine"])
@pytest.mark.parametrize(
    ("four", "size"), [(True, 32), (True, 16), (False, 32)], ids=["4-bits", "4-bits-of-16", "8-bits"]
)
def test_weights_by_groups_are_one_kernel_in_float(four, size, zero, shape, export, tmp_path):
    module, x = weight_only(four, size, zero=zero), torch.randn(shape)
    program = program_of(module, (x,), export, tmp_path, "ort")
    assert [kernel.name for kernel in program.kernels()] == ["MatMulNBits"]
    torch.testing.assert_close(program.run(x)[0], module(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("four", "size"), [(True, 32), (True, 8), (False, 32)], ids=["4-bits", "groups-of-8", "8-bits"]
)
def test_weights_by_groups_are_portable(four, size, export, tmp_path):
    module, x = weight_only(four, size), torch.randn(5, 64)
    program = program_of(module, (x,), export, tmp_path)
    model = onnx.ModelProto.FromString(program.buffer)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21}
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.INT4 in types) == four
    torch.testing.assert_close(program.run(x)[0], module(x), rtol=1e-5, atol=1e-4)


def test_a_weight_of_4_bits_takes_half_a_byte(export, tmp_path):
    module, x = weight_only(four=True, size=32), torch.randn(5, 64)
    for mode in ("ort", "portable"):
        model = onnx.ModelProto.FromString(program_of(module, (x,), export, tmp_path, mode).buffer)
        (weight,) = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) == 6 * 64 // 2]
        assert weight.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT8}


def test_an_8_bit_weight_of_float_activations_stays_8_bits_in_the_kernel(export, tmp_path):
    module, x = weight_only(four=False, size=64, groups=False), torch.randn(2, 3, 64)
    program = program_of(module, (x,), export, tmp_path, "ort")
    assert [kernel.name for kernel in program.kernels()] == ["MatMulNBits"]
    torch.testing.assert_close(program.run(x)[0], module(x), rtol=1e-5, atol=1e-4)


TABLES = {
    "rows": lambda self: OPS.dequantize_per_channel(self.codes, self.scale, self.zero, 0, -128, 127, torch.int8),
    "rows-affine": lambda self: OPS.dequantize_per_channel(self.codes, self.scale, self.some, 0, -128, 127, torch.int8),
    "columns": lambda self: OPS.dequantize_per_channel(
        self.codes, self.scale[:4], self.zero[:4], 1, -128, 127, torch.int8
    ),
    "tensor": lambda self: OPS.dequantize_per_tensor(self.codes, 0.25, 3, -128, 127, torch.int8),
    "groups": lambda self: OPS.dequantize_per_channel_group(
        self.codes, self.grid, None, -128, 127, torch.int8, 2, torch.float32
    ),
    "groups-affine": lambda self: OPS.dequantize_per_channel_group(
        self.codes, self.grid, self.places, -128, 127, torch.int8, 2, torch.float32
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_embeddings_look_integers_up(name, export, tmp_path):
    def run(self, ids):
        return F.embedding(ids, TABLES[name](self))

    grids = {"grid": torch.rand(9, 2), "places": torch.arange(18, dtype=torch.int32).reshape(9, 2) - 9}
    tables = {**grids, "codes": torch.randint(-128, 128, (9, 4), dtype=torch.int8), "scale": torch.rand(9)}
    module = Apply(run, **tables, zero=torch.zeros(9, dtype=torch.int64), some=torch.arange(9) - 4)
    ids = torch.tensor([[0, 8, 3], [4, 4, 1]])
    program = program_of(module, (ids,), export, tmp_path)
    assert any(kernel.integer for kernel in program.kernels() if kernel.name == "Gather")
    torch.testing.assert_close(program.run(ids)[0], module(ids), rtol=1e-6, atol=0)


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "affine"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["byte", "4bit", "2bit"])
def test_executorchs_own_embeddings_are_unpacked(kind, groups, zeros, export, tmp_path):
    pytest.importorskip("executorch.exir.passes._quant_patterns_and_replacements")
    low, high = {"byte": (-128, 127), "4bit": (-8, 7), "2bit": (-2, 1)}[kind]

    def run(self, ids):
        return getattr(OPS, f"embedding_{kind}")(self.codes, self.scale, self.zero_point, low, high, ids)

    dtype = torch.int8 if kind == "byte" else torch.uint8
    codes = torch.randint(-128, 128, (9, 4)).to(dtype) if kind == "byte" else torch.randint(0, 256, (9, 4), dtype=dtype)
    shape = (9,) if groups == 1 else (9, groups)
    module = Apply(run, codes=codes, scale=torch.rand(shape), zero_point=torch.ones(shape) if zeros else None)
    ids = torch.tensor([[0, 8, 3], [4, 4, 1]])
    program = program_of(module, (ids,), export, tmp_path)
    torch.testing.assert_close(program.run(ids)[0], module(ids), rtol=1e-6, atol=1e-7)
