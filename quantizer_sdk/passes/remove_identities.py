"""Remove calls that return their operand in inference: dropout, alias, and the like.

Requires an exported graph. Ensures: matchers see an op's real producer.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument, is_written
from quantizer_sdk.passes.training_mode import DROPOUTS

__all__ = ["remove_identities"]

_ATEN = torch.ops.aten
_ALWAYS = frozenset({_ATEN.alias.default, _ATEN.detach.default, _ATEN.detach_.default})
_COPY = _ATEN.lift_fresh_copy.default


def remove_identities(model: GraphModule, *, dropouts: bool = True) -> None:
    """Let the users of an identity read its operand.

    Args:
        model: The graph.
        dropouts: Whether dropout counts, where it was exported for inference.

    Dropout goes only where it was exported in inference mode, and the copy of a tensor written in `forward` only where
    nothing writes into it: the constant behind it is one for all runs.
    """
    for node in reversed(list(model.graph.nodes)):  # users first, so that no detach_ is taken for a write
        if (
            node.target in _ALWAYS
            or (dropouts and node.target in DROPOUTS and not argument(node, "train"))
            or (node.target is _COPY and not _may_change(node))
        ):
            operand = node.args[0]
            assert isinstance(operand, Node)
            node.replace_all_uses_with(operand)
            model.graph.erase_node(node)


def _may_change(tensor: Node) -> bool:
    """Whether the model writes into a tensor, or hands it out, so that its user may."""
    return is_written(tensor) or any(user.op == "output" for user in tensor.users)
