"""The facts about a machine that a measurement means nothing without."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

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
ROOT = Path(__file__).resolve().parents[1]


class Machine(TypedDict):
    """Under ``machine`` in a results file: at the start of the run."""

    processor: str  # as Linux names it; on a Jetson the board
    logical_cores: int
    physical_cores: int | None
    threads_per_core: int | None
    usable_cores: int  # logical cores that the benchmark was allowed
    cpu_flags: list[str]  # those of FLAGS that it has
    governor: str | None  # of the clock; most virtual machines do not say
    is_virtual: bool | None  # whether there is a hypervisor; Arm does not say
    memory_gib: float
    load_average: list[float]  # over 1, 5 and 15 minutes
    system: str  # kernel and C library
    python: str
    versions: dict[str, str]  # of PACKAGES, or "not installed"
    commit: str  # of this repository
    gpu: NotRequired[dict[str, Any] | None]  # gpu_facts; None where a CPU stood in for it


def facts() -> dict[str, Any]:
    """A ``Machine`` as it is at this moment."""
    info = cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    logical, physical = os.cpu_count() or 1, _physical_cores()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **machine_facts(),
        "physical_cores": physical,
        "threads_per_core": logical // physical if physical else None,
        "usable_cores": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "governor": _text(CPU_FOLDER / "cpu0" / "cpufreq" / "scaling_governor"),
        "is_virtual": "hypervisor" in flags if "flags" in info else None,
        "memory_gib": round(memory_bytes / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
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
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    for row in rows:
        if len(row) == len(fields) and (len(rows) == 1 or row[0] in (uuid, f"GPU-{uuid}")):
            return dict(zip(SMI_FIELDS, row[1:]))
    return {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _physical_cores() -> int | None:
    """Logical cores that share their hardware count once."""
    siblings = {_text(path) for path in CPU_FOLDER.glob("cpu*/topology/thread_siblings_list")}
    return len(siblings) or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
