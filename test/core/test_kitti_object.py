"""KITTI's object layout, made tiny in tmp_path, and what an evaluation makes of its boxes."""

import json

import numpy as np
import pytest
from support.core import tiny
from support.core.kitti_object import CALIBRATION, LINES, PROJECTION, write
from support.core.tiny import assert_one_line
from test_pipeline import HandBackend

from segmentation_node.backends import BackendOptions
from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.datasets import open_dataset, open_drive
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.evaluation.report.text import run_text
from segmentation_node.evaluation.run.true_boxes import ANY_CLASS, AREA, LEFT_OUT, THING
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.pipeline import Batch, Segmenter


def ids(*names):
    return list(CITYSCAPES_19.ids_of(names))


def test_boxes_are_read_with_their_kinds_and_the_camera(tmp_path):
    image = tiny.random_image(1, (5, 7))
    write(tmp_path, "000003", image)
    (frame,) = list(open_dataset("kitti_object", str(tmp_path), "train"))
    assert frame.name == "000003" and frame.truth_hw is None and frame.instances_hw is None
    np.testing.assert_array_equal(frame.image_hwc, image)
    boxes = frame.true_boxes
    assert boxes.class_ids.tolist() == ids("car", "car", "person", "rider") + [ANY_CLASS]
    assert boxes.kinds.tolist() == [THING, LEFT_OUT, LEFT_OUT, THING, AREA]
    assert boxes.occlusions.tolist() == [1, 0, 2, 3, 0]
    assert boxes.truncations.tolist() == [0.25, 0.0, 0.0, 0.0, 0.0]
    assert boxes.boxes_xyxy[0].tolist() == pytest.approx([387.63, 181.54, 423.81, 203.12], abs=1e-4)
    assert frame.calibration.projection == tuple(PROJECTION)
    assert (frame.calibration.width, frame.calibration.height) == (7, 5)


def test_check_data_finds_nothing_wrong_with_boxes_that_are_sound(tmp_path, capsys):
    for number in range(2):
        write(tmp_path, "%06d" % number, tiny.random_image(number, (5, 7)))
    report = tmp_path / "check.json"
    words = ["--dataset", "kitti_object", "--root", str(tmp_path), "--json", str(report)]
    assert main(["check-data", *words]) == 0 and not capsys.readouterr().err
    train = json.loads(report.read_text())["splits"]["train"]
    assert train["pictures"] == 2 and train["sizes"] == {"7x5": 2} and train["near_empty"] == []
    found = {name: item["pictures"] for name, item in train["classes"].items() if item["pictures"]}
    assert found == {"car": 2, "rider": 2}  # who sits counts neither way
    assert train["classes"]["car"] == {"pixels": 0, "share": None, "pictures": 2}


def test_an_image_without_things_has_no_boxes(tmp_path):
    write(tmp_path, "000000", tiny.random_image(1), lines="")
    (frame,) = list(open_dataset("kitti_object", str(tmp_path), "training"))
    assert [len(values) for values in frame.true_boxes] == [0] * 5


@pytest.mark.parametrize(
    "line",
    [
        "Lorry 0 0 0 1 1 9 9 1 1 1 1 1 1 1",
        "Car 0 0 0 1 1 9 9",
        "Car 0 0 0 1 one 9 9 1 1 1 1 1 1 1",
        "Car 0 0 0 9 1 9 9 1 1 1 1 1 1 1",
        "Car 0 0 0 1 1 nan 9 1 1 1 1 1 1 1",
        "Car 0 0",
    ],
)
def test_a_line_that_is_no_box_is_named(tmp_path, line):
    write(tmp_path, "000000", tiny.random_image(1), lines=LINES[: LINES.index("\n") + 1] + line)
    dataset = open_dataset("kitti_object", str(tmp_path), "train")
    with pytest.raises(DatasetError) as caught:
        dataset[0]
    assert_one_line(caught, tmp_path / "training/label_2/000000.txt", "line 2", line[:20])


