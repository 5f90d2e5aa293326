"""What ONNX Runtime's integer kernels cannot take, each as a check that returns None or the reason."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk import Check, Match, Operand, QuantizationSpec, Refusal, Role
from quantizer_sdk.observers import PerToken
from quantizer_sdk.spec import granularity_of

__all__ = [
    "adds_one_of_its_shape",
    "averages_image",
    "batched",
    "between_codes",
    "codes_fit",
    "looks_up",
    "matrices",
    "one_open_size",
    "only",
    "pads_image_with_zeros",
    "pads_with_zeros",
    "slices_statically",
    "slides_over_two_axes",
    "static",
    "two_tensors",
]

aten = torch.ops.aten
_ON_CODES = frozenset(
    {
        *(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding),
        *(aten.conv3d.default, aten.conv3d.padding, aten.linear.default, aten.batch_norm.default),
        *(aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim),
        *(aten.cat.default, aten.concat.default, aten.concatenate.default, aten.slice.Tensor),
        *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default),
        *(aten.transpose.int, aten.contiguous.default, aten.clone.default, aten.dropout.default),
        *(aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor),
        *(aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default),
        *(aten.relu6.default, aten.relu6_.default, aten.hardswish.default, aten.hardswish_.default),
        *(aten.silu.default, aten.silu_.default, aten.sigmoid.default, aten.sigmoid_.default),
    }
)
"""What has codes on one side of it, by itself or in the kernel of its neighbour."""
_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def only(step: int = 0, **accepted: Any) -> Check:
    """Make a check that accepts one value of each of these arguments of a step, where its op has them."""

    def check(match: Match) -> str | None:
        for name, value in accepted.items():
            try:
                found = match.argument(name, step)
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
        if isinstance(spec, QuantizationSpec) and spec.dtype is not dtype and not _of_each_row(spec):
            return f"{role.value} is {spec.dtype}; this backend's kernels take {dtype}"
    weight = match.config.weight
    if isinstance(weight, QuantizationSpec) and weight.qscheme not in _SYMMETRIC:
        return f"the weight's qscheme is {weight.qscheme}; this backend's kernels take symmetric weights"
    if isinstance(weight, QuantizationSpec) and weight.ch_axis not in {None, 0}:
        return f"the weight's ch_axis is {weight.ch_axis}; in a config it is 0, which each op turns into its own axis"
    if not match.row.share and all(_unquantized(match, operand) for _node, _name, operand, _value in match.operands()):
        return "its config has no spec for anything that it reads"
    return None


def _of_each_row(spec: QuantizationSpec) -> bool:
    """Whether each run makes qparams for each row: those come as int8, and become uint8 on the way to the kernel."""
    return spec.is_dynamic and granularity_of(spec) == PerToken()


def _unquantized(match: Match, operand: Operand) -> bool:
    return operand.role is Role.BIAS or operand.spec(match.config) is None


def static(match: Match) -> str | None:
    """Behind a product with qparams of each run, functions and sums are ops of their own."""
    spec = match.config.input_activation
    if spec is None or getattr(spec, "is_dynamic", False):
        return "activations without calibrated qparams; the kernel gives what it multiplied, and no more"
    return None


def adds_one_of_its_shape(match: Match) -> str | None:
    """The tensor that the kernel adds is another one, of the result's shape."""
    gemm, added = match.nodes[0], match.nodes[1]
    others = [value for value in added.args[:2] if value is not gemm]
    shapes = [_shape(value) for value in others]
    if shapes != [_shape(gemm)]:
        return f"it adds {others} of shape {shapes}; the kernel adds another tensor of shape {_shape(gemm)}"
    return None


def between_codes(match: Match) -> str | None:
    """Elementwise ops save time where codes come in and go out; between float ops conversions cost more."""
    for _node, name, _operand, value in match.operands():
        if isinstance(value, Node) and value.op == "call_function" and value.target not in _ON_CODES:
            words = f"operand {name!r} ({value.name}) is computed in float, so that codes of it would save nothing"
            return Refusal(words, advice=f"nothing, unless {value.name} is quantized")
    readers = [user for user in match.output.users if user.op == "call_function"]
    if readers and not any(user.target in _ON_CODES for user in readers):
        words = f"its result is read by {readers[0].name}, which computes in float, so that codes would save nothing"
        return Refusal(words, advice=f"nothing, unless {readers[0].name} is quantized")
    return None


def looks_up(match: Match) -> str | None:
    """Rows are gathered as codes, with a scale each or one for all."""
    if match.argument("scale_grad_by_freq") or match.argument("sparse"):
        return "an embedding that trains sparsely"
    return None


def batched(match: Match) -> str | None:
    """ONNX convolutions and pools have a batch axis."""
    operand = _rank(match.nodes[0].args[0])
    weights = [_rank(value) for _node, _name, kind, value in match.operands() if kind.role is Role.WEIGHT]
    wanted = weights[0] if weights else 4
    return None if operand in (None, wanted) else f"an input of rank {operand}; the kernel takes rank {wanted}"


def slides_over_two_axes(match: Match) -> str | None:
    """Inductor's compiler fuses convolutions of signals and images."""
    rank = len(_shape(match.argument("weight")))
    return None if rank < 5 else f"a weight of rank {rank}; inductor fuses convolutions over one or two axes"


def pads_with_zeros(match: Match) -> str | None:
    """Padding with zeros is padding codes with the zero point."""
    try:
        mode = match.argument("mode")
    except KeyError:
        mode = "constant"
    value = match.argument("value")
    if mode != "constant" or value not in (None, 0):
        return f"mode={mode!r} and value={value}; the kernel pads with zeros"
    return None


def pads_image_with_zeros(match: Match) -> str | None:
    """The runtime pads with zeros as part of the convolution, along the axes that it slides over."""
    if (reason := pads_with_zeros(match)) is not None:
        return reason
    amounts, rank = match.argument("pad"), _rank(match.nodes[0].args[0])
    if any(amount < 0 for amount in amounts) or (rank is not None and len(amounts) > 2 * (rank - 2)):
        return f"pad={list(amounts)} crops, or pads more than the image"
    return None


def matrices(match: Match) -> str | None:
    """Matrix products of vectors have no integer kernel."""
    ranks = [_rank(operand) for operand in match.nodes[0].args]
    low = any(rank is not None and rank < 2 for rank in ranks)
    return f"operands of ranks {ranks}; the kernel takes at least 2 each" if low else None


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


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
