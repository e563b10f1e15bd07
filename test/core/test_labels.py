"""Label sets against tables written out by hand from the data sets' own definitions."""

import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node.errors import LabelsError
from segmentation_node.labels import (
    CAMVID_11,
    CATEGORIES,
    CITYSCAPES_19,
    LABEL_SETS,
    UNLABELLED,
    default_color,
    describe,
    label_set_by_name,
    parse_label_set,
    read_grouping,
    read_label_set,
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
    assert (lut[len(rows) : UNLABELLED] == 254).all() and lut[UNLABELLED] == UNLABELLED


YARD = """
name: yard
ignored_ids: [9, 255]
classes:
  - {name: ground, id: 1, color: [128, 64, 128]}
  - {name: rack, id: 300}
  - {name: person, id: 2}
"""


def labels_of(text, tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read_label_set(str(path))


def test_the_built_in_label_sets_are_there_and_whole():
    sizes = {"ade20k150": 150, "camvid11": 11, "cityscapes19": 19, "cocostuff171": 171}
    sizes.update(mapillary65=65, voc21=21)
    assert {name: len(labels) for name, labels in LABEL_SETS.items()} == sizes
    for name, labels in LABEL_SETS.items():
        assert labels.name == name and label_set_by_name(name) is labels
        assert len(set(labels.names)) == len(labels)


@pytest.mark.parametrize(
    "name, dataset_id, class_name",
    [
        ("voc21", 15, "person"),
        ("ade20k150", 1, "wall"),
        ("ade20k150", 150, "flag"),
        ("cocostuff171", 0, "person"),
        ("cocostuff171", 181, "wood"),
        ("mapillary65", 13, "road"),
    ],
)
def test_ids_of_public_data_sets(name, dataset_id, class_name):
    """Ids as in SegmentationClass, ADEChallengeData2016, stuffthingmaps and Vistas 1.2."""
    labels = LABEL_SETS[name]
    train_id = int(labels.to_train_ids(np.array([[dataset_id]], np.uint8))[0, 0])
    assert labels.names[train_id] == class_name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError) as caught:
        label_set_by_name("ade20k")
    assert_one_line(caught, "'ade20k'", "camvid11", "cityscapes19", "labels.yaml")


def test_a_file_of_ones_own(tmp_path):
    labels = labels_of(YARD, tmp_path)
    assert (labels.name, labels.names) == ("yard", ("ground", "rack", "person"))
    assert not labels.has_categories and CITYSCAPES_19.has_categories
    ids = np.array([[1, 300, 2, 9, 255]], np.uint16)
    assert labels.to_train_ids(ids).tolist() == [[0, 1, 2, 255, 255]]
    assert labels.to_train_ids(ids[:, [0, 2]].astype(np.uint8)).tolist() == [[0, 2]]
    for unknown in (0, 301, 65535):
        with pytest.raises(ValueError) as caught:
            labels.to_train_ids(np.array([[unknown]], np.uint16))
        assert_one_line(caught, "[%d]" % unknown, "yard")
    assert parse_label_set(describe(labels), "card") == labels
    assert label_set_by_name(str(tmp_path / "labels.yaml")) == labels


def test_colours_that_no_file_gives_differ():
    colors = {default_color(train_id) for train_id in range(255)}
    assert len(colors) == 255 and (0, 0, 0) not in colors
    assert default_color(0) == (128, 0, 0) and default_color(254) == (224, 224, 192)


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("name: rack", "name: ground", ["'ground'", "two"]),
        ("id: 300", "id: 2", ["'rack'", "'person'", "id 2"]),
        ("[9, 255]", "[1, 255]", ["id 1", "'ground'", "ignored"]),
        ("[9, 255]", "[9, x]", ["ignored_ids", "65535"]),
        ("id: 300", "id: 65536", ["'rack'", "65535"]),
        ("id: 300", "id: x", ["'rack'", "65535"]),
        ("id: 300", "id: true", ["'rack'", "65535"]),
        ("[128, 64, 128]", "[128, 64]", ["'ground'", "color"]),
        ("[128, 64, 128]", "[128, 64, 256]", ["'ground'", "color"]),
        ("id: 2}", "id: 2, category: human}", ["'person'", "'ground'", "none"]),
        ("id: 2}", "category: people}", ["'person'", "vehicle"]),
        ("id: 2}", "colour: red}", ["classes[2]", "'colour'"]),
        ("name: yard", "title: yard", ["'title'", "ignored_ids"]),
        ("name: person", "nam: person", ["'nam'"]),
        ("name: yard", "name: 3", ["name", "text", "put it into quotes"]),
        (YARD, "", ["mapping"]),
        (YARD, "- 1", ["mapping"]),
        (YARD, "{name: a, classes: []}", ["1 to 255"]),
        (YARD, "a: [", ["YAML"]),
        (YARD, b"\xff\xfe\x00", ["YAML"]),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, old, new, parts):
    text = new if old is YARD else YARD.replace(old, new)
    with pytest.raises(LabelsError) as caught:
        labels_of(text, tmp_path)
    assert_one_line(caught, "labels.yaml", *parts)


