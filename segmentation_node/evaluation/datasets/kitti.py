"""KITTI: raw recordings, the 200 images of its semantic benchmark, and KITTI-STEP's sequences."""

import calendar
import os
import re
import time
from functools import partial
from typing import Dict, Iterator, List, Optional, Tuple, Union

import numpy as np

from segmentation_node.errors import DatasetError, shown
from segmentation_node.evaluation.datasets.base import (
    FileDataset,
    Files,
    SampleFiles,
    new_instance_lut,
    paired,
    read_ids,
    read_image,
    require_folder,
    to_train_ids,
)
from segmentation_node.evaluation.datasets.drive import Calibration, Drive, frame_or_problem
from segmentation_node.evaluation.datasets.files import in_order, left_out, names_in, read_text
from segmentation_node.evaluation.frame import DrivePosition, Frame, Problem
from segmentation_node.evaluation.run.instances import AVERAGE_SIZE_PX, instance_ids
from segmentation_node.labels import CITYSCAPES_19, CITYSCAPES_19_AS_TRAIN_IDS
from segmentation_node.pictures import ENDINGS

SEMANTICS_LAYOUT = "KITTI's layout: ROOT/training/{image_2,semantic,instance}/NNNNNN_10.png"
STEP_LAYOUT = (
    "KITTI-STEP's layout: ROOT/panoptic_maps/{train,val}/SEQUENCE/NNNNNN.png and "
    "ROOT/training/image_02/SEQUENCE/NNNNNN.png (or ROOT/images/{train,val}/SEQUENCE)"
)
RAW_LAYOUT = (
    "KITTI's raw layout: ROOT/DATE/DATE_drive_NNNN_sync/image_02/{data/NNNNNNNNNN.png,"
    "timestamps.txt}"
)
RAW_CAMERA = "image_02"
RAW_RATE_HZ = 10.0


def _semantics_instance_lut() -> np.ndarray:
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
    instance_lut = _semantics_instance_lut()

    def _find(self) -> List[SampleFiles]:
        # image_2 of KITTI's other archives, often unpacked at the same place, holds more.
        images, labels, instances = (
            Files(os.path.join(self.root, "training", folder), "_10.png")
            for folder in ("image_2", "semantic", "instance")
        )
        self.notes = images.left_out(r"\d+(_\d\d)?\.png$") + labels.left_out()
        return [
            sample._replace(instances=instances.path(sample.name))
            for sample in paired(images, labels, SEMANTICS_LAYOUT)
        ]


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
        require_folder(maps_folder, STEP_LAYOUT)
        names = names_in(maps_folder)
        sequences = [name for name in names if os.path.isdir(os.path.join(maps_folder, name))]
        strays = [name for name in names if name not in sequences]
        self.notes = left_out(maps_folder, "no sequence's folder", strays)
        images_folder = os.path.join(self.root, "images", self.split)
        if os.path.isdir(images_folder):
            unmapped = [name for name in names_in(images_folder) if name not in sequences]
            self.notes += left_out(images_folder, "no panoptic maps", unmapped)
        else:
            images_folder = os.path.join(self.root, "training", "image_02")
        samples = []
        for sequence in sequences:
            maps = Files(os.path.join(maps_folder, sequence), ".png")
            images = Files(os.path.join(images_folder, sequence), ".png")
            self.notes += images.left_out() + maps.left_out()
            samples += [
                sample._replace(name="%s/%s" % (sequence, sample.name), instances=sample.labels)
                for sample in paired(images, maps, STEP_LAYOUT)
            ]
        if not samples:
            raise DatasetError("%s: no sequences; expected %s" % (maps_folder, STEP_LAYOUT))
        return samples

    def drive_position(self, index: int) -> Optional[DrivePosition]:
        sequence, _, frame = self.samples[index].name.rpartition("/")
        return (sequence, int(frame)) if frame.isdigit() else None

    def __getitem__(self, index: int) -> Frame:
        """R is the class; G and B are the high and the low byte of the instance's number."""
        files = self.files_of(index)
        image = read_image(files.image)
        panoptic_bgr = read_ids(files.labels, image, np.uint8, channels=3)
        labels = to_train_ids(files.labels, panoptic_bgr[..., 2], self.label_set)
        instances = None
        if self.with_instances:
            numbers = panoptic_bgr[..., 1].astype(np.int32) * 256 + panoptic_bgr[..., 0]
            instances = instance_ids(labels, numbers)
        return Frame(files.name, image, labels, instances, position=self.drive_position(index))


