"""Data of one's own: the folder, not the code, says which classes and which splits there are."""

import os
import re
from typing import Any, Dict, List, NamedTuple, Tuple

from segmentation_node.errors import DatasetError, LabelsError
from segmentation_node.evaluation.datasets.base import Dataset, read_image, require_folder
from segmentation_node.evaluation.datasets.listing import files_below, in_order, left_out, names_in
from segmentation_node.evaluation.datasets.masks import BLACK, Color, read_mask
from segmentation_node.evaluation.frame import Frame
from segmentation_node.labels import (
    LABEL_SETS,
    LabelSet,
    default_color,
    is_built_in,
    parse_label_set,
    read_label_set,
)
from segmentation_node.pictures import ENDINGS

FOLDER_LAYOUT = (
    "pictures of one's own: ROOT/labels.yaml, ROOT/images/SPLIT/STEM.png (or jpg, ...) and "
    "ROOT/labels/SPLIT/STEM.png"
)
VOC_LAYOUT = (
    "VOC's layout: ROOT/JPEGImages/STEM.jpg, ROOT/SegmentationClass/STEM.png, "
    "ROOT/ImageSets/Segmentation/SPLIT.txt and, for other classes than VOC's, ROOT/labelmap.txt"
)
VOC_BORDER = (224, 224, 192)
"""What VOC's own colour map gives to 255, the border between objects."""
_LABELMAP_LINE = re.compile(r"([^:]+)(?::(?:(\d{1,3}),(\d{1,3}),(\d{1,3}))?(?::.*)?)?$")


class Pair(NamedTuple):
    """The files of one sample; ``asked_by`` says why a missing one is missed."""

    name: str
    images: List[str]
    labels: List[str]
    asked_by: str


class PairedPictures(Dataset):
    """Pictures and label images of the same stem.

    A sample whose one file is missing, or there twice, raises DatasetError when it is read, as a
    broken picture does. ``notes`` names the files that belong to no sample.
    """

    void_colors: Tuple[Color, ...] = (BLACK,)
    images_folder: str
    labels_folder: str

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.label_set = self._read_label_set()
        self.pairs = self._find()

    def _read_label_set(self) -> LabelSet:
        raise NotImplementedError

    def _find(self) -> List[Pair]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_name(self, index: int) -> str:
        return self.pairs[index].name

    def __getitem__(self, index: int) -> Frame:
        pair = self.pairs[index]
        stem = os.path.join(self.images_folder, pair.name)
        image = read_image(_only(pair.images, stem + ".png (or .jpg, ...)", pair.asked_by))
        labels_path = os.path.join(self.labels_folder, pair.name + ".png")
        labels_path = _only(pair.labels, labels_path, pair.asked_by)
        labels = read_mask(labels_path, self.label_set, image, self.void_colors)
        return Frame(pair.name, image, labels)


class Folder(PairedPictures):
    """``ROOT/images/SPLIT/STEM.png`` with labels of the same stem in ``ROOT/labels/SPLIT``.

    ``ROOT/labels.yaml`` is the label set; the splits are the folders in ``ROOT/images``.
    """

    @classmethod
    def splits_in(cls, root: str) -> Tuple[str, ...]:
        folder = os.path.join(root, "images")
        require_folder(folder, FOLDER_LAYOUT)
        found = [name for name in names_in(folder) if os.path.isdir(os.path.join(folder, name))]
        if not found:
            raise DatasetError("%s: no split's folder in it; expected %s" % (folder, FOLDER_LAYOUT))
        return tuple(found)

    def _read_label_set(self) -> LabelSet:
        path = os.path.join(self.root, "labels.yaml")
        if not os.path.isfile(path):
            raise DatasetError("%s: no such file; expected %s" % (path, FOLDER_LAYOUT))
        labels = read_label_set(path)
        if labels.name in LABEL_SETS and not is_built_in(labels):
            raise LabelsError(
                "%s: the name %r is that of a built-in label set with other classes; choose "
                "another" % (path, labels.name)
            )
        return labels

    def _find(self) -> List[Pair]:
        self.images_folder = os.path.join(self.root, "images", self.split)
        self.labels_folder = os.path.join(self.root, "labels", self.split)
        images, others = _by_stem(self.images_folder, FOLDER_LAYOUT)
        labels, more = _by_stem(self.labels_folder, FOLDER_LAYOUT)
        if not images:
            raise DatasetError(
                "%s: no pictures (%s); expected %s"
                % (self.images_folder, ", ".join(ENDINGS), FOLDER_LAYOUT)
            )
        self.notes = left_out(self.images_folder, "no pictures", others)
        self.notes += left_out(self.labels_folder, "no pictures", more)
        splits = self.splits_in(self.root)
        for folder in (os.path.join(self.root, name) for name in ("images", "labels")):
            strays = [name for name in names_in(folder) if name not in splits]
            self.notes += left_out(folder, "in no split", strays)
        return [
            Pair(
                stem,
                images.get(stem, []),
                labels.get(stem, []),
                "%s is there" % (images.get(stem) or labels[stem])[0],
            )
            for stem in in_order(set(images) | set(labels))
        ]


