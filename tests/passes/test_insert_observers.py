"""A prepared model observes the points of its plan, and computes what the float model computes."""

import pytest
import torch
from quantizers import CONFIG, INT8, UINT8, Apply, ByHand, SmallTable, annotation, by_hand
from torch import nn

from quantizer_sdk import InvalidAnnotationError, SharedQuantizationSpec, calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.observers import MinMaxObserver
from quantizer_sdk.observers.create import is_observer

KEY = "quantization_annotation"
X = torch.randn(2, 3)


def node_of(model, name):
    return next(node for node in model.graph.nodes if node.name == name)


def observed(model, node):
    """Return the tensor behind a chain of observer calls, and the observers in the order the data meets them."""
    chain = []
    while node.op == "call_module":
        chain.append(str(node.target))
        (node,) = node.args
    return node.name, chain[::-1]


def operands(model, name):
    return [observed(model, operand) for operand in node_of(model, name).all_input_nodes]


def test_an_edge_is_observed_for_its_consumer_alone(export):
    model = export(Apply(lambda self, x: torch.relu(x) + torch.sigmoid(x)), X)
    prepared = prepare_pt2e(model, by_hand({"relu": ({"x": INT8}, None)}))
    assert operands(prepared, "relu") == [("x", ["activation_post_process_0"])]
    assert operands(prepared, "sigmoid") == [("x", [])]
    assert operands(prepared, "add") == [("relu", []), ("sigmoid", [])]


def test_an_output_is_observed_for_all_its_users(export):
    def run(self, x):
        y = torch.relu(x)
        return torch.sigmoid(y), y

    model = export(Apply(run), X)
    prepared = prepare_pt2e(model, by_hand({"relu": ({}, INT8)}))
    assert operands(prepared, "sigmoid") == [("relu", ["activation_post_process_0"])]
    assert operands(prepared, "output") == [("sigmoid", []), ("relu", ["activation_post_process_0"])]
    assert len(prepared.graph.find_nodes(op="call_module", target="activation_post_process_0")) == 1


def test_differing_specs_on_output_and_edge_make_a_chain(export):
    model = export(Apply(lambda self, x: torch.sigmoid(torch.relu(x))), X)
    prepared = prepare_pt2e(model, by_hand({"relu": ({}, INT8), "sigmoid": ({"relu": UINT8}, None)}))
    assert operands(prepared, "sigmoid") == [("relu", ["activation_post_process_0", "activation_post_process_1"])]
    assert [prepared.get_submodule(f"activation_post_process_{index}").dtype for index in (0, 1)] == [
        torch.int8,
        torch.uint8,
    ]


def test_consumers_with_one_spec_read_one_observer_call(export):
    model = export(Apply(lambda self, x: torch.relu(x) + torch.sigmoid(x) + torch.tanh(x)), X)
    specs = {"relu": INT8, "sigmoid": UINT8, "tanh": INT8}
    prepared = prepare_pt2e(model, by_hand({name: ({"x": spec}, None) for name, spec in specs.items()}))
    assert node_of(prepared, "relu").args[0] is node_of(prepared, "tanh").args[0]
    assert operands(prepared, "sigmoid") != operands(prepared, "relu")


def test_placeholders_and_model_outputs_can_be_annotated(export):
    model = export(Apply(lambda self, x: torch.relu(x)), X)
    prepared = prepare_pt2e(model, by_hand({"x": ({}, INT8), "output": ({"relu": UINT8}, None)}))
    assert operands(prepared, "relu") == [("x", ["activation_post_process_0"])]
    assert operands(prepared, "output") == [("relu", ["activation_post_process_1"])]


