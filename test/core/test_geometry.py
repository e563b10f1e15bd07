"""Roi, rotation and ignored pixels against the plain pipeline on a cut and turned image."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line
from test_own_data import palette_png
from test_pipeline import POLICIES, HandBackend, last_input

from segmentation_node.backends import BackendOptions
from segmentation_node.boxes import make_boxes
from segmentation_node.errors import GeometryError, ImageError
from segmentation_node.geometry import (
    ROTATIONS,
    WHOLE_IMAGE,
    Geometry,
    make_geometry,
    read_mask,
)
from segmentation_node.images import NearestMapper, boxes_to_image, place, turned_size, unturn_box
from segmentation_node.labels import CAMVID_11, Grouping
from segmentation_node.pipeline import Batch, Segmenter

# Larger and smaller than the network's 6x8, square, odd, high and wide.
BORDER_CLASS = CAMVID_11.names[int(tiny.classify(np.zeros((1, 1, 3), np.uint8))[0, 0])]
SIZES = [(12, 16), (13, 17), (5, 7), (6, 8), (8, 6), (31, 9), (3, 40), (1, 1)]


def segmenter(policy="stretch", output_resolution="input", geometry=WHOLE_IMAGE):
    card = tiny.card()
    card = replace(card, input=replace(card.input, resize=policy))
    batch = Batch(HandBackend(card, BackendOptions()))
    return Segmenter(batch, output_resolution, geometry=geometry)


def upright(image, roi, rotation):
    """Cut and turned by NumPy; positive quarter turns of its own go the other way."""
    x, y, width, height = roi or (0, 0, image.shape[1], image.shape[0])
    cut = image[y : y + height, x : x + width]
    return np.ascontiguousarray(np.rot90(cut, -(rotation // 90)))


def put_back(map_hw, image_size, roi, rotation, outside):
    x, y, width, height = roi or (0, 0, image_size[1], image_size[0])
    whole = np.full(image_size, outside, np.uint8)
    whole[y : y + height, x : x + width] = np.rot90(map_hw, rotation // 90)
    return whole


def rois_of(size):
    """None, and where there is room one that touches no edge and one in a corner."""
    height, width = size
    inside = (1, 2, width - 3, height - 3) if min(size) > 3 else ()
    corner = (width // 2, height // 3, width - width // 2, height - height // 3)
    return [roi for roi in ((), inside, corner) if not roi or min(roi[2:]) > 0]


def mask_of(size, seed=3):
    random = np.random.RandomState(seed)
    return np.uint8(255) * (random.randint(0, 4, size) == 0).astype(np.uint8)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_the_upright_cut_put_back(policy, size, rotation):
    image = tiny.random_image(1, size)
    for roi in rois_of(size):
        plain = segmenter(policy)
        expected = plain.segment(upright(image, roi, rotation), with_confidence=True)
        turned = segmenter(policy, geometry=Geometry(roi, rotation))
        found = turned.segment(image, with_confidence=True)
        np.testing.assert_array_equal(last_input(turned), last_input(plain))
        np.testing.assert_array_equal(
            found.class_map_hw, put_back(expected.class_map_hw, size, roi, rotation, 255)
        )
        np.testing.assert_array_equal(
            found.confidence_hw, put_back(expected.confidence_hw, size, roi, rotation, 0)
        )


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_at_network_resolution_maps_show_the_upright_cut(policy, size, rotation):
    image = tiny.random_image(2, size)
    for roi in rois_of(size):
        expected = segmenter(policy, "network").segment(upright(image, roi, rotation))
        turned = segmenter(policy, "network", Geometry(roi, rotation))
        found = turned.segment(image)
        assert turned.output_size(size) == tiny.SIZE
        np.testing.assert_array_equal(found.class_map_hw, expected.class_map_hw)
        overlay = turned.overlay(image, found.class_map_hw, 0.0)
        np.testing.assert_array_equal(overlay, last_input(turned))


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_ignored_pixels_are_unlabelled_whatever_was_seen_there(policy, rotation):
    size, roi = (13, 17), (2, 1, 11, 9)
    image, ignored = tiny.random_image(4, size), mask_of(size)
    plain = segmenter(policy, geometry=Geometry(roi, rotation)).segment(image, with_confidence=True)
    masked = segmenter(policy, geometry=Geometry(roi, rotation, ignored))
    for _ in range(2):  # the buffers are written again
        found = masked.segment(image, with_confidence=True)
        marked = ignored > 0
        np.testing.assert_array_equal(
            found.class_map_hw, np.where(marked, np.uint8(255), plain.class_map_hw)
        )
        np.testing.assert_array_equal(
            found.confidence_hw, np.where(marked, np.uint8(0), plain.confidence_hw)
        )


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_at_network_resolution_ignored_pixels_are_where_the_image_shows_them(policy, rotation):
    size, roi = (24, 32), (4, 2, 20, 16)
    ignored = np.zeros(size, np.uint8)
    ignored[4:12, 10:20] = 255
    # What is ignored is painted white: where the network sees white, nothing is labelled.
    image = np.where(ignored[..., None] > 0, np.uint8(255), np.zeros(size + (3,), np.uint8))
    a_segmenter = segmenter(policy, "network", Geometry(roi, rotation, ignored))
    found = a_segmenter.segment(image, with_confidence=True)
    seen = last_input(a_segmenter)[..., 0]
    assert (found.class_map_hw[seen == 255] == 255).all() and (seen == 255).any()
    assert (found.class_map_hw[seen == 0] != 255).all() and (seen == 0).any()
    np.testing.assert_array_equal(found.confidence_hw == 0, found.class_map_hw == 255)


def test_the_overlay_is_not_tinted_outside():
    size, roi = (13, 17), (2, 1, 11, 9)
    image, ignored = tiny.random_image(5, size), mask_of(size)
    a_segmenter = segmenter(geometry=Geometry(roi, 180, ignored))
    class_map = a_segmenter.segment(image).class_map_hw
    overlay = a_segmenter.overlay(image, class_map, 1.0)
    outside = a_segmenter.geometry.left_out(size) > 0
    np.testing.assert_array_equal(overlay[outside], image[outside])
    palette = a_segmenter.labels.palette()
    np.testing.assert_array_equal(overlay[~outside], palette[class_map[~outside]])


def test_what_is_left_out_is_outside_or_ignored():
    ignored = mask_of((13, 17))
    outside = np.ones((13, 17), bool)
    outside[1:10, 2:13] = False
    found = Geometry((2, 1, 11, 9), 90, ignored).left_out((13, 17))
    np.testing.assert_array_equal(found, np.uint8(255) * (outside | (ignored > 0)))
    assert WHOLE_IMAGE.left_out((13, 17)) is None
    assert Geometry((0, 0, 17, 13)).left_out((13, 17)) is None


def test_without_geometry_nothing_is_copied_or_masked():
    a_segmenter = segmenter()
    a_segmenter.segment(tiny.random_image(6, (12, 16)))
    frame = a_segmenter._frame
    assert frame._covers_image and frame._upright is None and frame._ignored is None


def test_sizes_may_change_as_long_as_the_roi_is_inside():
    a_segmenter = segmenter(geometry=Geometry((1, 1, 4, 3), 270))
    for seed, size in enumerate([(6, 8), (40, 6), (4, 5)]):
        image = tiny.random_image(seed, size)
        fresh = segmenter(geometry=a_segmenter.geometry)
        np.testing.assert_array_equal(
            a_segmenter.segment(image).class_map_hw, fresh.segment(image).class_map_hw
        )
    with pytest.raises(ImageError) as caught:
        a_segmenter.segment(tiny.random_image(7, (4, 4)))
    assert_one_line(caught, "the image is 4x4", "the roi of 4x3 at (1, 1) reaches (5, 4)")
    image = tiny.random_image(8, (6, 8))
    np.testing.assert_array_equal(
        a_segmenter.segment(image).class_map_hw,
        segmenter(geometry=a_segmenter.geometry).segment(image).class_map_hw,
    )


def test_a_mask_of_another_size_is_said_in_one_line():
    a_segmenter = segmenter(geometry=Geometry((), 0, np.zeros((6, 9), np.uint8), "hood.png"))
    with pytest.raises(ImageError) as caught:
        a_segmenter.segment(tiny.random_image(9))
    assert_one_line(caught, "the image is 8x6, but the mask hood.png 9x6")


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_box_is_turned_back_to_where_it_was(rotation):
    size = (5, 9)
    numbers = np.arange(45).reshape(size)
    turned = np.rot90(numbers, -(rotation // 90))
    top, left, height, width = unturn_box((1, 2, 3, 2), turned.shape, rotation)
    found = np.rot90(numbers[top : top + height, left : left + width], -(rotation // 90))
    np.testing.assert_array_equal(found, turned[1:4, 2:4])
    assert turned_size(size, rotation) == turned.shape


@pytest.mark.parametrize(
    ("roi", "rotation", "said"),
    [
        ([1, 2, 3], 0, "the roi is [1, 2, 3]; expected four whole numbers"),
        ([1, 2, 3, 4.5], 0, "expected four whole numbers"),
        ([True, 0, 1, 1], 0, "expected four whole numbers"),
        ("all", 0, "the roi is 'all'; expected four whole numbers"),
        ([-1, 0, 3, 4], 0, "expected x and y of 0 or more"),
        ([0, -1, 3, 4], 0, "expected x and y of 0 or more"),
        ([0, 0, 0, 4], 0, "width and height of 1 or more"),
        ([0, 0, 4, 0], 0, "width and height of 1 or more"),
        ([0, 0, 1 << 62, 4], 0, "inside the image"),
        ([], 45, "the rotation is 45; expected one of 0, 90, 180, 270"),
        ([], -90, "the rotation is -90"),
        ([], "upside down", "the rotation is 'upside down'"),
        ([], True, "the rotation is True"),
    ],
)
def test_what_no_image_can_have_is_one_line(roi, rotation, said):
    with pytest.raises(GeometryError) as caught:
        make_geometry(roi, rotation, "")
    assert_one_line(caught, said)
    assert make_geometry([0, 0, 1, 1], 0, "").window((1, 1)) == (0, 0, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_masks_pixels_other_than_black_are_ignored(tmp_path, channels):
    marked = mask_of((13, 17)) // 255
    pixels = marked if channels == 1 else marked[..., None] * np.uint8([0, 0, 7])
    path = str(tmp_path / "mask.png")
    cv2.imwrite(path, pixels)
    geometry = make_geometry([1, 1, 5, 5], 90, path)
    np.testing.assert_array_equal(geometry.ignored, marked * 255)
    assert geometry.facts() == {"roi": [1, 1, 5, 5], "rotation": 90, "ignore_mask": path}
    assert WHOLE_IMAGE.facts() == {}


def test_of_a_masks_palette_the_colours_count(tmp_path):
    """Programs that make files small order a palette as they like."""
    marked = mask_of((13, 17)) // 255
    path = tmp_path / "mask.png"
    path.write_bytes(palette_png(1 - marked, [(255, 255, 255), (0, 0, 0)]))
    np.testing.assert_array_equal(read_mask(str(path)), marked * 255)


def test_what_is_no_mask_is_one_line(tmp_path):
    pixels = np.zeros((6, 8, 4), np.uint8)
    for name, content in (
        ("alpha.png", pixels),
        ("lossy.jpg", pixels[..., :3]),
        ("all.png", pixels[..., 0] + np.uint8(1)),
    ):
        cv2.imwrite(str(tmp_path / name), content)
    (tmp_path / "text.png").write_bytes(b"no picture")
    for name, said in (
        ("alpha.png", "alpha channel"),
        ("lossy.jpg", "a JPEG; expected a PNG"),
        ("all.png", "ignores every pixel"),
        ("text.png", "no picture"),
        ("missing.png", "No such file"),
        ("", "Is a directory"),
    ):
        with pytest.raises(GeometryError) as caught:
            read_mask(str(tmp_path / name))
        assert_one_line(caught, "the mask " + str(tmp_path / name), said)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_box_of_the_network_is_where_its_pixels_come_back_to(policy, rotation):
    random = np.random.RandomState(6)
    for size in SIZES:
        placement = place(policy, turned_size(size, rotation), (60, 80))
        mapper = NearestMapper(placement, rotation)
        top, left, height, width = placement.network_box
        for _ in range(20):
            xs = left + np.sort(random.choice(width + 1, 2, replace=False))
            ys = top + np.sort(random.choice(height + 1, 2, replace=False))
            painted = np.zeros((60, 80), np.uint8)
            painted[ys[0] : ys[1], xs[0] : xs[1]] = 1
            rows, columns = np.nonzero(mapper(painted, np.empty(size, np.uint8), 0))
            if not len(rows):  # between two pixels of a smaller image
                continue
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = np.array([[xs[0], ys[0], xs[1], ys[1]]], np.float32)
            (found,) = boxes_to_image(box, placement, rotation)
            # A pixel is the box's where its centre is.
            assert np.abs(found - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_boxes_of_a_roi_are_in_pixels_of_the_whole_image(rotation):
    """At both resolutions, and the border of a letterbox is no thing."""
    car = CAMVID_11.names.index("car")
    class_map = np.full((40, 60), CAMVID_11.names.index("sky"), np.uint8)
    class_map[15:25, 20:40] = car
    roi = (10, 5, 30, 30)
    for resolution in ("input", "network"):
        found = segmenter("letterbox", resolution, Geometry(roi, rotation))
        found.detected = (car, CAMVID_11.names.index(BORDER_CLASS))
        maps = found.segment(tiny.paint(class_map), with_confidence=True)
        boxes = found.boxes_in_image(found.detect(maps.class_map_hw, maps.confidence_hw))
        assert boxes.class_ids.tolist() == [car]
        # The letterbox holds the roi in 6x6 pixels, of 5 each.
        assert boxes.boxes_xyxy.tolist() == [[20.0, 15.0, 40.0, 25.0]]
        seen = maps.confidence_hw[maps.class_map_hw == car]
        assert boxes.scores.tolist() == pytest.approx([seen.mean() / 255], abs=1e-6)


class HeadOfCars:
    """In place of a box head: a box around the cars, in the network's pixels, and an unsure one."""

    def propose(self, ids_hw):
        rows, columns = np.nonzero(ids_hw == CAMVID_11.names.index("car"))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return np.array([box], np.float32)

    def find(self, ids_hw, features):
        ids = CAMVID_11.ids_of(["car", "pedestrian"])
        return make_boxes(self.propose(ids_hw).repeat(2, axis=0), ids, [0.6, 0.4])


