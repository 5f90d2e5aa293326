"""What a backend author implements, what else passes for it, and the quantizer that applies several in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.control_flow import graphs_of, nodes_of
from quantizer_sdk.errors import InvalidAnnotationError, NotAQuantizerError
from quantizer_sdk.provenance import describe
from quantizer_sdk.spec import ANNOTATION_KEY, EdgeOrNode

__all__ = ["ComposableQuantizer", "Quantizer", "QuantizerLike", "as_quantizer", "name_of"]


class Quantizer(ABC):
    """Says which tensors of an exported model are quantized, and how.

    A quantizer reads the graph and leaves a `QuantizationAnnotation` under
    `node.meta["quantization_annotation"]`; the engine does the rest. It is given a copy of the user's model.

    The branches and bodies of control flow are graphs of their own: the engine hands each of them to every method, the
    model first.

    Attributes:
        enters_control_flow: Whether `annotate` takes care of the graphs inside a model itself; it is then called once.
        takes_core_aten: Whether it looks for the ops that `run_decompositions` leaves, such as aten.convolution. Else
            they are written as those that torch.export gives, such as aten.conv2d, before it sees a model.
    """

    enters_control_flow: ClassVar[bool] = False
    takes_core_aten: bool = False

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


class QuantizerLike(Protocol):
    """Anything that annotates models as a `Quantizer` does, whatever its class: one written against torchao is.

    The other methods of `Quantizer` are called where it has them.
    """

    def annotate(self, model: GraphModule) -> GraphModule | None:
        """Annotate the nodes to quantize."""
        ...


class _ForeignQuantizer(Quantizer):
    """A quantizer of another library, which need not have every method."""

    takes_core_aten = True  # it is given what it would be given elsewhere

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = quantizer

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        return self._call("transform_for_annotation", model) or model

    def annotate(self, model: GraphModule) -> GraphModule:
        return self.quantizer.annotate(model) or model

    def validate(self, model: GraphModule) -> None:
        self._call("validate", model)

    def prepare_obs_or_fq_callback(
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, nn.Module]
    ) -> None:
        self._call("prepare_obs_or_fq_callback", model, edge_or_node_to_obs_or_fq)

    def _call(self, method: str, *arguments: Any) -> Any:
        found = getattr(self.quantizer, method, None)
        return None if found is None else found(*arguments)


def as_quantizer(quantizer: QuantizerLike) -> Quantizer:
    """Return a quantizer of this library as it is, and a wrapper around one of another.

    Raises:
        NotAQuantizerError: It is a class instead of an object, or has no `annotate`.
    """
    if isinstance(quantizer, Quantizer):
        return quantizer
    if isinstance(quantizer, type):
        message = (
            f"the quantizer is the class {quantizer.__name__}; pass an object of it, such as {quantizer.__name__}()"
        )
        raise NotAQuantizerError(message)
    if not callable(getattr(quantizer, "annotate", None)):
        message = (
            f"the quantizer is a {type(quantizer).__name__}, which has no method annotate(model); a quantizer has it, "
            "and may have transform_for_annotation(model), validate(model) and "
            "prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)"
        )
        raise NotAQuantizerError(message)
    return _ForeignQuantizer(quantizer)


def name_of(quantizer: Quantizer) -> str:
    """Return the name of the class that the user wrote or chose."""
    return type(quantizer.quantizer if isinstance(quantizer, _ForeignQuantizer) else quantizer).__name__


class ComposableQuantizer(Quantizer):
    """Applies several quantizers in turn; each annotates what those before it left.

    Args:
        quantizers: In order of priority; those of other libraries too.

    Raises:
        NotAQuantizerError: One of them is no quantizer.
        InvalidAnnotationError: From `annotate`, where a quantizer changed what an earlier one had annotated.
    """

    enters_control_flow = True

    def __init__(self, quantizers: Sequence[QuantizerLike]) -> None:
        self.quantizers = tuple(as_quantizer(quantizer) for quantizer in quantizers)
        self.takes_core_aten = all(quantizer.takes_core_aten for quantizer in self.quantizers)

    @property
    def is_qat(self) -> bool:
        """Whether any of them is configured for training, as far as they tell."""
        return any(getattr(quantizer, "is_qat", False) for quantizer in self.quantizers)

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
                        f"{name_of(quantizer)} replaced the annotation that an earlier quantizer had left on "
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
