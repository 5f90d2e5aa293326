"""Lowering: what it asks for, what it leaves alone, and what it refuses in words that help."""

import copy
import gc
import os
import subprocess
import sys
import types

import pytest
import torch
from on_inductor import CONV, IMAGE, LINEAR, ROWS, act, names, rand, weight
from qdq_graphs import codes, dq, dq_channels, exported, q
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backend import Executable
from quantizer_sdk.backends.inductor import lower_inductor, lower_unoptimized
from quantizer_sdk.backends.inductor.without_vnni import lower_without_vnni
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

BATCH = ({0: torch.export.Dim("batch", min=1, max=64)},)


def linear(m, x):
    return F.linear(act(x), weight(m), m.b)


def two_layers(m, x):
    y = F.relu(F.conv2d(act(x), weight(m), m.b))
    y = F.max_pool2d(dq(q(y, 0.05, 0), 0.05, 0), 2)
    return F.linear(act(y.flatten(1), 0.05, 0), dq_channels(m.w2, m.s2, m.z2))


TWO = {
    **CONV,
    "w2": codes(8, 144, low=-127, high=128, dtype=torch.int8),
    "s2": torch.full((8,), 0.01),
    "z2": torch.zeros(8, dtype=torch.int64),
}


def test_nothing_of_inductor_s_configuration_changes():
    script = """
import torch, torch._inductor.config as config
import torch._inductor.graph as graph
before, save = config.save_config_portable(), vars(graph.GraphLowering)["save_output_code"]
from quantizer_sdk.backends.inductor import lower_inductor
assert config.save_config_portable() == before, "importing changes it"
model = torch.export.export(torch.nn.Linear(4, 4), (torch.randn(2, 4),)).module()
lower_inductor(model, (torch.randn(2, 4),)).run(torch.randn(2, 4))
assert config.save_config_portable() == before, "lowering changes it"
assert vars(graph.GraphLowering)["save_output_code"] is save
assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_failed_compilation_changes_nothing_either(monkeypatch):
    from torch._inductor import compile_fx, config

    def fail(*_, **__):
        raise ValueError("no such kernel")

    before = config.save_config_portable()
    model = exported(linear, (ROWS,), **LINEAR)
    monkeypatch.setattr(compile_fx, "compile_fx", fail)
    with pytest.raises(LoweringError, match="inductor cannot compile the model: no such kernel"):
        lower_inductor(model, (ROWS,))
    assert config.save_config_portable() == before
    assert torch.is_grad_enabled()


def test_code_that_another_process_left_half_written_is_compiled_anew(monkeypatch, tmp_path):
    from torch._inductor import compile_fx

    real, calls, path = compile_fx.compile_fx, [], tmp_path / "main.so"
    path.write_bytes(b"")
    os.utime(path, (0, 0))

    def half_written(*arguments, **options):
        calls.append(arguments)
        if path.exists():
            raise ImportError(f"{path}: file too short")
        return real(*arguments, **options)

    monkeypatch.setattr(compile_fx, "compile_fx", half_written)
    model = exported(linear, (ROWS,), **LINEAR)
    torch.testing.assert_close(lower_inductor(model, (ROWS,)).run(ROWS)[0], model(ROWS), rtol=1e-5, atol=1e-5)
    assert len(calls) == 2


def test_the_model_stays_as_it_is():
    model = exported(two_layers, (IMAGE,), **TWO)
    code, expected = model.code, model(IMAGE)
    state = copy.deepcopy(model.state_dict())
    lower_inductor(model, (IMAGE,)).run(IMAGE)
    assert model.code == code
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(IMAGE), expected)


def test_too_few_integer_kernels_are_an_error_that_names_the_others():
    def run(m, x):
        y = F.linear(x, weight(m), m.b)  # no quantized activation
        return F.linear(act(y), weight(m), m.b)

    model = exported(run, (ROWS,), **LINEAR)
    program = lower_inductor(model, (ROWS,))
    assert len(program.floats) == 1
    with pytest.raises(
        LoweringError, match=r"made 1 integer kernels of the 2 .* at least 2 .*linear.*not quantized"
    ) as e:
        lower_inductor(model, (ROWS,), min_fused=2)
    assert "qdq_graphs.py" in str(e.value)  # the user's line
    assert "min_fused=1" in str(e.value)


def test_what_no_pattern_takes_is_an_error_by_default():
    def run(m, x):  # a convolution of one unbatched image
        return F.conv2d(act(x), weight(m), m.b)

    model = exported(run, (IMAGE[0],), **CONV)
    with pytest.raises(LoweringError, match="none of inductor's patterns took it"):
        lower_inductor(model, (IMAGE[0],))
    program = lower_inductor(model, (IMAGE[0],), min_fused=0)
    torch.testing.assert_close(program.run(IMAGE[0])[0], model(IMAGE[0]), rtol=1e-5, atol=1e-4)


def test_inputs_are_checked():
    program = lower_inductor(exported(linear, (ROWS,), **LINEAR), (ROWS,))
    with pytest.raises(LoweringError, match="takes 1 inputs; got 2"):
        program.run(ROWS, ROWS)
    with pytest.raises(LoweringError, match=r"input 0 is torch.float32 \(4, 32\); .* torch.float32 \(3, 32\)"):
        program.run(rand(4, 32))
    with pytest.raises(LoweringError, match=r"input 0 is torch\.float64"):
        program.run(ROWS.double())


def test_any_memory_format_is_taken():
    model = exported(two_layers, (IMAGE,), **TWO)
    program = lower_inductor(model, (IMAGE,))
    assert torch.equal(program.run(IMAGE.contiguous(memory_format=torch.channels_last))[0], program.run(IMAGE)[0])


def test_sizes_may_be_dynamic():
    model = exported(two_layers, (IMAGE,), **TWO)
    program = lower_inductor(model, (IMAGE,), dynamic_shapes=BATCH)
    assert {"qconv_pointwise", "qlinear_pointwise"} <= set(names(program))
    for batch in (1, 2, 40):  # inductor compiles again for some
        x = rand(batch, 4, 8, 8, seed=batch)
        expected = two_layers(model, x)
        torch.testing.assert_close(program.run(x)[0], expected, rtol=1e-4, atol=1e-2)
    with pytest.raises(LoweringError, match=r"\(65, 4, 8, 8\); .* \(1 to 64, 4, 8, 8\)"):
        program.run(rand(65, 4, 8, 8))


def test_what_stays_float_may_compute_in_bfloat16():
    def run(m, x):
        return F.linear(act(F.gelu(F.linear(act(x), weight(m), m.b))), weight(m)).softmax(-1)

    model = exported(run, (ROWS,), **LINEAR)
    program = lower_inductor(model, (ROWS,), autocast=torch.bfloat16)
    kernels = [kernel for kernel in program.kernels() if kernel.name == "qlinear_pointwise"]
    assert len(kernels) == 2
    assert kernels[-1].outputs == ("bfloat16",)
    # bfloat16 keeps 8 bits of the logits, whose errors a softmax multiplies.
    torch.testing.assert_close(program.run(ROWS)[0].float(), model(ROWS), rtol=0.1, atol=0.02)
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_in_bfloat16(export):
    module = nn.Sequential(
        nn.Conv2d(4, 8, 2, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)
    ).to(torch.bfloat16)
    x = IMAGE.to(torch.bfloat16)
    config = get_default_x86_quantization_config(is_per_channel=False)
    prepared = prepare_pt2e(export(module, x), X86Quantizer(target="inductor").set_global(config))
    calibrate(prepared, [(x,)])
    model = convert_pt2e(prepared)
    program = lower_inductor(model, (x,))
    (found,), expected = program.run(x), model(x)
    assert {"qconv_pointwise", "qlinear_pointwise"} <= set(names(program))
    assert found.dtype == expected.dtype == torch.bfloat16
    # Both round to bfloat16 behind each layer, at other places: a code of the second layer's input here and there.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_programs_leave_nothing_behind():
    model = exported(linear, (ROWS,), **LINEAR)
    lower_inductor(model, (ROWS,)).run(ROWS)
    before = _modules()
    for _ in range(3):
        lower_inductor(model, (ROWS,)).run(ROWS)
    assert _modules() == before


def _modules():
    """Count the modules that anything holds, among them generated ones with their weights."""
    gc.collect()
    return sum(type(entry) is types.ModuleType for entry in gc.get_objects())


def test_a_program_is_an_executable_and_reports():
    model = exported(two_layers, (IMAGE,), **TWO)
    program = lower_inductor(model, (IMAGE,))
    assert isinstance(program, Executable)
    assert program.delegation().non_delegated == ()
    assert program.report().integer >= 2
    assert str(program.report())
    assert program.size > 16 * 36 + 8 * 144


def test_float_models_are_taken():
    module = nn.Sequential(nn.Linear(32, 8), nn.ReLU()).eval()
    model = torch.export.export(module, (ROWS,)).module()
    program = lower_inductor(model, (ROWS,))
    torch.testing.assert_close(program.run(ROWS)[0], module(ROWS).detach())
    assert not any(kernel.integer for kernel in program.kernels())


def test_the_quantizer_of_this_target(export):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, x):
            x = F.relu(self.stem(x))
            x = F.relu(self.norm(self.conv(x)) + x)
            return self.head(x.mean((2, 3)))

    x = rand(2, 3, 10, 10)
    prepared = prepare_pt2e(export(Net(), x), X86Quantizer(target="inductor"))
    calibrate(prepared, [(x,)])
    model = convert_pt2e(prepared)
    program = lower_inductor(model, (x,))
    assert program.floats == ()
    assert "qconv2d_pointwise.binary" in names(program)
    torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-3, atol=1e-2)


def test_a_model_of_torchao_s_engine_and_quantizer():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e as convert
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e as prepare
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as theirs

    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    quantizer = theirs.X86InductorQuantizer()
    quantizer.set_global(theirs.get_default_x86_inductor_quantization_config())
    prepared = prepare(torch.export.export(module, (IMAGE,)).module(), quantizer)
    prepared(IMAGE)
    model = convert(prepared)
    program = lower_inductor(model, (IMAGE,))
    assert {"qconv_pointwise", "qlinear_pointwise"} <= set(names(program))
    torch.testing.assert_close(program.run(IMAGE)[0], model(IMAGE), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("lower", [lower_unoptimized, lower_without_vnni])
def test_other_ways_of_running_give_the_same_codes(lower):
    def run(m, x):
        return dq(q(linear(m, x), 0.2, 100), 0.2, 100)

    # 7 bits: a sum of two products fits in 16 bits.
    model = exported(run, (ROWS,), **{**LINEAR, "w": codes(32, 32, low=-63, high=64, dtype=torch.int8)})
    x = codes(3, 32)
    program = lower(model, (ROWS,), integer_io=True)
    (found,), (expected,) = program.run(x), lower_inductor(model, (ROWS,), integer_io=True).run(x)
    assert torch.equal(found, expected)
    assert isinstance(program, Executable)
    if lower is lower_unoptimized:
        assert not any(name.startswith("qlinear") for name in names(program))


def test_without_vnni_products_of_8_bits_stay_float_and_those_of_7_bits_do_not():
    def run(m, x):
        return q(F.linear(dq(x, 0.05, 0), weight(m)), 100.0, 0)

    x = torch.full((3, 32), 255, dtype=torch.uint8)
    for largest, integer in ((127, False), (63, True)):
        codes = torch.full((32, 32), largest, dtype=torch.int8)
        model = exported(run, (x,), **{**LINEAR, "w": codes, "s": torch.full((32,), 0.1)})
        weaker = lower_without_vnni(model, (x,))
        assert torch.equal(weaker.run(x)[0], model(x))
        assert any(name.startswith("qlinear") for name in names(weaker)) == integer