class KittiRaw(Drive):
    """``ROOT/DATE/DATE_drive_NNNN_sync/image_02``; the split is the drive's folder name.

    ``root`` may be the folder of the dates, of one date, or of the drive itself. Without a split
    the one drive there is taken. The file times, local in Karlsruhe and without a zone, are read
    as UTC. ``calib_cam_to_cam.txt`` lies in the date's folder; the frames can do without it.
    """

    rate_hz = RAW_RATE_HZ
    frame_id = RAW_CAMERA
    has_times = True

    def __init__(self, root: str, split: str = "") -> None:
        drive = _find_drive(root, split)
        self.split = os.path.basename(drive)
        self.folder = os.path.join(drive, RAW_CAMERA)
        data = os.path.join(self.folder, "data")
        require_folder(data, RAW_LAYOUT)
        self._images = Files(data, *ENDINGS, find=names_in)
        self._keys = [key for key in in_order(self._images.keys()) if re.match("[0-9]+$", key)]
        if not self._keys:
            raise DatasetError("%s: no images; expected %s" % (data, RAW_LAYOUT))
        self._times_path = os.path.join(self.folder, "timestamps.txt")
        self._stamps_ns = _read_stamps(self._times_path)
        self.length = len(self._keys)
        self.notes = self._images.left_out() + self._gaps()
        self._calibrate()

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every image; its number in the file name is its line in timestamps.txt."""
        last_ns = -1
        for key in self._keys:
            frame = frame_or_problem(self._images.path(key), partial(self._read, key, last_ns))
            if isinstance(frame, Frame):
                last_ns = frame.stamp_ns or last_ns
            yield frame

    def _gaps(self) -> Tuple[str, ...]:
        """Notes of images without a number, and of times without an image."""
        data = self._images.folder
        unnumbered = in_order(self._images.keys().difference(self._keys))
        notes = left_out(data, "not called by a frame's number", unnumbered)
        numbers = {int(key) for key in self._keys}
        lost = [
            number
            for number, stamp_ns in enumerate(self._stamps_ns)
            if stamp_ns is not None and number not in numbers
        ]
        if lost:
            notes += (
                "%s: %d of its %d lines have no image in %s, the first that of %010d"
                % (self._times_path, len(lost), len(self._stamps_ns), data, lost[0]),
            )
        return notes

    def _read(self, key: str, last_ns: int) -> Frame:
        path, number = self._images.only(key), int(key)
        if number >= len(self._stamps_ns):
            raise DatasetError(
                "%s: frame %d but timestamps.txt has %d lines"
                % (path, number, len(self._stamps_ns))
            )
        stamp_ns = self._stamps_ns[number]
        if stamp_ns is None:
            raise DatasetError(
                "%s: its line in timestamps.txt, line %d, is empty" % (path, number + 1)
            )
        if stamp_ns <= last_ns:
            raise DatasetError(
                "%s: its time in timestamps.txt is not after that of the frame before" % path
            )
        name = "%s/%010d" % (self.split, number)
        return Frame(name, read_image(path), stamp_ns=stamp_ns, position=(self.split, number))

    def _calibrate(self) -> None:
        date_folder = os.path.dirname(os.path.dirname(self.folder))
        path = os.path.join(date_folder, "calib_cam_to_cam.txt")
        if not os.path.isfile(path):
            self.notes += ("%s: no such file; the bag gets no camera_info" % path,)
            return
        calibration = _read_calibration(path)
        first = next((frame for frame in self.frames() if isinstance(frame, Frame)), None)
        if first is None:
            return
        height, width = first.image_hwc.shape[:2]
        if (width, height) == (calibration.width, calibration.height):
            self.calibration = calibration
        else:
            self.notes += (
                "%s is of %dx%d images, these are %dx%d; the bag gets no camera_info"
                % (path, calibration.width, calibration.height, width, height),
            )


def _find_drive(root: str, split: str) -> str:
    require_folder(root, RAW_LAYOUT)
    if os.path.isdir(os.path.join(root, RAW_CAMERA)):
        return os.path.abspath(root)
    found: Dict[str, str] = {}
    for folder in [root] + [os.path.join(root, name) for name in names_in(root)]:
        for name in names_in(folder) if os.path.isdir(folder) else ():
            if os.path.isdir(os.path.join(folder, name, RAW_CAMERA)):
                found[name] = os.path.abspath(os.path.join(folder, name))
    if split in found:
        return found[split]
    if not found:
        raise DatasetError("%s: no drive with %s; expected %s" % (root, RAW_CAMERA, RAW_LAYOUT))
    if split or len(found) > 1:
        raise DatasetError(
            "%s: %s; --split names one of %s"
            % (root, "no drive %r" % split if split else "several drives", ", ".join(found))
        )
    return next(iter(found.values()))


def _read_stamps(path: str) -> List[Optional[int]]:
    """The time of each line; None where it is empty, as KITTI has it for a frame that was lost."""
    if not os.path.isfile(path):
        raise DatasetError("%s: no such file; expected %s" % (path, RAW_LAYOUT))
    stamps_ns: List[Optional[int]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            stamps_ns.append(None)
            continue
        stamp_ns = _nanoseconds(line.strip())
        if stamp_ns is None:
            raise DatasetError(
                "%s, line %d: found %s, expected a time like 2011-09-26 13:02:25.964389445"
                % (path, number, shown(line.strip()))
            )
        stamps_ns.append(stamp_ns)
    return stamps_ns


def _nanoseconds(text: str) -> Optional[int]:
    """A time with up to nine decimals in ns, exactly; None where it is none."""
    match = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?$", text)
    if match is None:
        return None
    seconds, decimals = match.groups()
    try:
        whole_s = calendar.timegm(time.strptime(seconds, "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return None
    return whole_s * 10**9 + int((decimals or "0").ljust(9, "0"))


def _read_calibration(path: str) -> Calibration:
    """The rectified image_02: after rectification D is zero and R the identity."""
    values: Dict[str, Tuple[float, ...]] = {}
    for line in read_text(path).splitlines():
        name, _, rest = line.partition(":")
        if name in ("S_rect_02", "P_rect_02"):
            try:
                values[name] = tuple(float(part) for part in rest.split())
            except ValueError:
                values[name] = ()
    if len(values.get("S_rect_02", ())) != 2 or len(values.get("P_rect_02", ())) != 12:
        raise DatasetError("%s: expected S_rect_02 with 2 numbers and P_rect_02 with 12" % path)
    width, height = (int(value) for value in values["S_rect_02"])
    return Calibration(width, height, values["P_rect_02"])
