"""Figures as text on the terminal and as JSON. What is shown is what ``Run.as_json`` gives."""

import json
import math
import sys
from typing import Any, Dict, List, Optional, Sequence

from segmentation_node.evaluation.run.accuracy import Scores
from segmentation_node.evaluation.run.kitti_ap import DIFFICULTIES
from segmentation_node.files import write_whole
from segmentation_node.timing import PERCENTILES

NAMED_PROBLEMS = 10
"""Skipped and lost frames that the terminal names; the JSON and the page name all."""
BOX_HEADER = ("COCO AP %", *("KITTI %s %%" % level for level in DIFFICULTIES), "true boxes")
THRESHOLD_HEADER = ("confidence from", "pixels kept %", "right of these %")


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


def show(text: str) -> None:
    """Print it; what the terminal's encoding lacks, as in some names of files, is spelled out."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def run_text(result: Dict[str, Any]) -> str:
    """All tables of a run and its notes; what was not measured is left out."""
    parts = []
    if result["frames_with_truth"]:
        parts.append(accuracy_table(result))
        if result["level"] == "class" and "category_iou" in result:
            parts.append(category_table(result))
    if result["true_boxes"]:
        parts += [boxes_table(result), recall_text(result)]
    if result["calibration"] is not None:
        parts.append(calibration_text(result["calibration"]))
    if result["stages_ms"]:
        parts.append(latency_table(result["stages_ms"]))
    parts.append(pace_table(result))
    parts += [
        problems_text("skipped", [item["reason"] for item in result["skipped"]]),
        problems_text("lost", ["%(name)s: %(reason)s" % item for item in result["lost"]]),
        "\n".join("note: " + note for note in result["notes"]),
    ]
    return "\n\n".join(part for part in parts if part)


def accuracy_table(result: Dict[str, Any]) -> str:
    """IoU, and iIoU where there is one, by class or category; then the means."""
    level = result["level"]
    iou = dict(result["class_iou"])
    iou["mean IoU"] = result["mean_iou"]
    iou["frequency-weighted IoU"] = result["frequency_weighted_iou"]
    iou["mean accuracy"] = result["mean_accuracy"]
    iou["global accuracy"] = result["global_accuracy"]
    iiou = dict(result["%s_iiou" % level])
    if iiou:
        iiou["mean IoU"] = result["mean_%s_iiou" % level]
    return _score_table(level, {"IoU %": iou, "iIoU %": iiou})


def category_table(result: Dict[str, Any]) -> str:
    """The same by category, without the accuracies."""
    iou = dict(result["category_iou"], **{"mean IoU": result["mean_category_iou"]})
    iiou = dict(result["category_iiou"])
    if iiou:
        iiou["mean IoU"] = result["mean_category_iiou"]
    return _score_table("category", {"IoU %": iou, "iIoU %": iiou})


def boxes_table(result: Dict[str, Any]) -> str:
    """Average precision of boxes by class; then COCO's means."""
    rows = box_rows(result)
    for title, key in (("mean", "ap"), ("mean at IoU 0.5", "ap50"), ("mean at IoU 0.75", "ap75")):
        rows.append([title, percent(result["ap_coco"][key]), "", "", "", ""])
    return table(("boxes",) + BOX_HEADER, rows)


def box_rows(result: Dict[str, Any]) -> List[List[str]]:
    """By class: COCO's average precision, KITTI's by difficulty, and how many true boxes."""
    rows = []
    for name, count in result["true_boxes"].items():
        kitti = result["ap_kitti"].get(name, {})
        scores = [result["ap_coco"]["class_ap"][name], *map(kitti.get, DIFFICULTIES)]
        rows.append([name, *map(percent, scores), "%d" % count])
    return rows


def recall_text(result: Dict[str, Any]) -> str:
    """Which share of the true boxes was among what was proposed, on one line."""
    recalls = [
        "%s %% at IoU %s" % (percent(value), iou)
        for iou, value in result["proposal_recall"].items()
    ]
    return "true boxes that a proposal covers: " + ", ".join(recalls)


def _score_table(level: str, columns: Dict[str, Scores]) -> str:
    """A column of scores each; one without any is left out."""
    shown = {title: scores for title, scores in columns.items() if scores}
    rows = [
        [name] + [percent(scores[name]) if name in scores else "" for scores in shown.values()]
        for name in columns["IoU %"]
    ]
    return table([level] + list(shown), rows)


def calibration_text(calibration: Dict[str, Any]) -> str:
    """What each threshold leaves, and how far confidence and truth are apart."""
    return "%s\n\n%s" % (
        table(THRESHOLD_HEADER, threshold_rows(calibration)),
        calibration_line(calibration),
    )


def threshold_rows(calibration: Dict[str, Any]) -> List[List[str]]:
    """By confidence threshold: the share of the pixels that it leaves, and what of it is right."""
    return [
        ["%.2f" % row["threshold"], percent(row["kept_share"]), percent(row["right_share"])]
        for row in calibration["thresholds"]
    ]


def calibration_line(calibration: Dict[str, Any]) -> str:
    """Expected calibration error, and on which side it lies."""
    return (
        "expected calibration error %s %%: mean confidence %s %%, right %s %% of the labelled "
        "pixels that got a class"
        % tuple(
            percent(calibration[key])
            for key in ("expected_error", "mean_confidence", "right_share")
        )
    )


def latency_table(stages_ms: Dict[str, Dict[str, Optional[float]]]) -> str:
    """Percentiles by stage in ms."""
    names = ["p%d" % rank for rank in PERCENTILES]
    rows = [
        [key] + [hundredths(values[name]) for name in names] for key, values in stages_ms.items()
    ]
    return table(["stage, ms"] + names, rows)


def pace_table(result: Dict[str, Any]) -> str:
    """Rate, jitter and temporal consistency, one line each."""
    jitter, consistency = result["jitter_ms"], result["temporal_consistency"]
    rows = [
        ["frames scored", "%d" % result["frames"]],
        ["frames skipped", "%d" % len(result["skipped"])],
        ["frames lost", "%d" % len(result["lost"])],
        ["frames per second", hundredths(result["rate_hz"])],
        ["interval p50, ms", hundredths(result["interval_ms"]["p50"])],
        ["jitter (std of intervals), ms", hundredths(jitter["std"])],
        ["jitter (step between intervals) p95, ms", hundredths(jitter["p95"])],
        ["pixels that change class, %", percent(consistency["changed_share"])],
    ]
    rows += [["node: " + name, "%d" % count] for name, count in result["counters"].items()]
    return table(["run", "value"], rows)


def problems_text(title: str, problems: Sequence[str]) -> str:
    """What is named under this title, the first few."""
    lines = ["%s: %s" % (title, problem) for problem in problems[:NAMED_PROBLEMS]]
    if len(problems) > NAMED_PROBLEMS:
        lines.append("%s: %d more" % (title, len(problems) - NAMED_PROBLEMS))
    return "\n".join(lines)


def percent(value: Optional[float]) -> str:
    """A share as percent; n/a where undefined."""
    return "n/a" if value is None else "%.2f" % (100.0 * value)


def hundredths(value: Optional[float]) -> str:
    """A time in ms, or a rate, to hundredths; n/a where not measurable."""
    return "n/a" if value is None or value != value else "%.2f" % value


def write_json(path: str, content: Dict[str, Any]) -> None:
    """Write a JSON file; NaN and infinity, which JSON does not have, become null."""
    write_whole(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
