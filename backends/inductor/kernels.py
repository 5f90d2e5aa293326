"""What a compiled program executes, read back from the code that inductor generated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from quantizer_sdk.backend import Delegation, Kernel

__all__ = [
    "KernelCall",
    "Pointer",
    "calls_of",
    "count_integer_products",
    "decode_calls",
    "decode_kernels",
    "delegation_of",
    "pointers_of",
]

_CPP_KERNEL = re.compile(
    r"^(?P<name>cpp_\w+) = async_compile\.cpp_pybinding\(.*?\bvoid +kernel\((?P<parameters>[^)]*)\)",
    re.MULTILINE | re.DOTALL,
)
_CALL = re.compile(
    r"^\s*(?:(?P<result>\w+) = )?"
    r"(?P<name>cpp_fused\w*|cpp_\w+|extern_kernels\.\w+|torch\.ops\.\w+\.\w+\.\w+|aten\.\w+(?:\.\w+)?)"
    r"\((?P<arguments>.*)\)\s*$"
)
_PRODUCT = re.compile(r"torch\.ops\.onednn\.(?P<name>q(?:conv|linear)\w*)\.(?P<overload>\w+)")
_BUFFER = re.compile(r"^\s*(?P<name>\w+) = empty_strided_cpu\(.*torch\.(?P<type>\w+)\)\s*$")
_ALIAS = re.compile(r"^\s*(?P<name>\w+) = (?:reinterpret_tensor\()?(?P<of>\w+)(?=;|$|, \()")
_RESULT = re.compile(r"^\s*return \(")
_NODES = re.compile(r"^\s*# Topologically Sorted Source Nodes: \[(?P<nodes>[^\]]*)\]")
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


class Pointer(NamedTuple):
    """A buffer that a kernel in C++ takes: the type of its elements, and what it does with them."""

    type: str
    is_read: bool
    is_written: bool


class KernelCall(NamedTuple):
    """A kernel, and the names of the nodes that it computes where the code says so: the last is its result."""

    kernel: Kernel
    nodes: tuple[str, ...]


def decode_kernels(source: str) -> tuple[Kernel, ...]:
    """Decode the calls of kernels in the Python code that inductor generated, in order of execution.

    An integer product is named after its op, "qconv_pointwise", and what is added to it, "qlinear_pointwise.binary"; a
    kernel in C++ by the ops that it fuses, "cpp_fused_add_quantize_per_tensor"; any other by the function it calls.
    """
    return tuple(call.kernel for call in decode_calls(source))


def decode_calls(source: str) -> tuple[KernelCall, ...]:
    """Decode the calls of kernels with the nodes that they compute; see `decode_kernels`."""
    pointers = {match["name"]: pointers_of(match["parameters"]) for match in _CPP_KERNEL.finditer(source)}
    return calls_of(source.splitlines(), pointers)


def calls_of(lines: Sequence[str], pointers: Mapping[str, tuple[Pointer, ...]]) -> tuple[KernelCall, ...]:
    """Decode the calls in lines of code.

    Args:
        lines: Python as inductor writes it.
        pointers: What each kernel in C++ takes, by its name.
    """
    return tuple(_calls(lines, pointers))


def count_integer_products(kernels: tuple[Kernel, ...]) -> int:
    """Return how many of them multiply integers."""
    return sum(_is_product(kernel) for kernel in kernels)


def delegation_of(calls: Sequence[KernelCall], lines: Mapping[str, str] | None = None) -> Delegation:
    """Count what runs on integers, converts or moves; the float kernels are what was not taken.

    Args:
        calls: The program's.
        lines: The user's lines, by names of nodes.
    """
    left = [call for call in calls if not _is_taken(call.kernel)]
    known = lines or {}
    sources = tuple(next((known[node] for node in reversed(call.nodes) if known.get(node)), "") for call in left)
    names = tuple(call.kernel.name for call in left)
    return Delegation(subgraphs=1, delegated=len(calls) - len(left), non_delegated=names, sources=sources)


def _is_taken(kernel: Kernel) -> bool:
    return kernel.integer or kernel.conversion or kernel.moves or _is_product(kernel)


def _is_product(kernel: Kernel) -> bool:
    return kernel.name.startswith(("qconv", "qlinear"))


def _calls(lines: Sequence[str], pointers: Mapping[str, tuple[Pointer, ...]]) -> Iterator[KernelCall]:
    """Yield the calls; a buffer has the type that a kernel in C++ gives it, or that it was made with."""
    types: dict[str, str] = {}
    bases = _bases(lines)
    read = _read_buffers(lines, pointers, bases)
    nodes: tuple[str, ...] = ()
    for line in lines:
        said = _NODES.match(line)
        if said is not None:
            nodes = tuple(said["nodes"].split(", "))
        alias = _ALIAS.match(line)
        if alias is not None and alias["of"] in types:
            types[alias["name"]] = types[alias["of"]]
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
            buffers = dict(zip(arguments.split(", "), pointers[name], strict=False))
            own = _scratch(arguments, pointers[name], bases)
            # What a kernel writes and nobody else reads is its own scratch.
            kept = [entry for at, entry in buffers.items() if at in read or (entry.is_read and at not in own)]
            kernel = _cpp_kernel(name, kept)
            types.update({at: entry.type for at, entry in buffers.items()})
        elif name.startswith(("extern_kernels.", "torch.ops.", "aten.")):
            kernel = _library_call(name.removeprefix("torch.ops."), arguments, types)
        else:
            continue
        yield KernelCall(kernel, nodes)
        nodes = ()
        if call["result"]:
            types[call["result"]] = kernel.outputs[0]


def _bases(lines: Sequence[str]) -> dict[str, str]:
    """Return the buffer that each other name of one is a view of."""
    bases: dict[str, str] = {}
    for line in lines:
        alias = None if _CALL.match(line) else _ALIAS.match(line)
        if alias is not None:
            bases[alias["name"]] = bases.get(alias["of"], alias["of"])
    return bases


def _read_buffers(
    lines: Sequence[str], pointers: Mapping[str, tuple[Pointer, ...]], bases: Mapping[str, str]
) -> frozenset[str]:
    """Return the names of the buffers that some call, or the program's result, is made of, in all their views."""
    read: set[str] = set()
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            read.update(_WORD.findall(line) if _RESULT.match(line) else ())
        elif call["name"] in pointers:
            arguments = call["arguments"].split(", ")
            own = _scratch(call["arguments"], pointers[call["name"]], bases)
            pairs = zip(arguments, pointers[call["name"]], strict=False)
            read.update(at for at, entry in pairs if entry.is_read and at not in own)
        else:
            read.update(_WORD.findall(call["arguments"]))
    whole = {bases.get(name, name) for name in read}
    return frozenset(read | whole | {name for name, base in bases.items() if base in whole})


def _scratch(arguments: str, pointers: Sequence[Pointer], bases: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the buffers that one call is given twice: to write, and to read what it wrote."""
    pairs = list(zip(arguments.split(", "), pointers, strict=False))
    written = {bases.get(at, at) for at, entry in pairs if entry.is_written and not entry.is_read}
    return frozenset(at for at, entry in pairs if bases.get(at, at) in written and entry.is_read)


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


def _cpp_kernel(name: str, pointers: Sequence[Pointer]) -> Kernel:
    inputs = tuple(pointer.type for pointer in pointers if pointer.is_read)
    outputs = tuple(pointer.type for pointer in pointers if pointer.is_written)
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


def pointers_of(parameters: str) -> tuple[Pointer, ...]:
    """Return the buffers that a C++ kernel takes, in order, without the sizes that follow."""
    found = []
    for parameter in parameters.split(","):
        kind, star, name = parameter.strip().rpartition("*")
        if star:
            plain = kind.removeprefix("const").strip()
            in_place = name.strip().startswith("in_out_ptr")
            found.append(Pointer(_C_TYPES.get(plain, plain), kind.startswith("const") or in_place, "const" not in kind))
    return tuple(found)
