"""What a package executes, read back from the C++ code in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from quantizer_sdk.backends.inductor.kernels import KernelCall, calls_of, pointers_of

__all__ = ["decode_packaged_calls"]

_DEFINITION = re.compile(r'^extern "C" +void +(?P<name>cpp_\w+)\((?P<parameters>[^)]*)\)', re.MULTILINE)
_CPP_CALL = re.compile(r"^\s*(?P<name>cpp_fused\w*)\((?P<arguments>.*)\);\s*$")
_LIBRARY_CALL = re.compile(r"\b(?P<name>aoti_torch_(?:cpu|mkldnn|proxy)_\w+)\((?P<arguments>.*?)\)\);\s*$")
_PRODUCT = re.compile(r"^aoti_torch_cpu__(?P<name>q(?:conv2d|conv|linear)_pointwise)_(?P<overload>\w+)$")
_MADE = re.compile(r"aoti_torch_empty_strided\(.*cached_torch_dtype_(?P<type>\w+),.*&(?P<name>\w+)_handle\)")
_TYPE = re.compile(r"int32_t (?P<name>\w+) = (?:cached_torch_dtype_|aoti_torch_dtype_)(?P<type>\w+?)(?:\(\))?;")
_OPERAND = re.compile(r"\)\((\w+)\.data_ptr\(\)\)|^(\w+)$")
_HANDLE = re.compile(r"&(\w+)_handle")
_RESULT = re.compile(r"output_handles\[\d+\] = (\w+)\.release")


def decode_packaged_calls(source: str) -> tuple[KernelCall, ...]:
    """Decode the calls of kernels in a package's C++ code, in order of execution, named as `decode_kernels` does."""
    pointers = {match["name"]: pointers_of(match["parameters"]) for match in _DEFINITION.finditer(source)}
    return calls_of(list(_in_python(source)), pointers)


def _in_python(source: str) -> Iterator[str]:
    """Yield the lines that make buffers and call kernels, in the words of inductor's Python code."""
    types: dict[str, str] = {}
    for line in source.splitlines():
        if (kind := _TYPE.search(line)) is not None:
            types[f"&{kind['name']}"] = f"torch.{kind['type']}"
        elif (made := _MADE.search(line)) is not None:
            yield f"{made['name']} = empty_strided_cpu((), (), torch.{made['type']})"
        elif (call := _CPP_CALL.match(line)) is not None:
            operands = (_OPERAND.search(part.strip()) for part in call["arguments"].split(", "))
            yield f"{call['name']}({', '.join(found[1] or found[2] for found in operands if found is not None)})"
        elif (call := _LIBRARY_CALL.search(line)) is not None:
            yield _library_call(call["name"], call["arguments"], types)
        elif (result := _RESULT.search(line)) is not None:
            yield f"return ({result[1]}, )"


def _library_call(name: str, arguments: str, types: dict[str, str]) -> str:
    handle = _HANDLE.search(arguments)
    made = f"{handle[1]} = " if handle is not None else ""
    for variable, kind in types.items():
        arguments = re.sub(rf"{variable}\b", kind, arguments)
    product = _PRODUCT.match(name)
    if product is not None:
        return f"{made}torch.ops.onednn.{product['name']}.{product['overload']}({arguments})"
    return f"{made}extern_kernels.{name.removeprefix('aoti_torch_').removeprefix('cpu_')}({arguments})"
