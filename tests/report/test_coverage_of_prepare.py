"""prepare_pt2e(coverage=...): what it asks for, what it counts, and what it says."""

import warnings

import pytest
import torch
from quantizers import CONFIG, ByHand, SmallTable, annotation
from torch import nn

from quantizer_sdk import Coverage, CoverageError, CoverageWarning, RuleError, prepare_pt2e, prepare_qat_pt2e

X = torch.randn(1, 3, 8, 8)


class Net(nn.Module):
    """A convolution that the table takes, one that it does not, and an op without multiplications."""

    def __init__(self):
        super().__init__()
        self.odd, self.even = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 2)

    def forward(self, x):
        return torch.sigmoid(self.even(self.odd(x)))


TAKEN, LEFT = 4 * 36 * 27, 4 * 25 * 16


@pytest.fixture(scope="module")
def model(export):
    return export(Net(), X)


def table():
    return SmallTable().set_global(CONFIG)


def caught(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [each for each in found if issubclass(each.category, CoverageWarning)]


@pytest.mark.parametrize("prepare", [prepare_pt2e, prepare_qat_pt2e])
def test_by_default_nothing_is_asked_for(model, prepare):
    assert caught(lambda: prepare(model, table())) == []
    assert caught(lambda: prepare(model, table(), coverage="ignore")) == []


@pytest.mark.parametrize("prepare", [prepare_pt2e, prepare_qat_pt2e])
def test_a_warning_names_what_is_float_and_why_at_the_users_call(model, prepare):
    (warning,) = caught(lambda: prepare(model, table(), coverage="warn"))
    assert warning.filename == __file__
    share = TAKEN / (TAKEN + LEFT)
    message = str(warning.message)
    assert message.startswith(
        f"{share:.1%} of the model's multiplications (MACs) are quantized, and coverage asks for 100"
    )
    assert "conv2d_1 (aten.conv2d.default) at " in message
    assert "self.even(self.odd(x))" in message
    assert message.endswith("conv: kernel size 2; the NPU takes odd ones")
    assert "sigmoid (" not in message  # no multiplications, no parameters


@pytest.mark.parametrize("prepare", [prepare_pt2e, prepare_qat_pt2e])
def test_an_error_leaves_the_model_as_it_was(model, prepare):
    before, keys = str(model.graph), set(model.meta)
    with pytest.raises(CoverageError, match="kernel size 2"):
        prepare(model, table(), coverage="error")
    assert (str(model.graph), set(model.meta)) == (before, keys)
    assert isinstance(CoverageError("x"), ValueError)


@pytest.mark.parametrize(
    ("coverage", "enough"),
    [
        (Coverage(min_macs=0.5, action="error"), True),
        (Coverage(min_macs=TAKEN / (TAKEN + LEFT), action="error"), True),
        (Coverage(min_macs=0.9, action="error"), False),
        (Coverage(min_macs=0.0, min_ops=0.3, action="error"), True),
        (Coverage(min_macs=0.0, min_ops=0.5, action="error"), False),
        (Coverage(min_macs=0.0, min_parameters=0.6, action="error"), True),
        (Coverage(min_macs=0.0, min_parameters=0.7, action="error"), False),
    ],
)
def test_thresholds(model, coverage, enough):
    if enough:
        prepare_pt2e(model, table(), coverage=coverage)
    else:
        with pytest.raises(CoverageError):
            prepare_pt2e(model, table(), coverage=coverage)


def test_ops_count_where_ops_are_asked_for(model):
    with pytest.raises(CoverageError, match=r"33\.3% of the model's ops .*sigmoid \(aten\.sigmoid\.default\)"):
        prepare_pt2e(model, table(), coverage=Coverage(min_macs=0, min_ops=0.9, action="error"))


def test_what_the_user_excludes_does_not_count_unless_asked(model):
    excluded = table().set_module_name("even", None)
    prepare_pt2e(model, excluded, coverage="error")
    with pytest.raises(CoverageError, match="excluded by the rule for module name 'even'"):
        prepare_pt2e(model, excluded, coverage=Coverage(action="error", count_excluded=True))


def test_a_quantizer_without_a_table_counts_what_it_leaves_out(model):
    def annotate(nodes):
        conv = nodes["conv2d"]
        conv.meta["quantization_annotation"] = annotation({conv.args[0]: CONFIG.input_activation}, None)

    with pytest.raises(CoverageError, match="the quantizer left no annotation on it"):
        prepare_pt2e(model, ByHand(annotate), coverage="error")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Coverage(min_macs=50), "min_macs is 50; it is a share, 0 to 1"),
        (lambda: Coverage(action="raise"), "action is 'raise'; it is one of 'warn', 'error', 'ignore'"),
    ],
)
def test_a_coverage_that_is_none(make, words):
    with pytest.raises(RuleError, match=words):
        make()


@pytest.mark.parametrize("coverage", ["strict", 0.9, None])
def test_prepare_says_what_it_takes(model, coverage):
    with pytest.raises(RuleError, match="coverage"):
        prepare_pt2e(model, table(), coverage=coverage)
