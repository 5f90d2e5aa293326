"""A second model over the same weights: what every pass changes instead of the user's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.operands import is_written

__all__ = [
    "CopiedModule",
    "InferenceModule",
    "compile_when_called",
    "copy_for_training",
    "copy_model",
    "written_tensors",
]

# What a GraphModule makes anew for itself.
_OWN = frozenset({"_graph", "_code", "_lineno_map", "_prologue_start"})
# What torch.export puts on each module that it makes: functions that refuse. They would be lost in a deepcopy.
_EXPORTS = frozenset({"train", "eval"})


class CopiedModule(GraphModule):
    """A graph module whose code is made when it is first called or asked for."""

    @property
    def code(self) -> str:
        """The source of `forward`, made now if it was not yet."""
        if type(self).forward is _compile_first:
            self.recompile()
        return super().code

    def __str__(self) -> str:
        assert self.code is not None
        return super().__str__()


class InferenceModule(CopiedModule):
    """A graph for inference only: what its ops do does not depend on a mode, so there is no mode to switch to."""

    def train(self, mode: bool = True) -> InferenceModule:
        """Accept the mode that there is.

        Raises:
            UnsupportedError: `mode` is True.
        """
        if mode:
            message = (
                "this model was prepared for inference: dropout is gone and batch norm is folded, so it has no "
                "training mode; to train with quantization, use prepare_qat_pt2e on the exported float model"
            )
            raise UnsupportedError(message)
        return super().train(mode=False)


def copy_for_training(model: GraphModule) -> CopiedModule:
    """Copy a model with all its tensors, in training mode."""
    copies: dict[nn.Module, nn.Module] = {}
    result = _copy_graph_module(model, copies, CopiedModule)
    for original, module in copies.items():
        if module is not original:
            _redirect(module, copies)
    _part(result, {tensor for module in result.modules() for tensor in _tensors(module)})
    return result.train()


def copy_model(model: GraphModule, shared: Callable[[nn.Module], bool] = lambda _module: False) -> InferenceModule:
    """Copy graph, module tree and hooks, sharing every tensor that the model does not write into.

    Replacing a tensor of the copy, or changing its graph, leaves the original as it was; writing into a shared
    tensor does not. State that the model itself writes, such as a cache, is copied. Costs O(nodes), and no memory for
    weights. The copy's code is made when it is first called or asked for.

    Args:
        model: What to copy.
        shared: Says which modules the copy shares with the original, because it drops them anyway.
    """
    copies: dict[nn.Module, nn.Module] = {module: module for module in model.modules() if shared(module)}
    result = _copy_graph_module(model, copies, InferenceModule)
    result.training = False
    for original, module in copies.items():
        if module is not original:
            _redirect(module, copies)
    _part(result, set(written_tensors(result)))  # running it changes no other model
    return result


_Kind = TypeVar("_Kind", bound=GraphModule)


def _copy_graph_module(model: GraphModule, copies: dict[nn.Module, nn.Module], kind: type[_Kind]) -> _Kind:
    result = kind(nn.Module(), Graph())
    copies[model] = result
    for name, child in model._modules.items():
        result._modules[name] = None if child is None else _copy_tree(child, copies)
    for name, value in model.__dict__.items():
        if name != "_modules" and name not in _OWN | _EXPORTS:
            result.__dict__[name] = _copy_container(value)
    with warnings.catch_warnings():
        # torch's own pytree specs warn of their future whenever they are copied.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        graph = copy.deepcopy(model.graph)
    graph.owning_module = result
    result._graph = graph  # not through the property, which would compile code that a pass is about to change
    compile_when_called(result)
    return result


def compile_when_called(model: GraphModule) -> None:
    """Drop the code of a graph that has changed since; what is called or asked for next is made of the graph then."""
    type(model).forward = _compile_first  # of a class that torch.fx made for this module alone


def _part(model: GraphModule, tensors: set[torch.Tensor]) -> None:
    """Give a copy tensors of its own in place of these, by whatever names it holds them."""
    own: dict[torch.Tensor, torch.Tensor] = {}
    for tensor in tensors:
        own[tensor] = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            own[tensor] = nn.Parameter(own[tensor], requires_grad=tensor.requires_grad)
    for module in model.modules() if own else ():
        for held in _holders(module):
            held.update({name: own[it] for name, it in held.items() if isinstance(it, torch.Tensor) and it in own})


def _holders(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return (module._parameters, module._buffers, module.__dict__)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    for held in _holders(module):
        yield from (value for value in held.values() if isinstance(value, torch.Tensor))


def written_tensors(model: GraphModule) -> Iterator[torch.Tensor]:
    """Yield every tensor that the graph writes into."""
    for node in model.graph.nodes:
        if node.op == "get_attr" and is_written(node):
            path, _, name = str(node.target).rpartition(".")
            yield getattr(model.get_submodule(path), name)


def _compile_first(model: GraphModule, *args: Any, **kwargs: Any) -> Any:
    """Stand in for a forward whose code is not made yet."""
    model.recompile()
    return type(model).forward(model, *args, **kwargs)


def _copy_tree(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """Copy a module and those below it, once each."""
    if module in copies:
        return copies[module]
    if isinstance(module, GraphModule):
        return _copy_graph_module(module, copies, GraphModule)
    result = module.__class__.__new__(module.__class__)
    copies[module] = result
    for name, value in module.__dict__.items():
        result.__dict__[name] = _copy_container(value)
    for name, child in module._modules.items():
        result._modules[name] = None if child is None else _copy_tree(child, copies)
    return result


def _copy_container(value: Any) -> Any:
    """Copy a dict, list or set, with the very same elements; anything else is shared."""
    return value.copy() if isinstance(value, (dict, list, set)) else value


def _redirect(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> None:
    """Let what refers to modules outside the tree, such as a derived observer to its sources, refer to the copies."""
    for name, value in module.__dict__.items():
        if isinstance(value, nn.Module) and value in copies:
            module.__dict__[name] = copies[value]
        elif isinstance(value, (tuple, list)) and any(isinstance(item, nn.Module) for item in value):
            module.__dict__[name] = type(value)(
                copies.get(item, item) if isinstance(item, nn.Module) else item for item in value
            )
