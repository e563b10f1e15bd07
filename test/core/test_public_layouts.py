"""Public data sets whose classes are built in, by the links that docs/own_data.md makes."""

import os
import shutil

import cv2
import numpy as np
import pytest

import segmentation_node
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.labels import LABEL_SETS

LABELS = os.path.join(os.path.dirname(segmentation_node.__file__), "label_sets")
# Label set, split, folders of its pictures and of its labels, and ids with what they mean.
PUBLIC = [
    (
        "ade20k150",
        "validation",
        "images/validation",
        "annotations/validation",
        {0: None, 1: "wall", 13: "person", 150: "flag"},
    ),
    (
        "cocostuff171",
        "val2017",
        "val2017",
        "stuffthingmaps/val2017",
        {0: "person", 89: "toothbrush", 91: "banner", 181: "wood", 255: None},
    ),
    (
        "mapillary65",
        "training",
        "training/images",
        "training/v1.2/labels",
        {0: "bird", 13: "road", 65: None},
    ),
]


@pytest.mark.parametrize("name, split, pictures, labels, meanings", PUBLIC)
def test_links_make_it_a_folder_of_the_built_in_classes(
    name, split, pictures, labels, meanings, tmp_path
):
    ids = np.array([list(meanings)], np.uint8)
    for folder, stem, pixels in (
        (pictures, "one.jpg", np.zeros(ids.shape + (3,), np.uint8)),
        (labels, "one.png", ids),
    ):
        (tmp_path / "public" / folder).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "public" / folder / stem), pixels)
    for own, folder in (("images", pictures), ("labels", labels)):
        (tmp_path / "root" / own).mkdir(parents=True)
        (tmp_path / "root" / own / split).symlink_to(tmp_path / "public" / folder)
    shutil.copy(os.path.join(LABELS, name + ".yaml"), str(tmp_path / "root" / "labels.yaml"))
    dataset = open_dataset("folder", str(tmp_path / "root"), split)
    assert dataset.label_set == LABEL_SETS[name]  # a network of that set is scored by class
    names = dataset.label_set.names
    found = [names[item] if item < len(names) else None for item in dataset[0].truth_hw[0]]
    assert found == list(meanings.values())
