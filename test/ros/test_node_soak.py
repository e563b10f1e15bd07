"""Everything changes for a long time: counters add up, the node lives, memory does not grow.

``SEGMENTATION_SOAK_S=3600 python -m pytest -m slow test/ros/test_node_soak.py`` is the hour that
counts; a run of two minutes only tries the actions.
"""

import collections
import json
import os
import random
import time

import cv2
import numpy as np
import pytest
from support import linear_model
from support.live import (
    CompressedImage,
    FrameLatency,
    Image,
    LiveNode,
    compressed_message,
    image_message,
)

from segmentation_msgs.srv import LoadModel
from segmentation_node.evaluation.live.target import resident_mb

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DURATION_S = float(os.environ.get("SEGMENTATION_SOAK_S", "120"))
PERIOD_S = 0.1
SIZES = [(48, 64), (96, 128), (240, 320), (360, 640), (481, 333), (720, 1280)]
ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "bayer_rggb8": 1}
LISTENED = {
    "/class_map": Image,
    "/overlay": Image,
    "/confidence": Image,
    "/class_map/compressed": CompressedImage,
    "/overlay/compressed": CompressedImage,
}
LIVE_PARAMETERS = {
    "overlay.alpha": lambda draw: draw.random(),
    "overlay.max_rate_hz": lambda draw: draw.choice([0.0, 2.0, 5.0]),
    "confidence.threshold": lambda draw: draw.choice([0.0, 0.5, 0.9]),
    "diagnostics.max_latency_ms": lambda draw: draw.choice([0.0, 50.0]),
}
GROWTH_LIMIT = 1.02