def test_a_camera_that_is_none_is_named_and_the_files_of_it_may_be_missing(tmp_path):
    write(tmp_path, "000000", tiny.random_image(1), calibration="P2: 1 2 3")
    with pytest.raises(DatasetError) as caught:
        open_dataset("kitti_object", str(tmp_path), "train")[0]
    assert_one_line(caught, tmp_path / "training/calib/000000.txt", "P2")
    (tmp_path / "training/calib").rename(tmp_path / "elsewhere")
    assert open_dataset("kitti_object", str(tmp_path), "train")[0].calibration is None


def test_labels_without_their_image_are_named_and_the_rest_is_read(tmp_path):
    write(tmp_path, "000000", tiny.random_image(1))
    (tmp_path / "training/label_2/000001.txt").write_text(LINES)
    (tmp_path / "training/label_2/000002.txt~").write_text(LINES)
    dataset = open_dataset("kitti_object", str(tmp_path), "train")
    assert len(dataset) == 2 and dataset[0].name == "000000"
    with pytest.raises(DatasetError) as caught:
        dataset[1]
    assert_one_line(caught, "image_2/000001.png: no such file", "label_2/000001.txt is there")
    (note,) = dataset.notes
    assert note.endswith("label_2: left out, no files *.txt (1): 000002.txt~")


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path):
    write(tmp_path, "000000", tiny.random_image(1))
    for folder, text in (("label_2", LINES), ("calib", CALIBRATION)):
        path = tmp_path / "training" / folder / "000000.txt"
        path.write_text(text, encoding="utf-8-sig")
    frame = open_dataset("kitti_object", str(tmp_path), "train")[0]
    assert len(frame.true_boxes.kinds) == 5
    assert frame.calibration.projection == tuple(PROJECTION)


def test_as_a_drive_it_has_boxes_and_a_camera_but_no_labels(tmp_path):
    write(tmp_path, "000000", tiny.random_image(1))
    drive = open_drive("kitti_object", str(tmp_path), "")
    assert drive.label_set is None and drive.box_labels is CITYSCAPES_19 and drive.is_calibrated


def test_boxes_of_a_class_map_are_scored_against_it(tmp_path):
    """A network of CamVid's classes; what it calls a pedestrian is a person here."""
    names = CAMVID_11.names
    class_map = np.full((60, 80), names.index("road"), np.uint8)  # ten times the network's 6x8
    class_map[10:60, 10:30] = names.index("car")
    class_map[10:60, 40:50] = names.index("pedestrian")
    class_map[:20, 60:70] = names.index("car")
    end = " 1 1 1 1 1 1 1\n"
    lines = "Car 0 0 0 10 10 30 60" + end + "Pedestrian 0 0 0 40 10 50 48" + end
    lines += "DontCare -1 -1 -10 55 0 75 20 -1 -1 -1 -1000 -1000 -1000 -10\n"
    write(tmp_path, "000000", tiny.paint(class_map), lines)
    card = tiny.card()
    with Segmenter(Batch(HandBackend(card, BackendOptions()))) as segmenter:
        dataset = open_dataset("kitti_object", str(tmp_path), "train")
        result = evaluate_dataset(segmenter, dataset).as_json()
    assert result["frames"] == 1 and result["frames_with_truth"] == 0
    assert result["mean_iou"] is None
    assert result["true_boxes"] == {"car": 1, "person": 1, "rider": 0}
    assert result["stages_ms"]["detections"]["p50"] > 0
    # The person's box is 50 high for 38: IoU 0.76, found at 6 of 10 thresholds. What is found in
    # the area of DontCare is not wrong.
    found = result["ap_coco"]["class_ap"]
    assert found == {"car": pytest.approx(1.0), "person": pytest.approx(0.6), "rider": None}
    assert result["proposal_recall"] == {"0.5": 1.0, "0.7": 1.0}
    assert set(result["ap_kitti"]) == {"car", "person", "rider"}
    text = run_text(result)
    assert "KITTI moderate %" in text and "100.00 % at IoU 0.7" in text
