"""A calibration that was interrupted goes on from its file, to the bit."""

import pytest
import torch
from calibration_cases import OBSERVERS, batches_of, prepared_with

from quantizer_sdk import CalibrationError, UnsupportedError, calibrate, convert_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config


def stopping(batches, at):
    for index, batch in enumerate(batches):
        if index == at:
            raise KeyboardInterrupt
        yield batch


@pytest.mark.parametrize("name", list(OBSERVERS))
def test_it_goes_on_from_where_it_was(tmp_path, name):
    kind, path = OBSERVERS[name], tmp_path / "calibration.pt"
    whole, first, second = (prepared_with(kind) for _ in range(3))
    calibrate(whole, batches_of(6))
    with pytest.raises(KeyboardInterrupt):
        calibrate(first, stopping(batches_of(6), 4), checkpoint=path)
    assert calibrate(second, batches_of(6), checkpoint=path) == 6
    for key, value in whole.state_dict().items():
        found = second.state_dict()[key]
        same = torch.equal(found, value) if isinstance(value, torch.Tensor) else len(found) == len(value)
        assert same, key
    x = batches_of(1)[0]
    assert torch.equal(convert_pt2e(whole)(x), convert_pt2e(second)(x))
    assert calibrate(prepared_with(kind), batches_of(6), checkpoint=path) == 6  # finished: nothing is run again
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_model_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "calibration.pt"
    calibrate(prepared_with(OBSERVERS["min-max"]), batches_of(2), checkpoint=path)
    content = torch.load(path)
    torch.save({**content, "paths": content["paths"][1:]}, path)
    model = prepared_with(OBSERVERS["min-max"])
    with pytest.raises(CalibrationError, match=r"holds the calibration of \d observers on 1 ranks, not of these"):
        calibrate(model, batches_of(2), checkpoint=path)
    assert not any(getattr(module, "calibrated", False) for module in model.modules() if hasattr(module, "min_val"))


def test_fake_quantizers_have_no_checkpoint(tmp_path):
    x = torch.randn(2, 8)
    config = get_symmetric_quantization_config(is_qat=True)
    model = torch.export.export(torch.nn.Sequential(torch.nn.Linear(8, 8)), (x,)).module()
    prepared = prepare_qat_pt2e(model, XNNPACKQuantizer().set_global(config))
    with pytest.raises(UnsupportedError, match=r"a checkpoint takes observers .* fake quantizers learn in training"):
        calibrate(prepared, [x], checkpoint=tmp_path / "calibration.pt")
