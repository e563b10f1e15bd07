"""Collect what a node makes of images that somebody else plays, ``ros2 bag play`` or a camera."""

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from segmentation_node.errors import ImageError, ReplayError
from segmentation_node.evaluation.live.node_status import NodeStatus
from segmentation_node.evaluation.live.pairing import Pairing, Result
from segmentation_node.evaluation.live.target import spin_once
from segmentation_node.ros.conversions import decode_compressed, pixels_of, to_rgb
from segmentation_node.ros.input import ImageInput, InputSettings
from segmentation_node.ros.processor import stamp_nanoseconds

LOOK_S = 0.1
# A truth is recorded beside its image; this is for a player that sends it a little later.
TRUTH_PATIENCE_S = 2.0


@dataclass
class Heard:
    """What else belongs to a result of an image that somebody else sent."""

    opened_s: float
    truth_hw: Optional[np.ndarray] = None
    image_error: str = ""
    repeated: bool = False


class OpenPairing(Pairing):
    """A pairing in which any message may be the first of its stamp.

    A result is given up when nothing has come from the node for ``patience_s``; without its image
    it is unpaired.
    """

    def __init__(
        self,
        node: Any,
        target: str,
        on_result: Callable[[Result], None],
        on_lost: Callable[[Result, str], None],
        with_truth: bool,
        patience_s: float,
    ) -> None:
        super().__init__(node, target, False, on_result, on_lost)
        self.images = 0
        self._with_truth = with_truth
        self._patience_s = patience_s
        self._newest_truth = -1
        self._last_output_s = 0.0

    def take_image(self, header: Any, image_hwc: Optional[np.ndarray], error: str) -> None:
        """An image that the node got as well, or why it cannot be read."""
        stamp_ns = stamp_nanoseconds(header.stamp)
        result = self._find(stamp_ns)
        result.sent_s = time.monotonic()
        result.payload.repeated = result.index >= 0
        result.index, result.frame_id = self.images, header.frame_id
        result.image_hwc, result.payload.image_error = image_hwc, error
        self.images += 1
        if result.class_map_hw is not None:
            self._newest["class_map"] = max(self._newest["class_map"], result.index)
        if result.latency is not None:
            self._newest["latency"] = max(self._newest["latency"], result.index)
        self._settle()

    def take_truth(self, header: Any, truth_hw: np.ndarray) -> None:
        """The train ids of an image, uint8 (H, W)."""
        result = self._find(stamp_nanoseconds(header.stamp))
        result.payload.truth_hw = truth_hw
        self._newest_truth = max(self._newest_truth, result.index)
        self._settle()

    def expire(self) -> None:
        """Close what has waited long enough."""
        now_s = time.monotonic()
        for result in list(self._pending.values()):
            opened_s = result.payload.opened_s
            if result.index >= 0 and super()._is_settled(result):
                is_over = now_s - opened_s > TRUTH_PATIENCE_S
            else:
                is_over = now_s - max(opened_s, self._last_output_s) > self._patience_s
            if is_over:
                self._close(result, "no result within %.0f s" % self._patience_s)

    def _take(self, output: str, message: Any) -> None:
        self._last_output_s = time.monotonic()
        super()._take(output, message)

    def _find(self, stamp_ns: int) -> Result:
        if stamp_ns not in self._pending:
            payload = Heard(time.monotonic())
            self.expect(Result(-1, stamp_ns, payload=payload))
        return self._pending[stamp_ns]

    def _is_settled(self, result: Result) -> bool:
        if result.index < 0 or not super()._is_settled(result):
            return False
        has_truth = result.payload.truth_hw is not None
        return has_truth or not self._with_truth or self._newest_truth > result.index

    def _close(self, result: Result, reason: str) -> None:
        if result.index >= 0 and not result.payload.repeated:
            super()._close(result, reason)
            return
        del self._pending[result.stamp_ns]
        if result.payload.repeated:
            self._on_lost(result, "two images have its stamp: their results cannot be told apart")
        elif result.class_map_hw is not None or result.latency is not None:
            self._note_unpaired(result.stamp_ns)


class Listening(Node):
    """Listens to a camera, its ground truth and one segmentation node, and publishes nothing.

    ``on_result`` and ``on_lost``, set them before ``listen``, as ``Pairing`` has them; a result's
    ``payload`` is ``Heard``.
    ``middleware_lost`` counts what this listener itself missed.
    """

    def __init__(
        self,
        target: str,
        image_topic: str,
        compressed: bool = False,
        truth_topic: str = "",
        patience_s: float = 10.0,
        name: str = "segmentation_listener",
    ) -> None:
        remaps = ["-r", "image:=" + image_topic]
        remaps += ["-r", "truth:=" + truth_topic] if truth_topic else []
        super().__init__(name, cli_args=["--ros-args"] + remaps)
        self.middleware_lost = 0
        self.unusable_truths: Dict[str, int] = {}
        self._target = target
        self._decode = decode_compressed if compressed else to_rgb
        self._heard_s = time.monotonic()
        self.on_result: Callable[[Result], None] = lambda result: None
        self.on_lost: Callable[[Result, str], None] = lambda result, reason: None
        self.pairing = OpenPairing(
            self,
            target,
            lambda result: self.on_result(result),
            lambda result, reason: self.on_lost(result, reason),
            bool(truth_topic),
            patience_s,
        )
        self.status = NodeStatus(self, target)
        settings = InputSettings("compressed" if compressed else "raw")
        self._inputs = [ImageInput(self, settings, self._on_image, self._on_middleware_lost)]
        if truth_topic:
            self._inputs.append(
                ImageInput(
                    self, InputSettings("raw"), self._on_truth, self._on_middleware_lost, "truth"
                )
            )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_until_ready(self, process: Any, timeout_s: float) -> None:
        """Spin until the node has a model. Raises ReplayError otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while self.status.label_info is None:
            process.check()
            if time.monotonic() > deadline_s:
                raise ReplayError(
                    "%s/label_info says nothing, waited %.0f s" % (self._target, timeout_s)
                )
            self._spin(LOOK_S)

    def listen(self, process: Any, idle_s: float) -> None:
        """Spin until no image has come for ``idle_s`` and every result is there or given up."""
        while (
            not self.pairing.images
            or self.pairing.in_flight
            or time.monotonic() - self._heard_s < idle_s
        ):
            process.check()
            self._spin(LOOK_S)
            self.pairing.expire()

    def _spin(self, duration_s: float) -> None:
        for item in self._inputs:
            item.update(True)
        deadline_s = time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            spin_once(self._executor, deadline_s - time.monotonic())

    def _on_image(self, message: Any) -> None:
        self._heard_s = time.monotonic()
        image_hwc, error = None, ""
        try:
            image_hwc = self._decode(message)
        except ImageError as problem:
            error = str(problem)
        self.pairing.take_image(message.header, image_hwc, error)

    def _on_truth(self, message: Any) -> None:
        try:
            truth_hw = pixels_of(message)
        except ImageError as problem:
            self._note_truth(str(problem))
            return
        if message.encoding != "mono8":
            self._note_truth("encoding %r, expected mono8" % message.encoding)
            return
        self.pairing.take_truth(message.header, truth_hw)

    def _note_truth(self, reason: str) -> None:
        self.unusable_truths[reason] = self.unusable_truths.get(reason, 0) + 1

    def _on_middleware_lost(self, messages: int) -> None:
        self.middleware_lost += messages
