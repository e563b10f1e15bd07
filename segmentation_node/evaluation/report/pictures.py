"""A frame's pictures as data URIs, so that the page needs no other file."""

import base64
from typing import List, NamedTuple, Optional

import cv2
import numpy as np

from segmentation_node.evaluation.run.accuracy import CommonLevel
from segmentation_node.evaluation.run.best_and_worst import Example
from segmentation_node.images import colourise
from segmentation_node.labels import UNLABELLED, LabelSet

WRONG_RGB = (255, 59, 48)
UNLABELLED_RGB = (58, 76, 110)
JPEG_QUALITY = 82


class Picture(NamedTuple):
    """A picture's caption and its content."""

    caption: str
    uri: str


def pictures(example: Example, predicted: LabelSet, truth: Optional[LabelSet]) -> List[Picture]:
    """Image, truth, prediction and errors of a frame; without truth, what changed instead."""
    found = []
    if example.image_hwc is not None:
        found.append(Picture("image", _uri(example.image_hwc, ".jpg")))
    if example.truth_hw is not None and truth is not None:
        found.append(Picture("truth", _colours(example.truth_hw, truth)))
    if example.before_hw is not None:
        found.append(Picture("frame before", _colours(example.before_hw, predicted)))
    found.append(Picture("prediction", _colours(example.class_map_hw, predicted)))
    if example.truth_hw is not None and truth is not None:
        level = CommonLevel(predicted, truth)
        right, seen = level.bring(example.truth_hw, example.class_map_hw)
        found.append(
            Picture("errors", _uri(_marked(example, right != seen, right == UNLABELLED), ".png"))
        )
    elif example.before_hw is not None:
        changed = example.before_hw != example.class_map_hw
        found.append(Picture("changed", _uri(_marked(example, changed, None), ".png")))
    return found


def _colours(class_map_hw: np.ndarray, labels: LabelSet) -> str:
    return _uri(colourise(class_map_hw, labels.palette()), ".png")


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


def _uri(rgb_hwc: np.ndarray, ending: str) -> str:
    kind = "jpeg" if ending == ".jpg" else "png"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    if kind == "png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    bgr = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(ending, bgr, options)
    return "data:image/%s;base64,%s" % (kind, base64.b64encode(encoded.tobytes()).decode("ascii"))