DRIVABLE = """
name: drivable
groups:
  drivable: [road, pavement, sidewalk]
  people: [pedestrian, person, rider, bicyclist]
  other: "*"
"""


def grouping_of(text, tmp_path):
    path = tmp_path / "grouping.yaml"
    path.write_text(text)
    return read_grouping(str(path))


def test_a_grouping_folds_any_label_set_alike(tmp_path):
    grouping = grouping_of(DRIVABLE, tmp_path)
    for labels, drivable, people in (
        (CAMVID_11, {"road", "pavement"}, {"pedestrian", "bicyclist"}),
        (CITYSCAPES_19, {"road", "sidewalk"}, {"person", "rider"}),
    ):
        folded, lut = grouping.fold(labels)
        assert folded.names == ("drivable", "people", "other")
        assert folded.classes[0].color_rgb == (128, 64, 128) and not folded.has_categories
        for train_id, name in enumerate(labels.names):
            assert lut[train_id] == (0 if name in drivable else 1 if name in people else 2)
        assert lut[UNLABELLED] == UNLABELLED and (lut[len(labels) : UNLABELLED] == 254).all()
    assert grouping.unused(CAMVID_11) == ["sidewalk", "person", "rider"]
    assert grouping.unused(CAMVID_11, CITYSCAPES_19) == []


def test_classes_in_no_group_are_unlabelled(tmp_path):
    text = DRIVABLE.replace('  other: "*"\n', "")
    folded, lut = grouping_of(text, tmp_path).fold(CAMVID_11)
    assert len(folded) == 2 and lut[CAMVID_11.names.index("sky")] == UNLABELLED


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("sidewalk", "person", ["'person'", "'drivable'", "'people'"]),
        ('"*"', '["*", sky]', ["groups.other"]),
        ("[road, pavement, sidewalk]", "[]", ["groups.drivable"]),
        ("[road, pavement, sidewalk]", "[3]", ["groups.drivable", "text"]),
        ("groups", "classes", ["'classes'"]),
        (DRIVABLE, "{name: drivable, groups: {}}", ["1 to 255"]),
    ],
)
def test_a_grouping_that_is_wrong_is_one_line(tmp_path, old, new, parts):
    with pytest.raises(LabelsError) as caught:
        grouping_of(DRIVABLE.replace(old, new), tmp_path)
    assert_one_line(caught, "grouping.yaml", *parts)


def test_a_group_without_a_class_of_the_label_set_is_named(tmp_path):
    grouping = grouping_of(DRIVABLE, tmp_path)
    with pytest.raises(LabelsError) as caught:
        grouping.fold(LABEL_SETS["voc21"])
    assert_one_line(caught, "'drivable'", "voc21", "road", "aeroplane")
