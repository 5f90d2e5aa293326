"""The quantizer that a table makes: it matches rows, applies the user's rules and annotates."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.alternatives import alternative_configs
from quantizer_sdk.control_flow import graphs_of, nodes_of
from quantizer_sdk.decision import Decision, decision_of, record
from quantizer_sdk.errors import RuleError
from quantizer_sdk.match import Match, Refusals, claims, find_matches, is_constant
from quantizer_sdk.passes.rewrite_ops import Rewrite, rewrite_ops
from quantizer_sdk.provenance import module_path, op_name
from quantizer_sdk.quantizer import Quantizer
from quantizer_sdk.refusal import CONSTANT, FLOAT_NEIGHBOURS, NO_ROW, Refusal
from quantizer_sdk.report import is_op
from quantizer_sdk.rules import Rules, UnusedRule, overloads_of
from quantizer_sdk.several_readers import SeveralReaders
from quantizer_sdk.spec import (
    ANNOTATION_KEY,
    EdgeOrNode,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)
from quantizer_sdk.table import ProductBiasSpec, QuantizationConfig, Role, Row
from quantizer_sdk.table_validation import table_violations

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TableQuantizer", "UnusedRuleWarning"]


class UnusedRuleWarning(UserWarning):
    """A rule that the user set matched no op of the model."""


class TableQuantizer(Quantizer):
    """A quantizer described by rows; subclasses set `rows`, and `default_config` for use without any `set_` call.

    `rewrites` are tried before annotation: an op is written otherwise if rows claim all that takes its place, and it
    stands beside an op that a row claims or at the model's border. Between float ops conversions cost more than it
    saves, unless it becomes a gemm.

    Rules go by precedence: module name, module type, op type, global. A config of None leaves what the rule covers
    float. As in PT2E, once any rule is set, only ops that a rule covers are quantized.
    """

    rows: tuple[Row, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    enters_control_flow = True

    def __init__(self) -> None:
        self._rules = Rules()

    def default_config(self) -> QuantizationConfig | None:
        """Return the config of all ops where the user sets no rule at all."""
        return None

    def set_global(self, config: QuantizationConfig | None) -> Self:
        """Quantize all ops that no other rule covers with this config."""
        self._rules.global_config = (_checked(config),)
        return self

    def set_module_name(self, name: str, config: QuantizationConfig | None) -> Self:
        """Quantize the ops in the module at this path, as in `model.get_submodule(name)`, with this config.

        Raises:
            RuleError: The name is empty or no string.
        """
        if not isinstance(name, str) or not name:
            message = f"set_module_name takes the path of a submodule, such as 'features.0'; got {name!r}"
            raise RuleError(message)
        self._rules.module_names[name] = _checked(config)
        return self

    def set_module_type(self, kind: type[nn.Module] | str, config: QuantizationConfig | None) -> Self:
        """Quantize the ops in modules of this class, or of this qualified class name, with this config.

        Raises:
            RuleError: It is no module class.
        """
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            kind = f"{kind.__module__}.{kind.__qualname__}"
        if not isinstance(kind, str) or not kind:
            message = f"set_module_type takes a class of modules, such as torch.nn.Linear; got {kind!r}"
            raise RuleError(message)
        self._rules.module_types[kind] = _checked(config)
        return self

    def set_operator_type(self, operator: object, config: QuantizationConfig | None) -> Self:
        """Quantize the calls of this aten overload, or of all overloads of a packet, with this config.

        Raises:
            RuleError: It is neither.
        """
        self._set_overloads(str(operator), overloads_of(operator), config)
        return self

    def _set_overloads(
        self, name: str, overloads: tuple[torch._ops.OpOverload, ...], config: QuantizationConfig | None
    ) -> None:
        """Set one rule, which reports call by this name, for several overloads."""
        self._rules.operator_types.update(dict.fromkeys(overloads, _checked(config)))
        self._rules.operators[name] = overloads

    def set_filter_function(self, node_filter: Callable[[Node], bool]) -> Self:
        """Leave the ops float for which this function of a node returns False."""
        self._rules.node_filter = node_filter
        return self

    def with_configs(self, change: Callable[[QuantizationConfig], QuantizationConfig]) -> Self:
        """Return a quantizer with the same rules, and what a function makes of each config; this one stays."""
        result = copy.copy(self)
        result._rules = self._effective_rules().changed(change)
        return result

    def copy(self) -> Self:
        """Return a quantizer with the same rules, to which further ones can be set without changing this one."""
        result = copy.copy(self)
        result._rules = dataclasses.replace(
            self._rules,
            module_names=dict(self._rules.module_names),
            module_types=dict(self._rules.module_types),
            operator_types=dict(self._rules.operator_types),
            operators=dict(self._rules.operators),
        )
        return result

    def alternatives(self, config: QuantizationConfig) -> dict[str, QuantizationConfig]:
        """Return other configs that may suit a layer better than its own, by what is different.

        `mixed_precision` asks for them, and leaves out for each layer those that no row claims: a backend lists here
        what its rows may take, and need not say where.

        Args:
            config: What the layer has now.
        """
        return alternative_configs(config)

    @property
    def is_qat(self) -> bool:
        """Whether a config that a rule gives, or the default one without rules, is for training."""
        return any(config is not None and config.is_qat for config in self._effective_rules().configs())

    def covers(self, node: Node) -> bool:
        """Whether the rules, or the default config without any, let an op be quantized."""
        return self._effective_rules().config_of(node)[0] is not None

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Apply the rewrites whose results rows and rules claim."""
        if self.rewrites:
            rules = self._effective_rules()
            configure = rules.config_of

            def claimed(node: Node) -> bool:
                return claims(self.rows, node, configure)

            def applies(rewrite: Rewrite, node: Node) -> bool:
                config, _rule = configure(node)
                trained = rewrite.inference_only and config is not None and config.is_qat
                return (
                    not trained
                    and rules.admits(node)
                    and (rewrite.moves or rewrite.gemm or _stands_by_claimed(node, claimed))
                )

            rewrite_ops(model, self.rewrites, claimed, applies)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every op that a row and a rule claim, and note for every other one why it stays float."""
        rules = self._effective_rules()
        unused = rules.unused([node for node in nodes_of(model) if is_op(node)])
        readers = SeveralReaders(self.rows)
        for _path, graph in graphs_of(model):
            self._annotate_graph(graph, rules, readers)
            _advise_on_unused(graph, unused)
        self._report_unused(model, unused)
        return model

    def violations(self, model: GraphModule) -> list[str]:
        """Return what is annotated in a graph, by whatever code, but no row computes: see `table_violations`."""
        return table_violations(model, self.rows)

    def _annotate_graph(self, model: GraphModule, rules: Rules, readers: SeveralReaders) -> None:
        claimed = {node for node in model.graph.nodes if ANNOTATION_KEY in node.meta}
        refusals = Refusals()
        compute = [row for row in self.rows if not row.share]
        for match in find_matches(model.graph, compute, rules.config_of, claimed, refusals):
            _annotate(match)
        moving = [row for row in self.rows if row.share]
        _annotate_moving(model, find_matches(model.graph, moving, rules.config_of, claimed, refusals), refusals)
        _follow_fixed(model)
        for node in model.graph.nodes:
            if is_op(node) and decision_of(node).row is None and ANNOTATION_KEY not in node.meta:
                config, rule = rules.config_of(node)
                why: Refusal | str | None = refusals.of(node) or (rule if config is None else readers.of(node))
                why = why or Refusal(f"no row for {op_name(node)}", cause=NO_ROW)
                assert isinstance(why, Refusal)
                record(node, Decision(reason=str(why), cause=why.cause, advice=why.advice))

    def _effective_rules(self) -> Rules:
        if not self._rules.empty or (default := self.default_config()) is None:
            return self._rules
        words = "all ops (the default config)"
        return Rules(global_config=(default,), node_filter=self._rules.node_filter, global_words=words)

    def _report_unused(self, model: GraphModule, unused: list[UnusedRule]) -> None:
        if unused:
            note = f"{type(self).__name__}: these rules match no op of the model: {', '.join(map(str, unused))}"
            model.meta["quantizer_sdk_notes"] = (*model.meta.get("quantizer_sdk_notes", ()), note)
            warnings.warn(note, UnusedRuleWarning, stacklevel=2)


def _advise_on_unused(model: GraphModule, unused: list[UnusedRule]) -> None:
    """Tell each op that a rule was perhaps meant for of that rule: it goes by another one, or by none."""
    meant = {name: rule for rule in unused if rule.kind == "module name" for name in rule.near}
    for node in model.graph.nodes if meant else ():
        parts = module_path(node).split(".")
        for length in range(len(parts), 0, -1):
            rule = meant.get(name := ".".join(parts[:length]))
            if rule is not None and is_op(node):
                decision = decision_of(node)
                words = f"write {name!r} if the rule for {rule.words}, which no op meets, is meant for this op"
                advice = words if decision.advice is None else f"{words}; or {decision.advice}"
                record(node, dataclasses.replace(decision, advice=advice, absorbed=()))
                break


def _checked(config: QuantizationConfig | None) -> QuantizationConfig | None:
    if config is not None and not isinstance(config, QuantizationConfig):
        message = f"a rule takes a QuantizationConfig, or None to leave ops float; got a {type(config).__name__}"
        raise RuleError(message)
    return config


def _stands_by_claimed(node: Node, claimed: Callable[[Node], bool]) -> bool:
    """Whether an op reads or feeds one that is claimed, or the model's inputs or outputs."""
    operands = [operand for operand in node.all_input_nodes if not is_constant(operand)]
    if any(user.op == "output" or claimed(user) for user in node.users):
        return True
    return any(operand.op == "placeholder" or claimed(operand) for operand in operands)


