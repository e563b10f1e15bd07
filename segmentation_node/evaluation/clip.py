"""What the demo plays: the street drive, an image folder, a video, a camera or a bag."""

import itertools
import os
from dataclasses import dataclass
from typing import Any, Iterator, Optional

import cv2

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.recordings import ImageFolder
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.sources import import_bags
from segmentation_node.labels import CITYSCAPES_19, LabelSet

# Seeds of the training, validation and test drives are between 1000 and 3999.
STREET_SEED = 8
STREET_FRAMES = 150
STREET_FPS = 15.0
FOLDER_FPS = 10.0
BAG_ENDINGS = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


@dataclass(frozen=True)
class Clip:
    """Frames, how many (None where nobody knows), and the label set of their truth, if any.

    A frame's name is that of its files.
    """

    frames: Iterator[Frame]
    length: Optional[int]
    fps: float
    truth: Optional[LabelSet] = None


def open_clip(source: str, frames: int) -> Clip:
    """The street drive when ``source`` is empty, else a bag, image folder, video or camera.

    ``frames`` limits how many are played; 0 means all (of a camera: until Ctrl-C).
    Raises DatasetError or BagError when there is nothing to play.
    """
    if not source:
        count = frames or STREET_FRAMES
        return Clip(_street(count), count, STREET_FPS, CITYSCAPES_19)
    if is_bag(source):
        return _bag(source, frames)
    if os.path.isdir(source):
        return _folder(source, frames)
    is_camera = source.isdigit() or source.startswith("/dev/")
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise DatasetError(
            "%s: neither an image folder nor a video nor a camera that opens, nor a bag" % source
        )
    total = 0 if is_camera else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    length = min(total, frames) if total and frames else (frames or total)
    return Clip(_video(capture, frames), length or None, capture.get(cv2.CAP_PROP_FPS) or 30.0)


def is_bag(source: str) -> bool:
    """Whether this is a rosbag2 file, or a folder with one."""
    names = os.listdir(source) if os.path.isdir(source) else [source]
    return any(name.endswith(BAG_ENDINGS) for name in names)


def _street(frames: int) -> Iterator[Frame]:
    drive = StreetDrive(STREET_SEED, fps=STREET_FPS)
    for index in range(frames):
        image_hwc, truth_hw = drive.frame(index)
        yield Frame(_file_name(index), image_hwc, truth_hw)


def _folder(source: str, frames: int) -> Clip:
    folder = ImageFolder(source)
    wanted = itertools.islice(folder.frames(), frames or None)
    return Clip(wanted, min(folder.length, frames or folder.length), FOLDER_FPS)


def _video(capture: Any, frames: int) -> Iterator[Frame]:
    index = 0
    while not frames or index < frames:
        found, bgr = capture.read()
        if not found:
            return
        yield Frame(_file_name(index), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        index += 1


def _bag(source: str, frames: int) -> Clip:
    bag = import_bags().open_bag(source)
    topics = bag.choose_topics(prediction="")
    truth = bag.label_set_of(topics.truth) if topics.truth is not None else None
    if truth is None:
        topics = topics._replace(truth=None)
    found = (frame for frame in bag.frames(topics) if isinstance(frame, Frame))
    first = list(itertools.islice(found, 2))
    if not first:
        raise DatasetError("%s: no image in it can be read" % source)
    step_s = ((first[-1].recorded_ns or 0) - (first[0].recorded_ns or 0)) * 1e-9
    fps = min(1.0 / step_s, 60.0) if step_s > 0.0 else FOLDER_FPS

    def named() -> Iterator[Frame]:
        with bag:
            wanted = itertools.islice(itertools.chain(first, found), frames or None)
            for index, frame in enumerate(wanted):
                yield Frame(_file_name(index), frame.image_hwc, frame.truth_hw)

    total = topics.image.count
    return Clip(named(), min(total, frames) if frames else total, fps, truth)


def _file_name(index: int) -> str:
    return "%05d.png" % index