@pytest.mark.parametrize("resolution", ["input", "network"])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_boxes_of_a_head_are_in_pixels_of_the_whole_image(rotation, resolution):
    """They see what is not ignored, carry the groups, and unsure ones are not drawn."""
    names = CAMVID_11.names
    class_map = np.full((40, 60), names.index("sky"), np.uint8)
    class_map[15:25, 20:40] = names.index("car")
    ignored = np.zeros_like(class_map)
    ignored[15:20, 20:40] = 255
    geometry = Geometry((10, 5, 30, 30), rotation, ignored)
    batch = segmenter("letterbox").batch
    batch.box_finder = HeadOfCars()
    image = tiny.paint(class_map)
    for grouping, found in (
        (None, ["car", "pedestrian"]),
        (Grouping("ways", {"way": ("road",), "vehicle": ("car",)}), ["vehicle"]),
        # Two boxes of one thing, whose classes are one group, are one.
        (Grouping("one", {"thing": ("car", "pedestrian"), "rest": ("*",)}), ["thing"]),
    ):
        by_head = Segmenter(batch, resolution, grouping, geometry)
        by_head.prepare(image)
        features = np.zeros((1, 1, 1, 1), np.float32)
        prediction = replace(batch.run(False), features_nchw=features)
        maps = by_head.finish(prediction)
        boxes = by_head.detect(*maps, prediction)
        in_image = by_head.boxes_in_image(boxes)
        assert [by_head.labels.names[index] for index in in_image.class_ids] == found
        # The letterbox holds the roi in 6x6 pixels, of 5 each.
        expected = [[20.0, 20.0, 40.0, 25.0]]
        assert in_image.boxes_xyxy.tolist() == expected * len(found)
        assert by_head.proposals(prediction).tolist() == expected
    overlays = [
        by_head.overlay(image, maps[0], 0.5, boxes=boxes._replace(scores=np.array([score])))
        for score in (0.6, 0.4)
    ]
    np.testing.assert_array_equal(overlays[1], by_head.overlay(image, maps[0], 0.5))
    assert (overlays[0] != overlays[1]).any()


def test_the_overlay_shows_boxes_on_what_it_shows():
    image = tiny.paint(np.zeros((24, 32), np.uint8))
    a_segmenter = segmenter()
    class_map = a_segmenter.segment(image).class_map_hw
    boxes = make_boxes([[4, 6, 20, 15]], [0], [0.1])
    plain = a_segmenter.overlay(image, class_map, 0.5)
    drawn = a_segmenter.overlay(image, class_map, 0.5, boxes=boxes)
    expected = plain.copy()
    expected[6, 4:20] = expected[14, 4:20] = 255
    expected[6:15, 4] = expected[6:15, 19] = 255
    np.testing.assert_array_equal(drawn, expected)
