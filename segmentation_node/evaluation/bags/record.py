"""Record a drive as a bag: images, camera_info, ground truth and what its ids mean."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Union

import numpy as np

from segmentation_node.errors import BagError, DatasetError
from segmentation_node.evaluation.bags import messages
from segmentation_node.evaluation.bags.box_messages import true_boxes_message
from segmentation_node.evaluation.bags.records import DATASET, SINGLE, SINGLE_IMAGES, SPLIT
from segmentation_node.evaluation.bags.topics import TRUE_BOXES_TOPIC, TRUTH_TOPIC
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.evaluation.datasets.drive import (
    START_NS,
    Calibration,
    Drive,
    FrameClock,
)
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.run.true_boxes import boxes_of_instances

IMAGE_TOPIC = "/camera/image_raw"
RATE_HZ = 10.0


@dataclass(frozen=True)
class Recording:
    """What to record and how; see ``record``."""

    name: str
    image: str = "raw"
    topic: str = IMAGE_TOPIC
    rate_hz: Optional[float] = None
    frames: int = 0


@dataclass
class Recorded:
    """What a bag has got."""

    frames: int = 0
    with_truth: int = 0
    first_ns: int = 0
    last_ns: int = 0
    topics: Dict[str, int] = field(default_factory=dict)
    left_out: List[Problem] = field(default_factory=list)


def record(
    drive: Drive,
    writer: BagWriter,
    recording: Recording,
    progress: Callable[[Iterator[Any]], Iterable[Union[Frame, Problem]]] = iter,
) -> Recorded:
    """Write a drive's frames into an open bag, one at a time.

    A frame gives its image (``raw`` rgb8, or compressed as ``jpeg`` or lossless ``png``), the
    camera_info where the drive is calibrated, its train ids as mono8 where it is labelled, and its
    true boxes where it has them, all with one header; a message's time in the bag is its stamp.
    Broken frames are left out. Raises DatasetError when no frame is left, BagError where two frames
    have one stamp.
    """
    recorder = _Recorder(drive, writer, recording)
    # Decoding of the next images runs beside encoding and writing.
    frames = iterate_ahead(drive.frames())
    try:
        for count, frame in enumerate(progress(frames), 1):
            if isinstance(frame, Problem):
                recorder.done.left_out.append(frame)
            else:
                recorder.add(frame)
            if count == recording.frames:
                break
    finally:
        frames.close()
    if not recorder.done.frames:
        broken = recorder.done.left_out
        first = "; the first: %s" % broken[0] if broken else ""
        raise DatasetError("the drive has no frames that can be read%s" % first)
    return recorder.done


class _Recorder:
    def __init__(self, drive: Drive, writer: BagWriter, recording: Recording) -> None:
        self.done = Recorded()
        self._drive, self._writer, self._recording = drive, writer, recording
        base = "/" + recording.topic.strip("/")
        is_raw = recording.image == "raw"
        self._image = base if is_raw else base + "/compressed"
        self._info = base.rsplit("/", 1)[0] + "/camera_info"
        rate_hz = recording.rate_hz or drive.rate_hz or RATE_HZ
        self._clock = FrameClock(rate_hz, START_NS)
        self._add(self._image, messages.IMAGE if is_raw else messages.COMPRESSED)
        if drive.is_calibrated or drive.calibration is not None:
            self._add(self._info, messages.CAMERA_INFO)
        if drive.label_set is not None:
            self._add(TRUTH_TOPIC, messages.IMAGE)
        if drive.box_labels is not None:
            self._add(TRUE_BOXES_TOPIC, messages.DETECTIONS)
        self._labels = drive.label_set or drive.box_labels
        if self._labels is not None:
            self._add(TRUTH_TOPIC + "/label_info", messages.LABEL_INFO, latched=True)
        writer.note(DATASET, recording.name)
        if drive.split:
            writer.note(SPLIT, drive.split)

    def add(self, frame: Frame) -> None:
        stamp_ns = self._clock.stamp_ns(frame)
        done, label_set = self.done, self._labels
        if not done.frames:
            done.first_ns = stamp_ns
            if frame.position is None:
                self._writer.note(SINGLE, "true")
            if label_set is not None:
                ending = SINGLE_IMAGES if frame.position is None else ""
                info = messages.label_info(label_set, self._recording.name + ending, stamp_ns)
                self._write(TRUTH_TOPIC + "/label_info", stamp_ns, info)
        elif stamp_ns <= done.last_ns:
            raise BagError("%s: its stamp is not after that of the frame before" % frame.name)
        done.frames, done.last_ns = done.frames + 1, stamp_ns
        self._write(self._image, stamp_ns, self._encoded(frame.image_hwc, stamp_ns))
        calibration = frame.calibration or self._drive.calibration
        if calibration is not None:
            info = camera_info(calibration, stamp_ns, self._drive.frame_id)
            self._write(self._info, stamp_ns, info)
        if frame.truth_hw is not None:
            truth = messages.raw_image(frame.truth_hw, stamp_ns, self._drive.frame_id)
            self._write(TRUTH_TOPIC, stamp_ns, truth)
            done.with_truth += 1
        self._add_boxes(frame, stamp_ns)

    def _add_boxes(self, frame: Frame, stamp_ns: int) -> None:
        labels, boxes = self._drive.box_labels, frame.true_boxes
        if labels is None:
            return
        if boxes is None and frame.instances_hw is not None and frame.truth_hw is not None:
            class_ids = labels.ids_of(self._drive.box_classes)
            boxes = boxes_of_instances(frame.instances_hw, frame.truth_hw, class_ids)
        if boxes is not None:
            data = true_boxes_message(boxes, labels, stamp_ns, self._drive.frame_id)
            self._write(TRUE_BOXES_TOPIC, stamp_ns, data)

    def _encoded(self, image_hwc: np.ndarray, stamp_ns: int) -> bytes:
        frame_id, form = self._drive.frame_id, self._recording.image
        if form == "raw":
            return messages.raw_image(image_hwc, stamp_ns, frame_id)
        return messages.compressed_image(image_hwc, form, stamp_ns, frame_id)

    def _add(self, name: str, type_: str, latched: bool = False) -> None:
        self._writer.add_topic(name, type_, latched)
        self.done.topics[name] = 0

    def _write(self, topic: str, stamp_ns: int, data: bytes) -> None:
        self._writer.write(topic, stamp_ns, data)
        self.done.topics[topic] += 1


def camera_info(calibration: Calibration, stamp_ns: int, frame_id: str) -> bytes:
    """A serialised CameraInfo of a rectified camera: no distortion, no rotation, K from P."""
    projection = np.array(calibration.projection, np.float64)
    types: Any = messages.typestore().types
    message = types[messages.CAMERA_INFO](
        header=messages.header(stamp_ns, frame_id),
        height=calibration.height,
        width=calibration.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=projection.reshape(3, 4)[:, :3].reshape(-1).copy(),
        r=np.eye(3).reshape(-1),
        p=projection,
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )
    return messages.serialize(message, messages.CAMERA_INFO)
