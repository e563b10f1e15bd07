"""CamVid as SegNet's authors packed it: 480x360, eleven classes, void = 11."""

import os
import re
from typing import Dict, List

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
# A split's name -> its images' folder, its drive, and whether it is that drive or all others.
_DRIVE_SPLITS = {
    "train_0001TP": ("train", "0001TP", True),
    "train_without_0001TP": ("train", "0001TP", False),
    "train_0006R0": ("train", "0006R0", True),
    "train_without_0006R0": ("train", "0006R0", False),
}
LAYOUT = "CamVid in SegNet's layout: ROOT/{train,val,test} and ROOT/{train,val,test}annot"


class CamVid(Dataset):
    """``ROOT/SPLIT/*.png`` with labels of the same name in ``ROOT/SPLITannot``.

    ``ROOT/SPLIT.txt``, where present, chooses and orders the images; only file names count in
    it, with or without their ending, because the published lists carry their authors' absolute
    paths. ``train_DRIVE`` and
    ``train_without_DRIVE`` divide train by drive: its images' names begin with it.
    """

    label_set = CAMVID_11
    splits = ("train", "val", "test") + tuple(_DRIVE_SPLITS)

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.folder, drive, is_kept = _DRIVE_SPLITS.get(split, (split, "", True))
        self.images_folder = os.path.join(root, self.folder)
        self.labels_folder = os.path.join(root, self.folder + "annot")
        require_folder(self.images_folder, LAYOUT)
        require_folder(self.labels_folder, LAYOUT)
        self._lines: Dict[str, str] = {}
        names = self._listed() or self._found()
        self.file_names = [name for name in names if name.startswith(drive) == is_kept]
        if not self.file_names:
            raise DatasetError("%s: no PNG images; expected %s" % (self.images_folder, LAYOUT))

    def __len__(self) -> int:
        return len(self.file_names)

    def sample_name(self, index: int) -> str:
        return self.file_names[index]

    def __getitem__(self, index: int) -> Frame:
        file_name = self.file_names[index]
        image_path = os.path.join(self.images_folder, file_name)
        if not os.path.isfile(image_path) and file_name in self._lines:
            raise DatasetError("%s: no such file; %s" % (image_path, self._lines[file_name]))
        image = read_image(image_path)
        labels_path = os.path.join(self.labels_folder, file_name)
        return Frame(file_name, image, read_labels(labels_path, self.label_set, image))

    def _listed(self) -> List[str]:
        list_path = os.path.join(self.root, self.folder + ".txt")
        if not os.path.isfile(list_path):
            return []
        names = []
        with open(list_path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    names.append(_listed_name(line))
                    self._lines[names[-1]] = "it is asked for by %s, line %d" % (list_path, number)
        return names

    def _found(self) -> List[str]:
        return [name for name in names_in(self.images_folder) if name.endswith(".png")]


def _listed_name(line: str) -> str:
    """The image's name in a line: its path, or its stem, and perhaps the labels' path behind it."""
    first = re.match(r"\s*(.*?\.png)(?:\s|$)", line)
    path = first.group(1) if first else line.split()[0] + ".png"
    return re.split(r"[/\\]", path)[-1]
