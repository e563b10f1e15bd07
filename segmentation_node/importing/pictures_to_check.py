"""The pictures on which a network's output is looked at, and original and result are compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmentation_node.errors import ImageError, NetworkImportError
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.images import place, to_network
from segmentation_node.importing.quantise import CALIBRATION_IMAGES
from segmentation_node.pictures import ENDINGS, decode_rgb

LEAST_PICTURES = 10
COMPARED_PICTURES = 12


@dataclass(frozen=True)
class Pictures:
    """uint8 RGB (H, W, 3) each; ``are_real``: taken from the user's folder."""

    images: list[np.ndarray]
    what: str
    are_real: bool

    def at_size(self, size: tuple[int, int], resize: str, most: int) -> list[np.ndarray]:
        """Up to so many, spread over all, as the node gives them to a network of this size."""
        count = min(most, len(self.images))
        found = []
        for index in np.linspace(0, len(self.images) - 1, count).round().astype(int):
            image = self.images[int(index)]
            placement = place(resize, image.shape[:2], size)
            found.append(to_network(image, placement, np.zeros((*size, 3), np.uint8)))
        return found


def read_pictures(folder: Path | None) -> Pictures:
    """Those of the folder, or without one the procedural street's.

    Raises NetworkImportError where there are fewer than 10, or one cannot be read.
    """
    if folder is None:
        street = open_dataset("street", "", "val")
        step = len(street) // COMPARED_PICTURES
        images = [street[index * step].image_hwc for index in range(COMPARED_PICTURES)]
        what = f"{len(images)} pictures of the procedural street, none of them real"
        return Pictures(images, what, False)
    if not folder.is_dir():
        raise NetworkImportError(f"--images {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if len(paths) < LEAST_PICTURES:
        raise NetworkImportError(
            f"--images {folder}: found {len(paths)} pictures ({', '.join(ENDINGS)}), expected "
            f"{LEAST_PICTURES} or more"
        )
    step = max(1, len(paths) // CALIBRATION_IMAGES)
    images = [_read(path) for path in paths[::step][:CALIBRATION_IMAGES]]
    return Pictures(images, f"{len(images)} pictures of {folder}", True)


def _read(path: Path) -> np.ndarray:
    try:
        return decode_rgb(path.read_bytes())
    except ImageError as error:
        raise NetworkImportError(f"{path}: {error}") from error
