"""The only readers of data sets: one file each, one entry in ``DATASETS`` each."""

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import Dataset, Sample
from segmentation_node.evaluation.datasets.camvid import CamVid
from segmentation_node.evaluation.datasets.street import Street

DATASETS = {
    "camvid": CamVid,
    "street": Street,
}

__all__ = ["DATASETS", "Dataset", "Sample", "open_dataset"]


def open_dataset(name: str, root: str, split: str) -> Dataset:
    """Open a split of a data set.

    Raises DatasetError that lists the known names, or says what is missing under ``root``.
    """
    if name not in DATASETS:
        raise DatasetError("unknown data set %r; known: %s" % (name, ", ".join(sorted(DATASETS))))
    return DATASETS[name](root, split)
