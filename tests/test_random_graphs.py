"""Random annotated graphs through the whole engine, against a reference that does what the contract says, naively.

The contract: an op reads each operand through the quantization of its producer's output, then through that of the edge;
points that share qparams are one group, whose range is that of all that its points see.
"""

from collections import Counter

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from quantizers import annotation
from test_plan import point_of, reference_groups
from torch import nn
from torch.fx import Graph, GraphModule

from quantizer_sdk import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.observers.create import is_observer

aten = torch.ops.aten
KEY = "quantization_annotation"
OPS = {
    1: (aten.relu.default, aten.neg.default, aten.sigmoid.default),
    2: (aten.add.Tensor, aten.mul.Tensor, aten.maximum.default),
    3: (aten.addcmul.default, aten.where.ScalarOther),
}
S8 = QuantizationSpec(torch.int8, None, -128, 127, torch.per_tensor_affine)
U8 = QuantizationSpec(torch.uint8, None, 0, 255, torch.per_tensor_affine)
SYMMETRIC = QuantizationSpec(torch.int8, None, -127, 127, torch.per_tensor_symmetric)
CHANNEL = QuantizationSpec(torch.int8, None, -128, 127, torch.per_channel_affine, 1)
FIXED = FixedQParamsQuantizationSpec(torch.int8, 0.125, 3)
SHAPE = (4, 3)


@st.composite
def cases(draw):
    """Draw ops by name, their operands, a spec or a reference for some points, and the nodes that are strict."""
    names = "abcdefg"[: draw(st.integers(1, 7))]
    program = {}
    for index, name in enumerate(names):
        arity = draw(st.integers(1, 2))
        known = ("x", "y", "w", *names[:index])
        operands = tuple(draw(st.sampled_from(known)) for _ in range(arity))
        program[name] = (draw(st.sampled_from(OPS[arity])), operands)
    edges = [f"{operand}->{name}" for name, (_op, operands) in program.items() for operand in dict.fromkeys(operands)]
    chosen = draw(st.lists(st.sampled_from(["x", "y", "w", *names, *edges]), unique=True, min_size=1))
    plain = st.sampled_from((S8, S8, U8, SYMMETRIC, CHANNEL, FIXED))
    specs = {point: draw(st.one_of(plain, plain, st.sampled_from(chosen))) for point in chosen}
    strict = draw(st.sets(st.sampled_from(names)))
    return program, specs, strict


def model_of(program):
    graph, nodes = Graph(), {}
    root = nn.Module()
    root.register_buffer("w", torch.linspace(-2, 3, 12).reshape(SHAPE))
    for name in ("x", "y"):
        nodes[name] = graph.placeholder(name)
    nodes["w"] = graph.create_node("get_attr", "w", name="w")
    for name, (op, operands) in program.items():
        nodes[name] = graph.create_node("call_function", op, tuple(nodes[it] for it in operands), name=name)
    graph.output(tuple(nodes[name] for name in program))
    return GraphModule(root, graph)


class Annotating(Quantizer):
    def __init__(self, specs, strict):
        self.specs, self.strict = specs, strict

    def annotate(self, model):
        nodes = {node.name: node for node in model.graph.nodes}
        for name, given_spec in self.specs.items():
            point = point_of(nodes, name)
            spec = SharedQuantizationSpec(point_of(nodes, given_spec)) if isinstance(given_spec, str) else given_spec
            node = point[1] if isinstance(point, tuple) else point
            node.meta.setdefault(KEY, annotation(allow_implicit_sharing=node.name not in self.strict))
            if isinstance(point, tuple):
                node.meta[KEY].input_qspec_map[point[0]] = spec
            else:
                node.meta[KEY].output_qspec = spec
        return model


def run(program, inputs, read):
    """Evaluate a program in which an op reads operand values through `read(operand, reader, value)`."""
    values = dict(inputs)
    for name, (op, operands) in program.items():
        values[name] = op(*(read(operand, name, values[operand]) for operand in operands))
    return values


def qparams(spec, tensors):
    """Choose scale and zero point for all that a group's points see: plain min-max."""
    if isinstance(spec, FixedQParamsQuantizationSpec):
        return torch.tensor(spec.scale), torch.tensor(spec.zero_point)
    joined = torch.cat([tensor.reshape(-1, SHAPE[1]) for tensor in tensors])
    if spec is not CHANNEL:
        joined = joined.reshape(-1, 1)
    low, high = joined.amin(0).clamp(max=0), joined.amax(0).clamp(min=0)
    if spec is SYMMETRIC:
        scale, zero_point = torch.maximum(-low, high) / 127, torch.zeros_like(low)
    else:
        scale = (high - low) / 255
        zero_point = (spec.quant_min - torch.round(low / scale)).clamp(spec.quant_min, spec.quant_max)
    empty = (low == 0) & (high == 0)
    largest = scale[~empty].max() if bool((~empty).any()) else torch.tensor(1.0)
    return torch.where(empty, largest, scale), torch.where(empty & (scale == 0), _zero(spec), zero_point)


def _zero(spec):
    return torch.tensor(float(spec.quant_min))


def fake_quantize(x, spec, scale, zero_point):
    low, high = (-128, 127) if spec.quant_min is None else (spec.quant_min, spec.quant_max)
    return (torch.clamp(torch.round(x * (1.0 / scale)) + zero_point, low, high) - zero_point) * scale


