"""The only readers of data sets: one file each, one entry in ``DATASETS`` each."""

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import Dataset, Sample
from segmentation_node.evaluation.datasets.camvid import CamVid
from segmentation_node.evaluation.datasets.cityscapes import Cityscapes, CityscapesCoarse
from segmentation_node.evaluation.datasets.kitti_semantics import KittiSemantics
from segmentation_node.evaluation.datasets.kitti_step import KittiStep
from segmentation_node.evaluation.datasets.street import Street

DATASETS = {
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "cityscapes_coarse": CityscapesCoarse,
    "kitti_semantics": KittiSemantics,
    "kitti_step": KittiStep,
    "street": Street,
}

__all__ = ["DATASETS", "Dataset", "Sample", "open_dataset"]


def open_dataset(name: str, root: str, split: str, with_instances: bool = False) -> Dataset:
    """Open a split of a data set; ``with_instances`` reads instance ids where it has them.

    Raises DatasetError that lists the known names, or says what is missing under ``root``.
    """
    if name not in DATASETS:
        raise DatasetError("unknown data set %r; known: %s" % (name, ", ".join(sorted(DATASETS))))
    return DATASETS[name](root, split, with_instances)
