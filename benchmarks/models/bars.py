"""The bars that every model is held to."""

from __future__ import annotations

from collections.abc import Iterator

from models.result import Column, Result

__all__ = ["missed"]

_SQNR_SLACK = 0.5
_LATENCY_SLACK = 1.05
_FASTER_THAN_PEER = {"mobilenet_v3_large": 1.6, "mobilenet_v3_silu": 1.6}
_FASTER_THAN_FLOAT = {"mobilenet_v2": 2.2}


def missed(result: Result) -> list[str]:
    """Say which bars a model misses; what was not measured misses none, except by an error of ours."""
    ours = result.columns.get("ours")
    if ours is None:
        return []
    if ours.error is not None:
        return [f"ours fails: {ours.error}"]
    found = [f"{count} {kind} quantized, but outside the delegate" for kind, count in ours.outside.items()]
    peer = result.columns.get("peer")
    if peer is not None and peer.error is None:
        found += _against_peer(ours, peer)
    for name, floors in (("peer", _FASTER_THAN_PEER), ("fp32", _FASTER_THAN_FLOAT)):
        floor, other = floors.get(result.name), result.columns.get(name)
        if floor and other is not None and ours.latency and other.latency and other.latency < floor * ours.latency:
            found.append(f"{other.latency / ours.latency:.2f}x as fast as {name}, below {floor}x")
    return found


def _against_peer(ours: Column, peer: Column) -> Iterator[str]:
    """Compare column by column.

    Clamps are left out of the count of int8 nodes: where a convolution's kernel clamps, a program without a node for it
    is the better one.
    """
    if None not in (ours.integer_nodes, ours.clamps, peer.integer_nodes, peer.clamps):
        mine, theirs = ours.integer_nodes - ours.clamps, peer.integer_nodes - peer.clamps  # type: ignore[operator]
        if mine < theirs:
            yield f"{mine} int8 nodes, clamps left out; the peer has {theirs}"
    if ours.sqnr is None:
        yield "SQNR is not finite"
    elif peer.sqnr is not None and ours.sqnr < peer.sqnr - _SQNR_SLACK:
        yield f"{ours.sqnr:.1f} dB; the peer has {peer.sqnr:.1f}, and {_SQNR_SLACK} less would do"
    if ours.latency and peer.latency and ours.latency > _LATENCY_SLACK * peer.latency:
        yield f"{ours.latency / peer.latency:.2f}x the peer's latency, above {_LATENCY_SLACK}x"
