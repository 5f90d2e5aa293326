"""Public defects of kernels and of what feeds them: each rebuilt as a runtime, judged beside one without the defect."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from public_case import emulated, narrow, rebuilt, table
from public_contract_cases import UnsharedSlice, symmetric_results
from torch.nn import functional as F  # noqa: N812  # its name everywhere

from quantizer_sdk import LoweringError, TableQuantizer
from quantizer_sdk.backend import Variant
from quantizer_sdk.backends.onnxruntime import SessionSettings, lower_without_vnni
from quantizer_sdk.backends.x86 import BACKEND, X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.conformance.mutants.emulated import predicted
from quantizer_sdk.profile import Arithmetic, Family

aten = torch.ops.aten
ONNXRUNTIME = BACKEND.part_of("u8.pc@onnxruntime")
ONNXRUNTIME_ROWS = X86Quantizer("onnxruntime", quantize_results=True).rows


class OnnxRuntimeTable(TableQuantizer):
    """ONNX Runtime's configuration on rows of choice."""

    def default_config(self):
        """Return weights of 8 bits, whatever this machine is."""
        return get_default_x86_quantization_config(reduce_range=False)


def _with(site, **changes):
    """Return a site with another exact value."""
    return replace(site, value=replace(site.value, exact=replace(site.value.exact, **changes)))


def _operands(site):
    """Return a gemm's activation codes without zero point, its zero point, and the weight's codes; int64."""
    activation, weight = site.value.operands
    return activation.exact.terms[0].values, activation.zero_point, weight.exact.terms[0].values


def pads_left(site, profile, node):
    """Put the odd zero of an even kernel's `same` padding before the data, where torch puts it behind."""
    codes = predicted(site, profile, node)
    call = node.args[0]
    if call.target is not aten.conv1d.padding:
        return codes
    x, _zero_point, weight = _operands(site)
    total = weight.shape[-1] - 1
    before = total - total // 2
    accumulator = F.conv1d(F.pad(x.double(), (before, total - before)), weight.double()).to(torch.int64)
    first, *bias = site.value.exact.terms
    return predicted(_with(site, terms=(replace(first, values=accumulator), *bias)), profile, node)


def adds_pairs_in_16_bits(site, profile, node):
    """Multiply uint8 by int8 in pairs whose sum saturates at 16 bits, as vpmaddubsw does."""
    if site.value.family is not Family.DOT:
        return predicted(site, profile, node)
    x, zero_point, weight = _operands(site)
    offset = zero_point + 128  # the kernel's activations are unsigned
    unsigned = F.pad(x + offset, (0, x.shape[-1] % 2))[:, None]
    weight = F.pad(weight, (0, weight.shape[-1] % 2))
    pairs = (unsigned * weight).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
    accumulator = pairs.sum(-1) - offset * weight.sum(-1)
    first, *bias = site.value.exact.terms
    return predicted(_with(site, terms=(replace(first, values=accumulator), *bias)), profile, node)


def requantizes_rows(site, profile, node):
    """Choose qparams anew for each row of activations, affine ones, whatever those of the graph are."""
    if site.value.family is not Family.DOT:
        return predicted(site, profile, node)
    x, weight = (operand.exact.approximate() for operand in site.value.operands)
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero_point = torch.round(-low / scale)
    rounded = (torch.round(x / scale) + zero_point).clamp(0, 255)
    moved = F.linear((rounded - zero_point) * scale - x, weight)
    target = site.requantized
    codes = torch.round(target.r + moved / float(target.scale)) + target.zero_point
    return codes.clamp(target.quant_min, target.quant_max).to(torch.int64)


def scales_the_bias_too(site, profile, node):
    """Run a gemm as alpha=2 on half the weight's scale, and let alpha multiply the bias in the accumulator as well."""
    first, *bias = site.value.exact.terms
    return predicted(_with(site, terms=(first, *(replace(t, values=2 * t.values) for t in bias))), profile, node)


def leaves_relu_to_the_range(site, profile, node):
    """Drop the relu behind a gemm, as if the result's zero point always were the smallest code."""
    return predicted(_with(site, clamps=()), profile, node)


def shifts_right_only(site, profile, node):
    """Requantize by a mantissa and a right shift, which cannot multiply by 1 or more."""
    if site.value.family is not Family.DOT:
        return predicted(site, profile, node)
    target = replace(site.requantized, scale=max(site.requantized.scale, *site.value.exact.terms[0].scales))
    return predicted(replace(site, requantized=target), profile, node)


def refuses_ratios_above_one(site, profile, node):
    """Refuse to run where sx·sw is not below sy."""
    if site.value.family is Family.DOT and max(site.value.exact.terms[0].scales) >= site.requantized.scale:
        raise LoweringError("convolution scale is greater or equal to 1.0")
    return predicted(site, profile, node)


def looks_up_an_int8_shader(site, profile, node):
    """Expect a gemm's activation in float, and ask for a conversion that does not exist where it is quantized."""
    if site.value.family is Family.DOT:
        raise LoweringError("there is no shader clone_buffer_to_image_int8_int32")
    return predicted(site, profile, node)


def refuses_bytes_for_floats(site, profile, node):
    """Leave the result of a move as bytes in a buffer declared as float, and refuse it at the boundary."""
    if site.value.family is Family.MOVE:
        raise LoweringError("layout adjustment: expand_factor=4 elem_size=1 Float")
    return predicted(site, profile, node)


