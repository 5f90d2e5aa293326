"""Let ops that do otherwise in training follow the model's mode, and settle them for inference at the end.

`follow_mode` requires an exported graph. It ensures that dropout, batch norm and their like read the mode of the module
whenever they run, so that `train()` and `eval()` switch them. `settle_mode` requires such a graph, or any, and ensures
that none of them depends on a mode.
"""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument, replace_argument

__all__ = [
    "DROPOUTS",
    "exported_for_training",
    "follow_mode",
    "follows_mode",
    "freeze_bn_stats",
    "settle_mode",
    "update_bn_stats",
]

_ATEN = torch.ops.aten
_MODULE, _NORMS = "training_mode", "batch_norm_mode"
_COUNTER = "num_batches_tracked"

DROPOUTS = frozenset(
    {
        _ATEN.dropout.default,
        _ATEN.dropout_.default,
        _ATEN.feature_dropout.default,
        _ATEN.feature_dropout_.default,
        _ATEN.alpha_dropout.default,
        _ATEN.alpha_dropout_.default,
        _ATEN.feature_alpha_dropout.default,
        _ATEN.feature_alpha_dropout_.default,
    }
)
# The argument that says whether a call trains.
_FLAGS = {
    **dict.fromkeys(DROPOUTS, "train"),
    _ATEN.batch_norm.default: "training",
    _ATEN.rrelu.default: "training",
    _ATEN.rrelu_.default: "training",
    **dict.fromkeys((_ATEN.lstm.input, _ATEN.gru.input, _ATEN.rnn_tanh.input, _ATEN.rnn_relu.input), "train"),
}
_ATTENTION = _ATEN.scaled_dot_product_attention.default


class TrainingMode(nn.Module):
    """Answers with its own mode, which `train()` and `eval()` of the model around it set."""

    def forward(self) -> bool:
        """Return whether the model trains."""
        return self.training


class BatchNormMode(TrainingMode):
    """Answers for batch norms: these can keep their statistics while the rest of the model trains on.

    Attributes:
        frozen: Whether they keep them.
    """

    frozen: bool = False

    def forward(self) -> bool:
        """Return whether batch norms learn and use the statistics of a batch."""
        return self.training and not self.frozen


def follow_mode(model: GraphModule) -> None:
    """Let every op of one graph that knows a training mode read it; batch norm without statistics knows none."""
    modes: dict[str, Node] = {}
    for node in list(model.graph.nodes):
        found = _flag(node)
        if found is None:
            continue
        module, name = found
        if module not in modes:
            modes[module] = _add_mode(model, module)
        if node.target is _ATTENTION:
            with model.graph.inserting_before(node):
                flag = model.graph.call_function(operator.mul, (argument(node, name), modes[module]))
            replace_argument(node, name, flag)
        else:
            replace_argument(node, name, modes[module])


def _flag(node: Node) -> tuple[str, str] | None:
    """Return which mode a call is to follow, and by which argument; None for most calls."""
    if _counts(node):
        return _NORMS, "other"
    if node.target is _ATTENTION:
        rate = argument(node, "dropout_p")
        return (_MODULE, "dropout_p") if isinstance(rate, float) and rate > 0 else None
    if node.target not in _FLAGS or _always_trains(node):
        return None
    return _NORMS if node.target is _ATEN.batch_norm.default else _MODULE, _FLAGS[node.target]


def follows_mode(model: GraphModule) -> bool:
    """Whether the ops of one graph read the mode already."""
    return hasattr(model, _MODULE) or hasattr(model, _NORMS)


def exported_for_training(model: GraphModule) -> bool:
    """Whether an op of one graph was exported in training mode."""
    return any(
        node.target in _FLAGS and argument(node, _FLAGS[node.target]) is True and not _always_trains(node)
        for node in model.graph.nodes
    )


def _always_trains(node: Node) -> bool:
    """Whether a batch norm keeps no statistics, and so normalizes by its batch in either mode."""
    return node.target is _ATEN.batch_norm.default and argument(node, "running_mean") is None


def _counts(node: Node) -> bool:
    """Whether a call counts the batches that a batch norm has seen."""
    counter: object = node
    while isinstance(counter, Node) and counter.target is _ATEN.add_.Tensor:  # a norm called again counts on
        counter = counter.args[0]
    if counter is node:
        return False
    return isinstance(counter, Node) and counter.op == "get_attr" and str(counter.target).endswith(_COUNTER)


def _add_mode(model: GraphModule, name: str) -> Node:
    model.add_module(name, BatchNormMode() if name == _NORMS else TrainingMode())
    first = next(node for node in model.graph.nodes if node.op not in {"placeholder", "get_attr"})
    with model.graph.inserting_before(first):
        return model.graph.call_module(name, ())


def settle_mode(model: GraphModule) -> None:
    """Give every op of one graph that knows a training mode the one of inference."""
    for node in reversed(list(model.graph.nodes)):
        if _counts(node) and isinstance(node.args[1], Node) and not node.users:
            model.graph.erase_node(node)
        elif node.target in _FLAGS and argument(node, _FLAGS[node.target]) is not False:
            if not _always_trains(node):
                replace_argument(node, _FLAGS[node.target], False)
        elif node.target is _ATTENTION and isinstance(argument(node, "dropout_p"), Node):
            replace_argument(node, "dropout_p", 0.0)
    names = (_MODULE, _NORMS)
    for node in reversed(list(model.graph.nodes)):
        of_mode = node.target is operator.mul and any(item.target in names for item in node.all_input_nodes)
        if not node.users and (of_mode or (node.op == "call_module" and node.target in names)):
            model.graph.erase_node(node)
    for name in names:
        if hasattr(model, name):
            delattr(model, name)


def freeze_bn_stats(module: nn.Module) -> None:
    """Let batch norms keep and use their statistics; nothing for any other module, as `model.apply` hands them over."""
    if isinstance(module, BatchNormMode):
        module.frozen = True


def update_bn_stats(module: nn.Module) -> None:
    """Let batch norms learn their statistics again; nothing for any other module."""
    if isinstance(module, BatchNormMode):
        module.frozen = False
