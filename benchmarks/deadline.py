"""``python -m benchmarks.deadline``: a hog on every core, with a deadline and without, in turns.

The deadline is ``--deadline-ms``, or ``--times-idle`` p95 of processing on the idle machine at the
best size. Each way has a node of its own, and its phases: idle, under the hog, and, with a
deadline, after it. ``--model`` is one with several sizes, all of them scored.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from benchmarks import MODEL, end_with, shown
from benchmarks.cameras import WARM_UP_S
from benchmarks.nodes import Player, image_messages, local_graph, memory_mb, quiet_node
from benchmarks.options import THREADS, parser_of, settings_of
from benchmarks.record import Record
from benchmarks.shown import Row
from segmentation_msgs.msg import FrameLatency
from segmentation_node.backends import BACKENDS
from segmentation_node.deadline import rungs_of
from segmentation_node.model_card import open_model, size_text

WITHOUT, WITH = "its best size", "a deadline"
IDLE, HOG, AFTER = "idle", "hog", "after"
NODE = "/segmentation_node"


class Camera(Player):
    """One camera, and what the node says of its frames and of itself."""

    def __init__(self) -> None:
        super().__init__({"/image": NODE + "/class_map"}, NODE)
        self.latencies_ms: list[float] = []
        self.statuses: list[dict[str, str]] = []
        self.listen(NODE + "/latency", self._on_latency, FrameLatency)
        self.listen("/diagnostics", self._on_status, DiagnosticArray)

    def _on_latency(self, message: FrameLatency) -> None:
        self.latencies_ms.append(message.processing_ms)

    def _on_status(self, message: DiagnosticArray) -> None:
        self.statuses += [{x.key: x.value for x in item.values} for item in message.status]

    def phase(self, rate_hz: float, messages: list[Any], duration_s: float) -> None:
        """Play for so long, and keep what is said in that time."""
        self.latencies_ms.clear()
        self.statuses.clear()
        self.play_at(rate_hz, messages, duration_s)
        if not self.latencies_ms or not self.statuses:
            sys.exit(f"deadline: the node gave nothing within {duration_s:g} s")


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """A process on each core that this one may use, which only computes."""
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            child = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: 0"]))
            stack.callback(child.kill)
        yield


def measure(way: str, parameters: Row, mean_iou: dict[str, float], settings: Row) -> list[Row]:
    """All phases of a way; ``mean_iou`` by size. Sets the deadline where there is none yet."""
    rows: list[Row] = []
    messages, rate_hz = image_messages(settings["image_size"]), settings["rate_hz"]
    with quiet_node(parameters) as node, Camera() as camera:
        camera.wait_until_ready(node)
        camera.play_at(rate_hz, messages, 2 * WARM_UP_S)
        steps = {"steps_down": 0, "steps_up": 0}
        for phase in (IDLE, HOG, AFTER)[: 2 if way == WITHOUT else 3]:
            print(f"{way}, {phase} ...", flush=True)
            with hog() if phase == HOG else contextlib.nullcontext():
                camera.phase(rate_hz, messages, settings[phase + "_s"])
            times_ms = np.array(camera.latencies_ms)
            p95_ms = float(np.quantile(times_ms, 0.95))
            if not settings["deadline_ms"]:
                settings["deadline_ms"] = round(settings["times_idle"] * p95_ms, 1)
            before, steps = steps, {key: int(camera.statuses[-1].get(key, 0)) for key in steps}
            ran = [mean_iou[status["input_size"]] for status in camera.statuses]
            row = {"way": way, "phase": phase, "frames": len(times_ms)}
            row["p95_ms"] = p95_ms  # from receipt to published, as the node says
            row["missed_share"] = float(np.mean(times_ms > settings["deadline_ms"]))
            row["memory_mb"] = memory_mb([node])  # MiB, what it shares in part (PSS)
            row.update({key: steps[key] - before[key] for key in steps})
            rows.append({**row, "mean_iou": float(np.mean(ran))})  # by the card, by time
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways; write and print the rows."""
    defaults = {"model": MODEL, "backend": "onnxruntime", "rate_hz": 5.0, "times_idle": 1.5}
    defaults.update(deadline_ms=0.0, idle_s=10.0, hog_s=60.0, after_s=60.0, threads=THREADS)
    parser = parser_of("deadline", __doc__, {"backend": BACKENDS}, **defaults)
    options = parser.parse_args(arguments)
    card = open_model(options.model)
    rungs = rungs_of(card, BACKENDS[options.backend].kind_for("fp32"), "fp32")
    mean_iou = {size_text(rung.card.input_size): rung.mean_iou or np.nan for rung in rungs}
    if len(rungs) < 2:
        sys.exit(f"deadline: {card.name} has one size to run; python -m training.add_variants")
    settings = settings_of(options, image_size=rungs[0].card.input_size, sizes=mean_iou)
    record = Record("deadline", settings, arguments)
    parameters = {"model": card.folder, "backend": options.backend, "num_threads": options.threads}
    with local_graph():
        rows = measure(WITHOUT, parameters, mean_iou, settings)
        parameters["deadline_ms"] = settings["deadline_ms"]
        rows += measure(WITH, parameters, mean_iou, settings)
    record.finish(rows, options.output, SHOWN)


def _line(record: dict[str, Any]) -> str:
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


SHOWN = shown.one_table(
    "deadline",
    {
        "The node runs": "{way}",
        "Phase": "{phase}",
        "Frames": "{frames}",
        "p95, ms": "{p95_ms:.0f}",
        "Missed": lambda row: shown.percent(row["missed_share"], 1),
        "Steps down, up": "{steps_down}, {steps_up}",
        "Mean IoU": "{mean_iou:.3f}",
        "Memory": "{memory_mb:.0f} MiB",
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
