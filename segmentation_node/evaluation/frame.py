"""A frame on its way through the workbench: read, scored, or left out for a reason."""

import time
from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

import numpy as np

from segmentation_node.boxes import Boxes
from segmentation_node.evaluation.run.true_boxes import TrueBoxes

DrivePosition = Tuple[str, int]
"""Name of a drive (empty where there is one only) and the number of the frame in it."""


@dataclass(frozen=True)
class Calibration:
    """A rectified camera: image size, the 3x4 projection matrix, row by row, in pixels."""

    width: int
    height: int
    projection: Tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """A frame of a data set, a drive or a bag: ``image_hwc`` is uint8 RGB (H, W, 3).

    ``truth_hw``, where it is labelled: train ids of the data's label set, uint8 (H, W), 255 =
    unlabelled; ``instances_hw``, where asked for: int32 (H, W) as ``run.instances`` defines it;
    ``true_boxes``, where the data has its own: elsewhere they are those of the instances;
    ``calibration``, where each frame has its own.
    ``stamp_ns`` is None where the data has no times, ``position`` where frames are single images.
    A frame of a bag has its image message as it was recorded, ``message``, the bag's time of it
    and the header's frame id.
    """

    name: str
    image_hwc: np.ndarray
    truth_hw: Optional[np.ndarray] = None
    instances_hw: Optional[np.ndarray] = None
    stamp_ns: Optional[int] = None
    position: Optional[DrivePosition] = None
    message: Optional[bytes] = None
    recorded_ns: Optional[int] = None
    frame_id: str = "camera"
    true_boxes: Optional[TrueBoxes] = None
    calibration: Optional[Calibration] = None

    def scored(
        self,
        class_map_hw: np.ndarray,
        stages_ms: Dict[str, float],
        boxes: Optional[Boxes] = None,
        confidence_hw: Optional[np.ndarray] = None,
    ) -> "ScoredFrame":
        """This frame with its class map, and what else was found, which is there now."""
        return ScoredFrame(
            self.name,
            class_map_hw,
            self.stamp_ns,
            self.image_hwc,
            self.truth_hw,
            self.instances_hw,
            stages_ms,
            self.position,
            true_boxes=self.true_boxes,
            boxes=boxes,
            confidence_hw=confidence_hw,
        )


@dataclass(frozen=True)
class ScoredFrame:
    """A segmented frame, and its truth where there is one. Its arrays may be kept: do not reuse.

    ``class_map_hw`` and ``truth_hw`` are uint8 (H, W) of one size, train ids of the network's and
    of the data's label set. ``stages_ms`` goes into the report as it is: what every way of
    evaluation has is preprocess, inference, postprocess and processing (image to class map).
    ``position`` makes a frame comparable with the one before it in the same drive.
    ``done_s`` is when the result was there, on the monotonic clock; by default now.
    ``boxes`` are of the network's label set, in pixels of the image; ``proposals_xyxy``, float32
    (P, 4), where they were found among, if that is known.
    ``confidence_hw``, where the model gave it: 0-255, uint8 (H, W).
    """

    name: str
    class_map_hw: np.ndarray
    stamp_ns: Optional[int] = None
    image_hwc: Optional[np.ndarray] = None
    truth_hw: Optional[np.ndarray] = None
    instances_hw: Optional[np.ndarray] = None
    stages_ms: Dict[str, float] = field(default_factory=dict)
    position: Optional[DrivePosition] = None
    done_s: float = field(default_factory=time.monotonic)
    true_boxes: Optional[TrueBoxes] = None
    boxes: Optional[Boxes] = None
    proposals_xyxy: Optional[np.ndarray] = None
    confidence_hw: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Problem:
    """A frame that cannot be read, segmented or scored, and why: one line that names the place."""

    name: str
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Lost(Problem):
    """A frame that was sent or recorded, but has no result; ``reason`` leaves its name out."""

    def __str__(self) -> str:
        return "%s: %s" % (self.name, self.reason)


def stamp_text(stamp_ns: int) -> str:
    """A stamp in seconds with all its digits."""
    return "%d.%09d" % divmod(stamp_ns, 10**9)
