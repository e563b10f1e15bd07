"""A run of frames with and without truth, against figures counted by hand."""

import json
import os
import re

import numpy as np
import pytest
from support.core.real_data import PROJECT
from support.core.tiny import assert_one_line

from segmentation_node.errors import DatasetError, LabelsError
from segmentation_node.evaluation.frame import Lost, Problem, ScoredFrame
from segmentation_node.evaluation.report import text as report
from segmentation_node.evaluation.report.page import run_page
from segmentation_node.evaluation.run.best_and_worst import Examples, reduced
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.evaluation.run.run import Run
from segmentation_node.geometry import Geometry
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19, LABEL_SETS, Grouping

SKY, BUILDING, ROAD, VOID = 0, 1, 3, 255
SOURCE = {"model": "some model", "dataset": "some data"}


def class_map(*rows):
    return np.array(rows, np.uint8)


TRUTH = class_map([SKY, SKY, SKY, SKY], [ROAD, ROAD, ROAD, VOID])
# 3 of 4 sky pixels and all road pixels are right; one sky pixel is seen as road.
SEEN = class_map([SKY, SKY, SKY, ROAD], [ROAD, ROAD, ROAD, ROAD])


def new_run(truth=CAMVID_11):
    return Run(CAMVID_11, truth, SOURCE)


def test_what_a_geometry_leaves_out_counts_nowhere():
    # The left column and the wrong sky pixel at the top right are left out.
    ignored = np.uint8(255) * class_map([0, 0, 0, 1], [0, 0, 0, 0])
    geometry = Geometry((1, 0, 3, 2), 180, ignored, "hood.png")
    run = Run(CAMVID_11, CAMVID_11, SOURCE, geometry=geometry)
    for number in (1, 2):
        run.add(ScoredFrame("a", SEEN, truth_hw=TRUTH, position=("", number)))
    run.finish()
    result = run.as_json()
    assert result["class_iou"]["sky"] == 1.0 and result["class_iou"]["road"] == 1.0
    assert np.sum(result["confusion_matrix"]["pixels"]) == 2 * 4
    assert result["temporal_consistency"]["pixels"] == 8 - 3
    assert "unlabelled" not in result["temporal_consistency"]["class_changed_share"]
    assert result["source"]["roi"] == [1, 0, 3, 2] and result["source"]["rotation"] == 180
    assert result["source"]["ignore_mask"] == "hood.png"


def test_instances_that_a_geometry_leaves_out_count_nowhere():
    kitti = LABEL_SETS["cityscapes19"]
    car = kitti.names.index("car")
    truth = class_map([car, car, car, car])
    ids = instance_ids(truth, np.array([[1, 1, 2, 2]]))
    run = Run(kitti, kitti, SOURCE, ["car"], geometry=Geometry((0, 0, 2, 1)))
    run.add(ScoredFrame("a", class_map([car, car, 0, 0]), truth_hw=truth, instances_hw=ids))
    assert run.as_json()["class_iiou"]["car"] == 1.0


@pytest.mark.parametrize("geometry", [Geometry((0, 0, 5, 1)), Geometry(ignored=class_map([0, 1]))])
def test_a_frame_that_has_not_the_geometrys_size_is_named(geometry):
    run = Run(CAMVID_11, CAMVID_11, SOURCE, geometry=geometry)
    with pytest.raises(DatasetError) as caught:
        run.add(ScoredFrame("third.png", SEEN, truth_hw=TRUTH))
    assert_one_line(caught, "third.png: the image is 4x2")
    assert run.accuracy.frames == 0


def test_a_frame_is_counted_by_hand():
    run = new_run()
    run.add(ScoredFrame("a", SEEN, truth_hw=TRUTH, stamp_ns=5, stages_ms={"inference": 4.0}))
    run.finish()
    result = run.as_json()
    assert result["class_iou"]["sky"] == 3 / 4.0 and result["class_iou"]["road"] == 3 / 4.0
    assert result["mean_iou"] == 0.75 and result["global_accuracy"] == 6 / 7.0
    assert result["frequency_weighted_iou"] == pytest.approx(0.75)
    assert result["class_accuracy"]["sky"] == 0.75 and result["class_accuracy"]["road"] == 1.0
    assert result["confusion_matrix"]["pixels"][SKY][ROAD] == 1
    assert result["confusion_matrix"]["pixels"][ROAD][ROAD] == 3
    assert (result["frames"], result["frames_with_truth"]) == (1, 1)
    assert result["stages_ms"] == {"inference": {"p50": 4.0, "p95": 4.0, "p99": 4.0}}
    assert not result["partial"] and result["skipped"] == [] and result["lost"] == []
    (row,) = result["per_frame"]
    assert row.pop("done_s") >= 0.0
    assert row == {
        "name": "a",
        "stamp_ns": 5,
        "mean_iou": 0.75,
        "global_accuracy": 6 / 7.0,
        "inference_ms": 4.0,
    }


