"""One self-contained page of a run: no scripts, no other files, the same figures as the JSON."""

import os
from typing import Any, Dict, List, Optional

from segmentation_node.evaluation.report import sections
from segmentation_node.evaluation.report.gallery import example_frames
from segmentation_node.evaluation.report.markup import Markup, element, join
from segmentation_node.evaluation.report.style import STYLE
from segmentation_node.evaluation.report.text import hundredths, percent
from segmentation_node.evaluation.run.run import Run

# Nothing but what is inside the page may load, whatever a file name holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# By this a page is known as ours, and may be replaced.
PAGE_MARK = "img-src data:; style-src"


def run_page(run: Run, result: Dict[str, Any]) -> str:
    """The page of a run whose ``as_json`` is ``result``."""
    title = "%s on %s" % (result.get("model", "class maps"), data_name(result))
    return document(
        title,
        element(
            "header",
            element("h1", title),
            element("p", _subtitle(result), class_="soft"),
            *[element("div", _emphasised(note), class_="banner") for note in result["notes"]],
        ),
        element(
            "main",
            _tiles(result),
            sections.accuracy(run, result),
            sections.boxes(result),
            sections.confusion(result),
            sections.calibration(result),
            sections.latency(run, result),
            sections.by_frame(run, result),
            sections.consistency(run, result),
            example_frames(run),
            sections.problems(result),
            sections.source(result),
        ),
    )


def document(title: str, *body: Optional[Markup]) -> str:
    """A page of these parts that loads nothing."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return "<!DOCTYPE html>\n%s\n" % element("html", head, element("body", *body), lang="en")


def data_name(result: Dict[str, Any]) -> str:
    """What was scored: a data set and its split, or a bag."""
    names = [str(result[key]) for key in ("dataset", "split") if result.get(key)]
    if not names and result.get("bag"):
        names = [os.path.basename(os.path.normpath(str(result["bag"])))]
    return " ".join(names) or "a drive"


def _subtitle(result: Dict[str, Any]) -> str:
    source = result["source"]
    parts = ["%d frames" % result["frames"]]
    parts += [
        str(source[key]) for key in ("backend", "device", "processor", "date") if key in source
    ]
    return " · ".join(parts)


def _emphasised(note: str) -> Markup:
    if not note.startswith("partial: "):
        return join([note])
    return join([element("strong", "PARTIAL"), note[len("partial") :]])


def _tiles(result: Dict[str, Any]) -> Markup:
    tiles: List[Markup] = []
    if result["frames_with_truth"]:
        tiles.append(_tile("mean IoU", percent(result["mean_iou"]), "%"))
        if result["level"] == "class" and "category_iou" in result:
            tiles.append(_tile("category IoU", percent(result["mean_category_iou"]), "%"))
        if result["mean_class_iiou"] is not None:
            tiles.append(_tile("mean iIoU", percent(result["mean_class_iiou"]), "%"))
        tiles.append(_tile("global accuracy", percent(result["global_accuracy"]), "%"))
    if result["calibration"] is not None:
        error = percent(result["calibration"]["expected_error"])
        tiles.append(_tile("calibration error", error, "%"))
    for stage in ("end_to_end", "processing"):
        if _median(result, stage) is not None:
            title = "%s, median" % stage.replace("_", " ")
            tiles.append(_tile(title, hundredths(_median(result, stage)), "ms"))
    tiles.append(_tile("frames per second", hundredths(result["rate_hz"]), ""))
    changed = result["temporal_consistency"]["changed_share"]
    if changed is not None:
        tiles.append(_tile("pixels that change class", percent(changed), "%"))
    missing = len(result["skipped"]) + len(result["lost"])
    tiles.append(_tile("skipped or lost", "%d" % missing, "frames"))
    return element("dl", *tiles, class_="tiles")


def _tile(title: str, figure: str, unit: str) -> Markup:
    shown_unit = element("small", unit) if unit and figure != "n/a" else None
    return element("div", element("dt", title), element("dd", figure, shown_unit), class_="tile")


def _median(result: Dict[str, Any], stage: str) -> Optional[float]:
    return result["stages_ms"].get(stage, {}).get("p50")
