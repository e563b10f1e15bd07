"""The shipped box head: every run time gives torch's boxes, and class maps stay as they were."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.boxes import iou_matrix
from segmentation_node.errors import BackendError, CardError
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.datasets.street.classes import CAR
from segmentation_node.model_card import open_model, read_card, shipped_models
from segmentation_node.pipeline import Segmenter, open_batch

MODELS = [name for name in shipped_models() if open_model(name).boxes is not None]
RUN_TIMES = ["onnxruntime", "openvino"]
# Seeds of the data set's test split: streets that training has not seen.
PLACES = [(3001, 25), (3007, 175)]
TOLERANCE = 1e-3
TOUCHING = (3006, 250)


def opened(name, model):
    missing = BACKENDS[name].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)
    batch = open_batch(open_model(model), name, BackendOptions(device="cpu", num_threads=1))
    batch.open_boxes()
    return batch


@pytest.fixture(scope="module")
def images():
    return [StreetDrive(seed).frame(index)[0] for seed, index in PLACES]


@pytest.fixture(scope="module", params=MODELS)
def reference(request, images):
    """The model, and torch's boxes, features and head on fixed regions for each image."""
    with Segmenter(opened("torch", request.param)) as segmenter:
        yield request.param, [everything(segmenter, image) for image in images]


def everything(segmenter, image):
    segmenter.prepare(image)
    prediction = segmenter.batch.run(with_confidence=True, with_features=True)
    maps = segmenter.finish(prediction, with_confidence=True)
    boxes = segmenter.detect(*maps, prediction)
    features = prediction.features_nchw.copy()
    head = segmenter.backend.run_boxes(features, regions(segmenter.card.boxes.proposals))
    return boxes, features, [values.copy() for values in head]


def regions(count):
    corners = np.random.RandomState(0).uniform(0, 1, (count, 2, 2)) * (640, 360)
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1).astype(np.float32)


