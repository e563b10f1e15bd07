"""KITTI's object benchmark: images with boxes, without labels of pixels."""

import os
from typing import List, NamedTuple, Tuple

import numpy as np

from segmentation_node.errors import DatasetError, shown
from segmentation_node.evaluation.datasets.base import (
    FileDataset,
    Files,
    SampleFiles,
    paired,
    read_image,
)
from segmentation_node.evaluation.datasets.files import read_text
from segmentation_node.evaluation.frame import Calibration, Frame
from segmentation_node.evaluation.run.true_boxes import (
    ANY_CLASS,
    AREA,
    LEFT_OUT,
    THING,
    TrueBoxes,
    true_boxes,
)
from segmentation_node.labels import CITYSCAPES_19

LAYOUT = "KITTI's layout: ROOT/training/{image_2/NNNNNN.png,label_2/NNNNNN.txt,calib/NNNNNN.txt}"
LARGEST_FILE_BYTES = 1 << 20
# What the benchmark calls neighbours may be found or not.
TYPES = {
    "Car": ("car", THING),
    "Van": ("car", LEFT_OUT),
    "Truck": ("truck", THING),
    "Tram": ("train", THING),
    "Pedestrian": ("person", THING),
    "Person_sitting": ("person", LEFT_OUT),
    "Cyclist": ("rider", THING),
    "DontCare": ("", AREA),
}
MISC = "Misc"


class _Line(NamedTuple):
    """A line of a label file."""

    type: str
    truncation: float
    occlusion: int
    box: Tuple[float, ...]


class KittiObject(FileDataset):
    """``ROOT/training/image_2/NNNNNN.png`` with boxes in ``label_2`` and cameras in ``calib``.

    Its classes go by Cityscapes' names; a cyclist's box, rider and bicycle, is called a rider's.
    """

    label_set = CITYSCAPES_19
    splits = ("train", "training")
    has_labels = False
    box_classes = ("car", "person", "rider", "truck", "train")

    def _find(self) -> List[SampleFiles]:
        folder = os.path.join(self.root, "training")
        images = Files(os.path.join(folder, "image_2"), ".png")
        labels = Files(os.path.join(folder, "label_2"), ".txt")
        self._calibrations = Files(os.path.join(folder, "calib"), ".txt")
        self.is_calibrated = os.path.isdir(self._calibrations.folder)
        self.notes = images.left_out() + labels.left_out()
        return paired(images, labels, LAYOUT)

    def __getitem__(self, index: int) -> Frame:
        files = self.files_of(index)
        image = read_image(files.image)
        calibration = None
        if self.is_calibrated:
            calibration = _read_calibration(self._calibrations.path(files.name), image)
        boxes = _read_boxes(files.labels)
        return Frame(files.name, image, true_boxes=boxes, calibration=calibration)


def _read_boxes(path: str) -> TrueBoxes:
    lines = [
        _parsed(path, number, line)
        for number, line in enumerate(read_text(path, LARGEST_FILE_BYTES).splitlines(), 1)
        if line.strip()
    ]
    known = [line for line in lines if line.type != MISC]
    names = [TYPES[line.type][0] for line in known]
    return true_boxes(
        [line.box for line in known],
        [CITYSCAPES_19.names.index(name) if name else ANY_CLASS for name in names],
        [TYPES[line.type][1] for line in known],
        # What the benchmark does not care for has -1 for both.
        [max(0, line.occlusion) for line in known],
        [max(0.0, line.truncation) for line in known],
    )


def _parsed(path: str, number: int, line: str) -> _Line:
    type_, *values = line.split()
    try:
        if type_ not in TYPES and type_ != MISC:
            raise ValueError
        truncation, occlusion, _, left, top, right, bottom = (float(text) for text in values[:7])
        if not (np.isfinite([truncation, occlusion, left, top]).all() and len(values) in (14, 15)):
            raise ValueError
        if not (left < right < np.inf and top < bottom < np.inf):
            raise ValueError
    except ValueError:
        raise DatasetError(
            "%s, line %d: found %s, expected KITTI's type (%s), then 14 numbers, the 4th to the "
            "7th a box: left, top, right and bottom"
            % (path, number, shown(line.strip()), ", ".join([*TYPES, MISC]))
        ) from None
    return _Line(type_, truncation, int(occlusion), (left, top, right, bottom))


def _read_calibration(path: str, image_hwc: np.ndarray) -> Calibration:
    """The projection of image_2's camera, P2."""
    for line in read_text(path, LARGEST_FILE_BYTES).splitlines():
        name, _, rest = line.partition(":")
        if name == "P2":
            try:
                values = tuple(float(text) for text in rest.split())
            except ValueError:
                break
            if len(values) == 12 and np.isfinite(values).all():
                height, width = image_hwc.shape[:2]
                return Calibration(width, height, values)
    raise DatasetError("%s: expected a line P2 with 12 numbers" % path)
