"""The oracle: what every quantize of a converted graph must give, from integer inputs and in exact arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed, which has no public home
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.conformance.bounds import Evaluated, Traced
from quantizer_sdk.conformance.deltas import graph_delta, kernel_delta
from quantizer_sdk.conformance.verdict import Requantized
from quantizer_sdk.errors import GraphError, InvalidSpecError, UnsupportedError
from quantizer_sdk.profile import Profile

__all__ = ["OracleResult", "Site", "run_oracle"]

_Args = dict[str, Any]
_Target = Callable[..., Any]

aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_DEQUANTIZE_CHANNELS = torch.ops.quantized_decomposed.dequantize_per_channel.default


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """One quantize of the graph.

    Attributes:
        node: The quantize node's name.
        requantized: The exact codes.
        graph_delta: float64 δ of the eager float32 graph, as its own inputs and the exact codes before it agree.
        kernel_delta: float64 δ of an integer kernel, likewise; see `deltas.kernel_delta`.
        value: What reaches the quantize.
    """

    node: str
    value: Traced
    requantized: Requantized
    graph_delta: Tensor
    kernel_delta: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OracleResult:
    """The exact codes of a graph.

    Both δ at a site allow for the arithmetic since the quantizes before it, whose exact codes they take for granted.

    Attributes:
        outputs: The site behind each model output, in order.
        sites: All sites in graph order, those of the inputs excepted.
    """

    outputs: tuple[Site, ...]
    sites: tuple[Site, ...]


def run_oracle(
    model: GraphModule,
    integer_inputs: Sequence[Tensor],
    profile: Profile | None = None,
    codes: Mapping[str, Tensor] | None = None,
) -> OracleResult:
    """Interpret a converted graph in exact arithmetic.

    The exact codes of each quantize go on into the dequantizes after it, or those that `codes` names: with a kernel's
    own codes, each op is judged on what the kernel really had before it, and no flipped tie goes on to the next.

    Args:
        model: An exported graph of aten and `quantized_decomposed` operators. Every input feeds one quantize, several
            alike or nothing, and every output is a quantize of a computed value or the dequantize of one.
        integer_inputs: For each input, in order, the integer tensor that stands in for its quantize's result.
        profile: Whose kernels `Site.kernel_delta` is for; None takes XNNPACK's.
        codes: By the name of a quantize node, codes to go on with in the place of its exact ones.

    Raises:
        InvalidSpecError: The integer inputs do not fit the graph's quantizes.
        GraphError: An input is used otherwise than by a quantize, or an output is not quantized.
        UnsupportedError: An operator, or a use of one, has no exact form here; names it.
    """
    placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(integer_inputs):
        raise InvalidSpecError(
            f"{len(integer_inputs)} integer inputs; expected {len(placeholders)}: one for each input"
        )
    env: dict[Node, Any] = dict(zip(placeholders, integer_inputs, strict=True))
    sites: dict[Node, Site] = {}
    for node in placeholders:
        _check_input(node, env[node])
    for node in model.graph.nodes:
        if node.op == "get_attr":
            env[node] = functools.reduce(getattr, node.target.split("."), model)
        elif node.op == "call_function":
            args = _arguments(node, env)
            if node.target is not _QUANTIZE:
                env[node] = _compute(node, args)
            elif node.args[0] in placeholders:
                env[node] = env[node.args[0]]
            else:
                sites[node] = _site(node, args, profile)
                forced = (codes or {}).get(node.name)
                env[node] = sites[node].requantized.expected if forced is None else forced.to(torch.int64)
            if node.target._schema.is_mutable:  # relu_ and its like also change their operand
                env[node.args[0]] = env[node]
        elif node.op == "call_module" and node.target != "_guards_fn":
            raise UnsupportedError(f"{node.name} calls the module {node.target}; expected operators only")
    return OracleResult(outputs=_outputs(model, sites), sites=tuple(sites.values()))


def _check_input(node: Node, codes: Tensor) -> None:
    """Refuse a placeholder that its integer tensor cannot stand in for."""
    users = [user for user in node.users if user.target not in {"_guards_fn", aten.sym_size.int}]
    if not users:
        return
    if any(user.target is not _QUANTIZE or user.args[1:] != users[0].args[1:] for user in users):
        found = ", ".join(str(user.target) for user in users)
        raise GraphError(f"input {node.name} feeds {found}; expected quantizes that are all alike")
    args = _arguments(users[0], {node: codes})
    low, high, dtype = args["quant_min"], args["quant_max"], args["dtype"]
    if codes.dtype != dtype or (codes.numel() and not low <= int(codes.min()) <= int(codes.max()) <= high):
        raise InvalidSpecError(f"input {node.name} got {codes.dtype} codes; expected {dtype} in [{low}, {high}]")


def _arguments(node: Node, env: dict[Node, Any]) -> _Args:
    """Return a node's arguments by their schema's names, defaults included: the one place that reads positions."""
    schema = getattr(node.target, "_schema", None)  # fx offers no public way to an operator's argument names
    if schema is None:
        raise UnsupportedError(f"{node.name} calls {node.target}; expected aten and quantized_decomposed operators")
    args = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    args |= dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return dict(map_arg(args, lambda operand: env[operand]))


def _site(node: Node, args: _Args, profile: Profile | None) -> Site:
    """Requantize the value that reaches a quantize."""
    value = _traced(args["input"])
    exact = value.exact.requantize(args["scale"], args["zero_point"], args["quant_min"], args["quant_max"])
    return Site(
        node=node.name,
        value=value,
        requantized=exact,
        graph_delta=graph_delta(value, exact),
        kernel_delta=kernel_delta(value, exact, None if profile is None else profile.arithmetic.get(value.family)),
    )


def _outputs(model: GraphModule, sites: dict[Node, Site]) -> tuple[Site, ...]:
    """Return the site behind each model output."""
    leaves: list[Node] = []
    output = next(node for node in model.graph.nodes if node.op == "output")
    map_arg(output.args, leaves.append)
    quantizes = [leaf.args[0] if leaf.target is _DEQUANTIZE else leaf for leaf in leaves]
    for leaf, quantize in zip(leaves, quantizes, strict=True):
        if quantize not in sites:
            raise GraphError(f"output {leaf.name} is no quantized result; expected a dequantize of a quantize")
    return tuple(sites[cast("Node", quantize)] for quantize in quantizes)


def _compute(node: Node, args: _Args) -> Any:
    """Interpret any operator but a quantize."""
    target = cast("_Target", node.target)
    if target not in _HANDLERS:
        raise UnsupportedError(f"{node.name}: {target} has no exact form here")
    try:
        return _HANDLERS[target](target, args)
    except UnsupportedError as e:
        raise UnsupportedError(f"{node.name}: {target}: {e}") from e


def _traced(value: Any) -> Traced:
    """Return an operand as a traced value: float parameters and numbers are exact constants."""
    if isinstance(value, Traced):
        return value
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.is_floating_point()):
        return Traced.constant(value.detach() if isinstance(value, Tensor) else value)
    found = f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UnsupportedError(f"an operand is {found}; expected a dequantized value or a float constant")


def _require(holds: bool, what: str) -> None:
    """Refuse an operator's use."""
    if not holds:
        raise UnsupportedError(f"expected {what}")


