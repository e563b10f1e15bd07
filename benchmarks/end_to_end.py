"""``python -m benchmarks.end_to_end``: message in to class map out, this node and the usual one.

For each model and image size all nodes are started, as processes, with the same weights. They take
turns: one works for some seconds on images that it gets two at a time, so that the node limits the
throughput, while the others wait. ``class map`` asks for that alone; the baseline makes its overlay
all the same, as such nodes do. A node's CPU time includes the middleware and rclpy. ``node_auto``
has backend and precision ``auto``, on a card that lets it take bf16 and int8. Figures are medians
over the rounds. ``--models`` are models, or networks for 19 classes.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import CAMERA_SIZES, end_with, plots, shown
from benchmarks.measured_models import model_named, resized
from benchmarks.nodes import Player, cpu_s, image_messages, local_graph, quiet_node
from benchmarks.options import THREADS, Size, installed, parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import frame_metrics, in_rounds, medians, ratios
from segmentation_node.evaluation.live.pairing import keep_all_qos
from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.model_card import ModelCard
from segmentation_node.ros.parameters import NODE_STATUS

MODELS = ["fast_elu_squeezenet_camvid", "fast_elu_squeezenet"]
BASELINE, AUTO = "baseline_onnxruntime", "node_auto"
NODE_NAMES = {
    BASELINE: "the usual node",
    "baseline_torch": "the usual node, torch eager",
    "node_onnxruntime": "this node, ONNX Runtime",
    "node_openvino": "this node, OpenVINO",
    "node_torch": "this node, torch eager",
    AUTO: "this node, auto",
}
CLASS_MAP = "class map"
IN_FLIGHT = 2
UNCOUNTED_FRAMES = 4
LEAST_FRAMES = 8
RATE = "mean_frame_rate_fps"


def start(node: str, card: ModelCard, threads: int) -> NodeProcess:
    """The process of a node, one of ``NODE_NAMES``; the usual one has the same parameters."""
    kind, _, run_time = node.partition("_")
    parameters: dict[str, Any] = {"model": card.folder, "backend": run_time, "device": "cpu"}
    parameters.update(frame_policy="every", num_threads=threads)
    if node == AUTO:  # what it measured elsewhere, or in other company, plays no part
        parameters.update(precision="auto", engine_dir=card.folder)
    more = {"module": "benchmarks.baseline_node"} if kind == "baseline" else {}
    return quiet_node(parameters, [f"__node:={node}", f"image:=/{node}/image"], **more)


def turn(node: NodeProcess, player: Player, messages: Any, turn_s: float) -> Row:
    """One turn of a node: metrics of its class maps' stream, from sending to receipt here."""
    # Some frames do not count: another node's threads were in the caches.
    player.play_back_to_back(1, messages, 0.0, UNCOUNTED_FRAMES)
    before_s = cpu_s([node])
    sent = player.play_back_to_back(IN_FLIGHT, messages, turn_s, LEAST_FRAMES)
    spent_ms = (cpu_s([node]) - before_s) * 1e3
    times_s = [(sent_s, received_s) for _, sent_s, received_s in player.frames]
    found = frame_metrics(times_s, sent)
    return {**found, "cpu_ms_per_frame": spent_ms / sent}  # of the node's process


def measure(
    card: ModelCard, size: Size, names: list[str], options: argparse.Namespace
) -> list[Row]:
    """Every node on images of one size, in turns; one row a node and question."""
    rows, messages = [], image_messages(size)
    with ExitStack() as stack:
        players, turn_of = {}, {}
        for name in names:  # one after the other: auto measures
            node = stack.enter_context(start(name, card, options.threads))
            topics = {f"/{name}/image": f"/{name}/class_map"}
            players[name] = stack.enter_context(Player(topics, name, keep_all_qos()))
            players[name].wait_until_ready(node)
            turn_of[name] = partial(turn, node, players[name], messages, options.turn_s)
        for asked_for in (CLASS_MAP, f"{CLASS_MAP}, overlay"):
            about = {"model": card.name, "classes": len(card.labels), "image": size_text(size)}
            about["asked_for"] = asked_for
            print(f"{card.name}, {size_text(size)}, {asked_for} ...", flush=True)
            for name, player in players.items() if asked_for != CLASS_MAP else ():
                player.listen(f"/{name}/overlay", lambda message: None)
            # A node may find a subscription a little later than it was made.
            time.sleep(1.0)
            turns = in_rounds(lambda name: turn_of[name](), names, options.rounds)
            for name, found in turns.items():
                by_round = ratios(found, turns[BASELINE], RATE)
                row = {**about, "node": name, "rounds": options.rounds}
                row.update(ratio=float(np.median(by_round)), ratios=by_round, **medians(found))
                if name == AUTO:
                    row["taken"] = taken(players[AUTO])
                rows.append(row)
    return rows


