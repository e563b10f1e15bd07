"""Label sets against tables written out by hand from the data sets' own definitions."""

import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node.labels import (
    CAMVID_11,
    CATEGORIES,
    CITYSCAPES_19,
    LABEL_SETS,
    UNLABELLED,
    label_set_by_name,
)

# id, train id, name, category, colour
CITYSCAPES_TABLE = [
    (7, 0, "road", "flat", (128, 64, 128)),
    (8, 1, "sidewalk", "flat", (244, 35, 232)),
    (11, 2, "building", "construction", (70, 70, 70)),
    (12, 3, "wall", "construction", (102, 102, 156)),
    (13, 4, "fence", "construction", (190, 153, 153)),
    (17, 5, "pole", "object", (153, 153, 153)),
    (19, 6, "traffic light", "object", (250, 170, 30)),
    (20, 7, "traffic sign", "object", (220, 220, 0)),
    (21, 8, "vegetation", "nature", (107, 142, 35)),
    (22, 9, "terrain", "nature", (152, 251, 152)),
    (23, 10, "sky", "sky", (70, 130, 180)),
    (24, 11, "person", "human", (220, 20, 60)),
    (25, 12, "rider", "human", (255, 0, 0)),
    (26, 13, "car", "vehicle", (0, 0, 142)),
    (27, 14, "truck", "vehicle", (0, 0, 70)),
    (28, 15, "bus", "vehicle", (0, 60, 100)),
    (31, 16, "train", "vehicle", (0, 80, 100)),
    (32, 17, "motorcycle", "vehicle", (0, 0, 230)),
    (33, 18, "bicycle", "vehicle", (119, 11, 32)),
]
# Unlabelled, ego vehicle, ..., rail track, guard rail, ..., trailer; 255 is the licence plate's -1.
CITYSCAPES_WITHOUT_CLASS = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]
CAMVID_TABLE = [
    (0, 0, "sky", "sky", (128, 128, 128)),
    (1, 1, "building", "construction", (128, 0, 0)),
    (2, 2, "pole", "object", (192, 192, 128)),
    (3, 3, "road", "flat", (128, 64, 128)),
    (4, 4, "pavement", "flat", (60, 40, 222)),
    (5, 5, "tree", "nature", (128, 128, 0)),
    (6, 6, "sign symbol", "object", (192, 128, 128)),
    (7, 7, "fence", "construction", (64, 64, 128)),
    (8, 8, "car", "vehicle", (64, 0, 128)),
    (9, 9, "pedestrian", "human", (64, 64, 0)),
    (10, 10, "bicyclist", "human", (0, 128, 192)),
]
CAMVID_WITHOUT_CLASS = [11, 255]
BOTH = pytest.mark.parametrize(
    "label_set, rows, without_class",
    [
        (CITYSCAPES_19, CITYSCAPES_TABLE, CITYSCAPES_WITHOUT_CLASS),
        (CAMVID_11, CAMVID_TABLE, CAMVID_WITHOUT_CLASS),
    ],
    ids=["cityscapes19", "camvid11"],
)


@BOTH
def test_classes_are_those_of_the_data_set(label_set, rows, without_class):
    found = [(item.name, item.category, item.color_rgb) for item in label_set.classes]
    assert found == [row[2:] for row in rows]
    assert len(label_set) == len(rows)
    assert label_set.names == tuple(row[2] for row in rows)


@BOTH
def test_ids_of_the_data_set_become_train_ids(label_set, rows, without_class):
    ids = np.array([[row[0] for row in rows]], np.uint8)
    assert label_set.to_train_ids(ids).tolist() == [[row[1] for row in rows]]


@BOTH
def test_known_ids_without_a_class_become_unlabelled(label_set, rows, without_class):
    train_ids = label_set.to_train_ids(np.array([without_class], np.uint8))
    assert train_ids.dtype == np.uint8
    assert (train_ids == 255).all()


@BOTH
def test_every_other_id_is_out_of_range(label_set, rows, without_class):
    for dataset_id in set(range(256)) - set(without_class) - {row[0] for row in rows}:
        with pytest.raises(ValueError) as caught:
            label_set.to_train_ids(np.array([[rows[0][0], dataset_id]], np.uint8))
        assert_one_line(caught, "[%d]" % dataset_id, "out of range", label_set.name)


@BOTH
def test_palette_holds_the_colours_and_black_elsewhere(label_set, rows, without_class):
    palette = label_set.palette()
    assert palette.dtype == np.uint8 and palette.shape == (256, 3)
    assert [tuple(color) for color in palette[: len(rows)].tolist()] == [row[4] for row in rows]
    assert not palette[len(rows) :].any()


@BOTH
def test_categories_are_cityscapes_seven(label_set, rows, without_class):
    seven = ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
    assert list(CATEGORIES) == seven
    lut = label_set.category_lut()
    assert [seven[index] for index in lut[: len(rows)]] == [row[3] for row in rows]
    assert set(lut[: len(rows)].tolist()) == set(range(7))
    assert (lut[len(rows) :] == UNLABELLED).all()


def test_label_sets_are_found_by_name():
    assert {name: label_set_by_name(name) for name in LABEL_SETS} == LABEL_SETS
    assert sorted(LABEL_SETS) == ["camvid11", "cityscapes19"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError) as caught:
        label_set_by_name("ade20k")
    assert_one_line(caught, "'ade20k'", "camvid11", "cityscapes19")
