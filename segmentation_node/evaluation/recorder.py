"""What the demo keeps of a clip beside its score: class maps, a picture, a video of overlays."""

import os
import tempfile
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence, Set

import cv2
import numpy as np

from segmentation_node.errors import OutputError
from segmentation_node.interrupts import uninterrupted

KEPT_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """OpenCV says there that the codec's tag is not supported, which WebM has none of."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


class OverlayVideo:
    """A VP8 video that is encoded in the end: that takes the cores which the network needs.

    Until then its frames are JPEG files beside it, under ``with``.
    """

    def __init__(self, path: str, fps: float) -> None:
        self.path = path
        self.frames = 0
        self._fps = fps
        self._folder = tempfile.TemporaryDirectory(prefix=".overlays.", dir=os.path.dirname(path))

    def __enter__(self) -> "OverlayVideo":
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def add(self, overlay_hwc: np.ndarray) -> None:
        """The next frame, uint8 RGB (H, W, 3). Raises OutputError."""
        write_image(self._kept(self.frames), overlay_hwc, KEPT_QUALITY)
        self.frames += 1

    def encode(self, progress: Any) -> None:
        """Write the file, frames in the size of the first; none without frames.

        Ctrl-C ends the video early. Raises OutputError where it is not written whole.
        """
        if not self.frames:
            return
        height, width = self._read(0).shape[:2]
        codec = cv2.VideoWriter_fourcc(*"VP80")
        with _stderr_closed():
            writer = cv2.VideoWriter(self.path, codec, self._fps, (width, height))
        if not writer.isOpened():
            raise OutputError("%s: this OpenCV cannot write VP8 video there" % self.path)
        written = 0
        try:
            for index in progress(range(self.frames)):
                bgr = self._read(index)
                if bgr.shape[:2] != (height, width):
                    bgr = cv2.resize(bgr, (width, height))
                with uninterrupted():
                    writer.write(bgr)
                    written += 1
        finally:
            writer.release()
            self._check(written)

    def _kept(self, index: int) -> str:
        return os.path.join(self._folder.name, "%08d.jpg" % index)

    def _read(self, index: int) -> np.ndarray:
        path = self._kept(index)
        bgr = cv2.imread(path)
        if bgr is None:
            raise OutputError("%s: cannot be read again for %s" % (path, self.path))
        return bgr

    def _check(self, written: int) -> None:
        """Read the frames again: OpenCV says nothing of those that it failed to write."""
        capture = cv2.VideoCapture(self.path)
        found = 0
        while capture.grab():
            found += 1
        if found != written:
            raise OutputError(
                "%s: holds %d frames of the %d written; is the disk full?"
                % (self.path, found, written)
            )


class Recorder:
    """Takes the results of a clip, a frame of it as each one's payload, into a folder.

    ``frames`` is how many the clip has, None where nobody knows; ``segmented`` names those that
    came so far.
    """

    def __init__(self, folder: str, frames: Optional[int], video: OverlayVideo) -> None:
        self.segmented: List[str] = []
        self.header_mismatches = 0
        self._folder = folder
        self._names: Set[str] = set()
        self._pictured = (1, (frames or 0) // 2)
        self._video = video

    def take(self, result: Any) -> None:
        """One result, whole or not at all; a frame that failed leaves a gap, not a shift."""
        with uninterrupted():
            self._keep(result)

    def _keep(self, result: Any) -> None:
        frame = result.payload
        self.segmented.append(frame.name)
        self.header_mismatches += not result.headers_match
        name = os.path.splitext(frame.name)[0] + ".png"
        if name in self._names:  # a.jpg beside a.png
            name = frame.name + ".png"
        self._names.add(name)
        write_image(os.path.join(self._folder, "class_maps", name), result.class_map_hw)
        self._video.add(result.overlay_hwc)
        if len(self.segmented) in self._pictured:
            pair = np.vstack([result.image_hwc, result.overlay_hwc])
            write_image(os.path.join(self._folder, "overlay.png"), pair)


def write_image(path: str, pixels: np.ndarray, options: Sequence[int] = ()) -> None:
    """Write a class map, uint8 (H, W), or RGB pixels, uint8 (H, W, 3). Raises OutputError.

    Not by ``cv2.imwrite``: it says nothing where a full disk refuses the last bytes.
    """
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, encoded = cv2.imencode(os.path.splitext(path)[1], bgr, list(options))
    try:
        with open(path, "wb") as out:
            out.write(encoded.tobytes())
    except OSError as error:
        raise OutputError("%s: cannot be written (%s)" % (path, error.strerror)) from error
