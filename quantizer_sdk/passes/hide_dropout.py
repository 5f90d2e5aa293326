"""Take dropout out of a graph while it is annotated, so that it looks as it will in inference, and put it back.

`hide_dropout` requires an exported graph. It ensures that no dropout is left but where another op reads the same tensor
without it. `show_dropout` requires the graph with its fake quantizers, and ensures that every dropout hidden is back,
behind the rounding of its operand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.passes.training_mode import DROPOUTS

__all__ = ["hide_dropout", "show_dropout"]

_KEY = "quantizer_sdk_dropout"


@dataclass(frozen=True, slots=True, eq=False)
class _Hidden:
    """A dropout: its overload, rate, and what its node knew."""

    target: Any
    rate: float
    meta: dict[str, Any]


def hide_dropout(model: GraphModule) -> None:
    """Let the readers of every dropout read its operand, and leave a note on that."""
    for node in list(model.graph.nodes):
        if node.target not in DROPOUTS:
            continue
        operand, rate = node.args[0], node.args[1]
        if len(operand.users) > 1 or operand.op in {"placeholder", "get_attr"}:
            continue
        hidden = _Hidden(node.target, rate, dict(node.meta))
        operand.meta[_KEY] = (*operand.meta.get(_KEY, ()), hidden)
        node.replace_all_uses_with(operand)
        model.graph.erase_node(node)


def show_dropout(model: GraphModule) -> None:
    """Put every hidden dropout back; its mode is that of training, until it follows the model's.

    A rewrite copies what an op knew to all that it writes for it: a note counts at the last node that has it.
    """
    modules = dict(model.named_modules())
    last = {hidden: node for node in model.graph.nodes for hidden in node.meta.get(_KEY, ())}
    for node in list(model.graph.nodes):
        for hidden in node.meta.pop(_KEY, ()):
            if last[hidden] is not node:
                continue
            tensor: Node = node
            while len(tensor.users) == 1 and is_observer_call(user := next(iter(tensor.users)), modules):
                tensor = user
            readers = list(tensor.users)
            with model.graph.inserting_after(tensor):
                dropout = model.graph.call_function(hidden.target, (tensor, hidden.rate, True))
            dropout.meta.update(hidden.meta)
            for reader in readers:
                reader.replace_input_with(tensor, dropout)
