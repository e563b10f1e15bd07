"""Frames through the node: convert, segment, overlay, publish, account."""

import re
import time
import traceback
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
from rclpy.clock import ROSClock
from rclpy.impl.rcutils_logger import RcutilsLogger

from segmentation_msgs.msg import FrameLatency
from segmentation_node.accounting import Accounts
from segmentation_node.backends import Prediction
from segmentation_node.boxes import Boxes
from segmentation_node.errors import SegmentationError
from segmentation_node.pipeline import Batch, Segmenter
from segmentation_node.ros.conversions import RgbConverter
from segmentation_node.ros.outputs import Outputs, detections_message
from segmentation_node.ros.parameters import NodeParameters
from segmentation_node.ros.worker import Frame
from segmentation_node.timing import STAGES, RateLimit, StageTimer

OLDEST_STAMP_S = 60.0
# Simulated time comes in steps, of 25 ms by ros2 bag play: what is new is ahead of it.
LONGEST_STEP_S = 0.1
KINDS_OF_FAILURE = 50


@dataclass
class FrameInWork:
    """A frame whose image is in a slot of the batch; image is uint8 RGB (H, W, 3)."""

    frame: Frame
    timer: StageTimer
    image_hwc: np.ndarray
    with_overlay: bool
    with_boxes: bool
    with_features: bool  # for the box head
    with_confidence: bool  # for its topic
    maps_confidence: bool  # for that, or for the boxes' scores
    threshold: float
    to_look_at: bool  # for the model's health

    @property
    def needs_confidence(self) -> bool:
        """Whether the run has to give it."""
        return self.maps_confidence or self.threshold > 0.0 or self.to_look_at


