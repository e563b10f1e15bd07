"""The street drive: what a user of its frames and labels relies on."""

import cv2
import numpy as np
import pytest

from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.datasets.street import StreetDrive, classes
from segmentation_node.evaluation.datasets.street.camera import Camera
from segmentation_node.evaluation.datasets.street.light import Light
from segmentation_node.evaluation.datasets.street.sprites import Pad, Sprite
from segmentation_node.evaluation.datasets.street.world import items
from segmentation_node.labels import UNLABELLED

MINIMUM_SHARE = {
    classes.ROAD: 0.25,
    classes.SIDEWALK: 0.008,
    classes.BUILDING: 0.1,
    classes.POLE: 0.005,
    classes.TRAFFIC_SIGN: 0.002,
    classes.VEGETATION: 0.04,
    classes.TERRAIN: 0.008,
    classes.SKY: 0.05,
    classes.PERSON: 0.003,
    classes.RIDER: 0.003,
    classes.CAR: 0.03,
    classes.BICYCLE: 0.004,
}
LABELS_OF_KIND = {
    "tree": {classes.VEGETATION},
    "bush": {classes.VEGETATION},
    "lamp": {classes.POLE},
    "sign": {classes.POLE, classes.TRAFFIC_SIGN},
    "bicycle": {classes.BICYCLE},
    "walker": {classes.PERSON},
    "crossing": {classes.PERSON},
    "cyclist": {classes.RIDER, classes.BICYCLE},
    "parked": {classes.CAR},
    "lead": {classes.CAR},
    "oncoming": {classes.CAR},
}


@pytest.fixture(scope="module")
def drive():
    return StreetDrive(3)


@pytest.fixture(scope="module")
def twenty_times_finer():
    """The same drive, a frame every 5 ms."""
    return StreetDrive(3, fps=200.0)


@pytest.fixture(scope="module")
def clip_labels(drive):
    return [drive.frame(index)[1] for index in range(0, 60, 3)]


def test_frame_has_the_promised_form(drive):
    image_hwc, labels_hw = drive.frame(0)
    assert image_hwc.shape == (360, 640, 3) and image_hwc.dtype == np.uint8
    assert labels_hw.shape == (360, 640) and labels_hw.dtype == np.uint8
    assert set(np.unique(labels_hw)) <= set(MINIMUM_SHARE)


def test_a_frame_does_not_depend_on_those_before(drive):
    other = StreetDrive(3)
    other.frame(7)
    for index in (41, 0):
        for mine, theirs in zip(drive.frame(index), other.frame(index)):
            np.testing.assert_array_equal(mine, theirs)


def test_what_a_frame_returns_is_the_callers_to_change(drive):
    image_hwc, labels_hw = drive.frame(5)
    before = image_hwc.copy(), labels_hw.copy()
    image_hwc[:] = 0
    labels_hw[:] = 0
    for again, first in zip(drive.frame(5), before):
        np.testing.assert_array_equal(again, first)


def test_two_seeds_are_two_streets(drive):
    image_hwc, labels_hw = StreetDrive(4).frame(0)
    mine_hwc, mine_hw = drive.frame(0)
    assert (labels_hw != mine_hw).mean() > 0.1
    assert (image_hwc != mine_hwc).mean() > 0.8


def test_time_counts_not_frames(drive, twenty_times_finer):
    np.testing.assert_array_equal(twenty_times_finer.frame(240)[1], drive.frame(12)[1])


def test_every_class_has_its_share(clip_labels):
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in clip_labels)
    shares = counts / float(counts.sum())
    assert counts[UNLABELLED] == 0
    missing = {
        label: shares[label] for label, least in MINIMUM_SHARE.items() if shares[label] < least
    }
    assert not missing


def test_every_class_is_in_most_frames(clip_labels):
    for label in MINIMUM_SHARE:
        present = np.mean([(labels == label).sum() >= 60 for labels in clip_labels])
        assert present > 0.7, label


