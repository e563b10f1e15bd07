"""What Linux says about the processor; measurements of one are not those of another."""

import os
import platform
from pathlib import Path
from typing import Any

FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Those that decide which kernels a run time takes: x86-64 first, then Arm."""
CPU_FOLDER = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")


def processor_facts() -> dict[str, Any]:
    """Name, cores, instruction sets, clock governor, whether it is a virtual machine's."""
    logical, physical = os.cpu_count() or 1, _physical_cores()
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "processor": info.get("model name") or _device_tree_model() or platform.machine(),
        "logical_cores": logical,
        "physical_cores": physical,
        "threads_per_core": logical // physical if physical else None,
        "usable_cores": usable_cores(),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "governor": _text(CPU_FOLDER / "cpu0" / "cpufreq" / "scaling_governor"),
        # Arm has no such flag.
        "is_virtual": "hypervisor" in flags if "flags" in info else None,
    }


def usable_cores() -> int:
    """Logical cores that this process may use: fewer than there are where it is pinned."""
    return len(os.sched_getaffinity(0))


def _cpuinfo() -> dict[str, str]:
    """The entries of the first logical core."""
    first = CPUINFO.read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _physical_cores() -> int | None:
    """Logical cores that share their hardware count once."""
    siblings = {_text(path) for path in CPU_FOLDER.glob("cpu*/topology/thread_siblings_list")}
    return len(siblings) or None


def _device_tree_model() -> str | None:
    model = _text(DEVICE_TREE_MODEL)
    return model.rstrip("\0") if model else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
