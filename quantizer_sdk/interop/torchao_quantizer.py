"""The object of torchao's `Quantizer` class that annotates as a quantizer of this library does."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import quantizer as torchao

from quantizer_sdk.constants import Constants
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.errors import NothingAnnotatedError, QuantizerError, UnsupportedError
from quantizer_sdk.fake_quantize.create import create_fake_quantize
from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.interop.hidden_calls import HiddenCalls
from quantizer_sdk.interop.torchao_observers import unwrapped, wrapped
from quantizer_sdk.interop.torchao_specs import Create, annotate_for_torchao
from quantizer_sdk.observers.create import create_observer
from quantizer_sdk.passes.compose_ops import compose_ops
from quantizer_sdk.passes.fold_batch_norm import fold_batch_norm
from quantizer_sdk.passes.inline_regions import inline_regions
from quantizer_sdk.passes.move_constants import sink_constants
from quantizer_sdk.passes.remove_identities import remove_identities
from quantizer_sdk.plan import Plan, build_plan
from quantizer_sdk.provenance import describe, describe_point
from quantizer_sdk.quantizer import Quantizer, QuantizerLike, name_of
from quantizer_sdk.report import freeze_report
from quantizer_sdk.spec import ANNOTATION_KEY, DerivedQuantizationSpec, EdgeOrNode

__all__ = ["of_torchao"]


def of_torchao(given: QuantizerLike, quantizer: Quantizer, is_qat: bool) -> torchao.Quantizer:
    """Return a quantizer of torchao's class.

    Args:
        given: What the user has; of torchao's class, it is returned.
        quantizer: The same as this library's class.
        is_qat: Whether it is for training.
    """
    return given if isinstance(given, torchao.Quantizer) else OnTorchao(quantizer, is_qat)


class OnTorchao(torchao.Quantizer):  # type: ignore[misc]  # torchao has no types
    """Does around the calls of a quantizer what this library's engine does, and hands torchao the result."""

    def __init__(self, quantizer: Quantizer, is_qat: bool) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.is_qat = is_qat

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Tidy the graph as this library does before it is annotated, and let the quantizer rewrite it.

        torchao has folded batch norms by now, unless it prepares for training.
        """
        inline_regions(model)
        sink_constants(model)
        if not self.quantizer.takes_core_aten:
            compose_ops(model)
        remove_identities(model, dropouts=not self.is_qat)
        if self.is_qat:
            hidden = HiddenCalls(model)
            result = self.quantizer.transform_for_annotation(model) or model
            hidden.show()
        else:
            fold_batch_norm(model)
            result = self.quantizer.transform_for_annotation(model) or model
        result.recompile()
        return result

    def annotate(self, model: GraphModule) -> GraphModule:
        """Let the quantizer annotate and validate, and write what it says in torchao's classes."""
        kept = {node for node in model.graph.nodes if ANNOTATION_KEY in node.meta}
        unknown = {node: node.meta[ANNOTATION_KEY] for node in kept if not _is_known(node)}
        hidden = HiddenCalls(model) if self.is_qat else None
        self.quantizer.annotate(model)
        for path, graph in graphs_of(model):
            if path:
                self._refuse_annotated(graph)
        for node in unknown:
            del node.meta[ANNOTATION_KEY]
        self.quantizer.validate(model)
        plan = build_plan(model)
        freeze_report(model)
        for node, annotation in unknown.items():
            node.meta[ANNOTATION_KEY] = annotation
        place_of: dict[EdgeOrNode, EdgeOrNode] = {}
        if hidden is not None:
            _refuse_derived(plan, hidden.layers)
            place_of = _places(plan, hidden.show())
            place_of |= _read_derived_late(model, plan)
        annotate_for_torchao(model, plan, place_of, self._create, kept)
        return model

    def validate(self, model: GraphModule) -> None:
        """Do nothing: `annotate` has validated, while the annotations were the quantizer's own."""

    def prepare_obs_or_fq_callback(
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, nn.Module]
    ) -> None:
        """Let the quantizer adjust the observers."""
        if not edge_or_node_to_obs_or_fq:
            message = f"{name_of(self.quantizer)} annotated none of the model's ops, so nothing would be quantized"
            raise NothingAnnotatedError(message)
        inner = {point: unwrapped(module) for point, module in edge_or_node_to_obs_or_fq.items()}
        before = dict(inner)
        self.quantizer.prepare_obs_or_fq_callback(model, inner)
        changed = {module: wrapped(module) for point, module in inner.items() if before.get(point) is not module}
        edge_or_node_to_obs_or_fq.update(
            {point: changed[module] for point, module in inner.items() if module in changed}
        )

    @property
    def _create(self) -> Create:
        if self.is_qat:
            return create_fake_quantize
        return lambda spec, location, sources, _shape: create_observer(spec, location, sources)

    def _refuse_annotated(self, graph: GraphModule) -> None:
        """Refuse annotations inside control flow, which torchao's engine does not enter, or enters by itself.

        Raises:
            UnsupportedError: There is one.
        """
        for node in graph.graph.nodes:
            if ANNOTATION_KEY in node.meta:
                message = (
                    f"{name_of(self.quantizer)} annotated {describe(node)}, inside control flow, where torchao's "
                    "engine would pass over it; prepare this model with quantizer_sdk.prepare_pt2e"
                )
                raise UnsupportedError(message)