def test_an_operand_given_by_keyword_is_an_operand(export):
    model = export(Apply(lambda self, x: torch.relu(x)), X)
    (relu,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    relu.kwargs, relu.args = {"self": relu.args[0]}, ()
    model.recompile()
    prepared = prepare_pt2e(model, by_hand({"relu": ({"x": INT8}, None)}))
    assert operands(prepared, "relu") == [("x", ["activation_post_process_0"])]


def test_elements_of_a_list_operand_are_operands(export):
    model = export(Apply(lambda self, x: torch.cat([x, torch.relu(x), x])), X)
    prepared = prepare_pt2e(model, by_hand({"cat": ({"x": INT8, "relu": UINT8}, None)}))
    one, two, three = node_of(prepared, "cat").args[0]
    assert one is three
    assert observed(prepared, two) == ("relu", ["activation_post_process_1"])


def test_a_group_is_one_module_called_at_each_of_its_points(export):
    model = export(Apply(lambda self, x: torch.relu(x)), X)
    prepared = prepare_pt2e(
        model, by_hand({"relu": ({"x": INT8}, lambda nodes: SharedQuantizationSpec((nodes["x"], nodes["relu"])))})
    )
    assert operands(prepared, "relu") == [("x", ["activation_post_process_0"])]
    assert operands(prepared, "output") == [("relu", ["activation_post_process_0"])]
    assert sum(map(is_observer, prepared.children())) == 1


def test_the_prepared_model_computes_the_float_model_and_keeps_its_weights(export):
    x = torch.randn(2, 3, 6, 6)
    model = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), x)
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    assert torch.equal(prepared(x), model(x))
    for name, value in model.state_dict().items():
        assert prepared.state_dict()[name].data_ptr() == value.data_ptr()


def test_annotations_are_spent(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    assert not [node for node in prepared.graph.nodes if KEY in node.meta]


def test_observer_calls_carry_the_example_value_of_their_tensor(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    for node in prepared.graph.nodes:
        if node.op == "call_module" and node.target != "_guards_fn":
            assert node.meta["val"].shape == node.args[0].meta["val"].shape


def test_guards_see_the_inputs_themselves(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    (guards,) = [node for node in prepared.graph.nodes if node.target == "_guards_fn"]
    assert guards.args[0].op == "placeholder"
    with pytest.raises(AssertionError, match=r"Guard failed"):
        prepared(torch.randn(2, 5))


def test_quantizers_see_no_guards(export):
    # torch adds them to what is exported outside torchao's and executorch's own files, and vendors' passes know no call
    # of a module.
    class Retracing(SmallTable):
        def transform_for_annotation(self, model):
            assert not [node for node in model.graph.nodes if node.op == "call_module"]
            return super().transform_for_annotation(torch.fx.GraphModule(model, model.graph))

    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), Retracing().set_global(CONFIG))
    with pytest.raises(AssertionError, match=r"Guard failed"):
        prepared(torch.randn(2, 5))


def test_each_observer_knows_where_it_sits(export):
    prepared = prepare_pt2e(export(nn.Linear(3, 4), X), SmallTable().set_global(CONFIG))
    locations = [module.location for module in prepared.children() if is_observer(module)]
    assert any("input_1 -> linear" in where or "input -> linear" in where for where in locations)
    assert all("watches" in where for where in locations)


# The quantizer's callback


class Adjusting(ByHand):
    """Annotates relu's operand and result, and then calls a function on the observers."""

    def __init__(self, adjust):
        def annotate(nodes):
            nodes["relu"].meta[KEY] = annotation({nodes["x"]: INT8}, INT8)

        super().__init__(annotate)
        self._adjust = adjust

    def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
        self._adjust({node.name: node for node in model.graph.nodes}, edge_or_node_to_obs_or_fq)


@pytest.fixture
def relu(export):
    return export(Apply(lambda self, x: torch.relu(x)), X)


def test_the_callback_can_adjust_and_replace_observers(relu):
    special = MinMaxObserver(dtype=torch.uint8)

    def adjust(nodes, observer_of):
        assert set(observer_of) == {(nodes["x"], nodes["relu"]), nodes["relu"]}
        observer_of[nodes["x"], nodes["relu"]].eps = 0.5
        observer_of[nodes["relu"]] = special

    prepared = prepare_pt2e(relu, Adjusting(adjust))
    calibrate(prepared, [X])
    (_, (one,)), (_, (other,)) = operands(prepared, "relu")[0], operands(prepared, "output")[0]
    assert prepared.get_submodule(one).calculate_qparams()[0].item() == 0.5
    assert prepared.get_submodule(other) is special
    assert convert_pt2e(prepared)(X).shape == X.shape


def test_the_callback_can_tie_points_to_one_observer(relu):
    def adjust(nodes, observer_of):
        observer_of[nodes["relu"]] = observer_of[nodes["x"], nodes["relu"]]

    prepared = prepare_pt2e(relu, Adjusting(adjust))
    assert sum(map(is_observer, prepared.children())) == 1


def test_the_callback_may_not_add_points(relu):
    def adjust(nodes, observer_of):
        observer_of[nodes["x"]] = MinMaxObserver()

    with pytest.raises(InvalidAnnotationError, match=r"without an annotation: output of x; annotate them"):
        prepare_pt2e(relu, Adjusting(adjust))
