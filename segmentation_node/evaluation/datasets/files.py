"""Data sets of files: an image, its labels and its instances have one key in three folders."""

import os
from typing import List, NamedTuple, Set

import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import (
    Dataset,
    read_ids,
    read_image,
    read_labels,
    require_folder,
)
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.labels import UNLABELLED, LabelSet

_OUT_OF_RANGE = -1


class Files(NamedTuple):
    """The files under a folder whose names end in a suffix; a key is the rest of their path."""

    folder: str
    suffix: str

    def path(self, key: str) -> str:
        """The file of a key, whether it is there or not."""
        return os.path.join(self.folder, key + self.suffix)

    def keys(self) -> Set[str]:
        """Keys of all files, in subfolders too."""
        return {
            os.path.relpath(os.path.join(folder, name), self.folder)[: -len(self.suffix)]
            for folder, _, names in os.walk(self.folder, followlinks=True)
            for name in names
            if name.endswith(self.suffix)
        }


class SampleFiles(NamedTuple):
    """Where one sample is."""

    name: str
    image: str
    labels: str
    instances: str


class FileDataset(Dataset):
    """A data set whose subclass finds the files of a split when it is opened."""

    instance_lut: np.ndarray

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.samples = self._find()

    def _find(self) -> List[SampleFiles]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        return self.samples[index].name

    def __getitem__(self, index: int) -> Frame:
        files = self.samples[index]
        image = read_image(files.image)
        labels = read_labels(files.labels, self.label_set, image)
        instances = None
        if self.with_instances:
            instances = read_instances(files.instances, self.instance_lut, image)
        return Frame(files.name, image, labels, instances)


def labelled_keys(images: Files, labels: Files, layout: str) -> List[str]:
    """The keys that images and labels share, in order.

    Raises DatasetError on a folder that is missing or empty, and on an image without labels or
    labels without their image.
    """
    found = []
    for files in (images, labels):
        require_folder(files.folder, layout)
        found.append(files.keys())
        if not found[-1]:
            raise DatasetError(
                "%s: no files *%s; expected %s" % (files.folder, files.suffix, layout)
            )
    for there, absent in ((0, 1), (1, 0)):
        missing = sorted(found[there] - found[absent])
        if missing:
            present, wanted = (images, labels)[there], (images, labels)[absent]
            raise DatasetError(
                "%s: no such file, but %s is there (%d files like it); expected %s"
                % (wanted.path(missing[0]), present.path(missing[0]), len(missing), layout)
            )
    return sorted(found[0])


def new_instance_lut(label_set: LabelSet, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Instance ids by 16-bit value: int32 (65536,), from the value's data-set id and number."""
    known = np.isin(ids, label_set.known_dataset_ids)
    train_ids = label_set.train_id_lut()[np.where(known, ids, UNLABELLED)]
    lut = instance_ids(train_ids, numbers)
    lut[~known] = _OUT_OF_RANGE
    return lut


def read_instances(path: str, instance_lut: np.ndarray, image_hwc: np.ndarray) -> np.ndarray:
    """Read a 16-bit instance image: int32 (H, W) as ``run.instances`` defines it."""
    values = read_ids(path, image_hwc, np.uint16)
    instances = instance_lut[values]
    unknown = np.unique(values[instances == _OUT_OF_RANGE]).tolist()
    if unknown:
        raise DatasetError(
            "%s: instance values %s hold no class id of the data set" % (path, unknown[:10])
        )
    return instances
