"""Tables of network_latency."""

from typing import Any

from benchmarks.markdown import NOT_MEASURED, grid, name, whole_percent
from benchmarks.published import TX1_MS, TX1_SOURCE

Record = dict[str, Any]
Row = dict[str, Any]

RUN_TIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "torch_compile": "torch.compile",
}
OF_THE_NODE = ("onnxruntime", "openvino")
REFERENCE = "enet"
LEAST_SHARE = 0.02
"""Operators below it are left out."""


def latencies(record: Record) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows with times by network and run time, then by image."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in filter(_is_timed, record["results"]):
        key = (row["network"], row.get("run_time", "onnxruntime"))
        found.setdefault(key, {})[row["image"]] = row
    return found


def images_of(record: Record) -> list[str]:
    """The images of the rows, in their order."""
    return list(dict.fromkeys(row["image"] for row in record["results"] if "image" in row))


def network_latency(record: Record) -> str:
    """Median and p95 of every network and run time."""
    images = images_of(record)
    rows = []
    for (network, run_time), by_image in latencies(record).items():
        any_row = next(iter(by_image.values()))
        size = f"{any_row['parameters'] / 1e6:.2f} M"
        cells = [_median_and_p95(by_image.get(image)) for image in images]
        rows.append([name(network), _run_time(run_time), size, *cells])
    header = ["Network", "Run time", "Parameters", *(f"{image}, ms (p95)" for image in images)]
    return grid(header, rows)


def network_latency_short(record: Record) -> str:
    """Medians of the run times that the node has on a CPU, and the paper's on a TX1."""
    images = images_of(record)
    rows = [
        [name(network), _run_time(run_time), *(_ms(by_image.get(image)) for image in images)]
        for (network, run_time), by_image in latencies(record).items()
        if run_time in OF_THE_NODE
    ]
    for network in dict.fromkeys(network for network, _ in TX1_MS):
        published = [TX1_MS.get((network, image)) for image in images]
        cells = [f"{ms:.0f} ms" if ms else NOT_MEASURED for ms in published]
        rows.append([name(network), f"on a Jetson TX1 ({TX1_SOURCE})", *cells])
    return grid(["Network", "Run time", *images], rows)


def network_latency_ratios(record: Record) -> str:
    """Every median over ENet's on the same run time, and over the paper's network on a TX1."""
    images, found = images_of(record), latencies(record)
    rows = []
    for (network, run_time), by_image in found.items():
        reference = found.get((REFERENCE, run_time), {})
        cells = [_ratio(by_image.get(image), reference.get(image)) for image in images]
        paper = [TX1_MS.get(("elu_squeezenet", image)) for image in images]
        cells += [_over(by_image.get(image), ms) for image, ms in zip(images, paper)]
        rows.append([name(network), _run_time(run_time), *cells])
    header = ["Network", "Run time", *(f"{image} / ENet" for image in images)]
    return grid([*header, *(f"{image} / TX1" for image in images)], rows)


def network_latency_peak_share(record: Record) -> str:
    """Share of the fp32 convolution peak that every network reaches."""
    images = images_of(record)
    rows = [
        [name(network), _run_time(run_time), *(_peak(by_image.get(image)) for image in images)]
        for (network, run_time), by_image in latencies(record).items()
    ]
    peaks = [_peak_line(row["peak"]) for row in record["results"] if "peak" in row]
    return "\n\n".join([grid(["Network", "Run time", *images], rows), *peaks])


def network_latency_operators(record: Record) -> str:
    """Where the time goes on ONNX Runtime, by kind of operator, largest first."""
    rows = []
    for row in record["results"]:
        for kind, found in row.get("operators", {}).items():
            if found["share"] >= LEAST_SHARE:
                cells = [
                    name(row["network"]),
                    kind,
                    str(found["nodes"]),
                    f"{found['median_ms']:.1f}",
                ]
                rate = f"{found['gb_per_s']:.1f}"
                rows.append([*cells, whole_percent(found["share"]), rate])
    return grid(["Network", "Operator", "Nodes", "ms", "Share", "GB/s"], rows)


def _peak_line(peak: dict[str, Any]) -> str:
    return (
        f"The peak is {peak['gflops']:.0f} GFLOP/s ({peak['convolution']}, {peak['layout']}); a "
        f"copy moves {peak['copy_gb_per_s']:.0f} GB/s."
    )


def _is_timed(row: Row) -> bool:
    return "median_ms" in row


def _run_time(key: str) -> str:
    return RUN_TIMES.get(key, key)


def _ms(row: Row | None) -> str:
    return f"{row['median_ms']:.1f} ms" if row else NOT_MEASURED


def _median_and_p95(row: Row | None) -> str:
    return f"{row['median_ms']:.1f} ({row['p95_ms']:.1f})" if row else NOT_MEASURED


def _ratio(row: Row | None, reference: Row | None) -> str:
    return _over(row, reference["median_ms"] if reference else None)


def _over(row: Row | None, ms: float | None) -> str:
    return f"{row['median_ms'] / ms:.2f}" if row and ms else NOT_MEASURED


def _peak(row: Row | None) -> str:
    share = row.get("peak_share") if row else None
    return NOT_MEASURED if share is None else whole_percent(share)
