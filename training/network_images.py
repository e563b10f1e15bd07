"""Images of a data set as a network takes them, to find ranges on or to compare run times by."""

from collections.abc import Iterator

import numpy as np

from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.images import place, to_network


def spread(frames: int, count: int) -> list[int]:
    """Indices of so many frames of a data set, from the first to the last; all, where it has few.

    Frames that lie side by side are of one drive, in one light.
    """
    return [round(index) for index in np.linspace(0, frames - 1, min(count, frames)).tolist()]


def network_images(
    dataset: Dataset, shape_nhwc: tuple[int, int, int, int], resize: str, count: int
) -> Iterator[np.ndarray]:
    """Images spread over the data set, each filling a whole batch: uint8 of ``shape_nhwc``.

    ``resize`` is the card's: stretch, crop or letterbox. Raises DatasetError.
    """
    for index in spread(len(dataset), count):
        image = dataset[index].image_hwc
        image_nhwc = np.zeros(shape_nhwc, np.uint8)
        to_network(image, place(resize, image.shape[:2], shape_nhwc[1:3]), image_nhwc[0])
        image_nhwc[1:] = image_nhwc[0]
        yield image_nhwc
