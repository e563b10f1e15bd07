"""All that exists from configure to cleanup: built whole or not at all, closed in one place."""

import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, List, Optional, Tuple

from rclpy.lifecycle import LifecycleNode

from segmentation_node.backends import BACKENDS, Backend, BackendChoice, choose_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.labels import Grouping, LabelSet, read_grouping
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.pipeline import Segmenter, open_batch
from segmentation_node.ros.camera import Camera
from segmentation_node.ros.conversions import RgbConverter, choose_converter, decode_compressed
from segmentation_node.ros.outputs import LabelOutputs
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import process_together
from segmentation_node.ros.worker import FrameQueue, Worker

STOP_TIMEOUT_S = 30.0


class LoadedModel:
    """A warm model and every camera's segmenter over it; belongs to the thread that opened it."""

    def __init__(
        self,
        card: ModelCard,
        choice: BackendChoice,
        settings: Settings,
        grouping: Optional[Grouping],
        cameras: int,
    ) -> None:
        """Raises BackendError, CardError, or LabelsError where the grouping does not fit."""
        self.card = card
        self.choice = choice
        options = settings.options
        if settings.batch_window_ms > 0 and BACKENDS[choice.name].takes_any_batch:
            options = replace(options, batch=cameras)
        self.batch = open_batch(card, choice.name, options)
        try:
            self._check_batch(settings.batch_window_ms, cameras)
            self.segmenters = [
                Segmenter(self.batch, settings.output_resolution, grouping, geometry)
                for geometry in settings.geometries
            ]
        except BaseException:
            self.batch.close()
            raise
        self.labels = self.segmenters[0].labels

    @property
    def backend(self) -> Backend:
        """The run time that it is loaded on."""
        return self.batch.backend

    @property
    def most_frames(self) -> int:
        """How many images one run takes."""
        return self.batch.images

    @property
    def warnings(self) -> List[str]:
        """What works otherwise than it should, one line each."""
        cameras = len(self.segmenters)
        idle = self.batch.images - cameras
        if idle <= 0:
            return self.backend.warnings
        return self.backend.warnings + [
            "model %s computes %d images in every run, %d of them for nothing: there are %d "
            "cameras; export it with --batch %d"
            % (self.card.name, self.batch.images, idle, cameras, cameras)
        ]

    def close(self) -> None:
        """Free the model."""
        self.batch.close()

    def _check_batch(self, window_ms: float, cameras: int) -> None:
        if window_ms > 0 and self.batch.images == 1:
            raise SegmentationError(
                "batch_window_ms is %g, but a run of model %s on %s takes one image; set it to 0, "
                "or export the model with --batch %d"
                % (window_ms, self.card.name, self.backend.name, cameras)
            )


class Session:
    """A model with its cameras and worker, ready to take images.

    Raises SegmentationError, and leaves nothing behind, where the parameters do not allow it.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self.settings = parameters.settings()
        _check_window(self.settings)
        self.card = open_model(self.settings.model)
        _check_threshold(self.card, parameters["confidence.threshold"])
        self._grouping = _read_grouping(self.settings.grouping, self.card.labels)
        self.choice = _choose_backend(self.card, self.settings)
        self._parameters = parameters
        self._told_threshold = float("nan")
        self._threshold_lock = threading.Lock()
        self._clock = node.get_clock()
        self._logger = node.get_logger()
        with ExitStack() as made:
            self._build(node, made)
            self._made = made.pop_all()

    def _build(self, node: LifecycleNode, made: ExitStack) -> None:
        """Make the parts in an order in which each can be closed before those made earlier."""
        self._labels = LabelOutputs(node)
        made.callback(self._labels.destroy)
        convert = _choose_converter(self.settings, self._logger)
        self.cameras: List[Camera] = []
        for name in self.settings.cameras or ("",):
            number = len(self.cameras)
            camera = Camera(node, self.settings, self._parameters, self.card, convert, number, name)
            made.callback(camera.close)
            self.cameras.append(camera)
        counters = [camera.accounts.counters for camera in self.cameras]
        window_s = self.settings.batch_window_ms * 1e-3
        self._queue = FrameQueue(self.settings.frame_policy, counters, window_s)
        self._worker = self._make_worker()
        self.model = self._worker.start()
        made.callback(self._stop_worker)
        for camera in self.cameras:
            camera.connect(self._queue)
            made.callback(camera.stop)
        self._labels.publish(self.model.labels, self.card.name, self._clock.now().to_msg())
        self._follow_threshold()
        missing = self._labels.vision_missing
        if missing:
            self._logger.info("no ~/vision_label_info: " + missing)

    def _make_worker(self) -> "Worker[LoadedModel]":
        processors = [camera.processor for camera in self.cameras]
        return Worker(
            lambda: LoadedModel(
                self.card, self.choice, self.settings, self._grouping, len(processors)
            ),
            lambda model, frames: process_together(processors, model.segmenters, frames),
            LoadedModel.close,
            self._queue,
            lambda model: model.most_frames,
        )

    def identity(self) -> List[Tuple[str, str]]:
        """Which model runs on what, as keys and values."""
        backend = self.model.backend
        names = self.settings.cameras
        shared = [("cameras", ", ".join(names)), ("batch", str(self.model.most_frames))]
        return [
            ("model", self.card.name),
            ("backend", backend.name),
            ("backend_choice", self.choice.details),
            ("device", backend.device),
            ("precision", self.settings.options.precision),
            ("execution", backend.execution),
            ("frame_policy", self.settings.frame_policy),
            *(shared if names else []),
            ("vision_label_info", self._labels.vision_missing or "published"),
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
        self._stop_input()
        self._made.close()

    def _follow_threshold(self) -> None:
        with self._threshold_lock:
            threshold = self._parameters["confidence.threshold"]
            if threshold != self._told_threshold:
                now = self._clock.now().to_msg()
                self._labels.publish_vision(self.model.labels, threshold, now)
                self._told_threshold = threshold

    def _stop_input(self) -> None:
        for camera in self.cameras:
            camera.stop()
        self._queue.close()

    def _stop_worker(self) -> None:
        if not self._worker.stop(STOP_TIMEOUT_S):
            self._logger.error("the backend did not end within %.0f s" % STOP_TIMEOUT_S)


def _check_window(settings: Settings) -> None:
    if settings.batch_window_ms > 0 and len(settings.cameras) < 2:
        raise SegmentationError(
            "batch_window_ms is %g, but cameras names %d; frames of one camera share no run: set "
            "it to 0, or name the cameras" % (settings.batch_window_ms, len(settings.cameras))
        )


def _check_threshold(card: ModelCard, threshold: float) -> None:
    if threshold > 0 and "confidence" not in card.outputs:
        raise SegmentationError(
            "confidence.threshold is %g, but model %s gives no confidence; set it to 0 or "
            "choose another model" % (threshold, card.name)
        )


def _read_grouping(path: str, labels: LabelSet) -> Optional[Grouping]:
    if not path:
        return None
    grouping = read_grouping(os.path.expanduser(path))
    grouping.fold(labels)  # what does not fit is told before anything is loaded
    return grouping


def _choose_backend(card: ModelCard, settings: Settings) -> BackendChoice:
    if settings.backend == "auto":
        return choose_backend(card, settings.options)
    asked = "as the parameter backend asks"
    return BackendChoice(settings.backend, asked, asked)


def _choose_converter(settings: Settings, logger: Any) -> RgbConverter:
    if settings.transport == "compressed":
        return decode_compressed
    converter, reason = choose_converter()
    logger.info(reason)
    return converter
