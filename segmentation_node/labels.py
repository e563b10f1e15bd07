"""Label sets: class names, colours, categories, and data-set id -> train id.

The one place that knows what a class id means. A train id is the index of a class in its
label set; ``UNLABELLED`` (255) marks pixels without a class, in ground truth and in class maps.

Sources: Cityscapes ids, colours and categories as defined by Cordts et al. 2016; CamVid's eleven
classes, their order and colours as in SegNet (Badrinarayanan et al. 2015).
"""

from dataclasses import dataclass, replace
from typing import Dict, Tuple

import cv2
import numpy as np

UNLABELLED = 255

CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, its Cityscapes category and its colour (R, G, B; 0-255)."""

    name: str
    category: str
    color_rgb: Tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of classes; a class's position is its train id.

    ``dataset_ids`` maps the ids found in the data set's own label images to train ids; an id
    that is missing there is unlabelled when ``known_dataset_ids`` holds it, and an error
    (label out of range) when it does not.
    """

    name: str
    classes: Tuple[LabelClass, ...]
    dataset_ids: Dict[int, int]
    known_dataset_ids: Tuple[int, ...]

    @property
    def names(self) -> Tuple[str, ...]:
        """Class names in train-id order."""
        return tuple(item.name for item in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def palette(self) -> np.ndarray:
        """Colours by train id: uint8 (256, 3) RGB; ids without a class are black."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self)] = [item.color_rgb for item in self.classes]
        return colors

    def category_lut(self) -> np.ndarray:
        """Category index (position in ``CATEGORIES``) by train id: uint8 (256,), else 255."""
        lut = np.full(256, UNLABELLED, np.uint8)
        lut[: len(self)] = [CATEGORIES.index(item.category) for item in self.classes]
        return lut

    def train_id_lut(self) -> np.ndarray:
        """Train id by data-set id: uint8 (256,); ids without a class give ``UNLABELLED``."""
        lut = np.full(256, UNLABELLED, np.uint8)
        for dataset_id, train_id in self.dataset_ids.items():
            lut[dataset_id] = train_id
        return lut

    def to_train_ids(self, dataset_ids_hw: np.ndarray) -> np.ndarray:
        """Turn a label image of data-set ids, uint8 (H, W), into train ids, uint8 (H, W).

        Raises ValueError where the image holds an id that the data set does not define.
        """
        ids = np.ascontiguousarray(dataset_ids_hw)
        is_unknown = np.ones(256, np.uint8)
        is_unknown[list(self.known_dataset_ids)] = 0
        if cv2.LUT(ids, is_unknown).any():
            unknown = sorted(set(np.unique(ids).tolist()) - set(self.known_dataset_ids))
            raise ValueError(
                "label ids %s are out of range for %s; expected ids among %s"
                % (unknown, self.name, list(self.known_dataset_ids))
            )
        return cv2.LUT(ids, self.train_id_lut())


CAMVID_11 = LabelSet(
    name="camvid11",
    classes=(
        LabelClass("sky", "sky", (128, 128, 128)),
        LabelClass("building", "construction", (128, 0, 0)),
        LabelClass("pole", "object", (192, 192, 128)),
        LabelClass("road", "flat", (128, 64, 128)),
        LabelClass("pavement", "flat", (60, 40, 222)),
        LabelClass("tree", "nature", (128, 128, 0)),
        LabelClass("sign symbol", "object", (192, 128, 128)),
        LabelClass("fence", "construction", (64, 64, 128)),
        LabelClass("car", "vehicle", (64, 0, 128)),
        LabelClass("pedestrian", "human", (64, 64, 0)),
        LabelClass("bicyclist", "human", (0, 128, 192)),
    ),
    dataset_ids={index: index for index in range(11)},
    known_dataset_ids=tuple(range(12)) + (UNLABELLED,),
)

CITYSCAPES_19 = LabelSet(
    name="cityscapes19",
    classes=(
        LabelClass("road", "flat", (128, 64, 128)),
        LabelClass("sidewalk", "flat", (244, 35, 232)),
        LabelClass("building", "construction", (70, 70, 70)),
        LabelClass("wall", "construction", (102, 102, 156)),
        LabelClass("fence", "construction", (190, 153, 153)),
        LabelClass("pole", "object", (153, 153, 153)),
        LabelClass("traffic light", "object", (250, 170, 30)),
        LabelClass("traffic sign", "object", (220, 220, 0)),
        LabelClass("vegetation", "nature", (107, 142, 35)),
        LabelClass("terrain", "nature", (152, 251, 152)),
        LabelClass("sky", "sky", (70, 130, 180)),
        LabelClass("person", "human", (220, 20, 60)),
        LabelClass("rider", "human", (255, 0, 0)),
        LabelClass("car", "vehicle", (0, 0, 142)),
        LabelClass("truck", "vehicle", (0, 0, 70)),
        LabelClass("bus", "vehicle", (0, 60, 100)),
        LabelClass("train", "vehicle", (0, 80, 100)),
        LabelClass("motorcycle", "vehicle", (0, 0, 230)),
        LabelClass("bicycle", "vehicle", (119, 11, 32)),
    ),
    dataset_ids={
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
        28: 15,
        31: 16,
        32: 17,
        33: 18,
    },  # fmt: skip
    known_dataset_ids=tuple(range(34)) + (UNLABELLED,),
)

# KITTI-STEP's files hold the train ids themselves.
CITYSCAPES_19_AS_TRAIN_IDS = replace(
    CITYSCAPES_19,
    dataset_ids={index: index for index in range(19)},
    known_dataset_ids=tuple(range(19)) + (UNLABELLED,),
)

LABEL_SETS = {label_set.name: label_set for label_set in (CAMVID_11, CITYSCAPES_19)}


def label_set_by_name(name: str) -> LabelSet:
    """Look a label set up. Raises ValueError that lists the known names."""
    if name not in LABEL_SETS:
        raise ValueError("unknown label set %r; known: %s" % (name, ", ".join(sorted(LABEL_SETS))))
    return LABEL_SETS[name]
