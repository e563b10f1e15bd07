"""``python -m benchmarks.deadline``: a hog on every core, with a deadline and without, in turns.

The deadline is that many times p95 of processing on the idle machine at the best size. Each way has
a node of its own, and its phases: idle, under the hog, and, with a deadline, after it.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray

from benchmarks import shown
from benchmarks.cameras import MODEL, QOS, WARM_UP_S, Cameras
from benchmarks.end_to_end import image_messages
from benchmarks.options import add_threads, parser_of
from benchmarks.record import Record
from segmentation_msgs.msg import FrameLatency
from segmentation_node.backends import BACKENDS
from segmentation_node.deadline import rungs_of
from segmentation_node.evaluation.live.target import joined_graph, prepare_middleware
from segmentation_node.model_card import open_model, size_text

WITHOUT, WITH = "its best size", "a deadline"
IDLE, HOG, AFTER = "idle", "hog", "after"
NODE = "/segmentation_node/"


class Camera(Cameras):
    """One camera, and what the node says of its frames and of itself."""

    def __init__(self) -> None:
        super().__init__({"/image": NODE + "class_map"})
        self.latencies_ms: list[float] = []
        self.statuses: list[dict[str, str]] = []
        self.create_subscription(FrameLatency, NODE + "latency", self._on_latency, QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_status, QOS)

    def _on_latency(self, message: FrameLatency) -> None:
        self.latencies_ms.append(message.processing_ms)

    def _on_status(self, message: DiagnosticArray) -> None:
        self.statuses += [{x.key: x.value for x in item.values} for item in message.status]

    def phase(self, messages: list[Any], rate_hz: float, duration_s: float) -> list[dict[str, str]]:
        """Play for so long; the diagnostics of that time."""
        self.latencies_ms.clear()
        self.statuses.clear()
        self.play(messages, rate_hz, duration_s)
        if not self.latencies_ms or not self.statuses:
            sys.exit(f"deadline: the node gave nothing within {duration_s:g} s")
        return self.statuses


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """A process on each core that this one may use, which only computes."""
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            child = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: 0"]))
            stack.callback(child.kill)
        yield


def measure(
    way: str, parameters: dict[str, Any], mean_iou: dict[str, float], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """All phases of a way; ``mean_iou`` by size. Sets the deadline where there is none yet."""
    command = [sys.executable, "-m", "segmentation_node.ros.main", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    quiet, rows, rate_hz = subprocess.DEVNULL, [], settings["rate_hz"]
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(subprocess.Popen(command, stdout=quiet, stderr=quiet))
        stack.callback(child.kill)
        camera = Camera()
        stack.callback(camera.close)
        camera.wait_for_nodes()
        messages = image_messages(settings["image_size"])
        camera.play(messages, rate_hz, 2 * WARM_UP_S)
        steps = {"steps_down": 0, "steps_up": 0}
        for phase in (IDLE, HOG, AFTER)[: 2 if way == WITHOUT else 3]:
            print(f"{way}, {phase} ...", flush=True)
            with hog() if phase == HOG else contextlib.nullcontext():
                statuses = camera.phase(messages, rate_hz, settings[phase + "_s"])
            times_ms = np.array(camera.latencies_ms)
            if not settings["deadline_ms"]:
                p95_ms = np.quantile(times_ms, 0.95)
                settings["deadline_ms"] = round(float(settings["times_idle"] * p95_ms), 1)
            before, steps = steps, {key: int(statuses[-1].get(key, 0)) for key in steps}
            rows.append(
                {
                    "way": way,
                    "phase": phase,
                    "frames": len(times_ms),
                    "p95_ms": float(np.quantile(times_ms, 0.95)),
                    "missed_share": float(np.mean(times_ms > settings["deadline_ms"])),
                    "memory_mb": psutil.Process(child.pid).memory_full_info().pss / 2**20,
                    **{key: steps[key] - before[key] for key in steps},
                    "mean_iou": float(np.mean([mean_iou[x["input_size"]] for x in statuses])),
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways; write and print the rows."""
    parser = parser_of("deadline", __doc__)
    parser.add_argument("--model", default=MODEL, help="one with several sizes, scored all")
    parser.add_argument("--backend", default="onnxruntime", choices=BACKENDS)
    parser.add_argument("--rate-hz", type=float, default=5.0)
    parser.add_argument("--times-idle", type=float, default=1.5, help="deadline over idle p95")
    parser.add_argument("--deadline-ms", type=float, default=0.0, help="in place of that")
    for phase, seconds in ((IDLE, 10.0), (HOG, 60.0), (AFTER, 60.0)):
        parser.add_argument(f"--{phase}-s", type=float, default=seconds)
    add_threads(parser, "of the node's run time")
    options = parser.parse_args(arguments)
    card = open_model(options.model)
    rungs = rungs_of(card, BACKENDS[options.backend].kind_for("fp32"), "fp32")
    mean_iou = {size_text(rung.card.input_size): rung.mean_iou or np.nan for rung in rungs}
    if len(rungs) < 2:
        sys.exit(f"deadline: {card.name} has one size to run; python -m training.add_variants")
    names = "model backend rate_hz times_idle deadline_ms idle_s hog_s after_s threads"
    settings = {name: getattr(options, name) for name in names.split()}
    settings.update(image_size=rungs[0].card.input_size, sizes=mean_iou)
    record = Record("deadline", settings, arguments)
    parameters = {"model": card.folder, "backend": options.backend, "num_threads": options.threads}
    prepare_middleware()
    with joined_graph():
        rows = measure(WITHOUT, parameters, mean_iou, settings)
        parameters["deadline_ms"] = settings["deadline_ms"]
        rows += measure(WITH, parameters, mean_iou, settings)
    record.finish(rows, options.output, SHOWN)


class Phase(TypedDict):
    """A phase of a way; times from receipt to published, as the node's latency messages say."""

    way: str  # WITHOUT or WITH
    phase: str  # IDLE, HOG or AFTER
    frames: int
    p95_ms: float
    missed_share: float  # of the frames, above the deadline of the settings
    steps_down: int
    steps_up: int
    mean_iou: float  # by the card, of the sizes that ran, by time
    memory_mb: float  # MiB of the node, what it shares in part (PSS)


def _line(record: dict[str, Any]) -> str:
    """What the deadline does under the hog, and what it costs."""
    own, other = (
        next(row for row in record["results"] if (row["way"], row["phase"]) == (way, HOG))
        for way in (WITH, WITHOUT)
    )
    return (
        f"Under a hog on every core a deadline of {record['settings']['deadline_ms']:g} ms is "
        f"missed by {shown.percent(own['missed_share'], 1)} of the frames, without stepping down "
        f"by {shown.percent(other['missed_share'])}; mean IoU is {own['mean_iou']:.3f} in place "
        f"of {other['mean_iou']:.3f}."
    )


SHOWN = shown.Shown(
    rows={"": Phase},
    tables={
        "deadline": shown.columns(
            {
                "The node runs": "{way}",
                "Phase": "{phase}",
                "Frames": "{frames}",
                "p95, ms": "{p95_ms:.0f}",
                "Missed": lambda row: shown.percent(row["missed_share"], 1),
                "Steps down, up": "{steps_down}, {steps_up}",
                "Mean IoU": "{mean_iou:.3f}",
                "Memory": "{memory_mb:.0f} MiB",
            }
        )
    },
    line=_line,
)


if __name__ == "__main__":
    main()
