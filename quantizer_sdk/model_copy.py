"""A second model over the same weights: what every pass changes instead of the user's own."""

from __future__ import annotations

import copy
import itertools
import types
import warnings
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

__all__ = ["copy_model"]

# What torch.export puts on the module that it hands out and fx's own copy leaves behind. They are private; the public
# way would be a copy method of the exported module, which torch lacks.
_EXPORT_STATE = ("_in_spec", "_out_spec", "range_constraints", "validate_inputs", "shape_env")
# Methods of that module which refuse to switch between training and inference: the graph is exported for one of them.
_REFUSING = ("train", "eval")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def copy_model(model: GraphModule) -> GraphModule:
    """Copy graph, module tree and hooks, sharing every tensor.

    Replacing a tensor of the copy, or changing its graph, leaves the original as it was; writing into a shared
    tensor does not. Costs O(nodes), and no memory for weights.
    """
    shared = itertools.chain(model.parameters(), model.buffers(), _constants(model).values())
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for name in _EXPORT_STATE:
        if (value := model.__dict__.get(name)) is not None:
            memo[id(value)] = value
    for value in model.meta.values():
        memo[id(value)] = value
    with warnings.catch_warnings():
        # torch's own pytree specs warn of their future whenever they are copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        result = copy.deepcopy(model, memo)
    for name in _EXPORT_STATE:
        if name in model.__dict__:
            result.__dict__[name] = model.__dict__[name]
    for name in _REFUSING:
        if (method := model.__dict__.get(name)) is not None:
            result.__dict__[name] = types.MethodType(method.__func__, result)
    for name in _HOOKS:
        getattr(result, name).update(getattr(model, name))
    result.meta = dict(model.meta)
    _restore_kinds(model, result)
    return result


def _constants(model: GraphModule) -> dict[str, torch.Tensor]:
    """Tensors that the graph reads from plain attributes, which are no part of the state dict."""
    found: dict[str, torch.Tensor] = {}
    for node in model.graph.nodes:
        if node.op == "get_attr":
            owner, name = _owner(model, str(node.target))
            value = owner.__dict__.get(name)
            if isinstance(value, torch.Tensor):
                found[str(node.target)] = value
    return found


def _restore_kinds(model: GraphModule, result: GraphModule) -> None:
    """Give attributes back the kind that fx's copy forgot: plain constants, and buffers outside the state dict."""
    for target, tensor in _constants(model).items():
        owner, name = _owner(result, target)
        owner._buffers.pop(name, None)
        owner.__dict__[name] = tensor
    modules = dict(result.named_modules())
    for path, module in model.named_modules():
        if module._non_persistent_buffers_set and path in modules:
            modules[path]._non_persistent_buffers_set.update(module._non_persistent_buffers_set)


def _owner(model: nn.Module, target: str) -> tuple[nn.Module, str]:
    path, _, name = target.rpartition(".")
    return model.get_submodule(path), name
