"""Collect what a node makes of images that somebody else plays, ``ros2 bag play`` or a camera."""

import sys
import time
from types import MappingProxyType
from typing import Any, Container, Dict, Mapping

from segmentation_node.errors import ImageError
from segmentation_node.evaluation.live.pairing import Collector, OpenPairing
from segmentation_node.ros.conversions import decode_compressed, pixels_of, to_rgb
from segmentation_node.ros.input import ImageInput, InputSettings

LOOK_S = 0.1
REMIND_S = 10.0


class Listening(Collector):
    """Listens to one segmentation node and its camera, and publishes nothing.

    Set ``pairing.on_result`` and ``pairing.on_lost`` before ``listen``; a result's ``payload`` is
    ``Heard``. With ``numbers`` (see ``OpenPairing``) images and truth are known already, and an
    image only shows that somebody plays; without them both are taken from their topics.
    ``middleware_lost`` counts what this listener itself missed.
    """

    pairing: OpenPairing

    def __init__(
        self,
        target: str,
        image_topic: str,
        compressed: bool = False,
        truth_topic: str = "",
        patience_s: float = 10.0,
        numbers: Mapping[int, int] = MappingProxyType({}),
        repeated: Container[int] = (),
    ) -> None:
        remaps = ["image:=" + image_topic] + (["truth:=" + truth_topic] if truth_topic else [])
        super().__init__("segmentation_listener", target, remaps)
        self.middleware_lost = 0
        self.unusable_truths: Dict[str, int] = {}
        self._is_known = bool(numbers)
        self._decode = decode_compressed if compressed else to_rgb
        self._heard_s = 0.0
        self.pairing = OpenPairing(self, target, bool(truth_topic), patience_s, numbers, repeated)
        settings = InputSettings("compressed" if compressed else "raw")
        self._inputs = [ImageInput(self, settings, self._on_image, self._on_middleware_lost)]
        if truth_topic:
            self._inputs.append(
                ImageInput(
                    self, InputSettings("raw"), self._on_truth, self._on_middleware_lost, "truth"
                )
            )

    def spin_for(self, duration_s: float) -> None:
        """The same; subscriptions are renewed where publishers came or left."""
        for item in self._inputs:
            item.update(True)
        super().spin_for(duration_s)

    def listen(self, process: Any, idle_s: float) -> None:
        """Spin until nothing has come for ``idle_s`` and every result is there or given up.

        Says on stderr every ``REMIND_S`` why there is no first image yet.
        """
        reminded_s = time.monotonic()
        while not self._is_idle(idle_s):
            process.check()
            self.spin_for(LOOK_S)
            self.pairing.expire()
            if not self._heard_s and time.monotonic() - reminded_s >= REMIND_S:
                reminded_s = time.monotonic()
                print("listening: no image yet: " + self._silence(), file=sys.stderr)

    def _silence(self) -> str:
        images = self._inputs[0]
        if images.misfit():
            return "%s is published as %s" % (images.topic, images.misfit())
        if images.publisher_count():
            return "%s has publishers, which are silent" % images.topic
        return "nobody publishes %s" % images.topic

    def _is_idle(self, idle_s: float) -> bool:
        last_s = max(self._heard_s, self.pairing.last_output_s)
        is_over = last_s > 0.0 and time.monotonic() - last_s >= idle_s
        return is_over and not self.pairing.in_flight

    def _on_image(self, message: Any) -> None:
        self._heard_s = time.monotonic()
        image_hwc, error = None, ""
        try:
            if not self._is_known:
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
