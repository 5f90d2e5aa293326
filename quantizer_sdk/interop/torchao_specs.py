"""A plan of this library as annotations of torchao's classes, which its engine makes the same groups of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import nn
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import quantizer as torchao

from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.granularity import PerTensor
from quantizer_sdk.interop.torchao_observers import Maker, unwrapped, wrapped
from quantizer_sdk.match import is_constant
from quantizer_sdk.operands import give_by_position
from quantizer_sdk.plan import Plan
from quantizer_sdk.provenance import describe, location_of, producer_of, shape_of
from quantizer_sdk.spec import ANNOTATION_KEY, DerivedQuantizationSpec, EdgeOrNode, QuantizationSpecBase, granularity_of

__all__ = ["annotate_for_torchao"]

Create = Callable[[QuantizationSpecBase, str, "list[nn.Module]", Any], nn.Module]
"""Makes the observer or fake quantizer of a spec: where it sits, what it derives from, the shape it watches."""


def annotate_for_torchao(
    model: GraphModule, plan: Plan, place_of: Mapping[EdgeOrNode, EdgeOrNode], create: Create, kept: Collection[Node]
) -> None:
    """Annotate a graph so that torchao's engine makes the groups of a plan, each with the observer it has here.

    The first point of a group in the graph's order holds a spec, and the others refer to it: torchao's engine wants it
    in that order. It is told to share nothing of its own accord, for the plan has done it.

    Args:
        model: The graph.
        plan: Of the same graph.
        place_of: For points that lie elsewhere now: where.
        create: Makes observers.
        kept: Nodes that another quantizer annotated, in torchao's own classes.

    Raises:
        UnsupportedError: torchao's engine would pass over a point in silence.
    """
    group_of = {place_of.get(point, point): index for point, index in plan.group_of.items()}
    specs = _specs(plan, create)
    holder: dict[int, EdgeOrNode] = {}
    for node, inputs, has_output in _annotated(model, group_of):
        points: list[EdgeOrNode] = [*((source, node) for source in inputs), *([node] if has_output else [])]
        if node in kept:
            for point in points:
                holder.setdefault(group_of[point], point)
            continue
        if any(isinstance(value, Node) for value in node.kwargs.values()):
            give_by_position(node)
        if has_output and not isinstance(node.meta.get("val"), FakeTensor):
            message = (
                f"{describe(node)} has no example value of torch.export in meta['val'], and torchao's engine quantizes "
                "only results that have one; give the nodes that your quantizer makes theirs"
            )
            raise UnsupportedError(message)
        given: dict[EdgeOrNode, Any] = {}
        for point in points:
            first = holder.setdefault(group_of[point], point)
            given[point] = specs[group_of[point]] if first is point else torchao.SharedQuantizationSpec(first)
        node.meta[ANNOTATION_KEY] = torchao.QuantizationAnnotation(
            {source: given[source, node] for source in inputs},
            given.get(node),
            allow_implicit_sharing=bool(kept),
            _annotated=True,
        )


def _annotated(model: GraphModule, group_of: Mapping[EdgeOrNode, int]) -> Iterator[tuple[Node, list[Node], bool]]:
    """Yield every node with points: those of its operands that have one, and whether its result has."""
    for node in model.graph.nodes:
        inputs = [source for source in node.all_input_nodes if (source, node) in group_of]
        if inputs or node in group_of or ANNOTATION_KEY in node.meta:
            yield node, inputs, node in group_of


def _specs(plan: Plan, create: Create) -> list[Any]:
    """Return a spec of torchao's for each group."""
    sources = {
        plan.group_of[source]
        for group in plan.groups
        if isinstance(group.spec, DerivedQuantizationSpec)
        for source in group.spec.derived_from
    }
    made: list[Maker] = []
    return [_spec(plan, index, made, create, writes=index in sources) for index in range(len(plan.groups))]


def _spec(plan: Plan, index: int, made: list[Maker], create: Create, *, writes: bool) -> Any:
    """Return the spec of one group; a weight that a bias derives from writes its ops itself, to be mended with it."""
    group, spec = plan.groups[index], plan.groups[index].spec
    of_weights = all(is_constant(producer_of(point)) for point in group.points)

    def make() -> nn.Module:
        derived_from = spec.derived_from if isinstance(spec, DerivedQuantizationSpec) else ()
        sources = [unwrapped(made[plan.group_of[source]]()) for source in derived_from]
        inner = create(spec, location_of(group.points), sources, shape_of(group.root))
        return wrapped(inner, writes=writes and of_weights)

    made.append(Maker(make))
    fields = {name: getattr(spec, name, None) for name in ("dtype", "quant_min", "quant_max", "qscheme", "ch_axis")}
    # torchao looks for its own ops of run-time qparams, to describe them, where a spec is dynamic
    is_dynamic = getattr(spec, "is_dynamic", False) and isinstance(granularity_of(spec), PerTensor)
    return torchao.QuantizationSpec(observer_or_fake_quant_ctr=made[-1], is_dynamic=is_dynamic, **fields)
