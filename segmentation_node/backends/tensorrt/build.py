"""ONNX -> serialised engine, in whatever dialect of the builder is installed (8.2 to 11)."""

import re
from typing import Any, Callable, List, NamedTuple

from segmentation_node.backends.tensorrt.versions import make_logger, one_line, reason
from segmentation_node.errors import BackendError

EXPLICIT_BATCH = 1  # bit 0 of the network's flags in 8 and 10; 11 ignores it
MIB = 1 << 20
# How 8 and 10 name the operator at which they stop, in what the parser says or logs.
_REFUSED_OPERATOR = re.compile(
    r"could not find plugin: (\w+)|While parsing node number \d+ \[(\w+) |and operator: (\w+)"
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
    logger = make_logger(trt, lambda message: _report_timing(message, report))
    notes: List[str] = []
    try:
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
            "TensorRT %s cannot build: %s (%s)" % (trt.__version__, one_line(error), reason(logger))
        ) from error


def _parse(trt: Any, network: Any, onnx: bytes, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    messages = [one_line(parser.get_error(index).desc()) for index in range(parser.num_errors)]
    found = [_REFUSED_OPERATOR.search(text) for text in messages + list(logger.errors)]
    operators = sorted({match.group(match.lastindex or 0) for match in found if match})
    raise BackendError(
        "TensorRT %s does not take operator %s of the graph: %s; run the model on backend "
        "onnxruntime or torch, or export a network without it"
        % (trt.__version__, ", ".join(operators) or "?", "; ".join(messages) or reason(logger))
    )


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
        report("timing " + one_line(timed.group(1)))


def _failed(logger: Any, request: BuildRequest) -> str:
    why = reason(logger)
    advice = ""
    if re.search("memory|workspace", why, re.IGNORECASE):
        advice = (
            "; close other programs, or change --workspace-mib (it is %d)" % request.workspace_mib
        )
    return "TensorRT gave no engine: %s%s" % (why, advice)
