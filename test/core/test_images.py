"""Image geometry and colours against references computed by loops or in floating point."""

import numpy as np
import pytest

from segmentation_node.images import NearestMapper, blend, colourise, place, to_network
from segmentation_node.labels import CITYSCAPES_19

POLICIES = ("stretch", "crop", "letterbox")
OUTSIDE = 255


def nearest(position, count, network_count):
    """Index of the network pixel whose centre is nearest to an image pixel's; in a tie the later.

    In units of 1 / (2 * count * network_count) of the box, so that everything is whole.
    """
    centre = (2 * position + 1) * network_count
    distances = [abs(centre - (2 * index + 1) * count) for index in range(network_count)]
    return max(i for i, distance in enumerate(distances) if distance == min(distances))


def mapped_back_by_loops(map_hw, placement):
    """What NearestMapper must give, pixel by pixel."""
    out = np.full(placement.image_size, OUTSIDE, np.uint8)
    top, left, height, width = placement.image_box
    net_top, net_left, net_height, net_width = placement.network_box
    columns = [net_left + nearest(x, width, net_width) for x in range(width)]
    for y in range(height):
        row = net_top + nearest(y, height, net_height)
        for x in range(width):
            out[top + y, left + x] = map_hw[row, columns[x]]
    return out


@pytest.mark.parametrize(
    "policy, image_size, network_size, image_box, network_box",
    [
        ("stretch", (480, 640), (360, 640), (0, 0, 480, 640), (0, 0, 360, 640)),
        ("stretch", (7, 5), (2, 3), (0, 0, 7, 5), (0, 0, 2, 3)),
        # 640x480 on 16:9: 60 rows go at the top and at the bottom.
        ("crop", (480, 640), (360, 640), (60, 0, 360, 640), (0, 0, 360, 640)),
        # 1280x720 on 4:3: 960 columns are left, 160 go on either side.
        ("crop", (720, 1280), (360, 480), (0, 160, 720, 960), (0, 0, 360, 480)),
        ("crop", (360, 480), (360, 480), (0, 0, 360, 480), (0, 0, 360, 480)),
        ("crop", (1, 1000), (8, 8), (0, 499, 1, 1), (0, 0, 8, 8)),
        # 1280x720 in 480x360: 480x270, 45 rows of border above and below.
        ("letterbox", (720, 1280), (360, 480), (0, 0, 720, 1280), (45, 0, 270, 480)),
        # 640x480 in 640x360: 480x360, 80 columns of border on either side.
        ("letterbox", (480, 640), (360, 640), (0, 0, 480, 640), (0, 80, 360, 480)),
        ("letterbox", (1, 1000), (8, 8), (0, 0, 1, 1000), (3, 0, 1, 8)),
    ],
)
def test_boxes_are_the_hand_computed_ones(policy, image_size, network_size, image_box, network_box):
    placement = place(policy, image_size, network_size)
    assert (placement.image_size, placement.network_size) == (image_size, network_size)
    assert placement.image_box == image_box
    assert placement.network_box == network_box


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="squash"):
        place("squash", (4, 4), (4, 4))


@pytest.mark.parametrize("policy", POLICIES)
def test_boxes_lie_inside_and_keep_the_aspect(policy):
    rng = np.random.RandomState(1)
    for _ in range(300):
        image_size, network_size = (tuple(rng.randint(1, 400, 2).tolist()) for _ in range(2))
        placement = place(policy, image_size, network_size)
        for box, size in ((placement.image_box, image_size), (placement.network_box, network_size)):
            top, left, height, width = box
            assert height >= 1 and width >= 1 and top >= 0 and left >= 0
            assert abs(size[0] - height - 2 * top) <= 1 and top + height <= size[0]
            assert abs(size[1] - width - 2 * left) <= 1 and left + width <= size[1]
        if policy != "stretch":
            _, _, height, width = placement.image_box
            _, _, net_height, net_width = placement.network_box
            # A side is off by half a pixel, by one where it would else vanish.
            slack = max(height + width, net_height + net_width)
            assert abs(height * net_width - width * net_height) <= slack


@pytest.mark.parametrize("policy", POLICIES)
def test_a_class_map_goes_back_to_the_nearest_pixel(policy):
    rng = np.random.RandomState(2)
    sizes = [[tuple(rng.randint(1, 26, 2).tolist()) for _ in range(2)] for _ in range(120)]
    sizes += [[(6 + more, 8 + wider), (6, 8)] for more in (-1, 0, 1) for wider in (-1, 0, 1)]
    for image_size, network_size in sizes:
        placement = place(policy, image_size, network_size)
        map_hw = rng.randint(0, 250, network_size).astype(np.uint8)
        found = NearestMapper(placement)(map_hw, np.full(image_size, 77, np.uint8), OUTSIDE)
        np.testing.assert_array_equal(found, mapped_back_by_loops(map_hw, placement))


