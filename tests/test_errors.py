"""Bad input gets an error that names what is wrong and what to do, and leaves the user's model as it was."""

import copy

import pytest
import torch
from quantizers import CONFIG, INT8, SmallTable, by_hand
from torch import nn

import quantizer_sdk as q
from quantizer_sdk.observers import (
    MinMaxObserver,
    PerAxis,
    PerBlock,
    PerGroup,
    PerRow,
    PerTensor,
    PerToken,
    PlaceholderObserver,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).amax((2, 3)))


X = torch.randn(2, 3, 8, 8)


@pytest.fixture
def exported(export):
    return export(Net(), X)


def table():
    return SmallTable().set_global(CONFIG)


def snapshot(model):
    return model.code, copy.deepcopy(model.state_dict()), [sorted(map(str, node.meta)) for node in model.graph.nodes]


def assert_unchanged(model, before):
    code, state, meta = before
    assert model.code == code
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [sorted(map(str, node.meta)) for node in model.graph.nodes] == meta


def test_module_that_was_not_exported():
    with pytest.raises(q.NotExportedError, match=r"Net that was not exported; pass torch\.export\.export"):
        q.prepare_pt2e(Net(), table())


def test_exported_program_instead_of_its_module():
    program = torch.export.export(Net().eval(), (X,))
    with pytest.raises(q.NotExportedError, match=r"program\.module\(\)"):
        q.prepare_pt2e(program, table())


def test_symbolically_traced_module():
    with pytest.raises(q.NotExportedError, match=r"conv .*symbolic_trace.*torch\.export"):
        q.prepare_pt2e(torch.fx.symbolic_trace(Net()), table())


def test_symbolically_traced_function_call():
    class Plain(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    with pytest.raises(q.NotExportedError, match=r"relu.*torch\.export does not emit"):
        q.prepare_pt2e(torch.fx.symbolic_trace(Plain()), table())


def test_something_that_is_no_model():
    with pytest.raises(q.NotExportedError, match="given a str"):
        q.prepare_pt2e("model.pt2", table())


def test_model_already_prepared(exported):
    prepared = q.prepare_pt2e(exported, table())
    with pytest.raises(q.AlreadyPreparedError, match="holds 6 observers already"):
        q.prepare_pt2e(prepared, table())


def test_model_already_converted(exported, quantize):
    converted = quantize(exported, table(), X)
    with pytest.raises(q.AlreadyConvertedError, match=r"it holds dequantize_per_"):
        q.prepare_pt2e(converted, table())
    with pytest.raises(q.AlreadyConvertedError, match="convert_pt2e takes a prepared model"):
        q.convert_pt2e(converted)


def test_convert_of_a_model_that_was_never_prepared(exported):
    with pytest.raises(q.NotPreparedError, match=r"call prepare_pt2e"):
        q.convert_pt2e(exported)


def test_convert_without_calibration_names_the_observers(exported):
    prepared = q.prepare_pt2e(exported, table())
    before = prepared.code
    with pytest.raises(q.UncalibratedError) as caught:
        q.convert_pt2e(prepared)
    message = str(caught.value)
    assert "4 of 6 observers have seen no data" in message  # those on the two weights need none
    assert "output of x" in message
    assert "test_errors.py" in message
    assert prepared.code == before
    q.calibrate(prepared, [X])
    q.convert_pt2e(prepared)  # the failed call did no harm


def test_an_observer_that_saw_nothing_is_the_only_one_named(exported):
    prepared = q.prepare_pt2e(exported, table())
    q.calibrate(prepared, [X])
    # A weight's observer would look at the weight again, so the one blinded must watch an activation.
    calls = [node for node in prepared.graph.nodes if node.op == "call_module" and node.target != "_guards_fn"]
    blinded = next(call for call in calls if call.args[0].name == "relu")
    observer = prepared.get_submodule(blinded.target)
    observer.min_val, observer.max_val = torch.empty(0), torch.empty(0)
    with pytest.raises(q.UncalibratedError, match=rf"1 of 6 observers have seen no data: {blinded.target} .*relu"):
        q.convert_pt2e(prepared)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_in_calibration_name_the_layer(exported, bad):
    prepared = q.prepare_pt2e(exported, table())
    broken = X.clone()
    broken[0, 0, 0, 0] = bad
    with pytest.raises(q.NonFiniteError, match=r"1 NaN or infinite of 384 values") as caught:
        q.calibrate(prepared, [broken])
    assert "x -> conv2d" in str(caught.value)


def test_empty_batch_names_the_layer(exported):
    prepared = q.prepare_pt2e(exported, table())
    observer = prepared.activation_post_process_0
    with pytest.raises(q.CalibrationError, match=r"\[x -> conv2d\].*empty tensor of shape \(0, 3\)"):
        observer(torch.empty(0, 3))


def test_empty_calibration_loader(exported):
    prepared = q.prepare_pt2e(exported, table())
    with pytest.raises(q.CalibrationError, match="no batch at all"):
        q.calibrate(prepared, [])


def test_calibration_batch_of_a_strange_kind(exported):
    prepared = q.prepare_pt2e(exported, table())
    with pytest.raises(q.CalibrationError, match="batch 0 is a str"):
        q.calibrate(prepared, ["image.png"])


def test_calibrating_an_unprepared_model(exported):
    with pytest.raises(q.NotPreparedError):
        q.calibrate(exported, [X])


def test_quantizer_that_annotates_nothing_says_why_by_op(exported):
    before = snapshot(exported)
    with pytest.raises(q.NothingAnnotatedError) as caught:
        q.prepare_pt2e(exported, SmallTable().set_module_name("conv", None))
    message = str(caught.value)
    assert "SmallTable annotated none of the model's" in message
    assert "conv2d: conv: excluded by the rule for module name 'conv'" in message or "excluded by the rule" in message
    assert "no row for aten.amax.default" in message or "no rule covers it" in message
    assert_unchanged(exported, before)


def test_annotation_on_a_non_edge(exported):
    before = snapshot(exported)
    with pytest.raises(q.InvalidAnnotationError, match=r"relu .*operand x.*does not have.*operands are conv2d"):
        q.prepare_pt2e(exported, by_hand({"relu": ({"x": INT8}, None)}))
    assert_unchanged(exported, before)


def test_annotation_on_an_integer_tensor(export):
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, index):
            return self.table(index)

    model = export(Lookup(), torch.tensor([1, 2]))
    with pytest.raises(q.InvalidAnnotationError, match=r"torch.int64, made by index"):
        q.prepare_pt2e(model, by_hand({"embedding": ({"index": INT8}, None)}))


