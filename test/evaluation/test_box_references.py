"""COCO's average precision against pycocotools, on made-up frames."""

import numpy as np
import pytest

from segmentation_node.boxes import make_boxes
from segmentation_node.evaluation.run.detection_scores import DetectionScores
from segmentation_node.evaluation.run.true_boxes import AREA, LEFT_OUT, THING, true_boxes
from segmentation_node.labels import CITYSCAPES_19

coco = pytest.importorskip("pycocotools.coco", reason="COCO AP NOT COMPARED: no pycocotools")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

CLASSES = ("person", "car", "truck")
IDS = CITYSCAPES_19.ids_of(CLASSES)


def xywh(box):
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def pycocotools_of(frames):
    """Its AP, AP50, AP75 and AP by class."""
    truth = coco.COCO()
    things = [
        {
            "image_id": image,
            "category_id": int(class_id),
            "bbox": xywh(box),
            "area": float(np.prod(xywh(box)[2:])),
            "iscrowd": int(kind != THING),
        }
        for image, (true, _) in enumerate(frames, 1)
        for box, class_id, kind in zip(true.boxes_xyxy, true.class_ids, true.kinds, strict=True)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(frames) + 1)],
        "categories": [{"id": class_id} for class_id in IDS],
        "annotations": [dict(thing, id=number) for number, thing in enumerate(things, 1)],
    }
    truth.createIndex()
    found = truth.loadRes(
        [
            {
                "image_id": image,
                "category_id": int(class_id),
                "bbox": xywh(box),
                "score": float(score),
            }
            for image, (_, boxes) in enumerate(frames, 1)
            for box, class_id, score in zip(*boxes, strict=True)
        ]
    )
    evaluation = cocoeval.COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    by_class = evaluation.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    return evaluation.stats[:3], by_class


def random_frames(seed, crowded):
    random = np.random.RandomState(seed)
    frames = []
    for _ in range(20):
        count = random.randint(0, 8)
        corners = random.randint(0, 200, (count, 2))
        things = np.hstack([corners, corners + random.randint(5, 60, (count, 2))])
        class_ids = random.choice(IDS[:2], count)
        kinds = random.choice([THING, THING, THING, AREA, LEFT_OUT], count)
        # Boxes around things and areas, several on some; of any class; and some on nothing.
        near = np.repeat(things, random.randint(0, 40 if crowded else 4, count), axis=0)
        near = near + random.randint(-4, 5, near.shape)
        corners = random.randint(0, 200, (random.randint(1, 6), 2))
        other = np.hstack([corners, corners + random.randint(5, 60, corners.shape)])
        found = np.concatenate([near, other])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        scores = random.randint(1, 12, len(found)) / 12  # with equal ones
        frames.append(
            (
                true_boxes(things, class_ids, kinds.tolist()),
                make_boxes(found, random.choice(IDS, len(found), p=[0.4, 0.5, 0.1]), scores),
            )
        )
    return frames


@pytest.mark.parametrize("crowded", [False, True], ids=["few", "over 100 boxes"])
@pytest.mark.parametrize("seed", range(5))
def test_coco_ap_is_that_of_pycocotools(seed, crowded):
    frames = random_frames(seed, crowded)
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, CLASSES)
    for true, boxes in frames:
        scores.add(true, boxes)
    if crowded:
        assert max(len(boxes.scores) for _, boxes in frames) > 100
    figures = scores.as_json()["ap_coco"]
    expected, by_class = pycocotools_of(frames)
    found = [figures["ap"], figures["ap50"], figures["ap75"]]
    assert found == pytest.approx(expected.tolist(), abs=1e-12)
    assert 0.01 < figures["ap"] < 0.9
    assert figures["class_ap"]["truck"] is None and by_class[2] == -1
    for name, value in zip(CLASSES[:2], by_class[:2], strict=True):
        assert figures["class_ap"][name] == pytest.approx(value, abs=1e-12)
