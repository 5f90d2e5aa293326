"""The bars that models are held to on x86, as ratios within one run."""

from __future__ import annotations

from collections.abc import Iterator

from models.x86_measure import Figures, Measured, Speed

__all__ = ["missed"]

_FASTER = {
    ("mobilenet_v2", "onnx ours", "onnx fp32"): 2.0,
    ("resnet18", "onnx ours", "onnx fp32"): 3.0,
    ("transformer", "onnx ours", "onnx fp32"): 2.8,
    ("transformer", "onnx ours dynamic", "onnx fp32"): 2.7,
    ("resnet18", "eager ours", "eager fp32"): 2.5,
    ("transformer", "eager ours", "eager fp32"): 2.5,
}
_EAGER_OF_INDUCTOR = 1.3
_LOWERING_SECONDS = 2.0
_KERNEL_NOISE = 10.0
_OF_OWN_NOISE = 2.0
_SIZE = 0.27
_COSINES = {
    "onnx ours": 0.995,
    "eager ours": 0.995,
    "onnx ours dynamic per token": 0.999,
    "eager ours dynamic per token": 0.999,
}
_FLOATS = {"onnx ours": "onnx fp32", "eager ours": "eager fp32"}


def missed(result: Measured) -> list[str]:
    """Say which bars a model misses."""
    return list(_missed(result))


def _missed(result: Measured) -> Iterator[str]:
    programs = result.programs
    for name, figures in programs.items():
        if "ours" in name:
            yield from (f"{name}: {words}" for words in _alone(figures))
    for (model, name, other), floor in _FASTER.items():
        speed = _speed(programs, name, other)
        if model == result.name and speed is not None and speed.median < floor:
            yield f"{name} is {speed} as fast as {other}, below {floor}x"
    speed = result.against_static
    if speed is not None and speed.median < 1:
        yield f"onnx ours is {speed} as fast as quantize_static"
    ours, static = programs.get("onnx ours"), programs.get("onnx quantize_static")
    if ours is not None and static is not None and None not in (ours.sqnr, static.sqnr) and ours.sqnr < static.sqnr:  # type: ignore[operator]
        yield f"onnx ours has {ours.sqnr:.1f} dB, quantize_static {static.sqnr:.1f} dB"
    speed = _speed(programs, "inductor ours", "eager ours")
    if speed is not None and speed.median > _EAGER_OF_INDUCTOR:
        yield f"eager ours takes {speed} the time of inductor's, above {_EAGER_OF_INDUCTOR}x"
    for name, other in _FLOATS.items():
        mine, whole = programs.get(name), programs.get(other)
        if mine is not None and whole is not None and mine.size and whole.size and mine.size > _SIZE * whole.size:
            yield f"{name} has {mine.size / whole.size:.2f} of the size of fp32, above {_SIZE}"
    if result.name == "minilm":
        for name, floor in _COSINES.items():
            cosine = programs[name].cosine if name in programs else None
            if cosine is not None and cosine < floor:
                yield f"{name}: mean cosine {cosine:.4f}, below {floor}"
    if result.name == "efficientnet_lite0":
        yield from _noise(programs)


def _noise(programs: dict[str, Figures]) -> Iterator[str]:
    """Hold noise to the bar where weights are trained; what a graph differs from itself by is no kernel's."""
    for name, figures in programs.items():
        if figures.graph_sqnr is None or figures.kernel_noise is None or figures.own_noise is None:
            continue
        if figures.graph_sqnr < 20:
            yield f"{name}: {figures.graph_sqnr:.1f} dB from float to the q/dq graph, below 20"
        if figures.kernel_noise > max(_KERNEL_NOISE, _OF_OWN_NOISE * figures.own_noise):
            noise = f"{figures.kernel_noise:.1f} % to the q/dq graph's noise, above {_KERNEL_NOISE:.0f} %"
            yield f"{name}: the kernels add {noise}"


def _alone(figures: Figures) -> Iterator[str]:
    if figures.error is not None:
        yield f"fails: {figures.error}"
    if figures.left_float:
        yield f"{figures.left_float} of {figures.layers} layers are left float"


def _speed(programs: dict[str, Figures], name: str, other: str) -> Speed | None:
    """Return how many times as fast as another program one is; None where one was not measured."""
    return programs[name].speed(programs[other]) if name in programs and other in programs else None
