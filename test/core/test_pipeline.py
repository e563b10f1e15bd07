"""Segmenter on a backend that classifies by hand: every size, policy and output."""

from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node import pipeline
from segmentation_node.backends import BackendOptions, Prediction
from segmentation_node.backends import choice as backend_choice
from segmentation_node.backends.base import Backend
from segmentation_node.backends.choice import BackendChoice
from segmentation_node.errors import BackendError, ImageError
from segmentation_node.images import NearestMapper, blend, place
from segmentation_node.labels import CAMVID_11, Grouping
from segmentation_node.pipeline import Batch, Segmenter, open_segmenter
from segmentation_node.timing import StageTimer

POLICIES = ("stretch", "crop", "letterbox")
SIZES = [(6, 8), (12, 16), (60, 80), (7, 9), (3, 4), (1, 1), (5, 200), (200, 5)]


class HandBackend(Backend):
    """Nearest colour in NumPy; keeps what it was shown."""

    name = "hand"
    artifact_kind = "onnx"
    precisions = ("fp32",)

    @classmethod
    def unavailable(cls):
        return ""

    def _load(self, artifact_path):
        self.input_shape = (self.options.batch or 1,) + self.input_shape[1:]
        self.runs = []

    def _run(self, image_nhwc, with_confidence):
        self.runs.append((image_nhwc.copy(), with_confidence))
        confidence = np.round(tiny.confidence(image_nhwc)).astype(np.uint8)
        return Prediction(tiny.classify(image_nhwc), confidence if with_confidence else None)

    def _close(self):
        self.runs = None


def segmenter(resize="stretch", output_resolution="input", **changes):
    card = tiny.card()
    card = replace(card, input=replace(card.input, resize=resize), **changes)
    return Segmenter(Batch(HandBackend(card, BackendOptions())), output_resolution)


def last_input(a_segmenter):
    return a_segmenter.backend.runs[-1][0][0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", POLICIES)
def test_maps_have_the_images_size_and_hold_what_the_network_said(policy, size):
    a_segmenter = segmenter(policy)
    result = a_segmenter.segment(tiny.random_image(1, size), with_confidence=True)
    assert result.class_map_hw.shape == result.confidence_hw.shape == size
    assert a_segmenter.output_size(size) == size
    seen = last_input(a_segmenter)
    mapper = NearestMapper(place(policy, size, tiny.SIZE))
    said, sure = tiny.classify(seen), np.round(tiny.confidence(seen)).astype(np.uint8)
    expected = mapper(said, np.zeros(size, np.uint8), 255)
    np.testing.assert_array_equal(result.class_map_hw, expected)
    expected = mapper(sure, np.zeros(size, np.uint8), 0)
    np.testing.assert_array_equal(result.confidence_hw, expected)


@pytest.mark.parametrize("factor", [1, 4])
def test_a_painted_scene_is_segmented_exactly(factor):
    scene = np.random.RandomState(2).randint(0, 11, tiny.SIZE).astype(np.uint8)
    scene = scene.repeat(factor, axis=0).repeat(factor, axis=1)
    result = segmenter().segment(tiny.paint(scene))
    np.testing.assert_array_equal(result.class_map_hw, scene)
    assert result.confidence_hw is None


def test_what_crop_cuts_away_is_unlabelled_without_confidence():
    scene = np.full((6, 16), 3, np.uint8)
    result = segmenter("crop").segment(tiny.paint(scene), with_confidence=True)
    outside = np.ones((6, 16), bool)
    outside[:, 4:12] = False
    assert (result.class_map_hw[outside] == 255).all() and not result.confidence_hw[outside].any()
    assert (result.class_map_hw[~outside] == 3).all() and result.confidence_hw[~outside].all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_change_of_size_leaves_nothing_of_the_image_before(policy):
    a_segmenter = segmenter(policy)
    for seed, size in enumerate([(6, 8), (6, 40), (40, 6), (6, 40), (24, 32)]):
        image = tiny.random_image(seed, size)
        fresh = segmenter(policy)
        found, expected = a_segmenter.segment(image), fresh.segment(image)
        np.testing.assert_array_equal(last_input(a_segmenter), last_input(fresh))
        np.testing.assert_array_equal(found.class_map_hw, expected.class_map_hw)


@pytest.mark.parametrize("size", SIZES)
def test_at_network_resolution_maps_have_the_networks_size(size):
    a_segmenter = segmenter("crop", "network")
    result = a_segmenter.segment(tiny.random_image(3, size), with_confidence=True)
    assert a_segmenter.output_size(size) == tiny.SIZE
    np.testing.assert_array_equal(result.class_map_hw, tiny.classify(last_input(a_segmenter)))
    assert result.confidence_hw.shape == tiny.SIZE


@pytest.mark.parametrize("output_resolution, size", [("input", (9, 30)), ("network", tiny.SIZE)])
def test_maps_are_written_into_the_given_arrays(output_resolution, size):
    image = tiny.random_image(4, (9, 30))
    class_map, confidence = np.full(size, 99, np.uint8), np.full(size, 99, np.uint8)
    a_segmenter = segmenter("crop", output_resolution)
    result = a_segmenter.segment(image, class_map, confidence, with_confidence=True)
    assert result.class_map_hw is class_map and result.confidence_hw is confidence
    expected = segmenter("crop", output_resolution).segment(image, with_confidence=True)
    np.testing.assert_array_equal(class_map, expected.class_map_hw)
    np.testing.assert_array_equal(confidence, expected.confidence_hw)


def test_a_grouping_folds_the_classes_of_map_and_overlay():
    grouping = Grouping("two", {"up": ("sky", "building"), "rest": ("*",)})
    plain = segmenter()
    folded = Segmenter(plain.batch, grouping=grouping)
    image = np.random.RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    ids = plain.segment(image).class_map_hw.copy()
    found = folded.segment(image).class_map_hw
    assert folded.labels.names == ("up", "rest")
    assert (found == np.where(ids == 255, 255, np.where(ids <= 1, 0, 1))).all()
    assert len(np.unique(ids)) > 2
    colors = folded.overlay(image, found, 1.0)[found == 0]
    assert (colors == plain.labels.classes[0].color_rgb).all()


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.7])
def test_pixels_below_the_confidence_threshold_become_unlabelled(threshold):
    image = tiny.random_image(5)
    plain = segmenter().segment(image, with_confidence=True)
    strict = segmenter().segment(image, confidence_threshold=threshold)
    unsure = plain.confidence_hw < threshold * 255.0
    assert unsure.any() and not unsure.all()
    np.testing.assert_array_equal(
        strict.class_map_hw, np.where(unsure, np.uint8(255), plain.class_map_hw)
    )


