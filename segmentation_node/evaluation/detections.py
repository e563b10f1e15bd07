"""The boxes in a vision_msgs/Detection2DArray, of whatever binding."""

import math
from typing import Any, Tuple

from segmentation_node.boxes import Boxes, make_boxes
from segmentation_node.errors import ImageError, shown
from segmentation_node.labels import LabelSet


def boxes_in(message: Any, labels: LabelSet) -> Boxes:
    """The boxes of a message, each of its surest class; without those that the label set lacks.

    Raises ImageError on a box without finite corners.
    """
    found = []
    for item in message.detections:
        name, score = best_class(item)
        if name in labels.names:
            found.append((corners(item), labels.names.index(name), score))
    columns: Any = zip(*found) if found else ([], [], [])
    return make_boxes(*(list(column) for column in columns))


def best_class(item: Any) -> Tuple[str, float]:
    """The surest class of a detection and its score; empty where it has none."""
    results = [result.hypothesis for result in item.results]
    best = max(results, key=lambda result: result.score, default=None)
    return ("", 0.0) if best is None else (best.class_id, float(best.score))


def corners(item: Any) -> Tuple[float, float, float, float]:
    """Left, top, right and bottom of a detection. Raises ImageError where one is not finite."""
    centre, width, height = item.bbox.center.position, item.bbox.size_x, item.bbox.size_y
    box = (
        centre.x - width / 2,
        centre.y - height / 2,
        centre.x + width / 2,
        centre.y + height / 2,
    )
    if not all(math.isfinite(value) for value in box):
        raise ImageError("a box with the corners %s" % shown(box))
    return box
