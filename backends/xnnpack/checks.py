"""What XNNPACK's integer kernels cannot take, each as a check that returns None or the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk import Match, ProductBiasSpec, QuantizationSpec, Refusal, Role
from quantizer_sdk.observers import PerAxis, PerGroup, PerTensor
from quantizer_sdk.spec import granularity_of

__all__ = [
    "averages_last_two",
    "function_itself",
    "joins_at_most_five",
    "keeps_codes_int8",
    "one_axis_permuted",
    "pads_space",
    "pads_with_zeros",
    "pool_is_global",
    "quantizes_each_pixel",
    "samples_of_channels",
    "scale_one",
    "slices_by_one",
    "stride_within_kernel",
    "transposed_ungrouped",
    "two_real_operands",
]


def keeps_codes_int8(match: Match) -> str | None:
    """Activations int8, weights int8 and symmetric: all else is refused at load, or worse, silently misread."""
    return "; ".join(_wrong_codes(match)) or None


def _wrong_codes(match: Match) -> Iterator[str]:
    for role in (Role.ACT, Role.OUT, Role.WEIGHT):
        dtype = getattr(match.config.spec_of(role), "dtype", torch.int8)
        if dtype is not torch.int8:
            yield f"{role.value} is {dtype}; XNNPACK's kernels take torch.int8"
    if missing := _missing_specs(match):
        yield f"no spec for {' and '.join(missing)}; the kernel has all its tensors quantized"
    weight, bias = match.config.weight, match.config.bias
    symmetric = (torch.per_tensor_symmetric, torch.per_channel_symmetric)
    if isinstance(weight, QuantizationSpec) and weight.qscheme not in symmetric:
        yield f"the weight's qscheme is {weight.qscheme}; XNNPACK drops the zero point of an affine weight"
    if isinstance(weight, QuantizationSpec) and weight.ch_axis not in {None, 0}:
        yield f"the weight's ch_axis is {weight.ch_axis}; in a config it is 0, which each op turns into its own axis"
    if bias is not None and not (isinstance(bias, ProductBiasSpec) and bias.keep_float):
        yield "the bias is stored as integers; XNNPACK quantizes a float one itself: ProductBiasSpec(keep_float=True)"
    for _node, _name, operand, value in match.operands():
        spec = operand.spec(match.config)
        if operand.role is not Role.WEIGHT or not isinstance(spec, QuantizationSpec):
            continue
        if (reason := _weight_kernel(match, spec, _shape(value))) is not None:
            yield reason


def _missing_specs(match: Match) -> list[str]:
    """A kernel that finds one of its tensors float computes in float, or fails to be built."""
    if match.row.share:
        return []
    result = () if _is_dynamic(match) else (Role.OUT,)
    roles = dict.fromkeys((*(operand.role for _node, _name, operand, _value in match.operands()), *result))
    return [role.value for role in roles if role is not Role.BIAS and match.config.spec_of(role) is None]


def _weight_kernel(match: Match, spec: QuantizationSpec, shape: tuple[int, ...]) -> str | None:
    """Weights have a scale for the tensor or each channel; linear layers also take 4 bits, by groups too."""
    granularity, dynamic = granularity_of(spec), _is_dynamic(match)
    group = granularity.group_size if isinstance(granularity, PerGroup) else 0
    if not isinstance(granularity, (PerTensor, PerAxis, PerGroup)):
        return f"the weight has {granularity}; kernels take PerTensor(), PerAxis() and PerGroup()"
    four_bits = (spec.quant_min, spec.quant_max) == (-8, 7)
    if four_bits and match.nodes[0].target is not torch.ops.aten.linear.default:
        return "weights of 4 bits, -8..7; of these kernels only that of linear takes them"
    if isinstance(granularity, PerTensor):
        return "one scale for the weight; activations quantized at run time take one a channel" if dynamic else None
    if group and not (four_bits and dynamic and group % 32 == 0):
        return f"groups of {group} in {spec.quant_min}..{spec.quant_max}; dynamic kernels take multiples of 32 in -8..7"
    if four_bits and shape[1] % (group or 2):
        return f"{shape[1]} input features; in 4 bits the kernel reads multiples of {group or 2}, others wrongly"
    return None


def _is_dynamic(match: Match) -> bool:
    return getattr(match.config.input_activation, "is_dynamic", False)


def quantizes_each_pixel(match: Match) -> str | None:
    """A convolution that XNNPACK runs as a linear layer on pixels; static activations have one scale either way."""
    if not _is_dynamic(match):
        return "its activations are static, for which it is a convolution as any other"
    numbers = (_pair(match.argument("stride")), match.argument("groups"), _shape(match.argument("weight"))[2:])
    padding = match.argument("padding")
    pads = padding not in ("same", "valid") and any(_pair(padding))
    return "no 1 x 1 convolution of each pixel" if pads or numbers != ((1, 1), 1, (1, 1)) else None


def samples_of_channels(match: Match) -> str | None:
    """Convolutions that quantize each sample: of rank 4, with several input channels a group, padded evenly."""
    if not _is_dynamic(match):
        return None
    weight, groups = _shape(match.argument("weight")), match.argument("groups")
    transposed = match.nodes[0].target is torch.ops.aten.conv_transpose2d.input
    if len(weight) != 4 or _rank(match.output) != 4:
        return f"a weight of rank {len(weight)} on rank {_rank(match.output)}; at run time the kernel quantizes images"
    if (weight[0] // groups if transposed else weight[1]) == 1:
        return "one input channel a group; activations quantized at run time have no depthwise kernel"
    if match.argument("padding") == "same" and any(
        step * (size - 1) % 2 for step, size in zip(_pair(match.argument("dilation")), weight[2:], strict=True)
    ):
        return "padding='same' pads one side more, with an op of its own before the kernel"
    return None


def transposed_ungrouped(match: Match) -> str | None:
    """Grouped transposed convolutions have no per-channel kernel."""
    groups = match.argument("groups")
    return None if groups == 1 else f"groups={groups}; with a scale for each channel the kernel has one group"


def scale_one(match: Match) -> str | None:
    """Kernels of add and sub know no factor."""
    alpha = match.argument("alpha")
    words = f"alpha={alpha}; the kernel computes with alpha=1"
    return None if alpha == 1 else Refusal(words, advice=f"multiply the operand by {alpha} before")


def two_real_operands(match: Match) -> str | None:
    """Binary kernels broadcast at most 6 dimensions, and take tensors."""
    rank = _rank(match.output)
    return None if rank is None or rank <= 6 else f"rank {rank}; XNNPACK broadcasts up to rank 6"


def stride_within_kernel(match: Match) -> str | None:
    """Max pooling that skips values, or with ceil_mode, has no kernel."""
    rank = _rank(match.output)
    if rank not in (None, 4):
        return f"an input of rank {rank}; the kernel pools rank 4"
    kernel, stride = _pair(match.argument("kernel_size")), _pair(match.argument("stride"))
    stride = stride or kernel
    if any(step > size for step, size in zip(stride, kernel, strict=True)):
        return f"stride {list(stride)} exceeds kernel_size {list(kernel)}"
    if match.argument("ceil_mode"):
        return Refusal("ceil_mode=True", advice="ceil_mode=False, with sizes that the stride divides")
    if kernel == (1, 1):
        return "kernel_size 1 pools nothing"
    return None


def function_itself(match: Match) -> str | None:
    """ExecuTorch reads neither gelu's approximation nor elu's outer factors."""
    for name, value in (("approximate", "none"), ("scale", 1), ("input_scale", 1)):
        try:
            found = match.argument(name)
        except KeyError:
            continue
        if found != value:
            return f"{name}={found!r}; the kernel computes with {name}={value!r}"
    return None


def averages_last_two(match: Match) -> str | None:
    """The kernel averages exactly the two spatial axes of a rank 4 tensor and keeps them."""
    rank = _rank(match.nodes[0].args[0])
    dims = match.argument("dim")
    if rank != 4 or dims is None or sorted(dim % 4 for dim in dims) != [2, 3]:
        return f"dim={dims} of a rank {rank} tensor; the kernel averages axes 2 and 3 of rank 4"
    if not match.argument("keepdim"):
        return Refusal("keepdim=False", advice="mean((2, 3), keepdim=True), and flatten what comes out")
    return None


def pool_is_global(match: Match) -> str | None:
    """Only average pooling to 1 x 1 has an integer kernel."""
    size, rank = list(match.argument("output_size")), _rank(match.output)
    if rank not in (None, 4):
        return f"an input of rank {rank}; the kernel averages rank 4"
    return None if size == [1, 1] else f"output_size={size}; the integer kernel averages to [1, 1]"


def pads_with_zeros(match: Match) -> str | None:
    """Padding with zeros is padding with the zero point; other values, and cropping, have no kernel."""
    try:
        mode = match.argument("mode")
    except KeyError:
        mode = "constant"
    if mode != "constant":
        return f"mode={mode!r}"
    value = match.argument("value")
    if value not in (None, 0):
        return f"value={value}; the kernel pads with 0.0"
    amounts = match.argument("pad")
    return f"pad={list(amounts)} crops" if any(amount < 0 for amount in amounts) else None


def pads_space(match: Match) -> str | None:
    """Before a convolution only the image is padded: padded channels or batches leave the delegate."""
    rank, amounts = _rank(match.nodes[0]), list(match.argument("pad"))
    if rank is not None and any(amounts[2 * (rank - 2) :]):
        return f"pad={amounts} pads channels or batch; before a convolution the kernel pads the image"
    return None


def joins_at_most_five(match: Match) -> str | None:
    """Concatenation needs at least two float tensors, each another one."""
    tensors = match.argument("tensors")
    if len(set(tensors)) < len(tensors):
        return "one tensor joined with itself, which XNNPACK leaves to the portable runtime"
    return None if len(tensors) >= 2 else f"{len(tensors)} tensor"


def slices_by_one(match: Match) -> str | None:
    """Static slices with step 1 along a static axis."""
    step = match.argument("step")
    if step != 1:
        return f"step={step}; the kernel slices by 1"
    for name in ("start", "end"):
        if isinstance(match.argument(name), Node):
            return f"{name} is computed at run time"
    operand, dim = match.nodes[0].args[0], match.argument("dim")
    value = operand.meta.get("val") if isinstance(operand, Node) else None
    if isinstance(value, torch.Tensor) and not isinstance(value.shape[dim], int):
        return f"axis {dim} is dynamic"
    return None


def one_axis_permuted(match: Match) -> str | None:
    """XNNPACK's tensors have at most 6 dimensions."""
    rank = _rank(match.nodes[0].args[0])
    return None if rank is None or rank <= 6 else f"rank {rank}; XNNPACK moves up to rank 6"


def _rank(node: Any) -> int | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else None


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value, value)
    values = tuple(value)
    return values * 2 if len(values) == 1 else values
