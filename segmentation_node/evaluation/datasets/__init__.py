"""The only readers of data sets: an entry in ``DATASETS`` or ``DRIVES`` each."""

from typing import Callable, Dict, Type

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.datasets.camvid import CamVid
from segmentation_node.evaluation.datasets.cityscapes import (
    Cityscapes,
    CityscapesCoarse,
    CityscapesSequence,
)
from segmentation_node.evaluation.datasets.drive import Drive, LabelledDrive
from segmentation_node.evaluation.datasets.kitti import KittiRaw, KittiSemantics, KittiStep
from segmentation_node.evaluation.datasets.kitti_object import KittiObject
from segmentation_node.evaluation.datasets.own import Folder, Voc
from segmentation_node.evaluation.datasets.recordings import ImageFolder, Video
from segmentation_node.evaluation.datasets.street.dataset import Street

DATASETS: Dict[str, Type[Dataset]] = {
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "cityscapes_coarse": CityscapesCoarse,
    "folder": Folder,
    "kitti_object": KittiObject,
    "kitti_semantics": KittiSemantics,
    "kitti_step": KittiStep,
    "street": Street,
    "voc": Voc,
}

# What has frames without labels: it can be recorded, not scored as a data set.
DRIVES: Dict[str, Callable[[str, str], Drive]] = {
    "cityscapes_sequence": CityscapesSequence,
    "images": ImageFolder,
    "kitti_raw": KittiRaw,
    "video": Video,
}

__all__ = [
    "DATASETS",
    "DRIVES",
    "Dataset",
    "Drive",
    "open_dataset",
    "open_drive",
]


def open_dataset(name: str, root: str, split: str, with_instances: bool = False) -> Dataset:
    """Open a split of a data set; ``with_instances`` reads instance ids where it has them.

    Raises DatasetError that lists the known names, or says what is missing under ``root``.
    """
    if name not in DATASETS:
        raise DatasetError("unknown data set %r; known: %s" % (name, ", ".join(sorted(DATASETS))))
    return DATASETS[name](root, split, with_instances)


def open_drive(
    name: str, root: str, split: str, sequence: str = "", with_instances: bool = False
) -> Drive:
    """Open a data set, labelled or not, as frames in the order of time.

    An empty split is the usual one: val, or the only one; ``sequence`` takes one of several that
    a data set of samples has; ``with_instances`` as above. Raises DatasetError that lists the known
    names, or says what is missing under ``root``.
    """
    if name in DRIVES:
        if sequence:
            raise DatasetError("%s has no sequences to choose; its split says what is read" % name)
        return DRIVES[name](root, split)
    if name not in DATASETS:
        known = ", ".join(sorted(set(DATASETS) | set(DRIVES)))
        raise DatasetError("unknown data set %r; known: %s" % (name, known))
    splits = DATASETS[name].splits_in(root)
    usual = "val" if "val" in splits else splits[0]
    dataset = open_dataset(name, root, split or usual, with_instances)
    return LabelledDrive(dataset, sequence)
