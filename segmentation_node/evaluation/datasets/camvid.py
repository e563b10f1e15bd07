"""CamVid as SegNet's authors packed it: 480x360, eleven classes, void = 11."""

import os
import re
from typing import Dict, List, Optional

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import FileDataset, Files, SampleFiles, paired
from segmentation_node.evaluation.datasets.files import in_order, left_out, names_in, read_list
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


class CamVid(FileDataset):
    """``ROOT/SPLIT/*.png`` with labels of the same name in ``ROOT/SPLITannot``.

    ``ROOT/SPLIT.txt``, where present, chooses and orders the images; only file names count in
    it, with or without their ending, because the published lists carry their authors' absolute
    paths. ``trainval`` is train, then val. ``train_DRIVE`` and ``train_without_DRIVE`` divide
    train by drive: its images' names begin with it.
    """

    label_set = CAMVID_11
    splits = ("train", "val", "test") + tuple(_DERIVED_SPLITS)

    def _find(self) -> List[SampleFiles]:
        folders, drive, is_kept = _DERIVED_SPLITS.get(self.split, ((self.split,), "", True))
        samples = [sample for folder in folders for sample in self._samples_in(folder)]
        kept = [sample for sample in samples if sample.name.startswith(drive) == is_kept]
        if not kept:
            where = " and ".join(os.path.join(self.root, folder) for folder in folders)
            raise DatasetError("%s: no images for %s; expected %s" % (where, self.split, LAYOUT))
        return kept

    def _samples_in(self, folder: str) -> List[SampleFiles]:
        path = os.path.join(self.root, folder)
        images, labels = (Files(of, ".png", find=names_in) for of in (path, path + "annot"))
        asked = _asked(path + ".txt")
        for files in (images, labels):
            self.notes += files.left_out()
            if asked is not None:
                unlisted = in_order(files.keys().difference(asked))
                self.notes += left_out(files.folder, "not in %s.txt" % folder, unlisted)
        return [
            sample._replace(name=os.path.basename(sample.image))
            for sample in paired(images, labels, LAYOUT, asked)
        ]


def _asked(list_path: str) -> Optional[Dict[str, str]]:
    """The stems that a list file asks for, and where it does; None without the file."""
    if not os.path.lexists(list_path):
        return None
    found = read_list(list_path, _listed_stem)
    if not found:
        raise DatasetError("%s: lists no image; fill it, or remove it to take all" % list_path)
    return found


def _listed_stem(line: str) -> str:
    """The image's stem in a line: its path, or its stem, and perhaps the labels' path behind it."""
    first = re.match(r"(?i)(.*?)\.png(?:\s|$)", line)
    path = first.group(1) if first else "".join(line.split()[:1])
    return re.split(r"[/\\]", path)[-1]
