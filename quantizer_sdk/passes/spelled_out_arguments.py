"""Arguments that a compiler reads by position, spelled out where a call leaves them to their defaults.

torch.export drops trailing arguments that equal the default of the schema, in value and type; a float stays where the
default is an integer. Ensures: the calls give these arguments, as floats.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import GraphModule

from quantizer_sdk.operands import argument, replace_argument

__all__ = ["spell_out_arguments"]


def spell_out_arguments(model: GraphModule, names: Mapping[torch._ops.OpOverload, tuple[str, ...]]) -> None:
    """Give each call of these overloads its arguments of these names, in the order of the schema."""
    for node in model.graph.nodes:
        for name in names.get(node.target, ()):
            replace_argument(node, name, float(argument(node, name)))
    model.recompile()
