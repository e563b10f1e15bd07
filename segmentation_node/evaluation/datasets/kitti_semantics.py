"""KITTI's semantic segmentation benchmark: 200 labelled images with Cityscapes ids."""

import os
from typing import List

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

LAYOUT = "KITTI's layout: ROOT/training/{image_2,semantic,instance}/NNNNNN_10.png"


def _instance_lut() -> np.ndarray:
    """A value is id * 256 + number from 1; number 0 stands for no instance."""
    values = np.arange(1 << 16)
    return new_instance_lut(CITYSCAPES_19, values // 256, values % 256)


class KittiSemantics(FileDataset):
    """``ROOT/training/image_2/NNNNNN_10.png`` with labels of the same name in ``semantic``.

    Only the training folder has labels; its split is called ``training``, as the folder is, or
    ``train``, as in the other data sets.
    """

    label_set = CITYSCAPES_19
    splits = ("train", "training")
    instance_classes = tuple(AVERAGE_SIZE_PX)
    instance_lut = _instance_lut()

    def _find(self) -> List[SampleFiles]:
        # image_2 of the stereo archives, often unpacked at the same place, holds *_11.png too.
        images, labels, instances = (
            Files(os.path.join(self.root, "training", folder), "_10.png")
            for folder in ("image_2", "semantic", "instance")
        )
        return [
            SampleFiles(key, images.path(key), labels.path(key), instances.path(key))
            for key in labelled_keys(images, labels, LAYOUT)
        ]
