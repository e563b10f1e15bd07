"""Average precision by cases computed by hand from KITTI's rules; true boxes; recall."""

import numpy as np
import pytest

from segmentation_node.boxes import make_boxes
from segmentation_node.evaluation.frame import ScoredFrame
from segmentation_node.evaluation.run.coco_ap import CocoPrecision
from segmentation_node.evaluation.run.detection_scores import DetectionScores
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.evaluation.run.kitti_ap import DIFFICULTIES, KittiPrecision
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.run.true_boxes import (
    ANY_CLASS,
    AREA,
    LEFT_OUT,
    THING,
    boxes_of_instances,
    inside,
    true_boxes,
)
from segmentation_node.geometry import Geometry
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19

PERSON, RIDER, CAR, TRUCK = 11, 12, 13, 14
THINGS = 80  # so many that recall reaches each of the 40 steps


def square(x, side=50):
    return [x, 0, x + side, side]


def kitti(frames, classes=("car", "person", "rider"), difficulty="easy"):
    """AP by class of (true boxes, boxes) frames, both of Cityscapes' classes."""
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, classes)
    for true, boxes in frames:
        scores.add(true, boxes)
    found = scores.as_json()["ap_kitti"]
    return {name: found[name][difficulty] for name in found}


def found_cars(wrong_scores=(), side=50, **of_true):
    """A frame for each of 80 cars, found with scores from 0.9 down; false boxes beside them."""
    frames = []
    for index in range(THINGS):
        boxes, scores = [square(0, side)], [0.9 - index * 0.001]
        if index < len(wrong_scores):
            boxes.append(square(500, side))
            scores.append(wrong_scores[index])
        true = true_boxes([square(0, side)], [CAR], **of_true)
        frames.append((true, make_boxes(boxes, [CAR] * len(boxes), scores)))
    return frames


def test_every_car_found_is_100_percent():
    assert kitti(found_cars())["car"] == pytest.approx(1.0)


def test_a_false_box_above_all_lowers_every_step():
    # At the step of recall k/80 there are k right ones and one wrong. Later steps are better, and
    # precision is the best from a step on: the last has 80 right ones.
    assert kitti(found_cars([0.99]))["car"] == pytest.approx(80 / 81)


def test_false_boxes_below_all_cost_nothing():
    assert kitti(found_cars([0.1] * THINGS))["car"] == pytest.approx(1.0)


def test_false_boxes_in_the_middle_by_hand():
    # 20 wrong ones are surer than the second half. The program takes as steps the scores of the
    # 1st, 2nd, 4th, 6th ... 80th found, 41 of them; it leaves out the first. Those of the 2nd to
    # the 40th (20 steps) have precision 1, the 20 after that 80 of 100 at best.
    expected = (20 * 1.0 + 20 * 80 / 100) / 40
    assert kitti(found_cars([0.8605] * 20))["car"] == pytest.approx(expected)


def test_half_of_the_cars_missed_is_half_the_recall():
    # The 41 steps are those of recall 0, 1/40 ... 20/40 and of the last: 40 found of 80.
    frames = found_cars()
    nothing = make_boxes([], [], [])
    frames = [(true, boxes if i % 2 else nothing) for i, (true, boxes) in enumerate(frames)]
    assert kitti(frames)["car"] == pytest.approx(20 / 40)


def test_few_things_cannot_reach_100_percent():
    """KITTI's program makes one step for each thing that is found, and leaves out the first."""
    frames = found_cars()[:10]
    assert kitti(frames)["car"] == pytest.approx(9 / 40)
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car", "truck"))
    for true, boxes in frames:
        scores.add(true, boxes)
    (note,) = scores.notes()
    assert "car (10)" in note and "truck" not in note


