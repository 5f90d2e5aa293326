"""The script of a case: it runs by itself, and its exit status says whether the defect is there."""

import contextlib
import io
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from planted_backends import FALSE_PROFILE, FLOAT_SUM, HEALTHY, HIDDEN, OFF_BY_ONE, REFUSING, UNSHARED_CAT
from typer.testing import CliRunner

from quantizer_sdk import find_backend
from quantizer_sdk.commands import app
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.source import tensor_literal
from quantizer_sdk.conformance.standalone import standalone_script
from quantizer_sdk.errors import LoweringError

aten = torch.ops.aten
X, Y, V = Ref("x", 0), Ref("x", 1), Ref("v", 0)
SUM = Program(inputs=((2, 9), (2, 9)), calls=(Call(aten.add.Tensor, (X, Y)),))
PRODUCT = Program(inputs=((2, 9), (2, 9)), calls=(Call(aten.add.Tensor, (X, Y)), Call(aten.mul.Tensor, (V, Y))))
CAT = Program(
    inputs=((2, 9), (2, 9)),
    calls=(
        Call(aten.add.Tensor, (X, Y)),
        Call(aten.mul.Tensor, (X, Y)),
        Call(aten.cat.default, ((V, Ref("v", 1)), 1)),
    ),
)
PADDED = Program(
    inputs=((1, 3, 5, 5),), calls=(Call(aten.relu.default, (X,)), Call(aten.pad.default, (V, (1, 1, 1, 1))))
)
LAYER = Program(
    inputs=((1, 3, 5, 5),),
    parameters=((4, 3, 3, 3), (4,)),
    calls=(
        Call(aten.conv2d.default, (X, Ref("p", 0), Ref("p", 1), (1, 1), (1, 1), (1, 1), 1)),
        Call(aten.relu.default, (V,)),
    ),
)


def script(backend, program, check, data="generic"):
    """Judge one case, and return what it comes to with its script."""
    scheme = next(iter(backend.schemes()))
    scenario = Scenario(
        subject="graph",
        scheme=scheme,
        data=data,
        shape="x",
        program=program,
        length=len(program.calls),
        checks=(check,),
    )
    (outcome,) = evaluate(scenario, backend, (check,), 0)
    return outcome, standalone_script(scenario, backend, outcome, 0)


def execute(text):
    """Run a script in this process; return whether it finds the defect, and what it prints."""
    assert "quantizer_sdk" not in text
    names = {"__name__": "script"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, over what ExecuTorch copies
        exec(compile(text, "script.py", "exec"), names)
        found = names["main"]()
    return found, printed.getvalue()


def run_file(path):
    """Run a script in a fresh process, in a folder where nothing of the SDK can be imported by accident."""
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, path], cwd=path.parent, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("check", ["C1", "C2", "C3", "C4", "E3", "R1", "K1", "K2", "D1", "D2", "D3"])
def test_a_healthy_case_has_a_script_that_finds_nothing(check):
    outcome, text = script(HEALTHY, LAYER, check)
    assert outcome.status is Status.PASS, outcome
    assert execute(text)[0] is False


def test_ties_may_go_either_way_only_where_the_profile_leaves_that_open():
    outcome, text = script(HEALTHY, SUM, "K3", data="zp_odd")
    assert outcome.status is Status.PASS
    found, printed = execute(text)
    assert (found, "graph, run by torch" in printed) == (True, True), "torch rounds ties to even, and sums round up"


@pytest.mark.parametrize(
    ("backend", "program", "check", "words"),
    [
        (UNSHARED_CAT, CAT, "C3", "only moves codes"),
        (FLOAT_SUM, PRODUCT, "C1", "in float"),
        (OFF_BY_ONE, PRODUCT, "K1", "codes are wrong"),
        (OFF_BY_ONE, PRODUCT, "K2", "codes are wrong"),
        (OFF_BY_ONE, PRODUCT, "D3", "codes are wrong"),
    ],
    ids=["unshared", "float", "bits", "bounds", "optimizer"],
)
def test_a_defect_is_in_its_script(backend, program, check, words):
    outcome, text = script(backend, program, check)
    assert outcome.status is Status.FAIL, outcome
    found, printed = execute(text)
    assert found is True
    assert words in printed
    assert outcome.message.split()[0].replace('"', "'") in text


@pytest.mark.parametrize(("check", "words"), [("D1", "no kernel for this"), ("D2", "Convert(fp32)")])
def test_what_the_runtime_refuses_or_computes_in_float_is_in_its_script(check, words):
    found, printed = execute(script(REFUSING, SUM, check)[1])
    assert found is True
    assert words in printed


def test_without_the_runtimes_source_the_graph_is_compared():
    outcome, text = script(HIDDEN, PRODUCT, "K1")
    assert outcome.status is Status.FAIL
    found, printed = execute(text)
    assert found is False, "the graph is right; only the kernels, which are not there, are wrong"
    assert "the graph, run by torch: 0 of" in printed
    assert "How the runtime is called is not known here" in text


