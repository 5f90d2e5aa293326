"""What is suspicious about the range of a tensor, or of two tensors of which one is made of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from quantizer_sdk.observers.seen import BULK, Seen
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE
from quantizer_sdk.report.held_tensors import HeldTensors
from quantizer_sdk.report.points import Point

__all__ = ["Suspicion", "nearly_agree", "suspicions", "swamped"]

FAR_BEYOND = 10.0
"""A range is far beyond the bulk where its end is so many times the magnitude that 99.9 % of the values stay below."""

UNEVEN = 16.0
"""A channel stands out where its largest weight is so many times that of the median channel: four bits of eight."""

MUCH_CLIPPED = 0.01
"""A range is too narrow where it clips more than this share of all values."""

AGREE = 0.05
"""Two ranges nearly agree where their ends differ by up to this share of the wider one."""

_ATEN = torch.ops.aten
_SUMS = frozenset({_ATEN.add.Tensor, _ATEN.add_.Tensor, _ATEN.sub.Tensor, _ATEN.sub_.Tensor})
_NAMED = 5  # channels are named, then counted


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is suspicious about one tensor: its kind, in words, and what to do."""

    kind: str
    message: str
    advice: str


def suspicions(op: Node, role: str, point: Point, held: HeldTensors) -> Iterator[Suspicion]:
    """Yield what is suspicious about a tensor that an op reads or makes."""
    seen = point.seen
    if point.derived or point.dtype.is_floating_point:
        return
    if role == "weight" and op.target in FOLDABLE:
        channels = _channels(op, point, held)
        if channels is not None:
            yield from _of_channels(channels, point)
    if role in {"weight", "bias"} or seen is None or seen.low is None or seen.high is None:
        return
    low, high = float(seen.low.min()), float(seen.high.max())
    if low == high:
        if held.of(point.tensor) is not None:  # a constant that is one number: no data could change that
            return
        what = (
            "all values that were seen are 0: the channels before it are dead" if low == 0 else f"only {low:g} was seen"
        )
        yield Suspicion(
            "zero_range",
            f"the range of its {role} is a single value: {what}",
            "calibrate with data that reaches it, or look for what switches it off",
        )
        return
    yield from _of_counts(role, point, seen)


def _of_counts(role: str, point: Point, seen: Seen) -> Iterator[Suspicion]:
    if seen.clipped is not None and seen.clipped > MUCH_CLIPPED:
        yield Suspicion(
            "saturating",
            f"{seen.clipped:.1%} of the values of its {role} lie beyond the range and are clipped",
            "take an observer with a wider range, such as MinMaxObserver or a higher percentile",
        )
    if seen.bulk is not None and point.scale is not None:
        first, last = _code_range(point)
        reach = min(max(abs(first), abs(last)), _reach(seen))
        if seen.bulk > 0 and reach > FAR_BEYOND * seen.bulk:
            yield Suspicion(
                "outliers",
                f"the range of its {role} reaches to {reach:.4g}, {reach / seen.bulk:.0f} times what {BULK:.1%} of the "
                f"values stay below, so that these share few codes",
                "take a percentile or MSE observer, even the channels out (cross_layer_equalization, smooth_quant), or "
                "use 16 bits here",
            )


def _channels(op: Node, point: Point, held: HeldTensors) -> torch.Tensor | None:
    """Return the largest magnitude of each output channel of a weight, float32 [channels]."""
    axis = FOLDABLE[op.target]  # type: ignore[index]
    seen = point.seen
    if point.ch_axis == axis and seen is not None and seen.low is not None and seen.high is not None:
        return torch.maximum(seen.low.abs(), seen.high.abs()).reshape(-1)
    weight = held.of(point.tensor)
    if (
        weight is None
        or weight.dim() < 2
        or weight.numel() == 0
        or point.granularity.startswith(("per group", "per bl"))
    ):
        return None
    others = [dim for dim in range(weight.dim()) if dim != axis]
    low, high = weight.detach().amin(others).float(), weight.detach().amax(others).float()
    if not weight.is_floating_point():
        if point.scale is None or point.zero_point is None or point.scale.numel() not in {1, low.numel()}:
            return None
        low, high = ((end - point.zero_point) * point.scale for end in (low, high))
    return torch.maximum(low.abs(), high.abs())