def test_what_was_run_stands_in_the_first_level_and_in_the_source():
    result = new_run().as_json()
    assert result["model"] == "some model" and result["dataset"] == "some data"
    assert result["source"] == SOURCE


def test_without_truth_accuracy_is_null_and_the_report_says_why():
    run = new_run(truth=None)
    run.add(ScoredFrame("a", SEEN, position=("", 0)))
    run.add(ScoredFrame("b", TRUTH, position=("", 1)))
    result = run.as_json()
    assert result["mean_iou"] is None and result["global_accuracy"] is None
    assert set(result["class_iou"].values()) == {None}
    assert result["frames"] == 2 and result["frames_with_truth"] == 0
    assert result["notes"] == ["no ground truth: accuracy was not measured"]
    assert result["temporal_consistency"]["changed_share"] == 2 / 8.0
    assert "IoU" not in report.run_text(result)


def test_ids_that_are_no_class_are_told_without_truth_too():
    foreign = class_map([SKY, 42, VOID, ROAD])
    for grouping in (None, Grouping("two", {"up": ("sky",), "rest": ("*",)})):
        run = Run(CAMVID_11, None, SOURCE, grouping=grouping)
        run.add(ScoredFrame("a", SEEN, position=("", 0)))
        with pytest.raises(DatasetError, match="b: prediction holds id 42; expected 0-10 or"):
            run.add(ScoredFrame("b", foreign, position=("", 1)))
        run.add(ScoredFrame("c", SEEN, position=("", 2)))
        result = run.as_json()
        assert [row["name"] for row in result["per_frame"]] == ["a", "c"]
        assert result["temporal_consistency"]["frame_pairs"] == 0


def test_where_no_frame_has_truth_none_is_said_to():
    run = new_run()
    run.add(ScoredFrame("a", SEEN))
    assert run.notes() == ["no ground truth beside the class maps: accuracy was not measured"]


def test_frames_without_truth_are_counted_apart():
    run = new_run()
    run.add(ScoredFrame("a", SEEN, truth_hw=TRUTH))
    run.add(ScoredFrame("b", SEEN))
    result = run.as_json()
    assert (result["frames"], result["frames_with_truth"]) == (2, 1)
    assert result["mean_iou"] == 0.75
    assert any("1 of 2 frames have no ground truth" in note for note in result["notes"])


def test_label_sets_that_differ_are_said_to():
    run = Run(CAMVID_11, CITYSCAPES_19, SOURCE)
    run.add(ScoredFrame("a", class_map([SKY, ROAD]), truth_hw=class_map([10, 0])))
    result = run.as_json()
    assert result["level"] == "category" and result["mean_iou"] == 1.0
    (note,) = [note for note in result["notes"] if "label sets differ" in note]
    assert "camvid11" in note and "cityscapes19" in note and "7 categories" in note
    assert note in report.run_text(result)


WAYS = Grouping("ways", {"way": ("road", "pavement", "sidewalk"), "rest": ("*",)})


@pytest.mark.parametrize("truth", [CAMVID_11, CITYSCAPES_19], ids=lambda labels: labels.name)
@pytest.mark.parametrize("is_folded", [False, True])
def test_with_a_grouping_the_groups_are_scored(truth, is_folded):
    """Whatever the label sets; also where the class maps hold the groups already."""
    predicted, seen_hw = CAMVID_11, SEEN
    if is_folded:
        predicted, lut = WAYS.fold(CAMVID_11)
        seen_hw = lut[SEEN]
    truth_hw = TRUTH.copy()
    truth_hw[TRUTH == SKY] = truth.names.index("sky")
    truth_hw[TRUTH == ROAD] = truth.names.index("road")
    run = Run(predicted, truth, SOURCE, ["car"], WAYS)
    run.add(ScoredFrame("a", seen_hw, truth_hw=truth_hw))
    result = run.as_json()
    assert result["class_iou"] == {"way": 0.75, "rest": 0.75} and result["level"] == "class"
    assert result["class_iiou"] == {} and not any("category" in key for key in result)
    assert result["source"]["grouping"] == "ways"
    unused = [note for note in result["notes"] if "sidewalk" in note]
    assert bool(unused) == (truth is CAMVID_11)
    assert "category" not in report.run_text(result)
    assert "category" not in run_page(run, result)
    wrong = np.full_like(seen_hw, 200)
    with pytest.raises(DatasetError):
        run.add(ScoredFrame("b", wrong, truth_hw=truth_hw))


def test_classes_that_cannot_be_compared_name_the_way_out():
    with pytest.raises(LabelsError) as caught:
        Run(CAMVID_11, LABEL_SETS["voc21"], SOURCE)
    assert_one_line(caught, "camvid11", "voc21", "--grouping")


