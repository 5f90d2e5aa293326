"""What a backend author implements, and the quantizer that applies several in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.control_flow import graphs_of, nodes_of
from quantizer_sdk.errors import InvalidAnnotationError
from quantizer_sdk.provenance import describe
from quantizer_sdk.spec import ANNOTATION_KEY, EdgeOrNode

__all__ = ["ComposableQuantizer", "Quantizer"]


class Quantizer(ABC):
    """Says which tensors of an exported model are quantized, and how.

    A quantizer reads the graph and leaves a `QuantizationAnnotation` under
    `node.meta["quantization_annotation"]`; the engine does the rest. It is given a copy of the user's model.

    The branches and bodies of control flow are graphs of their own: the engine hands each of them to every method, the
    model first.

    Attributes:
        enters_control_flow: Whether `annotate` takes care of the graphs inside a model itself; it is then called once.
    """

    enters_control_flow: ClassVar[bool] = False

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Rewrite what could not be quantized as it is, before `annotate`; by default nothing.

        Changing the graph is enough: the engine recompiles the model.
        """
        return model

    @abstractmethod
    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate the nodes to quantize and return the model."""

    def validate(self, model: GraphModule) -> None:  # noqa: B027  # optional
        """Raise a `QuantizerError` if the annotated graph is none that the backend can run; by default accept it."""

    def prepare_obs_or_fq_callback(  # noqa: B027  # optional, as in PT2E
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, nn.Module]
    ) -> None:
        """Adjust the observers made for the annotated points before they are inserted.

        Entries may be replaced; points that share qparams are entries with the same observer.
        """


class ComposableQuantizer(Quantizer):
    """Applies several quantizers in turn; each annotates what those before it left.

    Args:
        quantizers: In order of priority.

    Raises:
        InvalidAnnotationError: From `annotate`, where a quantizer changed what an earlier one had annotated.
    """

    enters_control_flow = True

    def __init__(self, quantizers: Sequence[Quantizer]) -> None:
        self.quantizers = tuple(quantizers)

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Apply every quantizer's rewrites."""
        for quantizer in self.quantizers:
            model = quantizer.transform_for_annotation(model)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Let every quantizer annotate, and hold each to what was annotated before it."""
        kept: dict[Any, Any] = {}
        for quantizer in self.quantizers:
            for _path, graph in [("", model)] if quantizer.enters_control_flow else graphs_of(model):
                quantizer.annotate(graph)
            for node in nodes_of(model):
                annotation = node.meta.get(ANNOTATION_KEY)
                if node in kept and annotation is not kept[node]:
                    message = (
                        f"{type(quantizer).__name__} replaced the annotation that an earlier quantizer had left on "
                        f"{describe(node)}; skip nodes that already have one"
                    )
                    raise InvalidAnnotationError(message)
                if annotation is not None:
                    kept[node] = annotation
        return model

    def validate(self, model: GraphModule) -> None:
        """Let every quantizer validate."""
        for quantizer in self.quantizers:
            quantizer.validate(model)

    def prepare_obs_or_fq_callback(
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, nn.Module]
    ) -> None:
        """Let every quantizer adjust the observers."""
        for quantizer in self.quantizers:
            quantizer.prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)