@pytest.mark.parametrize("class_id, name, least", [(CAR, "car", 70), (PERSON, "person", 50)])
def test_the_overlap_has_to_be_larger_than_that_of_the_class(class_id, name, least):
    def ap(columns):
        frame = (
            true_boxes([[0, 0, 100, 100]], [class_id]),
            make_boxes([[0, 0, columns, 100]], [class_id], [0.5]),
        )
        return kitti([frame] * THINGS)[name]

    # IoU is the share of the columns; what equals the least is too little.
    assert ap(least) == 0.0
    assert ap(least + 1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "side, occlusion, truncation, counts",
    [
        (41, 0, 0.15, "easy moderate hard"),
        (40, 0, 0.0, "moderate hard"),
        (41, 1, 0.0, "moderate hard"),
        (41, 0, 0.3, "moderate hard"),
        (41, 2, 0.0, "hard"),
        (41, 0, 0.5, "hard"),
        (26, 1, 0.3, "moderate hard"),
        (25, 0, 0.0, ""),
        (41, 3, 0.0, ""),
        (41, 0, 0.51, ""),
    ],
)
def test_what_counts_at_which_difficulty(side, occlusion, truncation, counts):
    """A thing that does not count may be found: it is neither right nor wrong."""
    frames = found_cars(side=side, occlusions=[occlusion], truncations=[truncation])
    for difficulty in DIFFICULTIES:
        ap = kitti(frames, difficulty=difficulty)["car"]
        if difficulty in counts.split():
            assert ap == pytest.approx(1.0)
        else:
            assert ap is None
            beside = kitti(frames + found_cars(side=60), difficulty=difficulty)["car"]
            assert beside == pytest.approx(1.0)


def test_a_low_box_that_finds_nothing_is_not_wrong():
    low = (true_boxes([], []), make_boxes([[0, 0, 100, 39.9]], [CAR], [0.99]))
    assert kitti(found_cars() + [low])["car"] == pytest.approx(1.0)
    high = (true_boxes([], []), make_boxes([[0, 0, 100, 40]], [CAR], [0.99]))
    assert kitti(found_cars() + [high])["car"] == pytest.approx(80 / 81)


def test_a_low_box_of_another_class_on_a_thing_takes_its_place():
    """So the benchmark's program has it: the thing is then neither found nor missed."""
    true = true_boxes([[0, 0, 50, 41]], [CAR])
    low = (true, make_boxes([[0, 0, 50, 39]], [PERSON], [0.99]))
    # The thing stays in the denominator of recall: 80 found of 81.
    assert kitti(found_cars() + [low])["car"] == pytest.approx(1.0)
    both = make_boxes([[0, 0, 50, 39], [0, 0, 50, 41]], [PERSON, CAR], [0.99, 0.001])
    assert kitti(found_cars() + [(true, both)])["car"] == pytest.approx(1.0)


def test_a_neighbouring_class_may_be_found():
    van = (true_boxes([square(0)], [CAR], [LEFT_OUT]), make_boxes([square(0)], [CAR], [0.99]))
    assert kitti(found_cars() + [van] * 5)["car"] == pytest.approx(1.0)
    # Once: of two boxes on it one is wrong.
    twice = (van[0], make_boxes([square(0), square(1)], [CAR, CAR], [0.99, 0.98]))
    assert kitti(found_cars() + [twice])["car"] == pytest.approx(80 / 81)


@pytest.mark.parametrize("class_id", [ANY_CLASS, CAR])
def test_in_an_area_no_box_counts(class_id):
    area = true_boxes([[0, 0, 400, 200]], [class_id], [AREA])
    inside = (area, make_boxes([square(0), square(60), square(370)], [CAR] * 3, [0.99] * 3))
    # The third lies in it by 30 of 50 columns, less than 0.7.
    assert kitti(found_cars() + [inside])["car"] == pytest.approx(80 / 81)
    others = (true_boxes([[0, 0, 400, 200]], [PERSON], [AREA]), inside[1])
    assert kitti(found_cars() + [others])["car"] == pytest.approx(80 / 83)


