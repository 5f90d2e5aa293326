"""Each known trap of the kernels that eager torch calls, which a user of this route could step into."""

import gc
import weakref

import pytest
import torch
from quantized_models import GEMMS, OPS, Linear, Run, names, on_codes, quantized, through
from random_codes import rand
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.onednn import lower_eager, packing

KERNELS = torch.ops.quantizer_sdk_x86


def test_a_buffer_that_is_added_is_not_overwritten_by_the_calls(export):
    """Inductor adds float outputs in place: the second call then adds the first call's result."""
    module = Run(lambda self, x: self.linear(x) + self.buffer, linear=nn.Linear(32, 64), buffer=rand(600, 64))
    x = rand(600, 32)
    model = quantized(export, module, x)
    program = lower_eager(model, (x,))
    expected = model(x)
    for _ in range(3):
        torch.testing.assert_close(program.run(x)[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(program.module.state_dict()["buffer"], rand(600, 64))


@pytest.mark.parametrize("rows", [3, 600])
def test_what_is_added_to_a_linear_layer_need_not_lie_in_order(rows):
    """oneDNN's binary "add" reads the memory of a tensor of three axes from end to end."""
    linear = Linear(32, 64)
    x, other = torch.randint(0, 256, (2, rows, 32), dtype=torch.uint8), rand(rows, 2, 64).transpose(0, 1)
    operands = (x, 0.02, 100, linear.weight, linear.scale, linear.bias, 1.0, 0, torch.float32, "none", [], "")
    expected = KERNELS.linear(*operands, None, 1.0, 0) + other
    assert torch.equal(KERNELS.linear(*operands, other, 1.0, 0), expected)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("rows", [3, 600])
def test_codes_are_added_to_a_linear_layer_by_what_they_stand_for(rows, relu):
    """oneDNN's binary "add" takes uint8 codes for numbers: 118 codes off."""
    linear = Linear(32, 64)
    x, other = (torch.randint(0, 256, (rows, width), dtype=torch.uint8) for width in (32, 64))
    operands = (x, 0.02, 100, linear.weight, linear.scale, linear.bias)
    activation = "relu" if relu else "none"
    found = KERNELS.linear(*operands, 0.3, 90, torch.uint8, activation, [], "", other, 0.2, 7)
    real = KERNELS.linear(*operands, 1.0, 0, torch.float32, "none", [], "", None, 1.0, 0)
    real = real + (other.float() - 7) * torch.tensor(0.2)
    real = real.relu() if relu else real
    assert torch.equal(found, (real * (1 / torch.tensor(0.3)) + 90).round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("count", [15, 16, 127, 128, 129, 40_000])
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_every_element_of_a_sum_or_product_rounds_alike(kind, count):
    """onednn.qadd is wrong from 16 elements on; quantized.add rounds those that fill no vector otherwise."""
    generator = torch.Generator().manual_seed(count)
    a, b = (torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator) for _ in range(2))
    (sa, za), (sb, zb), (so, zo) = (0.25, 131), (0.125, 117), (0.5 if kind == "add" else 8.0, 127)
    x, y = (a.float() - za) * sa, (b.float() - zb) * sb
    real = x + y if kind == "add" else x * y
    expected = (torch.round(real / so) + zo).clamp(0, 255).to(torch.uint8)
    assert torch.equal(getattr(KERNELS, kind)(a, sa, za, b, sb, zb, so, zo, False), expected)


@pytest.mark.parametrize("outputs", [1, 9, 300])
@pytest.mark.parametrize("rows", [1, 36, 400])
def test_layers_of_one_input_are_right(rows, outputs):
    """torch._int_mm misreads the strides of matrices of one column."""
    x = torch.randint(0, 256, (rows, 1), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outputs, 1)).to(torch.int8)
    operands = (x, 1.0, 7, weight, torch.ones(outputs), None, 1.0, 0, torch.float32, "none", [], "", None, 1.0, 0)
    assert torch.equal(KERNELS.linear(*operands), (x.float() - 7) * weight.float().t())


@pytest.mark.parametrize("zero", ["all", "one"])
def test_weights_with_zero_points_stay_float(export, zero):
    """The kernels ignore a weight's zero point."""
    linear = Linear()
    linear.zero_point[:] = torch.where(torch.arange(24) == 3, 5, 5 if zero == "all" else 0)
    x = rand(6, 16)
    program = lower_eager(export(Run(lambda self, x: self.linear(through(x, 0.02, 100)), linear=linear), x), (x,))
    torch.testing.assert_close(program.run(x)[0], linear(through(x, 0.02, 100)), rtol=1e-5, atol=1e-5)
    assert not set(names(program)) & GEMMS


def test_int8_pooling_runs_on_uint8(export):
    """Max pooling of int8 codes crashes in compiled code."""
    x = rand(1, 4, 8, 8)
    signed = (0.02, -7, -128, 127, torch.int8)
    program = lower_eager(export(Run(lambda _, x: through(F.max_pool2d(through(x, *signed), 2), *signed)), x), (x,))
    assert torch.equal(program.run(x)[0], through(F.max_pool2d(through(x, *signed), 2), *signed))
    assert "quantized.max_pool2d" in names(program)


def test_transposed_convolutions_stay_float(export):
    """Quantized transposed convolutions are off by up to the whole range of codes."""

    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.randint(-127, 128, (4, 6, 3, 3)).to(torch.int8))

        def forward(self, x):
            weight = OPS.dequantize_per_tensor(self.codes, 0.01, 0, -127, 127, torch.int8)
            return through(F.conv_transpose2d(through(x, 0.02, 100), weight, stride=2), 0.05, 128)

    x, module = rand(1, 4, 6, 6), Up()
    program = lower_eager(export(module, x), (x,))
    assert torch.equal(program.run(x)[0], module(x))
    assert "aten.convolution" in program.delegation().non_delegated


