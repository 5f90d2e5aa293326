"""torchao's own X86InductorQuantizer, unmodified on our engine, with its default recipe."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from peers.peer import Peer
from quantizer_sdk import Backend, Quantizer, find_backend
from quantizer_sdk.decision import Decision, decision_of, record

__all__ = ["PEER", "X86_INDUCTOR"]

_KEY = "quantization_annotation"
_PART = find_backend("x86").part_of("u8.pc@inductor")

aten = torch.ops.aten
_LAYERS: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        aten.conv1d.default: nn.Conv1d,
        aten.conv2d.default: nn.Conv2d,
        aten.linear.default: nn.Linear,
        aten.relu.default: nn.ReLU,
        aten.relu_.default: nn.ReLU,
        aten.relu6.default: nn.ReLU6,
        aten.relu6_.default: nn.ReLU6,
        aten.hardtanh.default: nn.Hardtanh,
        aten.hardtanh_.default: nn.Hardtanh,
        aten.hardswish.default: nn.Hardswish,
        aten.silu.default: nn.SiLU,
        aten.leaky_relu.default: nn.LeakyReLU,
        aten.tanh.default: nn.Tanh,
        aten.gelu.default: nn.GELU,
        aten.add.Tensor: operator.add,
        aten.add_.Tensor: operator.iadd,
    }
)
"""What a call comes from in a model of layers, of all that the peer looks for.

A convolution with padding="same" is left out: the peer raises at it, whatever else the graph holds.
"""


class X86InductorQuantizer(Quantizer):
    """The peer's quantizer, and quantizes where the model ends or goes on in float: the suite looks at codes.

    The peer quantizes what an op reads. Whatever else reads its results, reads them as a further such op would.
    """

    def __init__(self, inner: Any, activation: Any) -> None:
        self._inner, self._activation = inner, activation

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Transform as the peer does."""
        result: GraphModule = self._inner.transform_for_annotation(model)
        return result

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate as the peer does; say what is fused, and quantize the results that nothing else quantizes."""
        for node in model.graph.nodes:
            _name_layer(node)
        result: GraphModule = self._inner.annotate(model)
        for node in reversed(result.graph.nodes):
            annotation = node.meta.get(_KEY)
            if annotation is None:
                continue
            if not annotation._is_output_of_quantized_pattern:
                _say_fused(node)
            elif annotation.output_qspec is None and not all(_quantizes(user, node) for user in node.users):
                annotation.output_qspec = self._activation
        return result

    def validate(self, model: GraphModule) -> None:
        """Validate as the peer does."""
        self._inner.validate(model)


def _quantizes(user: Node, node: Node) -> bool:
    """Whether one op quantizes what it reads of another."""
    return _KEY in user.meta and node in user.meta[_KEY].input_qspec_map


def _say_fused(node: Node) -> None:
    """Note into which op an op within a pattern is fused: the one annotated op that reads it as it is."""
    readers = [user for user in node.users if _KEY in user.meta and not _quantizes(user, node)]
    if len(readers) == 1:
        (reader,) = readers
        record(node, Decision(fused_into=decision_of(reader).fused_into or reader.name))


def _name_layer(node: Node) -> None:
    """Note which layer a call comes from, as `torch.export` does of a model's layers in strict mode.

    The peer finds convolutions, linears and activations by this note alone; the suite's programs call the ops.
    """
    layer = _LAYERS.get(node.target) if node.op == "call_function" else None
    modules = [str(entry[1]) for entry in node.meta.get("nn_module_stack", {}).values()]
    if layer is not None and not (modules and modules[-1].startswith("torch.nn.")):
        node.meta["source_fn_stack"] = [(node.name, layer)]


def _quantizer() -> Quantizer:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as peer

    config = peer.get_default_x86_inductor_quantization_config()
    return X86InductorQuantizer(peer.X86InductorQuantizer().set_global(config), config.input_activation)


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
        "our lowering, which takes the compiler's traps out. It finds convolutions, linears and activations by the",
        "layer that a call comes from, so each call is said to come from one. Results are quantized where the model",
        "ends or goes on in float. No module is called twice, and no convolution has `padding='same'`: at either it",
        "[raises ValueError](../../benchmarks/peers/shown/x86_raises.py), whatever else the model holds.",
    ),
    packages=("torch", "torchao"),
    shown=MappingProxyType(
        {
            "c1-mul-*": "x86_mul_of_other_shapes.py",
            "c4-*": "x86_fused_although_read_twice.py",
            "d2-random-graphs-*": "x86_mul_of_other_shapes.py",
            "e2-cat-*": "x86_concat.py",
            "r2-*": "x86_small_weights.py",
        }
    ),
)
