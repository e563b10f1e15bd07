"""Cityscapes as published: leftImg8bit with gtFine or gtCoarse, and the snippets around them."""

import os
from functools import partial
from typing import Iterator, List, Optional, Set, Tuple, Union

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import (
    FileDataset,
    Files,
    SampleFiles,
    new_instance_lut,
    paired,
    read_image,
    read_labels,
    require_folder,
)
from segmentation_node.evaluation.datasets.drive import Drive, frame_or_problem
from segmentation_node.evaluation.datasets.files import in_order
from segmentation_node.evaluation.frame import DrivePosition, Frame, Problem
from segmentation_node.evaluation.run.instances import AVERAGE_SIZE_PX
from segmentation_node.labels import CITYSCAPES_19

SEQUENCE_LAYOUT = (
    "Cityscapes' layout: ROOT/leftImg8bit_sequence/SPLIT/CITY/*_leftImg8bit.png and "
    "ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png"
)
SEQUENCE_RATE_HZ = 17.0
SEQUENCE_SPLITS = ("train", "val", "test")


def _instance_lut() -> np.ndarray:
    """A value is id * 1000 + number from 0, or the id alone where instances are not told apart."""
    values = np.arange(1 << 16)
    is_instance = values >= 1000
    ids = np.where(is_instance, values // 1000, values)
    return new_instance_lut(CITYSCAPES_19, ids, np.where(is_instance, values % 1000 + 1, 0))


class Cityscapes(FileDataset):
    """``ROOT/leftImg8bit/SPLIT/CITY/*.png`` with fine labels in ``ROOT/gtFine``.

    The test split is left out: its published labels are empty.
    """

    label_set = CITYSCAPES_19
    splits: Tuple[str, ...] = ("train", "val")
    instance_classes = tuple(AVERAGE_SIZE_PX)
    instance_lut = _instance_lut()
    annotation = "gtFine"

    def _find(self) -> List[SampleFiles]:
        name = self.annotation
        layout = (
            "Cityscapes' layout: ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and "
            "ROOT/%s/SPLIT/CITY/*_%s_labelIds.png" % (name, name)
        )
        labels_folder = os.path.join(self.root, name, self.split)
        images = Files(os.path.join(self.root, "leftImg8bit", self.split), "_leftImg8bit.png")
        labels = Files(labels_folder, "_%s_labelIds.png" % name)
        instances = labels.of_others("_%s_instanceIds.png" % name)
        # Colours, polygons and train ids lie beside the ids.
        self.notes = images.left_out() + labels.left_out("_%s_" % name)
        return [
            sample._replace(instances=instances.path(sample.name))
            for sample in paired(images, labels, layout)
        ]


class CityscapesCoarse(Cityscapes):
    """The same images, and the 19998 of train_extra, with coarse labels in ``ROOT/gtCoarse``."""

    splits = ("train", "train_extra", "val")
    annotation = "gtCoarse"


class CityscapesSequence(Drive):
    """``ROOT/leftImg8bit_sequence/SPLIT/CITY`` with the fine labels that ``ROOT/gtFine`` has.

    The labelled frame of a snippet is its twentieth; which that is the labels' file names say.
    The test split's labels are empty and not read.
    """

    label_set = CITYSCAPES_19
    rate_hz = SEQUENCE_RATE_HZ

    def __init__(self, root: str, split: str = "") -> None:
        split = split or "val"
        if split not in SEQUENCE_SPLITS:
            raise DatasetError(
                "unknown split %r; expected one of %s" % (split, list(SEQUENCE_SPLITS))
            )
        self.split = split
        images = os.path.join(root, "leftImg8bit_sequence", split)
        require_folder(images, SEQUENCE_LAYOUT)
        self._images = Files(images, "_leftImg8bit.png")
        self._labels = Files(os.path.join(root, "gtFine", split), "_gtFine_labelIds.png")
        self._keys = in_order(self._images.keys())
        if not self._keys:
            raise DatasetError(
                "%s: no files *_leftImg8bit.png; expected %s" % (images, SEQUENCE_LAYOUT)
            )
        self.notes = self._images.left_out() + self._labels.left_out("_gtFine_")
        self._labelled = self._find_labelled(split)
        self.length = len(self._keys)
        self._places = _places(self._keys)

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every frame; labels where gtFine has them."""
        for key, place in zip(self._keys, self._places):
            yield frame_or_problem(key, partial(self._read, key, place))

    def _read(self, key: str, place: Optional[DrivePosition]) -> Frame:
        image = read_image(self._images.only(key))
        labels = None
        if key in self._labelled:
            labels = read_labels(self._labels.only(key), CITYSCAPES_19, image)
        return Frame(key, image, labels, position=place)

    def _find_labelled(self, split: str) -> Set[str]:
        if split == "test":
            return set()
        labelled = self._labels.keys() & set(self._keys)
        if not labelled:
            self.notes += ("%s: no labels of these frames" % self._labels.folder,)
        elif len(labelled) < len(self._labels.keys()):
            self.notes += (
                "%s: %d of its %d label files have no frame in %s"
                % (
                    self._labels.folder,
                    len(self._labels.keys()) - len(labelled),
                    len(self._labels.keys()),
                    self._images.folder,
                ),
            )
        return labelled


def _places(keys: List[str]) -> List[Optional[DrivePosition]]:
    """Snippet, named by its first frame, and frame number; a gap in the numbers ends a snippet."""
    places: List[Optional[DrivePosition]] = []
    snippet, before = "", ("", -1)
    for key in keys:
        sequence, _, digits = key.rpartition("_")
        if not digits.isdigit():
            places.append(None)
            continue
        number = int(digits)
        if (sequence, number) != (before[0], before[1] + 1):
            snippet = key
        before = (sequence, number)
        places.append((snippet, number))
    return places