MOVES = {
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "flip": lambda x: x.flip(3),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1),
    "stack": lambda x: torch.stack([x, x.transpose(2, 3)]),
    "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "pad_with_a_number": lambda x: F.pad(x, (1, 1), value=0.42),
}


@pytest.mark.parametrize("move", MOVES)
def test_whatever_moves_elements_moves_codes(export, move):
    x = rand(2, 8, 6, 6)
    model = export(Run(lambda _, x: through(MOVES[move](through(x, 0.021, 117)), 0.021, 117)), x)
    program = on_codes(model, x, step=0)
    assert all(kernel.integer or kernel.moves for kernel in program.kernels())


def test_ops_that_write_into_what_others_read_are_left_as_they_are(export):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = Linear(16, 16)

        def forward(self, x):
            x = through(x, 0.02, 100)
            y = self.linear(x)
            z = y.view(-1)
            z.relu_()
            return through(y, 0.05, 20), through(self.linear(through(y, 0.05, 20)) + z.reshape(y.shape), 0.1, 100)

    x, module = rand(6, 16), Writes()
    program = lower_eager(export(module, x), (x,))
    for one, other in zip(program.run(x), module(x), strict=True):
        assert (one - other).abs().max() <= 0.11  # a step of codes


def test_state_that_the_graph_writes_is_the_programs_own(export):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = Linear()
            self.register_buffer("calls", torch.zeros(24))

        def forward(self, x):
            self.calls.add_(1.0)
            return self.linear(through(x, 0.02, 100)) + self.calls

    x = rand(6, 16)
    model = export(Counts(), x)
    program = lower_eager(model, (x,))
    first, second = program.run(x)[0], program.run(x)[0]
    torch.testing.assert_close(second - first, torch.ones_like(first), rtol=1e-4, atol=1e-4)
    assert not model.get_buffer("calls").any()


def test_branches_keep_their_tensors(export):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.after = Linear(), nn.Linear(24, 24)

        def forward(self, x):
            y = self.linear(through(x, 0.02, 100))
            return torch.cond(y.sum() > 0, self.after, lambda t: t - 1.0, (y,))

    x, module = rand(6, 16), Branches()
    program = lower_eager(export(module, x), (x,))
    torch.testing.assert_close(program.run(x)[0], module(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(program.run(-x)[0], module(-x), rtol=1e-4, atol=1e-4)


def test_mixed_models_of_bfloat16_run(export):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = Linear()

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return F.softmax(self.linear(through(x, 0.02, 100)), -1)

    x, module = rand(6, 16), Mixed()
    program = lower_eager(export(module, x), (x,))
    torch.testing.assert_close(program.run(x)[0], module(x), rtol=1e-2, atol=1e-2)


def test_packed_weights_go_when_the_model_goes():
    weight = torch.randint(-127, 128, (64, 32)).to(torch.int8)
    x = torch.randint(0, 256, (600, 32), dtype=torch.uint8)
    rest = (torch.ones(64), None, 1.0, 0, torch.float32, "none", [], "", None, 1.0, 0)
    KERNELS.linear(x, 1.0, 7, weight, *rest)
    gone, place = weakref.ref(weight), id(weight)
    assert packing._ENTRIES[place].tensor() is weight
    del weight
    gc.collect()
    assert gone() is None
    assert place not in packing._ENTRIES


OPERANDS = {
    "conv": lambda u8, s8: (
        *(u8(2, 8, 6, 6), 0.1, 7, s8(16, 8, 3, 3), torch.rand(16), torch.rand(16), [1, 1], [1, 1], [1, 1]),
        *(1, 0.5, 9, torch.uint8, "relu", [], u8(2, 16, 6, 6), 0.2, 3),
    ),
    "linear": lambda u8, s8: (
        *(u8(2, 40, 16), 0.1, 7, s8(64, 16), torch.rand(64), None, 0.5, 9, torch.uint8, "none", [], ""),
        *(None, 1.0, 0),
    ),
    "add": lambda u8, _: (u8(2, 8, 6, 6), 0.1, 7, u8(2, 8, 1, 6), 0.2, 9, 0.3, 5, True),
    "mul": lambda u8, _: (u8(2, 8, 6, 6), 0.1, 7, u8(2, 8, 6, 6), 0.2, 9, 0.3, 5, False),
    "max_pool": lambda u8, _: (u8(2, 8, 6, 6), [3, 3], [2, 2], [1, 1], [1, 1], True),
    "mean": lambda u8, _: (u8(2, 8, 6, 6), 0.1, 7, [2, 3], True, 0.2, 9),
    "look_up": lambda u8, _: (u8(2, 8, 6, 6)[:, ::2], u8(256)),
    "quantize": lambda _, __: (torch.randn(2, 3, 4), 0.1, 7, 0, 200),
    "dequantize": lambda u8, _: (u8(2, 3, 4), 0.1, 7),
    "dequantize_channels": lambda _, s8: (s8(4, 3, 2), torch.rand(4), 0),
    "quantize_at_run_time": lambda _, __: (torch.randn(2, 3, 4), True, 0, 255, 1e-7),
    "linear_at_run_time": lambda u8, s8: (
        *(u8(5, 16), torch.rand(5, 1), torch.ones(5, 1, dtype=torch.int32), s8(8, 16)),
        *(torch.rand(8), None, "none", [], "", None),
    ),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_ops_keep_torchs_rules_of_ops(name):
    operands = OPERANDS[name](
        lambda *shape: torch.randint(0, 256, shape, dtype=torch.uint8),
        lambda *shape: torch.randint(-127, 128, shape).to(torch.int8),
    )
    torch.library.opcheck(getattr(KERNELS, name).default, operands)
