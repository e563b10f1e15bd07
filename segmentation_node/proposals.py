"""Where things may be, from the class map: what a box head looks at (the R of Fast R-CNN).

A connected area of a class is one thing, part of one that something stands before, or several that
touch. So an area proposes its own box, boxes shifted a little, boxes together with areas beside it,
and, where it is wide, windows of it that are shaped as single things of its class are.
"""

from itertools import combinations, zip_longest
from typing import Iterable, Iterator, List, Sequence, Tuple

import cv2
import numpy as np

LEAST_PIXELS = 24
MOST_AREAS = 48
STARTS = 7
"""Columns, equally far apart, where windows of an area begin and end; beside its steps."""
MOST_STEPS = 4
JITTER = ((-0.12, 0.0, 0.0, 0.0), (0.0, 0.0, 0.12, 0.0), (-0.1, -0.1, 0.1, 0.1))
"""Shifts of left, top, right and bottom, as shares of width and height."""
SAME_IOU = 0.85
MOST_PER_KEPT = 3
"""Boxes that are compared for each that may be kept."""
LEAST_WIDTH = 3

Box = Tuple[float, float, float, float]
Area = Tuple[int, int, np.ndarray, np.ndarray]
"""Class by its place among the classes, first column, and of each column the top row and the row
beyond the bottom."""


def propose(
    class_map_hw: np.ndarray,
    train_ids: Sequence[int],
    shapes: Sequence[Sequence[float]],
    count: int,
) -> np.ndarray:
    """At most ``count`` boxes, float32 (N, 4): left, top, right, bottom in pixels of the class map.

    ``class_map_hw`` is uint8 (H, W); ``shapes`` has for each class the usual widths of one thing,
    as multiples of its height. The likeliest come first: of equal maps equal boxes in one order.
    """
    areas = _areas(class_map_hw, train_ids)
    boxes = [_box(area) for area in areas]
    ranked = boxes + list(_unions(areas, boxes))
    ranked += _in_turn(_windows(area, shapes[area[0]]) for area in areas)
    ranked += _in_turn(_jittered(box) for box in boxes)
    if not ranked:
        return np.zeros((0, 4), np.float32)
    height, width = class_map_hw.shape
    found = np.array(ranked, np.float32)
    np.clip(found, 0.0, np.array([width, height, width, height], np.float32), out=found)
    return _distinct(found, count)


def _areas(class_map_hw: np.ndarray, train_ids: Sequence[int]) -> List[Area]:
    """Connected areas, the largest first."""
    found = []
    for place, train_id in enumerate(train_ids):
        mask = (class_map_hw == train_id).view(np.uint8)
        x, y, wide, high = cv2.boundingRect(mask)
        mask = np.ascontiguousarray(mask[y : y + high, x : x + wide])
        if not mask.size:
            continue
        count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for number in range(1, count):
            left, top, width, height, pixels = stats[number].tolist()
            if pixels >= LEAST_PIXELS:
                inside = numbers[top : top + height, left : left + width] == number
                tops = y + top + inside.argmax(axis=0)
                bottoms = y + top + height - inside[::-1].argmax(axis=0)
                found.append((-pixels, place, x + left, tops, bottoms))
    found.sort(key=lambda area: area[:3])
    return [area[1:] for area in found[:MOST_AREAS]]


def _box(area: Area) -> Box:
    _, left, tops, bottoms = area
    return (left, tops.min(), left + len(tops), bottoms.max())