class Voc(PairedPictures):
    """``ROOT/JPEGImages`` and ``ROOT/SegmentationClass``, as VOC, CVAT and others have them.

    ``ROOT/ImageSets/Segmentation/SPLIT.txt`` lists the stems of a split; ``ROOT/labelmap.txt``
    (``name:r,g,b:parts:actions`` a line; the id is the line's place) the classes, VOC's own 21
    without it.
    """

    void_colors = (BLACK, VOC_BORDER)

    @classmethod
    def splits_in(cls, root: str) -> Tuple[str, ...]:
        folder = os.path.join(root, "ImageSets", "Segmentation")
        require_folder(folder, VOC_LAYOUT)
        found = tuple(name[:-4] for name in names_in(folder) if name.endswith(".txt"))
        if not found:
            raise DatasetError("%s: no lists *.txt; expected %s" % (folder, VOC_LAYOUT))
        return found

    def _read_label_set(self) -> LabelSet:
        path = os.path.join(self.root, "labelmap.txt")
        return _read_labelmap(path) if os.path.isfile(path) else LABEL_SETS["voc21"]

    def _find(self) -> List[Pair]:
        self.images_folder = os.path.join(self.root, "JPEGImages")
        self.labels_folder = os.path.join(self.root, "SegmentationClass")
        images, _ = _by_stem(self.images_folder, VOC_LAYOUT)
        labels, others = _by_stem(self.labels_folder, VOC_LAYOUT)
        lists = {split: self._listed(split) for split in self.splits_in(self.root)}
        # JPEGImages holds more by design: VOC's own pictures for detection.
        unlisted = in_order(set(labels).difference(*lists.values()))
        self.notes = left_out(self.labels_folder, "no pictures", others)
        self.notes += left_out(self.labels_folder, "in no list", unlisted)
        return [
            Pair(stem, images.get(stem, []), labels.get(stem, []), "%s asks for it" % line)
            for stem, line in lists[self.split].items()
        ]

    def _listed(self, split: str) -> Dict[str, str]:
        """The stems of a split's list in its order; of each the line that names it."""
        path = os.path.join(self.root, "ImageSets", "Segmentation", split + ".txt")
        found: Dict[str, str] = {}
        with open(path, encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                stem = line.strip().strip('"')
                if stem in found:
                    raise DatasetError("%s, line %d: %s is listed twice" % (path, number, stem))
                if stem:
                    found[stem] = "%s, line %d," % (path, number)
        if not found and split == self.split:
            raise DatasetError("%s: lists no picture; expected %s" % (path, VOC_LAYOUT))
        return found


def _read_labelmap(path: str) -> LabelSet:
    """The classes of a ``labelmap.txt``; a colour that is left out is VOC's for the place."""
    classes: List[Dict[str, Any]] = []
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = _LABELMAP_LINE.match(text)
            if match is None:
                raise DatasetError(
                    "%s, line %d: found %.80r, expected name:r,g,b:parts:actions"
                    % (path, number, text)
                )
            name, color = match.group(1), match.groups()[1:]
            rgb = map(int, color) if color[0] else default_color(len(classes) - 1)
            classes.append({"name": name, "color": list(rgb)})
    folder = os.path.basename(os.path.dirname(os.path.realpath(path)))
    return parse_label_set({"name": folder + "/labelmap.txt", "classes": classes}, path)


def _by_stem(folder: str, layout: str) -> Tuple[Dict[str, List[str]], List[str]]:
    """The pictures below a folder by their key, the path in it without ending; and other files."""
    require_folder(folder, layout)
    pictures: Dict[str, List[str]] = {}
    others = []
    for path in files_below(folder):
        stem, ending = os.path.splitext(path)
        if ending.lower() in ENDINGS:
            pictures.setdefault(stem, []).append(os.path.join(folder, path))
        else:
            others.append(path)
    return pictures, others


def _only(found: List[str], wanted: str, asked_by: str) -> str:
    if not found:
        raise DatasetError("%s: no such file, but %s" % (wanted, asked_by))
    if len(found) > 1:
        raise DatasetError("%s: %s has the same stem; keep one of them" % (found[0], found[1]))
    return found[0]
