"""Let control flow run as plain Python while a model is calibrated or trained, and by its ops before and after.

torch's ops of control flow trace the graphs inside them anew for gradients, and admit no module that keeps state there;
observers and fake quantizers are such modules.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import ControlFlow, form_of, nodes_of

__all__ = ["run_by_ops", "run_plainly"]


def run_plainly(model: GraphModule) -> None:
    """Call the plain forms, in a model and in the graphs inside it."""
    for node, form in _calls(model):
        node.target = form.run


def run_by_ops(model: GraphModule) -> None:
    """Call the ops, in a model and in the graphs inside it."""
    for node, form in _calls(model):
        node.target = form.op


def _calls(model: GraphModule) -> list[tuple[Node, ControlFlow]]:
    return [(node, form) for node in nodes_of(model) if (form := form_of(node)) is not None]
