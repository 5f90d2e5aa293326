"""The models that M1 looks at: small ones with seeded weights, as programs, and one with real weights and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantizer_sdk import Row
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.scenario import Scenario

__all__ = ["REAL_MODELS", "RealModel", "model_scenarios"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModel:
    """A model with trained weights and data to calibrate and judge it on; both come out of installed packages.

    Attributes:
        name: As case ids name it.
        targets: The ops that a table must have for the model to be of use.
        load: Returns the module, in eval mode.
        data: Returns its inputs, float32 [N, ...].
    """

    name: str
    targets: frozenset[torch._ops.OpOverload]
    load: Callable[[], nn.Module]
    data: Callable[[], Tensor]


class _Builder:
    """Writes a program op by op."""

    def __init__(self, *inputs: tuple[int, ...]) -> None:
        self.inputs = inputs
        self.parameters: list[tuple[int, ...]] = []
        self.calls: list[Call] = []

    def op(self, target: torch._ops.OpOverload, *args: Any) -> Ref:
        self.calls.append(Call(target, args))
        return Ref("v", len(self.calls) - 1)

    def parameter(self, *shape: int) -> Ref:
        self.parameters.append(shape)
        return Ref("p", len(self.parameters) - 1)

    def conv(self, x: Ref, to: int, per_group: int, size: int, *, stride: int = 1, groups: int = 1) -> Ref:
        """A convolution with bias that keeps the image's size but for the stride."""
        weight, bias = self.parameter(to, per_group, size, size), self.parameter(to)
        args = ((stride, stride), (size // 2, size // 2), (1, 1), groups)
        return self.op(aten.conv2d.default, x, weight, bias, *args)

    def linear(self, x: Ref, size: int, to: int) -> Ref:
        return self.op(aten.linear.default, x, self.parameter(to, size), self.parameter(to))

    def relu(self, x: Ref) -> Ref:
        return self.op(aten.relu.default, x)

    def pooled(self, x: Ref, size: int, classes: int) -> Ref:
        """The mean over the image and a classifier."""
        mean = self.op(aten.adaptive_avg_pool2d.default, x, (1, 1))
        return self.linear(self.op(aten.flatten.using_ints, mean, 1), size, classes)

    def program(self) -> Program:
        return Program(inputs=self.inputs, parameters=tuple(self.parameters), calls=tuple(self.calls))


def _residual() -> Program:
    """Three residual blocks, as ResNets have them."""
    net = _Builder((8, 3, 16, 16))
    x = net.relu(net.conv(Ref("x", 0), 12, 3, 3))
    for _ in range(3):
        y = net.conv(net.relu(net.conv(x, 12, 12, 3)), 12, 12, 3)
        x = net.relu(net.op(aten.add.Tensor, x, y))
    net.pooled(x, 12, 10)
    return net.program()


def _separable() -> Program:
    """Inverted bottlenecks with depthwise convolutions and linear ends, as MobileNetV2 has them."""
    net = _Builder((8, 3, 16, 16))
    x = net.relu(net.conv(Ref("x", 0), 8, 3, 3, stride=2))
    for place in range(3):
        wide = net.op(aten.hardtanh.default, net.conv(x, 24, 8, 1), 0.0, 6.0)
        deep = net.op(aten.hardtanh.default, net.conv(wide, 24, 1, 3, groups=24), 0.0, 6.0)
        narrow = net.conv(deep, 8, 24, 1)
        x = net.op(aten.add.Tensor, x, narrow) if place else narrow
    net.pooled(x, 8, 10)
    return net.program()


def _dense() -> Program:
    """Linear layers with a joined skip connection."""
    net = _Builder((16, 32))
    x = net.relu(net.linear(Ref("x", 0), 32, 48))
    y = net.relu(net.linear(x, 48, 24))
    net.linear(net.op(aten.cat.default, (x, y), 1), 72, 10)
    return net.program()


_SEEDED: dict[str, Callable[[], Program]] = {"residual": _residual, "separable": _separable, "dense": _dense}


def _lite0() -> nn.Module:
    from quantizer_sdk.demo.data import load_lite0

    return load_lite0()


def _images() -> Tensor:
    from quantizer_sdk.demo.data import load_images

    return load_images().images


REAL_MODELS = (
    RealModel(
        name="efficientnet_lite0",
        targets=frozenset({aten.conv2d.default, aten.add.Tensor, aten.linear.default}),
        load=_lite0,
        data=_images,
    ),
)


def model_scenarios(rows: Sequence[Row], schemes: Sequence[str]) -> tuple[Scenario, ...]:
    """Return a scenario for each model whose ops a table has."""
    known = {target for row in rows for step in row.steps for target in step.targets}
    found = []
    for name, build in _SEEDED.items():
        program = build()
        if all(call.target in known for call in program.calls):
            found.append(_scenario(name, schemes[0], "seeded", program))
    stand_in = _dense()
    found += [_scenario(model.name, schemes[0], "real", stand_in) for model in REAL_MODELS if model.targets <= known]
    return tuple(found)


def _scenario(name: str, scheme: str, data: str, program: Program) -> Scenario:
    return Scenario(
        subject=f"model.{name}",
        scheme=scheme,
        data=data,
        shape="whole",
        program=program,
        length=len(program.calls),
        checks=("M1",),
    )
