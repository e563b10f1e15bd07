"""What every data set reader is: labelled frames by index."""

import os
from typing import Optional, Tuple

import cv2
import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.frame import DrivePosition, Frame
from segmentation_node.labels import LabelSet


class Dataset:
    """A split of a data set, read one labelled frame at a time.

    A subclass sets ``label_set`` and ``splits``, and supplies ``__len__`` and ``__getitem__``.
    One that numbers instances lists their classes; ``with_instances`` asks to read them too.
    """

    label_set: LabelSet
    splits: Tuple[str, ...] = ()
    instance_classes: Tuple[str, ...] = ()

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        if split not in self.splits:
            raise DatasetError("unknown split %r; expected one of %s" % (split, list(self.splits)))
        self.root = root
        self.split = split
        self.with_instances = with_instances and bool(self.instance_classes)

    @property
    def occurring_classes(self) -> Tuple[int, ...]:
        """Train ids that occur in the data set: a network trained on it can know no others."""
        return tuple(range(len(self.label_set)))

    def sample_name(self, index: int) -> str:
        """What a sample is called, without reading it."""
        return "sample %d" % index

    def drive_position(self, index: int) -> Optional[DrivePosition]:
        """A frame's place, without reading it; None where frames are single images."""
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Frame:
        raise NotImplementedError


def read_image(path: str) -> np.ndarray:
    """Read a colour image: uint8 RGB (H, W, 3). Raises DatasetError that names the file."""
    bgr = _decode(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_ids(path: str, image_hwc: np.ndarray, dtype: type, channels: int = 1) -> np.ndarray:
    """Read an image of ids as it is: (H, W), or (H, W, 3) BGR, of ``dtype``.

    Raises DatasetError where the file is no such image or has another size than its image.
    """
    ids = _decode(path, cv2.IMREAD_UNCHANGED)
    if ids.dtype != dtype or ids.shape[2:] != ((channels,) if channels > 1 else ()):
        raise DatasetError(
            "%s: found %s %s, expected a %s %d-bit label image"
            % (
                path,
                ids.dtype,
                ids.shape,
                "single-channel" if channels == 1 else "%d-channel" % channels,
                8 * np.dtype(dtype).itemsize,
            )
        )
    if ids.shape[:2] != image_hwc.shape[:2]:
        raise DatasetError(
            "%s: labels are %dx%d but their image is %dx%d"
            % (path, ids.shape[1], ids.shape[0], image_hwc.shape[1], image_hwc.shape[0])
        )
    return ids


def to_train_ids(path: str, ids_hw: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Map a file's ids to train ids, uint8 (H, W). Raises DatasetError on an id out of range."""
    try:
        return label_set.to_train_ids(ids_hw)
    except ValueError as error:
        raise DatasetError("%s: %s" % (path, error)) from error


def read_labels(path: str, label_set: LabelSet, image_hwc: np.ndarray) -> np.ndarray:
    """Read a label image and map its ids: train ids, uint8 (H, W).

    Raises DatasetError where the file is no single-channel 8-bit image, has another size than
    its image, or holds an id out of range.
    """
    return to_train_ids(path, read_ids(path, image_hwc, np.uint8), label_set)


def require_folder(path: str, layout: str) -> None:
    """Raise DatasetError unless ``path`` is a folder; ``layout`` says what should be there."""
    if not os.path.isdir(path):
        raise DatasetError("%s: no such folder; expected %s" % (path, layout))


def _decode(path: str, flags: int) -> np.ndarray:
    if not os.path.isfile(path):
        raise DatasetError("%s: no such file" % path)
    image = cv2.imread(path, flags)
    if image is None:
        raise DatasetError("%s: not a readable image; expected a whole PNG or JPEG file" % path)
    return image
