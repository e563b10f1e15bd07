"""Boxes as serialised vision_msgs/Detection2DArray and back; vision_msgs itself is not needed."""

from typing import Any, Dict, List, Tuple

import numpy as np

from segmentation_node.boxes import Boxes
from segmentation_node.errors import ImageError, shown
from segmentation_node.evaluation.bags.messages import (
    DETECTIONS,
    deserialize,
    header,
    serialize,
    typestore,
)
from segmentation_node.evaluation.detections import best_class, boxes_in, corners
from segmentation_node.evaluation.run.true_boxes import (
    ANY_CLASS,
    AREA,
    LEFT_OUT,
    THING,
    TrueBoxes,
    true_boxes,
)
from segmentation_node.labels import LabelSet

# KITTI's name of an area in which nothing counts, whatever its class.
DONT_CARE = "DontCare"
KINDS = {"thing": THING, "left_out": LEFT_OUT, "area": AREA}
DEFAULTS = {"kind": "thing", "occlusion": "0", "truncation": "0"}


def true_boxes_message(boxes: TrueBoxes, labels: LabelSet, stamp_ns: int, frame_id: str) -> bytes:
    """True boxes as a serialised message, with score 1.

    What a detection has no field for is in its ``id``, as ``kind=area occlusion=1 truncation=0.25``
    without what goes without saying.
    """
    names = {kind: name for name, kind in KINDS.items()}
    detections = []
    for box, class_id, kind, occlusion, truncation in zip(*(v.tolist() for v in boxes)):
        name = DONT_CARE if class_id == ANY_CLASS else labels.names[class_id]
        said = {"kind": names[kind], "occlusion": str(occlusion), "truncation": "%g" % truncation}
        words = ["%s=%s" % item for item in said.items() if item[1] != DEFAULTS[item[0]]]
        detections.append(_detection(header(stamp_ns, frame_id), box, name, " ".join(words)))
    message = typestore().types[DETECTIONS](
        header=header(stamp_ns, frame_id), detections=detections
    )
    return serialize(message, DETECTIONS)


def true_boxes_of(data: bytes, labels: LabelSet) -> TrueBoxes:
    """The true boxes of a serialised message. Raises ImageError on one that holds none.

    Boxes of a class that the label set lacks are left out.
    """
    found = []
    for item in deserialize(data, DETECTIONS).detections:
        name, _ = best_class(item)
        if name != DONT_CARE and name not in labels.names:
            continue
        class_id = ANY_CLASS if name == DONT_CARE else labels.names.index(name)
        found.append((corners(item), class_id, *_said(item.id)))
    columns: Any = zip(*found) if found else ([], [], [], [], [])
    return true_boxes(*(list(column) for column in columns))


def boxes_of(data: bytes, labels: LabelSet) -> Boxes:
    """The boxes of a serialised message, as ``boxes_in`` gives them. Raises ImageError."""
    return boxes_in(deserialize(data, DETECTIONS), labels)


def _detection(stamp: Any, box: List[float], name: str, said: str) -> Any:
    def made(type_: str, **fields: Any) -> Any:
        return typestore().types[type_](**fields)

    left, top, right, bottom = box
    centre = made("vision_msgs/msg/Point2D", x=(left + right) / 2, y=(top + bottom) / 2)
    return made(
        "vision_msgs/msg/Detection2D",
        header=stamp,
        results=[
            made(
                "vision_msgs/msg/ObjectHypothesisWithPose",
                hypothesis=made("vision_msgs/msg/ObjectHypothesis", class_id=name, score=1.0),
                pose=made(
                    "geometry_msgs/msg/PoseWithCovariance",
                    pose=made(
                        "geometry_msgs/msg/Pose",
                        position=made("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
                        orientation=made(
                            "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0
                        ),
                    ),
                    covariance=np.zeros(36),
                ),
            )
        ],
        bbox=made(
            "vision_msgs/msg/BoundingBox2D",
            center=made("vision_msgs/msg/Pose2D", position=centre, theta=0.0),
            size_x=right - left,
            size_y=bottom - top,
        ),
        id=said,
    )


def _said(text: str) -> Tuple[int, int, float]:
    """Kind, occlusion and truncation of a true box. Raises ImageError on another ``id``."""
    said: Dict[str, str] = dict(DEFAULTS)
    try:
        said.update(word.split("=") for word in text.split())  # type: ignore[misc]
        if set(said) != set(DEFAULTS):
            raise ValueError
        return KINDS[said["kind"]], int(said["occlusion"]), float(said["truncation"])
    except (KeyError, ValueError):
        raise ImageError(
            "a true box has the id %s; expected one like kind=area occlusion=1 truncation=0.25"
            % shown(text)
        ) from None
