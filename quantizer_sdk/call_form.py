"""How a model is called: by position with its tensors alone, as runtimes call programs, or as its user does."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten

from quantizer_sdk.errors import NotExportedError
from quantizer_sdk.integer_io import copy_without_guards

__all__ = ["called_as", "called_by_position"]


def called_by_position(model: GraphModule) -> GraphModule:
    """Return a copy of an exported model that takes its tensors by position, under the names that they have.

    Inputs that export took for constants, such as flags, are gone. Tensors are shared.

    Raises:
        NotExportedError: The model is no module of an exported program, or computes with an input that is no tensor.
    """
    if not isinstance(model, GraphModule) or not hasattr(model.graph._codegen, "pytree_info"):
        raise NotExportedError(f"expected the module of an exported program; got a {type(model).__name__}")
    result = copy_without_guards(model)
    for node in result.graph.find_nodes(op="placeholder"):
        if node.meta.get("val") is not None and hasattr(node.meta["val"], "dtype"):
            continue
        if node.users:
            raise NotExportedError(
                f"input {node.name!r} is no tensor, but the model computes with it; give it a tensor"
            )
        result.graph.erase_node(node)
    names = [node.name for node in result.graph.find_nodes(op="placeholder")]
    _set_form(result, names, tree_flatten((tuple(names), {}))[1])
    return result


def called_as(model: GraphModule, original: GraphModule) -> GraphModule:
    """Return a copy of what became of a model by `called_by_position`, that is called as the original is."""
    result = copy_without_guards(model)
    known = {node.name: node for node in result.graph.find_nodes(op="placeholder")}
    first = next(iter(result.graph.nodes))
    for node in original.graph.find_nodes(op="placeholder"):
        with result.graph.inserting_before(first):
            placeholder = result.graph.placeholder(f"{node.name}_again" if node.name in known else node.name)
        placeholder.meta = dict(node.meta)
        if (old := known.get(node.name)) is not None:
            placeholder.meta = dict(old.meta)
            old.replace_all_uses_with(placeholder)
            result.graph.erase_node(old)
            if first is old:
                first = placeholder.next
            placeholder.name = node.name
            placeholder.target = node.target
    codegen: Any = original.graph._codegen
    _set_form(result, list(codegen.pytree_info.orig_args), codegen.pytree_info.in_spec)
    return result


def _set_form(model: GraphModule, names: list[str], in_spec: Any) -> None:
    codegen: Any = model.graph._codegen  # fx has no public way to a graph's calling convention
    codegen.pytree_info = codegen.pytree_info._replace(orig_args=names, in_spec=in_spec)
    model.recompile()
