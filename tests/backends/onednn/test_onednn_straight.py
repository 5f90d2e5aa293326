"""Programs run as one straight function: the bits of their graph module, from what the module holds at the time."""

import copy
import operator
import pickle

import pytest
import torch
from quantized_models import GEMMS, OPS, Run, assert_runs_as_its_module, names, quantized, through
from random_codes import rand
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.utils._python_dispatch import TorchDispatchMode

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.onednn import OneDNNProgram, lower_eager
from quantizer_sdk.backends.onednn.torch_functions import TORCH_FUNCTIONS

ATEN = torch.ops.aten


class Seen(TorchDispatchMode):
    """Notes what reaches torch's kernels."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func, str(args), str(kwargs or {})))
        return func(*args, **(kwargs or {}))


X, Y, MATRIX, HEADS = rand(2, 3, 4), rand(2, 3, 4, seed=1), rand(3, 4), rand(1, 2, 3, 4)
OPERANDS = {
    ATEN.view.default: ((X, [6, 4]), {}),
    ATEN.reshape.default: ((X.transpose(0, 1), [6, 4]), {}),
    ATEN.transpose.int: ((X, 1, 2), {}),
    ATEN.permute.default: ((X, [2, 0, 1]), {}),
    ATEN.t.default: ((MATRIX,), {}),
    ATEN.flatten.using_ints: ((X, 1), {}),
    ATEN.unsqueeze.default: ((X, -1), {}),
    ATEN.squeeze.dim: ((HEADS, 0), {}),
    ATEN.expand.default: ((HEADS, [5, -1, -1, -1]), {}),
    ATEN.select.int: ((X, 1, 0), {}),
    ATEN.cat.default: (([X, Y], 1), {}),
    ATEN.add.Tensor: ((X, Y), {"alpha": 2}),
    ATEN.sub.Tensor: ((X, 0.3), {}),
    ATEN.mul.Tensor: ((X, -10000.0), {}),
    ATEN.div.Tensor: ((X, Y), {}),
    ATEN.clamp.default: ((X, -0.1, 0.2), {}),
    ATEN.clamp_min.default: ((X, 0.0), {}),
    ATEN.relu.default: ((X,), {}),
    ATEN.sigmoid.default: ((X,), {}),
    ATEN.tanh.default: ((X,), {}),
    ATEN.embedding.default: ((MATRIX, torch.tensor([2, 0])), {}),
    ATEN.matmul.default: ((X, Y.transpose(1, 2)), {}),
    ATEN.bmm.default: ((X, Y.transpose(1, 2)), {}),
    ATEN.softmax.int: ((X, -1), {}),
    ATEN.layer_norm.default: ((X, [4], rand(4), rand(4), 1e-12, False), {}),
    ATEN.mean.dim: ((X, [1], True), {"dtype": torch.float64}),
    ATEN.sum.dim_IntList: ((X, [1, 2]), {}),
    ATEN.scaled_dot_product_attention.default: ((HEADS, HEADS, HEADS, None, 0.0, True), {}),
}


@pytest.mark.parametrize("overload", TORCH_FUNCTIONS, ids=str)
def test_torchs_functions_reach_the_kernels_of_the_overloads(overload):
    arguments, keywords = OPERANDS[overload]
    with torch.no_grad(), Seen() as ours:
        found = TORCH_FUNCTIONS[overload](*arguments, **keywords)
    with torch.no_grad(), Seen() as theirs:
        expected = overload(*arguments, **keywords)
    assert [call[0] for call in ours.calls] == [call[0] for call in theirs.calls]
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


class Attention(nn.Module):
    """Three projections of one tensor, and what attention makes of them."""

    def __init__(self, *, bias=True, view=lambda y: y.view(2, -1, 4, 8).transpose(1, 2)):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 32, bias=bias) for _ in range(3))
        self.out = nn.Linear(32, 16)
        self.view = view

    def forward(self, x):
        query, key, value = (self.view(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(2, -1, 32))


@pytest.fixture(scope="module")
def attention(export):
    return quantized(export, Attention(), rand(2, 50, 32))


@pytest.mark.parametrize(("tokens", "bias"), [(3, True), (120, False)])
def test_an_attentions_projections_are_one_product(export, tokens, bias):
    x = rand(2, tokens, 32)
    program = lower_eager(quantized(export, Attention(bias=bias), x), (x,))
    assert_runs_as_its_module(program, x)
    assert len([name for name in names(program) if name in GEMMS]) == 2


def test_projections_that_others_read_too_stay_apart(export):
    x = rand(2, 5, 32)
    module = Run(lambda self, x: (self.attention(x), self.attention.key(x).sum()), attention=Attention())
    program = lower_eager(quantized(export, module, x), (x,))
    assert_runs_as_its_module(program, x)
    assert len([name for name in names(program) if name in GEMMS]) == 3


def test_each_weight_of_a_joined_product_may_be_written_into_or_replaced(attention):
    x = rand(2, 50, 32)
    program = lower_eager(copy.deepcopy(attention), (x,))
    state = program.module.state_dict()
    for name in [name for name in state if name.startswith(("query", "key", "value"))]:
        before = program.run(x)[0]
        state[name].mul_(2 if "scale" in name else -1)
        # What is the same for all keys, attention does not see.
        assert name == "key.bias" or not torch.equal(program.run(x)[0], before)
        assert_runs_as_its_module(program, x)
    program.module.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    assert_runs_as_its_module(program, x)
    program.module.value.weight.neg_()
    assert_runs_as_its_module(program, x)


DYNAMIC = [{"is_dynamic": True}, {"is_dynamic": True, "is_per_token": True}]


@pytest.mark.parametrize("config", DYNAMIC, ids=["whole", "rows"])
@pytest.mark.parametrize("tokens", [3, 120])
def test_projections_of_this_runs_codes_are_one_product(export, tokens, config):
    x = rand(2, tokens, 32)
    program = lower_eager(quantized(export, Attention(), x, **config), (x,))
    assert_runs_as_its_module(program, x)
    assert_runs_as_its_module(program, 100 * x.flip(1) + 3)  # which has qparams of its own
    assert len([name for name in names(program) if name in GEMMS]) == (4 if config.get("is_per_token") else 2)


def test_weights_of_projections_at_run_time_may_be_written_into(export):
    x = rand(2, 50, 32)
    program = lower_eager(quantized(export, Attention(), x, is_dynamic=True), (x,))
    for name, tensor in program.module.state_dict().items():
        program.run(x)
        tensor.mul_(2 if "scale" in name else -1)
        assert_runs_as_its_module(program, x)


def test_qparams_of_this_run_that_others_read_stay_tensors(export):
    x = rand(5, 32)
    model = quantized(export, nn.Linear(32, 8), x, is_dynamic=True)
    scale = next(node for node in model.graph.nodes if node.target is operator.getitem)
    output = model.graph.output_node()
    output.args = ((*output.args[0], scale),)
    model.graph._codegen = torch.fx.graph.CodeGen()
    model.recompile()
    program = lower_eager(model, (x,))
    assert_runs_as_its_module(program, x)


def scaled(export, divisor, scale=0.05):
    layer = nn.Linear(16, 24)
    module = Run(
        lambda self, x: self.last(through(self.layer(through(x, 0.02, 100)) * self.divisor, scale, 60)),
        layer=layer,
        last=nn.Linear(24, 8),
        divisor=divisor,
    )
    x = rand(40, 16)
    return lower_eager(export(module, x), (x,)), x


POWERS = 2.0 ** torch.arange(-12, 12)


@pytest.mark.parametrize(
    ("divisor", "scale", "folded"),
    [
        (POWERS, 0.05, True),
        (torch.tensor(0.25), 1e-9, True),
        (POWERS * 3, 0.05, False),
        (-POWERS, 0.05, False),
        (POWERS * 2.0**-60, 0.05, False),
        (POWERS.reshape(1, -1), 0.05, False),
        (POWERS, 1e-30, False),
    ],
)
def test_powers_of_two_are_multiplied_with_the_scale(export, divisor, scale, folded):
    program, x = scaled(export, divisor, scale)
    assert_runs_as_its_module(program, x * torch.logspace(-40, 38, 40)[:, None])
    assert names(program).count("aten.mul") == (0 if folded else 1)


def test_powers_of_two_may_be_written_into(export):
    program, x = scaled(export, POWERS.clone())
    program.run(x)
    program.module.divisor.mul_(4)
    assert_runs_as_its_module(program, x)
    program.module.divisor.mul_(1.1)
    assert_runs_as_its_module(program, x)


@pytest.mark.parametrize("shape", [(4, 32), (3, 5), (2, 4, 32)], ids=str)
def test_constants_are_added_to_any_batch(export, shape):
    addend = torch.randint(0, 256, shape[-1:], dtype=torch.uint8)
    qparams = (0.03, 120, 0, 255, torch.uint8)
    module = Run(
        lambda self, x: through(through(x, 0.02, 100) + OPS.dequantize_per_tensor(self.addend, *qparams), 0.04, 90),
        addend=addend,
    )
    batch = (({0: torch.export.Dim("batch", min=1, max=64)},),)
    program = lower_eager(export(module, rand(*shape), dynamic_shapes=batch))
    for rows in (*range(1, 40), 2):
        assert_runs_as_its_module(program, rand(rows, *shape[1:], seed=rows))
    program.module.addend.zero_()
    assert_runs_as_its_module(program, rand(8, *shape[1:]))


def network():
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 14, 6))


class Lines(nn.Module):
    """Convolutions over lines: one read by the next alone, one by a sum too, one by what is no convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(4, 8, 3), nn.Conv1d(8, 4, 1)
        self.second = nn.Conv1d(8, 8, 3, stride=2, padding=1, groups=8)
        self.third, self.fourth = nn.Conv1d(8, 8, 5, padding=2), nn.Conv1d(8, 8, 1)

    def forward(self, x):
        y = F.relu(self.second(F.relu(self.first(x))))
        z = F.relu(self.third(y) + y)
        return self.last(F.relu(self.fourth(z) + z)), y.flatten()


