"""Label images as people have them: ids of 8 or 16 bits, a palette's indices, or colours."""

from typing import Dict, Sequence, Tuple

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_palette, read_stored, to_train_ids
from segmentation_node.labels import UNLABELLED, LabelSet, default_color

Color = Tuple[int, int, int]
BLACK: Color = (0, 0, 0)
_IDS_AS_COLORS = "; if its greys are ids, save it with one channel"


def read_mask(
    path: str, label_set: LabelSet, image_hwc: np.ndarray, void_colors: Sequence[Color]
) -> np.ndarray:
    """Read a label image of ids or of the classes' colours: train ids, uint8 (H, W).

    A colour of ``void_colors`` that no class has is no label. Raises DatasetError where the file
    is no label image, has another size than its image, holds an id or a colour of no class, or
    has a palette that gives its ids the colours of other classes.
    """
    stored = read_stored(path, image_hwc)
    if stored.ndim == 2:
        _check_palette(path, stored, label_set, void_colors)
        return to_train_ids(path, stored, label_set)
    if stored.dtype != np.uint8 or (stored.shape[2] == 4 and stored[..., 3].min() < 255):
        raise DatasetError(
            "%s: found %d channels of %s, expected ids in one channel, or opaque 8-bit colours"
            % (path, stored.shape[2], stored.dtype)
        )
    return _from_colors(path, stored, _train_ids_by_color(path, label_set, void_colors))


def _check_palette(
    path: str, ids_hw: np.ndarray, label_set: LabelSet, void_colors: Sequence[Color]
) -> None:
    """Raise DatasetError where a palette has the classes' colours only, but at others' ids.

    ``void_colors`` contradict nothing: unused entries of a palette are black.
    """
    palette = [tuple(color) for color in read_palette(path).tolist()]
    if not palette:
        return
    used = np.flatnonzero(np.bincount(ids_hw.ravel())).tolist()
    colors = {index: palette[index] for index in used if index < len(palette)}
    # Where labels.yaml gives no colour, a class has one that any tool's palette may begin with.
    chosen = {
        item.color_rgb: item.name
        for train_id, item in enumerate(label_set.classes)
        if item.color_rgb != default_color(train_id)
    }
    if len(colors) < len(used) or not set(colors.values()) <= set(chosen) | set(void_colors):
        return
    for index, color in colors.items():
        train_id = label_set.dataset_ids.get(index)
        own = None if train_id is None else label_set.classes[train_id]
        if color not in void_colors and (own is None or own.color_rgb != color):
            raise DatasetError(
                "%s: its palette gives the index %d the colour of class %r, but the id %d is %s; "
                "save it as RGB if its colours are right, as grey if its indices are"
                % (
                    path,
                    index,
                    chosen[color],
                    index,
                    "none of a class" if own is None else "that of %r" % own.name,
                )
            )


def _train_ids_by_color(
    path: str, label_set: LabelSet, void_colors: Sequence[Color]
) -> Dict[int, int]:
    found: Dict[int, int] = {}
    for train_id, item in enumerate(label_set.classes):
        code = _code(item.color_rgb)
        if code in found:
            raise DatasetError(
                "%s: holds colours, but classes %r and %r have the same one, %s; give each its own"
                % (path, label_set.names[found[code]], item.name, list(item.color_rgb))
            )
        found[code] = train_id
    for color in void_colors:
        found.setdefault(_code(color), UNLABELLED)
    return found


def _from_colors(path: str, bgr_hwc: np.ndarray, by_color: Dict[int, int]) -> np.ndarray:
    blue, green, red = (bgr_hwc[..., channel].astype(np.int32) for channel in range(3))
    codes = (red << 16) | (green << 8) | blue
    known = np.array(sorted(by_color), np.int32)
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    strange = np.unique(codes[known[at] != codes])
    if strange.size:
        first = [int(strange[0]) >> shift & 255 for shift in (16, 8, 0)]
        is_grey = (red == green).all() and (green == blue).all()
        raise DatasetError(
            "%s: %d of its colours are no class's, as %s; expected the classes' own, unsmoothed, "
            "or black for no label%s"
            % (path, strange.size, first, _IDS_AS_COLORS if is_grey else "")
        )
    return np.array([by_color[code] for code in known.tolist()], np.uint8)[at]


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
