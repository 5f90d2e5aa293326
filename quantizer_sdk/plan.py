"""From annotations to a plan: which points are quantized, and which of them share one observer. Writes no graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.dtypes import FLOAT_DTYPES
from quantizer_sdk.errors import InvalidAnnotationError, InvalidSpecError, SharingError
from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.granularity import PerTensor
from quantizer_sdk.operands import overwriting_users
from quantizer_sdk.provenance import describe, describe_point, value_of
from quantizer_sdk.spec import (
    ANNOTATION_KEY,
    DerivedQuantizationSpec,
    EdgeOrNode,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
    granularity_of,
)

__all__ = ["Group", "Plan", "build_plan", "same_qparams"]


@dataclass(frozen=True, slots=True)
class Group:
    """Points that share one observer.

    Attributes:
        points: The members, in the order in which the graph mentions them.
        spec: The spec that rules; never a shared one.
        root: The member that holds it.
    """

    points: tuple[EdgeOrNode, ...]
    spec: QuantizationSpecBase
    root: EdgeOrNode


@dataclass(frozen=True, slots=True)
class Plan:
    """All points of quantization of one graph.

    Attributes:
        groups: Every group, each after those that its spec derives from.
        group_of: Index into `groups`, by point.
    """

    groups: tuple[Group, ...]
    group_of: dict[EdgeOrNode, int]


def build_plan(model: GraphModule) -> Plan:
    """Read the annotations of a graph into a plan, in O(nodes + edges).

    Raises:
        InvalidAnnotationError: An annotation names an edge that does not exist, or a tensor that cannot carry its spec;
            or it has not the fields of one.
        InvalidSpecError: A spec of another library has values that no spec can have.
        UnsupportedError: A spec of another library has fields that the engine does not know.
        SharingError: A shared spec leads to no point, a group holds only shared specs, or derived specs form a cycle.
    """
    specs = dict(_read_points(model))
    sharing = _Sharing(specs)
    for point, spec in specs.items():
        if isinstance(spec, SharedQuantizationSpec):
            sharing.join_explicitly(point, spec.edge_or_node)
    roots = sharing.find_roots()
    _join_implicitly(model, sharing, roots)
    return _number_groups(sharing, roots)


def _read_points(model: GraphModule) -> Iterator[tuple[EdgeOrNode, QuantizationSpecBase]]:
    """Yield every annotated point with its spec: a node's operands in order, then its output."""
    overwriting = overwriting_users(model.graph)
    for node in model.graph.nodes:
        annotation = annotation_of(node)
        if annotation is None:
            continue
        operands = set(node.all_input_nodes)
        for producer, spec in annotation.input_qspec_map.items():
            if producer not in operands:
                name = describe(producer) if isinstance(producer, Node) else repr(producer)
                message = (
                    f"{describe(node)} is annotated for an operand {name}, which it does not have; "
                    f"its operands are {', '.join(operand.name for operand in node.all_input_nodes) or 'none'}"
                )
                raise InvalidAnnotationError(message)
            if spec is not None:
                _check_tensor(producer, spec, (producer, node))
                yield (producer, node), spec
        _check_memory(node, annotation, overwriting)
        if annotation.output_qspec is not None:
            if node.op == "output":
                message = "the graph's output node is annotated with an output spec; annotate its operands instead"
                raise InvalidAnnotationError(message)
            _check_tensor(node, annotation.output_qspec, node)
            yield node, annotation.output_qspec


def _check_memory(node: Node, annotation: QuantizationAnnotation, overwriting: Mapping[Node, set[Node]]) -> None:
    """Refuse specs on what changes a tensor in place that is read afterwards: it would write into a copy."""
    specs = (*annotation.input_qspec_map.values(), annotation.output_qspec)
    if all(spec is None for spec in specs):
        return
    for operand in node.all_input_nodes:
        if node in overwriting.get(operand, ()):
            message = (
                f"{describe(node)} is annotated, but {operand.name} is changed in place through it and read by others "
                "afterwards: what is quantized is a copy. Leave it without specs, or write the model without that"
            )
            raise InvalidAnnotationError(message)


