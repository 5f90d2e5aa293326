"""What is lowered to what: every form runs on the kernels that it should, and gives the graph's numbers."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from quantized_models import GEMMS, OPS, Linear, Run, names, on_codes, quantized, through
from random_codes import rand
from torch import nn
from torch.export import Dim
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError, NotExportedError
from quantizer_sdk.backends.onednn import load, lower_eager

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu_": torch.relu_,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "clamp": lambda x: x.clamp(-0.3, 2.0),
    "clamp_min": lambda x: x.clamp(min=-0.3),
    "hardswish": F.hardswish,
    "silu": F.silu,
}
LINEAR_ONLY = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
LAYERS = {
    "conv1d": (lambda: nn.Conv1d(8, 16, 3, padding=1), (2, 8, 20)),
    "conv2d": (lambda: nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 10, 10)),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), (2, 16, 10, 10)),
    "grouped": (lambda: nn.Conv2d(16, 16, 3, dilation=2, groups=4), (1, 16, 10, 10)),
    "same": (lambda: nn.Conv2d(8, 16, 3, padding="same"), (1, 8, 10, 10)),
    "same_even": (lambda: nn.Conv2d(8, 16, (2, 3), dilation=(1, 2), padding="same"), (1, 8, 10, 10)),
    "conv3d": (lambda: nn.Conv3d(4, 8, 3, padding=1), (1, 4, 6, 6, 6)),
    "linear": (lambda: nn.Linear(32, 24), (5, 32)),
    "linear3d": (lambda: nn.Linear(32, 24, bias=False), (2, 5, 32)),
    "many_rows": (lambda: nn.Linear(32, 64), (3, 200, 32)),
}


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_gemms_take_what_follows_them(export, layer, activation, results):
    make, shape = LAYERS[layer]
    module = Run(lambda self, x: ACTIVATIONS[activation](self.layer(x)), layer=make())
    program = on_codes(quantized(export, module, rand(*shape), quantize_results=results), rand(*shape))
    kernels = program.kernels()
    (gemm,) = [kernel for kernel in kernels if kernel.name in GEMMS]
    assert gemm.inputs == ("uint8", "int8")
    assert gemm.outputs == (("uint8",) if results else ("float32",))
    assert all(kernel.moves or kernel.integer or kernel is gemm for kernel in kernels)
    assert program.delegation().non_delegated == ()


@pytest.mark.parametrize("activation", LINEAR_ONLY)
def test_linear_layers_take_more(export, activation):
    module = Run(lambda self, x: LINEAR_ONLY[activation](self.layer(x)), layer=nn.Linear(32, 64))
    model = quantized(export, module, rand(300, 32), quantize_results=True)
    assert names(on_codes(model, rand(300, 32))) == ["onednn.qlinear_pointwise"]


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("layer", ["conv1d", "conv2d", "conv3d", "linear", "many_rows"])
def test_gemms_add_a_residual_in_one_kernel_and_leave_it_as_it_was(export, layer, results, rectified):
    make, shape = LAYERS[layer]
    last = make()
    addend = last(torch.zeros(shape)).shape
    module = Run(lambda self, x, y: (F.relu if rectified else nn.Identity())(self.layer(x) + y), layer=last)
    inputs = (rand(*shape), rand(*addend, seed=1))
    model = quantized(export, module, *inputs, quantize_results=results)
    program = on_codes(model, *inputs)
    assert len([name for name in names(program) if name in GEMMS]) == 1
    assert not any("add" in name for name in names(program))
    codes = program.example_inputs
    before = [tensor.clone() for tensor in codes]
    once, again = program.run(*codes), program.run(*codes)
    assert all(torch.equal(a, b) for a, b in zip(codes, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize(("pads", "apart"), [((1, 1, 2, 2), False), ((1, 1), False), ((0, 1, 0, 1), True)])
def test_convolutions_pad_by_themselves_where_padding_is_even(export, pads, apart):
    module = Run(lambda self, x: F.relu(self.layer(F.pad(x, pads))), layer=nn.Conv2d(4, 8, 3, padding=(0, 1)))
    program = on_codes(quantized(export, module, rand(1, 4, 9, 9), quantize_results=True), rand(1, 4, 9, 9))
    assert ("aten.constant_pad_nd" in {kernel.name for kernel in program.kernels()}) == apart
    assert names(program) == ["onednn.qconv_pointwise"]


FORMS = {
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), ["quantized.max_pool2d"]),
    "max_pool_ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), ["quantized.max_pool2d"]),
    "views": (lambda x: x.flatten(1).reshape(2, 4, -1).transpose(1, 2).unsqueeze(0).permute(0, 2, 1, 3), []),
    "slices": (lambda x: x[:, 1:5, ::2].select(3, 0), []),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1)), []),
    "cat": (lambda x: torch.cat([x, x.transpose(2, 3)], 1), []),
}
BETWEEN = {
    "mean": (lambda x: x.mean((2, 3)), ["quantizer_sdk_x86.mean"]),
    "global_pool": (lambda x: F.adaptive_avg_pool2d(x, 1), ["quantizer_sdk_x86.mean"]),
    "add": (lambda x: x + x.transpose(2, 3), ["quantized.add"]),
    "add_relu": (lambda x: F.relu(x + x.transpose(2, 3)), ["quantized.add_relu"]),
    "add_relu6": (lambda x: F.hardtanh(x + x.transpose(2, 3), -0.4, 0.6), ["quantized.add", "aten.clamp"]),
    "mul": (lambda x: x * x.transpose(2, 3), ["quantized.mul"]),
    "broadcast": (lambda x: x * x[:, :, :1, :1], ["quantized.mul"]),
    "requantize": (lambda x: x.flatten(1), ["quantizer_sdk_x86.look_up"]),
    "add_number": (lambda x: x + 1.0, ["quantizer_sdk_x86.look_up"]),
    "functions": (lambda x: torch.sigmoid(x * 2.0).exp(), ["quantizer_sdk_x86.look_up"]),
}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("form", [*FORMS, *BETWEEN])
def test_what_is_no_gemm_runs_on_codes(export, form, narrow):
    function, expected = {**FORMS, **BETWEEN}[form]
    taken = (0.021, 117)
    given = taken if form in FORMS else (0.033, 90)
    ends = (0, 200) if narrow else (0, 255)
    x = rand(2, 8, 10, 10)
    model = export(Run(lambda _, x: through(function(through(x, *taken)), *given, *ends)), x)
    program = on_codes(model, x, step=0)
    found = [name for name in names(program) if name != "aten.clamp"]
    assert found == [name for name in expected if name != "aten.clamp"]
    assert ("aten.clamp" in names(program)) == (
        "aten.clamp" in expected or (narrow and "quantizer_sdk_x86.look_up" not in expected)
    )
    assert all(kernel.integer or kernel.moves for kernel in program.kernels())


def test_windows_that_have_no_right_kernel_are_averaged_in_float_and_named(export):
    x = rand(2, 8, 10, 10)
    model = export(Run(lambda _, x: through(F.avg_pool2d(through(x, 0.021, 117), 2), 0.033, 90)), x)
    program = on_codes(model, x, step=0)
    assert "aten.avg_pool2d" in program.delegation().non_delegated


def chain(self, x):
    x = F.relu(self.first(x))
    y = F.max_pool2d(x, 2)
    z = F.relu(self.second(y) + y)
    return self.last(torch.cat([z, y], 1).flatten(1))


def network():
    return Run(
        chain,
        first=nn.Conv2d(3, 8, 3, padding=1),
        second=nn.Conv2d(8, 8, 3, padding=1),
        last=nn.Linear(16 * 16, 10),
    )


def test_a_chain_stays_on_codes_from_the_first_quantize_to_the_last_gemm(export):
    x = rand(2, 3, 8, 8)
    program = lower_eager(quantized(export, network(), x), (x,))
    assert names(program) == [
        "quantizer_sdk_x86.quantize",
        "onednn.qconv_pointwise",
        "quantized.max_pool2d",
        "onednn.qconv2d_pointwise",
        "aten._int_mm",
    ]


def lowered(export, **options):
    x = rand(4, 3, 8, 8)
    batch = ({0: Dim("batch", min=1, max=64)},)
    model = quantized(lambda m, *inputs: export(m, *inputs, dynamic_shapes=(batch,)), network(), x)
    return lower_eager(model, (x,), dynamic_shapes=batch, **options), x


def test_a_program_copies_pickles_saves_and_loads_with_any_batch(export, tmp_path):
    program, x = lowered(export)
    expected = program.run(x)[0]
    for module in (copy.deepcopy(program.module), pickle.loads(pickle.dumps(program.module))):
        assert torch.equal(module(x), expected)
        assert torch.equal(module(x[:1]), expected[:1])
        assert list(module.state_dict()) == list(program.module.state_dict())
    program.save(tmp_path / "program.pt2")
    loaded = load(tmp_path / "program.pt2")
    assert torch.equal(loaded.run(x)[0], expected)
    assert torch.equal(loaded.run(x[:3])[0], expected[:3])
    assert loaded.kernels() == program.kernels()


def test_a_pickled_module_runs_in_another_process_that_imports_nothing_of_ours(export, tmp_path):
    program, x = lowered(export)
    with (tmp_path / "module").open("wb") as file:
        pickle.dump((program.module, x, program.run(x)[0]), file)
    script = "import pickle, sys, torch; m, x, y = pickle.load(open(sys.argv[1], 'rb')); assert torch.equal(m(x), y)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "module")], check=True)


def test_a_program_compiles_whole(export):
    program, x = lowered(export)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(program.module, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), program.run(x)[0], rtol=0, atol=0)


def test_gradients_and_inference_mode_change_nothing(export):
    program, x = lowered(export)
    expected = program.run(x)[0]
    assert torch.equal(program.module(x), expected)
    assert not program.module(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(program.module(x), expected)
    assert torch.equal(program.run(x)[0], expected)


def test_weights_that_are_written_into_are_packed_anew(export):
    program, x = lowered(export)
    before = program.run(x)[0]
    state = {name: tensor.clone() for name, tensor in program.module.state_dict().items()}
    for name in ("second.weight", "last.weight"):
        program.module.state_dict()[name].neg_()
        assert not torch.equal(program.run(x)[0], before)
        program.module.load_state_dict(state)
        assert torch.equal(program.run(x)[0], before)
    other = {name: tensor.neg() if name.endswith("weight") else tensor for name, tensor in state.items()}
    program.module.load_state_dict(other, assign=True)
    assert not torch.equal(program.run(x)[0], before)


def test_the_state_holds_int8_and_a_quarter_of_the_bytes(export):
    module = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 32))
    x = rand(1, 32, 8, 8)
    program = lower_eager(quantized(export, module, x), (x,))
    wide = [
        name for name, tensor in program.module.state_dict().items() if tensor.is_floating_point() and tensor.dim() > 1
    ]
    assert wide == []
    assert program.size <= 0.27 * sum(4 * parameter.numel() for parameter in module.parameters())


def test_the_converted_model_stays_as_it_was(export):
    x = rand(4, 3, 8, 8)
    model = quantized(export, network(), x)
    code, state, expected = model.code, {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    lower_eager(model, (x,)).run(x)
    assert model.code == code
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(model(x), expected)


def test_torchs_warning_of_quantized_tensors_is_not_shown(export):
    program, x = lowered(export)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program.run(x)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "strided"])
def test_any_layout_of_the_input_gives_the_same(export, layout):
    program, x = lowered(export)
    expected = program.run(x.contiguous())[0]
    made = {
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "contiguous": lambda: x,
        "strided": lambda: torch.stack([x, x], -1)[..., 0],
    }[layout]()
    torch.testing.assert_close(program.run(made)[0], expected, rtol=0, atol=0)


def test_an_empty_batch_gives_an_empty_result(export):
    program, x = lowered(export)
    assert program.run(x[:0])[0].shape == (0, 10)


def test_one_image_without_a_batch_axis_is_convolved(export):
    layer = nn.Conv2d(4, 8, 3, padding=1)

    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            codes = torch.randint(-127, 128, layer.weight.shape).to(torch.int8)
            self.register_buffer("codes", codes)
            self.register_buffer("scale", torch.rand(8) * 0.01)
            self.register_buffer("zero_point", torch.zeros(8, dtype=torch.int64))

        def forward(self, x):
            weight = OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, 0, -128, 127, torch.int8)
            return through(F.conv2d(through(x, 0.02, 100), weight, padding=1), 0.05, 128)

    x = rand(4, 6, 6)
    assert names(on_codes(export(Unbatched(), x), x)) == ["onednn.qconv_pointwise"]


def test_int8_activations_become_uint8_and_the_boundary_stays_int8(export):
    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = Linear()

        def forward(self, x):
            x = through(x, 0.02, -7, -128, 127, torch.int8)
            return through(self.linear(x), 0.05, 3, -128, 127, torch.int8)

    x, signed = rand(6, 16), Signed()
    model = export(signed, x)
    program = lower_eager(model, (x,), integer_io=True)
    codes = torch.randint(-128, 128, (6, 16)).to(torch.int8)
    found = program.run(codes)[0]
    real = signed.linear(OPS.dequantize_per_tensor(codes, 0.02, -7, -128, 127, torch.int8))
    expected = OPS.quantize_per_tensor(real, 0.05, 3, -128, 127, torch.int8)
    assert found.dtype is torch.int8
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found != expected).sum() <= 1
    assert [kernel.inputs for kernel in program.kernels() if kernel.name in GEMMS] == [("uint8", "int8")]


def weighted(form):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            codes = torch.randint(-127, 128, (24, 16)).to(torch.int8)
            self.register_buffer("codes", (codes.short() + 128).to(torch.uint8) if form == "uint8" else codes)
            if form == "axis 1":
                self.codes = codes.t().contiguous()
            self.register_buffer("scale", torch.rand(24) * 0.01)
            self.register_buffer("zero_point", torch.full((24,), 128 if form == "uint8" else 0))
            self.register_buffer("bias", torch.randint(-999, 999, (24,), dtype=torch.int32))

        def forward(self, x):
            x = through(x, 0.02, 100)
            bias = OPS.dequantize_per_tensor(self.bias, 0.001, 0, -(2**31), 2**31 - 1, torch.int32)
            if form == "per tensor":
                weight = OPS.dequantize_per_tensor(self.codes, 0.004, 0, -127, 127, torch.int8)
                return F.linear(x, weight, bias)
            if form == "uint8":
                weight = OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, 0, 1, 255, torch.uint8)
                return F.linear(x, weight, bias)
            axis = 1 if form == "axis 1" else 0
            weight = OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, axis, -127, 127, torch.int8)
            return torch.addmm(bias, x, weight if form == "axis 1" else weight.t())

    return Weighted()


@pytest.mark.parametrize("form", ["per tensor", "uint8", "axis 1", "transposed"])
def test_weights_of_other_forms_are_brought_into_the_kernels_own(export, form):
    x = rand(6, 16)
    assert names(on_codes(export(weighted(form), x), x)) == ["aten._int_mm"]


@pytest.mark.parametrize("options", [{"is_dynamic": True}, {"is_dynamic": True, "is_per_token": True}])
@pytest.mark.parametrize("rows", [3, 700])
def test_linear_layers_quantize_at_run_time(export, options, rows):
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    x = rand(2, rows, 16) * torch.logspace(-2, 1, rows).reshape(-1, 1)
    model = quantized(export, module, x, **options)
    program = lower_eager(model, (x,))
    torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-3, atol=1e-4)
    assert len([name for name in names(program) if name in GEMMS]) == 2
    assert all(kernel.inputs == ("uint8", "int8") for kernel in program.kernels() if kernel.name in GEMMS)


def test_layers_that_share_an_activation_quantize_it_once(export):
    module = Run(lambda self, x: self.a(x) + self.b(x), a=nn.Linear(16, 8), b=nn.Linear(16, 8))
    program = lower_eager(quantized(export, module, rand(5, 16), is_dynamic=True), (rand(5, 16),))
    assert names(program).count("quantizer_sdk_x86.quantize_at_run_time") == 1


def test_constant_data_has_some_scale_at_run_time(export):
    model = quantized(export, nn.Linear(16, 8), rand(5, 16), is_dynamic=True)
    program = lower_eager(model)
    torch.testing.assert_close(program.run(torch.zeros(5, 16))[0], model.get_parameter("bias").detach().expand(5, 8))


def test_static_and_dynamic_layers_live_in_one_model(export):
    from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

    static = get_default_x86_quantization_config(reduce_range=False)
    dynamic = get_default_x86_quantization_config(is_dynamic=True, reduce_range=False)
    module = Run(lambda self, x: self.b(F.gelu(self.a(x))) + self.a(x), a=nn.Linear(32, 32), b=nn.Linear(32, 32))
    quantizer = X86Quantizer("onednn").set_global(static).set_module_name("b", dynamic)
    x = rand(600, 32)
    model = quantized(export, module, x, quantizer=quantizer)
    program = lower_eager(model, (x,))
    for _ in range(2):
        torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-3, atol=1e-3)
    assert len([name for name in names(program) if name in GEMMS]) == 3


def test_one_weight_serves_static_and_dynamic_calls():
    weight = torch.randint(-127, 128, (64, 32)).to(torch.int8)
    scale, ops = torch.rand(64), torch.ops.quantizer_sdk_x86
    x = torch.randint(0, 256, (600, 32), dtype=torch.uint8)
    for _ in range(2):
        static = ops.linear(x, 0.5, 7, weight, scale, None, 1.0, 0, torch.float32, "none", [], "", None, 1.0, 0)
        one = (torch.tensor([0.5]), torch.tensor([7], dtype=torch.int32))
        assert torch.equal(ops.linear_at_run_time(x, *one, weight, scale, None, "none", [], "", None), static)
        rows = (torch.full((600, 1), 0.5), torch.full((600, 1), 7, dtype=torch.int32))
        assert torch.equal(ops.linear_at_run_time(x, *rows, weight, scale, None, "none", [], "", None), static)


def test_weights_alone_are_stored_as_int8_and_computed_in_float(export):
    x = rand(5, 16)
    model = quantized(export, nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 8)), x, is_weight_only=True)
    program = lower_eager(model, (x,))
    assert torch.equal(program.run(x)[0], model(x))
    assert {str(t.dtype) for n, t in program.module.state_dict().items() if n.endswith("weight")} == {"torch.int8"}
    assert names(program) == ["quantizer_sdk_x86.dequantize_channels", "aten.addmm"] * 2


def test_embeddings_look_up_codes(export):
    module = Run(lambda self, i: self.linear(self.table(i)), table=nn.Embedding(20, 16), linear=nn.Linear(16, 8))
    ids = torch.arange(6).reshape(2, 3)
    model = quantized(export, module, ids)
    program = lower_eager(model, (ids,))
    torch.testing.assert_close(program.run(ids)[0], model(ids), rtol=1e-4, atol=1e-5)
    assert program.module.state_dict()["table.weight"].dtype is torch.int8


def test_a_float_model_runs_as_it_is(export):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = rand(1, 3, 8, 8)
    program = lower_eager(export(module, x), (x,))
    assert torch.equal(program.run(x)[0], module(x))
    assert program.delegation().delegated == 0


def test_mistakes_are_named(export, tmp_path):
    with pytest.raises(NotExportedError, match="got a Linear; expected the module of an exported program"):
        lower_eager(nn.Linear(3, 3))
    x = rand(4, 16)
    program = lower_eager(quantized(export, nn.Linear(16, 8), x))
    with pytest.raises(LoweringError, match="lowered with 0 example inputs"):
        program.kernels()
    with pytest.raises(LoweringError, match="lowered with 0 example inputs"):
        program.save(tmp_path / "p.pt2")
    with pytest.raises(LoweringError, match="oneDNN cannot run the program"):
        program.run(rand(4, 3))
    (tmp_path / "broken").write_text("no program")
    with pytest.raises(NotExportedError, match="is no program"):
        load(tmp_path / "broken")


def test_kernels_left_to_float_name_the_users_line(export):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 8)

        def forward(self, x):
            return torch.softmax(self.linear(x), -1)

    x = rand(4, 16)
    delegation = lower_eager(quantized(export, Attends(), x), (x,)).delegation()
    assert delegation.non_delegated == ("aten._softmax",)
    assert "torch.softmax(self.linear(x), -1)" in delegation.sources[0]


def test_narrow_ranges_of_fused_results_are_kept(export):
    x = rand(40, 16)
    module = Linear()
    wide = export(Run(lambda self, x: through(self.a(through(x, 0.02, 100)), 0.02, 60), a=module), x)
    narrow = export(Run(lambda self, x: through(self.a(through(x, 0.02, 100)), 0.02, 60, 0, 127), a=module), x)
    assert on_codes(wide, x).run(torch.full((1, 16), 255, dtype=torch.uint8))[0].max() > 127
    program = on_codes(narrow, x)
    codes = torch.randint(0, 256, (2000, 16), dtype=torch.uint8)
    assert program.run(codes)[0].max() == 127
    assert all(kernel.integer for kernel in program.kernels())
