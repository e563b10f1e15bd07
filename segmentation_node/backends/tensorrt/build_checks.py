"""What a build needs of folder and memory, looked at before the minutes are spent."""

import os
import tempfile
from typing import Optional, Sequence

from segmentation_node.backends.tensorrt.cuda import MIB, CudaRuntime
from segmentation_node.errors import BackendError

MEMORY_FILE = "/proc/meminfo"
# Estimates: TensorRT's and cuDNN's code and state on the host, and tactics tried on the GPU.
HOST_MIB, HOST_PER_ONNX, GPU_MIB = 400, 4, 128


def check_folder(folder: str) -> None:
    """Make the engine folder and try to write there. Raises BackendError."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BackendError(
            "%s: engines cannot be written there (%s); give a folder that you can write with "
            "--engine-dir, and the same as the node's parameter engine_dir"
            % (folder, error.strerror or error)
        ) from error


def check_memory(onnx_bytes: int, workspace_mib: int, gpu_mib: Optional[int]) -> None:
    """Raises BackendError where host or GPU have less memory than a build is estimated to need.

    ``gpu_mib`` is what ``gpu_free_mib`` says; None is not checked.
    """
    needed = HOST_MIB + HOST_PER_ONNX * onnx_bytes // MIB
    found = host_free_mib()
    if found is not None and found < needed:
        raise BackendError(
            "%d MiB of memory and swap are free, a build needs about %d: close programs, stop the "
            "desktop (sudo systemctl isolate multi-user.target), or add swap" % (found, needed)
        )
    needed = workspace_mib + GPU_MIB
    if gpu_mib is not None and gpu_mib < needed:
        raise BackendError(
            "%d MiB of GPU memory are free, a build with a workspace of %d MiB needs about %d: "
            "close programs that use the GPU, or give a smaller --workspace-mib"
            % (gpu_mib, workspace_mib, needed)
        )


def gpu_free_mib(cuda: CudaRuntime, index: int) -> Optional[int]:
    """Memory that the current device could give, in MiB; None where that is not known.

    CUDA does not count what a Jetson's file cache would give back; the system does.
    """
    return host_free_mib(("MemAvailable",)) if cuda.is_integrated(index) else cuda.free_mib()


def host_free_mib(keys: Sequence[str] = ("MemAvailable", "SwapFree")) -> Optional[int]:
    """Memory that could be had, swap included, in MiB; None where the system does not say."""
    if not os.path.isfile(MEMORY_FILE):
        return None
    with open(MEMORY_FILE) as content:
        values = dict(line.split(":", 1) for line in content if ":" in line)
    try:
        return sum(int(values[key].split()[0]) for key in keys) // 1024
    except KeyError:
        return None


def unwritable(folder: str) -> str:
    """Why engines could not be written there, as far as that shows without trying; or empty."""
    existing = folder
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK):
        return ""
    return "%s: engines cannot be written there; give another --engine-dir" % folder