def taken(player: Player) -> str:
    """Run time and precision of a node of this package, by its diagnostics."""

    def values() -> dict[str, str]:
        wanted = f"{player.target}: {NODE_STATUS}"
        statuses = [item for item in player.status.diagnostics if item.name == wanted]
        return {item.key: item.value for status in statuses for item in status.values}

    player.wait_until(lambda: "precision" in values())
    return "{backend} {precision}".format(**values())


def main(arguments: list[str] | None = None) -> None:
    """Measure the nodes for every model and size; write and print the rows."""
    defaults = {"models": MODELS, "nodes": list(NODE_NAMES), "rounds": 3, "turn_s": 2.0}
    parser = parser_of("end_to_end", __doc__, {"nodes": NODE_NAMES}, **defaults, threads=THREADS)
    options = parser.parse_args(arguments)
    run_times = {name: name.partition("_")[2] for name in options.nodes}
    there = installed({name: it for name, it in run_times.items() if it != "auto"})
    names = [BASELINE, *(name for name in options.nodes if name in {*there, AUTO} - {BASELINE})]
    settings = settings_of(options, in_flight=IN_FLIGHT, encoding="bgr8")
    record, rows = Record("end_to_end", settings, arguments), []
    with local_graph(), tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            card = model_named(model, Path(folder) / "random")
            for size in CAMERA_SIZES:
                at_size = resized(card, size, Path(folder) / "resized", for_nodes=True)
                rows += measure(at_size, size, names, options)
    record.finish(rows, options.output, SHOWN)


CASE = {"Model": "`{model}`", "Classes": "{classes}", "Image": "{image}"}


def _for_class_map(record: dict[str, Any]) -> list[shown.Row]:
    """Rows where the class map alone is asked for, in the order of ``NODE_NAMES``."""
    rows = [row for row in record["results"] if row["asked_for"] == CLASS_MAP]
    return sorted(rows, key=lambda row: list(NODE_NAMES).index(row["node"]))


def _name(row: shown.Row) -> str:
    return NODE_NAMES[row["node"]]


def _draw(record: dict[str, Any]) -> Any:
    rows = _for_class_map(record)
    cases = list(dict.fromkeys((row["model"], row["image"]) for row in rows))
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        place = cases.index((row["model"], row["image"]))
        series.setdefault(_name(row), {})[place] = row[RATE]
    figure, (axes,) = plots.panels(1, height=4)
    plots.bars(axes, series)
    axes.set_xticks(range(len(cases)), ["\n".join(case) for case in cases], fontsize="small")
    axes.set_ylabel("frames/s")
    axes.margins(y=0.12)
    plots.legend(figure, axes, columns=3)
    return figure


SHOWN = shown.Shown(
    tables={
        "end_to_end": shown.columns(
            {
                **CASE,
                "Asked for": "{asked_for}",
                "Node": lambda row: _name(row) + (f" ({row['taken']})" if "taken" in row else ""),
                "Frames/s": "{mean_frame_rate_fps:.1f}",
                "Ratio": "{ratio:.2f}",
                "Latency, ms (p95)": "{median_latency_ms:.0f} ({p95_latency_ms:.0f})",
                "CPU time a frame": "{cpu_ms_per_frame:.0f} ms",
            }
        ),
    },
    plots={
        "end_to_end.png": shown.Plot(_draw, "Frames per second of this node and the usual one"),
    },
)


if __name__ == "__main__":
    end_with(main)
