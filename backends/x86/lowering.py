"""From a converted model to a program, on the route that the user names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import backend
from quantizer_sdk.backends import inductor, onednn, onnxruntime
from quantizer_sdk.backends.x86.target import Target

__all__ = ["lower"]

_ROUTES: Mapping[Target, Callable[..., backend.Executable]] = MappingProxyType(
    {
        Target.ONEDNN: onednn.lower_eager,
        Target.INDUCTOR: inductor.lower_inductor,
        Target.ONNXRUNTIME: onnxruntime.lower,
    }
)


def lower(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor] = (),
    *,
    route: str | Target = Target.ONEDNN,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    **options: Any,
) -> backend.Executable:
    """Lower a float or a converted model to a program of integer kernels.

    Args:
        model: A module of an exported program, float or converted to `quantized_decomposed` operators. It is left as
            it is.
        example_inputs: CPU tensors in the model's own shapes and dtypes, one an input. Only "onednn" runs without.
        route: "onednn" makes a module of eager torch at once, "inductor" compiles, "onnxruntime" exports. Quantize for
            the same target, or the kernels of this one may not fit.
        dynamic_shapes: As `torch.export.export` takes it; None keeps all shapes as they are.
        integer_io: Whether inputs and outputs are the raw integers: see `quantizer_sdk.backend.strip_boundary`.
        **options: What only one route takes: `lower_inductor`'s `min_fused` and `autocast`, or ONNX Runtime's
            `settings`.

    Raises:
        RuleError: There is no such route.
        LoweringError: The runtime or its compiler refuses the model.
        MissingDependencyError: The runtime is not installed.
    """
    return _ROUTES[Target.named(route)](
        model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io, **options
    )