def _check_tensor(node: Node, spec: QuantizationSpecBase, point: EdgeOrNode) -> None:
    """Refuse a spec on what is no float tensor, or has no such axis, by the example values that export left."""
    where = f"the spec on {describe_point(point)}"
    value = value_of(node)
    if value is None:
        return
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        message = (
            f"{where} quantizes a {kind}, made by {describe(node)}; only tensors can be quantized"
            f"{', so annotate the getitem nodes that take it apart' if isinstance(value, (tuple, list)) else ''}"
        )
        raise InvalidAnnotationError(message)
    if not value.is_floating_point():
        message = f"{where} quantizes a tensor of {value.dtype}, made by {describe(node)}; only float tensors can be"
        raise InvalidAnnotationError(message)
    if value.dtype not in FLOAT_DTYPES:
        accepted = ", ".join(str(dtype) for dtype in FLOAT_DTYPES)
        message = f"{where} quantizes a tensor of {value.dtype}, made by {describe(node)}; the ops take {accepted}"
        raise InvalidAnnotationError(message)
    granularity = granularity_of(spec)
    if not isinstance(granularity, PerTensor):
        sizes = [size if isinstance(size, int) else 0 for size in value.shape]  # 0 is a multiple of every block
        try:
            granularity.block_of(sizes)
        except InvalidSpecError as e:
            message = f"{where}: {e}; the tensor is made by {describe(node)}"
            raise InvalidAnnotationError(message) from e


def same_qparams(one: QuantizationSpecBase, other: QuantizationSpecBase) -> bool:
    """Whether two specs describe the same quantization, whatever observer each would choose qparams with."""
    if type(one) is not type(other) or granularity_of(one) != granularity_of(other):
        return False
    if isinstance(one, QuantizationSpec) and isinstance(other, QuantizationSpec):
        return dataclasses.replace(one, observer_or_fake_quant_ctr=None) == dataclasses.replace(
            other, observer_or_fake_quant_ctr=None
        )
    return one == other


class _Sharing:
    """Sets of points, merged by sharing: a disjoint-set forest."""

    def __init__(self, specs: dict[EdgeOrNode, QuantizationSpecBase]) -> None:
        self.specs = specs
        self._order = {point: index for index, point in enumerate(specs)}
        self._parent = {point: point for point in specs}

    def leader(self, point: EdgeOrNode) -> EdgeOrNode:
        """Return the first member of the point's set."""
        top = point
        while self._parent[top] != top:
            top = self._parent[top]
        while self._parent[point] != top:
            self._parent[point], point = top, self._parent[point]
        return top

    def join(self, one: EdgeOrNode, other: EdgeOrNode) -> None:
        """Merge two sets; the earlier leader leads."""
        first, second = sorted((self.leader(one), self.leader(other)), key=self._order.__getitem__)
        self._parent[second] = first

    def join_explicitly(self, point: EdgeOrNode, target: EdgeOrNode) -> None:
        """Follow one shared spec."""
        if target not in self.specs:
            message = (
                f"the shared spec on {describe_point(point)} refers to {describe_point(target)}, which has no spec; "
                f"annotate that point too (node of the reference: {describe(_node(point))})"
            )
            raise SharingError(message)
        self.join(point, target)

    def members(self) -> dict[EdgeOrNode, list[EdgeOrNode]]:
        """Return every set by its leader, members in order."""
        sets: dict[EdgeOrNode, list[EdgeOrNode]] = {}
        for point in self.specs:
            sets.setdefault(self.leader(point), []).append(point)
        return sets

    def find_roots(self) -> dict[EdgeOrNode, EdgeOrNode]:
        """Return, for every set's leader, the one member whose spec is not shared.

        A shared spec names one other point, so following the names ends at such a member, or runs in a circle. No
        set can hold two of them.
        """
        roots: dict[EdgeOrNode, EdgeOrNode] = {}
        for leader, points in self.members().items():
            own = [point for point in points if not isinstance(self.specs[point], SharedQuantizationSpec)]
            if not own:
                names = ", ".join(describe_point(point) for point in points)
                message = (
                    f"these points share their qparams only with each other: {names}; give one of them a spec of its "
                    f"own (the references run in a circle: {self._circle(points[0])}; first node: "
                    f"{describe(_node(points[0]))})"
                )
                raise SharingError(message)
            (roots[leader],) = own
        return roots

    def _circle(self, start: EdgeOrNode) -> str:
        """Name the points that following shared specs from `start` leads through again and again."""
        path: dict[EdgeOrNode, None] = {}
        point = start
        while point not in path:
            path[point] = None
            spec = self.specs[point]
            assert isinstance(spec, SharedQuantizationSpec)
            point = spec.edge_or_node
        circle = list(path)
        circle = [*circle[circle.index(point) :], point]
        return " - ".join(f"[{describe_point(each)}]" for each in circle)