@pytest.mark.parametrize(
    "labels, truth, fragments",
    [
        (CAMVID_11, TRUTH[:1], ("(1, 4)", "(2, 4)")),
        (CAMVID_11, TRUTH + 11, ("truth", "id 14; expected 0-10")),
        # On the level of categories too: 26 is a car's id in Cityscapes' files.
        (CITYSCAPES_19, TRUTH + 23, ("truth", "id 26; expected 0-18")),
    ],
    ids=["size", "ids", "categories"],
)
def test_a_truth_that_does_not_fit_is_named_and_counts_nothing(labels, truth, fragments):
    run = new_run(labels)
    with pytest.raises(DatasetError) as caught:
        run.add(ScoredFrame("frame 12", SEEN, truth_hw=truth))
    assert_one_line(caught, "frame 12: ", *fragments)
    result = run.as_json()
    assert result["frames"] == result["frames_with_truth"] == 0
    assert not np.any(result["confusion_matrix"]["pixels"])


def test_skipped_and_lost_frames_are_named_everywhere():
    run = new_run()
    run.add(ScoredFrame("a", SEEN, truth_hw=TRUTH))
    run.leave_out(Problem("b", "b.png: not a readable image"))
    run.leave_out(Lost("c", "stamp 12: no class map came back"))
    run.finish(partial=True)
    result = run.as_json()
    assert result["partial"]
    assert result["skipped"] == [{"name": "b", "reason": "b.png: not a readable image"}]
    assert result["lost"] == [{"name": "c", "reason": "stamp 12: no class map came back"}]
    text = report.run_text(result)
    for words in ("b.png: not a readable image", "stamp 12", "partial: ", "1 of 3 frames"):
        assert words in text


def test_an_empty_run_is_valid_json(tmp_path):
    run = new_run()
    run.add(ScoredFrame("void", SEEN, truth_hw=np.full_like(SEEN, VOID), stages_ms={"x": np.nan}))
    path = tmp_path / "new" / "result.json"
    report.write_json(str(path), run.as_json())

    def refuse(constant):
        raise AssertionError("%s is no JSON" % constant)

    result = json.loads(path.read_text(), parse_constant=refuse)
    assert result["mean_iou"] is None and result["per_frame"][0]["x_ms"] is None


def test_every_key_is_documented():
    with open(os.path.join(PROJECT, "docs", "evaluation.md")) as text:
        documented = set(re.findall("`([a-z_0-9]+)`", text.read()))
    run = new_run()
    run.add(ScoredFrame("a", SEEN, truth_hw=TRUTH, position=("", 0), confidence_hw=SEEN))
    run.add(ScoredFrame("b", SEEN, truth_hw=TRUTH, position=("", 1)))
    result = run.as_json()
    assert set(result) <= documented
    assert set(result["calibration"]) <= documented
    assert set(result["per_frame"][1]) <= documented
    assert set(result["temporal_consistency"]) <= documented


def test_intervals_come_from_when_results_were_there():
    run = new_run(truth=None)
    for index, done_s in enumerate([10.0, 10.1, 10.2, 10.4]):
        run.add(ScoredFrame(str(index), SEEN, done_s=done_s))
    result = run.as_json()
    assert result["rate_hz"] == pytest.approx(3 / 0.4)
    assert result["jitter_ms"]["p50"] == pytest.approx(50.0)


def offered(scores, count):
    examples = Examples(count)
    for index, score in enumerate(scores):
        examples.offer(str(index), score, None, np.zeros((2, 3), np.uint8))
    return examples


def test_the_frames_of_the_highest_and_lowest_scores_are_kept():
    examples = offered([0.5, 0.1, 0.9, 0.3, 0.7, 0.8, 0.2], 2)
    assert [example.name for example in examples.highest()] == ["2", "5"]
    assert [example.name for example in examples.lowest()] == ["1", "6"]


def test_few_frames_are_shown_once_each():
    examples = offered([0.5, 0.1, 0.9], 4)
    assert [example.name for example in examples.lowest() + examples.highest()] == ["1", "2", "0"]


def test_only_frames_that_are_shown_keep_their_pictures():
    examples = offered([(index * 7919 % 1000) / 1000.0 for index in range(1000)], 3)
    assert len(examples._kept) == 6


def test_pictures_are_copies_of_bounded_size():
    image = np.zeros((1024, 2048, 3), np.uint8)
    assert reduced(image).shape == (320, 640, 3)
    classes = np.tile(np.array([[3, 250]], np.uint8), (500, 500))
    assert set(np.unique(reduced(classes)).tolist()) <= {3, 250}
    small = np.zeros((4, 5), np.uint8)
    copy = reduced(small)
    small[:] = 9
    assert copy.shape == (4, 5) and not copy.any()
