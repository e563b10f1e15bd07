"""CamVid as SegNet's authors packed it: 480x360, eleven classes, void = 11."""

import os
import re
from typing import List, NamedTuple, Tuple

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import (
    Dataset,
    read_image,
    read_labels,
    require_folder,
)
from segmentation_node.evaluation.datasets.listing import names_in
from segmentation_node.evaluation.frame import Frame
from segmentation_node.labels import CAMVID_11

# Val shows a drive that train shows too: choices are checked on a drive kept out of training.
# A split's name -> its images' folders, its drive, and whether it is that drive or all others.
_DERIVED_SPLITS = {
    "trainval": (("train", "val"), "", True),
    "train_0001TP": (("train",), "0001TP", True),
    "train_without_0001TP": (("train",), "0001TP", False),
    "train_0006R0": (("train",), "0006R0", True),
    "train_without_0006R0": (("train",), "0006R0", False),
}
LAYOUT = "CamVid in SegNet's layout: ROOT/{train,val,test} and ROOT/{train,val,test}annot"


class CamVid(Dataset):
    """``ROOT/SPLIT/*.png`` with labels of the same name in ``ROOT/SPLITannot``.

    ``ROOT/SPLIT.txt``, where present, chooses and orders the images; only file names count in
    it, with or without their ending, because the published lists carry their authors' absolute
    paths. ``trainval`` is train, then val. ``train_DRIVE`` and ``train_without_DRIVE`` divide
    train by drive: its images' names begin with it.
    """

    label_set = CAMVID_11
    splits = ("train", "val", "test") + tuple(_DERIVED_SPLITS)

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        folders, drive, is_kept = _DERIVED_SPLITS.get(split, ((split,), "", True))
        self._samples = [
            sample for folder in folders for sample in _samples_of(root, folder, drive, is_kept)
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def sample_name(self, index: int) -> str:
        return self._samples[index].file_name

    def __getitem__(self, index: int) -> Frame:
        sample = self._samples[index]
        if not os.path.isfile(sample.image_path) and sample.asked_by:
            raise DatasetError("%s: no such file; %s" % (sample.image_path, sample.asked_by))
        image = read_image(sample.image_path)
        return Frame(
            sample.file_name, image, read_labels(sample.labels_path, self.label_set, image)
        )


class _Sample(NamedTuple):
    """An image and its labels of the same name; the list's line that asks for it, or none."""

    file_name: str
    image_path: str
    labels_path: str
    asked_by: str


def _samples_of(root: str, folder: str, drive: str, is_kept: bool) -> List[_Sample]:
    """A folder's samples in order, those of ``drive`` or, unless ``is_kept``, all others."""
    images, labels = os.path.join(root, folder), os.path.join(root, folder + "annot")
    require_folder(images, LAYOUT)
    require_folder(labels, LAYOUT)
    names = _listed(images + ".txt") or [(name, "") for name in _found(images)]
    samples = [
        _Sample(name, os.path.join(images, name), os.path.join(labels, name), asked_by)
        for name, asked_by in names
        if name.startswith(drive) == is_kept
    ]
    if not samples:
        raise DatasetError("%s: no PNG images; expected %s" % (images, LAYOUT))
    return samples


def _listed(list_path: str) -> List[Tuple[str, str]]:
    """The names that a list file asks for, and where it does; none without the file."""
    if not os.path.isfile(list_path):
        return []
    with open(list_path, encoding="utf-8", errors="replace") as lines:
        return [
            (_listed_name(line), "it is asked for by %s, line %d" % (list_path, number))
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]


def _found(folder: str) -> List[str]:
    return [name for name in names_in(folder) if name.endswith(".png")]


def _listed_name(line: str) -> str:
    """The image's name in a line: its path, or its stem, and perhaps the labels' path behind it."""
    first = re.match(r"\s*(.*?\.png)(?:\s|$)", line)
    path = first.group(1) if first else line.split()[0] + ".png"
    return re.split(r"[/\\]", path)[-1]
