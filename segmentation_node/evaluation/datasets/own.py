"""Data of one's own: the folder, not the code, says which classes and which splits there are."""

import hashlib
import os
import re
from typing import Any, Dict, List, Tuple

import numpy as np

from segmentation_node.errors import DatasetError, LabelsError
from segmentation_node.evaluation.datasets.base import (
    FileDataset,
    Files,
    SampleFiles,
    paired,
    require_folder,
)
from segmentation_node.evaluation.datasets.files import (
    in_order,
    left_out,
    names_in,
    read_list,
    read_text,
)
from segmentation_node.evaluation.datasets.masks import BLACK, Color, read_mask
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


class PairedPictures(FileDataset):
    """Pictures and label images of the same stem, in classes that the folder may name itself."""

    void_colors: Tuple[Color, ...] = (BLACK,)

    def name_on_card(self, name: str) -> str:
        """With the folder's name, and a digest of the names and sizes of the split's files."""
        digest = hashlib.blake2b(digest_size=4)
        for sample in self.samples:
            sizes = _bytes_in(sample.image), _bytes_in(sample.labels)
            digest.update(repr((sample.name, sizes)).encode("utf-8", "backslashreplace"))
        folder = os.path.basename(os.path.realpath(self.root))
        return "%s %s %s" % (name, folder, digest.hexdigest())

    def _read_labels(self, path: str, image_hwc: np.ndarray) -> np.ndarray:
        return read_mask(path, self.label_set, image_hwc, self.void_colors)


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

    def _find(self) -> List[SampleFiles]:
        self.label_set = self._read_label_set()
        images = _pictures(os.path.join(self.root, "images", self.split), ".png (or .jpg, ...)")
        labels = _pictures(os.path.join(self.root, "labels", self.split))
        samples = paired(images, labels, FOLDER_LAYOUT)
        self.notes = images.left_out() + labels.left_out()
        splits = self.splits_in(self.root)
        for folder in (os.path.join(self.root, name) for name in ("images", "labels")):
            strays = [name for name in names_in(folder) if name not in splits]
            self.notes += left_out(folder, "in no split", strays)
        return samples


class Voc(PairedPictures):
    """``ROOT/JPEGImages`` and ``ROOT/SegmentationClass``, as VOC, CVAT and others have them.

    ``ROOT/ImageSets/Segmentation/SPLIT.txt`` lists the stems of a split; ``ROOT/labelmap.txt``
    (``name:r,g,b:parts:actions`` a line; the id is the line's place) the classes, VOC's own 21
    without it.
    """

    void_colors = (BLACK, VOC_BORDER)

    @classmethod
    def splits_in(cls, root: str) -> Tuple[str, ...]:
        lists = cls._lists_in(root)
        if not lists.keys():
            raise DatasetError("%s: no lists *.txt; expected %s" % (lists.folder, VOC_LAYOUT))
        return tuple(in_order(lists.keys()))

    @classmethod
    def _lists_in(cls, root: str) -> Files:
        folder = os.path.join(root, "ImageSets", "Segmentation")
        require_folder(folder, VOC_LAYOUT)
        return Files(folder, ".txt", find=names_in)

    def _find(self) -> List[SampleFiles]:
        path = os.path.join(self.root, "labelmap.txt")
        self.label_set = _read_labelmap(path) if os.path.lexists(path) else LABEL_SETS["voc21"]
        images = _pictures(os.path.join(self.root, "JPEGImages"), ".jpg (or .png, ...)")
        labels = _pictures(os.path.join(self.root, "SegmentationClass"))
        lists = self._lists_in(self.root)
        stems = {split: read_list(lists.only(split), _stem) for split in lists.keys()}
        if not stems[self.split]:
            raise DatasetError(
                "%s: lists no picture; expected %s" % (lists.path(self.split), VOC_LAYOUT)
            )
        # JPEGImages holds more by design: VOC's own pictures for detection.
        unlisted = in_order(labels.keys().difference(*stems.values()))
        self.notes = lists.left_out() + images.left_out() + labels.left_out()
        self.notes += left_out(labels.folder, "in no list", unlisted)
        return paired(images, labels, VOC_LAYOUT, stems[self.split])


def _bytes_in(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _stem(line: str) -> str:
    return line.strip('"')


def _read_labelmap(path: str) -> LabelSet:
    """The classes of a ``labelmap.txt``; a colour that is left out is VOC's for the place."""
    classes: List[Dict[str, Any]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LABELMAP_LINE.match(text)
        if match is None:
            raise DatasetError(
                "%s, line %d: found %.80r, expected name:r,g,b:parts:actions" % (path, number, text)
            )
        name, color = match.group(1), match.groups()[1:]
        rgb = map(int, color) if color[0] else default_color(len(classes) - 1)
        classes.append({"name": name, "color": list(rgb)})
    folder = os.path.basename(os.path.dirname(os.path.realpath(path)))
    return parse_label_set({"name": folder + "/labelmap.txt", "classes": classes}, path)


def _pictures(folder: str, wanted: str = ".png") -> Files:
    return Files(folder, *ENDINGS, wanted=wanted)
