"""What every data set reader gives: samples of an image with its train ids."""

import os
from dataclasses import dataclass

import cv2
import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.labels import LabelSet


@dataclass(frozen=True)
class Sample:
    """One labelled image: uint8 RGB (H, W, 3) and train ids, uint8 (H, W), 255 = unlabelled."""

    name: str
    image_hwc: np.ndarray
    labels_hw: np.ndarray


class Dataset:
    """A split of a data set, read one sample at a time.

    A subclass sets ``label_set`` and ``splits``, and supplies ``__len__`` and ``__getitem__``.
    """

    label_set: LabelSet
    splits: tuple = ()

    def __init__(self, root: str, split: str) -> None:
        if split not in self.splits:
            raise DatasetError("unknown split %r; expected one of %s" % (split, list(self.splits)))
        self.root = root
        self.split = split

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError


def read_image(path: str) -> np.ndarray:
    """Read a colour image: uint8 RGB (H, W, 3). Raises DatasetError that names the file."""
    bgr = _decode(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_labels(path: str, label_set: LabelSet, image_hwc: np.ndarray) -> np.ndarray:
    """Read a label image and map its ids: train ids, uint8 (H, W).

    Raises DatasetError where the file is no single-channel 8-bit image, has another size than
    its image, or holds an id out of range.
    """
    ids = _decode(path, cv2.IMREAD_UNCHANGED)
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise DatasetError(
            "%s: found %s %s, expected a single-channel 8-bit label image"
            % (path, ids.dtype, ids.shape)
        )
    if ids.shape != image_hwc.shape[:2]:
        raise DatasetError(
            "%s: labels are %dx%d but their image is %dx%d"
            % (path, ids.shape[1], ids.shape[0], image_hwc.shape[1], image_hwc.shape[0])
        )
    try:
        return label_set.to_train_ids(ids)
    except ValueError as error:
        raise DatasetError("%s: %s" % (path, error)) from error


def require_folder(path: str, layout: str) -> None:
    """Raise DatasetError unless ``path`` is a folder; ``layout`` says what should be there."""
    if not os.path.isdir(path):
        raise DatasetError("%s: no such folder; expected %s" % (path, layout))


def _decode(path: str, flags: int) -> np.ndarray:
    if not os.path.isfile(path):
        raise DatasetError("%s: no such file" % path)
    image = cv2.imread(path, flags)
    if image is None:
        raise DatasetError("%s: not a readable image" % path)
    return image
