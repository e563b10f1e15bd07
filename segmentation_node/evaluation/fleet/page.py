"""A merged fleet as text and as one page: no scripts, boxes that scroll."""

from typing import Any, Dict, List, Optional

from segmentation_node.evaluation.report import sections
from segmentation_node.evaluation.report import text as report
from segmentation_node.evaluation.report.markup import Markup, element, section, table
from segmentation_node.evaluation.report.page import document

SHOWN = 10
"""Drives that the terminal names, the worst; the JSON and the page name all."""
ROW_HEADER = ["drive", "mean IoU %", "worst class", "changed %", "frames", "skipped"]
DIFFERENCE_HEADER = ["drive", "mean IoU", "lost most", "gained most"]


def fleet_text(merged: Dict[str, Any]) -> str:
    """The figures over all drives, and the worst drives."""
    parts = []
    if merged["frames_with_truth"]:
        parts.append(report.table(["class", "IoU %"], _classes(merged)))
    if merged["calibration"] is not None:
        parts.append(report.calibration_text(merged["calibration"]))
    if merged["stages_ms"]:
        parts.append(report.latency_table(merged["stages_ms"]))
    parts.append(report.table(ROW_HEADER, [_row(row) for row in merged["drives"][:SHOWN]]))
    if "against" in merged:
        rows = [_difference(row) for row in merged["against"]["drives"][:SHOWN]]
        parts.append(report.table(DIFFERENCE_HEADER, [_in_both(merged["against"])] + rows))
        parts.append(_not_in_both(merged["against"]))
    return "\n\n".join([part for part in parts if part] + [_summary(merged)])


def fleet_page(merged: Dict[str, Any]) -> str:
    """The page of what ``merge`` gave."""
    title = "%s on %d drives" % (merged["model"], len(merged["drives"]))
    return document(
        title,
        element("header", element("h1", title), element("p", _summary(merged), class_="soft")),
        _box("Classes", ["class", "IoU %"], _classes(merged)),
        sections.calibration(merged),
        _box("Drives, the worst first", ROW_HEADER, [_row(row) for row in merged["drives"]]),
        _against(merged),
        _box("Failed", ["drive", "reason"], [[r["drive"], failure(r)] for r in merged["failed"]]),
        _box("Damaged or incomplete", ["drive", "what"], _problems(merged)),
        _box("In the data set and not read", ["what"], [[note] for note in merged["not_read"]]),
    )


def _box(title: str, header: List[str], rows: List[List[str]]) -> Optional[Markup]:
    """A table that opens and scrolls; nothing without rows."""
    if not rows:
        return None
    summary = element("summary", "%d rows" % len(rows))
    return section(title, element("details", summary, table(header, rows), open="open"))


def _against(merged: Dict[str, Any]) -> Optional[Markup]:
    if "against" not in merged:
        return None
    found = merged["against"]
    title = "Against %s, points of IoU, the greatest loss first" % found["model"]
    rows = [_in_both(found)] + [_difference(row) for row in found["drives"]]
    rows += [[name, "only here", "", ""] for name in found["only_here"]]
    rows += [[name, "only there", "", ""] for name in found["only_there"]]
    return _box(title, DIFFERENCE_HEADER, rows)


def _in_both(against: Dict[str, Any]) -> List[str]:
    return _difference(dict(against["all"], drive="%d drives in both" % against["all"]["drives"]))


def _not_in_both(against: Dict[str, Any]) -> str:
    counts = len(against["only_here"]), len(against["only_there"])
    return "not compared: %d drives only here, %d only there" % counts if any(counts) else ""


def failure(item: Dict[str, Any]) -> str:
    """Why a drive failed, and what was left out for that."""
    older = "; its earlier report is left out" if item["left_out"] else ""
    return "%s%s" % (item["error"], older)


def _summary(merged: Dict[str, Any]) -> str:
    return (
        "%d drives, %d failed; %d frames, %d skipped; mean IoU %s %%; "
        "pixels that change class %s %%%s"
        % (
            len(merged["drives"]),
            len(merged["failed"]),
            merged["frames"],
            merged["frames_skipped"],
            report.percent(merged["mean_iou"]),
            report.percent(merged["temporal_consistency"]["changed_share"]),
            _mixture(merged["computed_by"]),
        )
    )


def _mixture(drives_of: Dict[str, int]) -> str:
    """What ``auto`` took on machines that differ; nothing where it took one."""
    if len(drives_of) < 2:
        return ""
    shown = ["%s on %d" % item for item in sorted(drives_of.items())]
    return "; computed by several, give --backend and --precision: " + ", ".join(shown)


def _classes(merged: Dict[str, Any]) -> List[List[str]]:
    return [[name, report.percent(iou)] for name, iou in merged["class_iou"].items()]


def _row(row: Dict[str, Any]) -> List[str]:
    figures = [report.percent(row["mean_iou"]), _extreme(row["class_iou"], min, report.percent)]
    counts = ["%d" % row["frames"], "%d" % row["frames_skipped"]]
    return [row["drive"]] + figures + [report.percent(row["changed_share"])] + counts


def _difference(row: Dict[str, Any]) -> List[str]:
    classes = row["class_iou"]
    losses = {name: value for name, value in classes.items() if value < 0.0}
    gains = {name: value for name, value in classes.items() if value > 0.0}
    mean = "n/a" if row["mean_iou"] is None else _points(row["mean_iou"])
    return [row["drive"], mean, _extreme(losses, min, _points), _extreme(gains, max, _points)]


def _extreme(scores: Dict[str, Optional[float]], choose: Any, shown: Any) -> str:
    defined = {name: score for name, score in scores.items() if score is not None}
    if not defined:
        return "-"
    name = choose(defined, key=defined.__getitem__)
    return "%s %s" % (name, shown(defined[name]))


def _points(difference: float) -> str:
    return "%+.2f" % (100.0 * difference)


def _problems(merged: Dict[str, Any]) -> List[List[str]]:
    return [[row["drive"], line] for row in merged["drives"] for line in row["problems"]]
