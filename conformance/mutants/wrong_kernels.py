"""What wrong kernels are made of: functions that make a backend whose kernels err in one thing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from quantizer_sdk import Backend, Profile
from quantizer_sdk.conformance.exact import ExactValue, Term
from quantizer_sdk.conformance.mutants.emulated import Compute, predicted
from quantizer_sdk.conformance.mutants.healthy import healthy, profile_of, runner_with
from quantizer_sdk.conformance.oracle import Site
from quantizer_sdk.profile import Family

__all__ = [
    "below_one",
    "cut_multiplier",
    "first_element_alone",
    "input_zero_point_ignored",
    "last_row_left",
    "limited",
    "padded_with",
    "pool_from_zero",
    "rolled",
    "saturating_pairs",
    "unclamped",
    "with_accumulators",
    "with_biases",
    "with_codes",
    "with_kernels",
    "with_rounding",
    "with_terms",
    "without_tail",
]


def with_kernels(compute: Compute) -> Callable[[], Backend]:
    """Return what makes a backend with a right quantizer on these kernels."""

    def make() -> Backend:
        backend = healthy()
        return dataclasses.replace(backend, runner=runner_with(profile_of(backend), compute))

    return make


def with_rounding(family: Family, **changes: object) -> Callable[[], Backend]:
    """Make a backend whose kernels of one family round otherwise than its profile says."""

    def compute(site: Site, profile: Profile, node: Node) -> Tensor:
        wrong = dataclasses.replace(profile.arithmetic[family], **changes)  # type: ignore[arg-type]
        return predicted(site, dataclasses.replace(profile, arithmetic={**profile.arithmetic, family: wrong}), node)

    return with_kernels(compute)


def with_terms(family: Family, change: Callable[[tuple[Term, ...], Site], tuple[Term, ...]]) -> Callable[[], Backend]:
    """Make a backend whose kernels of one family sum up something else."""

    def compute(site: Site, profile: Profile, node: Node) -> Tensor:
        if site.value.family is family:
            site = _with_exact(site, ExactValue(change(site.value.exact.terms, site), site.value.exact.clamps))
        return predicted(site, profile, node)

    return with_kernels(compute)


def _with_exact(site: Site, exact: ExactValue) -> Site:
    return dataclasses.replace(site, value=dataclasses.replace(site.value, exact=exact))


def with_accumulators(change: Callable[[Tensor, Site], Tensor]) -> Callable[[], Backend]:
    """Make a backend whose gemms have another accumulator, before the bias."""
    return with_terms(
        Family.DOT,
        lambda terms, site: (dataclasses.replace(terms[0], values=change(terms[0].values, site)), *terms[1:]),
    )


def with_codes(change: Callable[[Tensor, Site, Node], Tensor]) -> Callable[[], Backend]:
    """Make a backend whose kernels change their result's codes."""
    return with_kernels(lambda site, profile, node: change(predicted(site, profile, node), site, node))


def limited(codes: Tensor, site: Site) -> Tensor:
    """Keep codes within the result's range."""
    return codes.clamp(site.requantized.quant_min, site.requantized.quant_max)


def unclamped(site: Site, profile: Profile, node: Node) -> Tensor:
    """Compute without the activation that is fused."""
    return predicted(_with_exact(site, dataclasses.replace(site.value.exact, clamps=())), profile, node)


def cut_multiplier(bits: int) -> Compute:
    """Return kernels whose requantization has so many bits."""

    def compute(site: Site, profile: Profile, node: Node) -> Tensor:
        if site.value.family is Family.DOT:
            term, *bias = site.value.exact.terms
            scale = site.requantized.scale
            term = dataclasses.replace(term, scales=tuple(_cut(s / scale, bits) * scale for s in term.scales))
            site = _with_exact(site, dataclasses.replace(site.value.exact, terms=(term, *bias)))
        return predicted(site, profile, node)

    return compute


def _cut(number: Fraction, bits: int) -> Fraction:
    unit = Fraction(2) ** (math.frexp(float(number))[1] - bits)
    return math.floor(number / unit) * unit


def below_one(terms: tuple[Term, ...], site: Site) -> tuple[Term, ...]:
    """Hold the ratio below 1, as a multiplier does that only shifts right."""
    most = site.requantized.scale * Fraction(2**24 - 1, 2**24)
    return (dataclasses.replace(terms[0], scales=tuple(min(s, most) for s in terms[0].scales)), *terms[1:])


def with_biases(change: Callable[[Term], Term | None]) -> Callable[[], Backend]:
    """Make a backend whose gemms add another bias."""

    def changed(terms: tuple[Term, ...], _site: Site) -> tuple[Term, ...]:
        accumulator, *bias = terms
        return (accumulator, *(found for found in map(change, bias) if found is not None))

    return with_terms(Family.DOT, changed)


