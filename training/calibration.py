"""The images of a data set that the ranges of an int8 graph come from."""

import numpy as np

from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.images import place, to_network


def spread(frames: int, count: int) -> list[int]:
    """Indices of so many frames of a data set, from the first to the last; all, where it has few.

    Frames that lie side by side are of one drive, in one light.
    """
    return [round(index) for index in np.linspace(0, frames - 1, min(count, frames)).tolist()]


def calibration_images(
    dataset: Dataset, shape_nhwc: tuple[int, int, int, int], resize: str, count: int
) -> list[np.ndarray]:
    """Images spread over the data set, each filling a whole batch: uint8 of ``shape_nhwc``."""
    found = []
    for index in spread(len(dataset), count):
        image = dataset[index].image_hwc
        image_nhwc = np.zeros(shape_nhwc, np.uint8)
        placement = place(resize, image.shape[:2], shape_nhwc[1:3])
        to_network(image, placement, image_nhwc[0])
        image_nhwc[1:] = image_nhwc[0]
        found.append(image_nhwc)
    return found