class Reference:
    """The contract, done naively."""

    def __init__(self, program, specs, strict, batches):
        self.program, self.specs = program, specs
        self.group_of = {point: group for group in reference_groups(specs, strict) for point in group}
        self.readers = {
            operand: dict.fromkeys(name for name, (_op, operands) in program.items() if operand in operands)
            for operand in ("x", "y", "w", *program)
        }
        seen = {group: [] for group in self.group_of.values()}
        for batch in batches:
            values = run(program, batch, lambda _operand, _reader, value: value)
            for point, group in self.group_of.items():
                seen[group].append(values[point.partition("->")[0]])
        self.spec = {group: next(specs[p] for p in group if not isinstance(specs[p], str)) for group in seen}
        self.qparams = {group: qparams(self.spec[group], tensors) for group, tensors in seen.items()}

    def through(self, point, value):
        group = self.group_of.get(point)
        return value if group is None else fake_quantize(value, self.spec[group], *self.qparams[group])

    def read(self, operand, reader, value):
        value = self.through(operand, value)
        edge = f"{operand}->{reader}"
        return value if self.group_of.get(edge) == self.group_of.get(operand) else self.through(edge, value)

    def outputs(self, batch):
        values = run(self.program, batch, self.read)
        return [self.through(name, values[name]) for name in self.program]

    def quantizes(self):
        """How many quantize ops each tensor must have: one of its own, one for each other group that reads it."""
        counts = Counter()
        for operand, readers in self.readers.items():
            own = self.group_of.get(operand)
            edges = {self.group_of.get(f"{operand}->{reader}") for reader in readers} - {own, None}
            used = readers or operand in self.program
            counts[operand] = len(edges) + (own is not None and bool(used))
        return counts


@settings(max_examples=250, deadline=None)
@given(cases(), st.integers(0, 10**6))
def test_the_engine_does_what_the_contract_says(drawn, seed):
    program, specs, strict = drawn
    if reference_groups(specs, strict) is None:
        return  # that illegal graphs are refused, test_plan shows
    generator = torch.Generator().manual_seed(seed)
    batches = [{name: torch.randn(SHAPE, generator=generator) * 3 for name in "xy"} for _ in range(2)]
    model = model_of(program)
    constants = {"w": model.w}
    reference = Reference(program, specs, strict, [batch | constants for batch in batches])
    prepared = prepare_pt2e(model, Annotating(specs, strict))

    called = {str(node.target) for node in prepared.graph.nodes if node.op == "call_module"}
    assert len(called) == len(reference.spec) == len([child for child in prepared.children() if is_observer(child)])
    calibrate(prepared, [(batch["x"], batch["y"]) for batch in batches])
    for one, other in zip(prepared(*batches[0].values()), model(*batches[0].values()), strict=True):
        assert torch.equal(one, other)

    converted = convert_pt2e(prepared, fold_quantize=False)
    placed = Counter()
    for node in converted.graph.nodes:
        if "quantized_decomposed.quantize" in str(node.target):
            source = node.args[0]
            while "dequantize" in source.name:
                source = source.args[0].args[0]
            placed[source.name] += 1
        if "quantized_decomposed.dequantize" in str(node.target):
            assert len(node.users) == 1
    assert +placed == +reference.quantizes()
    for batch in batches:
        expected = reference.outputs(batch | constants)
        for form in (converted, convert_pt2e(prepared)):
            for one, other in zip(form(batch["x"], batch["y"]), expected, strict=True):
                assert torch.equal(one, other)


def product(observers):
    scale = torch.ones(1)
    for observer in observers:
        scale = scale * observer.calculate_qparams()[0]
    return scale, torch.zeros(1, dtype=torch.int32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["x", "y", "a", "x->a", "y->a", "a->b"]), min_size=1, max_size=3, unique=True))
def test_derived_qparams_follow_any_sources(sources):
    program = {"a": (aten.add.Tensor, ("x", "y")), "b": (aten.neg.default, ("a",)), "c": (aten.neg.default, ("x",))}
    batch = {name: torch.randn(SHAPE) * 3 for name in "xy"}
    plain = {"x": S8, "y": U8, "a": SYMMETRIC, "x->a": U8, "y->a": SYMMETRIC, "a->b": S8}

    class WithDerived(Annotating):
        def annotate(self, model):
            super().annotate(model)
            nodes = {node.name: node for node in model.graph.nodes}
            spec = DerivedQuantizationSpec([point_of(nodes, it) for it in sources], product, torch.int32)
            nodes["c"].meta[KEY] = annotation({}, spec)
            return model

    prepared = prepare_pt2e(model_of(program), WithDerived(plain, set()))
    calibrate(prepared, [tuple(batch.values())])
    converted = convert_pt2e(prepared)
    reference = Reference(program, plain, set(), [batch | {"w": torch.zeros(SHAPE)}])
    expected = torch.ones(1)
    for source in sources:
        expected = expected * reference.qparams[reference.group_of[source]][0]
    (node,) = [
        node
        for node in converted.graph.nodes
        if "quantized_decomposed.quantize" in str(node.target) and node.args[0].name == "c"
    ]
    assert node.args[1] == float(expected)
    assert node.args[5] is torch.int32
