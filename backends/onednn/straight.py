"""A lowered graph as one Python function: constants bound to it, kernels called without a dispatcher in between.

The graph module stays what is saved, copied, exported and compiled. This form gives the same bits, with less time
between the kernels: it reads no attribute, decides once what is known before a call, and keeps what was made of a
weight until that is written into or another takes its place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves  # torch offers no public module

from quantizer_sdk.backends.onednn.bindings import Binding, bind
from quantizer_sdk.backends.onednn.folding import Folded, folded_factors
from quantizer_sdk.backends.onednn.joining import joined_linears
from quantizer_sdk.backends.onednn.places import Kept, Places
from quantizer_sdk.backends.onednn.python_code import Step, compiled

__all__ = ["StraightForm"]

_ATEN = torch.ops.aten


class StraightForm:
    """What a graph module computes, as a function of flat inputs.

    Args:
        module: The module.

    Attributes:
        inputs: The graph's inputs.
        steps: The calls, in order.
        results: What the function returns, flat: nodes, or what is no tensor.
        run: The function; to be called without gradients.
    """

    def __init__(self, module: GraphModule) -> None:
        self.inputs = tuple(module.graph.find_nodes(op="placeholder"))
        self.results: tuple[Any, ...] = ()
        self._module, self._code = module, module.code
        self._places = Places()
        constants = {
            node: self._places.read(module, str(node.target)) for node in module.graph.find_nodes(op="get_attr")
        }
        folded = folded_factors(module.graph, constants)
        joins = joined_linears(module.graph, constants)
        parts = {node: (join.whole, place) for join in joins for place, node in enumerate(join.nodes)}
        first = {join.nodes[0]: join for join in joins}
        skipped = {"placeholder", "get_attr"}
        inside = {it.product for it in folded.values()}
        steps: list[Step] = []
        for node in module.graph.nodes:
            if node.op == "output":
                self.results = tuple(tree_leaves(_resolved(node.args[0], constants)))
                continue
            if node in first:
                steps.append(Step(first[node].whole, first[node].binding))
            if node in parts:
                steps.append(Step(node, bind(node, operator.getitem, parts[node], {})))
            elif node.op not in skipped and node not in inside:
                steps.append(Step(node, _binding(module, node, constants, folded.get(node), parts)))
        self.steps = tuple(steps)
        self._kept = Kept([tensor for step in steps for tensor in step.binding.watched])
        self.run: Callable[..., tuple[Any, ...]] = compiled(self.inputs, self.steps, self.results)

    def is_current(self) -> bool:
        """Whether the module has still the code and the tensors that this was made of, none of them written into."""
        return self._module.code is self._code and self._places.hold() and self._kept.hold()


def _resolved(value: Any, constants: Mapping[Node, Any]) -> Any:
    return map_arg(value, lambda node: constants.get(node, node))


def _binding(
    module: GraphModule,
    node: Node,
    constants: Mapping[Node, Any],
    folded: Folded | None,
    parts: Collection[Node],
) -> Binding:
    arguments, keywords = _resolved(node.args, constants), _resolved(node.kwargs, constants)
    if folded is not None:
        return folded.binding(arguments)
    target: Any = node.target
    if node.op == "call_module":
        target = module.get_submodule(str(target))
    elif node.op == "call_method":
        target = getattr(Tensor, str(target))
    elif target is _ATEN.view.default and arguments[0] in parts:  # which does not lie in order
        target = _ATEN.reshape.default
    return bind(node, target, arguments, keywords)
