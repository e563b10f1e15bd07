"""Boxes in bags: true ones that make-bag records, found ones that a node published."""

import importlib.util
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from core.test_dataset_layouts import LAYOUTS
from support import drives, linear_model
from support.core import kitti_object, tiny
from support.linear_model import write_model
from test_bag_format import type_hash

from segmentation_node.boxes import make_boxes
from segmentation_node.errors import ImageError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.bags import messages, open_bag
from segmentation_node.evaluation.bags.box_messages import (
    boxes_of,
    true_boxes_message,
    true_boxes_of,
)
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.evaluation.run.true_boxes import ANY_CLASS, AREA, LEFT_OUT, THING, true_boxes
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19

TRUE_BOXES = "/ground_truth/detections"
FIGURES = ("ap_kitti", "ap_coco", "proposal_recall", "true_boxes", "mean_iou", "frames")
TRUE = true_boxes(
    [[1.5, 2, 30.25, 44], [0, 0, 5, 6], [7, 8, 9, 10], [40, 0, 60, 20]],
    CITYSCAPES_19.ids_of(["car", "person", "rider"]) + (ANY_CLASS,),
    [THING, LEFT_OUT, THING, AREA],
    [1, 0, 3, 0],
    [0.25, 0.0, 0.5, 0.0],
)
FOUND = make_boxes(
    [[1.5, 2, 30.25, 44], [0, 0, 5, 6]], CITYSCAPES_19.ids_of(["car", "truck"]), [0.5, 0.75]
)


def boxes_message(boxes, labels, stamp_ns, frame_id):
    """Boxes as the node publishes them, serialised."""
    plain = true_boxes(boxes.boxes_xyxy.tolist(), boxes.class_ids.tolist())
    data = true_boxes_message(plain, labels, stamp_ns, frame_id)
    message = messages.deserialize(data, messages.DETECTIONS)
    for item, score in zip(message.detections, boxes.scores.tolist()):
        item.results[0].hypothesis.score = score
    return messages.serialize(message, messages.DETECTIONS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), (48, 64), "cityscapes19")


def evaluate(path, *words):
    result = drives.evaluate(path, *words)
    return {name: result[name] for name in FIGURES}


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_boxes_come_back_as_they_were_written():
    same(true_boxes_of(true_boxes_message(TRUE, CITYSCAPES_19, 5, "c"), CITYSCAPES_19), TRUE)
    same(boxes_of(boxes_message(FOUND, CITYSCAPES_19, 5, "c"), CITYSCAPES_19), FOUND)
    data = true_boxes_message(TRUE, CITYSCAPES_19, 7 * 10**9 + 8, "mast")
    assert messages.header_of(data) == (7 * 10**9 + 8, "mast")


def test_classes_that_the_label_set_lacks_are_left_out():
    """CamVid's has cars, but neither persons nor riders by these names."""
    found = true_boxes_of(true_boxes_message(TRUE, CITYSCAPES_19, 5, "c"), CAMVID_11)
    assert found.class_ids.tolist() == [CAMVID_11.names.index("car"), ANY_CLASS]
    found = boxes_of(boxes_message(FOUND, CITYSCAPES_19, 5, "c"), CAMVID_11)
    assert found.class_ids.tolist() == [CAMVID_11.names.index("car")]


def test_what_is_no_box_is_refused():
    good = true_boxes_message(TRUE, CITYSCAPES_19, 5, "c")
    broken = [good[:60], good.replace(b"kind=left_out", b"kind=left-out")]
    broken.append(good.replace(b"occlusion=3", b"occlusion=?"))
    broken.append(
        true_boxes_message(
            TRUE._replace(boxes_xyxy=TRUE.boxes_xyxy + np.inf), CITYSCAPES_19, 5, "c"
        )
    )
    for data in broken:
        assert data != good
        with pytest.raises(ImageError):
            true_boxes_of(data, CITYSCAPES_19)


@pytest.mark.parametrize("name", ["cityscapes", "kitti_semantics", "kitti_step"])
def test_a_bag_scores_boxes_as_the_data_set_that_it_was_made_of(name, model, tmp_path):
    layout = LAYOUTS[name]
    layout.write(tmp_path / "data")
    words = ("--dataset", layout.dataset, "--root", tmp_path / "data", "--split", layout.split)
    expected = evaluate(tmp_path / "a.json", "dataset", "--model", model, *words)
    bag = drives.record(
        tmp_path / "bag", layout.dataset, tmp_path / "data", "--split", layout.split, "--boxes"
    )
    found = evaluate(tmp_path / "b.json", "bag", bag, "--model", model)
    # The bag does not say which classes its data has boxes of.
    counts = found.pop("true_boxes")
    assert {key: count for key, count in counts.items() if count} == {
        key: count for key, count in expected.pop("true_boxes").items() if count
    }
    assert sum(counts.values()) >= 3
    for result in (found, expected):
        result["ap_coco"]["class_ap"] = {
            key: value for key, value in result["ap_coco"]["class_ap"].items() if counts[key]
        }
        result["ap_kitti"] = {
            key: value for key, value in result["ap_kitti"].items() if counts[key]
        }
    assert found == expected


