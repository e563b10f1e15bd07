"""KITTI's raw recordings: one drive's rectified colour images, with their times and calibration."""

import calendar
import os
import re
import time
from typing import Dict, Iterator, List, Optional, Tuple

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_image, require_folder
from segmentation_node.evaluation.datasets.drive import Calibration, Drive
from segmentation_node.evaluation.frame import Frame

LAYOUT = (
    "KITTI's raw layout: ROOT/DATE/DATE_drive_NNNN_sync/image_02/{data/NNNNNNNNNN.png,"
    "timestamps.txt}"
)
CAMERA = "image_02"
RATE_HZ = 10.0


class KittiRaw(Drive):
    """``ROOT/DATE/DATE_drive_NNNN_sync/image_02``; the split is the drive's folder name.

    ``root`` may be the folder of the dates, of one date, or of the drive itself. Without a split
    the one drive there is taken. The file times, local in Karlsruhe and without a zone, are read
    as UTC. ``calib_cam_to_cam.txt`` lies in the date's folder; the frames can do without it.
    """

    rate_hz = RATE_HZ
    frame_id = CAMERA
    has_times = True

    def __init__(self, root: str, split: str = "") -> None:
        drive = _find_drive(root, split)
        self.split = os.path.basename(drive)
        self.folder = os.path.join(drive, CAMERA)
        data = os.path.join(self.folder, "data")
        require_folder(data, LAYOUT)
        names = sorted(name for name in os.listdir(data) if re.match(r"\d+\.(png|jpg)$", name))
        if not names:
            raise DatasetError("%s: no images; expected %s" % (data, LAYOUT))
        self._paths = [os.path.join(data, name) for name in names]
        self._stamps_ns = _read_stamps(os.path.join(self.folder, "timestamps.txt"))
        self.length = len(names)
        self._calibrate()

    def frames(self) -> Iterator[Frame]:
        """Every image; its number in the file name is its line in timestamps.txt."""
        drive = self.split
        last_ns = -1
        for path in self._paths:
            number = int(os.path.splitext(os.path.basename(path))[0])
            if number >= len(self._stamps_ns):
                raise DatasetError(
                    "%s: frame %d but timestamps.txt has %d lines"
                    % (path, number, len(self._stamps_ns))
                )
            stamp_ns = self._stamps_ns[number]
            if stamp_ns <= last_ns:
                raise DatasetError(
                    "%s: its time in timestamps.txt is not after that of the frame before" % path
                )
            last_ns = stamp_ns
            name = "%s/%010d" % (drive, number)
            yield Frame(name, read_image(path), stamp_ns=stamp_ns, position=(drive, number))

    def _calibrate(self) -> None:
        date_folder = os.path.dirname(os.path.dirname(self.folder))
        path = os.path.join(date_folder, "calib_cam_to_cam.txt")
        if not os.path.isfile(path):
            self.notes = ("%s: no such file; the bag gets no camera_info" % path,)
            return
        calibration = _read_calibration(path)
        height, width = read_image(self._paths[0]).shape[:2]
        if (width, height) == (calibration.width, calibration.height):
            self.calibration = calibration
        else:
            self.notes = (
                "%s is of %dx%d images, these are %dx%d; the bag gets no camera_info"
                % (path, calibration.width, calibration.height, width, height),
            )


def _find_drive(root: str, split: str) -> str:
    require_folder(root, LAYOUT)
    if os.path.isdir(os.path.join(root, CAMERA)):
        return os.path.abspath(root)
    found: Dict[str, str] = {}
    for folder in [root] + [os.path.join(root, name) for name in sorted(os.listdir(root))]:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if os.path.isdir(os.path.join(folder, name, CAMERA)):
                found[name] = os.path.abspath(os.path.join(folder, name))
    if split in found:
        return found[split]
    if not found:
        raise DatasetError("%s: no drive with %s; expected %s" % (root, CAMERA, LAYOUT))
    if split or len(found) > 1:
        raise DatasetError(
            "%s: %s; --split names one of %s"
            % (root, "no drive %r" % split if split else "several drives", ", ".join(found))
        )
    return next(iter(found.values()))


def _read_stamps(path: str) -> List[int]:
    if not os.path.isfile(path):
        raise DatasetError("%s: no such file; expected %s" % (path, LAYOUT))
    stamps_ns = []
    with open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            stamp_ns = _nanoseconds(line.strip())
            if stamp_ns is None:
                raise DatasetError(
                    "%s, line %d: found %r, expected a time like 2011-09-26 13:02:25.964389445"
                    % (path, number, line.strip())
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
    with open(path) as lines:
        for line in lines:
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
