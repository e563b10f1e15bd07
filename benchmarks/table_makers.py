"""The tables of the documents, each made from one results file.

A name is that of the file, with a dot and a word behind where a file gives several tables.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import latency_makers, ros_makers
from benchmarks.markdown import NOT_MEASURED, any_table, grid, name, percent, whole_percent

Record = dict[str, Any]
Row = dict[str, Any]


def roofline(record: Record) -> str:
    """The estimate beside what was published."""
    header = ["Network", "Image", "GMAC", "At least, fp32", "At least, fp16", "Bound by memory"]
    rows = [
        [
            name(row["network"]),
            row["image"],
            f"{row['gmac']:.2f}",
            *(f"{row['least_ms'][precision]:.1f} ms" for precision in ("fp32", "fp16")),
            whole_percent(row["memory_bound_share"]["fp16"]),
            f"{row['published_ms']:.0f} ms" if row["published_ms"] else NOT_MEASURED,
        ]
        for row in record["results"]
    ]
    return grid([*header, "Published"], rows)


def evaluation_speed(record: Record) -> str:
    """Frames per second of the evaluation and of the backend alone."""
    rows = [
        [
            row["clock"],
            f"{1 / row['evaluation_s_per_frame']:.1f}",
            f"{1 / row['backend_s_per_frame']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in record["results"]
    ]
    return grid(["Clock", "Evaluation, frames/s", "Backend alone, frames/s", "Ratio"], rows)


def training_loop(record: Record) -> str:
    """Images per second of the loop and of bare steps."""
    rows = [
        [
            row["data"],
            row["clock"],
            f"{1 / row['loop_s_per_image']:.1f}",
            f"{1 / row['bare_s_per_image']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in record["results"]
    ]
    return grid(["Data", "Clock", "Loop, images/s", "Bare steps, images/s", "Ratio"], rows)


def gpu(record: Record) -> str:
    """The backend's part of a batch, and how many classes are the CPU's."""
    header = ["Network", "Image", "Batch", "Precision", "Execution", "Run, ms (p95, p99)"]
    rows = [_gpu_row(row) for row in record["results"]]
    return grid([*header, "Images/s", "Classes as on the CPU"], rows)


def _gpu_row(row: Row) -> list[str]:
    cells = [name(row["network"]), row["size"], str(row["batch"])]
    cells += [row["precision"], row["execution"]]
    if "error" in row:
        return [*cells, "failed", NOT_MEASURED, NOT_MEASURED]
    span = row["stages_ms"]["run"]
    agreement = percent(row["agreement"]) + (
        ", random weights" if row["weights"] == "random" else ""
    )
    times = f"{span['p50']:.2f} ({span['p95']:.2f}, {span['p99']:.2f})"
    return [*cells, times, f"{row['images_per_s']:.0f}", agreement]


def article_1(record: Record) -> str:
    """Forward, backward and total of a training step, the published ones beside."""
    header = ["Network", "Image", "Batch", "Forward", "Backward", "Total", "Published"]
    rows = [
        [
            name(row["network"]),
            row["image"],
            str(row["batch"]),
            *(f"{row[f'{part}_ms']:.0f} ms" for part in PARTS),
            _published(row),
        ]
        for row in record["results"]
        if row["table"] == "article_1"
    ]
    return grid(header, rows)


def article_2(record: Record) -> str:
    """One batch over several processes."""
    rows = [row for row in record["results"] if row["table"] == "article_2"]
    keys = ["network", "image", "batch", "processes", "threads_per_process", "ms_per_image"]
    keys += ["speed_up", "efficiency", "is_oversubscribed"]
    return any_table({"results": [{key: row[key] for key in keys} for row in rows]})


def int8(record: Record) -> str:
    """Time, accuracy and size of every form of a model's graph."""
    header = ["Form", "Run time", "Image", "Median (p95)", "Of fp32's", "Mean IoU", "Size"]
    rows = [
        [
            row["variant"],
            latency_makers.RUN_TIMES.get(row["run_time"], row["run_time"]),
            row["image"],
            f"{row['median_ms']:.1f} ({row['p95_ms']:.1f}) ms",
            f"{row['ratio']:.2f}",
            NOT_MEASURED if row["mean_iou"] is None else percent(row["mean_iou"]),
            f"{row['bytes'] / 1e6:.2f} MB",
        ]
        for row in record["results"]
    ]
    return grid(header, rows)


def _published(row: Row) -> str:
    if row["published_total_ms"] is None:
        return NOT_MEASURED
    times = ", ".join(f"{row[f'published_{part}_ms']:.0f}" for part in PARTS)
    return f"{times} ms: {row['published_on']}"


PARTS = ("forward", "backward", "total")
TABLES: dict[str, Callable[[Record], str]] = {
    "network_latency": latency_makers.network_latency,
    "network_latency.short": latency_makers.network_latency_short,
    "network_latency.ratios": latency_makers.network_latency_ratios,
    "network_latency.peak_share": latency_makers.network_latency_peak_share,
    "network_latency.operators": latency_makers.network_latency_operators,
    "end_to_end": ros_makers.end_to_end,
    "end_to_end.short": ros_makers.end_to_end_short,
    "host_cost": ros_makers.host_cost,
    "host_cost.short": ros_makers.host_cost_short,
    "host_cost.stages": ros_makers.host_cost_stages,
    "transport": ros_makers.transport,
    "transport.cpu": ros_makers.transport_cpu,
    "paper_tables.article_1": article_1,
    "paper_tables.article_2": article_2,
    "int8": int8,
    "roofline": roofline,
    "evaluation_speed": evaluation_speed,
    "training_loop": training_loop,
    "gpu": gpu,
}
