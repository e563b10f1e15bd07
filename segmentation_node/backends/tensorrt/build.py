"""ONNX -> serialised engine, in whatever dialect of the builder is installed (8.2 to 11).

Also what is looked at before the minutes of a build are spent, and what it shows meanwhile.
"""

import os
import re
import sys
import tempfile
import threading
import time
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, TextIO

from segmentation_node.backends.tensorrt.cuda import MIB, CudaRuntime
from segmentation_node.backends.tensorrt.versions import last_error, register_plugins, shared_logger
from segmentation_node.errors import BackendError, reason

EXPLICIT_BATCH = 1  # bit 0 of the network's flags in 8 and 10; 11 ignores it
MEMORY_FILE = "/proc/meminfo"
# Estimates: TensorRT's and cuDNN's code and state on the host, and tactics tried on the GPU.
HOST_MIB, HOST_PER_ONNX, GPU_MIB = 400, 4, 128
REFRESH_S, LINE_S = 1.0, 10.0  # of progress on a terminal, and elsewhere
# How the versions name the operator at which they stop, in what the parser says or logs: 8 by the
# function that takes it, or as a plugin that there is none of; 10 and later also by itself.
_REFUSED_OPERATOR = re.compile(
    r"(?:could not|Cannot) find plugin: (\w+)|While parsing node number \d+ \[(\w+) "
    r"|and operator: (\w+)|In node \d+ \(import(?!FallbackPlugin)(\w+)\)"
)
_TIMED_LAYER = re.compile(r"Timing Runner: (.*)")

Report = Callable[[str], None]


class BuildRequest(NamedTuple):
    """What to build; ``timing_cache`` is empty or an earlier build's."""

    onnx: bytes
    precision: str
    workspace_mib: int
    timing_cache: bytes


class BuildResult(NamedTuple):
    """The serialised engine, the timing cache to keep, and what the user should know."""

    plan: bytes
    timing_cache: bytes
    notes: List[str]


def onnx_kind(trt: Any, precision: str) -> str:
    """Which artifact of the card this TensorRT takes at this precision.

    Without uint8 (before 8.5) the float variant; where precision is the graph's own matter (11)
    the half one for fp16.
    """
    if not hasattr(trt.DataType, "UINT8"):
        return "onnx_float"
    if precision == "fp16" and not hasattr(trt.BuilderFlag, "FP16"):
        return "onnx_fp16"
    return "onnx"


def build(trt: Any, request: BuildRequest, report: Report) -> BuildResult:
    """Build. ``report`` hears what is being done. Raises BackendError with TensorRT's reason."""
    logger = shared_logger(trt, lambda message: _report_timing(message, report))
    notes: List[str] = []
    try:
        register_plugins(trt, logger)
        builder = trt.Builder(logger)
        network = builder.create_network(EXPLICIT_BATCH)
        report("parsing the graph")
        _parse(trt, network, request.onnx, logger)
        config = _configure(trt, builder, request, notes)
        cache = _use_timing_cache(config, request.timing_cache, notes)
        monitor = _monitor(trt, report)
        if monitor is not None:
            config.progress_monitor = monitor
        report("building")
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(_failed(logger, request))
        return BuildResult(bytes(plan), bytes(cache.serialize()), notes)
    except (TypeError, RuntimeError, MemoryError) as error:  # how the bindings say "no object"
        raise BackendError(
            "TensorRT %s cannot build: %s (%s)"
            % (trt.__version__, reason(error), last_error(logger))
        ) from error


def _parse(trt: Any, network: Any, onnx: bytes, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    # Its desc() does not tell the node.
    messages = [reason(str(parser.get_error(index))) for index in range(parser.num_errors)]
    operators = _operators(messages + list(logger.errors))
    raise BackendError(
        "TensorRT %s does not take operator %s of the graph: %s; run the model on backend "
        "onnxruntime or torch, or export a network without it"
        % (trt.__version__, ", ".join(operators) or "?", "; ".join(messages) or last_error(logger))
    )


def _operators(texts: Sequence[str]) -> List[str]:
    """The operators that are named as refused."""
    found = [_REFUSED_OPERATOR.search(text) for text in texts]
    return sorted({match.group(match.lastindex or 0) for match in found if match})


def _configure(trt: Any, builder: Any, request: BuildRequest, notes: List[str]) -> Any:
    config = builder.create_builder_config()
    workspace_bytes = request.workspace_mib * MIB
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    else:
        config.max_workspace_size = workspace_bytes
    # On by default where the GPU has it; fp32 here means fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if request.precision == "fp16" and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
        if not builder.platform_has_fast_fp16:
            notes.append("this GPU has no fast half precision: fp32 may be as quick")
    return config


def _use_timing_cache(config: Any, content: bytes, notes: List[str]) -> Any:
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        notes.append("the timing cache does not fit this machine; a new one is made")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(trt: Any, report: Report) -> Any:
    """TensorRT's own progress, which 10 and later give; None before."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps = {}  # type: ignore[var-annotated]

        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report("%s %d/%d" % (phase_name, step + 1, self._steps.get(phase_name, 0)))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _report_timing(message: str, report: Report) -> None:
    """What 8 tells about its progress: the layer whose kernels it is trying."""
    timed = _TIMED_LAYER.search(message)
    if timed:
        report("timing " + reason(timed.group(1)))


def _failed(logger: Any, request: BuildRequest) -> str:
    why = last_error(logger)
    advice = ""
    if re.search("memory|workspace", why, re.IGNORECASE):
        advice = (
            "; close other programs, or change --workspace-mib (it is %d)" % request.workspace_mib
        )
    return "TensorRT gave no engine: %s%s" % (why, advice)


# Before a build


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


# Meanwhile


class BuildProgress:
    """Shows time and current step: one line rewritten on a terminal, a line now and then elsewhere.

    A thread writes it, because TensorRT may be silent for minutes; it lets other threads run.
    """

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._step = ""
        self._width = 0
        self._started_s = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build progress", daemon=True)

    def __enter__(self) -> "BuildProgress":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self._write()
        if self._is_terminal:
            self._stream.write("\n")

    def report(self, step: str) -> None:
        """What is being done now; from any thread."""
        self._step = step

    def _run(self) -> None:
        while not self._done.wait(REFRESH_S if self._is_terminal else LINE_S):
            self._write()

    def _write(self) -> None:
        line = "%4.0f s  %s" % (time.monotonic() - self._started_s, self._step)
        if self._is_terminal:
            line = line[:100]
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