def test_true_boxes_that_are_left_out_count_neither_way():
    left_out_hw = np.zeros((100, 200), np.uint8)
    left_out_hw[:, 50:] = 255
    boxes = [[10, 10, 40, 40], [21, 10, 80, 40], [19, 10, 80, 40], [120, 10, 250, 40]]
    true = true_boxes(boxes, [CAR] * 4, [THING, THING, THING, LEFT_OUT]).outside(left_out_hw)
    assert true.kinds.tolist() == [THING, AREA, THING, AREA]
    assert true.boxes_xyxy.tolist() == boxes


def test_a_second_box_on_a_car_is_wrong():
    true = true_boxes([square(0)], [CAR])
    both = make_boxes([square(2), square(0)], [CAR, CAR], [0.99, 0.95])
    assert kitti(found_cars() + [(true, both)])["car"] == pytest.approx(81 / 82)


def test_another_class_finds_nothing():
    true = true_boxes([square(0)], [CAR])
    frames = [(true, make_boxes([square(0)], [TRUCK], [0.9]))] * THINGS
    assert kitti(frames)["car"] == 0.0
    assert kitti([])["car"] is None


def reference(frames, difficulty, least_iou):
    """The rules again, as slowly as they are written: every threshold, every box, every thing."""
    limits = DIFFICULTIES[difficulty]

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        return max(width, 0) * max(height, 0)

    def size(a):
        return (a[2] - a[0]) * (a[3] - a[1])

    def state(true, i):  # 0 counts, 1 may be found, -1 is none
        if true.kinds[i] == AREA:
            return -1
        height = true.boxes_xyxy[i][3] - true.boxes_xyxy[i][1]
        hidden = true.occlusions[i] > limits.most_occluded
        cut = true.truncations[i] > limits.most_truncated
        excused = hidden or cut or height <= limits.least_height
        return 1 if excused or true.kinds[i] == LEFT_OUT else 0

    def run(true, boxes, is_class, threshold):
        low = [int(b[3] - b[1]) < limits.least_height for b in boxes.boxes_xyxy]
        dead = [not (own or is_low) for own, is_low in zip(is_class, low)]
        taken, right, scores = [False] * len(low), 0, []
        for i in range(len(true.kinds)):
            if state(true, i) == -1:
                continue
            chosen, most = None, 0.0
            for j, box in enumerate(boxes.boxes_xyxy):
                below = threshold is not None and boxes.scores[j] < threshold
                if dead[j] or taken[j] or below:
                    continue
                shared = overlap(box, true.boxes_xyxy[i])
                iou = shared / (size(box) + size(true.boxes_xyxy[i]) - shared)
                if iou <= least_iou:
                    continue
                if threshold is None:
                    if chosen is None or boxes.scores[j] > boxes.scores[chosen]:
                        chosen = j
                elif not low[j] and (iou > most or (chosen is not None and low[chosen])):
                    chosen, most = j, iou
                elif low[j] and chosen is None:
                    chosen = j
            if chosen is not None:
                taken[chosen] = True
                if state(true, i) == 0 and not low[chosen]:
                    right += 1
                    scores.append(boxes.scores[chosen])
        wrong = 0
        for j, box in enumerate(boxes.boxes_xyxy):
            below = threshold is not None and boxes.scores[j] < threshold
            if taken[j] or dead[j] or low[j] or below:
                continue
            stuff = [
                overlap(box, area) / size(box) > least_iou
                for area in true.boxes_xyxy[true.kinds == AREA]
            ]
            wrong += not any(stuff)
        return right, wrong, scores

    things = sum(state(true, i) == 0 for true, _, _ in frames for i in range(len(true.kinds)))
    if not things:
        return float("nan")
    scores = sorted(sum((run(*frame, None)[2] for frame in frames), []), reverse=True)
    steps, recall = [], 0.0
    for i, score in enumerate(scores):
        after = (i + 2) / things if i < len(scores) - 1 else (i + 1) / things
        if i < len(scores) - 1 and after - recall < recall - (i + 1) / things:
            continue
        steps.append(score)
        recall += 1 / 40
    precision = [0.0] * 41
    for i, step in enumerate(steps):
        counts = [run(*frame, step)[:2] for frame in frames]
        right, wrong = np.sum(counts, axis=0)
        precision[i] = right / (right + wrong)
    return sum(max(precision[i:]) for i in range(1, 41)) / 40


