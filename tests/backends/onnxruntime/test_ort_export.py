"""`export_onnx`: what the file says, and `run_onnx`, which runs it."""

from collections import Counter

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.onnxruntime import SessionSettings, export_onnx, run_onnx
from quantizer_sdk.backends.onnxruntime.translate import MODULE_KEY, SOURCE_KEY
from quantizer_sdk.backends.x86 import X86Quantizer

DIM = torch.export.Dim


class Two(nn.Module):
    """Two inputs and two outputs, of dynamic sizes with names."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, tokens, mask):
        scores = self.layer(tokens)
        return scores * mask[:, :, None], scores.flatten(0, 1)


SHAPES = ({0: DIM("batch", max=8), 1: DIM("length", max=16)}, {0: DIM("batch", max=8), 1: DIM("length", max=16)})
INPUTS = (torch.randn(2, 5, 8), torch.ones(2, 5))


def quantized(module=None):
    exported = torch.export.export((module or Two()).eval(), INPUTS, dynamic_shapes=SHAPES).module()
    prepared = prepare_pt2e(exported, X86Quantizer("onnxruntime"))
    calibrate(prepared, [INPUTS])
    return convert_pt2e(prepared)


def dimensions(entry):
    return [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim]


@pytest.mark.parametrize("mode", ["ort", "portable"])
def test_inputs_outputs_and_dynamic_sizes_keep_their_names(mode, tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(quantized(), INPUTS, path, mode=mode, dynamic_shapes=SHAPES, output_names=("scores", "rows"))
    graph = onnx.load(path).graph
    assert [entry.name for entry in graph.input] == ["tokens", "mask"]
    assert [dimensions(entry) for entry in graph.input] == [["batch", "length", 8], ["batch", "length"]]
    assert [entry.name for entry in graph.output] == ["scores", "rows"]
    assert dimensions(graph.output[0]) == ["batch", "length", 8]
    rows, columns = dimensions(graph.output[1])
    assert (sorted(rows.split("*")), columns) == (["batch", "length"], 8)


@pytest.mark.parametrize("mode", ["ort", "portable"])
def test_the_file_is_checked_and_infers_every_shape(mode, tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(quantized(), INPUTS, path, mode=mode, dynamic_shapes=SHAPES)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    domains = {node.domain for node in model.graph.node} | {entry.domain for entry in model.opset_import}
    assert domains == ({""} if mode == "portable" else {"", "com.microsoft"})
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    if mode == "portable":
        known = {entry.name for entry in inferred.graph.value_info} | {entry.name for entry in model.graph.output}
        assert known >= {name for node in model.graph.node for name in node.output}


def test_the_file_says_where_it_comes_from(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(quantized(), INPUTS, path, dynamic_shapes=SHAPES)
    model = onnx.load(path)
    assert model.producer_name == "quantizer_sdk"
    assert model.producer_version
    modules, sources = set(), set()
    for node in model.graph.node:
        said = {entry.key: entry.value for entry in node.metadata_props}
        assert not (said and node.op_type in {"QuantizeLinear", "DequantizeLinear"})
        modules.add(said.get(MODULE_KEY))
        sources.add(said.get(SOURCE_KEY, "").rpartition(": ")[2])
    assert {"layer.0", "layer.2"} <= modules
    assert "scores = self.layer(tokens)" in sources


def test_equal_constants_are_stored_once_and_described_by_themselves(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(quantized(), INPUTS, path, dynamic_shapes=SHAPES)
    graph = onnx.load(path).graph
    contents = Counter((t.data_type, tuple(t.dims), t.raw_data) for t in graph.initializer)
    assert max(contents.values()) == 1
    assert not {info.name for info in graph.value_info} & {tensor.name for tensor in graph.initializer}
    pairs = {}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            pairs.setdefault(node.op_type, set()).add(tuple(node.input[1:3]))
    assert pairs["QuantizeLinear"] & pairs["DequantizeLinear"]


@pytest.mark.parametrize("mode", ["ort", "portable"])
def test_a_file_runs_with_the_recommended_options(mode, tmp_path):
    model, path = quantized(), tmp_path / "model.onnx"
    export_onnx(model, INPUTS, path, mode=mode, dynamic_shapes=SHAPES)
    other = (torch.randn(3, 7, 8), torch.rand(3, 7))
    for given in (path, str(path), path.read_bytes()):
        for actual, expected in zip(run_onnx(given, *other), model(*other), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0.02)
    (first, _) = run_onnx(path, *other, settings=SessionSettings(optimize=False))
    torch.testing.assert_close(first, model(*other)[0], rtol=0, atol=0.02)


def test_a_program_and_a_module_export_as_they_are(tmp_path):
    module, path = Two().eval(), tmp_path / "model.onnx"
    for model in (module, torch.export.export(module, INPUTS, dynamic_shapes=SHAPES)):
        export_onnx(model, INPUTS, path, mode="portable", dynamic_shapes=SHAPES)
        for actual, expected in zip(run_onnx(path, *INPUTS), module(*INPUTS), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_an_export_leaves_the_model_as_it_is(tmp_path):
    model = quantized()
    graph, expected = str(model.graph), model(*INPUTS)
    export_onnx(model, INPUTS, tmp_path / "model.onnx", dynamic_shapes=SHAPES)
    assert str(model.graph) == graph
    assert all(torch.equal(*pair) for pair in zip(model(*INPUTS), expected, strict=True))


def test_arguments_that_cannot_be_are_refused(tmp_path):
    module, path = Two().eval(), tmp_path / "model.onnx"
    with pytest.raises(LoweringError, match="mode='onnx'; expected one of ort, portable"):
        export_onnx(module, INPUTS, path, mode="onnx")
    with pytest.raises(LoweringError, match="1 names were given for 2 outputs"):
        export_onnx(module, INPUTS, path, output_names=["scores"])
    with pytest.raises(LoweringError, match="in training mode"):
        export_onnx(Two().train(), INPUTS, path)
    assert not path.exists()
    with pytest.raises(LoweringError, match=r"cannot read .*No such file"):
        run_onnx(path, *INPUTS)


def test_integer_io_takes_and_gives_codes(tmp_path):
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x)

    x = torch.randn(1, 3, 8, 8)
    prepared = prepare_pt2e(
        torch.export.export(Conv().eval(), (x,)).module(), X86Quantizer("onnxruntime", quantize_results=True)
    )
    calibrate(prepared, [(x,)])
    export_onnx(convert_pt2e(prepared), (x,), tmp_path / "model.onnx", integer_io=True)
    graph = onnx.load(tmp_path / "model.onnx").graph
    types = [entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.output)]
    assert types == [onnx.TensorProto.UINT8] * 2


class Words(nn.Module):
    """Embeddings, positions by a dynamic length, a padding mask made of comparisons, attention, a pooled result."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(32, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.norm = nn.LayerNorm(32)

    def forward(self, ids):
        batch, length = ids.shape
        x = self.words(ids) + self.places(torch.arange(length))
        heads = [layer(x).view(batch, length, 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mask = (ids != 0)[:, None, None, :].expand(batch, 1, length, length)
        mixed = F.scaled_dot_product_attention(*heads, mask).transpose(1, 2).reshape(batch, length, 32)
        x = self.norm(x + mixed)
        weight = (ids != 0).float()[:, :, None]
        return F.normalize((x * weight).sum(1) / weight.sum(1).clamp(min=1e-9))


@pytest.mark.parametrize("quantize", [False, True], ids=["float", "quantized"])
def test_a_text_model_with_masks_runs_at_every_batch_and_length(quantize, tmp_path):
    ids = torch.randint(1, 50, (3, 9))
    ids[1, 5:] = 0
    shapes = ({0: DIM("batch", max=8), 1: DIM("length", max=32)},)
    model = torch.export.export(Words().eval(), (ids,), dynamic_shapes=shapes).module()
    if quantize:
        prepared = prepare_pt2e(model, X86Quantizer("onnxruntime"))
        calibrate(prepared, [(ids,)])
        model = convert_pt2e(prepared)
    export_onnx(model, (ids,), tmp_path / "model.onnx", mode="portable", dynamic_shapes=shapes)
    for batch, length in ((3, 9), (1, 2), (6, 30)):
        ids = torch.randint(1, 50, (batch, length))
        ids[:, length // 2 + 1 :] = 0
        (actual,) = run_onnx(tmp_path / "model.onnx", ids)
        torch.testing.assert_close(actual, model(ids), rtol=0, atol=0.02 if quantize else 1e-5)
