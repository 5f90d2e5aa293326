"""Replace every observer by a quantize op and a dequantize op for each user.

Requires a prepared graph. Ensures: no observer is left; every dequantize has one user, as backends' matchers expect;
the new nodes carry the provenance of the tensor that they quantize.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, constant_nodes
from quantizer_sdk.errors import NonFiniteError, UncalibratedError
from quantizer_sdk.observers.create import is_observer
from quantizer_sdk.passes.fit_bias import fit_bias
from quantizer_sdk.provenance import describe, value_of
from quantizer_sdk.qdq import QParams, emit_dequantize, emit_quantize
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES

__all__ = ["observers_to_qdq"]

_PROVENANCE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom", "seq_nr")


def observers_to_qdq(model: GraphModule) -> None:
    """Convert all observers, or none.

    Raises:
        UncalibratedError: Observers have seen no data; names each.
        NonFiniteError: An observer of another library yields a scale that is no positive number.
    """
    modules = dict(model.named_modules())
    calls = [node for node in model.graph.nodes if node.op == "call_module" and is_observer(modules[str(node.target)])]
    constants, constant = Constants(model), constant_nodes(model.graph)
    _observe_constants(calls, modules, constants, constant)
    _refuse_uncalibrated(calls, modules)
    chosen = {str(call.target): _choose(modules[str(call.target)], call) for call in calls}
    for call in fit_bias(calls, modules, chosen, constants, constant):
        chosen[str(call.target)] = _choose(modules[str(call.target)], call)
    stored: dict[str, tuple[Node, Node]] = {}
    examples = _Examples()
    for call in calls:
        name = str(call.target)
        tensor = call.args[0]
        assert isinstance(tensor, Node)
        if getattr(modules[name], "keep_float", False) and tensor.op == "get_attr":
            _round_constant(model, constants, call, tensor, modules[name], chosen[name])
            continue
        with model.graph.inserting_before(call):
            qparams = _qparams(constants, name, modules[name], chosen[name], tensor, stored)
            _replace(model, call, tensor, qparams, examples)
    for name in dict.fromkeys(str(call.target) for call in calls):
        delattr(model, name)


def _observe_constants(
    calls: list[Node], modules: dict[str, nn.Module], constants: Constants, constant: set[Node]
) -> None:
    """Show weights to observers that have not seen them: they need no calibration data."""
    for call in calls:
        tensor, observer = call.args[0], modules[str(call.target)]
        assert isinstance(tensor, Node)
        if tensor in constant and not _calibrated(observer):
            _own_buffers(observer)
            with torch.no_grad():
                observer(constants.compute(tensor, {}))


def _own_buffers(observer: nn.Module) -> None:
    """Part an observer's buffers from those of the prepared model: other libraries' observers write into them."""
    for module in observer.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()


def _calibrated(observer: nn.Module) -> bool:
    """Whether an observer has seen data.

    Those of other libraries keep it in `min_val`, empty or infinite till then; their fake quantizers hold an observer.
    """
    known = getattr(observer, "calibrated", None)
    if known is not None:
        return bool(known)
    observer = getattr(observer, "activation_post_process", observer)
    low = getattr(observer, "min_val", None)
    return low is None or (low.numel() > 0 and bool(torch.isfinite(low).all()))


def _refuse_uncalibrated(calls: list[Node], modules: dict[str, nn.Module]) -> None:
    missing = {
        str(call.target): describe(tensor)
        for call in calls
        if isinstance(tensor := call.args[0], Node) and not _calibrated(modules[str(call.target)])
    }
    if missing:
        names = "; ".join(f"{name} on the output of {where}" for name, where in list(missing.items())[:20])
        more = f"; and {len(missing) - 20} more" if len(missing) > 20 else ""
        message = (
            f"{len(missing)} of {len({call.target for call in calls})} observers have seen no data: {names}{more}. "
            "Run the prepared model on calibration data before convert_pt2e, on inputs that reach these tensors"
        )
        raise UncalibratedError(message)


def _choose(observer: Any, call: Node) -> tuple[torch.Tensor, torch.Tensor]:
    scale, zero_point = observer.calculate_qparams()
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        where = describe(call.all_input_nodes[0])
        message = f"{call.target} on the output of {where} yields a scale that is no positive number"
        raise NonFiniteError(message)
    return scale, zero_point


def _qparams(
    constants: Constants,
    name: str,
    observer: Any,
    chosen: tuple[torch.Tensor, torch.Tensor],
    tensor: Node,
    stored: dict[str, tuple[Node, Node]],
) -> QParams:
    scale, zero_point = chosen
    quant_min, quant_max, dtype = observer.quant_min, observer.quant_max, observer.dtype
    if observer.qscheme not in PER_CHANNEL_SCHEMES:
        return QParams(
            scale=float(scale), zero_point=int(zero_point), quant_min=quant_min, quant_max=quant_max, dtype=dtype
        )
    if name not in stored:
        near = str(tensor.target) if tensor.op == "get_attr" else name
        stored[name] = (
            constants.add(f"{near}_scale", scale.detach().to(torch.float32), like=tensor),
            constants.add(f"{near}_zero_point", zero_point.detach().to(torch.int64), like=tensor),
        )
    return QParams(
        scale=stored[name][0],
        zero_point=stored[name][1],
        quant_min=quant_min,
        quant_max=quant_max,
        dtype=dtype,
        ch_axis=observer.ch_axis,
    )


def _round_constant(
    model: GraphModule,
    constants: Constants,
    call: Node,
    tensor: Node,
    observer: Any,
    chosen: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Replace a constant by its value rounded to the codes, computed in float64 and stored in the same float type."""
    scale, zero_point = (value.detach().to(torch.float64) for value in chosen)
    value = constants.read(tensor).detach()
    if observer.ch_axis is not None:
        shape = [-1 if axis == observer.ch_axis else 1 for axis in range(value.dim())]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    codes = torch.clamp(torch.round(value.double() / scale) + zero_point, observer.quant_min, observer.quant_max)
    target = str(tensor.target)
    call.args = ()
    constants.release(tensor)
    with model.graph.inserting_before(call):
        rounded = constants.add(target, ((codes - zero_point) * scale).to(value.dtype), like=tensor)
    call.replace_all_uses_with(rounded)
    model.graph.erase_node(call)


class _Examples:
    """Example values of codes. Equal ones are one object: making one takes longer than making its node."""

    def __init__(self) -> None:
        self._made: dict[Any, torch.Tensor] = {}

    def of(self, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return an example like `value`, of another dtype."""
        if not all(isinstance(size, int) for size in value.shape):
            return value.to(dtype)
        key = (id(getattr(value, "fake_mode", None)), value.device, value.shape, value.stride(), dtype)
        if key not in self._made:
            self._made[key] = value.to(dtype)
        return self._made[key]


def _replace(model: GraphModule, call: Node, tensor: Node, qparams: QParams, examples: _Examples) -> None:
    value = value_of(tensor)
    is_tensor = isinstance(value, torch.Tensor)
    provenance = {key: tensor.meta[key] for key in _PROVENANCE if key in tensor.meta}
    codes = emit_quantize(model.graph, tensor, qparams)
    codes.meta.update(provenance)
    if is_tensor:
        codes.meta["val"] = examples.of(value, qparams.dtype)
    for user in list(call.users):
        real = emit_dequantize(model.graph, codes, qparams, value.dtype if is_tensor else None)
        real.meta.update(provenance)
        if is_tensor:
            real.meta["val"] = value
        user.replace_input_with(call, real)
    model.graph.erase_node(call)
    if not codes.users:
        model.graph.erase_node(codes)
