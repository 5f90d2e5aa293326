"""Graphs as data: what cases, fuzzing and standalone scripts are made of."""

import pickle

import pytest
import torch

from quantizer_sdk import InvalidSpecError
from quantizer_sdk.conformance.corpus import FORMS
from quantizer_sdk.conformance.followers import FOLLOWERS, subject_of
from quantizer_sdk.conformance.program import Call, Program, Ref, overload_of

aten = torch.ops.aten
X, P, V = Ref("x", 0), Ref("p", 0), Ref("v", 0)
LINEAR = Program(
    inputs=((2, 3),),
    parameters=((4, 3),),
    calls=(Call(aten.linear.default, (X, P, None)), Call(aten.relu.default, (V,))),
)
FORM_IDS = [(target, form.name) for target, forms in FORMS.items() for form in forms]


def test_it_computes_what_it_says():
    module = LINEAR.module(seed=3)
    x = torch.randn(2, 3)
    assert torch.equal(module(x), torch.relu(x @ module.p0.T))
    assert LINEAR.shapes() == ((2, 4), (2, 4))


def test_a_seed_gives_the_same_parameters_and_another_seed_others():
    assert torch.equal(LINEAR.module(3).p0, LINEAR.module(3).p0)
    assert not torch.equal(LINEAR.module(3).p0, LINEAR.module(4).p0)


def test_several_outputs():
    both = Program(inputs=LINEAR.inputs, parameters=LINEAR.parameters, calls=LINEAR.calls, outputs=(V, Ref("v", 1)))
    first, second = both.module()(torch.randn(2, 3))
    assert torch.equal(torch.relu(first), second)


def test_it_survives_pickling():
    assert pickle.loads(pickle.dumps(LINEAR)) == LINEAR


def test_its_source_is_python_that_computes_the_same():
    scope = {"torch": torch}
    exec(LINEAR.source(), scope)
    module, x = LINEAR.module(), torch.randn(2, 3)
    assert torch.equal(scope["model"](x, module.p0), module(x))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ((Call(aten.relu.default, (Ref("x", 1),)),), r"call 0 \(aten.relu.default\) reads x1"),
        ((Call(aten.relu.default, (Ref("v", 0),)),), "reads v0, which is not there before it"),
    ],
)
def test_a_call_reads_only_what_is_there(calls, message):
    with pytest.raises(InvalidSpecError, match=message):
        Program(inputs=((2,),), calls=calls)


def test_an_overload_has_a_name():
    assert overload_of("aten.add.Tensor") is aten.add.Tensor
    with pytest.raises(InvalidSpecError, match=r"'aten.add' names no op overload"):
        overload_of("aten.add")


@pytest.mark.parametrize(("target", "name"), FORM_IDS, ids=[f"{t}-{n}" for t, n in FORM_IDS])
def test_every_form_is_a_graph_of_its_op(target, name):
    (form,) = (form for form in FORMS[target] if form.name == name)
    inputs = tuple(torch.randn(shape) for shape in form.program.inputs)
    module = form.program.module()
    assert tuple(module(*[tensor.clone() for tensor in inputs]).shape) == form.program.shapes()[-1]
    if name == FORMS[target][0].name:
        exported = torch.export.export(module, inputs).module()
        assert target in {node.target for node in exported.graph.nodes}


@pytest.mark.parametrize("target", FOLLOWERS, ids=str)
def test_every_follower_puts_its_op_last(target):
    head = aten.conv1d.default if "conv1d" in str(target) else aten.conv2d.default
    program = FOLLOWERS[target](FORMS[head][0].program)
    assert [call.target for call in program.calls] == [head, target]
    assert program.module()(*[torch.randn(shape) for shape in program.inputs]).shape == program.shapes()[-1]


def test_a_convolution_does_not_follow_a_tensor_of_another_rank():
    assert FOLLOWERS[aten.conv2d.default](FORMS[aten.linear.default][0].program) is None


def test_subjects_go_without_the_names_of_plain_overloads():
    chain = (aten.add.Tensor, aten.relu.default, aten.conv2d.padding)
    assert subject_of(chain) == "aten.add+aten.relu+aten.conv2d.padding"