def rolled(term: Term) -> Term:
    """Shift by one along the channels: axis 1 of images, the last axis else."""
    axis = 1 if term.values.dim() > 2 else -1
    return term.move(lambda tensor: tensor.roll(1, axis))


def _operands(site: Site) -> tuple[Tensor, Tensor]:
    """Return (activation codes less zero point, weight codes) of a gemm."""
    activation, weight = site.value.operands
    return activation.exact.terms[0].values, weight.exact.terms[0].values


def saturating_pairs(site: Site, profile: Profile, node: Node) -> Tensor:
    """Compute a linear layer with unsigned activations, whose products are summed in pairs to 16 bits, saturating."""
    if site.value.family is Family.DOT and site.value.exact.terms[0].values.dim() == 2:
        activation, weight = _operands(site)
        offset = 128 + (site.value.operands[0].zero_point or 0)
        products = (activation + offset).unsqueeze(1) * weight.unsqueeze(0)
        even, odd = products[..., 0::2], products[..., 1::2]
        pairs = even + torch.nn.functional.pad(odd, (0, even.shape[-1] - odd.shape[-1]))
        total = pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - offset * weight.sum(-1)
        term, *bias = site.value.exact.terms
        terms = (dataclasses.replace(term, values=total), *bias)
        site = _with_exact(site, dataclasses.replace(site.value.exact, terms=terms))
    return predicted(site, profile, node)


def without_tail(total: Tensor, site: Site) -> Tensor:
    """Leave out the products beyond a multiple of 8."""
    activation, weight = _operands(site)
    start = activation.shape[-1] // 8 * 8
    return total - activation[..., start:] @ weight[:, start:].T if weight.dim() == 2 else total


def input_zero_point_ignored(total: Tensor, site: Site) -> Tensor:
    """Sum up codes as they are."""
    _activation, weight = _operands(site)
    return total + (site.value.operands[0].zero_point or 0) * weight.sum(-1) if weight.dim() == 2 else total


def padded_with(fill: Callable[[int], int], *, behind: bool = True) -> Callable[[], Backend]:
    """Make a backend whose convolutions pad with other codes, or on the other side, given the input's zero point."""

    def compute(site: Site, profile: Profile, node: Node) -> Tensor:
        conv = _convolution(node)
        if conv is None:
            return predicted(site, profile, node)
        activation, weight = _operands(site)
        pads = _pads(conv, weight)
        pads = pads if behind else [pads[place ^ 1] for place in range(len(pads))]
        code = fill(site.value.operands[0].zero_point or 0)
        padded = torch.nn.functional.pad(activation.double(), pads, value=float(code))
        arguments: list[Any] = [*conv.args[3:], *(1, 0, 1, 1)[len(conv.args) - 3 :]]
        arguments[1] = 0
        total = torch.nn.functional.conv2d(padded, weight.double(), None, *arguments).long()
        term, *bias = site.value.exact.terms
        terms = (dataclasses.replace(term, values=total), *bias)
        return predicted(_with_exact(site, dataclasses.replace(site.value.exact, terms=terms)), profile, node)

    return with_kernels(compute)


def _convolution(quantize: Node) -> Node | None:
    """Return the padded convolution right before a quantize."""
    before = quantize.args[0]
    targets = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
    padded = isinstance(before, Node) and before.target in targets and len(before.args) > 4
    return before if padded and isinstance(before, Node) else None


def _pads(conv: Node, weight: Tensor) -> list[int]:
    """Return a convolution's pads, last axis first, as torch.nn.functional.pad takes them."""
    padding = conv.args[4]
    if padding == "same":
        totals = [int(size) - 1 for size in weight.shape[2:]]
        return [part for total in reversed(totals) for part in (total // 2, total - total // 2)]
    return [0] * 4 if isinstance(padding, str) else [int(str(p)) for p in reversed(list(padding)) for _ in range(2)]  # type: ignore[arg-type]


def first_element_alone(codes: Tensor, site: Site, _node: Node) -> Tensor:
    """Compute the first element of a batch, and leave the others at the zero point."""
    result = torch.full_like(codes, site.requantized.zero_point)
    result[:1] = codes[:1]
    return result


def last_row_left(codes: Tensor, _site: Site, _node: Node) -> Tensor:
    """Leave the last row as it was where rows come in groups of 4."""
    if codes.dim() == 2 and codes.shape[0] % 4 and codes.shape[0] > 4:
        codes[-1] = codes[-2]
    return codes


def pool_from_zero(codes: Tensor, _site: Site, node: Node) -> Tensor:
    """Begin each window's maximum with code 0."""
    pools = "max_pool" in str(node.args[0].target)  # type: ignore[union-attr]
    return codes.clamp(min=0) if pools else codes
