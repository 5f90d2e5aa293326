"""What a compiled program executes, read back from the code that inductor generated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from quantizer_sdk.backend import Delegation, Kernel

__all__ = ["count_integer_products", "decode_kernels", "delegation_of"]

_CPP_KERNEL = re.compile(r"^(?P<name>cpp_\w+) = async_compile\.cpp_pybinding\(\[(?P<types>[^\]]*)\]", re.MULTILINE)
_CALL = re.compile(
    r"^\s*(?:(?P<result>\w+) = )?"
    r"(?P<name>cpp_fused\w*|cpp_\w+|extern_kernels\.\w+|torch\.ops\.\w+\.\w+\.\w+|aten\.\w+(?:\.\w+)?)"
    r"\((?P<arguments>.*)\)\s*$"
)
_PRODUCT = re.compile(r"torch\.ops\.onednn\.(?P<name>q(?:conv|linear)\w*)\.(?P<overload>\w+)")
_BUFFER = re.compile(r"^\s*(?P<name>\w+) = empty_strided_cpu\(.*torch\.(?P<type>\w+)\)\s*$")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"_\d+$")
_DTYPE = re.compile(r"\btorch\.(uint8|int8|float32|bfloat16)\b")
_C_TYPES = {
    "uint8_t": "uint8",
    "int8_t": "int8",
    "int32_t": "int32",
    "int64_t": "int64",
    "bool": "bool",
    "float": "float",
    "double": "double",
    "at::BFloat16": "bfloat16",
    "bfloat16": "bfloat16",
    "half": "float16",
}
_TYPES = {"uint8": "uint8", "int8": "int8", "float32": "float", "bfloat16": "bfloat16"}
_FLOATS = frozenset({"float", "double", "bfloat16", "float16"})
# In a fused kernel's name these say where a value comes from or goes to, not that it is computed.
_CONVERSIONS = re.compile(
    r"(?:^|_)(?:de)?quantize_per_(?:tensor|channel)(?=_|$)"
    r"|(?:^|_)(?:clone|view|permute|transpose|reshape|flatten|t|to_copy|mm|addmm|linear|convolution|cat|expand|"
    r"unsqueeze|squeeze|slice|select|contiguous|clamp_max|clamp_min|bitwise_xor)(?=_|$)"
)
_QUANTIZE = re.compile(r"quantize_per_")


class _Pointer(NamedTuple):
    """A buffer that a kernel in C++ takes: the type of its elements, and whether they are written."""

    type: str
    written: bool


def decode_kernels(source: str) -> tuple[Kernel, ...]:
    """Decode the calls of kernels in the Python code that inductor generated, in order of execution.

    An integer product is named after its op, "qconv_pointwise", and what is added to it, "qlinear_pointwise.binary"; a
    kernel in C++ by the ops that it fuses, "cpp_fused_add_quantize_per_tensor"; any other by the function it calls.
    """
    pointers = {match["name"]: _pointers(match["types"]) for match in _CPP_KERNEL.finditer(source)}
    return tuple(_kernels(source, pointers))


def count_integer_products(kernels: tuple[Kernel, ...]) -> int:
    """Return how many of them multiply integers."""
    return sum(_is_product(kernel) for kernel in kernels)


def delegation_of(kernels: tuple[Kernel, ...], sources: dict[str, str] | None = None) -> Delegation:
    """Count what runs on integers, converts or moves; the float kernels are what was not taken.

    Args:
        kernels: The program's.
        sources: The user's lines, by names of kernels, where they are known.
    """
    left = tuple(kernel.name for kernel in kernels if not _is_taken(kernel))
    lines = tuple((sources or {}).get(name, "") for name in left)
    return Delegation(subgraphs=1, delegated=len(kernels) - len(left), non_delegated=left, sources=lines)


def _is_taken(kernel: Kernel) -> bool:
    return kernel.integer or kernel.conversion or kernel.moves or _is_product(kernel)


def _is_product(kernel: Kernel) -> bool:
    return kernel.name.startswith(("qconv", "qlinear"))


def _kernels(source: str, pointers: dict[str, tuple[_Pointer, ...]]) -> Iterator[Kernel]:
    """Yield the calls; a buffer has the type that a kernel in C++ gives it, or that it was made with."""
    types: dict[str, str] = {}
    for line in source.splitlines():
        made = _BUFFER.match(line)
        if made is not None:
            types[made["name"]] = _TYPES.get(made["type"], made["type"])
            continue
        call = _CALL.match(line)
        if call is None:
            continue
        name, arguments = call["name"], call["arguments"]
        product = _PRODUCT.match(name)
        if product is not None:
            kernel = _integer_product(product, arguments)
        elif name in pointers:
            kernel = _cpp_kernel(name, pointers[name])
            types.update(zip(arguments.split(", "), (pointer.type for pointer in pointers[name]), strict=False))
        elif name.startswith(("extern_kernels.", "torch.ops.", "aten.")):
            kernel = _library_call(name.removeprefix("torch.ops."), arguments, types)
        else:
            continue
        yield kernel
        if call["result"]:
            types[call["result"]] = kernel.outputs[0]


def _library_call(name: str, arguments: str, types: dict[str, str]) -> Kernel:
    """Return a call of one of torch's own kernels, which gives what it takes."""
    inputs = tuple(dict.fromkeys(types[word] for word in _WORD.findall(arguments) if word in types))
    inputs = inputs or ("uint8" if name.startswith("quantized.") else "float",)
    integer = not _FLOATS.intersection(inputs)
    return Kernel(name=name, inputs=inputs, outputs=inputs[:1], integer=integer, conversion=False)


def _integer_product(product: re.Match[str], arguments: str) -> Kernel:
    result = _TYPES[_DTYPE.findall(arguments)[-1]]
    binary = "binary" in product["overload"]
    name = f"{product['name']}.binary" if binary else product["name"]
    # A linear adds floats only; a convolution what it overwrites.
    other = ("float" if "linear" in product["name"] and result == "uint8" else result,) if binary else ()
    inputs = ("uint8", "int8", *other)
    integer = not _FLOATS.intersection((*inputs, result))
    return Kernel(name=name, inputs=inputs, outputs=(result,), integer=integer, conversion=False)


def _cpp_kernel(name: str, pointers: tuple[_Pointer, ...]) -> Kernel:
    inputs = tuple(pointer.type for pointer in pointers if not pointer.written)
    outputs = tuple(pointer.type for pointer in pointers if pointer.written)
    ops = _NUMBER.sub("", name).removeprefix("cpp_fused").removeprefix("_")
    rest = _CONVERSIONS.sub("", ops).strip("_")
    integer = not _FLOATS.intersection((*inputs, *outputs))
    only_moves = not rest and not _QUANTIZE.search(ops)
    return Kernel(
        name=_NUMBER.sub("", name),
        inputs=inputs,
        outputs=outputs,
        integer=integer,
        conversion=not integer and not rest and not only_moves,
        moves=only_moves,
    )


def _pointers(types: str) -> tuple[_Pointer, ...]:
    """Return the buffers that a C++ kernel takes, in order, without the sizes that follow."""
    entries = (entry.strip().strip("'\"") for entry in types.split(","))
    return tuple(
        _Pointer(
            _C_TYPES.get(kind := entry.removeprefix("const").rstrip("*").strip(), kind), not entry.startswith("const")
        )
        for entry in entries
        if entry.endswith("*")
    )
