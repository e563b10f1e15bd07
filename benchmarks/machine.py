"""The facts about a machine that a measurement means nothing without."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from segmentation_node.backends.cpu import cpu_info
from segmentation_node.evaluation.run.provenance import machine_facts

FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Those that decide which kernels a run time takes: x86-64 first, then Arm."""
PACKAGES = (
    "numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch", "ros-rmw-fastrtps-cpp",
)  # fmt: skip
SMI_FIELDS = (
    "driver_version", "persistence_mode", "power.limit", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "temperature.gpu", "utilization.gpu",
)  # fmt: skip
CPU_FOLDER = Path("/sys/devices/system/cpu")


def facts() -> dict[str, Any]:
    """Under ``machine`` in a results file, as it is at this moment."""
    info = cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    logical = os.cpu_count() or 1
    # Logical cores that share their hardware count once.
    siblings = {_text(path) for path in CPU_FOLDER.glob("cpu*/topology/thread_siblings_list")}
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **machine_facts(),  # processor (on a Jetson the board), logical_cores, load_average, system
        "physical_cores": len(siblings) or None,
        "threads_per_core": logical // len(siblings) if siblings else None,
        "usable_cores": len(os.sched_getaffinity(0)),  # that the benchmark was allowed
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        # Of the clock; most virtual machines do not say.
        "governor": _text(CPU_FOLDER / "cpu0" / "cpufreq" / "scaling_governor"),
        "is_virtual": "hypervisor" in flags if "flags" in info else None,  # Arm does not say
        "memory_gib": round(memory_bytes / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown",
    }


def gpu_facts(device: str) -> dict[str, Any]:
    """The GPU of a torch device such as ``cuda:0``, its driver, clocks and load at this moment."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "smi": _smi(str(getattr(properties, "uuid", ""))),
    }


def _smi(uuid: str) -> dict[str, str]:
    """What nvidia-smi says of this GPU; empty where it is missing, as on a Jetson."""
    fields = ("uuid", *SMI_FIELDS)
    said = _said(["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    for row in rows:
        if len(row) == len(fields) and (len(rows) == 1 or row[0] in (uuid, f"GPU-{uuid}")):
            return dict(zip(SMI_FIELDS, row[1:]))
    return {}


def _said(command: list[str]) -> str:
    """What it prints; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