def test_the_sky_is_above_and_the_road_is_below(clip_labels):
    for labels_hw in clip_labels[::5]:
        rows_of = [np.nonzero(labels_hw == label)[0] for label in (classes.SKY, classes.ROAD)]
        assert rows_of[0].max() < 0.5 * labels_hw.shape[0] < np.median(rows_of[1])


def test_the_camera_moves_smoothly(drive):
    first, second, much_later = (
        drive.frame(index)[0].astype(float).ravel() for index in (10, 11, 55)
    )
    near, far = np.corrcoef(first, second)[0, 1], np.corrcoef(first, much_later)[0, 1]
    assert 0.6 < near < 0.999
    assert far < near


def test_nothing_jumps_from_one_moment_to_the_next(twenty_times_finer):
    """In 5 ms the car moves 5 cm: only outlines and what comes into range may change."""
    labels = [twenty_times_finer.frame(index)[1] for index in range(400, 410)]
    changed = [(one != other).mean() for one, other in zip(labels, labels[1:])]
    assert 0.0 < max(changed) < 0.03


def test_the_camera_drives_at_town_speed(drive):
    where_m = [Camera(3, drive._bend, 0.1 * n, 640, 360).s_m for n in range(200)]
    speeds_mps = np.diff(where_m) / 0.1
    assert speeds_mps.min() > 7.5 and speeds_mps.max() < 12.5


def test_the_light_changes(drive):
    brightness = [drive.frame(index)[0].mean() for index in range(0, 300, 30)]
    assert max(brightness) - min(brightness) > 8.0
    assert 40.0 < min(brightness) and max(brightness) < 200.0


@pytest.mark.parametrize("width, height", [(320, 180), (1280, 720)])
def test_another_size_shows_the_same_scene(drive, width, height):
    image_hwc, labels_hw = StreetDrive(3, width, height).frame(20)
    expected_hwc, expected_hw = drive.frame(20)
    assert image_hwc.shape == (height, width, 3)
    scaled_hw = cv2.resize(labels_hw, (640, 360), interpolation=cv2.INTER_NEAREST)
    scaled_hwc = cv2.resize(image_hwc, (640, 360), interpolation=cv2.INTER_AREA)
    assert (scaled_hw == expected_hw).mean() > 0.96
    assert np.abs(scaled_hwc.astype(int) - expected_hwc).mean() < 12.0


@pytest.mark.parametrize("index", [0, 25, 50])
def test_labels_change_exactly_where_a_thing_is_painted(drive, monkeypatch, index):
    """A painted pixel carries a label of its thing; a new label comes with a new colour."""
    kinds = set()
    paint = drive._draw_thing

    def watched(image_hwc, labels_hw, camera, light, thing, time_s):
        old_image, old_labels = image_hwc.copy(), labels_hw.copy()
        paint(image_hwc, labels_hw, camera, light, thing, time_s)
        painted = (image_hwc != old_image).any(axis=2)
        assert set(np.unique(labels_hw[painted])) <= LABELS_OF_KIND[thing.kind]
        relabelled = labels_hw != old_labels
        assert (relabelled & ~painted).sum() <= 0.02 * relabelled.sum() + 1
        kinds.add(thing.kind)

    monkeypatch.setattr(drive, "_draw_thing", watched)
    drive.paint(0.1 * index, Light(3, 0.1 * index))
    assert {"tree", "lamp", "sign", "bicycle", "walker", "cyclist", "lead"} <= kinds


def test_blur_and_grain_leave_objects_where_they_are_labelled(drive):
    time_s = 2.0
    sharp_hwc, labels_hw = drive.paint(time_s, Light(3, time_s))
    image_hwc, same_hw = drive.frame(20)
    np.testing.assert_array_equal(labels_hw, same_hw)
    shift = cv2.phaseCorrelate(
        *(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
            for image in (sharp_hwc, image_hwc)
        )
    )[0]
    assert max(abs(step) for step in shift) < 0.1


