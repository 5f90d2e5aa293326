"""What ONNX Runtime's integer kernels cannot take, each as a check that returns None or the reason."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk import Check, Match, QuantizationSpec, Role

__all__ = [
    "averages_image",
    "batched",
    "bias_is_vector",
    "codes_fit",
    "matrices",
    "one_open_size",
    "only",
    "pads_image_with_zeros",
    "slices_statically",
    "two_tensors",
    "weight_is_matrix",
]

_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def only(**accepted: Any) -> Check:
    """Make a check that accepts one value of each of these arguments, where the op has them."""

    def check(match: Match) -> str | None:
        for name, value in accepted.items():
            try:
                found = match.argument(name)
            except KeyError:
                continue
            if found != value:
                return f"{name}={found}; the integer kernel takes {name}={value}"
        return None

    return check


def codes_fit(match: Match) -> str | None:
    """Activations uint8, weights int8 and symmetric: what x86 kernels take without a conversion in between."""
    for role, dtype in ((Role.ACT, torch.uint8), (Role.OUT, torch.uint8), (Role.WEIGHT, torch.int8)):
        spec = match.config.spec_of(role)
        if isinstance(spec, QuantizationSpec) and spec.dtype is not dtype:
            return f"{role.value} is {spec.dtype}; this backend's kernels take {dtype}"
    weight = match.config.weight
    if isinstance(weight, QuantizationSpec) and weight.qscheme not in _SYMMETRIC:
        return f"the weight's qscheme is {weight.qscheme}; this backend's kernels take symmetric weights"
    return None


def batched(match: Match) -> str | None:
    """ONNX convolutions and pools have a batch axis."""
    operand = _rank(match.nodes[0].args[0])
    weights = [_rank(value) for _node, _name, kind, value in match.operands() if kind.role is Role.WEIGHT]
    wanted = weights[0] if weights else 4
    return None if operand in (None, wanted) else f"an input of rank {operand}; the kernel takes rank {wanted}"


def pads_image_with_zeros(match: Match) -> str | None:
    """The runtime pads with zeros as part of the convolution, along the axes that it slides over."""
    try:
        mode = match.argument("mode")
    except KeyError:
        mode = "constant"
    amounts, value = match.argument("pad"), match.argument("value")
    rank = _rank(match.nodes[0].args[0])
    if mode != "constant" or value not in (None, 0):
        return f"mode={mode!r} and value={value}; the kernel pads with zeros"
    if any(amount < 0 for amount in amounts) or (rank is not None and len(amounts) > 2 * (rank - 2)):
        return f"pad={list(amounts)} crops, or pads more than the image"
    return None


def bias_is_vector(match: Match) -> str | None:
    """The bias of addmm has one element an output feature."""
    rank = _rank(match.argument("self"))
    return None if rank in (None, 1) else f"a bias of rank {rank}; the kernel takes one element an output feature"


def matrices(match: Match) -> str | None:
    """Matrix products of vectors have no integer kernel."""
    ranks = [_rank(operand) for operand in match.nodes[0].args]
    low = any(rank is not None and rank < 2 for rank in ranks)
    return f"operands of ranks {ranks}; the kernel takes at least 2 each" if low else None


def weight_is_matrix(match: Match) -> str | None:
    """A matrix product has a scale for each column of one matrix, not of a batch of them."""
    rank = _rank(match.nodes[0].args[1])
    return None if rank in (None, 2) else f"a weight of rank {rank}; the kernel takes a scale for each column of one"


def averages_image(match: Match) -> str | None:
    """The kernel averages whole images."""
    rank, dims = _rank(match.nodes[0].args[0]), match.argument("dim")
    if rank != 4 or dims is None or sorted(dim % 4 for dim in dims) != [2, 3]:
        return f"dim={dims} of a rank {rank} tensor; the kernel averages axes 2 and 3 of rank 4"
    return None


def two_tensors(match: Match) -> str | None:
    """The runtime drops a concatenation of one."""
    tensors = match.argument("tensors")
    return None if len(tensors) >= 2 else f"{len(tensors)} tensor"


def slices_statically(match: Match) -> str | None:
    """The ends of a slice are numbers."""
    for name in ("start", "end"):
        if isinstance(match.argument(name), Node):
            return f"{name} is computed at run time"
    return None


def one_open_size(match: Match) -> str | None:
    """A reshape leaves at most one size to the runtime."""
    value = match.output.meta.get("val")
    sizes = list(value.shape) if isinstance(value, torch.Tensor) else []
    dynamic = sum(not isinstance(size, int) for size in sizes)
    return f"a result of shape {sizes}, of which {dynamic} sizes are dynamic" if dynamic > 1 else None


def _rank(node: Any) -> int | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else None
