"""From a choice for each layer to rules by module name, on a copy of the user's quantizer."""

from __future__ import annotations

from collections.abc import Mapping

from quantizer_sdk.mixed.layers import Layers
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["with_rules"]


def with_rules(
    quantizer: TableQuantizer, layers: Layers, chosen: Mapping[int, QuantizationConfig | None]
) -> TableQuantizer:
    """Return a quantizer that gives some layers another config, and all others the one that they have.

    Once there is a rule, only ops that rules cover are quantized; so the default config becomes one for all. A rule for
    a module covers those inside it as well: these get rules that keep what they have.

    Args:
        quantizer: It stays as it is.
        layers: What it quantizes.
        chosen: By the index of a layer, its config, or None to leave it float.
    """
    result = quantizer.copy()
    rules = result._rules  # of the copy
    if rules.empty:
        result.set_global(result.default_config())
    kept = set(rules.module_names)
    simple = not (rules.module_types or rules.operator_types or kept)
    changed = {module: config for index, config in chosen.items() for module in layers.layers[index].modules}
    for module, config in changed.items():
        result.set_module_name(module, config)
    inside = {
        module: layer.config
        for index, layer in enumerate(layers.layers)
        if index not in chosen
        for module in layer.modules
        if module not in kept and any(module.startswith(f"{outer}.") for outer in changed)
    }
    for module, config in _joined(inside, changed).items() if simple else inside.items():
        result.set_module_name(module, config)
    return result


def _joined(
    inside: Mapping[str, QuantizationConfig | None], changed: Mapping[str, QuantizationConfig | None]
) -> dict[str, QuantizationConfig | None]:
    """Return one rule for each child of a changed module in place of those for all modules inside it."""
    found: dict[str, QuantizationConfig | None] = {}
    for module, config in inside.items():
        outer = max((name for name in changed if module.startswith(f"{name}.")), key=len)
        child = f"{outer}.{module[len(outer) + 1 :].split('.')[0]}"
        found[module if child in changed else child] = config
    return found