@pytest.mark.parametrize("image_size", [(9, 14), (3, 5), (9, 5), (3, 14)])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_mapper_that_is_kept_remembers_no_earlier_map(policy, image_size):
    rng = np.random.RandomState(4)
    placement = place(policy, image_size, (6, 8))
    mapper = NearestMapper(placement)
    out = np.empty((image_size[0], image_size[1] + 3), np.uint8)[:, 1:-2]  # rows with gaps
    for _ in range(3):
        map_hw = rng.randint(0, 250, (6, 8)).astype(np.uint8)
        np.testing.assert_array_equal(
            mapper(map_hw, out, OUTSIDE), mapped_back_by_loops(map_hw, placement)
        )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_labels_sent_to_the_network_come_back_unchanged(policy, factor):
    """Blocks of ``factor`` pixels shrink to one pixel each and grow to the same blocks again."""
    small = np.random.RandomState(3).randint(0, 20, (9, 16)).astype(np.uint8)
    labels_hw = small.repeat(factor, axis=0).repeat(factor, axis=1)
    placement = place(policy, labels_hw.shape, (9, 16))
    seen = to_network(np.dstack([labels_hw] * 3), placement, np.zeros((9, 16, 3), np.uint8))
    np.testing.assert_array_equal(seen[..., 0], small)
    back = NearestMapper(placement)(seen[..., 0], np.zeros_like(labels_hw), OUTSIDE)
    np.testing.assert_array_equal(back, labels_hw)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("image_size", [(60, 80), (31, 47), (23, 85), (85, 50), (48, 64)])
def test_a_place_in_the_image_goes_there_and_back(policy, image_size):
    """A ramp of positions returns each pixel its own position, within a network pixel."""
    network_size = (48, 64)
    y, x = np.mgrid[: image_size[0], : image_size[1]]
    positions = 3 * np.dstack([y, x, y]).astype(np.uint8)
    placement = place(policy, image_size, network_size)
    seen = to_network(positions, placement, np.zeros(network_size + (3,), np.uint8))
    top, left, height, width = placement.image_box
    inside = (slice(top, top + height), slice(left, left + width))
    for channel, axis, extent in ((0, 0, height), (1, 1, width)):
        step = extent / float(placement.network_box[2 + axis])
        back = NearestMapper(placement)(
            np.ascontiguousarray(seen[..., channel]), np.zeros(image_size, np.uint8), OUTSIDE
        )
        shift = (back[inside].astype(float) - positions[inside][..., channel]) / 3
        assert np.abs(shift).max() <= 0.5 * max(step, 1.0) + 0.4
        assert abs(shift.mean()) < 0.2  # ties go to the later pixel


def test_what_crop_cuts_away_is_outside():
    placement = place("crop", (4, 12), (4, 6))
    found = NearestMapper(placement)(np.ones((4, 6), np.uint8), np.zeros((4, 12), np.uint8), 255)
    assert (found[:, :3] == 255).all() and (found[:, 9:] == 255).all()
    assert (found[:, 3:9] == 1).all()


@pytest.mark.parametrize("image_size", [(40, 90), (90, 40), (4, 9), (9, 4)])
def test_letterbox_leaves_the_border_as_it_was(image_size):
    placement = place("letterbox", image_size, (30, 30))
    seen = np.full((30, 30, 3), 77, np.uint8)
    to_network(np.full(image_size + (3,), 10, np.uint8), placement, seen)
    top, left, height, width = placement.network_box
    expected = np.full((30, 30, 3), 77, np.uint8)
    expected[top : top + height, left : left + width] = 10
    np.testing.assert_array_equal(seen, expected)
    assert (expected == 77).any()


def test_an_image_of_the_networks_size_is_copied():
    image = np.random.RandomState(4).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    seen = to_network(image, place("stretch", (5, 7), (5, 7)), np.zeros((5, 7, 3), np.uint8))
    np.testing.assert_array_equal(seen, image)


def test_colours_are_the_palettes():
    palette = CITYSCAPES_19.palette()
    class_map = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(colourise(class_map, palette), palette[class_map])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("size", [(33, 47), (1, 1)])
@pytest.mark.parametrize("unlabelled", [0.0, 0.3, 1.0])
def test_blend_is_the_weighted_mean(alpha, unlabelled, size):
    rng = np.random.RandomState(5)
    image = rng.randint(0, 256, size + (3,)).astype(np.uint8)
    class_map = rng.randint(0, 19, size).astype(np.uint8)
    class_map[rng.rand(*size) < unlabelled] = 255
    palette = CITYSCAPES_19.palette()
    expected = (1 - alpha) * image + alpha * palette[class_map].astype(float)
    hidden = class_map == 255
    expected[hidden] = image[hidden]
    found = blend(image, class_map, palette, alpha)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.0
    np.testing.assert_array_equal(found[hidden], image[hidden])


def test_blend_writes_into_the_given_array():
    image, class_map = np.full((4, 6, 3), 90, np.uint8), np.zeros((4, 6), np.uint8)
    palette, out = CITYSCAPES_19.palette(), np.zeros((4, 6, 3), np.uint8)
    blend(image, class_map, palette, 0.5, out)
    np.testing.assert_array_equal(out, blend(image, class_map, palette, 0.5))
    assert (image == 90).all() and out.any()
