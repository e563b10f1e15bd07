"""What the demo plays: the street drive, an image folder, a video, a camera or a bag."""

import itertools
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Optional, Sequence, Union

import cv2

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.drive import Drive
from segmentation_node.evaluation.datasets.files import names_in
from segmentation_node.evaluation.datasets.recordings import ImageFolder, Video
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.sources import Source, import_bags
from segmentation_node.labels import CITYSCAPES_19

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


@dataclass
class Clip(Source):
    """Frames to be played once; a frame's name is that of its files.

    ``notes`` gives what is to be told in the end, one line each.
    """

    frames: Frames = iter(())
    fps: float = FOLDER_FPS
    notes: Callable[[], Sequence[str]] = tuple

    def warnings(self) -> List[str]:
        return list(self.notes())


def open_clip(source: str, frames: int, image_topic: Optional[str] = None) -> Clip:
    """The street drive when ``source`` is empty, else a bag, image folder, video or camera.

    ``frames`` limits how many are played; 0 means all (of a camera: until Ctrl-C). ``image_topic``
    names one of a bag's cameras. Raises DatasetError or BagError when there is nothing to play.
    """
    is_a_bag = bool(source) and is_bag(source)
    if image_topic and not is_a_bag:
        raise DatasetError("%s is no bag: only a bag has topics to name" % (source or "the street"))
    if not source:
        clip, frames = _street(), frames or STREET_FRAMES
    elif is_a_bag:
        clip = _bag(source, image_topic)
    elif os.path.isdir(source):
        clip = _drive(ImageFolder(source))
    elif source.isdigit() or source.startswith("/dev/"):
        clip = _camera(source)
    elif os.path.isfile(source):
        clip = _drive(Video(source))
    else:
        raise DatasetError(
            "%s: neither an image folder nor a video nor a camera that opens, nor a bag" % source
        )
    if frames:
        clip.length = min(clip.length or frames, frames)
        clip.frames = itertools.islice(clip.frames, frames)
    return clip


def is_bag(source: str) -> bool:
    """Whether this is a rosbag2 file, or a folder with one."""
    names = names_in(source) if os.path.isdir(source) else [source]
    return any(name.lower().endswith(BAG_ENDINGS) for name in names)


def _street() -> Clip:
    drive = StreetDrive(STREET_SEED, fps=STREET_FPS)
    frames = (Frame(_file_name(index), *drive.frame(index)) for index in itertools.count())
    return Clip(CITYSCAPES_19, frames=frames, fps=STREET_FPS)


def _drive(drive: Drive) -> Clip:
    return Clip(
        length=drive.length,
        frames=drive.frames(),
        fps=drive.rate_hz or FOLDER_FPS,
        notes=lambda: drive.notes,
    )


def _camera(source: str) -> Clip:
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise DatasetError("%s: no camera that opens" % source)
    return Clip(frames=_captured(capture), fps=capture.get(cv2.CAP_PROP_FPS) or CAMERA_FPS)


def _captured(capture: Any) -> Frames:
    for index in itertools.count():
        found, bgr = capture.read()
        if not found:
            return
        yield Frame(_file_name(index), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _bag(source: str, image_topic: Optional[str]) -> Clip:
    bag = import_bags().open_bag(source)
    topics = bag.choose_topics(image=image_topic, prediction="")
    truth = bag.label_set_of(topics.truth) if topics.truth is not None else None
    if topics.truth is not None and topics.truth.count and truth is None:
        unknown = "%s: nothing in it says what the ids on %s mean: accuracy is not measured"
        bag.damage.append(unknown % (source, topics.truth.name))
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
            for index, frame in enumerate(itertools.chain(first, found)):
                if isinstance(frame, Frame):
                    frame = Frame(_file_name(index), frame.image_hwc, frame.truth_hw)
                yield frame

    return Clip(truth, topics.image.count, frames=named(), fps=fps, notes=lambda: bag.damage)


def _file_name(index: int) -> str:
    return "%05d.png" % index
