"""CamVid as SegNet's authors packed it: 480x360, eleven classes, void = 11."""

import os
from typing import List

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import (
    Dataset,
    read_image,
    read_labels,
    require_folder,
)
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
    it, because the published lists carry their authors' absolute paths. ``train_DRIVE`` and
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
        image = read_image(os.path.join(self.images_folder, file_name))
        labels_path = os.path.join(self.labels_folder, file_name)
        return Frame(file_name, image, read_labels(labels_path, self.label_set, image))

    def _listed(self) -> List[str]:
        list_path = os.path.join(self.root, self.folder + ".txt")
        if not os.path.isfile(list_path):
            return []
        with open(list_path) as lines:
            return [os.path.basename(line.split()[0]) for line in lines if line.strip()]

    def _found(self) -> List[str]:
        return sorted(name for name in os.listdir(self.images_folder) if name.endswith(".png"))
