"""Label sets: class names, colours, categories, and data-set id -> train id; groupings of classes.

The one place that knows what a class id means. A train id is the index of a class in its
label set; ``UNLABELLED`` (255) marks pixels without a class, in ground truth and in class maps.
A label set is a file; those of ``label_sets/`` are named by their stem.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.errors import ContentError, LabelsError, shown
from segmentation_node.yaml_and_json import read_yaml

UNLABELLED = 255
MOST_CLASSES = UNLABELLED
LONGEST_NAME = 200
HIGHEST_DATASET_ID = 65535
"""Label images are of 8 or 16 bits."""

CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
REST = "*"
"""In a grouping: every class that no other group names."""

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "label_sets")
_ENDING = ".yaml"
_KEYS = ("name", "ignored_ids", "classes")
_CLASS_KEYS = ("name", "id", "color", "category")


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, its category (may be empty) and its colour (R, G, B; 0-255)."""

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

    @property
    def has_categories(self) -> bool:
        """Whether its classes have categories: all or none do."""
        return all(item.category in CATEGORIES for item in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def ids_of(self, names: Sequence[str]) -> Tuple[int, ...]:
        """Train ids of these class names. Raises LabelsError on one that there is none of."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise LabelsError(
                "%s has no class %s; its classes are %s"
                % (self.name, shown(unknown[0]), ", ".join(self.names))
            )
        return tuple(self.names.index(name) for name in names)

    def palette(self) -> np.ndarray:
        """Colours by train id: uint8 (256, 3) RGB; ids without a class are black."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self)] = [item.color_rgb for item in self.classes]
        return colors

    def category_lut(self) -> np.ndarray:
        """Category index (position in ``CATEGORIES``) by train id: uint8 (256,).

        A class without a category gives 255; an id that is no class stays none (254).
        """
        lut = np.full(256, UNLABELLED, np.uint8)
        lut[len(self) : UNLABELLED] = UNLABELLED - 1
        for train_id, item in enumerate(self.classes):
            if item.category in CATEGORIES:
                lut[train_id] = CATEGORIES.index(item.category)
        return lut

    def train_id_lut(self) -> np.ndarray:
        """Train id by data-set id: uint8 (65536,); ids without a class give ``UNLABELLED``."""
        lut = np.full(HIGHEST_DATASET_ID + 1, UNLABELLED, np.uint8)
        lut[list(self.dataset_ids)] = list(self.dataset_ids.values())
        return lut

    def to_train_ids(self, dataset_ids_hw: np.ndarray) -> np.ndarray:
        """Turn a label image of data-set ids, uint8 or uint16 (H, W), into train ids, uint8 (H, W).

        Raises ValueError where the image holds an id that the data set does not define.
        """
        ids = np.ascontiguousarray(dataset_ids_hw)
        lut = self.train_id_lut()
        is_unknown = np.ones(HIGHEST_DATASET_ID + 1, np.uint8)
        is_unknown[list(self.known_dataset_ids)] = 0
        if _looked_up(ids, is_unknown).any():
            unknown = sorted(set(np.unique(ids).tolist()) - set(self.known_dataset_ids))
            raise ValueError(
                "label ids %s are out of range for %s; expected ids among %s"
                % (shown(unknown), self.name, list(self.known_dataset_ids))
            )
        return _looked_up(ids, lut)

    def in_train_ids(self) -> "LabelSet":
        """The same classes, for label images that hold the train ids themselves."""
        ids = {train_id: train_id for train_id in range(len(self))}
        return replace(self, dataset_ids=ids, known_dataset_ids=tuple(ids) + (UNLABELLED,))


@dataclass(frozen=True)
class Grouping:
    """Classes folded into fewer: by group, the names of its classes, or ``REST``."""

    name: str
    groups: Dict[str, Tuple[str, ...]]

    def fold(self, labels: LabelSet) -> Tuple[LabelSet, np.ndarray]:
        """The groups as a label set, and the group's train id by train id: uint8 (256,).

        A group has the colour of the first of its classes. Classes in no group are unlabelled; an
        id that is no class stays none (254).
        A group may name classes of several label sets. Raises LabelsError when a group holds none
        of these classes.
        """
        named = {name for members in self.groups.values() for name in members}
        lut = np.full(256, UNLABELLED, np.uint8)
        lut[len(labels) : UNLABELLED] = UNLABELLED - 1
        classes = []
        for index, (group, members) in enumerate(self.groups.items()):
            if members == (REST,):
                found = [i for i, name in enumerate(labels.names) if name not in named]
            else:
                found = [labels.names.index(name) for name in members if name in labels.names]
            if not found and members != (REST,):
                raise LabelsError(
                    "grouping %s: group %r holds no class of %s: it names %s; the classes are %s"
                    % (self.name, group, labels.name, list(members), list(labels.names))
                )
            lut[found] = index
            first = labels.classes[found[0]].color_rgb if found else default_color(index)
            classes.append(LabelClass(group, "", first))
        ids = {index: index for index in range(len(classes))}
        return LabelSet(self.name, tuple(classes), ids, tuple(ids) + (UNLABELLED,)), lut

    def has_made(self, labels: LabelSet) -> bool:
        """Whether this label set holds this grouping's groups already."""
        return labels.names == tuple(self.groups)

    def unused(self, *label_sets: LabelSet) -> List[str]:
        """Names in the groups that none of these label sets has: other people's, or mistyped."""
        known = {name for labels in label_sets for name in labels.names} | {REST}
        return [name for members in self.groups.values() for name in members if name not in known]


def default_color(train_id: int) -> Tuple[int, int, int]:
    """The colour (R, G, B) of a class whose file gives none; never black, no two alike.

    Pascal VOC's colour map from its second entry on: the bits of the number, dealt to the channels
    from the highest bit down.
    """
    number = train_id + 1
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def read_label_set(path: str) -> LabelSet:
    """The label set of a ``labels.yaml``. Raises LabelsError, one line."""
    return parse_label_set(_read_yaml(path), path)


def parse_label_set(values: Any, source: str) -> LabelSet:
    """The label set that a file's content describes; errors begin with ``source``.

    Raises LabelsError: unknown keys, no or too many classes, a name or an id that is there twice,
    a colour that is none, categories for a part of the classes only.
    """
    _check_keys(values, _KEYS, source, "the label set")
    name, entries = _text(values.get("name"), source, "name"), values.get("classes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_CLASSES:
        raise LabelsError(
            "%s: classes must be a list of 1 to %d classes, found %s"
            % (source, MOST_CLASSES, shown(entries))
        )
    classes: List[LabelClass] = []
    ids: Dict[int, int] = {}
    for train_id, entry in enumerate(entries):
        item, dataset_id = _parse_class(entry, train_id, source)
        if item.name in (other.name for other in classes):
            raise LabelsError("%s: two classes are called %r" % (source, item.name))
        if dataset_id in ids:
            raise LabelsError(
                "%s: classes %r and %r have the id %d"
                % (source, classes[ids[dataset_id]].name, item.name, dataset_id)
            )
        classes.append(item)
        ids[dataset_id] = train_id
    with_category = [item.name for item in classes if item.category]
    if with_category and len(with_category) < len(classes):
        lacking = next(item.name for item in classes if not item.category)
        raise LabelsError(
            "%s: class %r has a category and %r has none; give one to each or to none"
            % (source, with_category[0], lacking)
        )
    ignored = _ignored_ids(values.get("ignored_ids", [UNLABELLED]), ids, classes, source)
    return LabelSet(name, tuple(classes), ids, tuple(sorted(set(ids) | set(ignored))))


def told_label_set(message: Any) -> LabelSet:
    """The label set that a segmentation_msgs/LabelInfo, of whatever binding, tells of.

    A built-in one where it has its name. Raises LabelsError where that has other classes, and where
    the ids do not count from 0.
    """
    name = message.label_set
    classes = []
    for item in message.classes:
        red, green, blue = (int(value) for value in item.color_rgb)
        classes.append(LabelClass(item.name, item.category, (red, green, blue)))
    names = [item.name for item in classes]
    if name in LABEL_SETS:
        if list(LABEL_SETS[name].names) != names:
            raise LabelsError(
                "the label set %r has the classes %s, this version's has %s"
                % (name, shown(names), list(LABEL_SETS[name].names))
            )
        return LABEL_SETS[name]
    if not classes or [int(item.id) for item in message.classes] != list(range(len(classes))):
        raise LabelsError("the label set %s does not number its classes from 0" % shown(name))
    return LabelSet(name, tuple(classes), {0: 0}, (0,)).in_train_ids()


def describe(labels: LabelSet) -> Dict[str, Any]:
    """The content of a file that ``parse_label_set`` turns into this label set again."""
    id_of = {train_id: dataset_id for dataset_id, train_id in labels.dataset_ids.items()}
    classes = []
    for train_id, item in enumerate(labels.classes):
        entry = {"name": item.name, "id": id_of[train_id], "color": list(item.color_rgb)}
        if item.category:
            entry["category"] = item.category
        classes.append(entry)
    ignored = sorted(set(labels.known_dataset_ids) - set(labels.dataset_ids))
    return {"name": labels.name, "ignored_ids": ignored, "classes": classes}


def read_grouping(path: str) -> Grouping:
    """The grouping of a file ``{name, groups: {group: [class, ...] or "*"}}``.

    Raises LabelsError, one line.
    """
    values = _read_yaml(path)
    _check_keys(values, ("name", "groups"), path, "the grouping")
    groups = values.get("groups")
    if not isinstance(groups, dict) or not 1 <= len(groups) <= MOST_CLASSES:
        raise LabelsError("%s: groups must map 1 to %d names to classes" % (path, MOST_CLASSES))
    parsed: Dict[str, Tuple[str, ...]] = {}
    group_of: Dict[str, str] = {}
    for group, members in groups.items():
        key = "groups.%s" % _text(group, path, "a group's name")
        if isinstance(members, str):
            members = [members]
        if not isinstance(members, list) or not members or (REST in members and len(members) > 1):
            raise LabelsError('%s: %s must be a list of class names, or "*" alone' % (path, key))
        for member in members:
            if group_of.setdefault(_text(member, path, key), group) != group:
                raise LabelsError(
                    "%s: %r is in the groups %r and %r" % (path, member, group_of[member], group)
                )
        parsed[group] = tuple(members)
    return Grouping(_text(values.get("name"), path, "name"), parsed)


class _BuiltIn(Mapping):
    """The label sets of ``label_sets/`` by name, each read when it is asked for."""

    def __init__(self) -> None:
        self._read: Dict[str, LabelSet] = {}

    def __getitem__(self, name: str) -> LabelSet:
        if name not in self._read:
            if name not in list(self):
                raise KeyError(name)
            self._read[name] = read_label_set(os.path.join(_FOLDER, name + _ENDING))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        names = sorted(os.listdir(_FOLDER))
        return (name[: -len(_ENDING)] for name in names if name.endswith(_ENDING))

    def __len__(self) -> int:
        return len(list(iter(self)))


def label_set_by_name(name: str) -> LabelSet:
    """A built-in label set by its name, or that of a file by its path.

    Raises LabelsError that lists the known names, or says what is wrong with the file.
    """
    if name in LABEL_SETS:
        return LABEL_SETS[name]
    if name.endswith((_ENDING, ".yml")) or os.path.isfile(name):
        return read_label_set(name)
    raise LabelsError(
        "unknown label set %r; known: %s, or the path of a labels.yaml"
        % (name, ", ".join(LABEL_SETS))
    )


def is_built_in(labels: LabelSet) -> bool:
    """Whether a built-in label set has its name and its classes, whatever ids label images hold."""
    return labels.name in LABEL_SETS and labels.classes == LABEL_SETS[labels.name].classes


def _looked_up(ids_hw: np.ndarray, lut: np.ndarray) -> np.ndarray:
    return cv2.LUT(ids_hw, lut[:256]) if ids_hw.dtype == np.uint8 else lut[ids_hw]


def _read_yaml(path: str) -> Any:
    try:
        return read_yaml(path)
    except ContentError as error:
        raise LabelsError(str(error)) from error


def _parse_class(entry: Any, train_id: int, source: str) -> Tuple[LabelClass, int]:
    where = "classes[%d]" % train_id
    _check_keys(entry, _CLASS_KEYS, source, where)
    name = _text(entry.get("name"), source, where + ".name")
    dataset_id = entry.get("id", train_id)
    if not _is_whole(dataset_id, HIGHEST_DATASET_ID):
        raise LabelsError(
            "%s: the id of %r must be 0 to %d, found %s"
            % (source, name, HIGHEST_DATASET_ID, shown(dataset_id))
        )
    color = entry.get("color", list(default_color(train_id)))
    if not isinstance(color, list) or len(color) != 3 or not all(_is_whole(c, 255) for c in color):
        raise LabelsError(
            "%s: the color of %r must be [R, G, B], 0 to 255, found %s"
            % (source, name, shown(color))
        )
    category = entry.get("category", "")
    if category not in ("",) + CATEGORIES:
        raise LabelsError(
            "%s: the category of %r must be one of %s" % (source, name, ", ".join(CATEGORIES))
        )
    return LabelClass(name, category, (color[0], color[1], color[2])), dataset_id


def _ignored_ids(found: Any, ids: Dict[int, int], classes: List[LabelClass], source: str) -> List:
    if not isinstance(found, list) or not all(_is_whole(i, HIGHEST_DATASET_ID) for i in found):
        raise LabelsError(
            "%s: ignored_ids must be a list of ids, 0 to %d, found %s"
            % (source, HIGHEST_DATASET_ID, shown(found))
        )
    for dataset_id in found:
        if dataset_id in ids:
            raise LabelsError(
                "%s: id %d is ignored, and is that of class %r; ignored_ids, without which %d is "
                "ignored, must leave it out"
                % (source, dataset_id, classes[ids[dataset_id]].name, UNLABELLED)
            )
    return found


def _check_keys(values: Any, known: Tuple[str, ...], source: str, where: str) -> None:
    if not isinstance(values, dict):
        raise LabelsError(
            "%s: %s is no mapping; expected the keys %s" % (source, where, ", ".join(known))
        )
    unknown = [key for key in values if key not in known]
    if unknown:
        raise LabelsError(
            "%s: %s has the unknown key %s; known keys are %s"
            % (source, where, shown(unknown[0]), ", ".join(known))
        )


def _text(value: Any, source: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        hint = "" if value is None or isinstance(value, str) else ": put it into quotes"
        raise LabelsError(
            "%s: %s must be a text of 1 to %d characters, found %s%s"
            % (source, where, LONGEST_NAME, shown(value), hint)
        )
    return value


def _is_whole(value: Any, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


LABEL_SETS = _BuiltIn()
CAMVID_11 = LABEL_SETS["camvid11"]
CITYSCAPES_19 = LABEL_SETS["cityscapes19"]
CITYSCAPES_19_AS_TRAIN_IDS = CITYSCAPES_19.in_train_ids()
"""KITTI-STEP's files hold the train ids themselves."""
