"""Annotations written with another library's classes, read by structure: what has a spec's fields is that spec.

Quantizers written against torchao, or against torch.ao before it, leave objects of those libraries on the nodes. They
have the fields of PT2E under the names of PT2E, so the engine's own specs are made of those fields; no other library is
imported. The graph stays as the quantizer left it, for its `validate` and its callback look for objects of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.errors import InvalidAnnotationError, InvalidSpecError, UnsupportedError
from quantizer_sdk.provenance import describe, describe_point
from quantizer_sdk.spec import (
    ANNOTATION_KEY,
    DerivedQuantizationSpec,
    EdgeOrNode,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)

__all__ = ["annotation_of"]

# Each spec by the attributes that tell it from those below it.
_MARKS: dict[type[QuantizationSpecBase], tuple[str, ...]] = {
    SharedQuantizationSpec: ("edge_or_node",),
    DerivedQuantizationSpec: ("dtype", "derived_from", "derive_qparams_fn"),
    FixedQParamsQuantizationSpec: ("dtype", "scale", "zero_point"),
    QuantizationSpec: ("dtype", "observer_or_fake_quant_ctr"),
}

# torch's older types of quantized tensors; the types of their codes.
_CODES_OF = {torch.qint8: torch.int8, torch.quint8: torch.uint8, torch.qint32: torch.int32}


def annotation_of(node: Node) -> QuantizationAnnotation | None:
    """Return what a quantizer left on a node, in the engine's own classes, or None.

    Raises:
        InvalidAnnotationError: It has not the fields of an annotation, or holds what has not those of a spec.
        InvalidSpecError: A spec of another library has values that no spec can have.
        UnsupportedError: A spec of another library has fields that the engine does not know.
    """
    found = node.meta.get(ANNOTATION_KEY)
    if found is None:
        return None
    inputs, output = _parts(found, node)
    if isinstance(found, QuantizationAnnotation) and all(
        spec is None or isinstance(spec, QuantizationSpecBase) for spec in (*inputs.values(), output)
    ):
        return found
    return QuantizationAnnotation(
        {producer: _spec(spec, (producer, node)) for producer, spec in inputs.items()},
        _spec(output, node),
        allow_implicit_sharing=getattr(found, "allow_implicit_sharing", True),
        _annotated=getattr(found, "_annotated", False),
    )


def _parts(found: Any, node: Node) -> tuple[dict[Node, Any], Any]:
    """Return the specs of a node's operands and of its result, whatever class holds them."""
    missing = [name for name in ("input_qspec_map", "output_qspec") if not hasattr(found, name)]
    if missing:
        message = (
            f"{describe(node)} carries a {type(found).__name__} as its annotation, which has no "
            f"{' and no '.join(missing)}; expected a QuantizationAnnotation, or an object with its fields"
        )
        raise InvalidAnnotationError(message)
    inputs = found.input_qspec_map
    return ({} if inputs is None else inputs), found.output_qspec


def _spec(found: Any, point: EdgeOrNode) -> QuantizationSpecBase | None:
    """Return the spec that an object's fields make; None where it asks for nothing, as float32 does."""
    if found is None or isinstance(found, QuantizationSpecBase):
        return found
    kind = next((kind for kind, marks in _MARKS.items() if all(hasattr(found, mark) for mark in marks)), None)
    if kind is None:
        forms = "; ".join(f"{kind.__name__}: {', '.join(marks)}" for kind, marks in _MARKS.items())
        message = (
            f"the spec on {_words(point)} is a {type(found).__name__} ({found!r}); expected one of the quantization "
            f"specs, or None, or an object with the fields of one ({forms})"
        )
        raise InvalidAnnotationError(message)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # each of them is a dataclass
    _refuse_other_fields(found, kind, names, point)
    fields = {name: getattr(found, name) for name in names if hasattr(found, name)}
    if "dtype" in fields:
        fields["dtype"] = _CODES_OF.get(fields["dtype"], fields["dtype"])
        if fields["dtype"] is torch.float32 and not fields.get("is_dynamic"):
            return None
    try:
        return kind(**fields)
    except InvalidSpecError as e:
        message = f"the {type(found).__module__}.{type(found).__name__} on {_words(point)}: {e}"
        raise InvalidSpecError(message) from e


def _refuse_other_fields(found: Any, kind: type[QuantizationSpecBase], names: list[str], point: EdgeOrNode) -> None:
    """Refuse a spec that says more than the engine can take in, rather than drop it in silence."""
    own = [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
    if unknown := [name for name in own if name not in names]:
        message = (
            f"the {type(found).__module__}.{type(found).__name__} on {_words(point)} has the fields "
            f"{', '.join(unknown)}, which {kind.__name__} has not; what an observer is to know, give to its "
            "constructor by with_args"
        )
        raise UnsupportedError(message)


def _words(point: EdgeOrNode) -> str:
    if isinstance(point, tuple) and not isinstance(point[0], Node):
        return f"{point[0]!r} -> {point[1].name}"  # reported here, for the plan comes later
    return describe_point(point)
