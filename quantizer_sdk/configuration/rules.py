"""The rules of a table quantizer, as plain data and back: configs by name, and which rule takes which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from quantizer_sdk.configuration.place import Place
from quantizer_sdk.configuration.specs import read_config, write_config
from quantizer_sdk.configuration.values import Observers
from quantizer_sdk.errors import ConfigurationError, QuantizerError
from quantizer_sdk.rules import Rules
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["FORMAT", "VERSION", "read_rules", "write_rules"]

FORMAT = "quantizer_sdk rules"
VERSION = 1
_FLOAT = "float"
_SECTIONS = ("global", "modules", "module_types", "operators")


def write_rules(quantizer: TableQuantizer, observers: Observers) -> dict[str, Any]:
    """Return a quantizer's rules as plain data.

    Raises:
        ConfigurationError: A rule has no form in a file.
    """
    rules: Rules = quantizer._rules  # the quantizer's own; there is no reason for users to see it
    if rules.node_filter is not None:
        raise ConfigurationError(
            f"{type(quantizer).__name__} has a filter function, which is code and has no form in a configuration file; "
            "say it by module names, and set_filter_function after loading what cannot be said so"
        )
    names = _Names()
    operators: dict[str, QuantizationConfig | None] = {}
    for name, overloads in rules.operators.items():
        configs = [rules.operator_types[overload] for overload in overloads]
        if _is_packet(name, overloads) and all(config == configs[0] for config in configs):
            operators[name] = configs[0]
        else:
            operators.update(zip(map(str, overloads), configs, strict=True))
    sections = {
        **({"global": names.of(rules.global_config[0])} if rules.global_config else {}),
        **{
            section: {key: names.of(config) for key, config in chosen.items()}
            for section, chosen in (
                ("modules", rules.module_names),
                ("module_types", rules.module_types),
                ("operators", operators),
            )
            if chosen
        },
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "quantizer": type(quantizer).__name__,
        "rules": sections,
        "configs": {name: write_config(config, observers) for config, name in names.by_config.items()},
    }


class _Names:
    """Names for the configs that rules share."""

    def __init__(self) -> None:
        self.by_config: dict[QuantizationConfig, str] = {}

    def of(self, config: QuantizationConfig | None) -> str:
        if config is None:
            return _FLOAT
        return self.by_config.setdefault(config, f"config_{len(self.by_config) + 1}")


def _is_packet(name: str, overloads: tuple[torch._ops.OpOverload, ...]) -> bool:
    return all(str(overload.overloadpacket) == name for overload in overloads)


def read_rules(place: Place, quantizer: TableQuantizer, observers: Observers) -> None:
    """Set the rules in a file, all of them or, where one is wrong, none.

    Raises:
        ConfigurationError: The file holds no rules that the quantizer takes.
    """
    entries = place.entries(["format", "version"], ["quantizer", "rules", "configs"])
    entries["format"].one_of([FORMAT])
    if entries["version"].as_(int) != VERSION:
        entries["version"].fail(f"is {entries['version'].value}", f"this release reads version {VERSION}")
    configs: dict[str, QuantizationConfig | None] = {_FLOAT: None}
    for name, entry in entries["configs"].items() if "configs" in entries else ():
        if name == _FLOAT:
            entry.fail("is the name of no config", "it is what a rule says that leaves ops float; choose another name")
        configs[name] = read_config(entry, observers)
    sections = entries["rules"].entries(optional=_SECTIONS) if "rules" in entries else {}
    if "global" in sections:
        config = configs[sections["global"].one_of(configs)]
    for each in (quantizer.copy(), quantizer):  # what is wrong shows on the copy
        if "global" in sections:
            each.set_global(config)
        for section, setter in (
            ("modules", each.set_module_name),
            ("module_types", each.set_module_type),
            ("operators", each.set_operator_type),
        ):
            for key, entry in sections[section].items() if section in sections else ():
                _set(setter, key, entry, configs)


def _set(setter: Callable[..., Any], key: str, entry: Place, configs: dict[str, QuantizationConfig | None]) -> None:
    config = configs[entry.one_of(configs)]
    operator = setter.__name__ == TableQuantizer.set_operator_type.__name__
    try:
        setter(_operator(key, entry) if operator else key, config)
    except QuantizerError as e:
        entry.fail("cannot be set", str(e))


def _operator(name: str, place: Place) -> Any:
    """Return the overload or packet of this name, such as "aten.add.Tensor" or "aten.add"."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        place.fail("names no op", "expected one of torch.ops, such as aten.linear.default, or aten.linear")
    return found
