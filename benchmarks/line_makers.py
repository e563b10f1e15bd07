"""Single sentences of the documents, each made from one results file."""

from collections.abc import Callable
from typing import Any

from benchmarks.latency_makers import RUN_TIMES, images_of, latencies
from benchmarks.markdown import whole_percent
from benchmarks.ros_makers import CLASS_MAP, OURS

Record = dict[str, Any]

COMPARED = VARIANT, REFERENCE, PAPER = "fast_elu_squeezenet", "enet", "elu_squeezenet"


def network_latency(record: Record) -> str:
    """The variant against ENet, the paper's network likewise."""
    found, images = latencies(record), images_of(record)
    if any(len(found.get((item, "onnxruntime"), {})) < len(images) for item in COMPARED):
        return f"Not all of {_listed([f'`{item}`' for item in COMPARED])} were timed in this run."

    def ratios(network: str) -> str:
        ours, theirs = (found[item, "onnxruntime"] for item in (network, REFERENCE))
        return _listed([f"{ours[at]['median_ms'] / theirs[at]['median_ms']:.2f}" for at in images])

    return (
        f"At {_listed(images)}, `{VARIANT}` takes {ratios(VARIANT)} of ENet's time on ONNX "
        f"Runtime, and the paper's network {ratios(PAPER)} (1.25 to 1.48 in the paper, on a TX1)."
    )


def end_to_end(record: Record) -> str:
    """The ratios by image."""
    parts = []
    for image in images_of(record):
        ratios = [
            row["ratio"]
            for row in record["results"]
            if (row["image"], row["node"], row["asked_for"]) == (image, OURS, CLASS_MAP)
        ]
        ends = dict.fromkeys(f"{end:.2f}" for end in (min(ratios), max(ratios)))
        parts.append(f"{' to '.join(ends)} times at {image}")
    return f"On ONNX Runtime, the node gives the usual one's frames per second {_listed(parts)}."


def transport(record: Record) -> str:
    """The defaults against the profile on the sending side."""
    wanted = ("default, best effort", "profile on the sender, best effort")
    shares = {
        setting: [
            whole_percent(row["delivered"])
            for row in record["results"]
            if row["setting"] == setting
        ]
        for setting in wanted
    }
    defaults, profile = (_listed(shares[setting]) for setting in wanted)
    return (
        f"Of images of {_listed(images_of(record))} at {record['settings']['rate_hz']:g} Hz, best "
        f"effort delivers {defaults} with the middleware's defaults, and {profile} with the "
        "shipped profile on the sending side."
    )


def roofline(record: Record) -> str:
    """The paper's network on a TX1."""
    rows = [row for row in record["results"] if row["network"] == PAPER]
    least = _listed([f"{row['least_ms']['fp16']:.0f}" for row in rows])
    published = _listed([f"{row['published_ms']:.0f}" for row in rows])
    return (
        f"By an estimate, the paper's network takes a TX1 at least {least} ms in fp16 at "
        f"{_listed([row['image'] for row in rows])}; the paper measured {published} ms."
    )


def evaluation_speed(record: Record) -> str:
    """The evaluation's share of the backend's rate."""
    settings, row = record["settings"], record["results"][0]
    return (
        f"Evaluating `{settings['model']}` on {settings['dataset']} {settings['split']} reaches "
        f"{row['ratio']:.2f} of the backend's bare frames per second: "
        f"{1 / row['evaluation_s_per_frame']:.1f} against {1 / row['backend_s_per_frame']:.1f}."
    )


def training_loop(record: Record) -> str:
    """The loop's share of the bare steps' rate."""
    ratio = {row["data"]: row["ratio"] for row in record["results"] if row["clock"] == "wall"}
    return (
        f"The training loop keeps {ratio['memory']:.2f} of the bare steps' images per second with "
        f"{record['settings']['dataset']} in memory, and {ratio['stream']:.2f} when it streams "
        "from the disk."
    )


def paper_tables(record: Record) -> str:
    """The step of SegNet that the article times, where it was measured."""
    rows = [row for row in record["results"] if row.get("published_total_ms") is not None]
    if not rows:
        return "The step that the article times was not measured."
    row, parts = rows[0], ("forward", "backward", "total")
    ours, published = (
        _listed([f"{row[f'{prefix}{part}_ms']:.0f}" for part in parts])
        for prefix in ("", "published_")
    )
    return (
        f"A training step of `{row['network']}` with {row['batch']} images of {row['image']} takes "
        f"{ours} ms forward, backward and in total ({published} ms published, "
        f"{row['published_on']})."
    )


def int8(record: Record) -> str:
    """The fastest int8 form that was scored, by run time."""
    rows = [row for row in record["results"] if row["mean_iou"] is not None]
    if not rows:
        return "No int8 form was scored."
    fp32 = {row["run_time"]: row for row in rows if row["ratio"] == 1.0}
    parts = []
    for run_time, reference in fp32.items():
        others = [row for row in rows if row["run_time"] == run_time and row is not reference]
        best = min(others, key=lambda row: float(row["ratio"]))
        change = 100 * (best["mean_iou"] - reference["mean_iou"])
        name = RUN_TIMES.get(run_time, run_time)
        parts.append(f"{best['ratio']:.2f} of fp32's time on {name}, mean IoU {change:+.1f} points")
    return f"The fastest int8 form of `{rows[0]['model']}`: {'; '.join(parts)}."


def gpu(record: Record) -> str:
    """The fastest case of every precision."""
    best: dict[str, dict[str, Any]] = {}
    for row in record["results"]:
        if "error" not in row and row["batch"] == 1 and row["size"] == "640x360":
            if row["network"] == PAPER:
                known = best.setdefault(row["precision"], row)
                best[row["precision"]] = min(known, row, key=_run_ms)
    if not best:
        return f"`{PAPER}` at 640x360 was not timed."
    parts = [f"{_run_ms(row):.2f} ms in {precision}" for precision, row in best.items()]
    return f"On {record['machine']['gpu']['name']}, `{PAPER}` takes {_listed(parts)} at 640x360."


def _run_ms(row: dict[str, Any]) -> float:
    return float(row["stages_ms"]["run"]["p50"])


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


LINES: dict[str, Callable[[Record], str]] = {
    "network_latency": network_latency,
    "end_to_end": end_to_end,
    "transport": transport,
    "roofline": roofline,
    "evaluation_speed": evaluation_speed,
    "training_loop": training_loop,
    "paper_tables": paper_tables,
    "int8": int8,
    "gpu": gpu,
}
