"""What this machine's processor is and computes in, as Linux says."""

import platform
from typing import Dict

CPU_INFO = "/proc/cpuinfo"


def cpu_info() -> Dict[str, str]:
    """What Linux says of the first logical core; Arm has neither a name nor ``flags``."""
    try:
        with open(CPU_INFO) as lines:
            first = lines.read().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def adds_int8_exactly() -> bool:
    """Whether products of 8 bits are added in 32 bits: x86-64 with VNNI, and other machines.

    An x86-64 CPU without it adds two products in 16 bits, which saturates. True too where the
    system does not tell.
    """
    if platform.machine() != "x86_64":
        return True
    flags = cpu_info().get("flags")
    return flags is None or "vnni" in flags


def multiplies_bf16() -> bool:
    """Whether an x86-64 CPU has instructions for bfloat16: AVX-512's or AMX's."""
    flags = cpu_info().get("flags", "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
