"""The procedural street drive as a data set: rendered on demand, exact labels, no files."""

from functools import lru_cache
from typing import Tuple

import numpy as np

from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.datasets.street.classes import OCCURRING
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.labels import CITYSCAPES_19

# Seeds of different splits never meet: a test drive is a street that training has not seen.
SPLIT_SEEDS = {"train": range(1000, 1100), "val": range(2000, 2004), "test": range(3000, 3010)}
FRAMES_PER_DRIVE = 12
# Frames further apart than consecutive ones, so that a drive's few frames show different places.
FRAME_STEP = 25
INSTANCE_CLASSES = ("person", "rider", "car", "bicycle")
_NUMBERED = [CITYSCAPES_19.names.index(name) for name in INSTANCE_CLASSES]


@lru_cache(maxsize=2)
def _drive(seed: int) -> StreetDrive:
    """Nothing changes a drive, and to build one takes as long as a dozen of its frames."""
    return StreetDrive(seed)


class Street(Dataset):
    """Frames at 640x360 of several drives; ``root`` is not used."""

    label_set = CITYSCAPES_19
    splits = ("train", "val", "test")
    instance_classes = INSTANCE_CLASSES

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.seeds = SPLIT_SEEDS[split]

    @property
    def occurring_classes(self) -> Tuple[int, ...]:
        return OCCURRING

    def __len__(self) -> int:
        return len(self.seeds) * FRAMES_PER_DRIVE

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(index)
        seed, frame = self._place(index)
        drive, instances = _drive(seed), None
        if not self.with_instances:
            image, labels = drive.frame(frame)
        else:
            numbers = np.zeros((drive.height, drive.width), np.uint16)
            image, labels = drive.frame(frame, numbers)
            numbers[~np.isin(labels, _NUMBERED)] = 0
            instances = instance_ids(labels, numbers)
        return Frame(self.sample_name(index), image, labels, instances)

    def sample_name(self, index: int) -> str:
        return "drive%d_frame%04d" % self._place(index)

    def _place(self, index: int) -> Tuple[int, int]:
        drive, position = divmod(index, FRAMES_PER_DRIVE)
        return self.seeds[drive], position * FRAME_STEP
