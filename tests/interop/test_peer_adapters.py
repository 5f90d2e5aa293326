"""The adapters of the peers that the suite judges: what a peer quantizes is what our graph is annotated with."""

from pathlib import Path

import pytest
import torch
from quantizers import Apply
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import SharedQuantizationSpec, explain
from quantizer_sdk.quantize_pt2e import annotate

KEY = "quantization_annotation"
ROWS, TOKENS, IMAGE = torch.rand(2, 8), torch.rand(2, 3, 8), torch.rand(1, 4, 6, 6)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def parameter(*shape):
    return nn.Parameter(torch.rand(shape, generator=torch.Generator().manual_seed(0)))


def exported(model, *inputs, strict=False):
    return torch.export.export(model.eval(), inputs, strict=strict).module()


def kind(spec):
    """Return a spec's dtype and channel axis; "shared" or None where it has neither."""
    if spec is None or isinstance(spec, SharedQuantizationSpec):
        return spec if spec is None else "shared"
    return (str(spec.dtype).removeprefix("torch."), getattr(spec, "ch_axis", None))


def annotations(model, backend, scheme="u8.pc"):
    """Return of each annotated op the specs of what it reads, in order, and of its result."""
    annotated = annotate(model, backend.schemes()[scheme]())
    found = {}
    for node in annotated.graph.nodes:
        if KEY in node.meta and node.op == "call_function":
            read = node.meta[KEY].input_qspec_map
            inputs = [kind(read.get(operand)) for operand in node.all_input_nodes]
            found[node.name] = (inputs, kind(node.meta[KEY].output_qspec))
    return found


CODES, BIAS = ("uint8", None), ("int32", 0)
QUANTIZED = {
    "linear of rows": (nn.Linear(8, 4), ROWS, {"linear": ([CODES, ("int8", 0), BIAS], CODES)}),
    "linear of tokens": (nn.Linear(8, 4), TOKENS, {"linear": ([CODES, ("int8", 0), BIAS], CODES)}),
    "product by a weight": (
        Apply(lambda m, x: torch.matmul(x, m.w), w=parameter(8, 4)),
        TOKENS,
        {"matmul": ([CODES, ("int8", 1)], CODES)},
    ),
    "transposed convolution": (
        nn.ConvTranspose2d(4, 6, 3),
        IMAGE,
        {"conv_transpose2d": ([CODES, ("int8", 1), BIAS], CODES)},
    ),
    "sum with a parameter": (Apply(lambda m, x: x + m.w, w=parameter(8)), ROWS, {"add": ([CODES, CODES], CODES)}),
    "parameter and number": (
        Apply(lambda m, x: x * m.w + 1.5, w=parameter(8)),
        ROWS,
        {"mul": ([CODES, CODES], CODES), "add": ([CODES], CODES)},
    ),
    "a clamp that the range implies": (
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU6()),
        IMAGE,
        {"conv2d": ([CODES, ("int8", 0), BIAS], None), "hardtanh": ([None], CODES)},
    ),
    "rounded twice": (
        nn.Sequential(nn.Linear(8, 4), nn.ReLU6()),
        TOKENS,
        {"linear": ([CODES, ("int8", 0), BIAS], CODES), "hardtanh": ([CODES], CODES)},
    ),
    "moved codes": (
        Apply(lambda m, x: m.l(x).flatten(1), l=nn.Linear(8, 4)),
        TOKENS,
        {"linear": ([CODES, ("int8", 0), BIAS], CODES), "flatten": ([CODES], "shared")},
    ),
    "in float behind codes": (
        Apply(lambda m, x: F.hardswish(m.l(x)).mean(1), l=nn.Linear(8, 4)),
        ROWS,
        {"linear": ([CODES, ("int8", 0), BIAS], CODES)},
    ),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_graph_is_annotated_as_quantize_static_quantizes_its_file(name):
    from peers.quantize_static import PEER

    model, example, expected = QUANTIZED[name]
    assert annotations(exported(model, example), PEER) == expected


def test_a_softmax_has_the_range_that_quantize_static_takes_for_it():
    from peers.quantize_static import PEER

    model = annotate(exported(Apply(lambda _, x: torch.softmax(x, -1)), ROWS), PEER.quantizer())
    (node,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.softmax.int)
    result = node.meta[KEY].output_qspec
    assert (result.scale, result.zero_point, result.dtype) == (1 / 255, 0, torch.uint8)


def test_weights_have_one_scale_where_quantize_static_gives_them_one():
    from peers.quantize_static import PEER

    found = annotations(exported(nn.Linear(8, 4), TOKENS), PEER, "u8.pt")
    assert found == {"linear": ([CODES, ("int8", None), ("int32", None)], CODES)}


@pytest.mark.parametrize("strict", [False, True])
def test_the_peer_for_x86_sees_the_layers_that_calls_come_from(strict):
    from peers.x86_inductor import PEER

    model = Apply(lambda m, x: torch.ops.aten.relu(torch.ops.aten.conv2d(x, m.w)), w=parameter(6, 4, 3, 3))
    graph = exported(model, IMAGE, strict=strict)
    assert annotations(graph, PEER) == {"conv2d": ([CODES, ("int8", 0)], None), "relu": ([None], CODES)}
    assert {op.node: op.fused_into for op in explain(graph, PEER.quantizer()).ops} == {"conv2d": "relu", "relu": None}


def test_the_peer_for_x86_has_codes_where_it_goes_on_in_float():
    from peers.x86_inductor import PEER

    model = Apply(lambda m, x: torch.exp(m.c(x)) * m.d(x)[:, :1], c=nn.Conv2d(4, 4, 3), d=nn.Conv2d(4, 4, 3))
    found = annotations(exported(model, IMAGE), PEER)
    assert found == dict.fromkeys(("conv2d", "conv2d_1"), ([CODES, ("int8", 0), None], CODES))
