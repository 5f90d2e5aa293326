"""A `QuantizationConfig` and its specs, as plain data and back."""

from __future__ import annotations

from typing import Any

from quantizer_sdk.configuration.place import Place
from quantizer_sdk.configuration.values import Observers, read_dtype, read_qscheme, write_torch
from quantizer_sdk.errors import ConfigurationError, InvalidSpecError
from quantizer_sdk.spec import FixedQParamsQuantizationSpec, QuantizationSpec, QuantizationSpecBase
from quantizer_sdk.table import ProductBiasSpec, QuantizationConfig, Role

__all__ = ["read_config", "write_config"]

_ROLES = tuple(role.value for role in Role)
_RANGE = ("quant_min", "quant_max", "qscheme", "is_dynamic")
_FIXED, _PRODUCT = "fixed", "product"


def write_config(config: QuantizationConfig, observers: Observers) -> dict[str, Any]:
    """Return a config as plain data; roles that stay float are left out.

    Raises:
        ConfigurationError: A spec or an observer has no form in a file.
    """
    specs = {name: getattr(config, name) for name in _ROLES}
    found: dict[str, Any] = {
        name: _write_spec(spec, name, observers) for name, spec in specs.items() if spec is not None
    }
    return {"is_qat": True, **found} if config.is_qat else found


def _write_spec(spec: QuantizationSpecBase, role: str, observers: Observers) -> dict[str, Any]:
    if type(spec) is ProductBiasSpec:
        found = {"kind": _PRODUCT, "dtype": write_torch(spec.dtype)}
        return {**found, "keep_float": True} if spec.keep_float else found
    if type(spec) is FixedQParamsQuantizationSpec:
        fixed = {"kind": _FIXED, "dtype": write_torch(spec.dtype), "scale": spec.scale, "zero_point": spec.zero_point}
        return {**fixed, **_write_range(spec)}
    if type(spec) is QuantizationSpec:
        observer = spec.observer_or_fake_quant_ctr
        ruled = {"dtype": write_torch(spec.dtype), **_write_range(spec)}
        if spec.ch_axis is not None:
            ruled["ch_axis"] = spec.ch_axis
        return ruled if observer is None else {**ruled, **observers.write(observer)}
    raise ConfigurationError(
        f"the {role} of a config is a {type(spec).__name__}, which has no form in a configuration file; those are of "
        "QuantizationSpec, FixedQParamsQuantizationSpec and ProductBiasSpec"
    )


def _write_range(spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if spec.quant_min is not None:
        found |= {"quant_min": spec.quant_min, "quant_max": spec.quant_max}
    if spec.qscheme is not None:
        found["qscheme"] = write_torch(spec.qscheme)
    return {**found, "is_dynamic": True} if spec.is_dynamic else found


def read_config(place: Place, observers: Observers) -> QuantizationConfig:
    """Return the config in a table.

    Raises:
        ConfigurationError: The table holds none.
    """
    entries = place.entries(optional=("is_qat", *_ROLES))
    is_qat = entries.pop("is_qat").as_(bool) if "is_qat" in entries else False
    specs = {role: _read_spec(entry, observers) for role, entry in entries.items()}
    return QuantizationConfig(**{role: specs.get(role) for role in _ROLES}, is_qat=is_qat)


def _read_spec(place: Place, observers: Observers) -> QuantizationSpecBase:
    entries = dict(place.items())
    kind = entries.pop("kind").one_of((_FIXED, _PRODUCT)) if "kind" in entries else None
    if kind == _PRODUCT:
        entries = place.entries(["kind", "dtype"], ["keep_float"])
        keep_float = entries["keep_float"].as_(bool) if "keep_float" in entries else False
        return ProductBiasSpec(read_dtype(entries["dtype"]), keep_float)
    own = ("scale", "zero_point") if kind == _FIXED else ()
    optional = _RANGE if kind == _FIXED else (*_RANGE, "ch_axis", "observer", "arguments")
    entries = place.entries(["dtype", *own, *(["kind"] if kind else [])], optional)
    fields: dict[str, Any] = {"dtype": read_dtype(entries["dtype"])}
    for name, type_ in (
        ("quant_min", int),
        ("quant_max", int),
        ("ch_axis", int),
        ("zero_point", int),
        ("scale", float),
    ):
        if name in entries:
            fields[name] = entries[name].as_(type_)
    if "qscheme" in entries:
        fields["qscheme"] = read_qscheme(entries["qscheme"])
    if "is_dynamic" in entries:
        fields["is_dynamic"] = entries["is_dynamic"].as_(bool)
    if "observer" in entries:
        fields["observer_or_fake_quant_ctr"] = observers.read(entries["observer"], entries.get("arguments"))
    elif "arguments" in entries:
        entries["arguments"].fail("stands alone", 'name the observer that takes them, as observer = "MinMaxObserver"')
    try:
        return FixedQParamsQuantizationSpec(**fields) if kind == _FIXED else QuantizationSpec(**fields)
    except InvalidSpecError as e:
        place.fail("contradicts itself", str(e))
