"""The main job from the command line to the files it leaves, on a network small enough for a test."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from quantizer_sdk import BackendError, CalibrationError
from quantizer_sdk.backends.xnnpack import BACKEND
from quantizer_sdk.commands import app
from quantizer_sdk.demo.run import run_demo
from quantizer_sdk.demo.table import from_json


class Erf(nn.Module):
    """Has no integer kernel."""

    def forward(self, x):
        return torch.erf(x)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=8), nn.BatchNorm2d(8), nn.ReLU6(), Erf(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    head = nn.Sequential(net, nn.Linear(8, 1000)).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=32)},)
    return torch.export.export(head, (torch.randn(20, 3, 224, 224),), dynamic_shapes=shapes)


def test_the_command_prints_one_table_and_leaves_its_files(program, tmp_path):
    torch.export.save(program, tmp_path / "net.pt2")
    out = tmp_path / "out"
    options = ["--compare", "--repeats", "2", "--out", str(out), "--model", str(tmp_path / "net.pt2")]
    result = CliRunner().invoke(app, ["demo", *options], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for words in (
        "top-1, graph",
        "top-1, kernel",
        "SQNR float → graph",
        "SQNR graph → kernel",
        "ops left float",
        "non-delegated nodes",
        "integer kernel nodes",
        "program size",
        "latency at batch 1",
        "Left float in int8: erf (aten.erf.default): no row for aten.erf.default",
    ):
        assert words in result.stdout, words
    assert {path.name for path in out.iterdir()} == {"fp32.pte", "int8.pte", "int8_peer.pte", "demo.json", "layers.png"}
    found = from_json((out / "demo.json").read_text())
    assert [column.name for column in found.columns] == ["fp32", "int8", "int8 peer"]
    ours = found.columns[1]
    assert ours.coverage.quantized == 4  # convolution and relu6 in one kernel, pool, linear
    assert [op.op for op in ours.coverage.left_float] == ["aten.erf.default"]
    assert "aten.erf.default" in ours.non_delegated
    assert ours.integer_kernels >= 3
    assert ours.float_kernels == 0
    assert ours.size == (out / "int8.pte").stat().st_size
    assert ours.sqnr_graph > 20
    assert ours.sqnr_kernel > 40
    assert json.loads((out / "demo.json").read_text())["repeats"] == 2


def test_a_backend_without_a_peer_says_so(program):
    alone = dataclasses.replace(BACKEND, name="alone", peer_quantize=None)
    with pytest.raises(BackendError, match="names no peer to compare with"):
        run_demo(alone, compare=True, program=program)


@pytest.mark.parametrize("count", [0, 21])
def test_there_are_twenty_images_to_calibrate_on(program, count):
    with pytest.raises(CalibrationError, match=f"cannot calibrate on {count} images; expected 1 to 20"):
        run_demo(BACKEND, calibration_images=count, program=program)
