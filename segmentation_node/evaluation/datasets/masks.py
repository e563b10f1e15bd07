"""Label images as people have them: ids of 8 or 16 bits, a palette's indices, or colours."""

from typing import Dict, Sequence, Tuple

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_stored, to_train_ids
from segmentation_node.labels import UNLABELLED, LabelSet

Color = Tuple[int, int, int]
BLACK: Color = (0, 0, 0)


def read_mask(
    path: str, label_set: LabelSet, image_hwc: np.ndarray, void_colors: Sequence[Color] = (BLACK,)
) -> np.ndarray:
    """Read a label image of ids or of the classes' colours: train ids, uint8 (H, W).

    A colour of ``void_colors`` that no class has is no label. Raises DatasetError where the file
    is no label image, has another size than its image, or holds an id or a colour of no class.
    """
    stored = read_stored(path, image_hwc)
    if stored.ndim == 2:
        return to_train_ids(path, stored, label_set)
    if stored.dtype != np.uint8 or (stored.shape[2] == 4 and stored[..., 3].min() < 255):
        raise DatasetError(
            "%s: found %d channels of %s, expected ids in one channel, or opaque 8-bit colours"
            % (path, stored.shape[2], stored.dtype)
        )
    return _from_colors(path, stored, _train_ids_by_color(path, label_set, void_colors))


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
        raise DatasetError(
            "%s: %d of its colours are no class's, as %s; expected the classes' own, unsmoothed, "
            "or black for no label" % (path, strange.size, first)
        )
    return np.array([by_color[code] for code in known.tolist()], np.uint8)[at]


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
