"""The rows of ``benchmarks.network_latency`` as text."""

from typing import Any

from segmentation_node.evaluation.report import table

BASE = "enet"
"""In the paper ELU-SqueezeNet takes 1.25 to 1.48 times as long as this network."""


def latency_table(rows: list[dict[str, Any]]) -> str:
    """Each network and run time, beside ENet at the same size on the same run time.

    What could not be run stands below the table, with the reason.
    """
    timed = [row for row in rows if "median_ms" in row]
    base_ms = {
        (row["image"], row["run_time"]): row["median_ms"] for row in timed if row["network"] == BASE
    }
    header = ["network", "image", "run time", "parameters", "GMAC", "runs", "median ms", "p95 ms"]
    header += ["least ms", "of the peak", "of ENet's time", "same classes"]
    cells = [
        [
            row["network"],
            row["image"],
            row["run_time"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['gmac']:.2f}",
            str(row["runs"]),
            f"{row['median_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['least_ms']:.1f}",
            f"{row['peak_share']:.0%}",
            _ratio(row["median_ms"], base_ms.get((row["image"], row["run_time"]))),
            f"{row['agreement']:.4%}" if "agreement" in row else "n/a",
        ]
        for row in timed
    ]
    lines = [table(header, cells)]
    lines += [
        f"{row['network']} {row['image']} {row['run_time']}: not available: {row['error']}"
        for row in rows
        if "error" in row
    ]
    return "\n".join(lines)


def peak_line(peak: dict[str, Any]) -> str:
    """The machine's best, in a line."""
    return (
        f"fp32 convolution peak {peak['gflops']:.0f} GFLOP/s ({peak['convolution']}, "
        f"{peak['layout']}); a copy of 16 MiB moves {peak['copy_gb_per_s']:.0f} GB/s"
    )


def _ratio(time_ms: float, base_ms: float | None) -> str:
    return f"{time_ms / base_ms:.2f}" if base_ms else "n/a"
