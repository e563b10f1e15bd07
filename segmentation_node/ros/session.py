"""All that exists from configure to cleanup: built whole or not at all, closed in one place."""

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Callable, List, NamedTuple, Tuple

from rclpy.lifecycle import LifecycleNode

from segmentation_node.errors import SegmentationError
from segmentation_node.model_card import size_text
from segmentation_node.ros.camera import Camera
from segmentation_node.ros.conversions import RgbConverter, choose_converter, decode_compressed
from segmentation_node.ros.loaded_model import LoadedModel, ModelPlan, plan_model
from segmentation_node.ros.memory import give_memory_back
from segmentation_node.ros.outputs import LabelOutputs, missing_vision_msgs
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import process_together
from segmentation_node.ros.worker import Frame, FrameQueue, Worker

STOP_TIMEOUT_S = 30.0


class Session:
    """A model with its cameras and worker, ready to take images.

    Raises SegmentationError, and leaves nothing behind, where the parameters do not allow it.
    """

    def __init__(
        self, node: LifecycleNode, parameters: NodeParameters, abandoned: Callable[[], bool]
    ) -> None:
        """``abandoned`` is asked while the model loads: once it is, this is an error as well."""
        self.settings = parameters.settings()
        _check_window(self.settings)
        plan = plan_model(self.settings, parameters["confidence.threshold"])
        self._closed = False
        self._parameters = parameters
        self._told_threshold = float("nan")
        self._threshold_lock = threading.Lock()
        self._clock = node.get_clock()
        self._logger = node.get_logger()
        with ExitStack() as made:
            self._build(node, plan, made, abandoned)
            self._made = made.pop_all()

    def _build(
        self,
        node: LifecycleNode,
        plan: ModelPlan,
        made: ExitStack,
        abandoned: Callable[[], bool],
    ) -> None:
        """Make the parts in an order in which each can be closed before those made earlier."""
        self._labels = LabelOutputs(node)
        made.callback(self._labels.destroy)
        convert = _choose_converter(self.settings, self._logger)
        self.cameras: List[Camera] = []
        for name in self.settings.cameras or ("",):
            number = len(self.cameras)
            camera = Camera(node, self.settings, self._parameters, convert, number, name)
            made.callback(camera.close)
            camera.give_confidence("confidence" in plan.card.outputs)
            self.cameras.append(camera)
        counters = [camera.accounts.counters for camera in self.cameras]
        window_s = self.settings.batch_window_ms * 1e-3
        self._queue = FrameQueue(self.settings.frame_policy, counters, window_s)
        self._worker = self._make_worker(plan)
        self.model = self._worker.open(abandoned)
        made.callback(self._stop_worker)
        for camera in self.cameras:
            camera.give_detections(self.model.has_boxes)
            camera.connect(self._queue)
            made.callback(camera.stop)
        self._tell_labels()
        self._worker.serve()
        missing = self._labels.vision_missing
        if missing:
            self._logger.info("no ~/vision_label_info: " + missing)
        if self.model.has_boxes and missing_vision_msgs():
            self._logger.info("no ~/detections: " + missing_vision_msgs())

    def _make_worker(self, plan: ModelPlan) -> "Worker[LoadedModel]":
        return Worker(
            lambda: LoadedModel(plan, len(self.cameras)),
            self._work,
            LoadedModel.close,
            self._queue,
            lambda model: model.most_frames,
        )

    def _work(self, model: LoadedModel, frames: List[Frame]) -> None:
        processors = [camera.processor for camera in self.cameras]
        times_ms = process_together(processors, model.segmenters, frames)
        if model.ladder is not None:
            first_s = min(frame.received_s for frame in frames)
            line = model.ladder.look(times_ms, first_s, time.monotonic())
            if line:
                self._logger.info(line)

    def open_successor(self, model: str, backend: str, precision: str) -> "Successor":
        """Load and warm another model beside the one that runs; ``take`` or ``drop`` it then.

        Raises SegmentationError, also when the session is closed meanwhile.
        """
        settings = self.settings
        options = replace(settings.options, precision=precision)
        settings = replace(settings, model=model, backend=backend, options=options)
        plan = plan_model(settings, self._parameters["confidence.threshold"])
        worker = self._make_worker(plan)
        return Successor(settings, worker, worker.open(abandoned=lambda: self._closed))

    def take(self, successor: "Successor", is_active: bool) -> None:
        """Put it in the place of the model that runs, between two frames.

        ``is_active``: of the node. Raises SegmentationError, and changes nothing, where the session
        is closed already.
        """
        old = self._worker
        if self._closed:
            raise SegmentationError("the node left its state while the model was loading")
        self._add_topics(successor.model, is_active)
        old.give_way()
        if not old.wait_for_end(STOP_TIMEOUT_S):
            self._logger.error("a frame was not finished within %.0f s" % STOP_TIMEOUT_S)
        for camera in self.cameras:
            camera.accounts.latencies.clear()
        self.settings, self._worker, self.model = successor
        self._tell_labels()
        self._worker.serve()
        self._remove_topics()

    def identity(self) -> List[Tuple[str, str]]:
        """Which model runs on what, as keys and values."""
        backend = self.model.backend
        names = self.settings.cameras
        shared = [("cameras", ", ".join(names)), ("batch", str(self.model.most_frames))]
        boxes = self.model.boxes_text
        missing = missing_vision_msgs() if self.model.has_boxes else ""
        return [
            ("model", self.model.card.name),
            ("backend", backend.name),
            ("backend_choice", self.model.choice.details),
            ("measured", self.model.choice.measured or "n/a"),
            ("device", backend.device),
            ("precision", self.model.choice.precision),
            ("execution", backend.execution),
            ("input_size", size_text(self.model.card.input_size)),
            *(self.model.ladder.facts() if self.model.ladder is not None else []),
            ("frame_policy", self.settings.frame_policy),
            *(shared if names else []),
            ("vision_label_info", self._labels.vision_missing or "published"),
            *([("detections", missing or boxes)] if boxes else []),
        ]

    def start(self) -> None:
        """Take images as soon as anybody listens."""
        self._queue.open()
        for camera in self.cameras:
            camera.start()
        self.follow()

    def pause(self) -> None:
        """Take no more images; returns when the frame in hand is published and booked."""
        self._stop_input()
        if not self._queue.settle(STOP_TIMEOUT_S):
            self._logger.error("a frame was not finished within %.0f s" % STOP_TIMEOUT_S)

    def follow(self) -> None:
        """Follow the cameras' listeners and publishers; tell a new threshold."""
        for camera in self.cameras:
            camera.follow()
        self._follow_threshold()

    def close(self) -> None:
        """Finish the frame in hand, free the model, take the topics off the graph."""
        self._closed = True
        with self._made:
            self._stop_input()
        give_memory_back()

    def _tell_labels(self) -> None:
        model, now = self.model, self._clock.now().to_msg()
        self._labels.publish(model.labels, model.card.name, now)
        self._told_threshold = float("nan")
        self._follow_threshold()

    def _follow_threshold(self) -> None:
        with self._threshold_lock:
            threshold = self._parameters["confidence.threshold"]
            if threshold != self._told_threshold:
                now = self._clock.now().to_msg()
                self._labels.publish_vision(self.model.labels, threshold, now)
                self._told_threshold = threshold

    def _add_topics(self, model: LoadedModel, is_active: bool) -> None:
        """What this model gives too, for every camera, or, where that fails, as it was."""
        try:
            for camera in self.cameras:
                if model.has_confidence:
                    camera.give_confidence(True, is_active)
                if model.has_boxes:
                    camera.give_detections(True, is_active)
        except BaseException:
            self._remove_topics()
            raise

    def _remove_topics(self) -> None:
        """Of what the model that runs does not give."""
        for camera in self.cameras:
            if not self.model.has_confidence:
                camera.give_confidence(False)
            if not self.model.has_boxes:
                camera.give_detections(False)

    def _stop_input(self) -> None:
        for camera in self.cameras:
            camera.stop()
        self._queue.close()

    def _stop_worker(self) -> None:
        if not self._worker.stop(STOP_TIMEOUT_S):
            self._logger.error("the backend did not end within %.0f s" % STOP_TIMEOUT_S)


class Successor(NamedTuple):
    """A warm model that waits to take the place of the one that runs."""

    settings: Settings
    worker: "Worker[LoadedModel]"
    model: LoadedModel

    def drop(self) -> None:
        """Close it, on its own thread."""
        self.worker.give_way()


def _check_window(settings: Settings) -> None:
    if settings.batch_window_ms > 0 and len(settings.cameras) < 2:
        raise SegmentationError(
            "batch_window_ms is %g, but cameras names %d; frames of one camera share no run: set "
            "it to 0, or name the cameras" % (settings.batch_window_ms, len(settings.cameras))
        )


def _choose_converter(settings: Settings, logger: Any) -> RgbConverter:
    if settings.transport == "compressed":
        return decode_compressed
    converter, reason = choose_converter()
    logger.info(reason)
    return converter