def test_convolutions_over_lines_follow_each_other(export):
    x = rand(3, 4, 20)
    program = lower_eager(quantized(export, Lines(), x), (x,))
    for lines in (x, x[:1], x[:0], x[0]):
        assert_runs_as_its_module(program, lines)
    assert len([name for name in names(program) if name in GEMMS]) == 5
    with torch.no_grad(), pytest.raises(RuntimeError):
        program.module(x[None, None])
    with pytest.raises(LoweringError):
        program.run(x[None, None])


@pytest.fixture(scope="module")
def converted(export):
    return quantized(export, network(), rand(2, 4, 16))


@pytest.fixture
def x():
    return rand(2, 4, 16)


@pytest.fixture
def program(converted, x):
    return lower_eager(copy.deepcopy(converted), (x,))


def test_a_replaced_submodule_and_changed_code_are_seen(program, x):
    before = program.run(x)[0]
    other = copy.deepcopy(program.module.get_submodule("4"))
    other.weight.neg_()
    setattr(program.module, "4", other)
    assert not torch.equal(program.run(x)[0], before)
    assert_runs_as_its_module(program, x)
    (output,) = program.module.graph.find_nodes(op="output")
    with program.module.graph.inserting_before(output):
        (result,) = output.args[0]
        output.args = ((program.module.graph.call_function(ATEN.neg.default, (result,)),),)
    program.module.recompile()
    assert_runs_as_its_module(program, x)