def test_a_runtime_with_models_of_its_own_gives_the_source_for_each_graph():
    graphs = []

    def source(model, examples):
        graphs.append((model, examples))
        return OFF_BY_ONE.runner.script

    backend = replace(OFF_BY_ONE, runner=replace(OFF_BY_ONE.runner, script=source))
    found, _ = execute(script(backend, PRODUCT, "K1")[1])
    assert found is True
    ((model, examples),) = graphs
    assert [tuple(tensor.shape) for tensor in examples] == [(2, 9), (2, 9)]
    assert any(node.target is aten.mul.Tensor for node in model.graph.nodes)

    def refuses(model, examples):
        raise LoweringError("no such model")

    backend = replace(OFF_BY_ONE, runner=replace(OFF_BY_ONE.runner, script=refuses))
    found, printed = execute(script(backend, PRODUCT, "K1")[1])
    assert (found, "the graph, run by torch" in printed) == (False, True)


def test_evidence_is_the_guilty_kernel_and_few_numbers():
    _, text = script(OFF_BY_ONE, PRODUCT, "K1")
    assert "aten.mul.Tensor" in text
    assert "aten.add.Tensor" not in text
    assert re.search(r"^EXACT = Fraction\(0, 1\)", text, re.MULTILINE), "zero times zero is off by one as well"


def test_a_fresh_process_exits_0_for_a_right_graph_and_1_for_one_tampered_with(tmp_path):
    _, text = script(HEALTHY, LAYER, "R1")
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(text, encoding="utf-8")
    scale = re.search(r"quantize_per_tensor\.default\(v1, ([0-9.e-]+),", text)[1]
    wrong.write_text(text.replace(f"(v1, {scale},", f"(v1, {float(scale) * 1.02},"), encoding="utf-8")
    result = run_file(right)
    assert (result.returncode, result.stderr) == (0, "")
    assert "0 of 100 codes are wrong" in result.stdout
    result = run_file(wrong)
    assert result.returncode == 1
    assert re.search(r"expected -?\d+, got -?\d+", result.stdout)


def test_the_real_kernels_are_called_by_public_packages_alone(tmp_path):
    """XNNPACK's sums round half up: a profile that says otherwise is contradicted by the script, the right one not."""
    pytest.importorskip("executorch")
    right = find_backend("xnnpack")
    outcome, text = script(right, SUM, "K1", data="zp_odd")
    assert outcome.status is Status.PASS
    found, printed = execute(text)
    assert found is False
    assert "ExecuTorch XNNPACK: 0 of 18 codes are wrong" in printed
    outcome, text = script(replace(right, profile=FALSE_PROFILE), SUM, "K1", data="zp_odd")
    assert outcome.status is Status.FAIL
    path = tmp_path / "half_up.py"
    path.write_text(text, encoding="utf-8")
    result = run_file(path)
    assert result.returncode == 1, result.stderr
    assert re.search(r"ExecuTorch XNNPACK: [1-9]\d* of 18 codes are wrong", result.stdout)


def test_what_the_real_runtime_computes_in_float_is_read_back_by_public_packages_alone():
    pytest.importorskip("executorch")
    outcome, text = script(find_backend("xnnpack"), PADDED, "D2")
    assert "Convert" in outcome.message
    found, printed = execute(text)
    assert found is True
    assert "XNNStaticConstantPad(xnn_datatype_fp32, xnn_datatype_fp32)" in printed


def test_numbers_survive_as_literals():
    for tensor in (
        torch.randn(3, 4) * 1e-7,
        torch.tensor([float("inf"), float("-inf"), 0.1]),
        torch.randint(-128, 128, (40, 9), dtype=torch.int8),
        torch.tensor(7, dtype=torch.int32),
        torch.empty(0, 3),
        torch.tensor([True, False]),
    ):
        text = tensor_literal(tensor, 4)
        assert torch.equal(eval(text), tensor)
        assert max(map(len, text.splitlines())) <= 120


def fuzz(backend, count, *arguments):
    line = ["conform", backend, "--fuzz", count, "--seed", 3, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in line])


def test_fuzzing_writes_a_script_for_each_defect(tmp_path):
    result = fuzz("planted_backends:OFF_BY_ONE", 2, "-j", 2, "--out", tmp_path)
    assert result.exit_code == 1, result.output
    scripts = sorted(tmp_path.iterdir())
    assert scripts
    assert re.search(rf"2 random graphs, seed 3: \d+ failures, {len(scripts)} of them different", result.stdout)
    for path in scripts:
        assert str(path) in result.stdout
        assert execute(path.read_text(encoding="utf-8"))[0] is True


def test_fuzzing_a_healthy_backend_writes_nothing(tmp_path):
    result = fuzz("planted_backends:HEALTHY", 1, "-j", 1, "--out", tmp_path / "none")
    assert result.exit_code == 0, result.output
    assert "1 random graphs, seed 3: 0 failures" in result.stdout
    assert not (tmp_path / "none").exists()


def test_fuzzing_a_table_that_no_graph_can_be_made_of_is_a_misuse():
    result = fuzz("tiny_backends:OnlyRelu", 1)
    assert result.exit_code == 2
    assert "no graph can be made of the rows relu" in result.stderr