@pytest.mark.parametrize("name", RUN_TIMES)
def test_a_run_time_gives_torchs_boxes(name, reference, images):
    model, expected = reference
    with Segmenter(opened(name, model)) as segmenter:
        for image, (boxes, features, head) in zip(images, expected, strict=True):
            found, found_features, found_head = everything(segmenter, image)
            np.testing.assert_allclose(found_features, features, atol=TOLERANCE)
            for ours, theirs in zip(found_head, head, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
            # A box whose score is the limit's may be in one and not the other.
            sure, found = boxes.take(boxes.scores > 0.1), found.take(found.scores > 0.1 - TOLERANCE)
            overlaps = iou_matrix(sure.boxes_xyxy, found.boxes_xyxy)
            overlaps *= sure.class_ids[:, None] == found.class_ids[None]
            assert len(sure.scores) >= 5
            assert overlaps.max(axis=1).min() > 0.98
            scores = found.scores[overlaps.argmax(axis=1)]
            np.testing.assert_allclose(scores, sure.scores, atol=0.01)


@pytest.mark.parametrize("name", [*RUN_TIMES, "torch"])
@pytest.mark.parametrize("model", MODELS)
def test_asking_for_boxes_changes_no_class_map(name, model, images):
    with closing(opened(name, model)) as batch:
        batch.slot(0)[:] = images[0]
        plain = batch.run(with_confidence=True)
        maps = [plain.class_map_nhw.copy(), plain.confidence_nhw.copy()]
        for with_confidence in (False, True):
            found = batch.run(with_confidence, with_features=True)
            np.testing.assert_array_equal(found.class_map_nhw, maps[0])
        np.testing.assert_array_equal(found.confidence_nhw, maps[1])


@pytest.mark.parametrize("model", MODELS)
def test_cars_that_touch_in_the_class_map_are_told_apart(model):
    """Three cars in one connected area, which fits none of them; docs/boxes.jpg shows it."""
    numbers = np.zeros((360, 640), np.uint16)
    image, truth = StreetDrive(TOUCHING[0]).frame(TOUCHING[1], numbers)
    with Segmenter(opened("onnxruntime", model)) as segmenter:
        result = segmenter.segment(image, with_boxes=True)
    is_car = (result.class_map_hw == CAR).astype(np.uint8)
    count, areas = cv2.connectedComponents(is_car, connectivity=8)
    numbers[truth != CAR] = 0
    together = [most_seen(numbers[areas == area]) for area in range(count)]
    fullest = max(range(1, count), key=lambda area: len(together[area]))
    cars = [box_around(numbers == number) for number in together[fullest]]
    assert len(cars) == 3
    assert iou_matrix([box_around(areas == fullest)], cars).max() < 0.5
    found = result.boxes.take((result.boxes.class_ids == CAR) & (result.boxes.scores >= 0.5))
    overlaps = iou_matrix(found.boxes_xyxy, cars)
    assert overlaps.max(axis=0).min() > 0.7
    assert len(set(overlaps.argmax(axis=0))) == 3


def most_seen(numbers, least_pixels=300):
    found, pixels = np.unique(numbers, return_counts=True)
    return found[(found > 0) & (pixels >= least_pixels)]


def box_around(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_run_time_without_the_head_says_it_in_one_line():
    """TensorRT: its engines hold the class map alone."""

    class WithoutBoxes(BACKENDS["onnxruntime"]):
        name = "tensorrt"
        runs_boxes = BACKENDS["tensorrt"].runs_boxes

    with WithoutBoxes(open_model(MODELS[0]), BackendOptions()) as backend:
        with pytest.raises(BackendError) as caught:
            backend.open_boxes()
    assert_one_line(caught, "backend tensorrt runs no box head", "choose onnxruntime, openvino")


def test_a_model_without_a_head_says_how_to_give_it_one():
    with open_backend("onnxruntime", open_model("enet_camvid"), BackendOptions()) as backend:
        with pytest.raises(BackendError) as caught:
            backend.open_boxes()
    assert_one_line(caught, "enet_camvid has no box head", "python3 -m training.boxes")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_at_another_precision_boxes_are_those_of_fp32(model, name, images):
    """So that no choice of a precision takes them away; without boxes it computes as asked."""
    lacking = BACKENDS[name].unavailable()
    card, low = open_model(model), BackendOptions(device="cpu", precision="bf16", num_threads=1)
    lacking = lacking or BACKENDS[name].unready(card, low)
    if lacking:
        pytest.skip(f"NOT RUN: {lacking}")
    found = []
    for options in (low, replace(low, precision="fp32")):
        with Segmenter(open_batch(card, name, options)) as segmenter:
            segmenter.batch.offer_boxes()
            segmenter.finds_by_head = True
            usual = segmenter.segment(images[0], with_confidence=True)
            maps = usual.class_map_hw.copy(), usual.confidence_hw.copy()
            boxes = segmenter.segment(images[0], with_boxes=True).boxes
            found.append((maps, boxes, segmenter.backend.lacks_boxes_at_its_precision()))
    (low_maps, low_boxes, low_told), (full_maps, full_boxes, full_told) = found
    assert len(full_boxes.scores) > 0
    for one, other in zip(low_boxes, full_boxes):
        np.testing.assert_array_equal(one, other)
    assert (low_maps[1] != full_maps[1]).any()
    assert "precision fp32, not bf16" in low_told and not full_told


@pytest.mark.parametrize("model", MODELS)
def test_the_head_is_loaded_at_the_first_run_that_wants_it(model, tmp_path):
    card = open_model(model)
    with Segmenter(open_batch(card, "onnxruntime", BackendOptions(num_threads=1))) as segmenter:
        opened = []
        open_head = segmenter.backend._open_boxes
        segmenter.backend._open_boxes = lambda: (opened.append(1), open_head())
        segmenter.batch.offer_boxes()
        segmenter.batch.run(with_confidence=True)
        assert opened == []
        for _ in range(2):
            segmenter.batch.run(with_confidence=False, with_features=True)
        assert opened == [1]
    # What is missing shows before anybody listens.
    kept = Path(shutil.copytree(card.folder, tmp_path / "model"))
    (kept / card.artifact("onnx_boxes").file).unlink()
    with closing(
        open_batch(read_card(str(kept)), "onnxruntime", BackendOptions(num_threads=1))
    ) as batch:
        with pytest.raises(CardError, match="no such file"):
            batch.offer_boxes()