class Pictures:
    """Good and malformed messages of every size and encoding, made once."""

    def __init__(self, draw):
        self._draw = draw
        noise = np.random.default_rng(1).integers(0, 256, 720 * 1280 * 4, np.uint8).tobytes()
        self.good = [
            image_message(noise[: size[0] * size[1] * channels], size, encoding)
            for size in SIZES
            for encoding, channels in ENCODINGS.items()
        ]
        pictures = [
            linear_model.blocks((height // 8 * 8, width // 8 * 8)) for height, width in SIZES
        ]
        self.packed = [
            compressed_message(cv2.imencode("." + kind, picture)[1].tobytes(), kind)
            for picture in pictures
            for kind in ("jpeg", "png")
        ]

    def next(self, compressed):
        """A message, and whether it is malformed on purpose."""
        malformed = self._draw.random() < 0.12
        if compressed:
            found = self._draw.choice(self.packed)
            if not malformed:
                return found, False
            data = bytes(found.data)
            return compressed_message(data[: self._draw.randrange(len(data) // 2)]), True
        found = self._draw.choice(self.good)
        if not malformed:
            return found, False
        size = (found.height, found.width)
        row = len(found.data) // found.height
        return self._draw.choice(
            [
                lambda: image_message(found.data[:-1], size, found.encoding, step=row),
                lambda: image_message(found.data, size, "no_such_encoding", step=row),
                lambda: image_message(found.data, (0, 64), found.encoding),
                lambda: image_message(found.data, size, found.encoding, step=row - 1),
            ]
        )(), True


class Soak:
    """One node, its camera and what is done to it."""

    def __init__(self, node, models, seed):
        self.node, self.models = node, models
        self.draw = random.Random(seed)
        self.pictures = Pictures(self.draw)
        self.count = collections.Counter()
        self.memory_mb = []
        self.unloaded_mb = []
        self.wrong = []
        self.listeners = {}
        self.is_compressed = False
        self.cameras = {
            compressed: node.publisher(kind, topic=node.image_topic + suffix)
            for compressed, kind, suffix in [
                (False, Image, ""),
                (True, CompressedImage, "/compressed"),
            ]
        }
        self._latency = node.peer.node.create_subscription(
            FrameLatency, node.name + "/latency", self._look, 10
        )
        self.started_s = time.monotonic()

    def _look(self, latency):
        self.count["looks"] += 1
        kept = latency.processed + latency.dropped + latency.failed + latency.queued
        if latency.received != kept:
            self.wrong.append(str(latency))

    def send(self):
        message, malformed = self.pictures.next(self.is_compressed)
        self.cameras[self.is_compressed].publish(message)
        self.count["sent"] += 1
        self.count["malformed"] += malformed

    def act(self):
        """One change of those that a user makes."""
        action = self.draw.choices(
            [self.listen, self.parameter, self.load, self.pause, self.restart], [8, 8, 2, 2, 1]
        )[0]
        action()
        self.count[action.__name__] += 1

    def listen(self):
        topic = self.draw.choice(sorted(LISTENED))
        peer = self.node.peer.node
        if topic in self.listeners:
            peer.destroy_subscription(self.listeners.pop(topic))
        else:
            self.listeners[topic] = peer.create_subscription(
                LISTENED[topic], self.node.name + topic, lambda _: None, 1
            )

    def parameter(self):
        name = self.draw.choice(sorted(LIVE_PARAMETERS))
        result = self.node.set(name, LIVE_PARAMETERS[name](self.draw))
        self._accept(result.successful, result.reason)

    def load(self):
        request = LoadModel.Request(model=self.draw.choice(self.models))
        result = self.node.call(LoadModel, "load_model", request)
        self._accept(result.success, result.message)

    def _accept(self, is_done, reason):
        """One model gives no confidence: a threshold for it is refused, and so is it under one."""
        assert is_done or "confidence" in reason, reason
        self.count["refused"] += not is_done

    def pause(self):
        assert self.node.change("deactivate")
        self.node.peer.spin_for(0.2)
        assert self.node.change("activate")

    def restart(self):
        assert self.node.change("deactivate") and self.node.change("cleanup")
        self.unloaded_mb.append(resident_mb(self.node.process.process.pid))
        self.is_compressed = self.draw.random() < 0.5
        assert self.node.set("confidence.threshold", 0.0).successful
        transport = "compressed" if self.is_compressed else "raw"
        assert self.node.set("input.transport", transport).successful
        assert self.node.set("frame_policy", self.draw.choice(["latest", "every"])).successful
        assert self.node.set("model", self.draw.choice(self.models)).successful
        assert self.node.change("configure") and self.node.change("activate")

    def run(self, duration_s):
        next_s = action_s = look_s = self.started_s
        while time.monotonic() < self.started_s + duration_s:
            self.node.peer.spin_for(max(0.0, next_s - time.monotonic()))
            next_s = max(next_s + PERIOD_S, time.monotonic() - 1.0)  # a change holds sending up
            self.send()
            if time.monotonic() >= action_s:
                self.act()
                action_s = time.monotonic() + self.draw.uniform(0.5, 4.0)
            if time.monotonic() >= look_s:
                self.look_at_process()
                look_s = time.monotonic() + 1.0

    def look_at_process(self):
        assert self.node.process.process.poll() is None, self.node.log[-3000:]
        elapsed_s = time.monotonic() - self.started_s
        self.memory_mb.append((elapsed_s, resident_mb(self.node.process.process.pid)))

    def median_mb(self, first, last):
        """Median memory between two shares of the time."""
        times_s, memory_mb = np.array(self.memory_mb).T
        inside = (times_s >= first * DURATION_S) & (times_s < last * DURATION_S)
        return float(np.median(memory_mb[inside]))


def test_everything_changes_and_memory_stays(peer, tmp_path):
    # Of like size: what grows must not hide behind which of them happens to run.
    models = [
        linear_model.write_model(tmp_path / labels, (96, 128), labels, labels == "camvid11", labels)
        for labels in ("camvid11", "cityscapes19", "voc21")
    ]
    parameters = {"model": models[0], "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node:
        soak = Soak(node.active(), models, seed=41)
        soak.run(DURATION_S)
        # Minutes 10 to 20 of an hour against its last ten.
        early_mb, late_mb = soak.median_mb(1 / 6, 1 / 3), soak.median_mb(5 / 6, 1.0)
        told = dict(soak.count, wrong=len(soak.wrong), early_mb=early_mb, late_mb=late_mb)
        print(json.dumps(told))
        with open(os.environ.get("SEGMENTATION_SOAK_RECORD", os.devnull), "w") as record:
            json.dump(
                {"told": told, "memory_mb": soak.memory_mb, "unloaded_mb": soak.unloaded_mb}, record
            )
        assert not soak.wrong, soak.wrong[:3]
        assert "Traceback" not in node.log
        assert soak.count["looks"] > 0.2 * soak.count["sent"], told
        if DURATION_S >= 1800:  # the allocator settles in the first minutes
            assert late_mb <= GROWTH_LIMIT * early_mb, told
