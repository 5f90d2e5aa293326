"""Remove the call of export's input guards, which no backend can lower.

Requires any graph. Ensures: no node reads `_guards_fn`; exporting the model again makes new guards.
"""

from __future__ import annotations

from torch.fx import GraphModule

__all__ = ["GUARDS", "remove_guards"]

GUARDS = "_guards_fn"


def remove_guards(model: GraphModule) -> None:
    """Erase the guards' call and module; export's pre-hook then checks a part of the same."""
    for node in list(model.graph.nodes):
        if node.op == "call_module" and node.target == GUARDS:
            model.graph.erase_node(node)
    if hasattr(model, GUARDS):
        delattr(model, GUARDS)
