"""Packages compiled ahead of time: saved, loaded in a process of their own, small."""

import subprocess
import sys

import pytest
import torch
from on_inductor import CONV, IMAGE, names, rand, weight
from qdq_graphs import codes, dq, dq_channels, exported, q
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.inductor import load_inductor, lower_inductor, package_inductor

WIDE = 2304
CONSTANTS = {
    **CONV,
    "w2": codes(WIDE, WIDE, low=-127, high=128, dtype=torch.int8),
    "s2": torch.full((WIDE,), 0.01),
    "z2": torch.zeros(WIDE, dtype=torch.int64),
}


def net(m, x):
    y = F.relu(F.conv2d(dq(q(x, 0.05, 100), 0.05, 100), weight(m), m.b, padding=1))
    y = F.max_pool2d(dq(q(y, 0.05, 0), 0.05, 0), 2).repeat(1, 9, 1, 1).flatten(1)
    y = F.linear(dq(q(y, 0.05, 0), 0.05, 0), dq_channels(m.w2, m.s2, m.z2))
    y = dq(q(y, 5.0, 128), 5.0, 128)
    return F.linear(y, dq_channels(m.w2, m.s2, m.z2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def program():
    return lower_inductor(exported(net, (IMAGE,), **CONSTANTS), (IMAGE,))


@pytest.fixture(scope="module")
def package(program, folder):
    path = folder / "int8.pt2"
    program.save(path)
    return path


def test_a_package_runs_the_same_kernels_to_the_same_bits(program, package):
    loaded = load_inductor(package)
    assert torch.equal(loaded.run(IMAGE)[0], program.run(IMAGE)[0])
    products = [name for name in names(program) if name.startswith("q")]
    assert [name for name in names(loaded) if name.startswith(("qconv", "qlinear"))] == [
        name for name in products if not name.startswith("quantized")
    ]
    assert loaded.inputs == program.inputs
    assert loaded.report().integer >= 2


def test_a_package_runs_in_another_process(program, package, folder):
    torch.save(IMAGE, folder / "x.pt")
    script = f"""
import torch
from quantizer_sdk.backends.inductor import load_inductor
(y,) = load_inductor({str(package)!r}).run(torch.load({str(folder / "x.pt")!r}))
torch.save(y, {str(folder / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(folder / "y.pt"), program.run(IMAGE)[0])


def test_a_package_checks_its_inputs(package):
    with pytest.raises(LoweringError, match=r"input 0 is torch.float32 \(3, 4, 8, 8\)"):
        load_inductor(package).run(rand(3, 4, 8, 8))


def test_a_package_is_a_quarter_of_the_float_weights(package):
    weights = sum(tensor.numel() for tensor in CONSTANTS.values())
    assert package.stat().st_size <= 0.27 * 4 * (weights + WIDE * WIDE)  # two linears read the one


def test_a_float_model_is_packaged_too(folder):
    module = nn.Linear(8, 4).eval()
    x = rand(2, 8)
    loaded = package_inductor(torch.export.export(module, (x,)).module(), (x,), folder / "float.pt2")
    torch.testing.assert_close(loaded.run(x)[0], module(x).detach())
    assert loaded.delegation().non_delegated


def test_what_is_no_package_of_ours_is_refused(folder):
    path = folder / "other.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(LoweringError, match="inductor cannot load"):
        load_inductor(path)


def test_a_package_has_its_suffix(program, folder):
    with pytest.raises(LoweringError, match=r"must end in \.pt2; got model\.bin"):
        program.save(folder / "model.bin")