def test_annotation_on_a_tuple(export):
    class Split(nn.Module):
        def forward(self, x):
            first, second = torch.split(x, 2)
            return first + second

    model = export(Split(), torch.randn(4, 3))
    with pytest.raises(q.InvalidAnnotationError, match=r"quantizes a (list|tuple), made by split.*getitem"):
        q.prepare_pt2e(model, by_hand({"split": ({}, INT8)}))


def test_channel_axis_out_of_rank(exported):
    spec = q.QuantizationSpec(torch.int8, qscheme=torch.per_channel_symmetric, ch_axis=4)
    with pytest.raises(
        q.InvalidAnnotationError, match=r"fc_weight -> linear: PerAxis\(axis=4\) .*rank 2; accepted are 0 to 1"
    ):
        q.prepare_pt2e(exported, by_hand({"linear": ({"fc_weight": spec}, None)}))


def test_annotation_that_is_no_spec(exported):
    with pytest.raises(q.InvalidAnnotationError, match="expected one of the quantization specs"):
        q.prepare_pt2e(exported, by_hand({"conv2d": ({"x": "int8"}, None)}))


@pytest.mark.parametrize(
    ("dtype", "ends", "granularity", "words"),
    [
        (torch.int16, (None, None), PerTensor(), "dynamic in torch.int16; the op .* knows torch.int8 and torch.uint8"),
        (torch.uint8, (None, None), PerToken(), r"per token in torch.uint8 0\.\.255; .*torch.int8 with all its codes"),
        (torch.int8, (-64, 63), PerToken(), r"per token in torch.int8 -64\.\.63"),
        (torch.int16, (None, None), PerAxis(1), r"dynamic in torch.int16; .*torch.int8 and torch.uint8"),
    ],
)
def test_dynamic_in_a_form_that_no_op_computes(exported, dtype, ends, granularity, words):
    observer = PlaceholderObserver.with_args(granularity=granularity)
    spec = q.QuantizationSpec(dtype, observer, *ends, torch.per_tensor_affine, is_dynamic=True)
    with pytest.raises(q.UnsupportedError, match=rf"x -> conv2d.*{words}"):
        q.prepare_pt2e(exported, by_hand({"conv2d": ({"x": spec}, None)}))


