"""Where the noise comes from: the signal to noise ratio at every quantized activation of a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.demo.metrics import power, to_db
from quantizer_sdk.demo.result import Layer
from quantizer_sdk.provenance import module_path, op_name
from quantizer_sdk.qdq import is_dequantize, is_quantize
from quantizer_sdk.watched_run import WatchedRun

__all__ = ["layer_sqnr"]

_BATCH_NORM = frozenset(
    {
        torch.ops.aten.batch_norm.default,
        torch.ops.aten._native_batch_norm_legit_no_training.default,
    }
)


@torch.no_grad()
def layer_sqnr(reference: GraphModule, converted: GraphModule, batches: Iterable[torch.Tensor]) -> tuple[Layer, ...]:
    """Compare every quantized activation of a converted model with the float model's own value there.

    The noise is what has built up on the way from the input to that point. Points are matched by node name; a
    convolution whose batch norm was folded into it corresponds to the batch norm. What only one graph has is left out.
    Memory is bounded by one batch's activations, so pass small batches.

    Args:
        reference: The float exported module.
        converted: The same model after convert, in which compute nodes keep their names.
        batches: The model's single input, some images at a time.

    Returns:
        One layer for each point, in the graph's order.
    """
    points = _points(reference, converted)
    signal = dict.fromkeys(points, 0.0)
    noise = dict.fromkeys(points, 0.0)
    wanted = {twin for _, twin in points.values()}
    names = {dequantized: name for name, (dequantized, _) in points.items()}
    floats: dict[Node, torch.Tensor] = {}

    def compare(node: Node, value: torch.Tensor) -> None:
        noise[names[node]] += power(floats[points[names[node]][1]] - value)

    for batch in batches:
        floats.clear()
        WatchedRun(reference, wanted, floats.__setitem__).run(batch)
        for name, (_, twin) in points.items():
            signal[name] += power(floats[twin])
        WatchedRun(converted, names, compare).run(batch)
    return tuple(
        Layer(node=name, op=op_name(twin), module=module_path(twin), sqnr=to_db(signal[name], noise[name]))
        for name, (_, twin) in points.items()
    )


def _points(reference: GraphModule, converted: GraphModule) -> dict[str, tuple[Node, Node]]:
    """Return by producer: the dequantized value in the converted graph, and the node of that value in the float one."""
    floats = {node.name: node for node in reference.graph.nodes}
    kept = {node.name for node in converted.graph.nodes}
    points: dict[str, tuple[Node, Node]] = {}
    for node in converted.graph.nodes:
        if not is_quantize(node):
            continue
        producer = node.args[0]
        dequantized = next((user for user in node.users if is_dequantize(user)), None)
        if dequantized is None or producer.op not in {"call_function", "placeholder"} or producer.name in points:
            continue
        twin = floats.get(producer.name)
        if twin is not None:
            points[producer.name] = (dequantized, _through_batch_norm(twin, kept))
    return points


def _through_batch_norm(node: Node, kept: set[str]) -> Node:
    """Follow a node to its batch norm if the converted graph no longer has that one."""
    users = list(node.users)
    folded = len(users) == 1 and users[0].target in _BATCH_NORM and users[0].name not in kept
    return users[0] if folded else node
