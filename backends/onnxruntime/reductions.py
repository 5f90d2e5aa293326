"""Reductions and normalizations as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = [
    "arg_reduce",
    "batch_norm",
    "cumsum",
    "extreme",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "mean",
    "norm",
    "reduce",
    "rms_norm",
    "softmax",
    "sort",
    "topk",
    "truth",
    "variance",
]


def reduce(call: Call, operator: str) -> ir.Value:
    """A reduction over some axes, or all."""
    x = call.value(call.operand, call.example().dtype)
    axes = call.int64("axes", call.axes())
    return call.emit(operator, x, axes, keepdims=int(call.args.get("keepdim", False)))


def mean(call: Call) -> ir.Value:
    """GlobalAveragePool over all of an image's axes, which has an integer kernel; else ReduceMean."""
    rank = call.example(call.args["self"]).dim()
    dims, keep = call.axes(), bool(call.args.get("keepdim", False))
    x = call.value(call.args["self"], call.example().dtype)
    if rank > 2 and keep and dims == list(range(2, rank)):
        return call.emit("GlobalAveragePool", x)
    return call.emit("ReduceMean", x, call.int64("axes", dims), keepdims=int(keep))


def variance(call: Call) -> ir.Value:
    """The mean of squared distances from the mean, corrected for the number of elements; or its root."""
    x, axes = call.value(call.operand), call.int64("axes", call.axes())
    apart = call.emit("Sub", x, call.emit("ReduceMean", x, axes, keepdims=1))
    total = call.emit("ReduceSumSquare", apart, axes, keepdims=int(call.args.get("keepdim", False)))
    correction = call.args.get("correction", 1)
    correction = 1 if correction is None else correction
    if "unbiased" in call.args:
        correction = int(call.args["unbiased"])
    sizes = [call.example(call.operand).shape[axis] for axis in call.axes()]
    if not all(isinstance(size, int) for size in sizes):
        raise call.refuse("a variance over a dynamic size; expected fixed sizes")
    count = 1
    for size in sizes:
        count *= size
    result = call.emit("Div", total, call.value(float(count - correction)))
    return call.emit("Sqrt", result) if "std" in str(call.node.target) else result


def norm(call: Call) -> ir.Value:
    """The L1 or L2 norm of vectors."""
    order = call.args.get("ord", call.args.get("p", 2))
    order = 2 if order is None else order
    if order not in {1, 2}:
        raise call.refuse(f"a norm of order {order}; expected 1 or 2")
    return reduce(call, f"ReduceL{int(order)}")


def extreme(call: Call, operator: str) -> tuple[ir.Value, ir.Value]:
    """The largest or smallest element along an axis, and where it is."""
    axis, keep = call.args["dim"], int(call.args["keepdim"])
    x = call.value(call.args["self"])
    return (
        call.emit(f"Reduce{operator}", x, call.int64("axes", [axis]), keepdims=keep),
        call.emit(f"Arg{operator}", x, axis=axis, keepdims=keep),
    )


def arg_reduce(call: Call, operator: str) -> ir.Value:
    """The place of the largest or smallest element."""
    x = call.value(call.args["self"])
    if call.args["dim"] is None:
        flat = call.emit("Reshape", x, call.int64("flat", [-1]))
        return call.emit(operator, flat, axis=0, keepdims=0)
    return call.emit(operator, x, axis=call.args["dim"], keepdims=int(call.args["keepdim"]))


def truth(call: Call, operator: str) -> ir.Value:
    """Whether any or all elements are true."""
    numbers = call.cast(call.value(call.operand, torch.bool), torch.int32)
    axes = call.int64("axes", call.axes())
    return call.cast(call.emit(operator, numbers, axes, keepdims=int(call.args.get("keepdim", False))), torch.bool)


def cumsum(call: Call) -> ir.Value:
    """CumSum."""
    x = call.value(call.args["self"], call.example().dtype)
    return call.emit("CumSum", x, call.constant("axis", torch.tensor(call.args["dim"], dtype=torch.int64)))


def topk(call: Call) -> tuple[ir.Value, ...]:
    """TopK."""
    k = call.vector("k", [call.args["k"]])
    flags = {"largest": int(call.args["largest"]), "sorted": int(call.args["sorted"])}
    return call.emits("TopK", 2, call.value(call.args["self"]), k, axis=call.args["dim"], **flags)


