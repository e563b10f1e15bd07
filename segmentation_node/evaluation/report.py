"""Results for people (tables on the terminal) and for machines (JSON files)."""

import json
import os
from typing import Any, Dict, List, Optional, Sequence

from segmentation_node.evaluation.dataset import Evaluation, Scores
from segmentation_node.timing import PERCENTILES


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns: the first to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [list(header)] + list(rows)) for i in range(len(header))]
    lines: List[str] = []
    for row in [list(header)] + list(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def accuracy_table(evaluation: Evaluation) -> str:
    """IoU, and iIoU where there is one, by class or category; then the means."""
    result = evaluation.as_json()
    level = evaluation.level.name
    iou = dict(result["class_iou"])
    iou["mean IoU"] = result["mean_iou"]
    iou["mean accuracy"] = result["mean_accuracy"]
    iou["global accuracy"] = result["global_accuracy"]
    iiou = dict(result["%s_iiou" % level])
    if iiou:
        iiou["mean IoU"] = result["mean_%s_iiou" % level]
    return _score_table(level, {"IoU %": iou, "iIoU %": iiou})


def category_table(evaluation: Evaluation) -> str:
    """The same by category, without the accuracies."""
    result = evaluation.as_json()
    iou = dict(result["category_iou"], **{"mean IoU": result["mean_category_iou"]})
    iiou = dict(result["category_iiou"])
    if iiou:
        iiou["mean IoU"] = result["mean_category_iiou"]
    return _score_table("category", {"IoU %": iou, "iIoU %": iiou})


def _score_table(level: str, columns: Dict[str, Scores]) -> str:
    """A column of scores each; one without any is left out."""
    shown = {title: scores for title, scores in columns.items() if scores}
    rows = [
        [name] + [percent(scores[name]) if name in scores else "" for scores in shown.values()]
        for name in columns["IoU %"]
    ]
    return table([level] + list(shown), rows)


def latency_table(stages_ms: Dict[str, Dict[str, float]]) -> str:
    """Percentiles by stage in ms."""
    names = ["p%d" % rank for rank in PERCENTILES]
    rows = [
        [stage] + [milliseconds(values[name]) for name in names]
        for stage, values in stages_ms.items()
    ]
    return table(["stage, ms"] + names, rows)


def percent(value: Optional[float]) -> str:
    """A share as percent; n/a where undefined."""
    return "n/a" if value is None else "%.2f" % (100.0 * value)


def milliseconds(value: Optional[float]) -> str:
    """A time in ms; n/a where not measurable."""
    return "n/a" if value is None or value != value else "%.2f" % value


def write_json(path: str, content: Dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    partial = path + ".partial"
    with open(partial, "w") as out:
        json.dump(content, out, indent=2)
        out.write("\n")
    os.replace(partial, path)