class FrameProcessor:
    """One camera's part of the work; on the worker's thread.

    A bad frame is named, counted, and forgotten.
    """

    def __init__(
        self,
        convert: RgbConverter,
        outputs: Outputs,
        parameters: NodeParameters,
        accounts: Accounts,
        clock: ROSClock,
        logger: RcutilsLogger,
    ) -> None:
        self._convert = convert
        self._outputs = outputs
        self._parameters = parameters
        self._accounts = accounts
        self._clock = clock
        self._logger = logger
        self._overlays = RateLimit()
        self._seen_failures: Set[str] = set()
        self.last_failure = ""
        self.stamp_problem = ""

    def prepare(self, segmenter: Segmenter, frame: Frame, slot: int) -> Optional[FrameInWork]:
        """Put a frame's image into the slot; None when that failed, which is booked."""
        timer = StageTimer(start_s=frame.received_s)
        timer.lap("queue")
        try:
            image = self._convert(frame.message)
            timer.lap("convert")
            segmenter.prepare(image, slot)
            timer.lap("preprocess")
            return self._work_on(segmenter, frame, timer, image)
        except Exception as error:
            self.fail(error)
            return None

    def _work_on(
        self, segmenter: Segmenter, frame: Frame, timer: StageTimer, image: np.ndarray
    ) -> FrameInWork:
        """What is wanted of this frame, as things stand now."""
        # Its topic may be there while a model runs that gives none, before or after a change.
        gives_confidence = segmenter.backend.has_confidence
        confidence = self._outputs.confidence
        with_confidence = gives_confidence and confidence is not None and confidence.wanted
        threshold = self._parameters["confidence.threshold"] if gives_confidence else 0.0
        health = self._accounts.model
        health.expect(segmenter.card.confidence)
        with_overlay = self._overlay_due()
        draws_boxes = with_overlay and self._parameters["overlay.boxes"]
        with_boxes = segmenter.has_boxes and (self._outputs.detections_wanted or draws_boxes)
        with_features = with_boxes and segmenter.finds_by_head
        scores_areas = with_boxes and not with_features and gives_confidence
        maps_confidence = with_confidence or scores_areas
        to_look_at = health.wants(frame.received_s, maps_confidence or threshold > 0.0)
        return FrameInWork(
            frame,
            timer,
            image,
            with_overlay,
            with_boxes,
            with_features,
            with_confidence,
            maps_confidence,
            threshold,
            to_look_at,
        )

    def finish(
        self, segmenter: Segmenter, work: FrameInWork, prediction: Prediction, slot: int
    ) -> Optional[float]:
        """Publish a frame's results and book it as processed, or say why not and book it failed.

        How long processing took, in ms; None where it failed.
        """
        try:
            self._publish(segmenter, work, prediction, slot)
            times_ms = self._times_ms(work.frame, work.timer)
            self._look(segmenter, work, prediction, slot)
        except Exception as error:
            self.fail(error)
            return None
        self._account(segmenter, work.frame, times_ms)
        return times_ms["processing"]

    def fail(self, error: Exception) -> None:
        """Say why work on a frame ended, in an exception's handler, and book it as failed."""
        line = str(error)
        if not isinstance(error, SegmentationError):  # one frame must not end the node
            self._logger.error(traceback.format_exc(), throttle_duration_sec=1.0)
            line = "%s: %s" % (type(error).__name__, error)
        self.last_failure = line
        self._accounts.counters.fail()
        # A stream that stays bad must not flood the log, nor hide another failure meanwhile.
        kind = re.sub(r"\d+", "N", line)
        if kind not in self._seen_failures and len(self._seen_failures) < KINDS_OF_FAILURE:
            self._seen_failures.add(kind)
            self._logger.error("frame failed: %s" % line)
        else:
            self._logger.error("frame failed: %s" % line, throttle_duration_sec=1.0)

    def _publish(
        self, segmenter: Segmenter, work: FrameInWork, prediction: Prediction, slot: int
    ) -> None:
        outputs, timer = self._outputs, work.timer
        header = work.frame.message.header
        size = segmenter.output_size(work.image_hwc.shape[:2])
        confidence = outputs.confidence
        class_map, confidence_map = segmenter.finish(
            prediction,
            outputs.class_map.kept.resize(size),
            confidence.kept.resize(size) if confidence is not None else None,
            work.maps_confidence,
            work.threshold,
            slot,
        )
        timer.lap("postprocess")
        outputs.class_map.publish(header)
        if confidence is not None and work.with_confidence:
            confidence.publish(header)
        timer.lap("publish")
        boxes = None
        if work.with_boxes:
            boxes = segmenter.detect(class_map, confidence_map, prediction, slot)
            self._publish_detections(segmenter, boxes, header)
            timer.lap("detections")
        # After the class map, which robots act on, is out; the overlay is for people.
        if work.with_overlay:
            alpha = self._parameters["overlay.alpha"]
            target = outputs.overlay.kept.resize(size)
            drawn = boxes if self._parameters["overlay.boxes"] else None
            segmenter.overlay(work.image_hwc, class_map, alpha, target, slot, drawn)
            timer.lap("postprocess")
            outputs.overlay.publish(header)
            timer.lap("publish")

    def _look(
        self, segmenter: Segmenter, work: FrameInWork, prediction: Prediction, slot: int
    ) -> None:
        """Once all is out and its time is taken: no part of any stage."""
        if work.to_look_at:
            seen = segmenter.certainty(prediction, slot)
            self._accounts.model.look(seen, work.frame.received_s)
        self._accounts.camera.look(work.image_hwc, work.frame.received_s)

    def _publish_detections(self, segmenter: Segmenter, boxes: Boxes, header: Any) -> None:
        if self._outputs.detections_wanted:
            found = segmenter.boxes_in_image(boxes)
            message = detections_message(found, segmenter.labels, header)
            self._outputs.detections.publish(message)

    def _overlay_due(self) -> bool:
        return self._outputs.overlay.wanted and self._overlays.allows(
            time.monotonic(), self._parameters["overlay.max_rate_hz"]
        )

    def _times_ms(self, frame: Frame, timer: StageTimer) -> Dict[str, float]:
        published_ns = self._clock.now().nanoseconds
        stamp_ns = stamp_nanoseconds(frame.message.header.stamp)
        step_s = LONGEST_STEP_S if self._clock.ros_time_is_active else 0.0
        transport_ms, self.stamp_problem = latency_since_stamp(stamp_ns, frame.received_ns, step_s)
        end_to_end_ms = float("nan")
        # The clock may have gone back meanwhile: a bag began anew, or the time was set.
        if transport_ms == transport_ms and published_ns >= frame.received_ns:
            end_to_end_ms = (published_ns - stamp_ns) * 1e-6
        times_ms = {stage: timer.stages_ms.get(stage, 0.0) for stage in STAGES}
        times_ms["processing"] = sum(times_ms.values())
        times_ms["transport"] = transport_ms
        times_ms["end_to_end"] = end_to_end_ms
        return times_ms

    def _account(self, segmenter: Segmenter, frame: Frame, times_ms: Dict[str, float]) -> None:
        self._accounts.counters.process()
        self._accounts.latencies.add(times_ms)
        if self._outputs.latency.get_subscription_count() > 0:
            self._outputs.latency.publish(self._latency_message(segmenter, frame, times_ms))

    def _latency_message(
        self, segmenter: Segmenter, frame: Frame, times_ms: Dict[str, float]
    ) -> FrameLatency:
        counts = self._accounts.counters.snapshot()
        message = FrameLatency(header=frame.message.header, backend=segmenter.backend.name)
        for name, value_ms in times_ms.items():
            setattr(message, name + "_ms", value_ms)
        for name in ("received", "processed", "dropped", "failed", "queued", "lost"):
            setattr(message, name, getattr(counts, name))
        return message


