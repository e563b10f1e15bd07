"""The parts of the page, from the figures of ``Run.as_json``; one without figures is left out."""

from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np

from segmentation_node.evaluation.report.charts import bar, histogram, reliability, timeline
from segmentation_node.evaluation.report.markup import (
    Markup,
    element,
    join,
    section,
    swatch,
    table,
)
from segmentation_node.evaluation.report.text import (
    BOX_HEADER,
    THRESHOLD_HEADER,
    box_rows,
    calibration_line,
    hundredths,
    percent,
    recall_text,
    threshold_rows,
)
from segmentation_node.evaluation.run.accuracy import Scores
from segmentation_node.evaluation.run.run import Run
from segmentation_node.labels import LabelSet
from segmentation_node.timing import PERCENTILES

MOST_ROWS = 500
"""Rows of a table by frame; the JSON has all."""
STRONG_TINT = 0.8
"""Above it a cell of the confusion matrix is too dark for dark text."""


def accuracy(run: Run, result: Dict[str, Any]) -> Optional[Markup]:
    """IoU as bars, iIoU and recall, by class and by category."""
    if not result["frames_with_truth"]:
        return None
    level = result["level"]
    labels = run.truth if level == "class" else None
    parts = [
        _score_table(level, result["class_iou"], result["%s_iiou" % level], result, labels),
        element(
            "p",
            "Mean IoU %s %%, frequency-weighted IoU %s %%, mean accuracy (recall) %s %%, global "
            "accuracy %s %%."
            % tuple(
                percent(result[key])
                for key in (
                    "mean_iou",
                    "frequency_weighted_iou",
                    "mean_accuracy",
                    "global_accuracy",
                )
            ),
        ),
    ]
    if level == "class" and "category_iou" in result:
        parts.append(element("h3", "By category"))
        parts.append(
            _score_table("category", result["category_iou"], result["category_iiou"], None, None)
        )
    return section("Accuracy by %s" % level, *parts)


def _score_table(
    level: str,
    iou: Scores,
    iiou: Scores,
    result: Optional[Dict[str, Any]],
    labels: Optional[LabelSet],
) -> Markup:
    header = [level, "", "IoU %"] + (["iIoU %"] if iiou else [])
    header += ["accuracy %", "labelled pixels %"] if result else []
    rows: List[List[Any]] = []
    for index, (name, score) in enumerate(iou.items()):
        row = [join([swatch(labels, index), name]), bar(score), percent(score)]
        if iiou:
            row.append(percent(iiou[name]) if name in iiou else "")
        if result:
            row.append(percent(result["class_accuracy"][name]))
            row.append(percent(_pixel_share(result, index)))
        rows.append(row)
    return table(header, rows)


def _pixel_share(result: Dict[str, Any], index: int) -> Optional[float]:
    pixels = result["confusion_matrix"]["pixels"]
    total = sum(sum(row) for row in pixels)
    return sum(pixels[index]) / total if total else None


def boxes(result: Dict[str, Any]) -> Optional[Markup]:
    """Average precision of boxes by class, and the recall of proposals."""
    if not result["true_boxes"]:
        return None
    coco = result["ap_coco"]
    rows: List[List[Any]] = [
        [name, bar(coco["class_ap"][name]), *cells] for name, *cells in box_rows(result)
    ]
    return section(
        "Boxes",
        table(("class", "") + BOX_HEADER, rows),
        element(
            "p",
            "COCO's mean AP %s %%, at IoU 0.5 %s %%, at 0.75 %s %%; %s."
            % (
                percent(coco["ap"]),
                percent(coco["ap50"]),
                percent(coco["ap75"]),
                recall_text(result),
            ),
        ),
    )


def confusion(result: Dict[str, Any]) -> Optional[Markup]:
    """Where each class's pixels went: rows are the truth, in percent of the row."""
    if not result["frames_with_truth"]:
        return None
    matrix = result["confusion_matrix"]
    names = matrix["predicted"]
    head = element(
        "tr",
        element("th", "truth ↓  predicted →", scope="col"),
        *[element("th", element("span", name), scope="col") for name in names],
    )
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            *[_cell(name, names[column], pixels, sum(row)) for column, pixels in enumerate(row)],
        )
        for name, row in zip(matrix["truth"], matrix["pixels"])
    ]
    return section(
        "Confusion matrix",
        element(
            "p",
            "Percent of the true class's pixels; a cell's title holds the count. Blue is right, "
            "red is wrong.",
            class_="soft",
        ),
        element(
            "div",
            element("table", element("thead", head), element("tbody", *rows), class_="matrix"),
            class_="scroll",
            tabindex=0,
        ),
    )


def _cell(truth: str, predicted: str, pixels: int, row_pixels: int) -> Markup:
    share = pixels / row_pixels if row_pixels else 0.0
    kind = "right" if truth == predicted else "wrong"
    tint = share**0.6  # so that some percent of confusion can be seen
    shown = "%.0f" % (100.0 * share) if share >= 0.005 else ""
    return element(
        "td",
        shown,
        class_=kind + (" strong" if tint > STRONG_TINT else ""),
        style="--tint: %.3f" % tint,
        title="%s predicted as %s: %d pixels, %.2f %%" % (truth, predicted, pixels, 100.0 * share),
    )


def calibration(result: Dict[str, Any]) -> Optional[Markup]:
    """Whether the confidence means what it says: the picture, and what each threshold leaves."""
    found = result["calibration"]
    if found is None:
        return None
    return section(
        "Calibration",
        element("p", calibration_line(found) + "."),
        reliability(found["bins"]),
        table(THRESHOLD_HEADER, threshold_rows(found)),
    )