def test_the_backend_computes_confidence_only_where_something_needs_it():
    a_segmenter = segmenter()
    for arguments in ({}, {"with_confidence": True}, {"confidence_threshold": 0.1}):
        a_segmenter.segment(tiny.random_image(6), **arguments)
    assert [asked for _, asked in a_segmenter.backend.runs] == [False, True, True]


def test_a_threshold_on_a_model_without_confidence_is_refused():
    a_segmenter = segmenter(outputs=["class_map"])
    with pytest.raises(BackendError) as caught:
        a_segmenter.segment(tiny.random_image(7), confidence_threshold=0.5)
    assert_one_line(caught, "no confidence")


@pytest.mark.parametrize(
    "image, found",
    [
        (np.zeros((6, 8, 3), np.float32), "float32 (6, 8, 3)"),
        (np.zeros((6, 8), np.uint8), "uint8 (6, 8)"),
        (np.zeros((6, 8, 4), np.uint8), "uint8 (6, 8, 4)"),
        (np.zeros((0, 8, 3), np.uint8), "8x0"),
        (np.broadcast_to(np.uint8(0), (1 << 14, (1 << 12) + 1, 3)), "4097x16384"),
    ],
    ids=["float", "gray", "four channels", "empty", "too large"],
)
def test_what_is_no_image_is_refused(image, found):
    with pytest.raises(ImageError) as caught:
        segmenter().segment(image)
    assert_one_line(caught, "the image is " + found, "expected")


def test_a_bad_image_does_no_harm_to_the_next():
    a_segmenter, image = segmenter(), tiny.random_image(8)
    with pytest.raises(ImageError):
        a_segmenter.segment(image[..., 0])
    np.testing.assert_array_equal(a_segmenter.segment(image).class_map_hw, tiny.classify(image))


def test_stages_are_timed():
    stages_ms = segmenter().segment(tiny.random_image(9)).stages_ms
    assert sorted(stages_ms) == ["inference", "postprocess", "preprocess"]
    assert all(value >= 0.0 for value in stages_ms.values())


