"""Results for people (tables, a page) and for machines (JSON files)."""

from segmentation_node.evaluation.report.text import (
    accuracy_table,
    calibration_text,
    category_table,
    latency_table,
    milliseconds,
    pace_table,
    percent,
    run_text,
    show,
    table,
    write_json,
)

__all__ = [
    "accuracy_table",
    "calibration_text",
    "category_table",
    "latency_table",
    "milliseconds",
    "pace_table",
    "percent",
    "run_text",
    "show",
    "table",
    "write_json",
]
