"""Which points are quantized and which share one observer, as annotations say; against a reference that is plain."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from quantizers import Apply, SmallTable, annotation, by_hand
from torch import nn
from torch.fx import Graph, GraphModule

from quantizer_sdk import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    InvalidAnnotationError,
    QuantizationConfig,
    QuantizationSpec,
    SharedQuantizationSpec,
    SharingError,
    prepare_pt2e,
)
from quantizer_sdk.observers import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from quantizer_sdk.plan import build_plan, same_qparams

aten = torch.ops.aten
KEY = "quantization_annotation"
S8 = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_affine)
S8_HISTOGRAM = QuantizationSpec(torch.int8, HistogramObserver, -128, 127, torch.per_tensor_affine)
U8 = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)


def first_scale(observers):
    return observers[0].calculate_qparams()


def graph_of(text):
    """Build a graph of cat nodes from "x; a = x; b = x a": names without operands are inputs, the last is returned."""
    graph, nodes = Graph(), {}
    for line in text.split(";"):
        name, _, operands = (part.strip() for part in line.partition("="))
        if operands:
            args = [nodes[operand] for operand in operands.split()]
            nodes[name] = graph.create_node("call_function", aten.cat.default, (args,), name=name)
        else:
            nodes[name] = graph.placeholder(name)
    graph.output(nodes[name])
    return GraphModule(nn.Module(), graph), nodes


def point_of(nodes, text):
    """Return the output "a", or the edge "a->b"."""
    producer, _, consumer = text.partition("->")
    return (nodes[producer], nodes[consumer]) if consumer else nodes[producer]


def name_of(point):
    return f"{point[0].name}->{point[1].name}" if isinstance(point, tuple) else point.name


def annotated(text, specs, strict=()):
    """Annotate a graph by {point: spec}; a text is a spec shared with that point, a list one derived from those points.

    Nodes in `strict` allow no implicit sharing.
    """
    model, nodes = graph_of(text)
    for name, given_spec in specs.items():
        point, spec = point_of(nodes, name), given_spec
        if isinstance(given_spec, str):
            spec = SharedQuantizationSpec(point_of(nodes, given_spec))
        elif isinstance(given_spec, list):
            spec = DerivedQuantizationSpec([point_of(nodes, source) for source in given_spec], first_scale, torch.int32)
        node = point[1] if isinstance(point, tuple) else point
        node.meta.setdefault(KEY, annotation(allow_implicit_sharing=node.name not in strict))
        if isinstance(point, tuple):
            node.meta[KEY].input_qspec_map[point[0]] = spec
        else:
            node.meta[KEY].output_qspec = spec
    return model


def groups(model):
    """Return the groups of a plan as sets of point names, after checking that the plan agrees with itself."""
    plan = build_plan(model)
    for index, group in enumerate(plan.groups):
        assert group.root in group.points
        assert not isinstance(group.spec, SharedQuantizationSpec)
        assert all(plan.group_of[point] == index for point in group.points)
    assert sum(len(group.points) for group in plan.groups) == len(plan.group_of)
    return {frozenset(map(name_of, group.points)) for group in plan.groups}


def sets(*texts):
    return {frozenset(text.split()) for text in texts}


CHAIN = "x; a = x; b = a; c = b; d = c"


# Explicit sharing


def test_points_with_differing_specs_stay_apart():
    assert groups(annotated("x; a = x; b = a", {"x->a": S8, "a": S8, "a->b": U8})) == sets("x->a", "a", "a->b")


def test_points_of_differing_tensors_stay_apart_though_their_specs_are_equal():
    assert groups(annotated("x; y; a = x y", {"x->a": S8, "y->a": S8, "a": S8})) == sets("x->a", "y->a", "a")


def test_a_shared_spec_joins_the_point_that_it_names():
    assert groups(annotated(CHAIN, {"x->a": S8, "a": "x->a", "b": "c", "c": U8})) == sets("x->a a", "b c")


def test_a_reference_may_point_forward():
    assert groups(annotated(CHAIN, {"x->a": "d", "d": S8})) == sets("x->a d")


@pytest.mark.parametrize("order", list(itertools.permutations(["x->a", "a", "b", "c", "d"])), ids=" ".join)
def test_a_chain_of_references_is_one_group_whatever_its_order(order):
    specs = dict(itertools.pairwise(order))
    specs[order[-1]] = S8
    model = annotated(CHAIN, specs)
    assert groups(model) == {frozenset(order)}
    assert name_of(build_plan(model).groups[0].root) == order[-1]


def test_references_to_one_point_from_many_make_one_group():
    specs = {"b": S8, "x->a": "b", "a": "b", "c": "b", "d": "b", "c->d": "b"}
    assert groups(annotated(CHAIN, specs)) == {frozenset(specs)}


def test_operands_and_result_of_cat_share_with_the_first_operand():
    specs = {"x->a": S8, "y->a": "x->a", "z->a": "x->a", "a": "x->a"}
    assert groups(annotated("x; y; z; a = x y z", specs)) == {frozenset(specs)}


def test_a_cycle_of_references_names_its_points():
    specs = {"x->a": "b", "b": "a", "a": "x->a", "c": S8}
    with pytest.raises(SharingError) as caught:
        build_plan(annotated(CHAIN, specs))
    assert "share their qparams only with each other: x -> a, output of a, output of b;" in str(caught.value)
    assert "give one of them a spec of its own" in str(caught.value)
    assert "in a circle: [x -> a] - [output of b] - [output of a] - [x -> a];" in str(caught.value)


def test_points_that_lead_to_a_cycle_belong_to_it():
    with pytest.raises(SharingError, match="output of a, output of b, output of c, output of d;"):
        build_plan(annotated(CHAIN, {"a": "b", "b": "a", "c": "d", "d": "b"}))


def test_giving_one_point_of_a_cycle_a_spec_mends_it():
    specs = {"x->a": "b", "b": "a", "a": "x->a"}
    for point in specs:
        assert groups(annotated(CHAIN, {**specs, point: S8})) == {frozenset(specs)}


def test_a_spec_shared_with_itself_is_refused():
    with pytest.raises(SharingError, match="only with each other: output of a;"):
        build_plan(annotated(CHAIN, {"a": "a"}))


@pytest.mark.parametrize(("target", "words"), [("c", "output of c"), ("b->c", "b -> c")])
def test_sharing_with_a_point_without_a_spec_names_both(target, words):
    with pytest.raises(SharingError, match=f"shared spec on output of a refers to {words}, which has no spec"):
        build_plan(annotated(CHAIN, {"a": target}))


def test_sharing_with_an_edge_that_is_annotated_none():
    model = annotated(CHAIN, {"a": "a->b", "a->b": None})
    with pytest.raises(SharingError, match="refers to a -> b, which has no spec"):
        build_plan(model)


# Implicit sharing


def test_an_edge_shares_with_its_producer_under_an_equal_spec():
    assert groups(annotated(CHAIN, {"a": S8, "a->b": S8})) == sets("a a->b")


def test_edges_of_one_producer_share_by_equal_specs():
    text = "x; a = x; b = x; c = x; d = x"
    specs = {"x->a": S8, "x->b": U8, "x->c": S8, "x->d": U8}
    assert groups(annotated(text, specs)) == sets("x->a x->c", "x->b x->d")


def test_the_producers_observer_wins_where_only_the_observers_differ():
    model = annotated(CHAIN, {"a": S8_HISTOGRAM, "a->b": S8})
    assert groups(model) == sets("a a->b")
    assert build_plan(model).groups[0].spec is S8_HISTOGRAM


def test_the_first_consumers_observer_wins_where_the_producer_has_none():
    text = "x; a = x; b = x"
    model = annotated(text, {"x->a": S8_HISTOGRAM, "x->b": S8})
    assert build_plan(model).groups[0].spec is S8_HISTOGRAM


def test_the_first_consumer_is_the_first_in_the_graph_though_it_became_one_last():
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    a = graph.create_node("call_function", aten.relu.default, (y,), name="a")
    b = graph.create_node("call_function", aten.relu.default, (x,), name="b")
    a.replace_input_with(y, x)
    graph.output((a, b))
    assert list(x.users) == [b, a]
    a.meta[KEY], b.meta[KEY] = annotation({x: S8}), annotation({x: S8_HISTOGRAM})
    (group,) = build_plan(GraphModule(nn.Module(), graph)).groups
    assert group.root == (x, a)
    assert group.spec is S8


def test_a_consumer_that_allows_no_implicit_sharing_keeps_its_own_observer():
    text = "x; a = x; b = a; c = a"
    specs = {"a": S8, "a->b": S8, "a->c": S8}
    assert groups(annotated(text, specs, strict={"b"})) == sets("a a->c", "a->b")
    assert groups(annotated(text, specs, strict={"a"})) == sets("a a->b a->c")  # the producer's own word is not asked


def test_a_consumer_that_allows_no_implicit_sharing_may_share_explicitly():
    assert groups(annotated(CHAIN, {"a": S8, "a->b": "a"}, strict={"b"})) == sets("a a->b")


def test_implicit_sharing_looks_at_the_root_of_what_is_shared_explicitly():
    specs = {"x->a": S8, "a": "x->a", "a->b": S8, "b": U8, "b->c": "d", "d": U8}
    assert groups(annotated(CHAIN, specs)) == sets("x->a a a->b", "b b->c d")


def test_implicit_sharing_joins_whole_groups():
    # Two cats that read one tensor: their groups, each tied explicitly, become one.
    text = "x; y; z; a = x y; b = y z; c = a b"
    specs = {"x->a": S8, "y->a": "x->a", "a": "x->a", "z->b": S8, "y->b": "z->b", "b": "z->b"}
    assert groups(annotated(text, specs)) == {frozenset(specs)}
    assert groups(annotated(text, specs, strict={"b"})) == sets("x->a y->a a", "y->b z->b b")


def test_a_node_that_reads_a_tensor_twice_has_one_edge():
    model = annotated("x; a = x x", {"x->a": S8, "a": S8})
    assert groups(model) == sets("x->a", "a")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (S8, S8_HISTOGRAM, True),
        (S8, U8, False),
        (S8, QuantizationSpec(torch.int8, MinMaxObserver, -127, 127, torch.per_tensor_affine), False),
        (S8, QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric), False),
        (QuantizationSpec(torch.int8, ch_axis=0), QuantizationSpec(torch.int8, ch_axis=1), False),
        (S8, FixedQParamsQuantizationSpec(torch.int8, 0.5, 0, -128, 127, torch.per_tensor_affine), False),
        (FixedQParamsQuantizationSpec(torch.int8, 0.5, 0), FixedQParamsQuantizationSpec(torch.int8, 0.5, 0), True),
        (FixedQParamsQuantizationSpec(torch.int8, 0.5, 0), FixedQParamsQuantizationSpec(torch.int8, 0.25, 0), False),
    ],
)
def test_specs_are_the_same_but_for_their_observers(one, other, same):
    assert same_qparams(one, other) is same
    assert same_qparams(other, one) is same


# Derived specs


def test_a_derived_group_comes_after_its_sources_wherever_they_stand():
    plan = build_plan(annotated(CHAIN, {"x->a": ["d", "c"], "a": S8, "c": ["d"], "d": U8}))
    order = [name_of(group.root) for group in plan.groups]
    assert order.index("d") < order.index("c") < order.index("x->a")
    assert sorted(order) == ["a", "c", "d", "x->a"]


def test_a_source_may_be_shared_with_another_point():
    plan = build_plan(annotated(CHAIN, {"a": ["b"], "b": "c", "c": S8}))
    assert [name_of(group.root) for group in plan.groups] == ["c", "a"]


@pytest.mark.parametrize("specs", [{"a": ["a"]}, {"a": ["b"], "b": ["a"]}, {"a": ["b"], "b": ["c"], "c": "a"}])
def test_derived_specs_that_derive_from_each_other_are_refused(specs):
    with pytest.raises(SharingError, match=r"derived specs form a cycle: \[output of a\] - .*\[output of a\]"):
        build_plan(annotated(CHAIN, specs))


def test_a_derived_spec_of_a_point_without_a_spec_names_both():
    with pytest.raises(SharingError, match=r"derived spec on output of a refers to output of b, which has no spec"):
        build_plan(annotated(CHAIN, {"a": ["b"]}))


# Malformed annotations


def test_an_edge_that_does_not_exist_names_the_operands_there_are():
    model, nodes = graph_of("x; y; a = x")
    nodes["a"].meta[KEY] = annotation({nodes["y"]: S8})
    with pytest.raises(InvalidAnnotationError, match=r"operand y.*operands are x"):
        build_plan(model)


def test_an_edge_given_by_its_name_instead_of_its_node():
    model, nodes = graph_of("x; a = x")
    nodes["a"].meta[KEY] = annotation({"x": S8})
    with pytest.raises(InvalidAnnotationError, match=r"operand 'x'"):
        build_plan(model)


def test_an_output_spec_on_the_output_node():
    model, _nodes = graph_of("x; a = x")
    next(iter(reversed(model.graph.nodes))).meta[KEY] = annotation({}, S8)
    with pytest.raises(InvalidAnnotationError, match="annotate its operands instead"):
        build_plan(model)


def test_float64_which_no_quantize_op_takes(export):
    model = export(nn.Linear(3, 2).double(), torch.randn(1, 3).double())
    with pytest.raises(InvalidAnnotationError, match=r"torch\.float64, made by linear.*take torch\.float32"):
        prepare_pt2e(model, by_hand({"linear": ({}, S8)}))


def test_edges_into_the_output_node_are_points():
    model, nodes = graph_of("x; a = x")
    output = next(iter(reversed(model.graph.nodes)))
    output.meta[KEY] = annotation({nodes["a"]: S8})
    assert groups(model) == sets("a->output")


# In the engine


def test_edge_and_output_specs_that_differ_quantize_twice(export, quantize):
    x = torch.randn(4, 3)
    model = export(Apply(lambda self, x: torch.sigmoid(torch.relu(x))), x)
    converted = quantize(model, by_hand({"relu": ({}, S8), "sigmoid": ({"relu": U8}, None)}), x)
    (relu,) = converted.graph.find_nodes(op="call_function", target=aten.relu.default)
    chain = []
    while relu.users and relu.op == "call_function":
        (relu,) = relu.users
        chain.append(relu)
    assert [node.target.__name__.split("_per")[0] for node in chain[:4]] == ["quantize", "dequantize"] * 2
    assert [node.args[-1] for node in chain[:4]] == [torch.int8, torch.int8, torch.uint8, torch.uint8]
    assert chain[4].target is aten.sigmoid.default


def test_one_operand_read_twice_is_observed_once(export):
    x = torch.randn(4, 3)
    prepared = prepare_pt2e(
        export(Apply(lambda self, x: x + x), x), SmallTable().set_global(QuantizationConfig(S8, S8, None))
    )
    (add,) = prepared.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert add.args[0] is add.args[1]
    assert add.args[0].op == "call_module"


def test_a_bias_gets_the_product_of_its_activations_and_weights_scales(export, quantize):
    weight_spec = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0)

    def product(observers):
        (one, _), (other, _) = [observer.calculate_qparams() for observer in observers]
        return one * other, torch.zeros_like(other, dtype=torch.int32)

    def bias_spec(nodes):
        linear = nodes["linear"]
        sources = [(nodes["x"], linear), (nodes["fc_weight"], linear)]
        return DerivedQuantizationSpec(sources, product, torch.int32, qscheme=torch.per_channel_symmetric, ch_axis=0)

    x = torch.randn(8, 3)
    module = Apply(lambda self, x: self.fc(x), fc=nn.Linear(3, 5))
    quantizer = by_hand({"linear": ({"fc_bias": bias_spec, "x": S8, "fc_weight": weight_spec}, S8)})
    converted = quantize(export(module, x), quantizer, x)
    state = converted.state_dict()
    activation = converted.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.quantize_per_tensor.default
    )[0]
    expected = state["fc.weight_scale"] * activation.args[1]
    assert torch.equal(state["fc.bias_scale"], expected)
    assert state["fc.bias"].dtype is torch.int32
    assert torch.equal(state["fc.bias"], torch.round(module.fc.bias / expected).to(torch.int32))


def test_points_of_one_group_call_one_observer(export, quantize):
    x, y = torch.randn(2, 3), torch.randn(2, 3) * 9
    model = export(Apply(lambda self, x, y: torch.cat([x, y])), x, y)
    specs = {"x": S8, "others_0": lambda nodes: SharedQuantizationSpec((nodes["x"], nodes["cat"]))}
    quantizer = by_hand({"cat": (specs, lambda nodes: SharedQuantizationSpec((nodes["x"], nodes["cat"])))})
    prepared = prepare_pt2e(model, quantizer)
    calls = [node for node in prepared.graph.nodes if node.op == "call_module" and node.target != "_guards_fn"]
    assert len(calls) == 3
    assert len({call.target for call in calls}) == 1
    converted = quantize(model, quantizer, x, y)
    quantizes = converted.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.quantize_per_tensor.default
    )
    assert len({node.args[1:] for node in quantizes}) == 1
    largest = max(float(y.max()), 0) - min(float(y.min()), 0)
    assert quantizes[0].args[1] == pytest.approx(largest / 255, rel=0.3)


# Against a reference

SPECS = (S8, S8, S8_HISTOGRAM, U8)


@st.composite
def annotated_graphs(draw):
    """Draw the text of a graph, a spec for some of its points, and the nodes that allow no implicit sharing."""
    names = "abcdef"[: draw(st.integers(1, 6))]
    operands = {}
    for index, name in enumerate(names):
        known = ("x", "y", *names[:index])
        operands[name] = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    edges = [f"{operand}->{name}" for name in names for operand in dict.fromkeys(operands[name])]
    points = ["x", "y", *names, *edges]
    # A reference is drawn from the points that have a spec, so that most graphs are legal; or, rarely, from all.
    chosen = draw(st.lists(st.sampled_from(points), unique=True, min_size=1))
    everywhere = draw(st.sampled_from([chosen, chosen, chosen, points]))
    kinds = st.one_of(st.sampled_from(SPECS), st.sampled_from(SPECS), st.sampled_from(everywhere))
    specs = {point: draw(kinds) for point in chosen}
    strict = draw(st.sets(st.sampled_from(names)))
    text = "; ".join(["x", "y", *(f"{name} = {' '.join(operands[name])}" for name in names)])
    return text, specs, strict


def reference_groups(specs, strict):
    """Group points the plain way: one pair at a time until nothing changes. Return None where no grouping is legal."""
    if any(isinstance(spec, str) and spec not in specs for spec in specs.values()):
        return None
    group = {point: frozenset([point]) for point in specs}

    def merge(one, other):
        merged = group[one] | group[other]
        for point in merged:
            group[point] = merged

    for point, spec in specs.items():
        if isinstance(spec, str):
            merge(point, spec)
    if any(all(isinstance(specs[point], str) for point in points) for points in group.values()):
        return None

    def root(point):
        return next(specs[member] for member in group[point] if not isinstance(specs[member], str))

    def willing(point):
        _producer, _, consumer = point.partition("->")
        return consumer not in strict

    changed = True
    while changed:
        changed = False
        for one, other in itertools.permutations(specs, 2):
            one_tensor = one.partition("->")[0] == other.partition("->")[0]
            if (
                one_tensor
                and willing(one)
                and willing(other)
                and group[one] != group[other]
                and same_qparams(root(one), root(other))
            ):
                merge(one, other)
                changed = True
    return set(group.values())


@settings(max_examples=400, deadline=None)
@given(annotated_graphs(), st.randoms(use_true_random=False))
def test_groups_are_those_of_the_reference_in_any_order_of_the_annotations(drawn, generator):
    text, specs, strict = drawn
    expected = reference_groups(specs, strict)
    shuffled = list(specs.items())
    generator.shuffle(shuffled)
    for entries in (specs, dict(shuffled)):
        model = annotated(text, entries, strict)
        if expected is None:
            with pytest.raises(SharingError):
                build_plan(model)
            continue
        assert groups(model) == expected
        for group in build_plan(model).groups:
            own = [specs[name_of(point)] for point in group.points]
            assert all(isinstance(spec, str) or same_qparams(spec, group.spec) for spec in own)


@settings(max_examples=100, deadline=None)
@given(annotated_graphs())
def test_planning_changes_neither_graph_nor_annotations(drawn):
    text, specs, strict = drawn
    model = annotated(text, specs, strict)

    def state():
        return model.code, [
            (node.name, list(node.users), note and (list(note.input_qspec_map.items()), note.output_qspec))
            for node in model.graph.nodes
            for note in [node.meta.get(KEY)]
        ]

    before = state()
    if reference_groups(specs, strict) is not None:
        build_plan(model)
    assert state() == before


def test_a_long_chain_of_references_is_planned_without_recursion():
    length = 3000
    graph = Graph()
    nodes = [graph.placeholder("x")]
    for _ in range(length):
        nodes.append(graph.call_function(aten.relu.default, (nodes[-1],)))
    graph.output(nodes[-1])
    for node, following in itertools.pairwise(nodes):
        node.meta[KEY] = annotation({}, SharedQuantizationSpec(following))
    nodes[-1].meta[KEY] = annotation({}, S8)
    (group,) = build_plan(GraphModule(nn.Module(), graph)).groups
    assert len(group.points) == length + 1
