"""The picture of a graph: who reads whose result, as codes or as floats, and in which lane it runs down."""

import operator

import pytest
import torch
from torch import nn

from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.model_report.drawing import cells_of
from quantizer_sdk.model_report.flow import Edge, FlowNode, flow_of
from quantizer_sdk.model_report.lanes import lanes_of


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.head(torch.erf(self.second(y) + y).mean((2, 3))), y


@pytest.fixture(scope="module")
def rows(export, quantize):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4)
    return flow_of(quantize(export(Residual(), x), XNNPACKQuantizer(), x))


def edges(rows):
    return {(rows[e.producer].name, row.name): (e.dtype, e.quantized) for row in rows for e in row.edges}


def test_edges_go_through_quantize_and_dequantize(rows):
    found = edges(rows)
    assert found["x", "conv2d"] == ("int8", True)
    assert found["conv2d", "relu"] == ("float32", False)  # one kernel computes both
    assert found["relu", "conv2d_1"] == found["relu", "add"] == found["relu", "output"] == ("int8", True)
    assert found["conv2d_1", "add"] == ("int8", True)


def test_constants_have_no_row(rows):
    assert [row.op for row in rows if row.op in {"input", "output"}] == ["input", "output"]
    assert not any("dequantize" in row.op or "get_attr" in row.op for row in rows)
    assert rows[1].shape == "[1, 4, 4, 4]"
    assert rows[1].module == "first"
    assert "self.first(x)" in rows[1].source


def test_inner_graphs_follow_the_outer_one(export):
    class Branch(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    found = flow_of(export(Branch(), torch.ones(2)))
    assert [row.name for row in found if "/" in row.name and row.op.startswith("aten")] == [
        "true_graph_0/sin",
        "false_graph_0/cos",
    ]
    assert ("x", "cond") in edges(found)


def chain(*reads):
    return [
        FlowNode(
            name=str(index),
            op="op",
            shape="",
            module="",
            source="",
            edges=tuple(Edge(producer, "int8", quantized=True) for producer in read),
        )
        for index, read in enumerate(reads)
    ]


def test_a_chain_runs_straight_down():
    assert [row.lane for row in lanes_of(chain((), (0,), (1,), (2,)))] == [0, 0, 0, 0]


def test_a_branch_has_a_lane_of_its_own_and_gives_it_back():
    placed = lanes_of(chain((), (0,), (0,), (1, 2), (3,)))
    assert [row.lane for row in placed] == [0, 1, 0, 1, 1]
    assert placed[2].passing == (1,)
    assert placed[3].ending == {0, 1}
    later = lanes_of(chain((), (0,), (0,), (1, 2), (3,), (3,), (4, 5)))
    assert max(row.lane for row in later) == 1  # lane 0 is used again


def test_every_tensor_has_its_lane_alone():
    generator = torch.Generator().manual_seed(0)
    reads = [()]
    for index in range(1, 200):
        picks = torch.randint(max(0, index - 9), index, (2,), generator=generator).tolist()
        reads.append(tuple(dict.fromkeys(picks)))
    graph = chain(*reads)
    placed = lanes_of(graph)
    last = {edge.producer: index for index, row in enumerate(graph) for edge in row.edges}
    for index, row in enumerate(placed):
        running = {placed[p].lane for p in range(index) if last.get(p, -1) > index}
        assert set(row.passing) == running
        assert row.lane not in running
        assert len(running) == sum(last.get(p, -1) > index for p in range(index))
        assert [lane for lane, _edge in row.reads] == [
            placed[p].lane for p in map(operator.attrgetter("producer"), graph[index].edges)
        ]


def test_lines_join_from_row_to_row():
    graph = chain((), (0,), (0,), (1, 2))
    kinds = ["codes", "float", "codes", "inside"]
    cells = cells_of(lanes_of(graph), kinds)
    assert [line.kind for line in cells[3].lines] == ["codes", "codes"]  # what is read as codes is drawn as codes
    assert [line.path for line in cells[0].lines] == ["M7.0 13.0V26"]
    assert "M7.0 0V26" in [line.path for line in cells[1].lines]  # the first tensor runs past the second row
    assert all(cell.width == 28 for cell in cells)