def _dequantize(_: _Target, args: _Args) -> Traced:
    """Trace a dequantize, per tensor or per channel."""
    codes, axis = args["input"], args.get("axis")
    _require(isinstance(codes, Tensor) and not codes.is_floating_point(), "integers to dequantize")
    _require(args.get("out_dtype") in {None, torch.float32}, "a float32 result")
    if axis is None:
        return Traced.dequantized(codes, args["scale"], args["zero_point"])
    zeros = args["zero_points"]
    _require(zeros is None or not zeros.is_floating_point(), "integer zero points")
    return Traced.dequantized(codes, args["scales"].tolist(), 0 if zeros is None else zeros.tolist(), axis)


def _contract(target: _Target, args: _Args) -> Traced:
    """Trace a convolution or linear: the operator itself, without bias, is the kernel."""
    weight, bias = _traced(args["weight"]), args["bias"]
    transposed = "output_padding" in args
    rank = 0 if target is aten.linear.default else len(weight.exact.shape) - 2
    return _traced(args["input"]).contract(
        weight,
        None if bias is None else _traced(bias),
        lambda x, w: target(**args | {"input": x, "weight": w, "bias": None}),
        keep=1 if transposed else 0,
        lanes=-1 - rank,
        repeat=args["groups"] if transposed else 1,
    )