def _annotation_of(node: Node) -> QuantizationAnnotation:
    annotation: QuantizationAnnotation = node.meta.setdefault(ANNOTATION_KEY, QuantizationAnnotation())
    annotation._annotated = True
    return annotation


def _annotate(match: Match) -> None:
    """Put the config's specs on what enters and leaves a pattern; what lies inside stays in the kernel."""
    for node in match.nodes:
        inner = None if node is match.output else match.output.name
        _annotation_of(node)
        record(node, Decision(row=match.row.name, rule=match.rule, fused_into=inner, reason=match.row.remark))
    points: dict[Role, tuple[EdgeOrNode, QuantizationSpecBase]] = {}
    biases: list[tuple[Node, Node, ProductBiasSpec]] = []
    for node, _name, operand, value in match.operands():
        spec = operand.spec(match.config)
        if not isinstance(value, Node) or spec is None:
            continue
        if isinstance(spec, ProductBiasSpec):
            biases.append((node, value, spec))
            continue
        _annotation_of(node).input_qspec_map[value] = spec
        points.setdefault(operand.role, ((value, node), spec))
    for node, value, template in biases:  # last, for some ops name their bias before the rest
        if Role.ACT in points and Role.WEIGHT in points:
            (activation, _), (weight, weight_spec) = points[Role.ACT], points[Role.WEIGHT]
            _annotation_of(node).input_qspec_map[value] = template.derive(activation, weight, weight_spec)
    _annotation_of(match.output).output_qspec = match.row.output.spec(match.config)


