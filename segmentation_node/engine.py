"""``python -m segmentation_node.engine --model M``: the TensorRT engine of a model, for this GPU.

Builds from the card's ONNX file and leaves engine and manifest in the engine folder, where the
node looks for them; the node itself never builds. Never run against TensorRT's own builder yet.
"""

import argparse
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional

from segmentation_node.backends.base import BackendOptions
from segmentation_node.backends.onnx_edits import decode_weights, keep_output
from segmentation_node.backends.onnx_file import read_onnx
from segmentation_node.backends.tensorrt import engine_files
from segmentation_node.backends.tensorrt.backend import TensorRtBackend, read_machine
from segmentation_node.backends.tensorrt.build import (
    BuildProgress,
    BuildRequest,
    build,
    check_folder,
    check_memory,
    gpu_free_mib,
    host_free_mib,
    onnx_kind,
    unwritable,
)
from segmentation_node.backends.tensorrt.cuda import (
    MIB,
    choose_device,
    load_cuda_runtime,
    parse_device,
)
from segmentation_node.backends.tensorrt.engine_files import Machine
from segmentation_node.backends.tensorrt.versions import (
    DIALECTS,
    TensorInfo,
    deserialize,
    dialect_of,
    import_tensorrt,
    shared_logger,
)
from segmentation_node.command_line import CommandParser
from segmentation_node.errors import BackendError, OutputError, exit_code
from segmentation_node.files import write_whole
from segmentation_node.model_card import ModelCard, open_model

UNKNOWN = "?"
# When which artifact of the card is taken, for those who have no TensorRT to ask.
GRAPHS = (
    ("onnx_float", "TensorRT before 8.5"),
    ("onnx", "TensorRT 8.5 to 10, and fp32 on 11"),
    ("onnx_fp16", "fp16 on TensorRT 11"),
)


class Job(NamedTuple):
    """What is asked for."""

    card: ModelCard
    options: BackendOptions
    workspace_mib: int
    timing_cache: str


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="python3 -m segmentation_node.engine",
        description="Build the TensorRT engine of a model, for the GPU of this machine.",
        examples="""
%(prog)s --model fast_elu_squeezenet_camvid --precision fp16 --dry-run
%(prog)s --model fast_elu_squeezenet_camvid --precision fp16
""",
    )
    parser.add_argument("--model", required=True, help="a model folder, or a shipped model's name")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=TensorRtBackend.precisions,
        help="in which the engine computes; the node's parameter has to be the same",
    )
    parser.add_argument(
        "--engine-dir",
        default=engine_files.DEFAULT_ENGINE_DIR,
        metavar="FOLDER",
        help="where the engine is put; the node's parameter has to be the same",
    )
    parser.add_argument(
        "--workspace-mib",
        type=_positive,
        default=256,
        metavar="MIB",
        help="scratch memory that a layer may use on the GPU, in MiB",
    )
    parser.add_argument(
        "--timing-cache",
        default="",
        metavar="FILE",
        help="kernels that earlier builds measured; default: a file in the engine folder",
    )
    parser.add_argument(
        "--size",
        default="",
        metavar="HxW",
        help="height x width in pixels, of those that the model's card has; default: its own size",
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        default=0,
        metavar="N",
        help="images in a run, of those that the model's card has; default: the smallest",
    )
    parser.add_argument(
        "--device", type=_device, default="auto", help="the GPU: auto, cuda or cuda:N"
    )
    parser.add_argument("--force", action="store_true", help="build even if a good engine is there")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be built")
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """Build, or say what would be built; gives the exit code."""
    parsed = parse(arguments)
    return exit_code(lambda: _run(parsed))


def _run(parsed: argparse.Namespace) -> int:
    card = open_model(parsed.model, parsed.size)
    options = BackendOptions(
        parsed.device, parsed.precision, engine_dir=parsed.engine_dir, batch=parsed.batch
    )
    job = Job(card, options, parsed.workspace_mib, parsed.timing_cache)
    if parsed.dry_run:
        return dry_run(job)
    print(make_engine(job, parsed.force))
    return 0


def make_engine(job: Job, force: bool = False) -> str:
    """Build the engine unless a good one is there, and say so. Raises BackendError, CardError."""
    trt, cuda = import_tensorrt(), load_cuda_runtime()
    index = choose_device(cuda, job.options.device)
    cuda.use_device(index)
    machine = read_machine(str(trt.__version__), cuda, index)
    path = engine_files.engine_path(job.card, job.options, machine)
    if not force and not state_of(job, machine):
        return "%s is built and good; --force builds it again" % path
    kind = onnx_kind(trt, job.options.precision)
    artifact = engine_files.artifact_of(job.card, kind, job.options.batch)
    onnx = _graph(job.card, kind, job.options.batch)
    check_folder(os.path.dirname(path))
    check_memory(len(onnx), job.workspace_mib, gpu_free_mib(cuda, index))
    cache_path = timing_cache_path(job, machine)
    cache = Path(cache_path).read_bytes() if os.path.isfile(cache_path) else b""
    request = BuildRequest(onnx, job.options.precision, job.workspace_mib, cache)
    with BuildProgress() as progress, _interruptible():
        result = build(trt, request, progress.report)
    tensors = check_engine(trt, result.plan, job.card)
    manifest = engine_files.make_manifest(
        job.card, artifact, job.options.precision, job.workspace_mib, machine, result.plan, tensors
    )
    engine_files.write_engine(path, result.plan, manifest)
    notes = list(result.notes)
    try:
        write_whole(cache_path, result.timing_cache)
    except OutputError as error:
        notes.append("the engine is good, but the timing cache is not kept: %s" % error)
    return "\n".join(["note: %s" % note for note in notes] + ["wrote %s" % path])


