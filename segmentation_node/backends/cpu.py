"""What this machine's processor is and computes in, and how much of it is ours, as Linux says."""

import os
import platform
from typing import Dict, Iterator, List

CPU_INFO = "/proc/cpuinfo"
OWN_GROUPS = "/proc/self/cgroup"
GROUPS = "/sys/fs/cgroup"
LIMITS = {"": ("", "cpu.max"), "cpu": ("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")}
"""Where control groups of version 2, which name no controllers, and of version 1 have the limit of
their time: a folder, and in each group's files it and its period."""


def cpu_info() -> Dict[str, str]:
    """What Linux says of the first logical core; Arm has neither a name nor ``flags``."""
    first = "\n".join(_lines(CPU_INFO)).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def usable_cores() -> int:
    """Logical cores for this process, at least 1: those it may run on, or fewer where its control
    groups limit its time.

    A container's ``--cpus``, Kubernetes' limit and systemd's CPUQuota take time, not cores. Of a
    broken core nothing is used: with one thread too many all wait for the one that was stopped.
    """
    cores = [len(os.sched_getaffinity(0))] + [int(limit) for limit in _limits_of_time()]
    return max(1, min(cores))


def threads_of_limit() -> int:
    """Threads that such a limit leaves; 0 where there is none, for a run time's own choice.

    Run times look at the cores alone.
    """
    cores = usable_cores()
    return cores if cores < len(os.sched_getaffinity(0)) else 0


def _limits_of_time() -> Iterator[float]:
    """In cores, of this process's groups and of all around them."""
    for line in _lines(OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        for name in LIMITS.keys() & controllers.split(","):
            folder, *files = LIMITS[name]
            # In a container the path may be the host's; the topmost folder is the container's own.
            steps = [step for step in path.split("/") if step]
            for depth in range(len(steps) + 1):
                yield from _limit_of(os.path.join(GROUPS, folder, *steps[:depth]), files)


def _limit_of(group: str, files: List[str]) -> List[float]:
    """None or one."""
    lines = [line for file in files for line in _lines(os.path.join(group, file))]
    words = " ".join(lines).split()
    is_limited = len(words) == 2 and all(word.isdigit() for word in words)  # not max, nor -1
    return [int(words[0]) / int(words[1])] if is_limited else []


def _lines(path: str) -> List[str]:
    try:
        with open(path) as content:
            return content.read().splitlines()
    except OSError:
        return []


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