def process_together(
    processors: Sequence[FrameProcessor], segmenters: Sequence[Segmenter], frames: List[Frame]
) -> List[float]:
    """Take frames, each of another camera, through one run of the batch that they share.

    Processors and segmenters are the cameras', by number. Time spent on the other frames of the
    run counts as waiting in the queue. How long the processing of each took that did not fail, ms.
    """
    in_work: List[Tuple[int, FrameInWork]] = []
    for frame in frames:
        camera, slot = frame.camera, len(in_work)
        work = processors[camera].prepare(segmenters[camera], frame, slot)
        if work is not None:
            in_work.append((camera, work))
    if not in_work:
        return []
    prediction = _run(segmenters[0].batch, processors, in_work)
    if prediction is None:
        return []
    times_ms = []
    for slot, (camera, work) in enumerate(in_work):
        work.timer.lap("queue")
        times_ms.append(processors[camera].finish(segmenters[camera], work, prediction, slot))
    return [value for value in times_ms if value is not None]


def _run(
    batch: Batch, processors: Sequence[FrameProcessor], in_work: List[Tuple[int, FrameInWork]]
) -> Optional[Prediction]:
    """The run's result; None when it failed, which is booked for each frame."""
    for _, work in in_work:
        work.timer.lap("queue")
    try:
        prediction = batch.run(
            any(work.needs_confidence for _, work in in_work),
            any(work.with_features for _, work in in_work),
        )
    except Exception as error:
        for camera, _ in in_work:
            processors[camera].fail(error)
        return None
    for _, work in in_work:
        work.timer.lap("inference")
    return prediction


def stamp_nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def latency_since_stamp(stamp_ns: int, now_ns: int, step_s: float) -> Tuple[float, str]:
    """Time since a stamp in ms, or NaN and why there is none; both in one clock.

    A stamp may be ahead of the clock by ``step_s``: then there is none, and nothing is wrong.
    """
    if stamp_ns == 0:
        return float("nan"), "the images' stamps are zero"
    age_s = (now_ns - stamp_ns) * 1e-9
    if age_s < 0:
        problem = "the images' stamps lie %.3f s in the future" % -age_s
        return float("nan"), problem if -age_s > step_s else ""
    if age_s > OLDEST_STAMP_S:
        return float("nan"), "the images' stamps are %.0f s old; is use_sim_time set?" % age_s
    return age_s * 1e3, ""