def test_boxes_of_the_true_class_map_may_be_scored(tmp_path):
    layout = LAYOUTS["cityscapes"]
    layout.write(tmp_path / "data")
    bag = drives.record(
        tmp_path / "bag", "cityscapes", tmp_path / "data", "--split", layout.split, "--boxes"
    )
    found = evaluate(tmp_path / "a.json", "bag", bag, "--prediction-topic", "/ground_truth")
    assert sum(found["true_boxes"].values()) >= 3 and found["mean_iou"] is None


def test_without_being_asked_no_boxes_are_recorded(tmp_path):
    layout = LAYOUTS["cityscapes"]
    layout.write(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "cityscapes", tmp_path / "data", "--split", layout.split)
    with open_bag(str(bag)) as opened:
        assert TRUE_BOXES not in [topic.name for topic in opened.topics]


def test_kitti_object_is_recorded_with_cameras_and_without_labels(model, tmp_path):
    for key in ("000000", "000001"):
        kitti_object.write(tmp_path / "data", key, tiny.random_image(int(key), (48, 64)))
    words = ("--dataset", "kitti_object", "--root", tmp_path / "data", "--split", "train")
    expected = evaluate(tmp_path / "a.json", "dataset", "--model", model, *words)
    assert expected["true_boxes"] == {"car": 2, "person": 0, "rider": 2, "truck": 0, "train": 0}
    bag = drives.record(tmp_path / "bag", "kitti_object", tmp_path / "data", "--split", "train")
    with open_bag(str(bag), strict=True) as opened:
        counts = {topic.name: topic.count for topic in opened.topics}
        (first, _) = list(opened.frames())
    assert counts == {
        "/camera/image_raw": 2, "/camera/camera_info": 2,
        TRUE_BOXES: 2, "/ground_truth/label_info": 1,
    }  # fmt: skip
    assert first.truth_hw is None
    assert first.true_boxes.kinds.tolist() == [THING, LEFT_OUT, LEFT_OUT, THING, AREA]
    found = evaluate(tmp_path / "b.json", "bag", bag, "--model", model)
    assert found["ap_coco"]["ap"] == expected["ap_coco"]["ap"]
    assert found["true_boxes"]["car"] == found["true_boxes"]["rider"] == 2


def record_found(path, boxes):
    """A bag of one frame as a recorder leaves it: class map, true boxes, boxes of the node."""
    class_map = np.zeros((48, 64), np.uint8)
    labels = messages.label_info(CITYSCAPES_19, "test", 1)
    with BagWriter(str(path)) as writer:
        for name in ("/segmentation_node/class_map", "/ground_truth"):
            writer.add_topic(name, messages.IMAGE)
            writer.write(name, 9, messages.raw_image(class_map, 9, "c"))
        for name in ("/segmentation_node/label_info", "/ground_truth/label_info"):
            writer.add_topic(name, messages.LABEL_INFO, latched=True)
            writer.write(name, 9, labels)
        writer.add_topic(TRUE_BOXES, messages.DETECTIONS)
        writer.write(TRUE_BOXES, 9, true_boxes_message(TRUE, CITYSCAPES_19, 9, "c"))
        if boxes is not None:
            writer.add_topic("/segmentation_node/detections", messages.DETECTIONS)
            writer.write("/segmentation_node/detections", 9, boxes)
    return path


def test_boxes_that_a_node_published_are_scored_as_they_were_recorded(tmp_path):
    data = boxes_message(FOUND, CITYSCAPES_19, 9, "c")
    found = evaluate(tmp_path / "a.json", "bag", record_found(tmp_path / "bag", data))
    assert found["ap_coco"]["class_ap"]["car"] == pytest.approx(1.0)
    assert found["ap_coco"]["class_ap"]["rider"] == 0.0
    assert found["true_boxes"]["car"] == 1
    # Without them those of the class map count; all of it is road here.
    found = evaluate(tmp_path / "b.json", "bag", record_found(tmp_path / "plain", None))
    assert found["ap_coco"]["class_ap"]["car"] == 0.0


def test_recorded_boxes_count_where_the_geometry_looks(tmp_path):
    """A surer car that is none lies left of the roi, or under the mask."""
    cars = CITYSCAPES_19.ids_of(["car", "car"])
    boxes = make_boxes([[8, 2, 30.25, 44], [0, 0, 5, 6]], cars, [0.5, 0.75])
    bag = record_found(tmp_path / "bag", boxes_message(boxes, CITYSCAPES_19, 9, "c"))
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :6] = 255
    drives.write(tmp_path / "mask.png", mask)
    # The true car, cut by the roi, is overlapped by 22.25 / 24.25, whole by 22.25 / 28.75.
    ways = (["--roi", 6, 0, 58, 48], 0.9), (["--ignore-mask", tmp_path / "mask.png"], 0.6)
    for geometry, precision in ways:
        found = evaluate(tmp_path / "a.json", "bag", bag, *geometry)
        assert found["ap_coco"]["class_ap"]["car"] == pytest.approx(precision)


