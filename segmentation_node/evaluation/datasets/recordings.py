"""Drives without labels from anywhere: a folder of images, or a video file."""

import os
from typing import Iterator

import cv2

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_image, require_folder
from segmentation_node.evaluation.datasets.drive import Drive
from segmentation_node.evaluation.frame import Frame

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".ppm", ".bmp")


class ImageFolder(Drive):
    """The images of a folder in the order of their names; ``split``, if any, is a subfolder."""

    def __init__(self, root: str, split: str = "") -> None:
        self._folder = os.path.join(root, split)
        require_folder(self._folder, "a folder of images (%s)" % ", ".join(IMAGE_ENDINGS))
        self._names = sorted(
            name for name in os.listdir(self._folder) if name.lower().endswith(IMAGE_ENDINGS)
        )
        if not self._names:
            raise DatasetError("%s: no images (%s)" % (self._folder, ", ".join(IMAGE_ENDINGS)))
        self.length: int = len(self._names)

    def frames(self) -> Iterator[Frame]:
        """Every image."""
        for number, name in enumerate(self._names):
            image = read_image(os.path.join(self._folder, name))
            yield Frame(name, image, position=("", number))


class Video(Drive):
    """The frames of a video file, at the rate that it states."""

    def __init__(self, root: str, split: str = "") -> None:
        self._path = os.path.join(root, split) if split else root
        capture = self._open()
        self.rate_hz = capture.get(cv2.CAP_PROP_FPS) or None
        # An estimate for the progress bar: some containers state it wrongly.
        self.length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) or None
        capture.release()

    def frames(self) -> Iterator[Frame]:
        """Every frame. Raises DatasetError when there is none."""
        capture = self._open()
        number = 0
        try:
            while True:
                found, bgr = capture.read()
                if not found:
                    break
                image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                yield Frame("%06d" % number, image, position=("", number))
                number += 1
        finally:
            capture.release()
        if not number:
            raise DatasetError("%s: not one frame can be decoded" % self._path)

    def _open(self) -> "cv2.VideoCapture":
        if not os.path.isfile(self._path):
            raise DatasetError("%s: no such file; expected a video" % self._path)
        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise DatasetError("%s: not a video that this OpenCV reads" % self._path)
        return capture