def _node(point: EdgeOrNode) -> Node:
    return point[1] if isinstance(point, tuple) else point


def _join_implicitly(model: GraphModule, sharing: _Sharing, roots: dict[EdgeOrNode, EdgeOrNode]) -> None:
    """Let operands use the observer that their tensor has already, where the specs are equal.

    Candidates on one tensor are its own output and one set for each distinct spec on its edges, so the work is
    bounded by edges times distinct specs.
    """
    for node in model.graph.nodes:
        candidates: list[EdgeOrNode] = [node] if node in sharing.specs else []
        for user in sorted(node.users):  # in graph order, which passes may have changed since
            edge = (node, user)
            if edge not in sharing.specs:
                continue
            annotation: QuantizationAnnotation = user.meta[ANNOTATION_KEY]
            if not getattr(annotation, "allow_implicit_sharing", True):
                continue
            for candidate in candidates:
                here, there = sharing.leader(edge), sharing.leader(candidate)
                if here == there:
                    break
                if same_qparams(sharing.specs[roots[here]], sharing.specs[roots[there]]):
                    root = roots[there]  # the producer's own spec wins, else the first consumer's
                    sharing.join(edge, candidate)
                    roots[sharing.leader(edge)] = root
                    break
            else:
                candidates.append(edge)


def _number_groups(sharing: _Sharing, roots: dict[EdgeOrNode, EdgeOrNode]) -> Plan:
    """Put the groups in an order in which every derived spec comes after its sources."""
    members = sharing.members()
    done: dict[EdgeOrNode, int] = {}
    groups: list[Group] = []
    in_progress: list[EdgeOrNode] = []

    def number(leader: EdgeOrNode) -> None:
        if leader in done:
            return
        root = roots[leader]
        spec = sharing.specs[root]
        if leader in in_progress:
            cycle = " - ".join(f"[{describe_point(point)}]" for point in [*in_progress, leader])
            message = f"derived specs form a cycle: {cycle}; one of these points needs a spec of its own"
            raise SharingError(message)
        if isinstance(spec, DerivedQuantizationSpec):
            in_progress.append(leader)
            for source in spec.derived_from:
                if source not in sharing.specs:
                    message = (
                        f"the derived spec on {describe_point(root)} refers to {describe_point(source)}, "
                        "which has no spec; annotate that point too"
                    )
                    raise SharingError(message)
                number(sharing.leader(source))
            in_progress.pop()
        done[leader] = len(groups)
        groups.append(Group(tuple(members[leader]), spec, root))

    for leader in members:
        number(leader)
    return Plan(tuple(groups), {point: done[sharing.leader(point)] for point in sharing.specs})
