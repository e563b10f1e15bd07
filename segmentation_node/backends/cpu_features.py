"""What the machine's CPU can do that decides whether int8 can be trusted on it."""

import platform

CPU_INFO = "/proc/cpuinfo"


def adds_int8_exactly() -> bool:
    """Whether products of 8 bits are added in 32 bits: x86-64 with VNNI, and other machines.

    An x86-64 CPU without it adds two products in 16 bits, which saturates. True too where the
    system does not tell.
    """
    if platform.machine() != "x86_64":
        return True
    try:
        with open(CPU_INFO) as lines:
            flags = [line for line in lines if line.startswith("flags")]
    except OSError:
        return True
    return not flags or any("vnni" in line for line in flags)