def reads_bytes_as_floats(site, profile, node):
    """The same, but the float consumer reads the buffer: its first quarter is four codes a number, the rest is 0."""
    codes = predicted(site, profile, node)
    if site.value.family is not Family.MOVE:
        return codes
    buffer = torch.zeros(codes.numel())
    buffer.view(torch.int8)[: codes.numel()] = codes.flatten().to(torch.int8)
    target = site.requantized
    found = torch.nan_to_num(buffer / float(target.scale)).round().clamp(-1e6, 1e6) + target.zero_point
    return found.clamp(target.quant_min, target.quant_max).to(torch.int64).reshape(codes.shape)


def moves_codes_between_scales(site, profile, node):
    """Drop the dequantize and quantize around a move even where their qparams differ."""
    if site.value.family is not Family.MOVE:
        return predicted(site, profile, node)
    return site.value.exact.terms[0].values + site.value.zero_point


def _onnxruntime(name, *, settings=None, **arithmetic):
    """Return ONNX Runtime's backend with one row; with another arithmetic in its profile, or another session."""
    rows = tuple(row for row in ONNXRUNTIME_ROWS if row.name == name)
    quantizer = table(*rows, kind=OnnxRuntimeTable)
    profile = ONNXRUNTIME.profile
    families = {**profile.arithmetic, **{Family[family]: rounds for family, rounds in arithmetic.items()}}
    runner = ONNXRUNTIME.runner
    if settings is not None:
        lower = partial(lower_without_vnni, settings=settings)
        runner = replace(runner, variants=(Variant(name="AVX2", axis="isa", lower=lower, batched=True),))
    return replace(
        ONNXRUNTIME,
        quantizer=quantizer,
        configurations={"u8.pc": quantizer},
        profile=replace(profile, arithmetic=families),
        runner=runner,
    )


_LINEAR, _CONV, _MOVE = narrow("linear"), narrow("conv"), narrow("relu", "move")
_PERMUTE = "aten.permute/s8.pc/generic/nhwc"
_SUMS = "L3.K4/aten.linear/s8.pc/ends/2d"
_TIES = "L3.K3/aten.add/u8.pc/zp_odd"


def _emulated(number, check, signature, id_, quantizer, compute, **options):
    """Return a case on an emulated runtime with a wrong kernel."""
    return rebuilt(number, check, signature, id_, emulated(quantizer, compute), emulated(quantizer), **options)


CASES = (
    _emulated(
        "executorch-20558", "K5", "outside", "L3.K5/aten.conv1d.padding/s8.pc/generic/same_even", _CONV, pads_left
    ),
    _emulated("executorch-2166", "K6", "outside", "L3.K6/aten.linear/s8.pc/unequal/2d", _LINEAR, requantizes_rows),
    _emulated(
        "executorch-22775", "D1", "lowering", "L4.D1/aten.linear/s8.pc/generic/2d", _LINEAR, looks_up_an_int8_shader
    ),
    _emulated("executorch-19364", "D1", "lowering", f"L4.D1/{_PERMUTE}", _MOVE, refuses_bytes_for_floats),
    _emulated("executorch-19364", "K1", "bits", f"L3.K1/{_PERMUTE}", _MOVE, reads_bytes_as_floats),
    _emulated(
        "pytorch-36253",
        "K7",
        "refused",
        "L3.K7/aten.conv2d/s8.pc/extreme_up/3x3",
        _CONV,
        refuses_ratios_above_one,
        form="refused",
    ),
    _emulated(
        "pytorch-36253",
        "K7",
        "outside",
        "L3.K7/aten.conv2d/s8.pc/extreme_up/3x3",
        _CONV,
        shifts_right_only,
        form="clipped",
    ),
    _emulated("onnxruntime-28130", "K1", "bits", "L3.K1/aten.linear/s8.pc/generic/2d", _LINEAR, scales_the_bias_too),
    _emulated(
        "onnxruntime-28130", "D3", "optimizer", "L4.D3/aten.linear/s8.pc/generic/2d", _LINEAR, scales_the_bias_too
    ),
    _emulated(
        "onnxruntime-25259",
        "D3",
        "optimizer",
        "L4.D3/aten.slice/s8.pc/generic/back",
        UnsharedSlice,
        moves_codes_between_scales,
    ),
    _emulated(
        "onnxruntime-9425",
        "K1",
        "bits",
        "L3.K1/aten.conv2d+aten.relu/s8.pc/generic/3x3",
        symmetric_results,
        leaves_relu_to_the_range,
    ),
    _emulated("onnxruntime-6004", "K4", "saturates", _SUMS, _LINEAR, adds_pairs_in_16_bits),
    rebuilt(
        "onnxruntime-14642",
        "K4",
        "saturates",
        _SUMS,
        emulated(_LINEAR, narrow_isa=adds_pairs_in_16_bits),
        emulated(_LINEAR),
    ),
    rebuilt(
        "onnxruntime-16105",
        "K4",
        "saturates",
        "L3.K4/aten.conv2d/u8.pc/ends/3x3",
        _onnxruntime("conv", settings=SessionSettings(exact_sums=False)),
        _onnxruntime("conv"),
        needs="valgrind",
    ),
    rebuilt(
        "onnxruntime-11759",
        "K3",
        "rounds otherwise",
        f"{_TIES}/4d",
        _onnxruntime("add", ADD=Arithmetic()),
        _onnxruntime("add"),
    ),
    rebuilt(
        "onnxruntime-32132",
        "K3",
        "rounds otherwise",
        f"{_TIES}/exhaustive",
        _onnxruntime("add", ADD=Arithmetic()),
        _onnxruntime("add"),
    ),
)