def _unions(areas: Sequence[Area], boxes: Sequence[Box]) -> Iterator[Box]:
    """Of two areas of a class that something narrow may part."""
    for one, other in combinations(range(len(areas)), 2):
        if areas[one][0] != areas[other][0]:
            continue
        a, b = boxes[one], boxes[other]
        gap = max(a[0], b[0]) - min(a[2], b[2])
        overlap = min(a[3], b[3]) - max(a[1], b[1])
        widest = max(a[2] - a[0], b[2] - b[0])
        lowest = min(a[3] - a[1], b[3] - b[1])
        if gap <= 0.6 * widest and overlap >= 0.3 * lowest:
            yield (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def _windows(area: Area, shapes: Sequence[float]) -> List[Box]:
    """Between the steps of the outline, and from each start rightwards and leftwards."""
    _, left, tops, bottoms = area
    width, height = len(tops), int(bottoms.max() - tops.min())
    if width < 1.25 * min(shapes) * height:
        return []
    steps = _steps(tops, bottoms)
    grid = np.linspace(0, width, STARTS + 1).astype(int)[1:-1].tolist()
    spans = list(combinations([0] + steps + [width], 2))
    spans += _grown(tops, bottoms, [0] + steps + grid, shapes)
    starts = [0] + [width - place for place in steps + grid]
    leftwards = _grown(tops[::-1], bottoms[::-1], starts, shapes)
    spans += [(width - stop, width - start) for start, stop in leftwards]
    return [
        (left + start, tops[start:stop].min(), left + stop, bottoms[start:stop].max())
        for start, stop in spans
        if stop - start >= LEAST_WIDTH
    ]


def _grown(
    tops: np.ndarray, bottoms: np.ndarray, starts: Sequence[int], shapes: Sequence[float]
) -> List[Tuple[int, int]]:
    """From each start the columns until they are as wide as a shape is at their height."""
    width = len(tops)
    columns = np.asarray(starts)[:, None] + np.arange(width)
    inside = columns < width
    columns = np.minimum(columns, width - 1)
    high = np.maximum.accumulate(bottoms[columns], axis=1)
    high -= np.minimum.accumulate(tops[columns], axis=1)
    reached = np.arange(1, width + 1) >= np.asarray(shapes)[:, None, None] * high
    reached &= inside
    first = reached.argmax(axis=2)
    return [
        (start, start + int(first[shape, row]) + 1)
        for shape in range(len(shapes))
        for row, start in enumerate(starts)
        if reached[shape, row, first[shape, row]]
    ]


def _steps(tops: np.ndarray, bottoms: np.ndarray) -> List[int]:
    """Columns where the outline jumps: there one thing ends before another."""
    least = max(2, int(0.08 * (bottoms.max() - tops.min())))
    reach = 2
    if len(tops) <= 2 * reach:
        return []
    jumps = np.maximum(
        np.abs(tops[reach:] - tops[:-reach]), np.abs(bottoms[reach:] - bottoms[:-reach])
    )
    chosen: List[int] = []
    for place in np.argsort(-jumps, kind="stable"):
        if jumps[place] < least or len(chosen) == MOST_STEPS:
            break
        column = int(place) + reach // 2
        if all(abs(column - other) > 3 for other in chosen + [0, len(tops)]):
            chosen.append(column)
    return sorted(chosen)


def _jittered(box: Box) -> List[Box]:
    width, height = box[2] - box[0], box[3] - box[1]
    return [
        (
            box[0] + left * width,
            box[1] + top * height,
            box[2] + right * width,
            box[3] + bottom * height,
        )
        for left, top, right, bottom in JITTER
    ]


def _in_turn(lists: Iterable[List[Box]]) -> List[Box]:
    """The first of each, then the second of each ..."""
    return [box for turn in zip_longest(*lists) for box in turn if box is not None]


def _distinct(boxes_xyxy: np.ndarray, count: int) -> np.ndarray:
    """The first boxes that are not as good as equal to one before."""
    boxes_xyxy = boxes_xyxy[: MOST_PER_KEPT * count]
    left, top, right, bottom = boxes_xyxy.T
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    shared = np.maximum(wide, 0.0) * np.maximum(high, 0.0)
    areas = (right - left) * (bottom - top)
    same = shared > SAME_IOU / (1.0 + SAME_IOU) * (areas[:, None] + areas)
    is_free = areas > 0.0
    kept: List[int] = []
    for index in range(len(boxes_xyxy)):
        if is_free[index]:
            kept.append(index)
            if len(kept) == count:
                break
            is_free[index + 1 :] &= ~same[index, index + 1 :]
    return boxes_xyxy[kept]
