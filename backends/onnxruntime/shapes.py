"""What moves elements or makes tensors: views, slices, gathers, constants of a shape; as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.forms import reshape_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = [
    "arange",
    "cat",
    "expand",
    "filled",
    "flip",
    "gather",
    "index",
    "pad",
    "permute",
    "pixel_shuffle",
    "repeat",
    "reshape",
    "resize",
    "scatter",
    "select",
    "slice_",
    "split",
    "split_evenly",
    "split_into",
    "squeeze",
    "stack",
    "triangle",
    "unbind",
    "unsqueeze",
]

_END = 2**63 - 1


def reshape(call: Call) -> ir.Value:
    """Reshape to the shape of the result, whatever op asked for it."""
    x, shape = call.value(call.operand), reshape_target(call.node)
    if shape is not None:
        keeps_zero = 1 if 0 in shape else None  # else a size of 0 means that of the operand
        return call.emit("Reshape", x, call.int64("shape", shape), allowzero=keeps_zero)
    asked = call.args.get("size", call.args.get("shape"))
    if asked is None and "start_dim" in call.args:
        return _flatten(call, x)
    if "sizes" in call.args:
        return _unflatten(call, x)
    if asked is None or not any(isinstance(size, (int, Node)) for size in asked):
        raise call.refuse(f"a result of shape {tuple(call.example().shape)}; expected at most one dynamic size")
    return call.emit("Reshape", x, call.vector("shape", asked))


def _flatten(call: Call, x: ir.Value) -> ir.Value:
    rank = call.example(call.operand).dim()
    start, end = (call.args[name] % rank for name in ("start_dim", "end_dim"))
    parts = [call.emit("Shape", x, start=0, end=start)] if start else []
    parts.append(call.int64("flat", [-1]))
    if end + 1 < rank:
        parts.append(call.emit("Shape", x, start=end + 1, end=rank))
    return call.emit("Reshape", x, parts[0] if len(parts) == 1 else call.emit("Concat", *parts, axis=0))


def _unflatten(call: Call, x: ir.Value) -> ir.Value:
    rank = call.example(call.operand).dim()
    axis = call.args["dim"] % rank
    parts = [call.emit("Shape", x, start=0, end=axis)] if axis else []
    parts.append(call.vector("sizes", call.args["sizes"]))
    if axis + 1 < rank:
        parts.append(call.emit("Shape", x, start=axis + 1, end=rank))
    return call.emit("Reshape", x, call.emit("Concat", *parts, axis=0) if len(parts) > 1 else parts[0])


def squeeze(call: Call) -> ir.Value:
    """Reshape; Squeeze where several sizes are dynamic."""
    if reshape_target(call.node) is not None:
        return reshape(call)
    shape = call.example(call.operand).shape
    axes = [axis for axis in call.axes() if isinstance(shape[axis], int) and shape[axis] == 1]
    return call.emit("Squeeze", call.value(call.operand), call.int64("axes", axes))


def unsqueeze(call: Call) -> ir.Value:
    """Reshape; Unsqueeze where several sizes are dynamic."""
    if reshape_target(call.node) is not None:
        return reshape(call)
    return call.emit("Unsqueeze", call.value(call.operand), call.int64("axes", call.integers("dim")))


def permute(call: Call) -> ir.Value:
    """Transpose."""
    rank = call.example(call.args["self"]).dim()
    order = list(range(rank))
    if "dims" in call.args:
        order = [dim % rank for dim in call.integers("dims")]
    elif rank > 1:
        first, second = (call.args.get(name, default) % rank for name, default in (("dim0", 0), ("dim1", 1)))
        order[first], order[second] = second, first
    return call.emit("Transpose", call.value(call.args["self"]), perm=order)


def slice_(call: Call) -> ir.Value:
    """Slice."""
    ends = {"start": 0, "end": _END}
    call.args.update({name: number for name, number in ends.items() if call.args[name] is None})
    operands = [call.vector(name, [call.args[name]]) for name in ("start", "end", "dim", "step")]
    return call.emit("Slice", call.value(call.args["self"]), *operands)


def select(call: Call) -> ir.Value:
    """Gather of one index."""
    chosen = call.args["index"]
    index = call.scalar(chosen, torch.int64) if isinstance(chosen, int) else call.value(chosen, torch.int64)
    return call.emit("Gather", call.value(call.args["self"]), index, axis=call.args["dim"])


def split(call: Call) -> tuple[ir.Value, ...]:
    """Split into parts of one size, the last of which may be smaller."""
    size = call.args["split_size"]
    length = call.example(call.args["self"]).shape[call.args["dim"]]
    if not isinstance(length, int) or not isinstance(size, int):
        raise call.refuse("a split of a dynamic size; expected a fixed one")
    return _split(call, [min(size, length - start) for start in range(0, length, size)] or [0])


def split_into(call: Call) -> tuple[ir.Value, ...]:
    """Split into parts of given sizes."""
    return _split(call, call.args.get("split_sizes", call.args.get("split_size")))


def split_evenly(call: Call) -> tuple[ir.Value, ...]:
    """Split into a number of parts."""
    values = call.node.meta["val"]
    sizes = [value.shape[call.args["dim"]] for value in values]
    if not all(isinstance(size, int) for size in sizes):
        raise call.refuse("a chunk of a dynamic size; expected a fixed one")
    return _split(call, sizes)


def unbind(call: Call) -> tuple[ir.Value, ...]:
    """One tensor for each index along an axis."""
    x, axis = call.value(call.args["self"]), call.args["dim"]
    count = len(call.node.meta["val"])
    return tuple(call.emit("Gather", x, call.scalar(place, torch.int64), axis=axis) for place in range(count))


def _split(call: Call, sizes: Any) -> tuple[ir.Value, ...]:
    return call.emits(
        "Split", len(sizes), call.value(call.args["self"]), call.vector("sizes", sizes), axis=call.args["dim"]
    )


def cat(call: Call) -> ir.Value:
    """Concat, of what is not empty."""
    dtype = call.example().dtype
    tensors = [node for node in call.args["tensors"] if list(call.example(node).shape) != [0]]
    return call.emit("Concat", *(call.value(node, dtype) for node in tensors), axis=call.args["dim"])


def stack(call: Call) -> ir.Value:
    """Concat along a new axis."""
    axis = call.args["dim"] % call.example().dim()
    place, dtype = call.int64("axis", [axis]), call.example().dtype
    parts = [call.emit("Unsqueeze", call.value(node, dtype), place) for node in call.args["tensors"]]
    return call.emit("Concat", *parts, axis=axis)


def expand(call: Call) -> ir.Value:
    """Expand; a size of -1 is that of the operand, which a 1 leaves as it is."""
    if "size" in call.args:
        shape = call.vector(
            "shape", [1 if isinstance(size, int) and size == -1 else size for size in call.args["size"]]
        )
    else:
        shape = call.emit("Shape", call.value(call.args["other"]))
    return call.emit("Expand", call.value(call.args["self"]), shape)


def repeat(call: Call) -> ir.Value:
    """Tile, after axes of 1 in front."""
    repeats: Any = call.args.get("repeats", call.args.get("dims"))
    missing = len(repeats) - call.example(call.args["self"]).dim()
    x = call.value(call.args["self"])
    if missing > 0:
        x = call.emit("Unsqueeze", x, call.int64("axes", list(range(missing))))
    return call.emit("Tile", x, call.vector("repeats", [1] * -missing + list(repeats)))


def flip(call: Call) -> ir.Value:
    """Slice backwards."""
    axes = call.integers("dims")
    backwards = [[-1] * len(axes), [-_END] * len(axes), axes, [-1] * len(axes)]
    return call.emit("Slice", call.value(call.args["self"]), *(call.int64("flip", numbers) for numbers in backwards))


def pad(call: Call) -> ir.Value:
    """Pad with a number, or with what lies at the border; aten names the last axis first."""
    modes = {"constant": None, "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    mode = modes[call.args.get("mode", "constant")]
    rank = call.example(call.args["self"]).dim()
    amounts = list(call.args["pad"])
    amounts = amounts + [0] * (2 * rank - len(amounts))
    pads = call.vector("pads", [*amounts[-2::-2], *amounts[::-2]])
    x = call.value(call.args["self"])
    if mode is not None:
        return call.emit("Pad", x, pads, mode=mode)
    return call.emit("Pad", x, pads, call.scalar(call.args["value"] or 0, call.example().dtype))


def gather(call: Call, operator: str) -> ir.Value:
    """Gather of slices, or of elements."""
    indices = call.value(call.args["index"])
    return call.emit(operator, call.value(call.args["self"]), indices, axis=call.args["dim"])


def scatter(call: Call) -> ir.Value:
    """ScatterElements."""
    operands = [call.value(call.args[name]) for name in ("self", "index", "src")]
    return call.emit("ScatterElements", *operands, axis=call.args["dim"])


def index(call: Call) -> ir.Value:
    """Gather where one axis is indexed; GatherND where neighbouring axes from the first are."""
    chosen = call.args["indices"]
    places = [place for place, item in enumerate(chosen) if item is not None]
    if any(call.example(chosen[place]).dtype is torch.bool for place in places):
        raise call.refuse("an index by truth values; expected places")
    if len(places) == 1:
        return call.emit("Gather", call.value(call.args["self"]), call.value(chosen[places[0]]), axis=places[0])
    if places != list(range(len(places))):
        raise call.refuse(f"an index of axes {places}; expected one axis, or neighbouring ones from the first")
    sizes = [call.example(chosen[place]).shape for place in places]
    shape: Any = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]  # torch has no types for it
    size = call.vector("shape", list(shape))
    columns = [
        call.emit("Unsqueeze", call.emit("Expand", call.value(chosen[place], torch.int64), size), call.int64("a", [-1]))
        for place in places
    ]
    return call.emit("GatherND", call.value(call.args["self"]), call.emit("Concat", *columns, axis=-1))


def arange(call: Call) -> ir.Value:
    """Range."""
    dtype = call.example().dtype
    ends = (call.args.get("start", 0), call.args["end"], call.args.get("step", 1))
    numbers = [item for item in ends if isinstance(item, (int, float))]
    if len(numbers) == 3:
        return call.constant("range", torch.arange(*numbers, dtype=dtype))
    operands = (call.scalar(end, dtype) if isinstance(end, (int, float)) else call.value(end, dtype) for end in ends)
    return call.emit("Range", *operands)


def filled(call: Call, value: str | float = "fill_value") -> ir.Value:
    """Expand of a number to a shape, or to that of another tensor."""
    number = call.args[value] if isinstance(value, str) else value
    dtype = call.example().dtype
    filling = call.scalar(number, dtype) if isinstance(number, (bool, int, float)) else call.value(number, dtype)
    sizes = call.example().shape
    if all(isinstance(size, int) for size in sizes):
        shape = call.int64("shape", list(sizes))
    elif "size" in call.args:
        shape = call.vector("shape", call.args["size"])
    else:
        shape = call.emit("Shape", call.value(call.args["self"]))
    return call.emit("Expand", filling, shape)


def triangle(call: Call, *, upper: bool) -> ir.Value:
    """Trilu."""
    diagonal = call.scalar(call.args["diagonal"], torch.int64)
    x = call.value(call.args["self"])
    if call.example().dtype is torch.bool:
        whole = call.cast(x, torch.int32)
        return call.cast(call.emit("Trilu", whole, diagonal, upper=int(upper)), torch.bool)
    return call.emit("Trilu", x, diagonal, upper=int(upper))


def pixel_shuffle(call: Call) -> ir.Value:
    """DepthToSpace."""
    return call.emit("DepthToSpace", call.value(call.args["self"]), blocksize=call.args["upscale_factor"], mode="CRD")


def resize(call: Call, mode: str) -> ir.Value:
    """Resize to the shape of the result."""
    shape = list(call.example().shape)
    if not all(isinstance(size, int) for size in shape[1:]):
        raise call.refuse(f"a result of shape {tuple(shape)}; expected fixed sizes but for the batch")
    x = call.value(call.args["self"] if "self" in call.args else call.args["input"])
    batch = [call.emit("Shape", x, start=0, end=1)]
    sizes = call.emit("Concat", *batch, call.int64("sizes", shape[1:]), axis=0)
    corners = bool(call.args.get("align_corners"))
    if mode == "nearest":
        options: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        options = {"coordinate_transformation_mode": "align_corners" if corners else "pytorch_half_pixel"}
        if mode == "cubic":
            options["cubic_coeff_a"] = -0.75
    return call.emit("Resize", x, None, None, sizes, mode=mode, **options)