def test_a_running_timer_keeps_its_laps():
    timer = StageTimer(clock=iter([0.0, 1.0, 3.0, 6.0, 10.0]).__next__)
    timer.lap("convert")
    result = segmenter().segment(tiny.random_image(9), timer=timer)
    assert result.stages_ms == {
        "convert": 1000.0,
        "preprocess": 2000.0,
        "inference": 3000.0,
        "postprocess": 4000.0,
    }


def test_the_overlay_lies_over_the_image():
    image, a_segmenter = tiny.random_image(10, (12, 20)), segmenter()
    class_map = a_segmenter.segment(image).class_map_hw
    expected = blend(image, class_map, CAMVID_11.palette(), 0.4)
    np.testing.assert_array_equal(a_segmenter.overlay(image, class_map, 0.4), expected)


def test_at_network_resolution_the_overlay_lies_over_what_the_network_saw():
    image, a_segmenter = tiny.random_image(11, (12, 20)), segmenter("letterbox", "network")
    class_map = a_segmenter.segment(image).class_map_hw
    expected = blend(last_input(a_segmenter), class_map, CAMVID_11.palette(), 0.4)
    np.testing.assert_array_equal(a_segmenter.overlay(image, class_map, 0.4), expected)


@pytest.mark.parametrize("outputs", [["class_map"], ["class_map", "confidence"]])
def test_warming_up_runs_all_that_the_model_can(outputs):
    a_segmenter = segmenter(outputs=outputs)
    a_segmenter.batch.warm_up()
    assert [asked for _, asked in a_segmenter.backend.runs] == [len(outputs) == 2]


def test_closing_closes_the_backend():
    a_segmenter = segmenter()
    a_segmenter.close()
    with pytest.raises(BackendError):
        a_segmenter.segment(tiny.random_image(12))


@pytest.mark.parametrize("asked, chosen", [("auto", "hand"), ("onnxruntime", "onnxruntime")])
def test_a_segmenter_is_opened_warm_on_the_backend_that_is_asked_for(monkeypatch, asked, chosen):
    names = []

    def open_by_name(name, card, options):
        names.append(name)
        return HandBackend(card, options)

    def choose(card, backend, options, failed):
        return BackendChoice("hand" if backend == "auto" else backend, "fp32", "", "")

    monkeypatch.setattr(backend_choice, "choose", choose)
    monkeypatch.setattr(pipeline, "open_backend", open_by_name)
    options = BackendOptions(precision="auto")
    with open_segmenter(tiny.card(), asked, options, "network") as a_segmenter:
        assert len(a_segmenter.backend.runs) == 1
        assert a_segmenter.output_size((12, 20)) == tiny.SIZE
    assert names == [chosen]
    assert a_segmenter.backend.runs is None, "closed"


def test_a_backend_whose_first_run_fails_is_closed(monkeypatch):
    closed = []

    class Broken(HandBackend):
        def _run(self, *_):
            raise BackendError("the run failed")

        def _close(self):
            closed.append(self)

    monkeypatch.setattr(pipeline, "open_backend", lambda _, *given: Broken(*given))
    with pytest.raises(BackendError):
        open_segmenter(tiny.card(), "broken")
    assert len(closed) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_segmenters_that_share_a_batch_give_what_each_gives_alone(policy):
    card = tiny.card()
    card = replace(card, input=replace(card.input, resize=policy))
    batch = Batch(HandBackend(card, BackendOptions(batch=2)))
    wide, high = Segmenter(batch), Segmenter(batch)
    images = [tiny.random_image(seed, size) for seed, size in ((1, (6, 40)), (2, (40, 6)))]
    for order in ((0, 1), (1, 0)):  # an image of another shape leaves nothing in its slot
        pairs = list(zip((wide, high), images, order))
        for a_segmenter, image, slot in pairs:
            a_segmenter.prepare(image, slot)
        prediction = batch.run(True)
        for a_segmenter, image, slot in pairs:
            maps = a_segmenter.finish(prediction, with_confidence=True, slot=slot)
            alone = segmenter(policy).segment(image, with_confidence=True)
            np.testing.assert_array_equal(maps[0], alone.class_map_hw)
            np.testing.assert_array_equal(maps[1], alone.confidence_hw)


def test_an_unknown_output_resolution_lists_the_known_ones():
    with pytest.raises(ValueError) as caught:
        segmenter(output_resolution="screen")
    assert_one_line(caught, "'screen'", "input", "network")
