"""Batches as loaders give them: by position and by name; what does not fit the model says how."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from quantizer_sdk import CalibrationError, NotExportedError, calibrate, prepare_pt2e
from quantizer_sdk.accuracy import smooth_quant
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.batches import run_batch


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, *, factor, shift):
        return self.layer(x) * factor + shift


def exported(**options):
    one = torch.ones(())
    program = torch.export.export(Scaled().eval(), (torch.ones(3, 4),), {"factor": one, "shift": one}, **options)
    return program.module()


def prepared(model):
    return prepare_pt2e(model, X86Quantizer("onednn").set_global(get_default_x86_quantization_config()))


def image_model():
    return torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.ones(2, 3, 8, 8),)).module()


def test_a_dict_names_inputs_of_either_kind_in_any_order():
    x, factor, shift = torch.randn(3, 4), torch.tensor(2.0), torch.tensor(-1.0)
    model = exported()
    expected = model(x, factor=factor, shift=shift)
    assert torch.equal(run_batch(model, {"shift": shift, "x": x, "factor": factor}, 0), expected)
    assert calibrate(prepared(model), [{"shift": shift, "factor": factor, "x": x}]) == 1


def test_other_names_are_said_beside_those_that_the_model_takes():
    one = torch.ones(())
    good = {"x": torch.ones(3, 4), "factor": one, "shift": one}
    with pytest.raises(CalibrationError, match="batch 1 has the inputs x, scale, shift; the model takes x, factor, sh"):
        calibrate(prepared(exported()), [good, {"x": torch.ones(3, 4), "scale": one, "shift": one}])


def test_a_loader_that_gives_labels_too():
    data = TensorDataset(torch.randn(4, 3, 8, 8), torch.arange(4))
    words = (
        r"batch 0: 2 inputs \(float32 \[2, 3, 8, 8\], int64 \[2\]\); the model takes 1 \(input: float32 \[2, 3, 8, 8\]"
    )
    with pytest.raises(CalibrationError, match=words):
        calibrate(prepared(image_model()), DataLoader(data, batch_size=2))


def test_a_smaller_last_batch():
    words = (
        r"batch 1: input is float32 \[1, 3, 8, 8\]; .* exported for float32 \[2, 3, 8, 8\].*dynamic_shapes.*drop_last"
    )
    with pytest.raises(CalibrationError, match=words) as caught:
        calibrate(prepared(image_model()), DataLoader(torch.randn(3, 3, 8, 8), batch_size=2))
    assert "Guard failed" in str(caught.value.__cause__)


def test_sizes_that_were_exported_as_dynamic_fit():
    sizes = {"x": {0: torch.export.Dim.DYNAMIC}, "factor": None, "shift": None}
    one = torch.ones(())
    model = exported(dynamic_shapes=sizes)
    assert calibrate(prepared(model), [{"x": torch.ones(n, 4), "factor": one, "shift": one} for n in (2, 5)]) == 2


def test_another_type():
    with pytest.raises(CalibrationError, match=r"input is float64 \[2, 3, 8, 8\]; .* for float32 \[2, 3, 8, 8\]$"):
        calibrate(prepared(image_model()), [torch.ones(2, 3, 8, 8, dtype=torch.float64)])


def test_an_interpreter_says_the_same():
    model = torch.export.export(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).eval(), (torch.ones(2, 8),)).module()
    with pytest.raises(CalibrationError, match=r"batch 1: input is float32 \[2, 9\]"):
        smooth_quant(model, [torch.ones(2, 8), torch.ones(2, 9)])


def test_an_error_of_the_models_own_stays_and_names_the_batch():
    class Indexing(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(4, 8), nn.Linear(8, 2)

        def forward(self, ids):
            return self.layer(self.table(ids))

    model = prepared(torch.export.export(Indexing().eval(), (torch.tensor([0, 1]),)).module())
    with pytest.raises(IndexError) as caught:
        calibrate(model, [torch.tensor([0, 1]), torch.tensor([0, 9])])
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["in batch 1 of the calibration data"]


def test_errors_name_the_function_that_was_called():
    with pytest.raises(NotExportedError, match="calibrate was given a Linear that was not exported"):
        calibrate(nn.Linear(2, 2), [torch.ones(1, 2)])
