"""iIoU against cases counted by hand, and what an evaluation makes of it."""

import math

import numpy as np
import pytest

from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.evaluation.run.instances import (
    AVERAGE_SIZE_PX,
    InstanceWeightedCounts,
    instance_ids,
)
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19

ROAD, PERSON, RIDER, CAR, TRUCK, BICYCLE, VOID = 0, 11, 12, 13, 14, 18, 255
CLASSES = tuple(AVERAGE_SIZE_PX)
CAR_PX, PERSON_PX = AVERAGE_SIZE_PX["car"], AVERAGE_SIZE_PX["person"]

# Two cars of 4 and 1 pixels, a car pixel of a group, a person of 2 pixels, road, void.
TRUTH = np.array([[CAR, CAR, CAR, CAR, CAR], [CAR, PERSON, PERSON, ROAD, VOID]], np.uint8)
NUMBERS = np.array([[1, 1, 1, 1, 2], [0, 1, 1, 0, 0]])
# Of the large car 3 are hit and 1 is a truck; the small one is missed; a person pixel is a rider;
# the road is a car (one false positive); the void's prediction counts for nothing.
PREDICTED = np.array([[CAR, CAR, CAR, TRUCK, ROAD], [CAR, PERSON, RIDER, CAR, CAR]], np.uint8)
INSTANCES = instance_ids(TRUTH, NUMBERS)


def evaluated(predicted_set=CITYSCAPES_19, predicted=PREDICTED, classes=CLASSES):
    evaluation = Accuracy(predicted_set, CITYSCAPES_19, classes)
    evaluation.add(TRUTH, predicted, INSTANCES)
    return evaluation


def test_average_sizes_are_those_of_the_human_and_vehicle_classes():
    grouped = {c.name for c in CITYSCAPES_19.classes if c.category in ("human", "vehicle")}
    assert set(AVERAGE_SIZE_PX) == grouped
    rounded = {name: round(size) for name, size in AVERAGE_SIZE_PX.items()}
    assert rounded == {
        "car": 12794, "person": 3462, "rider": 3930, "bicycle": 4672,
        "motorcycle": 6299, "truck": 27855, "bus": 35732, "train": 67584,
    }  # fmt: skip


def test_instance_ids_hold_class_and_number():
    ids = instance_ids(np.array([PERSON, CAR, CAR, VOID], np.uint8), np.array([65535, 1, 0, 7]))
    assert ids.tolist() == [11 * 65536 + 65535, 13 * 65536 + 1, 0, 0]
    assert ids.dtype == np.int32


def test_every_car_weighs_the_same():
    # 3/4 of one car and nothing of the other, each worth the average size; one false positive.
    scores = evaluated().class_iiou()
    assert scores["car"] == pytest.approx(0.75 * CAR_PX / (2 * CAR_PX + 1), rel=1e-12)


def test_a_person_half_hit():
    scores = evaluated().class_iiou()
    assert scores["person"] == pytest.approx(0.5, rel=1e-12)


def test_a_class_that_is_only_predicted_scores_zero_and_an_absent_one_is_undefined():
    scores = evaluated().class_iiou()
    assert set(scores) == set(CLASSES)
    assert scores["truck"] == 0.0 and scores["rider"] == 0.0
    assert scores["bus"] is None and scores["bicycle"] is None


def test_categories_forgive_what_stays_inside_them():
    # The truck pixel is a vehicle, the rider pixel is human; the small car is still missed.
    scores = evaluated().category_iiou()
    assert set(scores) == {"human", "vehicle"}
    assert scores["human"] == pytest.approx(1.0)
    assert scores["vehicle"] == pytest.approx(CAR_PX / (2 * CAR_PX + 1), rel=1e-12)


def test_a_category_keeps_its_classes_own_weights():
    # A bicycle of one pixel that is missed beside a car of one pixel that is hit.
    truth, numbers = np.array([[CAR, BICYCLE]], np.uint8), np.array([[1, 1]])
    evaluation = Accuracy(CITYSCAPES_19, CITYSCAPES_19, CLASSES)
    evaluation.add(truth, np.array([[CAR, ROAD]], np.uint8), instance_ids(truth, numbers))
    expected = CAR_PX / (CAR_PX + AVERAGE_SIZE_PX["bicycle"])
    assert evaluation.category_iiou()["vehicle"] == pytest.approx(expected, rel=1e-12)


def test_an_unlabelled_prediction_is_a_miss():
    evaluation = evaluated(predicted=np.full_like(PREDICTED, VOID))
    assert evaluation.class_iiou()["car"] == 0.0
    assert evaluation.category_iiou()["vehicle"] == 0.0


def test_images_add_up():
    evaluation = evaluated()
    evaluation.add(TRUTH, TRUTH, INSTANCES)
    expected = (0.75 + 2) * CAR_PX / (4 * CAR_PX + 1)
    assert evaluation.class_iiou()["car"] == pytest.approx(expected, rel=1e-12)
    assert evaluation.frames == 2


def test_an_image_without_instances_adds_nothing():
    counts = InstanceWeightedCounts(CITYSCAPES_19, CITYSCAPES_19, CLASSES)
    counts.add(np.zeros((2, 3), np.int32), np.full((2, 3), CAR, np.uint8))
    evaluation = Accuracy(CITYSCAPES_19, CITYSCAPES_19)
    assert all(math.isnan(score) for score in counts.class_iiou(evaluation.matrix).values())


def test_a_category_needs_the_instances_of_all_its_classes():
    # KITTI-STEP numbers persons and cars, but neither riders nor trucks.
    evaluation = evaluated(classes=("person", "car"))
    assert set(evaluation.class_iiou()) == {"person", "car"}
    assert evaluation.category_iiou() == {}
    result = evaluation.as_json()
    assert result["mean_category_iiou"] is None and result["mean_class_iiou"] is not None


def test_another_label_set_is_scored_by_category():
    # CamVid's car is 8, its pedestrian 9, its road 3.
    predicted = np.array([[8, 8, 8, 3, 3], [8, 9, 9, 8, 8]], np.uint8)
    evaluation = evaluated(CAMVID_11, predicted)
    assert evaluation.class_iiou() == {}
    assert evaluation.category_iiou()["human"] == pytest.approx(1.0)
    expected = 0.75 * CAR_PX / (2 * CAR_PX + 1)
    assert evaluation.category_iiou()["vehicle"] == pytest.approx(expected, rel=1e-12)
    assert evaluation.category_iou() == evaluation.class_iou()


def test_category_iou_by_hand():
    # Vehicles: 6 true, 5 of them hit, 1 false; humans: 2 of 2; flat: the road is lost, 1 false.
    scores = evaluated().category_iou()
    assert scores["vehicle"] == pytest.approx(5 / 7) and scores["human"] == 1.0
    assert scores["flat"] == 0.0 and scores["sky"] is None
    result = evaluated().as_json()
    assert result["mean_category_iou"] == pytest.approx((5 / 7 + 1 + 0) / 3)
    assert result["category_iou"] == scores


def test_the_json_keeps_its_keys_without_instances():
    evaluation = Accuracy(CITYSCAPES_19, CITYSCAPES_19)
    evaluation.add(TRUTH, PREDICTED)
    result = evaluation.as_json()
    assert {"mean_iou", "class_iou", "global_accuracy", "frames"} <= set(result)
    assert result["class_iiou"] == {} and result["mean_class_iiou"] is None
    assert result["category_iiou"] == {} and result["mean_category_iiou"] is None
