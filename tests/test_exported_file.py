"""A quantized model that is saved and loaded is called as the float one was, and computes the same."""

import pytest
import torch
from torch import nn

from quantizer_sdk import NotExportedError, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer
from quantizer_sdk.call_form import called_by_position
from quantizer_sdk.exported_file import load_exported, save_exported
from quantizer_sdk.samples import dynamic_shapes_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.linear = nn.Linear(8, 4)

    def forward(self, ids, mask, flag=True, pair=None):
        x = self.embedding(ids) * mask.unsqueeze(-1)
        return {"logits": self.linear(x).relu(), "sum": x.sum() if flag else x, "pair": pair}


IDS = torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 5)
BATCH = torch.export.Dim("batch", min=2, max=9)
CALLS = {
    "by position": ((IDS, MASK), {}, None),
    "by keyword": ((), {"ids": IDS, "mask": MASK}, None),
    "both, with a flag": ((IDS,), {"mask": MASK, "flag": False}, None),
    "dynamic": ((IDS,), {"mask": MASK}, {"ids": {0: BATCH}, "mask": {0: BATCH}}),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_comes_back(tmp_path, call):
    args, kwargs, shapes = CALLS[call]
    torch.manual_seed(0)
    program = torch.export.export(Net().eval(), args, kwargs, dynamic_shapes=shapes)
    original = program.module()
    model = called_by_position(original)
    expected = original(*args, **kwargs)
    assert torch.equal(model(IDS, MASK)["logits"], expected["logits"])
    prepared = prepare_pt2e(model, X86Quantizer("onednn"))
    calibrate(prepared, [(IDS, MASK)])
    converted = convert_pt2e(prepared)
    path = tmp_path / "net.pt2"
    save_exported(converted, original, (IDS, MASK), path, dynamic_shapes=dynamic_shapes_of(program))
    loaded = load_exported(path)
    found = loaded.module()(*args, **kwargs)
    assert torch.equal(found["logits"], converted(IDS, MASK)["logits"])
    assert found.keys() == expected.keys()
    ops = [
        [node.name for node in graph.nodes if "aten" in str(node.target)] for graph in (converted.graph, loaded.graph)
    ]
    assert set(ops[0]) <= set(ops[1])  # a dynamic one asks for sizes besides
    if shapes is not None:
        ids, mask = IDS[:2], MASK[:2]
        assert torch.equal(loaded.module()(ids, mask=mask)["logits"], converted(ids, mask)["logits"])
    assert all(not value.any() for value in loaded.example_inputs[0])  # zeros: nobody's data
    linear = next(node for node in loaded.graph.nodes if node.target is torch.ops.aten.linear.default)
    assert next(reversed(linear.meta["nn_module_stack"].values()))[0] == "linear"


def test_only_modules_of_exported_programs_have_a_form():
    with pytest.raises(NotExportedError, match="Linear"):
        called_by_position(nn.Linear(2, 2))
    with pytest.raises(NotExportedError, match="expected the module of an exported program"):
        called_by_position(torch.fx.symbolic_trace(nn.Linear(2, 2)))