def _matmul(target: _Target, args: _Args) -> Traced:
    """Trace a matrix product, addmm's bias included."""
    _require(args.get("alpha", 1) == 1 and args.get("beta", 1) == 1, "alpha and beta of 1")
    if target is aten.addmm.default:
        left, right, bias = _traced(args["mat1"]), _traced(args["mat2"]), _traced(args["self"])
    else:
        left, right, bias = _traced(args["self"]), _traced(args.get("mat2", args.get("other"))), None
    rank = len(right.exact.shape)
    return left.contract(right, bias, torch.matmul, keep=rank - 1 if rank > 1 else None)


def _sum(target: _Target, args: _Args) -> Traced:
    """Trace an addition or subtraction."""
    _require(args["alpha"] == 1, "alpha of 1")
    return _traced(args["self"]).add(_traced(args["other"]), -1 if target in {aten.sub.Tensor, aten.sub_.Tensor} else 1)


def _product(_: _Target, args: _Args) -> Traced:
    """Trace an elementwise product."""
    return _traced(args["self"]).mul(_traced(args["other"]))


_MAX_ONLY = (aten.clamp_max.default, aten.clamp_max_.default)


def _clamp(target: _Target, args: _Args) -> Traced:
    """Trace a clamp or rectifier."""
    low = args.get("min", args.get("min_val", None if target in _MAX_ONLY else 0))
    high = args.get("max", args.get("max_val", 6 if target in {aten.relu6.default, aten.relu6_.default} else None))
    ends = [None if end is None or math.isinf(end) else Fraction(end) for end in (low, high)]
    return _traced(args["self"]).clamp(*ends)


_TABLES: dict[_Target, float] = {
    # Float32 roundoffs by which torch's own kernels may miss the function: they evaluate exp and erf to 4 ulp, and
    # round a handful of times around that.
    aten.sigmoid.default: 8,
    aten.sigmoid_.default: 8,
    aten.tanh.default: 8,
    aten.gelu.default: 16,
    aten.hardswish.default: 4,
    aten.hardsigmoid.default: 4,
    aten.silu.default: 12,
    aten.elu.default: 8,
    aten.leaky_relu.default: 2,
    aten.leaky_relu_.default: 2,
    aten.neg.default: 0,
    aten.abs.default: 0,
    aten.ceil.default: 0,
    aten.floor.default: 0,
    aten.square.default: 1,
    aten.sqrt.default: 1,
    aten.rsqrt.default: 4,
    aten.exp.default: 4,
    aten.log.default: 4,
    aten.sin.default: 4,
    aten.cos.default: 4,
}


def _table(target: _Target, args: _Args) -> Traced:
    """Trace an elementwise function."""
    _require(args.get("approximate", "none") == "none", "the function itself, no approximation")
    _require(all(args.get(name, 1) == 1 for name in ("alpha", "scale", "input_scale")), "factors of 1")
    return _traced(args["self"]).table(_evaluated(target, args), _TABLES[target])


def _evaluated(target: _Target, args: _Args) -> Evaluated:
    options = {name: value for name, value in args.items() if name != "self"}
    return Evaluated(target=target, operand="self", options=options)


def _softmax(target: _Target, args: _Args) -> Traced:
    """Trace a softmax."""
    _require(args["dtype"] is None, "no other dtype")
    return _traced(args["self"]).softmax(_evaluated(target, args), args["dim"])


