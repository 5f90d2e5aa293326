"""Remove calls that return their operand in inference: dropout, alias, and the like.

Requires an exported graph. Ensures: matchers see an op's real producer.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument

__all__ = ["remove_identities"]

_ATEN = torch.ops.aten
_DROPOUTS = frozenset({_ATEN.dropout.default, _ATEN.feature_dropout.default, _ATEN.alpha_dropout.default})
_ALWAYS = frozenset({_ATEN.alias.default, _ATEN.detach.default, _ATEN.lift_fresh_copy.default})


def remove_identities(model: GraphModule) -> None:
    """Let the users of an identity read its operand; dropout only where it was exported in inference mode."""
    for node in list(model.graph.nodes):
        if node.target in _ALWAYS or (node.target in _DROPOUTS and not argument(node, "train")):
            operand = node.args[0]
            assert isinstance(operand, Node)
            node.replace_all_uses_with(operand)
            model.graph.erase_node(node)
