"""Cityscapes' snippets: 30 frames at 17 Hz each, of which gtFine labels one."""

import os
from typing import Iterator, List, Optional, Set

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_image, read_labels, require_folder
from segmentation_node.evaluation.datasets.drive import Drive
from segmentation_node.evaluation.datasets.files import Files
from segmentation_node.evaluation.frame import DrivePosition, Frame
from segmentation_node.labels import CITYSCAPES_19

LAYOUT = (
    "Cityscapes' layout: ROOT/leftImg8bit_sequence/SPLIT/CITY/*_leftImg8bit.png and "
    "ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png"
)
RATE_HZ = 17.0
SPLITS = ("train", "val", "test")


class CityscapesSequence(Drive):
    """``ROOT/leftImg8bit_sequence/SPLIT/CITY`` with the fine labels that ``ROOT/gtFine`` has.

    The labelled frame of a snippet is its twentieth; which that is the labels' file names say.
    The test split's labels are empty and not read.
    """

    label_set = CITYSCAPES_19
    rate_hz = RATE_HZ

    def __init__(self, root: str, split: str = "") -> None:
        split = split or "val"
        if split not in SPLITS:
            raise DatasetError("unknown split %r; expected one of %s" % (split, list(SPLITS)))
        self.split = split
        images = os.path.join(root, "leftImg8bit_sequence", split)
        require_folder(images, LAYOUT)
        self._images = Files(images, "_leftImg8bit.png")
        self._labels = Files(os.path.join(root, "gtFine", split), "_gtFine_labelIds.png")
        self._keys = sorted(self._images.keys())
        if not self._keys:
            raise DatasetError("%s: no files *_leftImg8bit.png; expected %s" % (images, LAYOUT))
        self._labelled = self._find_labelled(split)
        self.length = len(self._keys)
        self._places = _places(self._keys)

    def frames(self) -> Iterator[Frame]:
        """Every frame; labels where gtFine has them."""
        for key, place in zip(self._keys, self._places):
            image = read_image(self._images.path(key))
            labels = None
            if key in self._labelled:
                labels = read_labels(self._labels.path(key), CITYSCAPES_19, image)
            yield Frame(key, image, labels, position=place)

    def _find_labelled(self, split: str) -> Set[str]:
        if split == "test":
            return set()
        labelled = self._labels.keys() & set(self._keys)
        if not labelled:
            self.notes = ("%s: no labels of these frames" % self._labels.folder,)
        elif len(labelled) < len(self._labels.keys()):
            self.notes = (
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