def _annotate_moving(model: GraphModule, matches: list[Match], refusals: Refusals) -> None:
    """Annotate ops that only move codes, where they are tied to a quantized op by any chain of such ops."""
    match_of = {}
    for match in matches:
        if all(isinstance(value, Node) and is_constant(value) for _node, _name, _operand, value in match.operands()):
            # Codes of its result would be of the wrong kind for the op that reads them: it has a spec for its weight.
            words = f"{match.row.name}: it moves a constant, which is computed before run time"
            refusals.add(match.output, Refusal(words, cause=CONSTANT))
        else:
            match_of[match.output] = match
    frontier = [node for node in match_of if _touches_quantized(node)]
    reached = set(frontier)
    while frontier:
        node = frontier.pop()
        for neighbour in (*node.all_input_nodes, *node.users):
            if neighbour in match_of and neighbour not in reached:
                reached.add(neighbour)
                frontier.append(neighbour)
    for node in model.graph.nodes:
        if node not in match_of:
            continue
        name = match_of[node].row.name
        if node not in reached:
            words = f"{name}: it moves float data: neither its operands nor its users are quantized"
            refusals.add(node, Refusal(words, cause=FLOAT_NEIGHBOURS))
        elif not _share(match_of[node]):
            words = f"{name}: its operand is float, and its config has no spec for input activations"
            refusals.add(node, Refusal(words, cause=FLOAT_NEIGHBOURS))


def _follow_fixed(model: GraphModule) -> None:
    """Let readers of a result with fixed qparams take it as it is; specs of their own would requantize it."""
    fixed: dict[Node, FixedQParamsQuantizationSpec] = {}
    for node in model.graph.nodes:
        annotation: QuantizationAnnotation | None = node.meta.get(ANNOTATION_KEY)
        if annotation is None or decision_of(node).row is None:
            continue
        for producer, spec in annotation.input_qspec_map.items():
            known = fixed.get(producer)
            if known is not None and isinstance(spec, QuantizationSpec) and spec.dtype == known.dtype:
                annotation.input_qspec_map[producer] = SharedQuantizationSpec(producer)
        output = annotation.output_qspec
        if isinstance(output, FixedQParamsQuantizationSpec):
            fixed[node] = output
        elif isinstance(output, SharedQuantizationSpec) and isinstance(output.edge_or_node, tuple):
            moved = fixed.get(output.edge_or_node[0])
            if moved is not None:
                fixed[node] = moved


def _touches_quantized(node: Node) -> bool:
    """Whether an op takes codes, or makes what a calibrated quantize reads; one with run-time qparams reads floats."""
    for operand in node.all_input_nodes:
        annotation = operand.meta.get(ANNOTATION_KEY)
        if annotation is not None and annotation.output_qspec is not None:
            return True
    for user in node.users:
        annotation = user.meta.get(ANNOTATION_KEY)
        spec = None if annotation is None else annotation.input_qspec_map.get(node)
        if spec is not None and not getattr(spec, "is_dynamic", False):
            return True
    return False


def _share(match: Match) -> bool:
    """Give all operands and the result the qparams of the first operand: its producer's, where that has some.

    Returns:
        False, with nothing annotated, where neither the producer nor the config has a spec.
    """
    node = match.output
    operands = [value for _node, _name, _operand, value in match.operands() if isinstance(value, Node)]
    first = operands[0]
    producer: QuantizationAnnotation | None = first.meta.get(ANNOTATION_KEY)
    spec: QuantizationSpecBase | None = match.config.input_activation
    if producer is not None and producer.output_qspec is not None:
        spec = SharedQuantizationSpec(first)
    if spec is None:
        return False
    annotation = _annotation_of(node)
    annotation.input_qspec_map[first] = spec
    shared = SharedQuantizationSpec((first, node))
    for operand in operands[1:]:
        if operand is not first:
            annotation.input_qspec_map[operand] = shared
    annotation.output_qspec = shared
    record(node, Decision(row=match.row.name, rule=match.rule, shares=True, reason=match.row.remark))
    return True
