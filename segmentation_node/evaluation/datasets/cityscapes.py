"""Cityscapes as published: leftImg8bit with gtFine, or with the coarse labels of gtCoarse."""

import os
from typing import List, Tuple

import numpy as np

from segmentation_node.evaluation.datasets.files import (
    FileDataset,
    Files,
    SampleFiles,
    labelled_keys,
    new_instance_lut,
)
from segmentation_node.evaluation.run.instances import AVERAGE_SIZE_PX
from segmentation_node.labels import CITYSCAPES_19


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
        instances = Files(labels_folder, "_%s_instanceIds.png" % name)
        return [
            SampleFiles(key, images.path(key), labels.path(key), instances.path(key))
            for key in labelled_keys(images, labels, layout)
        ]


class CityscapesCoarse(Cityscapes):
    """The same images, and the 19998 of train_extra, with coarse labels in ``ROOT/gtCoarse``."""

    splits = ("train", "train_extra", "val")
    annotation = "gtCoarse"
