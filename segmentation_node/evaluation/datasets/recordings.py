"""Drives without labels from anywhere: a folder of images, or a video file."""

import os
from functools import partial
from typing import Iterator, List, Optional, Tuple, Union

import cv2
import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import read_image, require_folder
from segmentation_node.evaluation.datasets.drive import START_NS, Drive, frame_or_problem
from segmentation_node.evaluation.datasets.files import left_out, names_in
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.pictures import ENDINGS, LARGEST_IMAGE_PIXELS

SIDES = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
PROBED_FRAMES = 10
HIGHEST_RATE_HZ = 250.0
"""A stated rate above it is a container's time base, no camera's."""
LEAST_SHARE = 0.95
"""Of the stated duration; less was cut off. Stated durations are rough. Of the steps from frame to
frame: so many are regular where there is one rate."""
REGULAR = 0.25
"""A step is, that is as much of a period longer or shorter."""


class ImageFolder(Drive):
    """The images of a folder in the natural order of their names; ``split`` is a subfolder.

    ``notes`` names what else is in it.
    """

    def __init__(self, root: str, split: str = "") -> None:
        self._folder = os.path.join(root, split)
        require_folder(self._folder, "a folder of images (%s)" % ", ".join(ENDINGS))
        names = names_in(self._folder)
        self._names = [name for name in names if self._is_image(name)]
        if not self._names:
            raise DatasetError("%s: no images (%s)" % (self._folder, ", ".join(ENDINGS)))
        self.length: int = len(self._names)
        others = [name for name in names if not self._is_image(name)]
        self.notes = left_out(self._folder, "no images", others)

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every image."""
        for number, name in enumerate(self._names):
            yield frame_or_problem(name, partial(self._read, number, name))

    def _is_image(self, name: str) -> bool:
        path = os.path.join(self._folder, name)
        return name.lower().endswith(ENDINGS) and not os.path.isdir(path)

    def _read(self, number: int, name: str) -> Frame:
        return Frame(name, read_image(os.path.join(self._folder, name)), position=("", number))


class Video(Drive):
    """The frames of a video file, at the times that the file gives them.

    Where it gives none, at the rate that it states. ``notes`` says in the end what is missing.
    """

    def __init__(self, root: str, split: str = "") -> None:
        self._path = os.path.join(root, split) if split else root
        capture = self._open()
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        # An estimate for the progress bar: some containers state it wrongly.
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._stated_s = count / rate_hz if count > 0 and rate_hz > 0 else 0.0
        steps_ms = np.diff(_first_times_ms(capture))
        capture.release()
        self.has_times = len(steps_ms) > 0 and bool((steps_ms > 0).all())
        if self.has_times:
            rate_hz = 1000.0 / float(np.median(steps_ms))
        self.rate_hz = rate_hz if 0 < rate_hz <= HIGHEST_RATE_HZ else None
        self.length = int(count) if 0 < count <= self._stated_s * HIGHEST_RATE_HZ else None

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every frame. Raises DatasetError when there is none."""
        capture = self._open()
        rhythm = _Rhythm(self.rate_hz)
        last_ns, step_ns = START_NS - 1, int(1e9 / (self.rate_hz or HIGHEST_RATE_HZ))
        count = decoded = 0
        try:
            for number, bgr in self._pictures(capture):
                if bgr is None:
                    yield self._broken(number)
                    continue
                stamp_ns = None
                if self.has_times:
                    stamp_ns = START_NS + int(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                    if stamp_ns <= last_ns:
                        stamp_ns = last_ns + step_ns
                    rhythm.take(stamp_ns, number)
                    last_ns = stamp_ns
                image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                yield Frame("%06d" % number, image, stamp_ns=stamp_ns, position=("", number))
                count, decoded = number + 1, decoded + 1
        finally:
            capture.release()
        if not decoded:
            raise DatasetError("%s: not one frame can be decoded" % self._path)
        found_s = (last_ns - START_NS + step_ns) * 1e-9
        if not self.has_times:
            found_s = count / (self.rate_hz or 1e9)
        self.notes = self._missing(decoded, found_s)
        if self.rate_hz and rhythm.missing() and not self.notes:
            self.notes = (
                "%s: damaged, or its camera left frames out: at %.4g frames a second %d are "
                "missing in between" % (self._path, self.rate_hz, rhythm.missing()),
            )

    def _pictures(self, capture: "cv2.VideoCapture") -> Iterator[Tuple[int, Optional[np.ndarray]]]:
        """Number and BGR image of each frame; None of a broken one that another follows."""
        number = told = 0
        while True:
            found, bgr = capture.read()
            if found:
                for broken in range(told, number):
                    yield broken, None
                yield number, bgr
                told = number + 1
            elif number + 1 >= (self.length or 0):  # the end, or broken to the end
                return
            number += 1

    def _broken(self, number: int) -> Problem:
        name = "%06d" % number
        return Problem(name, "%s: frame %d cannot be decoded" % (self._path, number))

    def _missing(self, frames: int, found_s: float) -> Tuple[str, ...]:
        if not self.rate_hz or found_s >= LEAST_SHARE * self._stated_s - 2 / self.rate_hz:
            return ()
        stated = "%.1f s%s" % (self._stated_s, " (%d frames)" % self.length if self.length else "")
        return (
            "%s: cut off or damaged: it states %s, and %d frames (%.1f s) could be decoded"
            % (self._path, stated, frames, found_s),
        )

    def _open(self) -> "cv2.VideoCapture":
        if not os.path.isfile(self._path):
            raise DatasetError("%s: no such file; expected a video" % self._path)
        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise DatasetError("%s: not a video that this OpenCV reads" % self._path)
        width, height = (int(capture.get(side)) for side in SIDES)
        if width * height > LARGEST_IMAGE_PIXELS:
            raise DatasetError(
                "%s: frames of %dx%d; expected 1 to %d pixels"
                % (self._path, width, height, LARGEST_IMAGE_PIXELS)
            )
        # Pixels as they lie, as everything that is aligned to them has them.
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return capture


class _Rhythm:
    """How many frames are missing between others where all come at one rate."""

    def __init__(self, rate_hz: Optional[float]) -> None:
        self._rate_hz = rate_hz or 0.0
        self._last: Optional[Tuple[int, int]] = None
        self._steps = self._regular = self._missing = 0

    def take(self, stamp_ns: int, number: int) -> None:
        """The next frame's time, and its number, which counts broken ones too."""
        if self._last is not None:
            periods = (stamp_ns - self._last[0]) * 1e-9 * self._rate_hz
            self._steps += 1
            self._regular += abs(periods - 1.0) < REGULAR
            self._missing += max(0, int(round(periods)) - (number - self._last[1]))
        self._last = stamp_ns, number

    def missing(self) -> int:
        """0 also where the frames have no common rate."""
        return self._missing if self._regular >= LEAST_SHARE * self._steps - 1 else 0


def _first_times_ms(capture: "cv2.VideoCapture") -> List[float]:
    times_ms: List[float] = []
    while len(times_ms) < PROBED_FRAMES and capture.grab():
        times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    return times_ms
