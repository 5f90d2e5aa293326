"""Reads files that `torch.export.save` wrote, says in one line why one cannot be read, and writes such files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_unflatten

from quantizer_sdk.call_form import called_as
from quantizer_sdk.errors import LoweringError, NotExportedError
from quantizer_sdk.provenance import value_of

__all__ = ["ARCHIVE", "load_exported", "save_exported"]

ARCHIVE = ".pt2"
"""How the names of files end that `torch.export.save` writes."""

# What torch's message ends with; the warnings that it means are not shown.
_REFERENCE = " Please check the warnings above for possible errors."


def load_exported(path: Path) -> ExportedProgram:
    """Load an exported program.

    Raises:
        NotExportedError: The file is missing, unreadable, or not what `torch.export.save` writes.
    """
    wanted = "expected a .pt2 file written by torch.export.save"
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        raise NotExportedError(f"cannot read {path}: {e.strerror}; {wanted}") from e
    # torch logs the traceback of each reader that it tries.
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return torch.export.load(path)
    except Exception as e:  # a broken file makes its readers raise anything
        reason = str(e).strip().split("\n")[0].removesuffix(_REFERENCE)
        raise NotExportedError(f"{path} is no exported program ({type(e).__name__}: {reason}); {wanted}") from e
    finally:
        logger.setLevel(level)


def save_exported(
    model: GraphModule,
    original: GraphModule,
    inputs: Sequence[torch.Tensor],
    path: Path,
    *,
    dynamic_shapes: Sequence[Mapping[int, Any]] | None = None,
) -> None:
    """Write a model as an exported program that is called as the original is, its ops under the names that they have.

    The example inputs in the file are zeros: no sample of the user's goes with it.

    Args:
        model: What takes tensors by position, such as a converted model.
        original: The exported model that it was made of.
        inputs: Tensors in the model's own shapes and dtypes.
        path: Of the file, by custom named *.pt2.
        dynamic_shapes: For each tensor the sizes that may vary; None for none.

    Raises:
        LoweringError: torch.export refuses the model, or the file cannot be written.
    """
    tensors, shapes = (torch.zeros_like(it) for it in inputs), iter(dynamic_shapes or [])
    values: list[Any] = []
    open_sizes: list[Any] = []
    for node in original.graph.find_nodes(op="placeholder"):
        constant = not isinstance(node.meta.get("val"), torch.Tensor)
        values.append(node.meta.get("val") if constant else next(tensors))
        open_sizes.append(None if constant or dynamic_shapes is None else next(shapes))
    codegen: Any = original.graph._codegen  # fx has no public way to a graph's calling convention
    args, kwargs = tree_unflatten(values, codegen.pytree_info.in_spec)
    wanted = tree_unflatten(open_sizes, codegen.pytree_info.in_spec)
    called = called_as(model, original)
    try:
        program = torch.export.export(
            called,
            tuple(args),
            kwargs,
            dynamic_shapes=None if dynamic_shapes is None else (*wanted[0], *wanted[1].values()),
            strict=False,
        )
        _keep_names(called, program)
        torch.export.save(program, path)
    except OSError as e:
        raise LoweringError(f"cannot write {path}: {e.strerror}") from e
    except Exception as e:  # torch.export raises anything
        reason = str(e).strip().split("\n")[0]
        raise LoweringError(f"torch.export refuses the converted model ({type(e).__name__}: {reason})") from e


def _keep_names(model: GraphModule, program: ExportedProgram) -> None:
    """Give the calls of a program the names that they have in the model that it was exported from."""
    before, after = ([node for node in graph.nodes if _is_op(node)] for graph in (model.graph, program.graph))
    others = {node.name for node in program.graph.nodes} - {node.name for node in after}
    if [node.target for node in before] != [node.target for node in after] or any(it.name in others for it in before):
        return
    for names in ([f"quantizer_sdk_renamed_{node.name}" for node in before], [node.name for node in before]):
        for name, node in zip(names, after, strict=True):  # in two steps, for the new names are others' old ones
            old, node.name = node.name, name  # _rename would avoid every name that was ever taken
            program.graph_signature.replace_all_uses(old, name)


def _is_op(node: Node) -> bool:
    """Whether a node computes tensors: a further export brings other calls that handle sizes."""
    return node.op == "call_function" and not isinstance(
        value_of(node), (int, float, bool, torch.SymInt, torch.SymBool)
    )
