"""All that exists from configure to cleanup: built whole or not at all, closed in one place."""

import os
import threading
import time
from contextlib import ExitStack
from typing import Any, List, Optional, Tuple

from rclpy.lifecycle import LifecycleNode

from segmentation_node.accounting import Accounts
from segmentation_node.backends import BackendChoice, choose_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.labels import Grouping, LabelSet, read_grouping
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.pipeline import Segmenter, open_segmenter
from segmentation_node.ros.conversions import RgbConverter, choose_converter, decode_compressed
from segmentation_node.ros.input import ImageInput
from segmentation_node.ros.outputs import Outputs
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import FrameProcessor
from segmentation_node.ros.worker import Frame, FrameQueue, Worker

STOP_TIMEOUT_S = 30.0


class Session:
    """A model with its topics, worker and input, ready to take images.

    Raises SegmentationError, and leaves nothing behind, where the parameters do not allow it.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self.settings = parameters.settings()
        self.card = open_model(self.settings.model)
        _check_threshold(self.card, parameters["confidence.threshold"])
        self._grouping = _read_grouping(self.settings.grouping, self.card.labels)
        self.choice = _choose_backend(self.card, self.settings)
        self.accounts = Accounts()
        self.demanded = False
        self.input_since_ns = 0  # the last image, or when images were first asked for
        self._parameters = parameters
        self._told_threshold = float("nan")
        self._clock = node.get_clock()
        self._logger = node.get_logger()
        self._active = False
        # Transitions and the demand timer run on different threads and share the subscription.
        self._demand_lock = threading.RLock()
        with ExitStack() as made:
            self._build(node, parameters, made)
            self._made = made.pop_all()

    def _build(self, node: LifecycleNode, parameters: NodeParameters, made: ExitStack) -> None:
        """Make the parts in an order in which each can be closed before those made earlier."""
        policy, accounts = self.settings.frame_policy, self.accounts
        self._outputs = Outputs(node, self.card, policy)
        made.callback(self._outputs.destroy)
        convert = _choose_converter(self.settings, self._logger)
        self.processor = FrameProcessor(
            convert, self._outputs, parameters, accounts, self._clock, self._logger
        )
        self._queue = FrameQueue(policy, accounts.counters)
        self._worker = Worker(
            self._open_segmenter, self.processor.process, Segmenter.close, self._queue
        )
        self.segmenter = self._worker.start()
        made.callback(self._stop_worker)
        # With a history of one image, what is missing was replaced in it; else it was overrun.
        counters = accounts.counters
        self.input = ImageInput(
            node,
            self.settings,
            self._on_image,
            counters.lose,
            own_thread=True,
            on_missed=counters.replace if policy == "latest" else counters.lose,
        )
        made.callback(self.input.drop)
        labels = self.segmenter.labels
        self._outputs.publish_labels(labels, self.card.name, self._clock.now().to_msg())
        self._follow_threshold()
        missing = self._outputs.vision_labels_missing
        if missing:
            self._logger.info("no ~/vision_label_info: " + missing)

    @property
    def backlog_s(self) -> float:
        """How long the oldest image has waited for its turn."""
        return self._queue.age_s(time.monotonic())

    def identity(self) -> List[Tuple[str, str]]:
        """Which model runs on what, as keys and values."""
        backend = self.segmenter.backend
        return [
            ("model", self.card.name),
            ("backend", backend.name),
            ("backend_choice", self.choice.details),
            ("device", backend.device),
            ("precision", self.settings.options.precision),
            ("execution", backend.execution),
            ("frame_policy", self.settings.frame_policy),
            ("vision_label_info", self._outputs.vision_labels_missing or "published"),
        ]

    def start(self) -> None:
        """Take images as soon as anybody listens."""
        self.accounts.counters.reset()
        self._queue.open()
        self._active = True
        self.follow()

    def pause(self) -> None:
        """Take no more images; returns when the frame in hand is published and booked."""
        self._stop_input()
        if not self._queue.settle(STOP_TIMEOUT_S):
            self._logger.error("a frame was not finished within %.0f s" % STOP_TIMEOUT_S)

    def follow(self) -> None:
        """Subscribe while anybody listens, with a QoS for the publishers; tell a new threshold."""
        with self._demand_lock:
            if not self._active:
                return
            demanded = self._outputs.wanted
            if demanded and not self.demanded:
                self.input_since_ns = self._clock.now().nanoseconds
                self.accounts.begin()
            self.demanded = demanded
            self.input.update(demanded)
            self._follow_threshold()

    def close(self) -> None:
        """Finish the frame in hand, free the model, take the topics off the graph."""
        self._stop_input()
        self._made.close()

    def _follow_threshold(self) -> None:
        threshold = self._parameters["confidence.threshold"]
        if threshold != self._told_threshold:
            now = self._clock.now().to_msg()
            self._outputs.publish_vision_labels(self.segmenter.labels, threshold, now)
            self._told_threshold = threshold

    def _stop_input(self) -> None:
        with self._demand_lock:
            self._active = self.demanded = False
            self.input.drop()
        self._queue.close()

    def _stop_worker(self) -> None:
        if not self._worker.stop(STOP_TIMEOUT_S):
            self._logger.error("the backend did not end within %.0f s" % STOP_TIMEOUT_S)

    def _on_image(self, message: Any) -> None:
        received_s, now_ns = time.monotonic(), self._clock.now().nanoseconds
        self.input_since_ns = now_ns
        self._queue.put(Frame(message, received_s, now_ns))

    def _open_segmenter(self) -> Segmenter:
        settings, name = self.settings, self.choice.name
        resolution, grouping = settings.output_resolution, self._grouping
        return open_segmenter(self.card, name, settings.options, resolution, grouping)


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
