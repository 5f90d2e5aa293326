"""A quantizer whose work is changed before it, after it, or in its observers: what wrong quantizers are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk import Backend, EdgeOrNode, QuantizationAnnotation, QuantizationSpecBase, Quantizer, Row

__all__ = [
    "KEY",
    "Altered",
    "Observers",
    "activations",
    "altered",
    "annotated",
    "edges",
    "parameters",
    "replace_specs",
]

KEY = "quantization_annotation"
"""Where a quantizer of the PT2E ecosystem leaves its annotation."""

Observers = dict[EdgeOrNode, nn.Module]
Change = Callable[[GraphModule], None]
Watch = Callable[[GraphModule, Observers], None]


class Altered(Quantizer):
    """A quantizer with changes.

    Args:
        inner: The quantizer.
        rewrite: Changes the graph before the quantizer sees it.
        annotate: Changes its annotations.
        observe: Changes the observers made for these.
    """

    enters_control_flow = True

    def __init__(
        self,
        inner: Quantizer,
        *,
        rewrite: Change | None = None,
        annotate: Change | None = None,
        observe: Watch | None = None,
    ) -> None:
        self.inner = inner
        self._rewrite = rewrite
        self._change = annotate
        self._observe = observe

    @property
    def rows(self) -> tuple[Row, ...]:
        """The inner quantizer's table."""
        found: tuple[Row, ...] = getattr(self.inner, "rows", ())
        return found

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Rewrite as the inner one does, after the change."""
        if self._rewrite is not None:
            self._rewrite(model)
        return self.inner.transform_for_annotation(model)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate as the inner one does, and change that."""
        result = self.inner.annotate(model)
        if self._change is not None:
            self._change(result)
        return result

    def validate(self, model: GraphModule) -> None:
        """Find nothing wrong: who makes a mistake does not know it, and the inner one would refuse the change."""

    def prepare_obs_or_fq_callback(self, model: GraphModule, edge_or_node_to_obs_or_fq: Observers) -> None:
        """Change the observers."""
        self.inner.prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)
        if self._observe is not None:
            self._observe(model, edge_or_node_to_obs_or_fq)


def altered(
    backend: Backend,
    *,
    rewrite: Change | None = None,
    annotate: Change | None = None,
    observe: Watch | None = None,
) -> Backend:
    """Return a backend whose quantizers are `Altered`, in all configurations."""

    def wrap(make: Callable[[], Quantizer]) -> Callable[[], Quantizer]:
        return lambda: Altered(make(), rewrite=rewrite, annotate=annotate, observe=observe)

    configurations = {name: wrap(make) for name, make in backend.schemes().items()}
    return dataclasses.replace(backend, quantizer=next(iter(configurations.values())), configurations=configurations)


def annotated(model: GraphModule) -> Iterator[tuple[Node, QuantizationAnnotation]]:
    """Yield the annotated nodes in graph order, each with its annotation."""
    for node in model.graph.nodes:
        if node.op == "call_function" and KEY in node.meta:
            yield node, node.meta[KEY]


def edges(model: GraphModule) -> Iterator[tuple[Node, Node, QuantizationAnnotation]]:
    """Yield (producer, consumer, the consumer's annotation) of each annotated edge."""
    for node, annotation in annotated(model):
        for producer in list(annotation.input_qspec_map):
            yield producer, node, annotation


def replace_specs(
    model: GraphModule, change: Callable[[QuantizationSpecBase, bool], QuantizationSpecBase | None]
) -> None:
    """Replace every spec by what `change` makes of it and of whether it is a constant's."""
    for producer, _node, annotation in edges(model):
        spec = annotation.input_qspec_map[producer]
        if spec is not None:
            annotation.input_qspec_map[producer] = change(spec, producer.op == "get_attr")
    for _node, annotation in annotated(model):
        if annotation.output_qspec is not None:
            annotation.output_qspec = change(annotation.output_qspec, False)


def activations(observers: Mapping[EdgeOrNode, nn.Module]) -> list[Any]:
    """Return the observers that choose qparams from activations, in the order of their points, each once."""
    return _free(observers, constant=False)


def parameters(observers: Mapping[EdgeOrNode, nn.Module]) -> list[Any]:
    """Return the observers that choose qparams from constants."""
    return _free(observers, constant=True)


def _free(observers: Mapping[EdgeOrNode, nn.Module], *, constant: bool) -> list[Any]:
    found: dict[nn.Module, None] = {}
    for point, observer in observers.items():
        producer = point[0] if isinstance(point, tuple) else point
        if hasattr(observer, "min_val") and (producer.op == "get_attr") is constant:
            found.setdefault(observer)
    return list(found)


def choose(observer: Any, change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Let an observer choose what `change` makes of the scale and the zero point that it would have chosen."""
    original = observer.calculate_qparams
    observer.calculate_qparams = lambda: change(*original())