@pytest.mark.parametrize("seed", range(6))
def test_random_frames_against_the_rules_written_slowly(seed):
    random = np.random.RandomState(seed)

    def random_boxes(count):
        corners = random.randint(0, 60, (count, 2))
        return np.hstack([corners, corners + random.randint(20, 70, (count, 2))])

    least_iou = (0.5, 0.7)[seed % 2]
    found, frames = KittiPrecision(least_iou), []
    for _ in range(15):
        count = random.randint(0, 6)
        corners = random_boxes(count)
        true = true_boxes(
            corners,
            [CAR] * count,
            random.choice([THING, THING, THING, LEFT_OUT, AREA], count).tolist(),
            random.choice([0, 0, 1, 2, 3], count).tolist(),
            random.choice([0.0, 0.2, 0.4, 0.6], count).tolist(),
        )
        near = corners + random.randint(-6, 7, corners.shape)
        other = random_boxes(random.randint(0, 4))
        positions = np.concatenate([near, near[::2] + 2, other])
        scores = random.randint(1, 20, len(positions)) / 20.0
        boxes = make_boxes(positions, [CAR] * len(positions), scores)
        is_class = random.rand(len(positions)) < 0.8
        found.add(true, boxes, is_class)
        frames.append((true, boxes, is_class.tolist()))
    values = []
    for difficulty in DIFFICULTIES:
        expected = reference(frames, difficulty, least_iou)
        assert found.average(difficulty) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        values.append(expected)
    assert 0 < values[-1] < 1


def test_coco_ap_by_hand():
    """One of two things found with IoU 0.8, and one false box that is surer."""
    coco = CocoPrecision()
    true = true_boxes([[0, 0, 100, 10], [500, 0, 600, 10]], [CAR, CAR])
    coco.add(true, make_boxes([[0, 0, 80, 10], [300, 0, 400, 10]], [CAR, CAR], [0.5, 0.9]))
    found = coco.by_threshold()
    # Precision 1/2 at the recalls 0 to 0.50, 51 of 101; above IoU 0.8 nothing is found.
    assert found[:7] == pytest.approx([0.5 * 51 / 101] * 7)
    assert found[7:].tolist() == [0.0] * 3


def test_classes_are_those_that_both_have_whatever_they_are_called():
    scores = DetectionScores(CAMVID_11, CITYSCAPES_19, ("person", "rider", "car", "truck"))
    assert scores.names == ("person", "rider", "car")
    camvid = ["car", "pedestrian", "bicyclist"]
    assert scores.predicted_ids == CAMVID_11.ids_of(camvid)
    ids = list(CAMVID_11.ids_of(camvid))
    boxes = [square(0), square(100), square(200)]
    scores.add(true_boxes(boxes, [CAR, PERSON, RIDER]), make_boxes(boxes, ids, [0.9, 0.8, 0.7]))
    result = scores.as_json()
    assert result["ap_coco"]["class_ap"] == pytest.approx({"person": 1, "rider": 1, "car": 1})
    assert result["ap_coco"]["ap"] == pytest.approx(1.0)
    assert result["true_boxes"] == {"person": 1, "rider": 1, "car": 1}
    assert "truck" not in result["ap_kitti"]


def test_a_class_without_true_boxes_is_not_in_the_means():
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car", "truck"))
    scores.add(true_boxes([square(0)], [CAR]), make_boxes([square(0)] * 2, [CAR, TRUCK], [1, 1]))
    found = scores.as_json()["ap_coco"]
    assert found["ap"] == pytest.approx(1.0) and found["class_ap"]["truck"] is None


