"""Which config an op gets: module name before module type before op type before global."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from quantizer_sdk.errors import RuleError
from quantizer_sdk.near_misses import close_names, close_paths
from quantizer_sdk.provenance import module_types, origin_of
from quantizer_sdk.refusal import EXCLUDED, FILTERED, UNCOVERED, Refusal
from quantizer_sdk.table import QuantizationConfig

__all__ = ["Rules", "UnusedRule", "overloads_of"]

_Config = QuantizationConfig | None


@dataclass(frozen=True, slots=True)
class UnusedRule:
    """A rule that no op meets.

    Attributes:
        words: What it is for, as "module name 'conv'".
        near: What the model has that is written much like it, the likeliest first: of the rule's own kind.
        kind: "module name", "module type" or "op type".
    """

    words: str
    near: tuple[str, ...] = ()
    kind: str = ""

    def __str__(self) -> str:
        guess = " or ".join(repr(name) for name in self.near)
        return f"{self.words} (did you mean {guess}?)" if guess else self.words


@dataclass(slots=True)
class Rules:
    """The user's choices, and which of them an op met.

    Attributes:
        module_names: Config by module path; the deepest path around an op wins.
        module_types: Config by qualified class name; the innermost module of a configured type wins.
        operator_types: Config by overload.
        operators: The overloads of each op that a rule was set for, by the op's name: one, or all of a packet.
        global_config: Config of all other ops, as (config,), so that None can be one; empty where none was set.
        node_filter: Ops for which it returns False are left float.
        global_words: Names the global config in reasons.
    """

    module_names: dict[str, _Config] = field(default_factory=dict)
    module_types: dict[str, _Config] = field(default_factory=dict)
    operator_types: dict[torch._ops.OpOverload, _Config] = field(default_factory=dict)
    operators: dict[str, tuple[torch._ops.OpOverload, ...]] = field(default_factory=dict)
    global_config: tuple[_Config, ...] = ()
    node_filter: Callable[[Node], bool] | None = None
    global_words: str = "all ops (global)"

    @property
    def empty(self) -> bool:
        """Whether nothing was configured."""
        return not (self.module_names or self.module_types or self.operator_types or self.global_config)

    def configs(self) -> list[_Config]:
        """Return every config that was given."""
        kinds = (self.module_names, self.module_types, self.operator_types)
        return [config for rules in kinds for config in rules.values()] + list(self.global_config)

    def changed(self, change: Callable[[QuantizationConfig], QuantizationConfig]) -> Rules:
        """Return the same rules with what a function makes of each config."""

        def of(config: _Config) -> _Config:
            return None if config is None else change(config)

        return Rules(
            module_names={name: of(config) for name, config in self.module_names.items()},
            module_types={kind: of(config) for kind, config in self.module_types.items()},
            operator_types={target: of(config) for target, config in self.operator_types.items()},
            operators=dict(self.operators),
            global_config=tuple(of(config) for config in self.global_config),
            node_filter=self.node_filter,
        )

    def config_of(self, node: Node) -> tuple[_Config, str]:
        """Return an op's config and the words for the rule that gave it."""
        if not self.admits(node):
            return None, Refusal("excluded by the filter function", cause=FILTERED)
        for key, config in self._candidates(node):
            if config is not None:
                return config, f"the rule for {key}"
            advice = f"remove the rule for {key}, or give it a config in the place of None"
            return None, Refusal(f"excluded by the rule for {key}", cause=EXCLUDED, advice=advice)
        words = "no rule covers it: there is no global config, and no rule for its module or op"
        return None, Refusal(words, cause=UNCOVERED)

    def admits(self, node: Node) -> bool:
        """Whether the filter function, if there is one, lets an op be quantized."""
        return self.node_filter is None or self.node_filter(node)

    def _candidates(self, node: Node) -> list[tuple[str, _Config]]:
        """Return the rule that applies, as at most one (words, config)."""
        around = module_types(node)
        if self.module_names:
            for path, _kind in reversed(around):
                parts = path.split(".")
                for length in range(len(parts), 0, -1):
                    name = ".".join(parts[:length])
                    if name in self.module_names:
                        return [(f"module name {name!r}", self.module_names[name])]
        for _path, kind in reversed(around):
            if kind in self.module_types:
                return [(f"module type {kind}", self.module_types[kind])]
        for target in dict.fromkeys((origin_of(node), node.target)):  # the user's own op goes before what it became
            if target in self.operator_types:
                return [(f"op type {target}", self.operator_types[target])]
        return [(self.global_words, self.global_config[0])] if self.global_config else []

    def unused(self, nodes: list[Node]) -> list[UnusedRule]:
        """Return every rule that no op meets, whatever rule goes before it."""
        paths: set[str] = set()
        kinds: set[str] = set()
        targets = {target for node in nodes for target in (node.target, origin_of(node))}
        for around in {module_types(node) for node in nodes}:
            for path, kind in around:
                kinds.add(kind)
                parts = path.split(".")
                paths.update(".".join(parts[:length]) for length in range(1, len(parts) + 1))
        missed_names = [name for name in self.module_names if name not in paths]
        missed_types = [kind for kind in self.module_types if kind not in kinds]
        missed_ops = [name for name, overloads in self.operators.items() if targets.isdisjoint(overloads)]
        called = sorted({str(target) for target in targets})
        return [
            *(UnusedRule(f"module name {n!r}", close_paths(n, paths), "module name") for n in missed_names),
            *(UnusedRule(f"module type {kind}", close_names(kind, kinds), "module type") for kind in missed_types),
            *(UnusedRule(f"op type {name}", close_names(name, called, part=1), "op type") for name in missed_ops),
        ]


def overloads_of(operator: object) -> tuple[torch._ops.OpOverload, ...]:
    """Return an overload as it is, and a packet such as `torch.ops.aten.conv2d` as all its overloads.

    Raises:
        RuleError: It is neither.
    """
    if isinstance(operator, torch._ops.OpOverload):
        return (operator,)
    if isinstance(operator, torch._ops.OpOverloadPacket):
        names: list[str] = operator.overloads()  # type: ignore[no-untyped-call]
        return tuple(getattr(operator, name) for name in names)
    message = f"{operator!r} is no op; give an overload such as torch.ops.aten.linear.default, or torch.ops.aten.linear"
    raise RuleError(message)