def test_a_bias_derived_from_a_dynamic_activation(exported):
    dynamic = q.QuantizationSpec(torch.int8, qscheme=torch.per_tensor_affine, is_dynamic=True)

    def bias(nodes):
        sources = [(nodes["amax"], nodes["linear"]), (nodes["fc_weight"], nodes["linear"])]
        return q.DerivedQuantizationSpec(sources, lambda _observers: None, torch.int32)

    quantizer = by_hand({"linear": ({"amax": dynamic, "fc_weight": INT8, "fc_bias": bias}, None)})
    with pytest.raises(q.UnsupportedError, match=r"fc_bias -> linear.*derive from those of a dynamic tensor"):
        q.prepare_pt2e(exported, quantizer)


@pytest.mark.parametrize(
    ("granularity", "words"),
    [
        (PerGroup(3), r"PerGroup\(group_size=3\) does not divide a tensor of shape \[2, 4\]"),
        (PerGroup(0), r"PerGroup\(group_size=0\) does not divide"),
        (PerBlock((1, 2, 2)), r"more axes than a tensor of rank 2"),
        (PerRow(2), "names axis 2 of a tensor of rank 2"),
    ],
)
def test_blocks_that_do_not_fit_the_tensor(exported, granularity, words):
    spec = q.QuantizationSpec(torch.int8, MinMaxObserver.with_args(granularity=granularity))
    with pytest.raises(q.InvalidAnnotationError, match=rf"fc_weight -> linear: .*{words}"):
        q.prepare_pt2e(exported, by_hand({"linear": ({"fc_weight": spec}, None)}))


def test_a_cast_has_no_codes():
    with pytest.raises(q.InvalidSpecError, match=r"a cast to torch\.float16 has no codes"):
        q.QuantizationSpec(torch.float16, quant_min=0, quant_max=1)


def test_errors_name_the_users_line(exported):
    with pytest.raises(q.InvalidAnnotationError) as caught:
        q.prepare_pt2e(exported, by_hand({"relu": ({"x": INT8}, None)}))
    assert "test_errors.py" in str(caught.value)
    assert "torch.relu(self.bn(self.conv(x)))" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": torch.int8, "quant_min": 0, "quant_max": 255}, "0..255 does not fit torch.int8"),
        ({"dtype": torch.uint8, "quant_min": -128, "quant_max": 127}, "-128..127 does not fit torch.uint8"),
        ({"dtype": torch.int8, "quant_min": 5, "quant_max": 5}, "quant_min must be below quant_max"),
        ({"dtype": torch.int8, "quant_min": -8}, "give both, or neither"),
        ({"dtype": torch.complex64}, "dtype is torch.complex64"),
        ({"dtype": torch.int8, "ch_axis": -1}, "count axes from the front"),
        ({"dtype": torch.int8, "qscheme": "affine"}, "qscheme is 'affine'"),
        ({"dtype": torch.int8, "observer_or_fake_quant_ctr": 3}, "has no with_args"),
    ],
)
def test_specs_that_contradict_themselves(arguments, words):
    with pytest.raises(q.InvalidSpecError) as caught:
        q.QuantizationSpec(**arguments)
    assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": 0.0, "zero_point": 0}, "scale is 0.0"),
        ({"scale": float("nan"), "zero_point": 0}, "scale is nan"),
        ({"scale": 1.0, "zero_point": 300}, "zero_point is 300"),
    ],
)
def test_fixed_qparams_that_cannot_be(arguments, words):
    with pytest.raises(q.InvalidSpecError, match=words):
        q.FixedQParamsQuantizationSpec(torch.int8, **arguments)


def test_every_error_is_named_and_also_a_builtin_one():
    from quantizer_sdk import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        assert kind.__doc__, name
        if kind is not q.QuantizerError:
            assert issubclass(kind, q.QuantizerError)
            builtin = {base.__name__ for base in kind.__mro__} & {
                "ValueError",
                "TypeError",
                "RuntimeError",
                "LookupError",
                "ImportError",
                "NotImplementedError",
            }
            assert builtin, name