def check_engine(trt: Any, plan: bytes, card: ModelCard) -> List[TensorInfo]:
    """The tensors of a new engine, after it was read back and held against the card."""
    logger = shared_logger(trt)
    runtime, engine = deserialize(trt, plan, logger)
    tensors: List[TensorInfo] = DIALECTS[dialect_of(engine)](trt, engine).tensors()
    engine_files.check_tensors(tensors, card)
    del engine, runtime
    return tensors


def dry_run(job: Job) -> int:
    """Print what would be built, and what cannot be known here; 1 when it would be refused."""
    found = look(job)
    path = engine_files.engine_path(job.card, job.options, found.machine)
    cache_path = timing_cache_path(job, found.machine)
    free_mib = host_free_mib()
    rows = [
        ("model", "%s, %s" % (job.card.name, os.path.abspath(job.card.folder))),
        ("precision", job.options.precision),
        ("workspace", "%d MiB" % job.workspace_mib),
        ("TensorRT", found.machine.tensorrt),
        ("GPU", _gpu_text(found.machine)),
        ("engine", path),
        ("manifest", engine_files.manifest_path(path)),
        ("timing cache", cache_path + ("" if os.path.isfile(cache_path) else " (none yet)")),
        ("free memory", UNKNOWN if free_mib is None else "%d MiB with swap" % free_mib),
    ]
    refusals: List[str] = []
    if found.trt is None:
        rows += [("graph", "%s: %s" % (when, _artifact_text(job, kind))) for kind, when in GRAPHS]
    else:
        kind = onnx_kind(found.trt, job.options.precision)
        rows.append(("graph", _artifact_text(job, kind)))
        refusals += _refused(engine_files.artifact_of, job.card, kind, job.options.batch)
    if not found.unknown:
        is_there = os.path.isfile(path)
        state = state_of(job, found.machine) if is_there else "not built yet"
        rows.append(("now", state or "built and good"))
    rows += [("not known", reason) for reason in found.unknown]
    onnx_bytes = len(_graph(job.card, "onnx", job.options.batch))
    refusals += _refused(check_memory, onnx_bytes, job.workspace_mib, found.gpu_mib)
    refusals += [line for line in [unwritable(os.path.dirname(path))] if line]
    rows += [("would be refused", line) for line in refusals]
    width = max(len(label) for label, _ in rows)
    print("\n".join("%s  %s" % (label.ljust(width), value) for label, value in rows))
    return 1 if refusals else 0


class Found(NamedTuple):
    """What this machine has: ``?`` in ``machine`` for what is in ``unknown``, with the reason."""

    trt: Any
    machine: Machine
    gpu_mib: Optional[int]
    unknown: List[str]


def look(job: Job) -> Found:
    """See what is here, without asking that anything is."""
    unknown: List[str] = []
    trt: Any = None
    gpu_mib: Optional[int] = None
    machine = Machine(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "")
    try:
        trt = import_tensorrt()
        machine = machine._replace(tensorrt=str(trt.__version__))
    except BackendError as error:
        unknown.append(str(error))
    try:
        cuda = load_cuda_runtime()
        index = choose_device(cuda, job.options.device)
        cuda.use_device(index)
        machine = read_machine(machine.tensorrt, cuda, index)
        gpu_mib = gpu_free_mib(cuda, index)
    except BackendError as error:
        unknown.append(str(error))
    return Found(trt, machine, gpu_mib, unknown)


def state_of(job: Job, machine: Machine) -> str:
    """What is wrong with the engine that is there, or that there is none; empty when good."""
    try:
        engine_files.read_plan(job.card, job.options, machine)
    except BackendError as error:
        return str(error)
    return ""


def timing_cache_path(job: Job, machine: Machine) -> str:
    """As asked for; otherwise one file a TensorRT version and compute capability."""
    if job.timing_cache:
        return os.path.abspath(os.path.expanduser(job.timing_cache))
    folder = engine_files.engine_folder(job.options.engine_dir)
    capability = machine.compute_capability.replace(".", "")
    return os.path.join(folder, "timing_trt%s_sm%s.cache" % (machine.tensorrt, capability))


def _refused(check: Callable[..., Any], *arguments: Any) -> List[str]:
    try:
        check(*arguments)
    except BackendError as error:
        return [str(error)]
    return []


def _artifact_text(job: Job, kind: str) -> str:
    if not job.card.offers(kind):
        return "missing: the card has no %s" % kind
    path = job.card.artifact_path(kind, job.options.batch)
    return "%s (%s), %.1f MiB" % (os.path.basename(path), kind, os.path.getsize(path) / MIB)


def _gpu_text(machine: Machine) -> str:
    if machine.gpu == UNKNOWN:
        return UNKNOWN
    text = "%s, compute capability %s, CUDA %s"
    text %= (machine.gpu, machine.compute_capability, machine.cuda)
    return text + (", L4T " + machine.l4t if machine.l4t else "")


def _graph(card: ModelCard, kind: str, batch: int) -> bytes:
    """The graph of this kind without what a box head sees, which TensorRT is not asked for."""
    graph = read_onnx(card.artifact_path(kind, batch))
    has_features = kind == "onnx" and card.boxes is not None
    return decode_weights(keep_output(graph, *card.outputs) if has_features else graph)


def _device(text: str) -> str:
    if parse_device(text) is None:
        raise argparse.ArgumentTypeError("%r is no GPU; give auto, cuda or cuda:N" % text)
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("%d is not positive" % value)
    return value


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once: TensorRT would not let Python hear it for minutes.

    Nothing is lost: files are written after the build.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