@pytest.fixture(scope="module")
def numbered():
    """Frames of the data set with their instances."""
    street = open_dataset("street", "", "val", with_instances=True)
    return [street[index] for index in (3, 7, 9)]


def test_numbering_things_changes_neither_image_nor_labels(numbered):
    plain = open_dataset("street", "", "val")
    for frame, index in zip(numbered, (3, 7, 9)):
        expected = plain[index]
        np.testing.assert_array_equal(frame.image_hwc, expected.image_hwc)
        np.testing.assert_array_equal(frame.truth_hw, expected.truth_hw)
        assert expected.instances_hw is None


def test_every_car_and_person_has_a_number_and_scenery_none(numbered):
    things = [classes.PERSON, classes.RIDER, classes.CAR, classes.BICYCLE]
    for frame in numbered:
        np.testing.assert_array_equal(frame.instances_hw > 0, np.isin(frame.truth_hw, things))
        np.testing.assert_array_equal(
            frame.instances_hw[frame.instances_hw > 0] >> 16,
            frame.truth_hw[frame.instances_hw > 0],
        )


def test_the_car_ahead_is_one_instance_where_it_stands(drive):
    """Its back, from the camera's own projection, has one number, and no other car has it."""
    numbers_hw = np.zeros((360, 640), np.uint16)
    _, labels_hw = drive.frame(20, numbers_hw)
    camera = Camera(3, drive._bend, 2.0, 640, 360)
    (lead,) = [item for item in items(3, camera, 2.0) if item.kind == "lead"]
    u_m, h_m = np.meshgrid(lead.u_m + np.array([-0.6, 0.0, 0.6]), [0.5, 0.8])
    right, ahead = camera.to_view(u_m, lead.s_m - 2.1)
    columns, rows = camera.to_pixels(right, ahead, h_m)
    at_its_back = numbers_hw[rows.astype(int), columns.astype(int)]
    assert len(np.unique(at_its_back)) == 1 and at_its_back[0, 0] > 0
    mask = numbers_hw == at_its_back[0, 0]
    assert set(labels_hw[mask]) == {classes.CAR}
    width_px = np.nonzero(mask.any(axis=0))[0]
    assert width_px.max() - width_px.min() + 1 == pytest.approx(
        1.8 * camera.focal_px / float(ahead.mean()), rel=0.25
    )


def test_cars_that_touch_in_the_labels_have_numbers_of_their_own(numbered):
    cars_in_a_blob = []
    for frame in numbered:
        count, blobs = cv2.connectedComponents((frame.truth_hw == classes.CAR).astype(np.uint8))
        cars_in_a_blob += [
            len(np.unique(frame.instances_hw[blobs == blob])) for blob in range(1, count)
        ]
    assert max(cars_in_a_blob) >= 3


@pytest.mark.parametrize("px_per_m", [7.3, 40.0, 333.0])
def test_a_sprite_covers_its_size_in_metres(px_per_m):
    pad = Pad(1.0, 2.0, 200.0)
    pad.box(-0.25, 0.0, 0.25, 1.5, (200, 10, 10), classes.PERSON)
    image_hwc = np.zeros((1000, 600, 3), np.uint8)
    labels_hw = np.full((1000, 600), classes.ROAD, np.uint8)
    neutral = np.hstack([np.eye(3), np.zeros((3, 1))]).astype(np.float32)
    Sprite(pad).draw(image_hwc, labels_hw, (300.0, 900.0), px_per_m, neutral)
    rows, columns = np.nonzero(labels_hw == classes.PERSON)
    assert rows.max() - rows.min() + 1 == pytest.approx(1.5 * px_per_m, rel=0.05, abs=1.1)
    assert columns.max() - columns.min() + 1 == pytest.approx(0.5 * px_per_m, rel=0.07, abs=1.1)
    np.testing.assert_array_equal(image_hwc.any(axis=2), labels_hw == classes.PERSON)


def test_a_size_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least 64x36"):
        StreetDrive(0, 10, 10)
