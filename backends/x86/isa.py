"""Which instruction sets multiply uint8 by int8 without loss, and whether this machine has one."""

from __future__ import annotations

import torch

from quantizer_sdk.errors import RuleError

__all__ = ["INSTRUCTION_SETS", "sums_are_exact"]

INSTRUCTION_SETS = {
    "sse4": False,
    "avx2": False,
    "avx512": False,
    "avx2_vnni": True,
    "avx512_vnni": True,
    "amx": True,
}
"""By the name of an instruction set, whether its products of uint8 and int8 are summed in 32 bits.

The others sum pairs of products in 16 bits, which 2·255·127 exceeds: codes are then up to 54 off.
"""

_EXACT_CAPABILITIES = ("avx512_vnni", "avx_vnni", "amx_int8")


def sums_are_exact(isa: str | None = None) -> bool:
    """Whether products of uint8 and int8 are summed without loss.

    Args:
        isa: The instruction set of the machine that models are made for; None asks this machine. A processor that is
            no x86 has no such instructions to lose by.

    Raises:
        RuleError: The instruction set is unknown.
    """
    if isa is None:
        found = torch.cpu.get_capabilities()
        return found.get("architecture") != "x86_64" or any(found.get(name, False) for name in _EXACT_CAPABILITIES)
    if isa not in INSTRUCTION_SETS:
        message = f"deployment_isa={isa!r}; expected None, for this machine, or one of {', '.join(INSTRUCTION_SETS)}"
        raise RuleError(message)
    return INSTRUCTION_SETS[isa]
