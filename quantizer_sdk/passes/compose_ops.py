"""Write ops that `run_decompositions` leaves as those that torch.export gives: one kind of graph for all that follows.

Requires an exported graph. Ensures: convolutions, norms, pools, softmax, hardswish and hardsigmoid have the overloads
that a module's own call has, with the same values; what reads another result of an op, such as indices, keeps it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.decision import absorb
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.call_before import retarget
from quantizer_sdk.passes.compose_products import compose_products
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE
from quantizer_sdk.provenance import value_of

__all__ = ["compose_norms", "compose_ops"]

_ATEN = torch.ops.aten
_Call = tuple[torch._ops.OpOverload, tuple[Any, ...]]

_NORM = _ATEN._native_batch_norm_legit_no_training.default
_TRAINED_NORM = _ATEN._native_batch_norm_legit_functional.default
_COPY = _ATEN.copy_.default
_CONVOLUTIONS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default)
_TRANSPOSED = (_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input)


def compose_ops(model: GraphModule) -> None:
    """Compose all ops of a graph."""
    compose_products(model)
    for node in list(model.graph.nodes):
        if node.target in _COMPOSE:
            _COMPOSE[node.target](node)


def compose_norms(model: GraphModule) -> None:
    """Compose the batch norms behind convolutions and linear layers alone, so that they are folded, or train."""
    for node in list(model.graph.nodes):
        if node.target is _COPY or (node.target in (_NORM, _TRAINED_NORM) and _is_layer(argument(node, "input"))):
            _COMPOSE[node.target](node)


def _is_layer(node: Any) -> bool:
    return isinstance(node, Node) and node.target in FOLDABLE


def _compose(node: Node) -> None:
    """Give a node its composed form, in its place and under its name."""
    call = _FORMS[node.target](node)
    if call is None:
        return
    if len(node.target._schema.returns) > 1:  # type: ignore[union-attr]
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
            return
        _give_first_result(node)
    retarget(node, *call)


def _give_first_result(node: Node) -> None:
    """Let the readers of a tuple's first part read the op itself."""
    if value_of(node) is not None:
        node.meta["val"] = value_of(node)[0]
    for user in list(node.users):
        user.replace_all_uses_with(node)
        node.graph.erase_node(user)


def _operands(node: Node) -> tuple[Any, ...]:
    """Return all arguments of a call, those left out too, in the order of its schema."""
    return tuple(argument(node, item.name) for item in node.target._schema.arguments)  # type: ignore[union-attr]


