"""The facts about a machine that a measurement means nothing without."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch")
SMI_FIELDS = (
    "driver_version",
    "persistence_mode",
    "power.limit",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "temperature.gpu",
    "utilization.gpu",
)


def machine_facts() -> dict[str, Any]:
    """Processor, memory, versions, commit and load at this moment."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
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


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
