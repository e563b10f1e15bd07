"""The page's best and worst frames, their pictures as data URIs: it needs no other file."""

import base64
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.evaluation.report.markup import Markup, element, section, swatch
from segmentation_node.evaluation.report.text import percent
from segmentation_node.evaluation.run.accuracy import CommonLevel
from segmentation_node.evaluation.run.best_and_worst import Example
from segmentation_node.evaluation.run.run import Run
from segmentation_node.images import colourise
from segmentation_node.labels import UNLABELLED, LabelSet

WRONG_RGB = (255, 59, 48)
UNLABELLED_RGB = (58, 76, 110)
QUALITY = {
    "jpeg": [cv2.IMWRITE_JPEG_QUALITY, 82],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 9],
}
IOU_TEXT = "mean IoU %s %%"
CHANGED_TEXT = "%s %% of pixels change class"


def example_frames(run: Run) -> Optional[Markup]:
    """The best and the worst frames with their pictures; the ones that change most."""
    parts = _chosen(run, "Lowest mean IoU", run.examples.lowest(), IOU_TEXT)
    parts += _chosen(run, "Highest mean IoU", run.examples.highest(), IOU_TEXT)
    changed = run.changed_examples
    parts += _chosen(run, "Most pixels change class", changed.highest(), CHANGED_TEXT)
    if not run.accuracy.frames:
        parts += _chosen(run, "Fewest pixels change class", changed.lowest(), CHANGED_TEXT)
    if not parts:
        return None
    text = "Errors and changed pixels are red; pixels without a label are blue."
    parts = [*_legends(run), element("p", text, class_="soft"), *parts]
    return section("Best and worst frames", *parts)


def _chosen(run: Run, title: str, examples: Sequence[Example], text: str) -> List[Markup]:
    if not examples:
        return []
    return [element("h3", title)] + [_example(run, example, text) for example in examples]


def _example(run: Run, example: Example, text: str) -> Markup:
    shown = [
        element(
            "div",
            element("img", src=uri, alt="%s of %s" % (caption, example.name)),
            caption,
        )
        for caption, uri in pictures(example, run.predicted, run.truth)
    ]
    caption = element(
        "figcaption", element("b", example.name), " · " + text % percent(example.score)
    )
    return element("figure", caption, element("div", *shown, class_="pictures"))


def _legends(run: Run) -> List[Markup]:
    sets = {run.predicted.name: run.predicted}
    if run.truth is not None:
        sets[run.truth.name] = run.truth
    return [
        element(
            "ul",
            *[
                element("li", swatch(labels, index), name)
                for index, name in enumerate(labels.names)
            ],
            class_="legend",
            aria_label="Colours of %s" % labels.name,
        )
        for labels in sets.values()
    ]


def pictures(
    example: Example, predicted: LabelSet, truth: Optional[LabelSet]
) -> List[Tuple[str, str]]:
    """Image, truth, prediction and errors of a frame, or what changed: captions and data URIs."""
    found = []
    if example.image_hwc is not None:
        found.append(("image", _uri(example.image_hwc, "jpeg")))
    if example.truth_hw is not None and truth is not None:
        found.append(("truth", _colours(example.truth_hw, truth)))
    if example.before_hw is not None:
        found.append(("frame before", _colours(example.before_hw, predicted)))
    found.append(("prediction", _colours(example.class_map_hw, predicted)))
    if example.truth_hw is not None and truth is not None:
        level = CommonLevel(predicted, truth)
        right, seen = level.bring(example.truth_hw, example.class_map_hw)
        found.append(("errors", _uri(_marked(example, right != seen, right == UNLABELLED), "png")))
    elif example.before_hw is not None:
        changed = example.before_hw != example.class_map_hw
        found.append(("changed", _uri(_marked(example, changed, None), "png")))
    return found


def _colours(class_map_hw: np.ndarray, labels: LabelSet) -> str:
    return _uri(colourise(class_map_hw, labels.palette()), "png")


def _marked(
    example: Example, wrong_hw: np.ndarray, unlabelled_hw: Optional[np.ndarray]
) -> np.ndarray:
    """The image dim and grey, wrong pixels red, unlabelled ones blue."""
    if example.image_hwc is None:
        marked = np.full(wrong_hw.shape + (3,), 60, np.uint8)
    else:
        height, width = wrong_hw.shape
        grey = cv2.cvtColor(example.image_hwc, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (width, height))  # where class maps have the network's size
        # Coarse levels: the picture stays small, and the errors stand out.
        marked = cv2.cvtColor(grey // 32 * 16, cv2.COLOR_GRAY2RGB)
    marked[wrong_hw] = WRONG_RGB
    if unlabelled_hw is not None:
        marked[unlabelled_hw] = UNLABELLED_RGB
    return marked


def _uri(rgb_hwc: np.ndarray, kind: str) -> str:
    bgr = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode("." + kind, bgr, QUALITY[kind])
    return "data:image/%s;base64,%s" % (kind, base64.b64encode(encoded.tobytes()).decode("ascii"))