def test_boxes_that_cannot_be_read_are_named(tmp_path, capsys):
    bag = record_found(tmp_path / "bag", boxes_message(FOUND, CITYSCAPES_19, 9, "c")[:50])
    evaluate(tmp_path / "a.json", "bag", bag)
    assert "/segmentation_node/detections" in capsys.readouterr().err
    assert main(["bag", str(bag), "--strict"]) == 1


needs_vision_msgs = pytest.mark.skipif(
    importlib.util.find_spec("vision_msgs") is None,
    reason="BOX MESSAGES NOT COMPARED: vision_msgs isn't installed here; make test-all builds it",
)


@needs_vision_msgs
def test_ros_itself_reads_and_writes_them():
    from rclpy.serialization import deserialize_message, serialize_message
    from vision_msgs.msg import Detection2DArray

    data = boxes_message(FOUND, CITYSCAPES_19, 5, "c")
    message = deserialize_message(data, Detection2DArray)
    names = [item.results[0].hypothesis.class_id for item in message.detections]
    assert names == ["truck", "car"] and message.header.frame_id == "c"
    same(boxes_of(serialize_message(message), CITYSCAPES_19), FOUND)


@needs_vision_msgs
def test_the_type_hash_is_that_of_ros(tmp_path):
    with BagWriter(str(tmp_path / "bag")) as writer:
        writer.add_topic("/a", messages.DETECTIONS)
        writer.write("/a", 1, boxes_message(FOUND, CITYSCAPES_19, 1, "c"))
    (topic,) = drives.metadata(tmp_path / "bag")["topics_with_message_count"]
    expected = type_hash(messages.DETECTIONS)
    assert topic["topic_metadata"]["type_description_hash"] == expected


@pytest.mark.slow
def test_all_of_it_with_vision_msgs_from_source(vision_msgs):
    """What needs it, in an environment that has it."""
    command = [*vision_msgs, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, __file__, "-k", "ros"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


LIVE = [sys.executable, "-m", "segmentation_node.evaluation", "live", "--num-threads", "1"]


def live(path, *words):
    done = subprocess.run(
        [*LIVE, *map(str, words), "--json", str(path)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def things_that_the_model_finds(root):
    """A Cityscapes of two frames: things are the model's own, but for every third of them."""
    layout, ids = LAYOUTS["cityscapes"], {v: k for k, v in CITYSCAPES_19.dataset_ids.items()}
    lut = np.array([ids.get(train_id, 0) for train_id in range(256)], np.uint16)
    for number in range(2):
        image = linear_model.blocks((48, 64), number)
        labels = lut[linear_model.classify(image, "cityscapes19")]
        instances = labels.copy()
        for class_id in range(24, 34):
            count, areas = cv2.connectedComponents(np.uint8(labels == class_id), connectivity=8)
            for index in range(1, count):
                is_lost = index % 3 == 0
                instances[areas == index] = 7 if is_lost else class_id * 1000 + index
                labels[areas == index] = 7 if is_lost else class_id
        for file, pixels in (
            (layout.image, image), (layout.labels, np.uint8(labels)), (layout.instances, instances)
        ):  # fmt: skip
            drives.write(root / file.replace("000019", "%06d" % (19 + number)), pixels)


@pytest.mark.ros
@pytest.mark.parametrize("kind", ["data set", "bag"])
def test_live_scores_boxes(kind, ros_environment, model, tmp_path):
    """Those that the node publishes, as offline; without vision_msgs those of its class maps."""
    things_that_the_model_finds(tmp_path / "data")
    words = ["--dataset", "cityscapes", "--root", tmp_path / "data", "--split", "val"]
    expected = evaluate(tmp_path / "a.json", "dataset", "--model", model, *words)
    assert 0.3 < expected["ap_coco"]["ap"] < 0.95
    assert expected["proposal_recall"] == {"0.5": 1.0, "0.7": 1.0}
    if kind == "bag":
        bag = drives.record(tmp_path / "bag", "cityscapes", words[3], "--split", "val", "--boxes")
        words = ["--bag", bag]
        expected = evaluate(tmp_path / "b.json", "bag", bag, "--model", model)
    result = live(tmp_path / "live.json", *words, "--model", model, "--backend", "onnxruntime")
    found = {name: result[name] for name in FIGURES}
    hears = importlib.util.find_spec("vision_msgs") is not None
    assert result["source"]["boxes"] == ("~/detections" if hears else "class map")
    assert found["true_boxes"] == expected["true_boxes"] and sum(found["true_boxes"].values()) >= 3
    # Boxes are the same either way; their scores are not.
    assert found["proposal_recall"] == expected["proposal_recall"]
    if hears:
        assert found == expected
        assert result["stages_ms"]["detections"]["p50"] > 0