def _is_known(node: Node) -> bool:
    """Whether what another quantizer left on a node means something here; torchao's engine may know more."""
    try:
        annotation_of(node)
    except QuantizerError:
        return False
    return True


def _refuse_derived(plan: Plan, layers: set[Node]) -> None:
    """Refuse to derive the qparams of a bias that folding makes only at conversion.

    Raises:
        UnsupportedError: A layer before a batch norm has such a bias.
    """
    for group in plan.groups:
        point = group.root
        if isinstance(group.spec, DerivedQuantizationSpec) and isinstance(point, tuple) and point[1] in layers:
            message = (
                f"{describe_point(point)}: {describe(point[1])} has a batch norm behind it and a bias with derived "
                "qparams; torchao's engine folds the norm after training, when the bias has been rounded. Leave the "
                "bias float, by dataclasses.replace(config, bias=None), or prepare with quantizer_sdk.prepare_qat_pt2e"
            )
            raise UnsupportedError(message)


def _places(plan: Plan, followers: dict[Node, tuple[Node, ...]]) -> dict[EdgeOrNode, EdgeOrNode]:
    """Return where the points lie now that calls stand behind some nodes again.

    What a layer and its norm make is the norm's result. Rounding comes before a dropout, as in training here.
    """
    groups_read: dict[Node, set[int]] = {}
    for point, index in plan.group_of.items():
        if isinstance(point, tuple):
            groups_read.setdefault(point[0], set()).add(index)
    place_of: dict[EdgeOrNode, EdgeOrNode] = {}
    for point in plan.group_of:
        node = point[0] if isinstance(point, tuple) else point
        if node not in followers:
            continue
        behind = followers[node]
        norms = 1 if "batch_norm" in str(behind[0].target) else 0
        rounded, dropouts = (behind[0] if norms else node), behind[norms:]
        if not isinstance(point, tuple):
            place_of[point] = rounded
        elif dropouts and len(groups_read[node]) == 1:
            place_of[point] = (rounded, dropouts[0])
        else:
            place_of[point] = (behind[-1], point[1])
    return place_of


def _read_derived_late(model: GraphModule, plan: Plan) -> dict[EdgeOrNode, EdgeOrNode]:
    """Let readers of constants with derived qparams read them by nodes of their own, right before them.

    In training their sources must have run, and torchao's engine puts an observer right behind what it watches.

    Returns:
        Where these points lie now.
    """
    constants = Constants(model)
    place_of: dict[EdgeOrNode, EdgeOrNode] = {}
    for group in plan.groups:
        for point in group.points if isinstance(group.spec, DerivedQuantizationSpec) else ():
            if isinstance(point, tuple) and point[0].op == "get_attr":
                with model.graph.inserting_before(point[1]):
                    own = constants.again(str(point[0].target), like=point[0])
                point[1].replace_input_with(point[0], own)
                constants.release(point[0])
                place_of[point] = own, point[1]
    return place_of
