"""What the demo plays: the street drive, an image folder, a video, a camera or a bag."""

import itertools
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional, Tuple, Union

import cv2

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.drive import Drive
from segmentation_node.evaluation.datasets.files import names_in
from segmentation_node.evaluation.datasets.recordings import ImageFolder, Video
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.sources import import_bags
from segmentation_node.labels import CITYSCAPES_19, LabelSet

# Seeds of the training, validation and test drives are between 1000 and 3999.
STREET_SEED = 8
STREET_FRAMES = 150
STREET_FPS = 15.0
FOLDER_FPS = 10.0
CAMERA_FPS = 30.0
BAG_ENDINGS = tuple(
    storage + packed for storage in (".mcap", ".db3") for packed in ("", ".zstd", ".zst")
)

Frames = Iterator[Union[Frame, Problem]]


@dataclass(frozen=True)
class Clip:
    """Frames, how many (None where nobody knows), and the label set of their truth, if any.

    A frame's name is that of its files; a broken one is a Problem. ``notes`` gives what is to be
    told in the end, one line each.
    """

    frames: Frames
    length: Optional[int]
    fps: float
    truth: Optional[LabelSet] = None
    notes: Callable[[], Tuple[str, ...]] = tuple


def open_clip(source: str, frames: int, image_topic: Optional[str] = None) -> Clip:
    """The street drive when ``source`` is empty, else a bag, image folder, video or camera.

    ``frames`` limits how many are played; 0 means all (of a camera: until Ctrl-C). ``image_topic``
    names one of a bag's cameras. Raises DatasetError or BagError when there is nothing to play.
    """
    is_a_bag = bool(source) and is_bag(source)
    if image_topic and not is_a_bag:
        raise DatasetError("%s is no bag: only a bag has topics to name" % (source or "the street"))
    if not source:
        count = frames or STREET_FRAMES
        return Clip(_street(count), count, STREET_FPS, CITYSCAPES_19)
    if is_a_bag:
        return _bag(source, frames, image_topic)
    if os.path.isdir(source):
        return _drive(ImageFolder(source), frames)
    if source.isdigit() or source.startswith("/dev/"):
        return _camera(source, frames)
    if not os.path.isfile(source):
        raise DatasetError(
            "%s: neither an image folder nor a video nor a camera that opens, nor a bag" % source
        )
    return _drive(Video(source), frames)


def is_bag(source: str) -> bool:
    """Whether this is a rosbag2 file, or a folder with one."""
    names = names_in(source) if os.path.isdir(source) else [source]
    return any(name.lower().endswith(BAG_ENDINGS) for name in names)


def _street(frames: int) -> Frames:
    drive = StreetDrive(STREET_SEED, fps=STREET_FPS)
    for index in range(frames):
        image_hwc, truth_hw = drive.frame(index)
        yield Frame(_file_name(index), image_hwc, truth_hw)


def _drive(drive: Drive, frames: int) -> Clip:
    length = min(drive.length or frames, frames) if frames else drive.length
    wanted = itertools.islice(drive.frames(), frames or None)
    return Clip(wanted, length, drive.rate_hz or FOLDER_FPS, notes=lambda: drive.notes)


def _camera(source: str, frames: int) -> Clip:
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise DatasetError("%s: no camera that opens" % source)
    fps = capture.get(cv2.CAP_PROP_FPS) or CAMERA_FPS
    return Clip(_captured(capture, frames), frames or None, fps)


def _captured(capture: Any, frames: int) -> Frames:
    for index in itertools.count() if not frames else range(frames):
        found, bgr = capture.read()
        if not found:
            return
        yield Frame(_file_name(index), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _bag(source: str, frames: int, image_topic: Optional[str]) -> Clip:
    bag = import_bags().open_bag(source)
    topics = bag.choose_topics(image=image_topic, prediction="")
    truth = bag.label_set_of(topics.truth) if topics.truth is not None else None
    if truth is None:
        topics = topics._replace(truth=None)
    if topics.image is None:
        raise DatasetError("%s: no camera image in it; it has %s" % (source, bag.listing()))
    if topics.image.count == 0:
        raise DatasetError("%s: no message on %s" % (source, topics.image.name))
    found = bag.frames(topics)
    first = list(itertools.islice(found, 10))
    times_ns = [frame.recorded_ns or 0 for frame in first if isinstance(frame, Frame)]
    step_s = (times_ns[-1] - times_ns[0]) * 1e-9 / (len(times_ns) - 1) if times_ns[1:] else 0.0
    fps = min(1.0 / step_s, 60.0) if step_s > 0.0 else FOLDER_FPS

    def named() -> Frames:
        with bag:
            wanted = itertools.islice(itertools.chain(first, found), frames or None)
            for index, frame in enumerate(wanted):
                if isinstance(frame, Frame):
                    frame = Frame(_file_name(index), frame.image_hwc, frame.truth_hw)
                yield frame

    total = topics.image.count
    length = min(total, frames) if frames else total
    return Clip(named(), length, fps, truth, lambda: tuple(bag.damage))


def _file_name(index: int) -> str:
    return "%05d.png" % index
