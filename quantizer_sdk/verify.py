"""What a legal graph is at each stage: one table of rules, run where a stage ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import graphs_of, nodes_of
from quantizer_sdk.errors import (
    AlreadyConvertedError,
    AlreadyPreparedError,
    GraphError,
    NotExportedError,
    NotPreparedError,
)
from quantizer_sdk.observers.create import is_observer, is_observer_call
from quantizer_sdk.operands import is_written
from quantizer_sdk.provenance import describe
from quantizer_sdk.qdq import CHOOSE_QPARAMS_OPS, is_dequantize, is_quantize
from quantizer_sdk.spec import ANNOTATION_KEY

__all__ = ["Stage", "observer_calls", "require_exported", "require_graph_module", "require_prepared", "verify"]


class Stage(Enum):
    """The forms a model takes on its way."""

    EXPORTED = "exported"
    PREPARED = "prepared"
    CONVERTED = "converted"
    UNFOLDED = "converted, unfolded"
    REFERENCE = "reference"


Rule = Callable[[GraphModule], Iterator[str]]


def observer_calls(model: GraphModule) -> list[Node]:
    """Return the nodes that call an observer or fake quantizer, those inside control flow too."""
    return [call for _path, graph in graphs_of(model) for call in _own_observer_calls(graph)]


def _own_observer_calls(graph: GraphModule) -> list[Node]:
    modules = dict(graph.named_modules())
    return [node for node in graph.graph.nodes if is_observer_call(node, modules)]


def require_exported(model: object) -> GraphModule:
    """Return the model as the module of an exported program, neither prepared nor converted.

    Raises:
        NotExportedError: It is anything else.
        AlreadyPreparedError: It holds observers.
        AlreadyConvertedError: It holds quantize or dequantize ops.
    """
    graph_module = require_graph_module(model, "prepare_pt2e")
    if calls := observer_calls(graph_module):
        message = (
            f"the model holds {len(calls)} observers already (first: {calls[0].target}); "
            "prepare the exported model, once, or go on with calibration and convert_pt2e"
        )
        raise AlreadyPreparedError(message)
    for node in nodes_of(graph_module):
        if is_quantize(node) or is_dequantize(node):
            message = f"the model is quantized already: it holds {describe(node)}; prepare the float exported model"
            raise AlreadyConvertedError(message)
        if node.op == "call_function" and not _is_exported_call(node):
            message = (
                f"the graph calls {describe(node)}, which torch.export does not emit; "
                "get the model from torch.export.export(model, example_inputs).module()"
            )
            raise NotExportedError(message)
        if node.op in {"call_module", "call_method"} and node.target != "_guards_fn":
            message = (
                f"the graph holds {describe(node)}, as of symbolic_trace; "
                "get the model from torch.export.export(model, example_inputs).module()"
            )
            raise NotExportedError(message)
    return graph_module


def require_prepared(model: object, function: str = "convert_pt2e") -> GraphModule:
    """Return the model, which a function was given, as a prepared one.

    Raises:
        NotExportedError: It is no graph module.
        AlreadyConvertedError: It is converted.
        NotPreparedError: It holds no observers.
    """
    graph_module = require_graph_module(model, function)
    if observer_calls(graph_module):
        return graph_module
    for node in nodes_of(graph_module):
        if is_quantize(node) or is_dequantize(node):
            message = f"the model is quantized already: it holds {describe(node)}; {function} takes a prepared model"
            raise AlreadyConvertedError(message)
    message = "the model holds no observers; call prepare_pt2e(model, quantizer) and calibrate its result first"
    raise NotPreparedError(message)


def require_graph_module(model: object, function: str) -> GraphModule:
    """Return a model that a function was given, if it is a graph module.

    Raises:
        NotExportedError: It is anything else.
    """
    if isinstance(model, GraphModule):
        return model
    if isinstance(model, torch.export.ExportedProgram):
        message = f"{function} was given an ExportedProgram; pass its module: {function}(program.module(), ...)"
    elif isinstance(model, nn.Module):
        message = (
            f"{function} was given a {type(model).__name__} that was not exported; "
            f"pass torch.export.export(model.eval(), example_inputs).module()"
        )
    else:
        message = f"{function} was given a {type(model).__name__}; pass the module of an exported program"
    raise NotExportedError(message)


def _is_exported_call(node: Node) -> bool:
    """Whether torch.export emits such calls: op overloads, control flow, arithmetic on sizes, getitem."""
    if isinstance(node.target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return True
    module = getattr(node.target, "__module__", "")
    return (
        module in {"_operator", "math", "builtins"}
        or module.startswith(("torch.utils._sympy", "torch.fx", "torch.sym"))
        or getattr(node.target, "__name__", "").startswith("sym_")
    )


def _attributes_exist(model: GraphModule) -> Iterator[str]:
    """Every get_attr and call_module names something that is there."""
    for node in model.graph.nodes:
        if node.op in {"get_attr", "call_module"}:
            path, _, name = str(node.target).rpartition(".")
            try:
                owner = model.get_submodule(path)
            except AttributeError:
                yield f"{describe(node)} reads {node.target}, which the model does not hold"
                continue
            if not hasattr(owner, name):
                yield f"{describe(node)} reads {node.target}, which the model does not hold"


def _no_annotations(model: GraphModule) -> Iterator[str]:
    for node in model.graph.nodes:
        if ANNOTATION_KEY in node.meta:
            yield f"{describe(node)} still carries its annotation"


def _no_observers(model: GraphModule) -> Iterator[str]:
    for node in _own_observer_calls(model):
        yield f"{node.target} is still called"
    called = {str(node.target) for node in model.graph.nodes if node.op == "call_module"}
    for name, module in model.named_children():
        if is_observer(module) and name not in called:
            yield f"observer {name} is left in the module tree"


def _no_modules(model: GraphModule) -> Iterator[str]:
    for node in model.graph.nodes:
        if node.op == "call_module":
            yield f"{describe(node)} calls a module; a converted graph holds calls of op overloads only"


def _codes_are_dequantized(model: GraphModule) -> Iterator[str]:
    for node in model.graph.nodes:
        if is_quantize(node):
            for user in node.users:
                if not is_dequantize(user):
                    yield f"{describe(user)} reads the codes of {node.name} without dequantizing them"


def _dequantizes_have_one_user(model: GraphModule) -> Iterator[str]:
    for node in model.graph.nodes:
        # The op that chooses qparams at run time reads a tensor for the quantize op that it serves.
        users = (
            [user for user in node.users if user.target not in CHOOSE_QPARAMS_OPS] if is_dequantize(node) else [node]
        )
        if len(users) != 1:
            yield f"{node.name} has {len(users)} users; backends match a dequantize by its one user"


def _weights_are_folded(model: GraphModule) -> Iterator[str]:
    for node in model.graph.nodes:
        tensor = node.args[0] if is_quantize(node) else None
        if isinstance(tensor, Node) and tensor.op == "get_attr" and not is_written(tensor):
            yield f"{node.name} quantizes the constant {tensor.target} at run time"


_REFERENCE: tuple[Rule, ...] = (_attributes_exist, _no_observers, _no_modules)
_CONVERTED: tuple[Rule, ...] = (*_REFERENCE, _codes_are_dequantized, _dequantizes_have_one_user)

RULES: dict[Stage, tuple[Rule, ...]] = {
    Stage.EXPORTED: (_attributes_exist,),
    Stage.PREPARED: (_attributes_exist, _no_annotations),
    Stage.CONVERTED: (*_CONVERTED, _weights_are_folded),
    Stage.UNFOLDED: _CONVERTED,
    Stage.REFERENCE: _REFERENCE,
}


def _lint(model: GraphModule) -> list[str]:
    """What torch.fx itself has against a graph: use before definition, names given twice."""
    try:
        model.graph.lint()
    except (RuntimeError, AssertionError) as e:
        return [str(e)]
    return []


def verify(model: GraphModule, stage: Stage, after: str) -> None:
    """Hold a graph to every rule of a stage.

    Args:
        model: The graph module to look at.
        stage: The form it should have.
        after: What was done last, for the error.

    Raises:
        GraphError: It breaks a rule; lists every breach.
    """
    breaches = [breach for _path, graph in graphs_of(model) for rule in RULES[stage] for breach in rule(graph)]
    breaches = breaches or [breach for _path, graph in graphs_of(model) for breach in _lint(graph)]
    if breaches:
        message = f"after {after} the graph is no legal {stage.value} graph: {'; '.join(breaches[:20])}"
        raise GraphError(message)
