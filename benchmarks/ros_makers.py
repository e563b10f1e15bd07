"""Tables of what was measured through ROS: end_to_end, host_cost, transport."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.latency_makers import RUN_TIMES, images_of
from benchmarks.markdown import NOT_MEASURED, grid, name, percent, whole_percent

Record = dict[str, Any]
Row = dict[str, Any]


BASELINE, OURS = "baseline_onnxruntime", "node_onnxruntime"
NODE_NAMES = {
    BASELINE: "the usual node",
    "baseline_torch": "the usual node, torch eager",
    "baseline_torch_compile": "the usual node, torch.compile",
    OURS: "this node, ONNX Runtime",
    "node_openvino": "this node, OpenVINO",
    "node_torch": "this node, torch eager",
}
CLASS_MAP = "class map"


def end_to_end(record: Record) -> str:
    """Every node, with its frame rate beside the baseline's."""
    header = ["Model", "Classes", "Image", "Asked for", "Node", "Frames/s", "Ratio"]
    header += ["Latency, ms (p95)", "CPU time a frame"]
    rows = [
        [
            name(row["model"]),
            str(row["classes"]),
            row["image"],
            row["asked_for"],
            NODE_NAMES[row["node"]],
            f"{row['mean_frame_rate_fps']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['median_latency_ms']:.0f} ({row['p95_latency_ms']:.0f})",
            f"{row['cpu_ms_per_frame']:.0f} ms",
        ]
        for row in record["results"]
    ]
    return grid(header, rows)


def end_to_end_short(record: Record) -> str:
    """Frames per second of every node, and its ratio to the baseline, for the class map alone."""
    rows = [row for row in record["results"] if row["asked_for"] == CLASS_MAP]
    nodes = [node for node in NODE_NAMES if any(row["node"] == node for row in rows)]
    found = {(row["model"], row["classes"], row["image"], row["node"]): row for row in rows}
    cases = dict.fromkeys((row["model"], row["classes"], row["image"]) for row in rows)
    lines = [
        [name(case[0]), str(case[1]), case[2], *(_rate(found.get((*case, node))) for node in nodes)]
        for case in cases
    ]
    return grid(["Model", "Classes", "Image", *(NODE_NAMES[node] for node in nodes)], lines)


def _rate(row: Row | None) -> str:
    if row is None:
        return NOT_MEASURED
    rate = f"{row['mean_frame_rate_fps']:.1f}"
    return rate if row["node"] == BASELINE else f"{rate} (**{row['ratio']:.2f}**)"


def host_cost(record: Record) -> str:
    """Network and host beside each other."""
    header = ["Model", "Backend", "Image", "Graph", "Overlay", "Network", "Host", "Host / network"]
    header += ["CPU time, process", "CPU time, network alone"]
    rows = [
        [
            *_host_row(row),
            f"{row['stages_ms']['inference']:.1f} ms",
            f"{row['host_ms']:.2f} ms",
            percent(row["host_share_of_inference"]),
            f"{row['process_cpu_ms_per_frame']:.0f} ms",
            f"{row['network_cpu_ms_per_frame']:.0f} ms",
        ]
        for row in record["results"]
    ]
    return grid(header, rows)


def host_cost_short(record: Record) -> str:
    """The rows of the smallest images."""
    smallest = images_of(record)[0]
    return host_cost({"results": [row for row in record["results"] if row["image"] == smallest]})


def host_cost_stages(record: Record) -> str:
    """The stages of a frame."""
    stages = list(dict.fromkeys(stage for row in record["results"] for stage in row["stages_ms"]))
    rows = [
        [*_host_row(row), *(f"{row['stages_ms'][stage]:.2f}" for stage in stages)]
        for row in record["results"]
    ]
    return grid(
        ["Model", "Backend", "Image", "Graph", "Overlay", *(f"{stage}, ms" for stage in stages)],
        rows,
    )


def transport(record: Record) -> str:
    """Share delivered and latency by setting and image."""

    def cell(row: Row) -> str:
        share = whole_percent(row["delivered"])
        if row["median_latency_ms"] is None:
            return share
        return f"{share}, {row['median_latency_ms']:.1f} ({row['p95_latency_ms']:.1f}) ms"

    return _by_setting(record, cell)


def transport_cpu(record: Record) -> str:
    """CPU time a frame of camera and node by setting and image."""

    def cell(row: Row) -> str:
        return f"{row['camera_cpu_ms_per_frame']:.1f} + {row['node_cpu_ms_per_frame']:.1f} ms"

    return _by_setting(record, cell)


def _by_setting(record: Record, cell: Callable[[Row], str]) -> str:
    images = images_of(record)
    rows = {(row["setting"], row["image"]): row for row in record["results"]}
    settings = dict.fromkeys(setting for setting, _ in rows)
    cells = [
        [
            setting,
            *(
                cell(rows[setting, image]) if (setting, image) in rows else NOT_MEASURED
                for image in images
            ),
        ]
        for setting in settings
    ]
    return grid(["Setting", *images], cells)


def _host_row(row: Row) -> Iterable[str]:
    where = RUN_TIMES.get(row["backend"]) or str(row["backend"])
    return name(row["model"]), where, row["image"], row["graph"], "yes" if row["overlay"] else "no"