def _of_channels(largest: torch.Tensor, point: Point) -> Iterator[Suspicion]:
    dead = torch.nonzero(largest == 0).reshape(-1).tolist()
    if dead:
        yield Suspicion(
            "dead_channels",
            f"{len(dead)} of {largest.numel()} output channels of its weight are all zero: {_listed(dead)}",
            "prune them, or look at how the model was trained",
        )
    alive = largest[largest > 0]
    if alive.numel() < 4:
        return
    median = float(alive.median())
    far = torch.nonzero(largest > UNEVEN * median).reshape(-1).tolist()
    if far:
        times = float(largest.max()) / median
        effect = (
            "their results may stand out too" if point.ch_axis is not None else "one scale leaves the others few codes"
        )
        yield Suspicion(
            "channel_outliers",
            f"{len(far)} of {largest.numel()} output channels of its weight reach up to {times:.0f} times the median "
            f"channel: {_listed(far)}; {effect}",
            "even the channels out (cross_layer_equalization, smooth_quant)"
            + ("" if point.ch_axis is not None else ", or take a scale for each channel"),
        )


def _listed(channels: list[int]) -> str:
    more = f" and {len(channels) - _NAMED} more" if len(channels) > _NAMED else ""
    return f"{'channel' if len(channels) == 1 else 'channels'} {', '.join(map(str, channels[:_NAMED]))}{more}"


def _code_range(point: Point) -> tuple[float, float]:
    """Return the real values of the smallest and the largest code, over all scales."""
    assert point.scale is not None
    assert point.zero_point is not None
    assert point.quant_min is not None
    assert point.quant_max is not None
    low, high = ((code - point.zero_point) * point.scale for code in (point.quant_min, point.quant_max))
    return float(low.min()), float(high.max())


def swamped(op: Node, points: Sequence[tuple[str, Point]]) -> Iterator[Suspicion]:
    """Yield the operands of a sum for which it has no codes, as where another is a mask of huge numbers."""
    step = next((point.scale for role, point in points if role == "output"), None)
    if op.target not in _SUMS or step is None or step.numel() != 1:
        return
    for role, point in points:
        reach = 0.0 if role == "output" or point.seen is None else _reach(point.seen)
        if 0 < reach < float(step) / 2:
            yield Suspicion(
                "swamped",
                f"its {role}, whose values reach to {reach:.4g}, is less than half a step of its result, "
                f"{float(step):.4g}: nothing of it is left in the sum",
                "leave this op float by a rule of None for its module or op, or add smaller numbers: a mask of -100 "
                "blocks what a softmax reads as well as one of -1e9",
            )


def _reach(seen: Seen) -> float:
    """Return the largest magnitude that was seen; 0.0 where no range is known."""
    if seen.low is None or seen.high is None:
        return 0.0
    return max(abs(float(seen.low.min())), abs(float(seen.high.max())))


def nearly_agree(one: Point, other: Point) -> bool:
    """Whether two points have the same codes, and one scale each for nearly the same range, so that one would do."""
    for point in (one, other):
        if point.scale is None or point.zero_point is None or point.scale.numel() != 1 or point.quant_min is None:
            return False
    if (one.dtype, one.quant_min, one.quant_max) != (other.dtype, other.quant_min, other.quant_max):
        return False
    ends, others = _code_range(one), _code_range(other)
    width = max(ends[1] - ends[0], others[1] - others[0])
    return all(abs(end - far) <= AGREE * width for end, far in zip(ends, others, strict=True))