def _convolution(node: Node) -> _Call | None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = _operands(node)
    rank = len(stride)
    if not 1 <= rank <= len(_CONVOLUTIONS):
        return None
    if transposed:
        return _TRANSPOSED[rank - 1], (x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[rank - 1], (x, weight, bias, stride, padding, dilation, groups)


def _batch_norm(node: Node) -> _Call:
    x, gamma, beta, mean, variance, momentum, eps = _operands(node)
    return _ATEN.batch_norm.default, (x, gamma, beta, mean, variance, False, momentum, eps, False)


def _layer_norm(node: Node) -> _Call:
    return _ATEN.layer_norm.default, _operands(node)


def _softmax(target: torch._ops.OpOverload) -> Callable[[Node], _Call | None]:
    def form(node: Node) -> _Call | None:
        x, axis, half_to_float = _operands(node)
        return None if half_to_float else (target, (x, axis))

    return form


def _by_number(target: torch._ops.OpOverload) -> Callable[[Node], _Call | None]:
    def form(node: Node) -> _Call | None:
        x, number, *alpha = _operands(node)
        return (target, (x, number)) if alpha in ([], [1]) else None

    return form


def _same_operands(target: torch._ops.OpOverload) -> Callable[[Node], _Call | None]:
    return lambda node: (target, _operands(node))


_FORMS: dict[Any, Callable[[Node], _Call | None]] = {
    _ATEN.convolution.default: _convolution,
    _ATEN.mul.Scalar: _by_number(_ATEN.mul.Tensor),
    _ATEN.div.Scalar: _by_number(_ATEN.div.Tensor),
    _ATEN.add.Scalar: _by_number(_ATEN.add.Tensor),
    _ATEN.sub.Scalar: _by_number(_ATEN.sub.Tensor),
    _NORM: _batch_norm,
    _ATEN.native_layer_norm.default: _layer_norm,
    _ATEN._softmax.default: _softmax(_ATEN.softmax.int),
    _ATEN._log_softmax.default: _softmax(_ATEN.log_softmax.int),
    _ATEN.max_pool2d_with_indices.default: _same_operands(_ATEN.max_pool2d.default),
    _ATEN.max_pool3d_with_indices.default: _same_operands(_ATEN.max_pool3d.default),
    _ATEN._adaptive_avg_pool2d.default: _same_operands(_ATEN.adaptive_avg_pool2d.default),
    _ATEN._adaptive_avg_pool3d.default: _same_operands(_ATEN.adaptive_avg_pool3d.default),
}
"""By overload: the call that composes it, or None where it has no such form. Results of a tuple but the first go."""


def _compose_trained_norm(node: Node) -> None:
    """Write a norm in training mode, which returns its new statistics for the graph to copy, as one that keeps them."""
    *operands, training, momentum, eps = _operands(node)
    results: dict[Node, Any] = {user: user.args[1] for user in node.users if user.target is operator.getitem}
    updates: list[Node] = []
    for user, index in results.items():
        if index in (3, 4):  # the running mean and variance to be
            (*_, update) = user.users or (None,)
            if update is None or len(user.users) > 1 or update.target is not _COPY or update.users:
                return
            if update.args[:2] != (operands[index], user):
                return
            updates.append(update)
        elif index != 0 and user.users:
            return
    if not training or len(results) < len(node.users):
        return
    for update in updates:
        node.graph.erase_node(update)
    _give_first_result(node)
    retarget(node, _ATEN.batch_norm.default, (*operands, True, momentum, eps, False))


def _compose_counter(copy: Node) -> None:
    """Write a counter of batches that is copied over as one that is added to."""
    counter, sum_ = copy.args[:2]
    if not isinstance(counter, Node) or not isinstance(sum_, Node) or counter.op != "get_attr":
        return
    named = str(counter.target).rpartition(".")[2] == "num_batches_tracked"
    if named and sum_.target is _ATEN.add.Tensor and sum_.args == (counter, 1) and list(sum_.users) == [copy]:
        retarget(sum_, _ATEN.add_.Tensor, sum_.args)
        copy.replace_all_uses_with(sum_)
        copy.graph.erase_node(copy)


def _compose_hard(node: Node) -> None:
    """Write clamp(x + 3, 0, 6) / 6 as hardsigmoid, and x * clamp(x + 3, 0, 6) / 6 as hardswish."""
    dividend, divisor = _operands(node)
    if divisor != 6 or not isinstance(dividend, Node):
        return
    factors = dividend.args if dividend.target is _ATEN.mul.Tensor else (dividend,)
    for clamped in factors:
        chain = _clamp_chain(clamped)
        if chain is None:
            continue
        x = chain[-1].args[0]
        if len(factors) == 2:
            if x not in factors or len(dividend.users) > 1:
                continue
            chain.insert(0, dividend)
        absorbed = _ATEN.hardsigmoid.default if len(factors) == 1 else _ATEN.hardswish.default
        for member in chain:
            absorb(node, member, "written as")
        retarget(node, absorbed, (x,))
        for member in chain:
            node.graph.erase_node(member)
        return


def _clamp_chain(upper: Any) -> list[Node] | None:
    """Return the ops of clamp(clamp(x + 3, 0), max=6), the last first, if nothing else reads them."""
    chain: list[Node] = []
    for target, wanted in (
        (_ATEN.clamp.default, (None, 6)),
        (_ATEN.clamp.default, (0, None)),
        (_ATEN.add.Tensor, (3,)),
    ):
        node = chain[-1].args[0] if chain else upper
        if not isinstance(node, Node) or node.target is not target or len(node.users) > 1 or node.kwargs:
            return None
        if (*node.args[1:], *[None] * (len(wanted) + 1 - len(node.args))) != wanted:
            return None
        chain.append(node)
    return chain


_COMPOSE: dict[Any, Callable[[Node], None]] = {
    **dict.fromkeys(_FORMS, _compose),
    _ATEN.div.Tensor: _compose_hard,
    _TRAINED_NORM: _compose_trained_norm,
    _COPY: _compose_counter,
}
