"""KITTI-STEP: KITTI's tracking sequences with a panoptic map for every frame."""

import os
from typing import List, Optional

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import (
    read_ids,
    read_image,
    require_folder,
    to_train_ids,
)
from segmentation_node.evaluation.datasets.files import (
    FileDataset,
    Files,
    SampleFiles,
    labelled_keys,
)
from segmentation_node.evaluation.frame import DrivePosition, Frame
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.labels import CITYSCAPES_19_AS_TRAIN_IDS

LAYOUT = (
    "KITTI-STEP's layout: ROOT/panoptic_maps/{train,val}/SEQUENCE/NNNNNN.png and "
    "ROOT/training/image_02/SEQUENCE/NNNNNN.png (or ROOT/images/{train,val}/SEQUENCE)"
)


class KittiStep(FileDataset):
    """``ROOT/panoptic_maps/SPLIT/SEQUENCE`` with the frames of KITTI's tracking benchmark.

    The maps' folders decide which sequences a split has: as published, val is 0002, 0006, 0007,
    0008, 0010, 0013, 0014, 0016 and 0018, and train the other twelve. The frames are where KITTI's
    archive puts them, or sorted into splits as the data set's authors describe.
    """

    label_set = CITYSCAPES_19_AS_TRAIN_IDS
    splits = ("train", "val")
    instance_classes = ("person", "car")

    def _find(self) -> List[SampleFiles]:
        maps_folder = os.path.join(self.root, "panoptic_maps", self.split)
        require_folder(maps_folder, LAYOUT)
        samples = []
        for sequence in sorted(os.listdir(maps_folder)):
            maps = Files(os.path.join(maps_folder, sequence), ".png")
            images = Files(os.path.join(self._images_folder(), sequence), ".png")
            samples += [
                SampleFiles(
                    "%s/%s" % (sequence, key), images.path(key), maps.path(key), maps.path(key)
                )
                for key in labelled_keys(images, maps, LAYOUT)
            ]
        if not samples:
            raise DatasetError("%s: no sequences; expected %s" % (maps_folder, LAYOUT))
        return samples

    def _images_folder(self) -> str:
        sorted_folder = os.path.join(self.root, "images", self.split)
        if os.path.isdir(sorted_folder):
            return sorted_folder
        return os.path.join(self.root, "training", "image_02")

    def drive_position(self, index: int) -> Optional[DrivePosition]:
        sequence, _, frame = self.samples[index].name.rpartition("/")
        return (sequence, int(frame)) if frame.isdigit() else None

    def __getitem__(self, index: int) -> Frame:
        """R is the class; G and B are the high and the low byte of the instance's number."""
        files = self.samples[index]
        image = read_image(files.image)
        panoptic_bgr = read_ids(files.labels, image, np.uint8, channels=3)
        labels = to_train_ids(files.labels, panoptic_bgr[..., 2], self.label_set)
        instances = None
        if self.with_instances:
            numbers = panoptic_bgr[..., 1].astype(np.int32) * 256 + panoptic_bgr[..., 0]
            instances = instance_ids(labels, numbers)
        return Frame(files.name, image, labels, instances, position=self.drive_position(index))
