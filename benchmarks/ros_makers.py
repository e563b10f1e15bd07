"""Tables of what was measured through ROS: end_to_end, host_cost, transport."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.latency_makers import images_of
from benchmarks.markdown import NOT_MEASURED, grid, name, percent, whole_percent

Record = dict[str, Any]
Row = dict[str, Any]


def end_to_end(record: Record) -> str:
    """The node beside the baseline."""
    header = ["Model", "Image", "Asked for", "Frames/s", "Baseline", "Ratio"]
    header += ["Latency, ms (p95)", "Baseline", "CPU time a frame", "Baseline"]
    rows = []
    for row in record["results"]:
        ours, usual = row["segmentation_node"], row["baseline"]
        cells = [name(row["model"]), row["image"], row["asked_for"]]
        cells += [f"{item['mean_frame_rate_fps']:.1f}" for item in (ours, usual)]
        cells += [f"**{row['ratio']:.2f}**"]
        cells += [
            f"{item['median_latency_ms']:.0f} ({item['p95_latency_ms']:.0f})"
            for item in (ours, usual)
        ]
        cells += [f"{item['cpu_ms_per_frame']:.0f} ms" for item in (ours, usual)]
        rows.append(cells)
    return grid(header, rows)


def end_to_end_short(record: Record) -> str:
    """Frame rates where the class map alone is asked for, and both ratios."""
    ratios = {(row["model"], row["image"], row["asked_for"]): row for row in record["results"]}
    header = ["Model", "Image", "Frames/s", "Baseline", "Ratio", "Ratio with overlay"]
    rows = []
    for (model, image, asked_for), row in ratios.items():
        if asked_for == "class map":
            rates = [row[node]["mean_frame_rate_fps"] for node in ("segmentation_node", "baseline")]
            other = ratios.get((model, image, "class map, overlay"))
            cells = [f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"**{row['ratio']:.2f}**"]
            cells.append(f"{other['ratio']:.2f}" if other else NOT_MEASURED)
            rows.append([name(model), image, *cells])
    return grid(header, rows)


def host_cost(record: Record) -> str:
    """Network and host beside each other."""
    header = ["Model", "Image", "Overlay", "Network", "Host", "Host / network"]
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


def host_cost_stages(record: Record) -> str:
    """The stages of a frame."""
    stages = list(dict.fromkeys(stage for row in record["results"] for stage in row["stages_ms"]))
    rows = [
        [*_host_row(row), *(f"{row['stages_ms'][stage]:.2f}" for stage in stages)]
        for row in record["results"]
    ]
    return grid(["Model", "Image", "Overlay", *(f"{stage}, ms" for stage in stages)], rows)


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
    return name(row["model"]), row["image"], "yes" if row["overlay"] else "no"