def latency(run: Run, result: Dict[str, Any]) -> Optional[Markup]:
    """Percentiles by stage, histogram and timeline of a frame's whole time, rate and jitter."""
    if not result["stages_ms"]:
        return None
    ranks = ["p%d" % rank for rank in PERCENTILES]
    rows = [
        [stage.replace("_", " ")] + [hundredths(values[rank]) for rank in ranks]
        for stage, values in result["stages_ms"].items()
    ]
    parts = [table(["stage, ms"] + ranks, rows)]
    for stage in ("processing", "end_to_end"):
        values = run.frames.column(stage + "_ms")
        if np.isnan(values).all():
            continue
        name = stage.replace("_", " ")
        parts += [
            histogram(values[~np.isnan(values)], "ms", "Histogram of %s time" % name),
            timeline(values, run.frames.names, "ms", "%s time by frame" % name.capitalize()),
        ]
    return section("Latency", *(parts + [_pace(result, ranks)]))


def _pace(result: Dict[str, Any], ranks: Sequence[str]) -> Markup:
    interval, jitter = result["interval_ms"], result["jitter_ms"]
    rows = [
        ["interval between results"] + [hundredths(interval[rank]) for rank in ranks],
        ["jitter: step from one interval to the next"]
        + [hundredths(jitter[rank]) for rank in ranks],
    ]
    return join(
        [
            element("h3", "Rate and jitter"),
            element(
                "p",
                "%s frames per second; standard deviation of the intervals %s ms."
                % (hundredths(result["rate_hz"]), hundredths(jitter["std"])),
            ),
            table(["ms"] + list(ranks), rows),
        ]
    )


def by_frame(run: Run, result: Dict[str, Any]) -> Optional[Markup]:
    """Mean IoU of each frame, and all figures by frame as a table."""
    parts: List[Any] = []
    values = 100.0 * run.frames.column("mean_iou")
    if not np.isnan(values).all():
        parts.append(
            element(
                "p",
                "Mean over the classes that a frame holds or is predicted to hold.",
                class_="soft",
            )
        )
        parts.append(timeline(values, run.frames.names, "%", "Mean IoU by frame", top=100.0))
    rows = result["per_frame"]
    columns = {
        "mean_iou": ("mean IoU %", percent),
        "global_accuracy": ("accuracy %", percent),
        "changed_share": ("changed %", percent),
        "processing_ms": ("processing ms", hundredths),
        "end_to_end_ms": ("end to end ms", hundredths),
    }
    shown = [key for key in columns if any(row.get(key) is not None for row in rows)]
    if not shown:
        return None
    listed = [
        [row["name"]] + [columns[key][1](row.get(key)) for key in shown] for row in rows[:MOST_ROWS]
    ]
    title = "All %d frames" % len(rows)
    if len(rows) > MOST_ROWS:
        title = "The first %d of %d frames; the JSON has all" % (MOST_ROWS, len(rows))
    figures = table(["frame"] + [columns[key][0] for key in shown], listed)
    parts.append(element("details", element("summary", title), figures))
    return section("By frame", *parts)


def consistency(run: Run, result: Dict[str, Any]) -> Markup:
    """How many pixels change class from frame to frame."""
    found = result["temporal_consistency"]
    if found["changed_share"] is None:
        text = "Not measured: no two frames follow each other in a drive."
        return section("Temporal consistency", element("p", text, class_="soft"))
    values = 100.0 * run.frames.column("changed_share")
    rows = [
        [
            join([swatch(run.predicted, _index(run.predicted, name)), name]),
            bar(share),
            percent(share),
        ]
        for name, share in found["class_changed_share"].items()
    ]
    return section(
        "Temporal consistency",
        element(
            "p",
            "%s %% of pixels change class from one frame to the next (%d of %d, over %d pairs of "
            "consecutive frames); %s %% keep it. Motion changes pixels too: compare networks on "
            "one drive."
            % (
                percent(found["changed_share"]),
                found["changed_pixels"],
                found["pixels"],
                found["frame_pairs"],
                percent(found["consistency"]),
            ),
        ),
        timeline(values, run.frames.names, "%", "Pixels that change class, by frame"),
        element("h3", "Share of a class's pixels that are another class in the next frame"),
        table(["class before", "", "changed %"], rows),
    )


def problems(result: Dict[str, Any]) -> Optional[Markup]:
    """Every frame without a result, and why; what a live node counted."""
    parts: List[Markup] = []
    if result["counters"]:
        counters = [[name, "%d" % count] for name, count in result["counters"].items()]
        parts.append(table(["counted by the node", "frames"], counters))
    for title, found in (("Skipped", result["skipped"]), ("Lost", result["lost"])):
        if found:
            rows = [[item["name"], item["reason"]] for item in found[:MOST_ROWS]]
            parts.append(element("h3", "%s: %d" % (title, len(found))))
            parts.append(table(["frame without a result", "reason"], rows, class_="figures words"))
            if len(found) > MOST_ROWS:
                parts.append(element("p", "The first %d; the JSON has all." % MOST_ROWS))
    return section("Frames counted, skipped and lost", *parts) if parts else None


def source(result: Dict[str, Any]) -> Markup:
    """What ran, on what, with which command."""
    return section("Source", element("dl", *_facts(result["source"]), class_="facts"))


def _facts(facts: Dict[str, Any]) -> Iterable[Markup]:
    for key, value in facts.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join("%s %s" % item for item in value.items())
        elif isinstance(value, (list, tuple)):
            shown = ", ".join(str(item) for item in value)
        yield element("dt", key.replace("_", " "))
        yield element("dd", str(shown))


def _index(labels: LabelSet, name: str) -> int:
    return labels.names.index(name) if name in labels.names else -1
