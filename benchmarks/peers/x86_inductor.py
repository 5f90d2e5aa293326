"""torchao's own X86InductorQuantizer, unmodified on our engine, with its default recipe."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from peers.peer import Peer
from quantizer_sdk import Backend, QuantizationAnnotation, Quantizer, find_backend

__all__ = ["PEER", "X86_INDUCTOR"]

_KEY = "quantization_annotation"
_PART = find_backend("x86").part_of("u8.pc@inductor")


class _WithCodesOut(Quantizer):
    """The peer's quantizer, and quantizes where the model ends: the suite looks at results as codes.

    The peer quantizes what an op reads. A model's end reads its results, as a further op would.
    """

    def __init__(self, inner: Any, activation: Any) -> None:
        self._inner, self._activation = inner, activation

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Transform as the peer does."""
        result: GraphModule = self._inner.transform_for_annotation(model)
        return result

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate as the peer does, and then the results."""
        result: GraphModule = self._inner.annotate(model)
        (output,) = result.graph.find_nodes(op="output")
        computed = [node for node in output.all_input_nodes if _KEY in node.meta]
        output.meta[_KEY] = QuantizationAnnotation(
            input_qspec_map=dict.fromkeys(computed, self._activation), _annotated=True
        )
        return result

    def validate(self, model: GraphModule) -> None:
        """Validate as the peer does."""
        self._inner.validate(model)


def _quantizer() -> Quantizer:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as peer

    config = peer.get_default_x86_inductor_quantization_config()
    return _WithCodesOut(peer.X86InductorQuantizer().set_global(config), config.input_activation)


PEER = Backend(
    name="torchao-x86-inductor-quantizer",
    quantizer=_quantizer,
    runner=_PART.runner,
    profile=_PART.profile,
    configurations={"u8.pc": _quantizer},
)

X86_INDUCTOR = Peer(
    backend=PEER,
    where="peers.x86_inductor:PEER",
    page="peers-x86",
    title="torchao's quantizer for x86, judged",
    introduction=(
        "torchao's own `X86InductorQuantizer` runs unmodified on our engine, its graphs on inductor's kernels through",
        "our lowering, which takes the compiler's traps out. Results are quantized where the model ends.",
    ),
    packages=("torch", "torchao"),
)