def test_results_are_tensors_as_any_other(program, x):
    (found,) = program.run(x)
    assert not found.is_inference()
    factor = torch.ones(6, requires_grad=True)
    (found * factor).sum().backward()
    assert torch.equal(factor.grad, found.sum(0))
    found.zero_()
    assert program.run(x)[0].any()
    with torch.inference_mode():
        expected = program.run(x)[0]
    assert torch.equal(expected, program.run(x)[0])


def test_programs_are_copied_and_pickled_after_a_run(program, x):
    expected = program.run(x)[0]
    for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert torch.equal(other.run(x)[0], expected)
        other.module.get_submodule("4").weight.neg_()
        assert not torch.equal(other.run(x)[0], expected)
        assert torch.equal(program.run(x)[0], expected)


def test_who_watches_a_run_sees_the_ops_of_the_module(program, x):
    expected = program.run(x)[0]
    with Seen() as seen:
        found = program.run(x)[0]
    assert torch.equal(found, expected)
    assert torch.ops.quantizer_sdk_x86.conv.default in {call[0] for call in seen.calls}


def test_results_of_any_structure_come_flat(export):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.table = nn.Linear(8, 4), nn.Parameter(rand(3))

        def forward(self, x):
            y = self.layer(x)
            first, second = y.split(2, -1)
            return {"a": (y, [first]), "b": second, "c": self.table, "d": None, "e": x}

    x = rand(5, 8)
    program = lower_eager(quantized(export, Several(), x), (x,))
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(program.module(x))
    found = program.run(x)
    assert [it is None for it in found] == [it is None for it in expected]
    assert all(one is None or torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_wrong_number_of_inputs_is_an_error(program, x):
    for inputs in ((), (x, x)):
        with pytest.raises(LoweringError, match="oneDNN cannot run the program"):
            program.run(*inputs)
    assert OneDNNProgram(program.module).run(x)[0].shape == (2, 6)