def _average(target: _Target, args: _Args) -> Traced:
    """Trace an average pool: a sum over windows, and how many elements each holds."""
    _require(not args["ceil_mode"] and args["divisor_override"] is None, "whole windows, divided by their size")
    value = _traced(args["self"])
    window = {name: args[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")}
    size = args["kernel_size"]
    area = math.prod(size) if len(size) > 1 else size[0] ** 2

    def sums(tensor: Tensor) -> Tensor:
        return cast("Tensor", target(tensor, **window, divisor_override=1))

    ones = sums(torch.ones(value.exact.shape, dtype=torch.float64))
    counts = torch.full_like(ones, area) if args["count_include_pad"] else ones
    return value.average(_evaluated(target, args), sums, counts.long())


_GLOBAL_POOLS = (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)


def _mean(target: _Target, args: _Args) -> Traced:
    """Trace a mean over axes or over the whole image."""
    value = _traced(args["self"])
    if target in _GLOBAL_POOLS:
        axes = range(-len(args["output_size"]), 0)
        _require(all(size == 1 for size in args["output_size"]), "one element of output")
        return value.mean(list(axes), keepdim=True)
    _require(args["dtype"] in {None, torch.float32}, "a float32 result")
    return value.mean(args["dim"] or range(len(value.exact.shape)), args["keepdim"])


def _max_pool(target: _Target, args: _Args) -> Traced:
    """Trace a maximum over windows."""
    return _traced(args["self"]).max_pool(lambda tensor: target(**args | {"self": tensor}))


def _pad(_: _Target, args: _Args) -> Traced:
    """Trace a padding with zeros."""
    _require(args.get("mode", "constant") == "constant" and not args["value"], "a constant padding with 0")
    return _traced(args["self"]).pad(args["pad"])


def _cat(_: _Target, args: _Args) -> Traced:
    """Trace a concatenation."""
    return Traced.cat([_traced(part) for part in args["tensors"]], args["dim"])


def _same(_: _Target, args: _Args) -> Traced:
    """Trace an operator that changes no element: a copy, or dropout outside training."""
    _require(not args.get("train"), "dropout outside training, where it is the identity")
    return _traced(args["input"] if "input" in args else args["self"])


def _move(target: _Target, args: _Args) -> Traced:
    """Trace a rearrangement: the operator itself does it, but a view is a reshape, since strides differ here."""
    if target in {aten.view.default, aten._unsafe_view.default}:
        return _traced(args["self"]).move(lambda tensor: tensor.reshape(args["size"]))
    return _traced(args["self"]).move(lambda tensor: target(**args | {"self": tensor}))


def _size(_: _Target, args: _Args) -> int:
    """Return the size of a dimension, which dynamic graphs ask for."""
    value = args["self"]
    return int((value.exact if isinstance(value, Traced) else value).shape[args["dim"]])


_ROWS: tuple[tuple[Callable[[_Target, _Args], Any], tuple[_Target, ...]], ...] = (
    (_dequantize, (_DEQUANTIZE, _DEQUANTIZE_CHANNELS)),
    (_contract, (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)),
    (_contract, (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)),
    (_contract, (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.linear.default)),
    (_matmul, (aten.addmm.default, aten.mm.default, aten.matmul.default, aten.bmm.default)),
    (_sum, (aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor)),
    (_product, (aten.mul.Tensor, aten.mul_.Tensor)),
    (_clamp, (aten.relu.default, aten.relu_.default, aten.relu6.default, aten.clamp_min.default)),
    (_clamp, (aten.relu6_.default, aten.clamp_min_.default, aten.clamp_max.default, aten.clamp_max_.default)),
    (_clamp, (aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default, aten.clamp_.default)),
    (_mean, (aten.mean.dim, *_GLOBAL_POOLS)),
    (_max_pool, (aten.max_pool2d.default,)),
    (_table, tuple(_TABLES)),
    (_softmax, (aten.softmax.int,)),
    (_average, (aten.avg_pool2d.default,)),
    (_pad, (aten.pad.default, aten.constant_pad_nd.default)),
    (_cat, (aten.cat.default, aten.concat.default, aten.concatenate.default)),
    (_same, (aten.contiguous.default, aten.clone.default, aten.dropout.default)),
    (_move, (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default)),
    (_move, (aten.transpose.int, aten.t.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims)),
    (_move, (aten.slice.Tensor, aten.unflatten.int, aten.squeeze.default, aten._unsafe_view.default)),
    (_size, (aten.sym_size.int,)),
)
_HANDLERS = {target: handler for handler, targets in _ROWS for target in targets}