def test_proposal_recall_is_the_share_of_things_that_a_proposal_covers():
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car",))
    true = true_boxes(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]],
        [CAR, CAR, CAR, CAR, TRUCK],
        [THING, THING, THING, AREA, THING],
    )
    proposals = [[0, 0, 10, 7], [20, 0, 30, 5], [40, 0, 50, 4], [60, 0, 70, 10], [80, 0, 90, 10]]
    scores.add(true, make_boxes([], [], []), np.array(proposals, np.float32))
    assert scores.as_json()["proposal_recall"] == pytest.approx({"0.5": 2 / 3, "0.7": 1 / 3})
    scores.add(true, make_boxes(proposals[:1], [CAR], [0.5]))
    assert scores.as_json()["proposal_recall"] == pytest.approx({"0.5": 3 / 6, "0.7": 2 / 6})
    empty = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car",)).as_json()
    assert empty["proposal_recall"] == {"0.5": None, "0.7": None}
    assert empty["ap_coco"]["ap"] is None


def test_boxes_of_instances_and_of_what_has_no_number():
    random = np.random.RandomState(4)
    truth = random.choice([0, CAR, PERSON], (20, 30)).astype(np.uint8)
    numbers = random.randint(0, 4, truth.shape)
    numbers[truth == 0] = 0
    instances = instance_ids(truth, numbers)
    instances[5:8, 3:9], truth[5:8, 3:9] = 0, TRUCK
    instances[12, 4], truth[12, 4] = 0, TRUCK
    found = boxes_of_instances(instances, truth, (CAR, TRUCK))
    things = found.take(found.kinds == THING)
    expected = set()
    for number in (1, 2, 3):
        rows, columns = np.nonzero((truth == CAR) & (numbers == number))
        expected.add((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    assert {tuple(box) for box in things.boxes_xyxy.astype(int)} == expected
    assert things.class_ids.tolist() == [CAR] * 3
    areas = found.take(found.kinds == AREA)
    trucks = areas.take(areas.class_ids == TRUCK).boxes_xyxy.tolist()
    assert sorted(trucks) == [[3, 5, 9, 8], [4, 12, 5, 13]]
    assert set(areas.class_ids.tolist()) == {CAR, TRUCK}
    dtypes = [np.float32, np.int64, np.uint8, np.int64, np.float64]
    assert [values.dtype for values in found] == dtypes


def test_a_frame_without_instances_has_no_boxes():
    empty = np.zeros((4, 5), np.int32)
    found = boxes_of_instances(empty, np.zeros((4, 5), np.uint8), (CAR,))
    assert [len(values) for values in found] == [0] * 5


@pytest.mark.parametrize("roi, cars", [((), 2), ((0, 0, 20, 40), 1)])
def test_a_run_scores_the_boxes_of_instances_that_its_geometry_leaves(roi, cars):
    truth = np.zeros((40, 40), np.uint8)
    numbers = np.zeros(truth.shape, int)
    truth[5:15, 2:12], numbers[5:15, 2:12] = CAR, 1
    truth[5:15, 25:38], numbers[5:15, 25:38] = CAR, 2
    truth[30:35, 5:15] = CAR  # a group: found or not, it counts neither way
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car",))
    run = Run(CITYSCAPES_19, CITYSCAPES_19, {}, ["car"], geometry=Geometry(roi), boxes=scores)
    assert run.detected == (CAR,)
    run.add(ScoredFrame("a", truth, truth_hw=truth, instances_hw=instance_ids(truth, numbers)))
    result = run.as_json()
    assert result["true_boxes"] == {"car": cars}
    assert result["ap_coco"]["ap"] == pytest.approx(1.0)
    assert any("ap_kitti" in note for note in result["notes"])


def test_a_box_that_a_roi_cuts_is_what_is_left_of_it():
    boxes = true_boxes([[0, 0, 10, 10], [8, 4, 30, 20], [30, 0, 40, 10]], [CAR] * 3)
    found = inside(boxes, (5, 2, 20, 10))
    assert found.boxes_xyxy.tolist() == [[5, 2, 10, 10], [8, 4, 25, 12]]
    assert inside(boxes, ()) is boxes