def sort(call: Call) -> tuple[ir.Value, ...]:
    """TopK of all."""
    axis = call.args["dim"]
    size = call.example(call.args["self"]).shape[axis]
    x = call.value(call.args["self"])
    if isinstance(size, int):
        k = call.int64("k", [size])
    else:
        place = axis % call.example(call.args["self"]).dim()
        k = call.emit("Shape", x, start=place, end=place + 1)
    return call.emits("TopK", 2, x, k, axis=axis, largest=int(call.args["descending"]), sorted=1)


def softmax(call: Call, operator: str = "Softmax") -> ir.Value:
    """Softmax, or its logarithm."""
    return call.emit(operator, call.value(call.args["self"], call.example().dtype), axis=call.args["dim"])


def batch_norm(call: Call) -> ir.Value:
    """BatchNormalization; the functional form of aten's op has two more results, which nothing uses."""
    call.require(training=False)
    channels = int(call.example(call.args["running_mean"]).shape[0])
    scale = call.optional("weight") or call.constant("weight", torch.ones(channels))
    shift = call.optional("bias") or call.constant("bias", torch.zeros(channels))
    statistics = (call.value(call.args["running_mean"]), call.value(call.args["running_var"]))
    return call.emit(
        "BatchNormalization", call.value(call.args["input"]), scale, shift, *statistics, epsilon=call.args["eps"]
    )


def layer_norm(call: Call) -> ir.Value:
    """LayerNormalization. A sum before it is reshaped to what it is.

    Nothing is computed for that, and it keeps ONNX Runtime 1.32 from making SkipLayerNormalization of the two, which
    takes six times as long.
    """
    shape, source = call.integers("normalized_shape"), call.args["input"]
    scale = call.optional("weight") or call.constant("weight", torch.ones(shape))
    x = call.value(source)
    if source.target is torch.ops.aten.add.Tensor and call.example(source).dim() > 1:
        x = call.emit("Reshape", x, call.int64("same", [0] * (call.example(source).dim() - 1) + [-1]))
    return call.emit("LayerNormalization", x, scale, call.optional("bias"), axis=-len(shape), epsilon=call.args["eps"])


def rms_norm(call: Call) -> ir.Value:
    """The tensor by the root of its mean square."""
    shape = call.integers("normalized_shape")
    x = call.value(call.args["input"])
    eps = torch.finfo(call.example().dtype).eps if call.args["eps"] is None else call.args["eps"]
    axes = call.int64("axes", list(range(-len(shape), 0)))
    square = call.emit("ReduceMean", call.emit("Mul", x, x), axes, keepdims=1)
    root = call.emit("Sqrt", call.emit("Add", square, call.value(float(eps))))
    normal = call.emit("Div", x, root)
    return normal if call.args["weight"] is None else call.emit("Mul", normal, call.value(call.args["weight"]))


def instance_norm(call: Call) -> ir.Value:
    """InstanceNormalization, or BatchNormalization where it takes stored statistics."""
    if not call.args["use_input_stats"]:
        return batch_norm(call)
    channels = int(call.example(call.args["input"]).shape[1])
    scale = call.optional("weight") or call.constant("weight", torch.ones(channels))
    shift = call.optional("bias") or call.constant("bias", torch.zeros(channels))
    return call.emit("InstanceNormalization", call.value(call.args["input"]), scale, shift, epsilon=call.args["eps"])


def group_norm(call: Call) -> ir.Value:
    """InstanceNormalization of groups, then scale and shift of channels."""
    rank, groups = call.example(call.args["input"]).dim(), call.args["num_groups"]
    channels = int(call.example(call.args["input"]).shape[1])
    x = call.value(call.args["input"])
    ones, zeros = call.constant("ones", torch.ones(groups)), call.constant("zeros", torch.zeros(groups))
    grouped = call.emit("Reshape", x, call.int64("groups", [0, groups, -1]))
    normal = call.emit("InstanceNormalization", grouped, ones, zeros, epsilon=call.args["eps"])
    result = call.emit("Reshape", normal, call.emit("Shape", x))
    column = call.int64("column", [channels] + [1] * (rank - 2))
    for operator, name in (("Mul", "weight"), ("Add", "bias")):
        if call.args[name] is not None:
            result = call.emit(operator, result, call.emit("Reshape", call.value(call.args[name]), column))
    return result
